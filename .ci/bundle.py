"""Prove that the bundle carries the whole course: make it, install it where there is no network, and work there.

In a temporary folder: the bundle is made and unpacked; a root of its own is set up that holds the system, Python, the
unpacked folder and an empty home, and has no network (which is tried out, with a server that answers outside). There
the installer names a file in which one byte was changed; the teacher's folder is installed, a section's edition run
afresh and a submission graded; then the students' folder is installed, and a notebook checked. Nothing of this checkout
can be reached from there. It exits with 1 and the reason when one step does not hold, and where bubblewrap cannot make
such a root. Run it, on Linux, as

    .venv/bin/python .ci/bundle.py
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rnn2rag.execute import sandbox

ROOT = Path(__file__).resolve().parent.parent
SET = "01-recurrent-networks"
SECTION = f"chapters/{SET}/recurrent-cell.md"
HOME = Path("/home/teacher")
CLASS = HOME / "a class"  # a space, as in many a folder's name
FOLDER = CLASS / "rnn2rag-for-teachers"
PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
ASK = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=5)"


def offline(outside: Path) -> list[str]:
    """Return what runs a command in a root of its own without a network; outside: the folder that is HOME there."""
    command = [sandbox.program(), "--unshare-net", "--die-with-parent", "--dev-bind", "/dev", "/dev"]
    command += ["--dev-bind", "/proc", "/proc", "--tmpfs", "/tmp", "--clearenv", "--bind", outside, HOME]
    for name in ("lib", "lib32", "lib64", "bin", "sbin"):
        top = Path("/", name)
        command += ["--symlink", os.readlink(top), top] if top.is_symlink() else ["--ro-bind-try", top, top]
    for path in (
        "/usr",
        "/etc/passwd",
        "/etc/group",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/etc/alternatives",
        "/etc/fonts",
    ):
        command += ["--ro-bind-try", path, path]
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        command += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    for name, value in {"HOME": HOME, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}.items():
        command += ["--setenv", name, value]
    return [*map(str, command), "--chdir"]


def step(text: str, command: Sequence[str | Path], status: int = 0) -> str:
    """Run one step, print its seconds, and return what it wrote; exit with 1 when it ends with another status."""
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)
    if done.returncode != status:
        raise SystemExit(f"bundle: {text}: exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def show(output: str) -> None:
    """Print the output of a step below its line."""
    print(*(f"          {line}" for line in output.splitlines()), sep="\n", flush=True)


def main() -> int:
    """Take all the steps."""
    started = time.monotonic()
    if sandbox.program() is None:
        raise SystemExit("bundle: not run: there is no bubblewrap, which cuts the network off")
    with tempfile.TemporaryDirectory() as empty:
        tried = subprocess.run([*offline(Path(empty)), HOME, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise SystemExit(f"bundle: not run: no network can be cut off here: {tried.stderr.strip()}; `rnn2rag doctor`")
    made = step("the bundle", [Path(sys.executable).with_name("rnn2rag"), "bundle"])
    bundle = Path(made.splitlines()[-1].partition(".zip: ")[0] + ".zip")
    print(f"          {bundle.name}: {bundle.stat().st_size / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory(prefix="bundle-") as temporary, socket.create_server(("127.0.0.1", 0)) as server:
        home = Path(temporary).resolve()
        unpacked = home / FOLDER.relative_to(HOME)
        step("unpacked", [sys.executable, "-m", "zipfile", "-e", bundle, unpacked.parent])
        port = str(server.getsockname()[1])
        there = offline(home)
        step("outside the network is there", [PYTHON, "-c", ASK, port])
        said = step("inside it is gone", [*there, HOME, PYTHON, "-c", ASK, port], status=1)
        print(f"          {said.splitlines()[-1]}")

        install = [*there, FOLDER, PYTHON, "install.py"]
        wheel = min((unpacked / "students" / "wheels").glob("numpy-*.whl"))
        change(wheel)
        said = step("one byte of a wheel changed", install, status=1)
        if f"install: students/wheels/{wheel.name} is not what was packed" not in said or "Traceback" in said:
            raise SystemExit(f"bundle: the installer does not name the changed file:\n{said}")
        change(wheel)

        show(step("the teacher's folder installed", install))
        show(step("again: nothing left to do", install))
        course = [*there, FOLDER / "course", ".venv/bin/rnn2rag"]
        show(step("a section", [*course, "notebooks", "--check", SECTION]))
        submitted = unpacked / "course" / "submitted" / "Ada" / SET
        submitted.mkdir(parents=True)
        shutil.copy(unpacked / "course" / "solutions" / SET / "recurrent-networks.ipynb", submitted)
        [graded] = json.loads(step("a submission graded", [*course, "grade", SET, "--json"]))
        points = {cell["grade_id"]: (cell["points"], cell["possible"]) for cell in graded["cells"]}
        print(f"          {graded['points']:g} of {graded['possible']:g}, sandbox: {graded['sandbox']}")
        if graded["sandbox"] != "bubblewrap" or not points or any(earned != most for earned, most in points.values()):
            raise SystemExit(f"bundle: the solution does not earn all points of the tests: {graded}")

        shutil.move(unpacked / "students", unpacked.parent / "students")
        shutil.rmtree(unpacked)
        shutil.rmtree(home / ".cache")
        step("the students' folder installed", [*there, CLASS / "students", PYTHON, "install.py"])
        check = [".venv/bin/rnn2rag", "check", f"exercises/{SET}/recurrent-networks.ipynb"]
        said = step("an exercise checked, nothing filled in", [*there, CLASS / "students/course", *check], status=1)
        print(f"          {said.splitlines()[-1]}")
    print(f"{time.monotonic() - started:6.1f} s  in all")
    return 0


def change(path: Path) -> None:
    """Change one byte of a file; the second time it is as before."""
    with path.open("r+b") as stream:
        stream.seek(1000)
        [byte] = stream.read(1)
        stream.seek(1000)
        stream.write(bytes([byte ^ 1]))


if __name__ == "__main__":
    sys.exit(main())
