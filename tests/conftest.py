"""What several tests share: small course trees, notebooks, and the command line run as users run it."""

import functools
import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import chromium
from nbformat.v4 import new_code_cell, new_notebook

from rnn2rag import machine

ROOT = Path(__file__).parents[1]
SET = "01-recurrent-networks"
COURSE = ROOT / "tests" / "grading" / "course"  # a set of two problems, which stays as it is while the real one grows

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""


@pytest.fixture(autouse=True)
def environment():
    """Every test starts without a release key, and what it sets (as nbgrader's configuration does) ends with it."""
    before = dict(os.environ)
    os.environ.pop("RNN2RAG_RELEASE_KEY", None)
    os.environ.update({"OMP_NUM_THREADS": "1", "RNN2RAG_THREADS": "1"})
    machine._scale = None
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def tree(tmp_path):
    """A course of one chapter, empty but for its folders; see `write_section` and `copy_set`."""
    return make_tree(tmp_path / "course")


def make_tree(folder):
    """Make a course's tree with the real configuration and bibliography, and no chapter yet."""
    for name in ("_toc.yml", "nbgrader_config.py", "assets/references.bib"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "chapters" / SET).mkdir(parents=True)
    return folder


def copy_package(folder):
    """Put the package and what its wheel needs into a tree; nothing is built from chapters there."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "rnn2rag", folder / "rnn2rag", ignore=ignore, dirs_exist_ok=True)
    for path in (folder / "rnn2rag" / "built").glob("[!_]*.py"):
        path.unlink()
    for part in ("claims", "checkpoints"):
        (folder / "assets" / part).mkdir(parents=True, exist_ok=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)


def copy_set(folder, course=COURSE):
    """Put a problem set into a tree: its source, planted answers, notebook and release."""
    for part in ("solutions", "exercises"):
        shutil.copytree(course / part / SET, folder / part / SET, ignore=shutil.ignore_patterns("__pycache__", ".*"))


def section(*parts):
    """A text notebook: a part that starts with %% is a code cell (its options may come first), any other is prose."""
    text = HEADER
    for part in parts:
        is_code = part.startswith("%%")
        text += f"```{{code-cell}} ipython3\n{part[2:].lstrip()}\n```\n\n" if is_code else f"{part}\n\n"
    return text


def write_section(tree, name, *parts, chapter=SET):
    """Write chapters/CHAPTER/NAME.md and return its path."""
    path = tree / "chapters" / chapter / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(section(*parts), encoding="utf8")
    return path


def notebook(*cells):
    """A notebook of code cells."""
    return new_notebook(cells=[new_code_cell(cell) for cell in cells])


def graded_cell(nb, grade_id):
    """The cell of a notebook (as plain data) with a grade id."""
    return next(cell for cell in nb["cells"] if cell["metadata"].get("nbgrader", {}).get("grade_id") == grade_id)


def load(path):
    return json.loads(path.read_text(encoding="utf8"))


@functools.cache
def secrets():
    """Lines that stand in solutions, hidden tests and planted answers and nowhere else."""
    marked = re.compile(r"### BEGIN (SOLUTION|HIDDEN TESTS)(.*?)### END \1", re.S)
    lines, public = set(), [path.read_text(encoding="utf8") for path in (ROOT / "chapters").rglob("*.md")]
    for source in (ROOT / "solutions").glob("*/*.md"):
        text = source.read_text(encoding="utf8")
        lines |= {line.strip() for match in marked.finditer(text) for line in match[2].splitlines()}
        public.append(marked.sub("", text))
    for source in (ROOT / "solutions").glob("*/*.py"):
        lines |= {line.strip() for line in source.read_text(encoding="utf8").splitlines()}
    found = {line for line in lines if len(line) > 30 and not any(line in text for text in public)}
    assert len(found) > 20
    return found


def text_of(path):
    """What a file says to a reader: a page without its tags, a notebook as the texts in it."""
    text = path.read_text(encoding="utf8")
    if path.suffix == ".html":
        return html.unescape(re.sub(r"<[^>]*>", "", text))
    if path.suffix == ".ipynb":
        return "\n".join(_strings(json.loads(text)))
    return text


def _strings(value):
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return ["".join(value)]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in _strings(part)]


def start_rnn2rag(folder, *arguments, package=False):
    """Start the command in a folder; package: with the tree's own copy of the package."""
    command = [sys.executable, "-c", "from rnn2rag.cli import main; raise SystemExit(main())", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=surroundings(folder, package), stdout=pipe, stderr=pipe, text=True)


def rnn2rag(folder, *arguments, package=False):
    """Run the command in a folder, and return its exit status, stdout and stderr."""
    process = start_rnn2rag(folder, *arguments, package=package)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def surroundings(folder, package):
    return {**os.environ, **({"PYTHONPATH": str(folder)} if package else {})}


def one_line(status, stdout, stderr):
    """The one line on stderr with which a command refused its input."""
    assert (status, stdout) == (2, ""), stderr
    lines = stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("rnn2rag: ") and "Traceback" not in lines[0], stderr
    return lines[0]


@pytest.fixture(scope="module")
def browser():
    """A Chromium."""
    with chromium() as browser:
        yield browser
