"""nbgrader's own gradebook in the hands of one process: what it releases, restores and records, by nbgrader's rules."""

from __future__ import annotations

import contextlib
import logging
import secrets
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any

from rnn2rag import course
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from nbgrader.api import Gradebook
    from traitlets.config import Config

KEY_FILE = "release.key"


@dataclass(frozen=True)
class Scores:
    """What the gradebook says of one submission.

    points, possible: after the penalty. manual: whether a cell waits for a person. late: seconds. reviews: what people
    gave, {grade id: {"score": points or None, "comment": text or None}}.
    """

    points: float
    possible: float
    manual: bool
    late: float
    penalty: float
    reviews: dict[str, dict[str, Any]]


def release_key(tree: Path) -> str:
    """Return the key from which the hidden inputs are drawn; made where there is none."""
    key = tree / KEY_FILE
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(secrets.token_hex(32) + "\n", encoding="utf8")
    return key.read_text(encoding="utf8").strip()


def set_notebook(tree: Path, name: str) -> Path:
    """Return the notebook of a problem set, with solutions and hidden tests. Raises UserError where it is not made."""
    folder = course.set_folder(tree, name)
    notebooks = sorted(folder.glob("*.ipynb"))
    if not notebooks:
        raise UserError(f"{course.shown(tree, folder)}: its notebook is not made yet; run `make exercises`")
    return notebooks[0]


class Book:
    """The gradebook of the course in `tree`, open at one problem set; use it as a context manager."""

    def __init__(self, tree: Path, name: str) -> None:
        self.tree = tree
        self.name = name
        self.source = set_notebook(tree, name)
        self.notebook_id = self.source.stem
        self.database = f"sqlite:///{tree / 'gradebook.db'}"
        self.config = course.nbgrader_config(tree, assignment_id=name)

    def __enter__(self) -> Book:
        from jsonschema.validators import validator_for
        from nbgrader.api import Gradebook
        from nbgrader.nbgraderformat import MetadataValidator, common
        from nbgrader.preprocessors import (
            checkcellmetadata,
            latesubmissions,
            overwritecells,
            overwritekernelspec,
            saveautogrades,
        )

        self._release()
        with contextlib.ExitStack() as stack:
            self.gradebook = stack.enter_context(Gradebook(self.database))
            cells = _Cells(self.gradebook, self.notebook_id, self.name)
            opened = self._opened = _Open(self.gradebook, cells.names)
            # A step of nbgrader opens the gradebook itself, nine times a submission: it is given what is open already.
            for module in (overwritecells, overwritekernelspec):
                stack.enter_context(_in_place(module, "Gradebook", lambda *arguments, **named: cells))
            for module in (saveautogrades, latesubmissions):
                stack.enter_context(_in_place(module, "Gradebook", lambda *arguments, **named: opened))
            # It reads the schema of a cell's metadata, and checks the schema itself, for every cell.
            validator = MetadataValidator()
            check = validator_for(validator.schema)(validator.schema).validate
            for module in (overwritecells, checkcellmetadata):
                stack.enter_context(_in_place(module, "MetadataValidator", lambda: validator))
            schema = SimpleNamespace(validate=lambda data, schema: check(data))
            stack.enter_context(_in_place(common, "jsonschema", schema))
            self._before, self._after = _steps(self.config)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Gradebook]:
        """Give the gradebook; all that is done with it inside is kept, or nothing of it.

        nbgrader's methods commit one by one; inside, they only pass on what they did.
        """
        session = self.gradebook.db()
        commit = session.commit
        session.commit = session.flush
        try:
            yield self.gradebook
            commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            del session.commit

    def restore(self, notebook: NotebookNode) -> NotebookNode:
        """Put the instructor's cells back into a submission, as nbgrader does, and return it.

        Raises UserError where nbgrader refuses the notebook.
        """
        resources = self._resources("")
        for step in self._before:
            try:
                notebook, resources = step(notebook, resources)
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise UserError(f"nbgrader cannot restore its cells ({reason}); start again from the set") from None
        return notebook

    def record(self, student: str, notebook: NotebookNode, submitted: datetime | None) -> NotebookNode:
        """Write the scores of a notebook that was run into the gradebook, in one transaction; return the notebook.

        nbgrader's own steps decide: the points of a cell from its outputs, what waits for a person, the comments, and
        the penalty for being late.
        """
        from nbgrader.preprocessors import AssignLatePenalties
        from sqlalchemy.exc import SAWarning

        resources = self._resources(student)
        with warnings.catch_warnings(), self.transaction() as gradebook:
            warnings.simplefilter("ignore", SAWarning)  # nbgrader makes a submission before it adds it
            gradebook.update_or_create_student(student)
            when = {"timestamp": submitted} if submitted else {}
            gradebook.update_or_create_submission(self.name, student, **when)
            gradebook.db.expire_all()
            self._opened.read(self.notebook_id, self.name, student)
            for step in self._after:
                if isinstance(step, AssignLatePenalties):
                    gradebook.db.expire_all()  # it takes its share of a sum that is the database's own
                notebook, resources = step(notebook, resources)
        return notebook

    def scores(self, student: str) -> Scores | None:
        """Return what the gradebook says of a student's submission; None where it has none."""
        from nbgrader.api import MissingEntry

        try:
            submission = self.gradebook.find_submission(self.name, student)
        except MissingEntry:
            return None
        reviews = {}
        for notebook in submission.notebooks:
            comments = {comment.name: comment.manual_comment for comment in notebook.comments}
            for grade in notebook.grades:
                reviews[grade.name] = {"score": grade.manual_score, "comment": comments.get(grade.name)}
        penalty = sum(notebook.late_submission_penalty or 0.0 for notebook in submission.notebooks)
        return Scores(
            max(0.0, submission.score - penalty),
            submission.max_score,
            submission.needs_manual_grade,
            submission.total_seconds_late,
            penalty,
            reviews,
        )

    def _release(self) -> None:
        """Record the problem set's cells."""
        notebooks = {self.source.name: self.source.read_text(encoding="utf8")}
        with tempfile.TemporaryDirectory(prefix="rnn2rag-set-") as into:
            course.release(self.tree, self.name, notebooks, Path(into), self.database)

    def _resources(self, student: str) -> dict[str, Any]:
        about = {"notebook": self.notebook_id, "assignment": self.name, "student": student, "db_url": self.database}
        return {"nbgrader": about, "unique_key": self.notebook_id, "metadata": {}}


