"""Feedback pages that say what a test found and nothing of what it hides."""

from __future__ import annotations

from typing import Any

from nbformat import NotebookNode
from nbgrader.preprocessors import ClearHiddenTests


class HideTests(ClearHiddenTests):
    """A preprocessor for nbgrader's GenerateFeedback: takes out hidden tests, and the frames of errors in test cells.

    A hidden test whose checks report through `rnn2rag.checks` shows its public description; one that raises shows only
    the kind of error, for the message and the frames could quote an input or an expected value.
    """

    def preprocess_cell(self, cell: NotebookNode, resources: Any, cell_index: int) -> tuple[NotebookNode, Any]:
        """Clear the hidden part of one cell."""
        before = cell.source
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        if cell.source != before:
            for output in cell.get("outputs", ()):
                if output.output_type == "error":
                    output.evalue, output.traceback = "", [f"{output.ename} in a hidden test"]
        return cell, resources
