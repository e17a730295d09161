"""The whole course in one archive, for a place without a network.

Unpacked it is a teacher's folder:

    course/      what git tracks, solutions too: to read, change, release and grade
    students/    what students get: wheels/, carriers/ (models and data), book/, course/ without what is the teacher's
    README.md, install.py, made-for.json, SHA256SUMS: here, and the same four for students in students/

One installer serves both (assets/bundle/install.py), and a test runs it where there is no network (.ci/bundle.py).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from rnn2rag import catalog
from rnn2rag.authoring import book, exercises, handouts
from rnn2rag.errors import UserError

NAME = "rnn2rag-for-teachers"
TEACHERS = {"solutions", "tests", "benchmarks", ".ci", ".github"}  # of the tree: hidden tests, planted answers, checks
TORCH_INDEX = "https://download.pytorch.org/whl/"  # then the build of torch: cpu, cu130

_INSTALL = """
It needs no network. It is for {system} on {machine} with Python {python}, and takes 4 GB of disk. Copy this folder to a
disk of the computer (not to stay on a stick), open a terminal in it, and run

```console
$ python3 install.py
```

Every file is checked first. The same command goes on after an interruption, and repairs an installation that was moved.
"""
_FOR_TEACHERS = f"""# From RNN to RAG: for teachers

`course/` holds the solutions and the hidden tests. **Give your students the folder `students/`, and nothing else.**
{_INSTALL}
It ends by telling how to read, work and grade. What you need of your own, bring yourself: private sets, `release.key`,
`gradebook.db`, submissions. The page *Without a network* of the book (`students/book/index.html`) tells more.
"""
_FOR_STUDENTS = f"""# From RNN to RAG

