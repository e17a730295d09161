"""What a student wrote cannot run in the browser of whoever reads it in formgrader."""

from __future__ import annotations

import functools
import re
from typing import Any

from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbformat import NotebookNode
from traitlets import Bool, Set

from rnn2rag import checks

_TAG = re.compile(r"<[a-zA-Z/!?]")  # what a browser may take for one
LONGEST = 100_000  # characters of HTML that are remembered


class Sanitize(SanitizeHTML):
    """nbconvert's SanitizeHTML, for notebooks that were graded: tags that could run something become text.

    Prose without tags stays as it is, and the reports of tests stay. An output whose tags would become text shows its
    plain text instead, where it has one: of a figure, what it shows in words.
    """

    enabled = Bool(True).tag(config=True)
    safe_output_keys = Set(default_value={"text/plain", "text/latex", "image/png", "image/jpeg", checks.SCORE_MIME})
    sanitized_output_types = Set(default_value={"text/html", "text/markdown", "image/svg+xml"})

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self._remembered = functools.lru_cache(64)(super().sanitize_html_tags)  # the set's own, in every submission

    def preprocess_cell(self, cell: NotebookNode, resources: Any, cell_index: int) -> tuple[NotebookNode, Any]:
        """Sanitize one cell."""
        if cell.cell_type != "code" and not _TAG.search(cell.source):
            return cell, resources
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            for kind in self.sanitized_output_types & data.keys() if "text/plain" in data else ():
                if self.sanitize_html_tags(data[kind]).count("&lt;") > data[kind].count("&lt;"):
                    del data[kind]
        return super().preprocess_cell(cell, resources, cell_index)

    def sanitize_html_tags(self, html_str: str) -> str:
        """Sanitize HTML."""
        return self._remembered(html_str) if len(html_str) < LONGEST else super().sanitize_html_tags(html_str)
