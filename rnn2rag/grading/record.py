"""The last part of nbgrader's autograding alone: the scores of a notebook that was run go into the gradebook."""

from __future__ import annotations

from nbgrader.converters import Autograde
from nbgrader.converters.base import BaseConverter
from nbgrader.preprocessors import Execute


class Record(Autograde):
    """nbgrader's Autograde over autograded/ as it stands: everything that comes after running, and nothing before."""

    _sanitizing = False

    def init_destination(self, assignment_id: str, student_id: str) -> bool:
        """Keep the folder: its notebooks are the input."""
        return True

    def init_assignment(self, assignment_id: str, student_id: str) -> None:
        """Student and submission are in the gradebook since the submission was restored."""

    def convert_single_notebook(self, notebook_filename: str) -> None:
        """Record one notebook."""
        self._init_preprocessors()
        BaseConverter.convert_single_notebook(self, notebook_filename)

    def _init_preprocessors(self) -> None:
        self.exporter._preprocessors = []
        for preprocessor in self.autograde_preprocessors:
            if preprocessor is not Execute:
                self.exporter.register_preprocessor(preprocessor)
