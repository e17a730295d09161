"""The course's tree as its tools see it: where it is, its problem sets, and nbgrader set up for it.

A problem set stands in solutions/, or in the private folder that `c.Rnn2rag.private` in nbgrader_config.py names,
relative to the tree: there, where both hold it, so that hidden tests need not stand in a public tree.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from nbgrader.converters import BaseConverter
    from traitlets.config import Config

MARKS = ("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS")


def root(start: Path | None = None) -> Path:
    """Return the top of the course's tree that holds `start` (the current folder by default). Raises UserError."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "_toc.yml").is_file() and (folder / "chapters").is_dir():
            return folder
    raise UserError(f"{here} is not inside the course's tree: go to the folder that holds _toc.yml and chapters/")


def set_names(tree: Path) -> list[str]:
    """Return the problem sets: the folders that hold a text source, private ones too."""
    return sorted({source.parent.name for folder in _homes(tree) for source in folder.glob("*/*.md")})


def set_folder(tree: Path, name: str) -> Path:
    """Return the folder of a problem set, the private one before the one in solutions/.

    Raises UserError that lists the sets for an unknown name.
    """
    known = set_names(tree)
    if name not in known:
        raise UserError(f"there is no problem set {name!r}; the sets are: {', '.join(known) or 'none yet'}")
    return next(folder / name for folder in _homes(tree) if any((folder / name).glob("*.md")))


def private_folder(tree: Path) -> Path | None:
    """Return the folder of private problem sets; None where nbgrader_config.py names none.

    Raises UserError where there is no such folder: without it sets would be graded without their hidden tests.
    """
    named = _config(tree).Rnn2rag.get("private")
    if not named:
        return None
    folder = Path(os.path.normpath(tree / named))
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}, which c.Rnn2rag.private in nbgrader_config.py names")
    return folder


def shown(tree: Path, path: Path) -> str:
    """Return a path as people are told it: from the top of the tree, also where it lies outside."""
    return os.path.relpath(path, tree)


def grader_data(cell: NotebookNode) -> dict[str, Any]:
    """Return what nbgrader keeps in a cell's metadata; nothing for other cells, and for garbled ones."""
    data = cell.metadata.get("nbgrader")
    return data if isinstance(data, dict) else {}


def nbgrader_config(tree: Path, **course: str) -> Config:
    """Return the configuration in nbgrader_config.py for the course in `tree`.

    course: other values for traits of nbgrader's CourseDirectory. Raises UserError where nbgrader is not installed.
    """
    try:
        import nbgrader  # noqa: F401
    except ImportError:
        raise UserError(
            "nbgrader is not installed: run `pip install -r requirements.txt` in the course's folder"
        ) from None
    config = _config(tree)
    config.CourseDirectory.update({"root": str(tree), **course})
    return config


def convert(converter: type[BaseConverter], config: Config) -> str:
    """Run one of nbgrader's converters, as GenerateAssignment or GenerateFeedback, and return its log.

    Raises UserError with the converter's own reason.
    """
    from nbgrader.converters.base import NbGraderException
    from nbgrader.coursedir import CourseDirectory

    made = converter(coursedir=CourseDirectory(config=config), config=config)
    said = io.StringIO()
    made.force = True
    made.log = logging.Logger("nbgrader")
    made.log.addHandler(logging.StreamHandler(said))
    try:
        with contextlib.redirect_stderr(said):
            made.start()
    except (NbGraderException, RuntimeError) as error:
        reasons = re.findall(r"^[\w.]*(?:Error|Exception)\b.*$", said.getvalue(), re.M)
        reason = " ".join((reasons or [str(error)])[-1].split())
        raise UserError(f"nbgrader's {converter.__name__} failed: {reason}") from None
    return said.getvalue()


def release(tree: Path, name: str, notebooks: Mapping[str, str], into: Path, database: str) -> None:
    """Let nbgrader release one problem set into a folder and record its cells in a gradebook.

    notebooks: {file name: notebook with solutions, as text}. into: gets NAME/ with the released notebooks. database: an
    SQLAlchemy URL. Raises UserError.
    """
    config = nbgrader_config(tree, assignment_id=name, db_url=database)
    from nbgrader.converters import GenerateAssignment

    with tempfile.TemporaryDirectory(prefix="rnn2rag-release-") as folder:
        course = Path(folder).resolve()
        config.CourseDirectory.update({"root": str(course), "source_directory": "solutions"})
        for file_name, text in notebooks.items():
            notebook = course / "solutions" / name / file_name
            notebook.parent.mkdir(parents=True, exist_ok=True)
            notebook.write_text(text, encoding="utf8")
        try:
            convert(GenerateAssignment, config)
        except UserError as error:
            raise UserError(f"{shown(tree, set_folder(tree, name))}: {error}") from None
        shutil.copytree(course / "exercises" / name, into / name, dirs_exist_ok=True)


def _homes(tree: Path) -> list[Path]:
    """The folders in which problem sets stand, the private one first."""
    private = private_folder(tree)
    return [tree / "solutions"] if private is None else [private, tree / "solutions"]


def _config(tree: Path) -> Config:
    """What nbgrader_config.py says; nothing where there is none."""
    from traitlets.config.loader import Config, PyFileConfigLoader

    if not (tree / "nbgrader_config.py").exists():
        return Config()
    return PyFileConfigLoader("nbgrader_config.py", path=str(tree)).load_config()
