"""Feedback pages that say what a test found and nothing of what it hides."""

from __future__ import annotations

from typing import Any

from nbformat import NotebookNode
from nbgrader.preprocessors import ClearHiddenTests
from nbgrader.utils import is_grade, is_solution

from rnn2rag import checks


class HideTests(ClearHiddenTests):
    """A preprocessor for nbgrader's GenerateFeedback: takes out hidden tests, and what could quote them.

    A hidden test whose checks report through `rnn2rag.checks` shows its report and its points; one that raises shows
    only the kind of error, for the message and the frames could quote an input or an expected value. What else was
    shown or printed while it ran (a student's own print, say) is left out for the same reason.
    """

    def preprocess_cell(self, cell: NotebookNode, resources: Any, cell_index: int) -> tuple[NotebookNode, Any]:
        """Clear the hidden part of one cell."""
        if not is_grade(cell) or is_solution(cell):
            return cell, resources
        before = cell.source
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        if cell.source != before and cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_public(output)]
            for output in cell.outputs:
                if output.output_type == "error":
                    output.evalue, output.traceback = "", [f"{output.ename} in a hidden test"]
        return cell, resources


def _is_public(output: NotebookNode) -> bool:
    return output.output_type in ("execute_result", "error") or checks.SCORE_MIME in output.get("data", {})
