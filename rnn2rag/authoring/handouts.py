"""What a teacher hands out: all notebooks with what runs them in one zip."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rnn2rag import course
from rnn2rag.authoring import editions, exercises
from rnn2rag.authoring.markdown import Library
from rnn2rag.errors import UserError

_README = """# From RNN to RAG: the notebooks

`chapters/` holds the sections of the book with their outputs, `exercises/` the problem sets to fill in.

You need Python 3.11 or newer, on Linux or macOS, and the network once. In this folder:

```console
$ python3 -m venv .venv
$ .venv/bin/pip install WHEEL jupyterlab --constraint requirements.txt
$ .venv/bin/rnn2rag fetch
$ .venv/bin/jupyter lab
```

On Linux without an NVIDIA card put `.venv/bin/pip install TORCH --index-url https://download.pytorch.org/whl/cpu`
after the first line; it saves gigabytes. `.venv/bin/rnn2rag doctor` tries everything that the notebooks use.

The third line brings all models and data at once, for a place without a network. The first cell of each section brings
what that section lacks.
"""


def pack(tree: Path) -> Path:
    """Write _build/notebooks.zip and return its path: editions, released problem sets, the package, how to run them.

    The same tree gives the same bytes. Raises UserError for a notebook that does not match its source, and where the
    package cannot be built.
    """
    sources, library = editions.sources(tree), Library.of(tree)
    for source in sources:
        editions.check(source, library)
    exercises.check(tree)
    released = [
        tree / "exercises" / name / f"{source.stem}.ipynb"
        for name in course.set_names(tree)
        for source in course.set_folder(tree, name).glob("*.md")
    ]
    kept = [*map(editions.edition_path, sources), *released, tree / "requirements.txt", tree / "LICENSE"]
    kept.append(tree / "LICENSE-text")
    contents = {path.relative_to(tree).as_posix(): path.read_bytes() for path in kept}
    name, built = wheel(tree)
    torch = next(line.split()[0] for line in contents["requirements.txt"].decode().splitlines() if line[:6] == "torch=")
    contents |= {name: built, "README.md": _README.replace("WHEEL", f"./{name}").replace("TORCH", torch).encode()}
    into = tree / "_build" / "notebooks.zip"
    into.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(into, "w") as archive:
        for name in sorted(contents):
            member = zipfile.ZipInfo(f"rnn2rag-notebooks/{name}")  # it bears the oldest date that there is, not today's
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o100644 << 16
            archive.writestr(member, contents[name])
    return into


def wheel(tree: Path) -> tuple[str, bytes]:
    """Return the file name of the package's wheel, and the wheel. Raises UserError where it cannot be built."""
    with tempfile.TemporaryDirectory(prefix="rnn2rag-build-") as folder:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps"]
        command = [*pip, "--no-build-isolation", "--wheel-dir", folder, str(tree)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise UserError(f"the wheel cannot be built: {made.stderr.strip().splitlines()[-1]}")
        path = next(Path(folder).glob("*.whl"))
        return path.name, path.read_bytes()
