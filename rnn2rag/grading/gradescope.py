"""Gradescope: a problem set packed as an autograder, and what that does with a submission in Gradescope's container.

`pack` writes the zip. `setup.sh` in it makes the environment once, when Gradescope builds the image. For each
submission `run_autograder` runs this module, as root: it closes what a submission must not read, grades with the same
pieces as `rnn2rag grade` while the submission runs as another user, and writes what Gradescope shows.

Sources: https://gradescope-autograders.readthedocs.io/en/latest/specs/ (paths, results.json, visibility) and
https://gradescope-autograders.readthedocs.io/en/latest/best_practices/ (another user, results in any case).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag import catalog, course, execute
from rnn2rag.errors import UserError
from rnn2rag.grading import coordinator, feedback, gradebook, intake, results
from rnn2rag.grading.results import Result

if TYPE_CHECKING:
    from nbformat import NotebookNode

HERE = Path("/autograder")
STUDENT = "submission"  # whoever it is: Gradescope knows
# Until grades are published Gradescope then shows no total either, so nobody can try hidden tests out by handing in
# again and again. ("hidden" is for tests without points: their points would show in the total.)
HIDDEN = "after_published"

_SETUP = """\
#!/usr/bin/env bash
# Gradescope runs this once, as root, when it builds the image. An image of your own may bring /opt/rnn2rag, with Python
# 3.11 or newer and what the packages below need; then little is left to do.
set -euo pipefail
umask 022
export DEBIAN_FRONTEND=noninteractive
cd /autograder/source
home=/opt/rnn2rag
if [ ! -x $home/bin/python ]; then
  python=python3
  fits='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
  if ! $python -c "$fits"; then
    apt-get update
    apt-get install --yes python3-venv
    if ! $python -c "$fits"; then  # Ubuntu 22.04 has 3.10
      python=python3.11
      apt-get install --yes python3.11 python3.11-venv
    fi
  fi
  $python -m venv $home
