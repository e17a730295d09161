"""What a worker does with a submission: it runs it, as bytes in and bytes out, and knows no tree and no gradebook.

And what a test cell's outputs are worth, by nbgrader's rules; and a student's own notebook checked in a fresh kernel.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import json
import math
import tempfile
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag import checks, course, execute
from rnn2rag.errors import UserError
from rnn2rag.execute import sandbox

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_TIMEOUT = 120.0  # seconds
TRIES = 3  # how often a submission is run again when the sandbox itself broke
_RUNG = {"name": str, "possible": float, "points": float, "message": str}


@dataclass
class CellScore:
    """The points of one test cell.

    grade_id: nbgrader's name of the cell. rungs: what the checks reported, as data (see checks.Rung), empty when they
    never ran. faults: errors of the test itself. note: why the cell earned less than its rungs say, or nothing at all.
    """

    grade_id: str
    points: float
    possible: float
    rungs: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    note: str = ""


@dataclass
class Job:
    """A submission to be run.

    notebook: as text, its test cells in the form in which they may run beside the student's code. files: what lies
    beside it. mode: the sandbox (see `execute.sandbox`). built: the modules of rnn2rag.built that it must not see.
    optimizers: whether the set trains something.
    """

    notebook: str
    files: dict[str, bytes]
    mode: str
    built: tuple[str, ...] = ()
    optimizers: bool = False
    cell_timeout: float = CELL_TIMEOUT
    limits: sandbox.Limits = field(default_factory=sandbox.Limits)


@dataclass
class Outcome:
    """What came of a job: the outputs and execution count of each code cell, what ended the run early, what it used."""

    outputs: list[tuple[list[dict[str, Any]], int | None]]
    error: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0


def run(job: bytes) -> bytes:
    """Run a job, given as `packed`, and return its outcome as JSON.

    Raises sandbox.SandboxFailure when the sandbox broke again and again: nothing is then said about the submission.
    """
    import nbformat

    data = json.loads(job)
    limits = sandbox.Limits(**data["limits"])
    notebook = nbformat.v4.reads(data["notebook"])
    environment = {checks.RELEASE_KEY: "", "NBGRADER_EXECUTION": "autograde"}
    files = {name: base64.b64decode(text) for name, text in data["files"].items()}
    if data["mode"] == "none":
        with tempfile.TemporaryDirectory(prefix="rnn2rag-run-") as folder:
            task = execute.Task(notebook, Path(folder), environment, data["cell_timeout"], False, allow_errors=True)
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            return _outcome(execute.run(task))
    built = Path(course.__file__).parent / "built"
    hidden = [str(built / f"{name}.py") for name in data["built"] if (built / f"{name}.py").exists()]
    box = sandbox.Box(files, environment, hidden, limits)
    ran = None
    for _ in range(TRIES):
        try:
            ran = execute.run_in(_zygote(data["mode"], data["optimizers"]), box, notebook, data["cell_timeout"])
            if not ran.is_killed:
                return _outcome(ran)
        except (sandbox.SandboxFailure, OSError) as error:
            failure = error
    if ran:
        return _outcome(ran)
    raise sandbox.SandboxFailure(f"the sandbox broke {TRIES} times ({failure})")


def packed(job: Job) -> bytes:
    """Return a job as bytes that may travel."""
    data = asdict(job)
    data["files"] = {name: base64.b64encode(content).decode() for name, content in job.files.items()}
    return json.dumps(data).encode()


def unpacked(outcome: bytes) -> Outcome:
    """Return the outcome that `run` gave."""
    return Outcome(**json.loads(outcome))


def warm(mode: str, optimizers: bool) -> None:
    """Start this worker's warm process; what keeps it from starting is said when a job runs."""
    with contextlib.suppress(sandbox.SandboxFailure, OSError):
        _zygote(mode, optimizers)


def _outcome(ran: execute.Run) -> bytes:
    cells = [cell for cell in ran.notebook.cells if cell.cell_type == "code"]
    outputs = [(cell.outputs, cell.execution_count) for cell in cells]
    error = ran.error.splitlines()[0] if ran.error else ""
    return json.dumps(vars(Outcome(outputs, error, ran.wall_seconds, ran.cpu_seconds, ran.peak_memory))).encode()


_zygotes: dict[tuple[str, bool], sandbox.Zygote] = {}
_zygotes_lock = threading.Lock()


def _zygote(mode: str, optimizers: bool) -> sandbox.Zygote:
    """The warm process of this worker; a new one when it has died."""
    with _zygotes_lock:
        zygote = _zygotes.get((mode, optimizers))
        if zygote is not None and not zygote.alive:
            zygote.__exit__()
            zygote = None
        if zygote is None:
            if not _zygotes:
                sandbox.sweep()
                atexit.register(close)
            zygote = _zygotes[mode, optimizers] = sandbox.Zygote(mode, optimizers).__enter__()
        return zygote