class _Open:
    """A gradebook that is open and stays open, for code that would open and close one.

    names: {id: name} of the set's cells. What nbgrader asks cell by cell is `read` once for each submission.
    """

    def __init__(self, gradebook: Gradebook, names: dict[str, str]) -> None:
        self._gradebook = gradebook
        self._names = names

    def __enter__(self) -> _Open:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gradebook, name)

    def read(self, notebook_id: str, name: str, student: str) -> None:
        """Read the grades and comments of a submission."""
        notebook = self._gradebook.find_submission_notebook(notebook_id, name, student)
        self._grades = {self._names[grade.cell_id]: grade for grade in notebook.grades}
        self._comments = {self._names[comment.cell_id]: comment for comment in notebook.comments}

    def find_grade(self, grade_id: str, notebook_id: str, name: str, student: str) -> Any:
        return _found(self._grades, grade_id)

    def find_comment(self, grade_id: str, notebook_id: str, name: str, student: str) -> Any:
        return _found(self._comments, grade_id)


class _Cells:
    """What nbgrader asks of a gradebook when it restores a submission, read once: it is the same for every one."""

    def __init__(self, gradebook: Gradebook, notebook_id: str, name: str) -> None:
        notebook = gradebook.find_notebook(notebook_id, name)

        def copies(cells: Any, *names: str) -> list[SimpleNamespace]:
            return [SimpleNamespace(**{name: getattr(cell, name) for name in names}) for cell in cells]

        sources = copies(notebook.source_cells, "name", "cell_type", "locked", "source", "checksum")
        grades, tasks = (copies(cells, "name", "max_score") for cells in (notebook.grade_cells, notebook.task_cells))
        with_marks = (*notebook.grade_cells, *notebook.task_cells, *notebook.solution_cells)
        self.names = {cell.id: cell.name for cell in with_marks}
        self._sources = {cell.name: cell for cell in sources}
        self._graded = {cell.name: cell for cell in [*grades, *tasks]}
        self._notebook = SimpleNamespace(
            kernelspec=notebook.kernelspec,
            source_cells=sources,
            grade_cells=grades,
            task_cells=tasks,
            solution_cells=copies(notebook.solution_cells, "name"),
        )

    def __enter__(self) -> _Cells:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def find_notebook(self, notebook_id: str, name: str) -> SimpleNamespace:
        return self._notebook

    def find_source_cell(self, grade_id: str, notebook_id: str, name: str) -> SimpleNamespace:
        return _found(self._sources, grade_id)

    def find_graded_cell(self, grade_id: str, notebook_id: str, name: str) -> SimpleNamespace:
        return _found(self._graded, grade_id)


def _found(cells: dict[str, Any], grade_id: Any) -> Any:
    from nbgrader.api import MissingEntry

    if not isinstance(grade_id, str) or grade_id not in cells:
        raise MissingEntry(f"no cell {grade_id!r}")
    return cells[grade_id]


@contextlib.contextmanager
def _in_place(module: Any, name: str, ours: Any) -> Iterator[None]:
    """Let a module of nbgrader use something of ours under a name of its own."""
    own = getattr(module, name)
    setattr(module, name, ours)
    try:
        yield
    finally:
        setattr(module, name, own)


def _steps(config: Config) -> tuple[list[Any], list[Any]]:
    """Nbgrader's steps before and after a run, as nbgrader_config.py names them."""
    from nbgrader.converters import Autograde
    from nbgrader.preprocessors import Execute
    from traitlets import import_item

    named = Autograde(config=config)
    quiet = logging.Logger("nbgrader", logging.CRITICAL)
    found = []
    for kinds in (named.sanitize_preprocessors, named.autograde_preprocessors):
        kinds = [import_item(kind) if isinstance(kind, str) else kind for kind in kinds]
        steps = [kind(config=config) for kind in kinds if kind is not Execute]
        for step in steps:
            step.log = quiet
        found.append(steps)
    return found[0], found[1]
