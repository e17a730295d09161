"""The instructor's cells put back into a submission, whatever cells a student added or copied."""

from __future__ import annotations

from typing import Any

from nbformat import NotebookNode, from_dict
from nbgrader.preprocessors import NbGraderPreprocessor, OverwriteCells

from rnn2rag import course
from rnn2rag.grading import feedback

_KINDS = {"grade_id": str, "grade": bool, "solution": bool, "locked": bool, "task": bool, "points": (int, float)}


class MendMetadata(NbGraderPreprocessor):
    """Takes nbgrader's metadata off a cell where they are garbled: it becomes a cell like any other.

    If it was one of the set's, the set's own takes its place as that of a missing cell does.
    """

    def preprocess_cell(self, cell: NotebookNode, resources: Any, cell_index: int) -> tuple[NotebookNode, Any]:
        """Mend one cell."""
        data = cell.metadata.get("nbgrader", {})
        is_sound = isinstance(data, dict) and all(isinstance(data[key], _KINDS[key]) for key in data if key in _KINDS)
        if not is_sound:
            del cell.metadata["nbgrader"]
        return cell, resources


class RestoreCells(OverwriteCells):
    """nbgrader's OverwriteCells, for notebooks with cells that the problem set does not know.

    nbgrader leaves such a cell (a second copy of a test, a cell of last year's set) half of its metadata, and then
    fails on it when it adds missing cells. Here it becomes a cell like any other.
    """

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Restore the cells of a notebook; those that it lacked get an id, too."""
        nb.metadata.pop(feedback.JUDGED, None)  # only the grader says that it judged a notebook
        nb, resources = super().preprocess(nb, resources)
        nb.cells = [from_dict(cell) for cell in nb.cells]  # nbgrader adds cells half as plain dicts
        for number, cell in enumerate(nb.cells):
            cell.setdefault("id", f"restored-{number}")
        nb.nbformat_minor = max(nb.nbformat_minor, 5)  # the first in which cells have ids
        return nb, resources

    def preprocess_cell(self, cell: NotebookNode, resources: Any, cell_index: int) -> tuple[NotebookNode, Any]:
        """Restore one cell, or make it a plain one."""
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        if "grade_id" not in course.grader_data(cell):
            cell.metadata.pop("nbgrader", None)
        return cell, resources