fi
pip="$home/bin/python -m pip --quiet --disable-pip-version-check"
$pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "$(grep -oE '^torch==[^ ;]+' requirements.txt)"
$pip install --constraint requirements.txt "$(echo ./rnn2rag-*.whl)[teach]"
$pip install --force-reinstall --no-deps ./rnn2rag-*.whl
FETCH
chmod -R go+rX $home
chmod -R go= /autograder/source
"""
_RUN = """\
#!/bin/sh
export RNN2RAG_CACHE=/opt/rnn2rag/cache
exec /opt/rnn2rag/bin/python -I -m rnn2rag.grading.gradescope
"""
_CONFIG = """
# In Gradescope: lateness is Gradescope's, and there is this set alone.
c.Rnn2rag.private = ""
c.LatePenalty.due = {}
c.LatePenalty.extensions = {}
"""


def pack(tree: Path, name: str, into: Path) -> None:
    """Write the autograder of a problem set: its tests, hidden ones too, its solutions, this package, a key of its own.

    Raises UserError for an unknown set, and where the package cannot be built or the file not be written.
    """
    source = course.set_folder(tree, name)
    notebooks = sorted(source.glob("*.ipynb"))
    if not notebooks:
        raise UserError(f"solutions/{name}: its notebook is not made yet; run `make exercises`")
    key = hashlib.sha256(f"gradescope\0{name}\0{gradebook.release_key(tree)}".encode()).hexdigest()
    fetch = " ".join(_carried(execute.read(notebooks[0])))
    fetch = f"RNN2RAG_CACHE=$home/cache $home/bin/rnn2rag fetch {fetch}" if fetch else "# the set uses no model or data"
    wheel, built = _wheel(tree, name)
    contents = {
        "setup.sh": _SETUP.replace("FETCH", fetch).encode(),
        "run_autograder": _RUN.encode(),
        wheel: built,
        "requirements.txt": (tree / "requirements.txt").read_bytes(),
        "course/release.key": f"{key}\n".encode(),
        "course/_config.yml": (tree / "_config.yml").read_bytes(),
        "course/nbgrader_config.py": (tree / "nbgrader_config.py").read_bytes() + _CONFIG.encode(),
    }
    for part, folder in (("solutions", source), ("exercises", tree / "exercises" / name)):
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not any(at.startswith((".", "__")) for at in inside.parts):
                contents[f"course/{part}/{name}/{inside.as_posix()}"] = path.read_bytes()
    try:
        _write_zip(into, contents)
    except OSError as error:
        raise UserError(f"{into}: cannot be written ({error.strerror})") from None


def _carried(notebook: NotebookNode) -> list[str]:
    """The models and data of the catalog that a problem set names."""
    nodes = (node for cell in notebook.cells if cell.cell_type == "code" for node in ast.walk(ast.parse(cell.source)))
    return sorted({node.value for node in nodes if isinstance(node, ast.Constant)} & set(catalog.names()))


def _wheel(tree: Path, name: str) -> tuple[str, bytes]:
    """The file name of this package's wheel, and the wheel, without what holds answers to a problem set."""
    answers = f"{re.sub(r'^[0-9]+-', '', name).replace('-', '_')}.py"
    with tempfile.TemporaryDirectory(prefix="rnn2rag-build-") as folder:
        copy = Path(folder, "tree")
        ignore = shutil.ignore_patterns("__pycache__")
        try:
            shutil.copytree(tree / "rnn2rag", copy / "rnn2rag", ignore=ignore)
            for file in ("pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(tree / file, copy / file)
        except (OSError, shutil.Error):
            raise UserError(
                f"{tree}: holds no rnn2rag/ and pyproject.toml to pack; use the course's whole tree"
            ) from None
        (copy / "rnn2rag" / "built" / answers).unlink(missing_ok=True)
        for part in ("claims", "checkpoints"):  # empty: stored claims hold answers, and no problem needs a checkpoint
            (copy / "assets" / part).mkdir(parents=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps"]
        command = [*pip, "--no-build-isolation", "--wheel-dir", folder, str(copy)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise UserError(f"the wheel cannot be built: {made.stderr.strip().splitlines()[-1]}")
        wheel = next(Path(folder).glob("*.whl"))
        return wheel.name, wheel.read_bytes()


def _write_zip(into: Path, contents: Mapping[str, bytes]) -> None:
    """Write an archive that its owner alone may read, with the same bytes for the same contents."""
    new = into.with_name(f".{into.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    with zipfile.ZipFile(new, "w") as archive:
        for file, data in contents.items():
            member = zipfile.ZipInfo(file)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = (0o100700 if file in ("setup.sh", "run_autograder") else 0o100600) << 16
            archive.writestr(member, data)
    os.replace(new, into)


# In Gradescope's container


def main() -> None:
    """Grade the submission that Gradescope put into its container; results.json is there whatever happens."""
    _write_results(_without_points("The grader was stopped before it was done. Tell your instructor."))
    try:
        report = _grade()
    except UserError as error:
        print(error)
        report = _without_points("The grader is not set up right. Tell your instructor.")
    except Exception:
        traceback.print_exc(file=sys.stdout)  # which instructors see, and nobody else
        report = _without_points("The grader itself failed. Tell your instructor.")
    _write_results(report)


def _grade() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rnn2rag-gradescope-") as folder:
        _close(Path(folder))
        tree, handed_in = Path(folder, "course"), Path(folder, "handed-in")
        shutil.copytree(HERE / "source" / "course", tree)
        name = next((tree / "solutions").iterdir()).name
        shutil.copytree(HERE / "submission", handed_in / STUDENT / name, symlinks=True)
        notebook = None
        result = next(iter(_results(tree, name, handed_in)), Result(STUDENT, refused="There is no notebook in it."))
        if not result.refused:
            graded = tree / "autograded" / STUDENT / name
            notebook = execute.read(next(graded.glob("*.ipynb")))
        print(results.as_json([result]))
        return report(tree, name, notebook, result)


def _close(own: Path) -> None:
    """Close to others what a submission must not read, and make sure that it is."""
    private = [HERE / "source", HERE / "submission", HERE / "results", HERE / "submission_metadata.json", own]
    private = [path for path in private if path.exists()]
    for path in private:
        path.chmod(0o700)
    execute.sandbox.check("user", private)


def _results(tree: Path, name: str, handed_in: Path) -> Iterator[Result]:
    """The result of the submission, if there is a notebook in it."""
    if not any(handed_in.rglob("*.ipynb")):
        return
    submissions = [found for found in intake.collect(tree, name, handed_in) if found.student == STUDENT]
    yield from coordinator.grade(tree, name, submissions, mode="user") if submissions else ()


def report(tree: Path, name: str, notebook: NotebookNode | None, result: Result) -> dict[str, Any]:
    """Return a result as Gradescope reads it: a test for each rung, with the messages of the feedback page.

    notebook: the graded notebook; None where the submission was refused, which earns nothing. A test cell that earned
    something else than the sum of its rungs is one test. The points of free-text answers are not among them.
    """
    if notebook is None:
        return _without_points(f"This cannot be graded: {result.refused}")
    the_set = feedback.problem_set(tree, name)
    marking = feedback.Marking(the_set, notebook.cells, result, {})
    tests = []
    for index, problem in enumerate(the_set.problems):
        shown = [entry for test in marking.problem(index)["tests"] for entry in _tests(problem.title, test)]
        tests += [{"number": f"{index + 1}.{place}", **entry} for place, entry in enumerate(shown, 1)]
    says = ["Your notebook's process ended before its last cell."] if marking.stopped() else []
    if result.manual:
        says.append("Free-text answers are graded by a person.")
    return {
        "tests": tests,
        "output": "\n".join(says),
        "execution_time": math.ceil(result.seconds),
        "stdout_visibility": "hidden",
        "extra_data": {"rnn2rag": importlib.metadata.version("rnn2rag")},
    }


def _tests(title: str, test: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries of one test cell."""
    hidden = {"visibility": HIDDEN} if test["hidden"] else {"visibility": "visible"}
    rungs = test["rungs"]
    if not rungs or sum(rung["points"] for rung in rungs) != test["points"]:
        what = "hidden tests" if test["hidden"] else "tests"
        messages = [*test["says"], *(rung["message"] for rung in rungs if rung["message"])]
        yield {**_entry(f"{title}: {what}", test["points"], test["possible"], messages), **hidden}
        return
    for place, rung in enumerate(rungs):
        messages = [*(test["says"] if place == 0 else ()), rung["message"]]
        yield {**_entry(f"{title}: {rung['name']}", rung["points"], rung["possible"], messages), **hidden}


def _entry(name: str, points: float, possible: float, messages: list[str]) -> dict[str, Any]:
    status = "passed" if points == possible else "failed"
    output = "\n".join(message for message in messages if message)
    return {"name": name, "score": points, "max_score": possible, "status": status, "output": output}


def _without_points(output: str) -> dict[str, Any]:
    return {"score": 0, "tests": [], "output": output, "stdout_visibility": "hidden"}


def _write_results(report: Mapping[str, Any]) -> None:
    path = HERE / "results" / "results.json"
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(".results.json.new")
    new.write_text(json.dumps(report, indent=1), encoding="utf8")
    os.replace(new, path)


if __name__ == "__main__":
    main()
