"""Install the course that stands beside this file, without a network: `python3 install.py`.

Checks every file by its hash, makes course/.venv from the wheels in this folder, brings models and data into the cache,
and tries everything. A second run does only what is left to do. Uses nothing but Python's own library.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUDENTS = HERE / "students"  # in the teacher's folder alone
SHELF = STUDENTS if STUDENTS.is_dir() else HERE  # holds book/, carriers/ and wheels/
COURSE = HERE / "course"
PROGRAMS = COURSE / ".venv" / "bin"
READY = COURSE / ".venv" / "ready"  # what `make` looks for, too; tells what was installed, and where
AGAIN = "unpack the bundle again, or copy this folder anew"


def main() -> None:
    """Take all the steps; exit with one line where one fails."""
    try:
        fits()
        state = f"{COURSE}\n{digest(HERE / 'SHA256SUMS')}\n"
        done = READY.exists() and READY.read_text(encoding="utf8") == state
        check(done)
        if not done:
            install()
            READY.write_text(state, encoding="utf8")
        fetch()
        tell(subprocess.run([PROGRAMS / "rnn2rag", "doctor"], cwd=COURSE, env=surroundings()).returncode)
    except OSError as error:
        sys.exit(f"install: {error.filename or HERE}: {error.strerror or error}; {AGAIN}, on a disk of this computer")
    except KeyboardInterrupt:
        sys.exit("install: interrupted; the same command goes on")


def fits() -> None:
    """Exit where the wheels are made for another machine or Python."""
    made = json.loads((HERE / "made-for.json").read_text(encoding="utf8"))
    python = ".".join(platform.python_version_tuple()[:2])
    here = {"system": platform.system(), "machine": platform.machine(), "python": python}
    if {**here, "python": made["python"]} != made:
        here, made = (f"{one['system']} on {one['machine']}" for one in (here, made))
        sys.exit(f"install: this bundle is for {made}, and this is {here}: make one on such a computer")
    if here != made:
        name = f"python{made['python']}"
        way = f"run `{name} install.py`" if shutil.which(name) else f"install {name}, or make a bundle with this one"
        sys.exit(f"install: this bundle is for Python {made['python']}, and this is {python}: {way}")


def check(done: bool) -> None:
    """Exit with the name of a file that is missing or not what was packed.

    done: the course has been installed, and its notebooks belong to whoever works with them; check the wheels alone.
    """
    lines = (HERE / "SHA256SUMS").read_text(encoding="utf8").splitlines()
    sums = {name: expected for expected, _, name in (line.partition("  ") for line in lines)}
    names = [name for name in sums if name.endswith(".whl") or not done]
    print(f"checking {len(names)} files", flush=True)
    for name in names:
        if not (HERE / name).is_file():
            sys.exit(f"install: {name} is missing: {AGAIN}")
        if digest(HERE / name) != sums[name]:
            sys.exit(f"install: {name} is not what was packed (its sha256 is another): {AGAIN}")


def install() -> None:
    """Make course/.venv anew, with the wheels and the course's own package."""
    wheels = SHELF / "wheels"
    run("making course/.venv", [sys.executable, "-m", "venv", "--clear", "--without-pip", COURSE / ".venv"])
    pip = next(wheels.glob("pip-*.whl"), wheels) / "pip"  # Debian's Python has none of its own
    count = len(list(wheels.glob("*.whl")))
    command = [PROGRAMS / "python", pip, "install", "--requirement", COURSE / "requirements.txt", "pip"]
    run(f"installing {count} packages (one to three minutes)", command)
    command = [PROGRAMS / "python", "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--editable", COURSE]
    run("installing the course", command)


def fetch() -> None:
    """Bring models and data into the cache; what is there stays."""
    if subprocess.run([PROGRAMS / "rnn2rag", "fetch"], cwd=COURSE, env=surroundings()).returncode:
        sys.exit("install: models and data are not in the cache: see above; then run this again")
    (COURSE / ".venv" / "carriers").touch()


def tell(status: int) -> None:
    """Say what to do next; exit with 1 where the doctor found that the course does not work here."""
    if status:
        sys.exit("install: everything is installed, and does not work here yet: see what to do above")
    print(f"\nIn {COURSE}:")
    print(f"  read      open {SHELF / 'book' / 'index.html'}")
    print("  work      .venv/bin/rnn2rag lab")
    if SHELF == STUDENTS:
        print("  grade     .venv/bin/rnn2rag grade SET --submitted FOLDER")
        print(f"Give your students {STUDENTS}, and nothing else of this folder.")


def run(what: str, command: Sequence[str | Path]) -> None:
    """Run one step and print what it is and how long it took; exit with its reason where it fails."""
    print(what, end="", flush=True)
    start = time.monotonic()
    ran = subprocess.run(command, cwd=COURSE, env=surroundings(), capture_output=True, text=True)
    print(f": {time.monotonic() - start:.0f} s", flush=True)
    if ran.returncode:
        said = [line for line in (ran.stdout + ran.stderr).splitlines() if line.strip()] or ["no reason given"]
        reason = ([line for line in said if line.startswith("ERROR: ")] or said)[-1]
        sys.exit(f"install: {what} failed: {reason}; is this folder on a disk of this computer, with 4 GB free?")


def surroundings() -> dict[str, str]:
    """The environment in which pip knows this folder alone, whatever is set on this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    links = " ".join((SHELF / folder).as_uri() for folder in ("wheels", "carriers"))  # a URI has no spaces
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": links}
    return {**kept, **own, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            total.update(part)
    return total.hexdigest()


if __name__ == "__main__":
    main()
