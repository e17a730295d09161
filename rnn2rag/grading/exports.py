"""Grades out: grades.csv as `nbgrader export` writes it, and files that Canvas and Moodle import.

Canvas reads the form of its own gradebook export: the columns Student, ID, SIS User ID, SIS Login ID and Section, a
column for each assignment, and a second row with the points possible. A student is found by ID, else by a SIS column,
else by name; an assignment by its title or by "title (number)". An empty grade would clear one that is there, so
whoever has no grade yet has no row.
Sources: canvas-lms, lib/gradebook_importer.rb;
https://teaching.resources.osu.edu/toolsets/carmencanvas/guides/calculating-final-grades/import-csv-file-carmen-grades

Moodle reads an assignment's grading worksheet ("Upload grading worksheet"): it needs the columns Identifier
("Participant NUMBER"), Grade and Last modified (grade), and takes Feedback comments where these are switched on; a
grade given since is overwritten only if the uploader says so. The headings are those of a site in English. The same
file serves the gradebook's import, with its columns mapped to ID number or Email address.
Sources: moodle, mod/assign/feedback/offline/importgradeslib.php and locallib.php;
https://docs.moodle.org/311/en/Grade_import
"""

from __future__ import annotations

import csv
import html
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rnn2rag.errors import UserError
from rnn2rag.grading import intake
from rnn2rag.grading.results import Result

if TYPE_CHECKING:
    from nbgrader.api import SubmittedAssignment

_CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
_MOODLE = (
    *("Identifier", "Full name", "ID number", "Email address", "Grade", "Maximum Grade"),
    *("Last modified (grade)", "Feedback comments"),
)


def write(tree: Path, name: str, results: Sequence[Result] = ()) -> list[str]:
    """Write grades.csv, and grades-NAME-canvas.csv and grades-NAME-moodle.csv for one problem set.

    results: their messages become comments for Moodle. Returns the students whom the import files leave out: part of
    their grade waits for a person, or their latest submission was refused. Raises UserError where the gradebook lacks
    the set, or the numbers that intake kept are damaged.
    """
    from nbgrader.api import Gradebook, MissingEntry
    from nbgrader.plugins import CsvExportPlugin

    numbers = intake.numbers(tree, name)
    messages = {result.student: result.messages for result in results}
    refused = {result.student for result in results if result.refused}
    canvas, moodle, left = [], [], list(refused)
    with Gradebook(f"sqlite:///{tree / 'gradebook.db'}") as gradebook:
        new = tree / ".grades.csv.new"
        CsvExportPlugin(to=str(new)).export(gradebook)
        os.replace(new, tree / "grades.csv")
        try:
            possible = _number(gradebook.find_assignment(name).max_score)
        except MissingEntry:
            raise UserError(f"gradebook.db: has no problem set {name!r}; grade it first") from None
        submissions = {submission.student.id: submission for submission in gradebook.assignment_submissions(name)}
        for student, submission in sorted(submissions.items()):
            if student in refused:
                continue
            if submission.needs_manual_grade:
                left.append(student)
                continue
            person = submission.student
            full_name = _text(" ".join(filter(None, (person.first_name, person.last_name))) or student)
            grade = _number(max(0.0, submission.score - submission.late_submission_penalty))
            system, number = numbers.get(student, ("", ""))
            canvas.append((full_name, number if system == "canvas" else "", "", _key(student), "", grade))
            moodle.append(
                (
                    f"Participant {number}" if system == "moodle" else "",
                    *(full_name, _key(student), _key(person.email or ""), grade, possible, "-"),
                    _text(_comment(submission, messages.get(student, ()))),
                )
            )
    head = [(*_CANVAS, _text(name)), ("    Points Possible", "", "", "", "", possible)]
    _write(tree / f"grades-{name}-canvas.csv", [*head, *canvas])
    _write(tree / f"grades-{name}-moodle.csv", [_MOODLE, *moodle])
    return sorted(left)


def _comment(submission: SubmittedAssignment, messages: Iterable[str]) -> str:
    """What a student reads beside the grade; Moodle takes it as HTML."""
    lines = [f"{_number(submission.score)} of {_number(submission.max_score)} points."]
    if submission.late_submission_penalty:
        lines.append(f"{_number(submission.late_submission_penalty)} points are taken off for handing in late.")
    return "<br>".join(html.escape(line) for line in (*lines, *messages))


def _number(points: float) -> str:
    return f"{round(points, 4):.10g}"


def _text(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    line = re.sub(r"\s+", " ", text).strip()
    return f"'{line}" if line[:1] in tuple("=+-@") else line


def _key(text: str) -> str:
    """What a system finds a student by: as it is, or left out where a spreadsheet would take it for a formula."""
    return text if text == _text(text) else ""


def _write(path: Path, rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text.getvalue(), encoding="utf8")
    os.replace(new, path)
