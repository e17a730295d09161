"""Scores into nbgrader's own gradebook: one student after the other, with feedback pages and grades.csv."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rnn2rag import course, execute
from rnn2rag.errors import UserError
from rnn2rag.grading import worker
from rnn2rag.grading.intake import Submission

if TYPE_CHECKING:
    from traitlets.config import Config

KEY_FILE = "release.key"


@dataclass
class Result:
    """What became of one submission.

    points, possible: of the whole notebook. manual: whether cells wait for a person. refused: why it was not graded.
    messages: what the visible tests said. feedback: its page, relative to the tree.
    """

    student: str
    points: float = 0.0
    possible: float = 0.0
    manual: bool = False
    refused: str = ""
    notes: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    feedback: str = ""


def grade(
    tree: Path, name: str, submissions: Sequence[Submission], done: Callable[[Result], None] | None = None
) -> list[Result]:
    """Grade submissions of a problem set into gradebook.db, write their feedback pages and grades.csv.

    done: called with each result as it is made. Results come in the order of the submissions.
    """
    prepare(tree, name)
    results = []
    for submission in submissions:
        results.append(_grade(tree, name, submission))
        if done:
            done(results[-1])
    _export(tree)
    return results


def prepare(tree: Path, name: str) -> None:
    """Make the release key where there is none, and record the problem set in the gradebook."""
    key = tree / KEY_FILE
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(secrets.token_hex(32) + "\n", encoding="utf8")
    folder = course.set_folder(tree, name)
    notebooks = {path.name: path.read_text(encoding="utf8") for path in sorted(folder.glob("*.ipynb"))}
    if not notebooks:
        raise UserError(f"solutions/{name}: its notebook is not made yet; run `make exercises`")
    with tempfile.TemporaryDirectory(prefix="rnn2rag-set-") as into:
        course.release(tree, name, notebooks, Path(into), _database(tree))


def as_json(results: Sequence[Result]) -> str:
    """Return results as JSON."""
    return json.dumps([asdict(result) for result in results], indent=1)


def _grade(tree: Path, name: str, submission: Submission) -> Result:
    result = Result(submission.student, refused=submission.refused, notes=list(submission.notes))
    if result.refused:
        return result
    config = course.nbgrader_config(tree, assignment_id=name, student_id=submission.student)
    try:
        course.convert("Autograde", config)
        course.convert("GenerateFeedback", config)
        graded = execute.read(tree / "autograded" / submission.student / name / submission.path.name)
    except UserError as error:
        result.refused = str(error)
        return result
    for cell in worker.cell_scores(graded):
        result.messages += [rung["message"] for rung in cell.rungs if rung["message"]]
        result.notes += [f"{cell.grade_id}: {cell.note}"] if cell.note else []
        result.notes += [f"{cell.grade_id}: the test itself failed: {fault}" for fault in cell.faults]
    page = Path("feedback", submission.student, name, submission.path.with_suffix(".html").name)
    result.feedback = page.as_posix()
    _read_scores(config, name, result)
    return result


def _read_scores(config: Config, name: str, result: Result) -> None:
    from nbgrader.api import Gradebook

    with Gradebook(_database(Path(config.CourseDirectory.root))) as gradebook:
        submission = gradebook.find_submission(name, result.student)
        result.points, result.possible = submission.score, submission.max_score
        result.manual = submission.needs_manual_grade


def _export(tree: Path) -> None:
    """Write grades.csv as `nbgrader export` does."""
    from nbgrader.api import Gradebook
    from nbgrader.plugins import CsvExportPlugin

    with Gradebook(_database(tree)) as gradebook:
        CsvExportPlugin(to=str(tree / "grades.csv")).export(gradebook)


def _database(tree: Path) -> str:
    return f"sqlite:///{tree / 'gradebook.db'}"