A course on transformers and generative AI: a book, notebooks, and problem sets.
{_INSTALL}
To read alone you need no installation: open `book/index.html`.
"""


def pack(tree: Path) -> Path:
    """Write the bundle for machines like this one and return its path; the same tree and wheels give the same bytes.

    Prints a line for each step. Raises UserError where the tree is not in git, a notebook does not match its source,
    the book does not build, pip cannot get a package, or the disk is full.
    """
    python = ".".join(platform.python_version_tuple()[:2])
    made_for = {"system": platform.system(), "machine": platform.machine(), "python": python}
    into = tree / "_build" / f"{NAME}-{'-'.join(made_for.values())}.zip"
    into.parent.mkdir(exist_ok=True)
    tracked = tracked_files(tree)
    exercises.check(tree)
    _say("building the book")
    for left in ("html", ".doctrees"):  # a page that is no more, or put together from parts of two builds
        shutil.rmtree(into.parent / left, ignore_errors=True)
    pages = book.build(tree).parent
    try:
        with tempfile.TemporaryDirectory(prefix="bundle-", dir=into.parent) as folder:
            work = Path(folder)
            bring_wheels(tree, work / "wheels")
            carriers = catalog.download(into.parent / "carriers")
            for name, text in (("teachers", _FOR_TEACHERS), ("students", _FOR_STUDENTS)):
                (work / name).write_text(text.format(**made_for), encoding="utf8")
            (work / "made-for").write_text(json.dumps(made_for) + "\n", encoding="utf8")

            always = {"install.py": tree / "assets" / "bundle" / "install.py", "made-for.json": work / "made-for"}
            students = {**always, "README.md": work / "students"}
            students |= {f"course/{name}": path for name, path in tracked.items() if for_students(name)}
            students |= {f"book/{path.relative_to(pages).as_posix()}": path for path in _files(pages)}
            students |= {f"carriers/{path.name}": path for path in carriers}
            students |= {f"wheels/{path.name}": path for path in _files(work / "wheels")}
            students["SHA256SUMS"] = _sums(students, work / "students-sums")
            teachers = {**always, "README.md": work / "teachers"}
            teachers |= {f"course/{name}": path for name, path in tracked.items()}
            teachers |= {f"students/{name}": path for name, path in students.items()}
            teachers["SHA256SUMS"] = _sums(teachers, work / "teachers-sums")
            _say(f"packing {len(teachers)} files")
            _write(work / "bundle.zip", teachers)
            (work / "bundle.zip").replace(into)
    except OSError as error:
        raise UserError(f"the bundle cannot be written: {error.filename or into}: {error.strerror or error}") from None
    return into


def bring_wheels(tree: Path, into: Path) -> None:
    """Bring a wheel of everything that requirements.txt pins for this machine, of pip, and of the package.

    Of torch that build which is installed here: where pip's own index has none of a build such as 2.13.0+cpu, from
    torch's index for it. Raises UserError with pip's reason.
    """
    torch = importlib.metadata.version("torch")
    command = [sys.executable, "-P", "-m", "pip", "wheel", "--disable-pip-version-check", "--no-input"]
    command += [f"--wheel-dir={into}", f"--requirement={tree / 'requirements.txt'}", f"torch=={torch}"]
    command += [f"pip=={importlib.metadata.version('pip')}"]
    said = _collect(command)
    if "No matching distribution found for torch==" in said and "+" in torch:
        said = _collect([*command, f"--extra-index-url={TORCH_INDEX}{torch.partition('+')[2]}"])
    if said:
        reasons = [line for line in said.splitlines() if line.startswith("ERROR: ")] or said.splitlines()
        raise UserError(f"pip could not get the wheels: {reasons[-1].removeprefix('ERROR: ')}")
    name, wheel = handouts.wheel(tree)
    (into / name).write_bytes(wheel)


def _collect(command: list[str]) -> str:
    """Run pip with a bar that counts packages; return what it said where it failed, else nothing."""
    from tqdm import tqdm

    _say("collecting wheels")
    said = []
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as pip,
        tqdm(unit=" packages", leave=False, disable=None) as bar,
    ):
        for line in pip.stdout:
            said.append(line)
            if line.startswith("Collecting "):
                bar.set_postfix_str(line.split()[1], refresh=False)
                bar.update()
    return "".join(said) or f"exit status {pip.returncode}" if pip.returncode else ""


def for_students(name: str) -> bool:
    """Whether students get a file of the tree, named from its top."""
    return name.split("/")[0] not in TEACHERS


def tracked_files(tree: Path) -> dict[str, Path]:
    """Return the files that git tracks, as they stand, by name. Raises UserError where git cannot tell them."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=tree, capture_output=True, text=True)
        said = (listed.stderr.strip().splitlines() or ["no reason given"])[0]
    except FileNotFoundError:
        raise UserError("the bundle holds what git tracks, and git is not installed: install it") from None
    if listed.returncode:
        raise UserError(f"the bundle holds what git tracks, and git cannot tell it here: {said}")
    names = filter(None, listed.stdout.split("\0"))
    return {name: tree / name for name in names if (tree / name).is_file()}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _sums(contents: Mapping[str, Path], into: Path) -> Path:
    """Write the sha256 of each file as `sha256sum --check` reads it."""
    lines = []
    for name in sorted(contents):
        with contents[name].open("rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name}\n")
    into.write_text("".join(lines), encoding="utf8")
    return into


def _write(into: Path, contents: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(into, "w") as archive:
        for name in sorted(contents):
            source = contents[name]
            member = zipfile.ZipInfo(f"{NAME}/{name}")  # it bears the oldest date that there is, not today's
            member.compress_type = zipfile.ZIP_STORED if name.endswith(".whl") else zipfile.ZIP_DEFLATED
            member.external_attr = (0o100755 if os.access(source, os.X_OK) else 0o100644) << 16
            member.file_size = source.stat().st_size  # from 4 GB on the format is another
            with source.open("rb") as stream, archive.open(member, "w") as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)


def _say(text: str) -> None:
    print(text, flush=True)