def close() -> None:
    """End the warm processes of this worker."""
    with _zygotes_lock:
        while _zygotes:
            _zygotes.popitem()[1].__exit__()


def cell_scores(notebook: NotebookNode) -> list[CellScore]:
    """Return the score of each automatically graded cell of a notebook that was run."""
    return [score(cell) for cell in notebook.cells if is_test(cell)]


def score(cell: NotebookNode) -> CellScore:
    """Return the score of one test cell from its outputs.

    nbgrader's rules: the first of these decides: an error or a line on stderr earns nothing, a result counts as the
    number that it is; a cell with none of them earns everything. Here a result that is no number between 0 and the
    cell's points earns nothing.
    """
    data = cell.metadata.nbgrader
    result = CellScore(data.grade_id, 0.0, float(data.points))
    earned = None
    for output in cell.outputs:
        if checks.SCORE_MIME in output.get("data", {}):
            result.rungs, result.faults = _reported(output.data[checks.SCORE_MIME])
        elif result.note or earned is not None:
            continue
        elif output.output_type == "error":
            result.note = f"the test cell raised {output.ename}: {output.evalue}"
        elif output.output_type == "stream" and output.name == "stderr":
            result.note = f"the test cell wrote to stderr: {output.text.strip()[:200]}"
        elif output.output_type == "execute_result":
            earned = output.data.get("text/plain", "")
    if result.note:
        return result
    if earned is None:
        result.points = result.possible
        return result
    try:
        result.points = float(earned)
    except ValueError:
        result.points = math.nan
    if not 0 <= result.points <= result.possible:
        result.points, result.note = 0.0, f"the test cell's result is no number from 0 to {result.possible:g}"
    return result


def check(path: Path) -> list[CellScore]:
    """Run a student's notebook from the top in a fresh kernel, in its folder; return the score of each test cell.

    Raises UserError when the file is not a notebook, has no test cell, or its kernel dies.
    """
    notebook = execute.read(path)
    if not any(is_test(cell) for cell in notebook.cells):
        raise UserError(f"{path}: has no test cell; check a notebook of exercises/ that you filled in")
    task = execute.Task(notebook, folder=path.resolve().parent, cell_timeout=CELL_TIMEOUT, allow_errors=True)
    ran = execute.run(task)
    if ran.error:
        raise UserError(f"{path}: could not be run to its end: {ran.error}")
    scores = cell_scores(ran.notebook)
    _withhold(ran.notebook, scores)
    return scores


def _withhold(notebook: NotebookNode, scores: list[CellScore]) -> None:
    """Take the points of each test cell whose answer uses what its problem forbids, as grading will."""
    from rnn2rag.grading import forbidden, split

    look = forbidden.Look()
    results = iter(scores)
    for cell in notebook.cells:
        if not is_test(cell):
            if cell.cell_type == "code":
                look.ran(cell.source)
            continue
        result, parts = next(results), split.halves(cell.source)
        used = look.used(parts.probe, parts.forbids) if parts else None
        if used:
            result.points = 0.0
            for rung in result.rungs:
                rung |= {"points": 0.0, "message": f"{used} is not allowed in this problem: write it yourself."}


def report(scores: list[CellScore]) -> str:
    """Return the scores as text: a line a rung, the message of each that failed, and the sum."""
    lines = []
    here = [cell for cell in scores if cell.rungs or cell.note]
    for cell in here:
        lines.append(f"{cell.grade_id}: {cell.points:g} of {cell.possible:g} points")
        for rung in cell.rungs:
            mark = "✓" if rung["points"] == rung["possible"] else "✗"
            lines.append(f"  {mark} {rung['points']:g}/{rung['possible']:g}  {rung['name']}")
            lines += [f"         {line}" for line in rung["message"].splitlines()]
        if cell.note:
            lines.append(f"  {cell.note}")
    earned, possible = sum(cell.points for cell in here), sum(cell.possible for cell in here)
    lines.append(f"{earned:g} of {possible:g} points in the tests that run here")
    later = sum(cell.possible for cell in scores if cell not in here)
    if later:
        lines.append(f"{later:g} more points in tests that run when the set is graded")
    return "\n".join(lines)


def _reported(report: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The rungs and the faults that the checks of a cell reported; nothing of a report that they did not write."""
    try:
        rungs = [asdict(checks.Rung(**rung)) for rung in report["rungs"]]
        is_ours = all(type(rung[key]) is kind for rung in rungs for key, kind in _RUNG.items())
        return (rungs, [str(fault) for fault in report["faults"]]) if is_ours else ([], [])
    except (KeyError, TypeError):
        return [], []


def is_test(cell: NotebookNode) -> bool:
    """Whether a cell is an automatically graded test."""
    data = course.grader_data(cell)
    is_complete = "grade_id" in data and isinstance(data.get("points"), (int, float))
    return cell.cell_type == "code" and is_complete and bool(data.get("grade")) and not data.get("solution")
