"""What a student wrote cannot run in the browser of whoever reads it in formgrader."""

from __future__ import annotations

import re
from typing import Any

from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbformat import NotebookNode
from traitlets import Bool, Set

from rnn2rag import checks

_TAG = re.compile(r"<[a-zA-Z/!?]")  # what a browser may take for one


class Sanitize(SanitizeHTML):
    """nbconvert's SanitizeHTML, for notebooks that were graded: tags that could run something become text.

    Prose without tags stays as it is, and the reports of tests stay.
    """

    enabled = Bool(True).tag(config=True)
    safe_output_keys = Set(default_value={"text/plain", "text/latex", "image/png", "image/jpeg", checks.SCORE_MIME})
    sanitized_output_types = Set(default_value={"text/html", "text/markdown", "image/svg+xml"})

    def preprocess_cell(self, cell: NotebookNode, resources: Any, cell_index: int) -> tuple[NotebookNode, Any]:
        """Sanitize one cell."""
        if cell.cell_type == "code" or _TAG.search(cell.source):
            return super().preprocess_cell(cell, resources, cell_index)
        return cell, resources
