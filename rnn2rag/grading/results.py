"""What became of one submission, as everything that tells people about it reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from rnn2rag.grading.worker import CellScore


@dataclass
class Result:
    """What became of one submission.

    points, possible: of the whole notebook, as the gradebook has them, after any penalty. manual: whether cells wait
    for a person. refused: why it was not graded. notes: what is odd about it, for the instructor's eyes.
    cells: the score of each test cell. late: seconds after the due date. penalty: points taken off for that.
    sandbox: what it ran in, "bubblewrap", "user" or "none". seconds: wall time of the run. kept: whether it had not
    changed since the run before, and was not run again. feedback: its page, relative to the tree.
    """

    student: str
    points: float = 0.0
    possible: float = 0.0
    manual: bool = False
    refused: str = ""
    notes: list[str] = field(default_factory=list)
    cells: list[CellScore] = field(default_factory=list)
    late: float = 0.0
    penalty: float = 0.0
    sandbox: str = ""
    seconds: float = 0.0
    kept: bool = False
    feedback: str = ""

    @property
    def messages(self) -> list[str]:
        """What the tests said, in order."""
        return [rung["message"] for cell in self.cells for rung in cell.rungs if rung["message"]]


def as_json(results: Sequence[Result]) -> str:
    """Return results as JSON, each with its messages."""
    return json.dumps([{**asdict(result), "messages": result.messages} for result in results], indent=1)
