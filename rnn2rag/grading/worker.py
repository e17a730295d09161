"""What a test cell's outputs are worth, by nbgrader's rules; and a student's own notebook checked in a fresh kernel."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag import checks, course, execute
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_TIMEOUT = 120.0  # seconds
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
    run = execute.run(task)
    if run.error:
        raise UserError(f"{path}: could not be run to its end: {run.error}")
    return cell_scores(run.notebook)


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
