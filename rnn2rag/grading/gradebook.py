"""Scores into nbgrader's own gradebook, with feedback pages and grades.csv.

nbgrader puts the instructor's cells back into a submission; we run it, several at a time, each test cell in two halves
(see `split`); nbgrader records the scores.
"""

from __future__ import annotations

import copy
import json
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag import checks, course, execute
from rnn2rag.errors import UserError
from rnn2rag.grading import split, worker
from rnn2rag.grading.intake import Submission

if TYPE_CHECKING:
    from nbformat import NotebookNode
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
    tree: Path,
    name: str,
    submissions: Sequence[Submission],
    jobs: int = 1,
    done: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Grade submissions of a problem set into gradebook.db, write their feedback pages and grades.csv.

    jobs: how many run at a time. done: called with each result as it is made. Results come in the order of submissions.
    """
    key = prepare(tree, name)
    results = [Result(item.student, refused=item.refused, notes=list(item.notes)) for item in submissions]
    with split.Judge(_imports(tree, name), key) as judge:
        tasks, waiting = [], []
        for submission, result in zip(submissions, results, strict=True):
            notebook = _restored(tree, name, submission, result)
            if notebook is None:
                if done:
                    done(result)
                continue
            probes = _probes(notebook, key)
            folder = _autograded(tree, name, submission).parent
            environment = {checks.RELEASE_KEY: "", "NBGRADER_EXECUTION": "autograde"}
            tasks.append(
                execute.Task(probes, folder, environment, worker.CELL_TIMEOUT, network=False, allow_errors=True)
            )
            waiting.append((submission, result, notebook))

        def finish(index: int, run: execute.Run) -> None:
            submission, result, notebook = waiting[index]
            result.notes += [f"stopped: {run.error.splitlines()[0]}"] if run.error else []
            _finish(tree, name, submission, result, _judged(notebook, run, judge))
            if done:
                done(result)

        execute.run_all(tasks, jobs, finish)
    _export(tree)
    return results


def prepare(tree: Path, name: str) -> str:
    """Make the release key where there is none, record the problem set in the gradebook, and return the key."""
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
    return key.read_text(encoding="utf8").strip()


def as_json(results: Sequence[Result]) -> str:
    """Return results as JSON."""
    return json.dumps([asdict(result) for result in results], indent=1)


def _imports(tree: Path, name: str) -> str:
    """The imports of a problem set's own code cells, which the verdicts use too."""
    notebooks = [execute.read(path) for path in sorted(course.set_folder(tree, name).glob("*.ipynb"))]
    cells = [cell for notebook in notebooks for cell in notebook.cells if cell.cell_type == "code"]
    return split.imports([cell.source for cell in cells if not course.grader_data(cell)])


def _restored(tree: Path, name: str, submission: Submission, result: Result) -> NotebookNode | None:
    """The submission with the instructor's cells put back by nbgrader; None, with the reason, where it refuses.

    The file that nbgrader wrote, with every hidden test, is taken away before the submission runs beside it.
    """
    from nbgrader.converters import Autograde

    if result.refused:
        return None
    config = course.nbgrader_config(tree, assignment_id=name, student_id=submission.student)
    config.Autograde.autograde_preprocessors = []
    try:
        course.convert(Autograde, config)
        notebook = execute.read(_autograded(tree, name, submission))
    except UserError as error:
        result.refused = str(error)
        return None
    _autograded(tree, name, submission).unlink()
    return notebook


def _probes(notebook: NotebookNode, key: str) -> NotebookNode:
    """A notebook whose test cells are their probe halves, each with its problem's seed."""
    notebook = copy.deepcopy(notebook)
    for cell in filter(worker.is_test, notebook.cells):
        parts = split.halves(cell.source)
        if parts:
            cell.source = f"__seed__ = {checks.seed_of(parts.problem, key)}\n{parts.probe}"
    return notebook


def _judged(notebook: NotebookNode, run: execute.Run, judge: split.Judge) -> NotebookNode:
    """The notebook with the outputs of its run, and in each split test cell the score that its values deserve.

    Of what a student's process showed in such a cell only text and errors are kept: a result or a report of its own
    making counts for nothing. A cell that never ran earns nothing.
    """
    for cell, executed in zip(notebook.cells, run.notebook.cells, strict=True):
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
        parts = split.halves(cell.source) if worker.is_test(cell) else None
        if parts:
            score = judge.score(parts, _values(executed))
            kept = [output for output in cell.outputs if output.output_type in ("stream", "error")]
            cell.outputs = [*kept, *_score_outputs(score, executed.execution_count)]
        elif worker.is_test(cell) and executed.execution_count is None:
            cell.outputs = [_error("NotRun", "the kernel ended before this cell")]
    return notebook


def _values(cell: NotebookNode) -> dict[str, Any]:
    """What the probes of a cell sent; nothing where they sent it not exactly once, or too much of it."""
    sent = [output.data[checks.VALUES_MIME] for output in cell.outputs if checks.VALUES_MIME in output.get("data", {})]
    if len(sent) != 1 or not isinstance(sent[0], dict) or len(json.dumps(sent[0])) > split.LARGEST:
        return {}
    return {probe: value for probe, value in sent[0].items() if isinstance(value, dict)}


def _score_outputs(score: dict[str, Any], count: int | None) -> list[NotebookNode]:
    from nbformat.v4 import new_output

    points = {"text/plain": repr(float(score[checks.SCORE_MIME]["points"]))}
    return [new_output("display_data", score), new_output("execute_result", points, execution_count=count)]


def _error(name: str, value: str) -> NotebookNode:
    from nbformat.v4 import new_output

    return new_output("error", ename=name, evalue=value, traceback=[f"{name}: {value}"])


def _finish(tree: Path, name: str, submission: Submission, result: Result, graded: NotebookNode) -> None:
    """Let nbgrader record the scores of a run and write the feedback page; put both into the result."""
    import nbformat
    from nbgrader.converters import GenerateFeedback

    from rnn2rag.grading.record import Record

    config = course.nbgrader_config(tree, assignment_id=name, student_id=submission.student)
    nbformat.write(graded, _autograded(tree, name, submission))
    try:
        course.convert(Record, config)
        course.convert(GenerateFeedback, config)
    except UserError as error:
        result.refused = str(error)
        return
    for cell in worker.cell_scores(graded):
        result.messages += [rung["message"] for rung in cell.rungs if rung["message"]]
        result.notes += [f"{cell.grade_id}: {cell.note}"] if cell.note else []
        result.notes += [f"{cell.grade_id}: the test itself failed: {fault}" for fault in cell.faults]
    page = Path("feedback", submission.student, name, submission.path.with_suffix(".html").name)
    result.feedback = page.as_posix()
    _read_scores(config, name, result)


def _autograded(tree: Path, name: str, submission: Submission) -> Path:
    return tree / "autograded" / submission.student / name / submission.path.name


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
