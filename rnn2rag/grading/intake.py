"""Submissions in: a folder in nbgrader's layout, a zip from a learning management system, or one notebook.

Every submission is read and judged before anything runs; a bad one is refused with a reason and never stops the class.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rnn2rag import course, execute
from rnn2rag.errors import UserError

LARGEST = 20_000_000  # bytes of a submitted notebook

# How learning management systems name what a student handed in.
_MOODLE = re.compile(r"^(?P<student>.+?)_\d+_assignsubmission_file(_.*)?$")  # a folder
_CANVAS = re.compile(r"^(?P<student>[^_]+)_(?:LATE_)?\d+_\d+_(?P<file>.+?)(?:-(?P<again>\d+))?\.ipynb$")  # a file


@dataclass
class Submission:
    """One student's notebook, ready to be graded, or refused.

    path: where it stands under submitted/. refused: why it cannot be graded, in one line. notes: what is odd about it.
    """

    student: str
    path: Path
    refused: str = ""
    notes: list[str] = field(default_factory=list)


def collect(tree: Path, name: str, submitted: Path | None) -> list[Submission]:
    """Bring submissions for a problem set into submitted/STUDENT/NAME/ and return all that stand there, by student.

    submitted: None takes what is in submitted/ already; a folder in nbgrader's layout (STUDENT/NAME/*.ipynb) or with
    one notebook or folder a student; a zip of such a folder, or as Moodle or Canvas makes it; or STUDENT.ipynb. A later
    submission of a student takes the place of an earlier one. Raises UserError when there is nothing to grade.
    """
    notebook = next(course.set_folder(tree, name).glob("*.md")).with_suffix(".ipynb").name
    if submitted is not None:
        for student, data in _incoming(submitted, name, notebook):
            target = tree / "submitted" / student / name / notebook
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    students = sorted(folder.parent.name for folder in (tree / "submitted").glob(f"*/{name}") if folder.is_dir())
    if not students:
        raise UserError(
            f"nothing is submitted for {name}: put notebooks into submitted/STUDENT/{name}/, or use --submitted"
        )
    return [_inspect(tree, name, student, notebook) for student in students]


def _incoming(submitted: Path, name: str, notebook: str) -> Iterator[tuple[str, bytes]]:
    """The students and notebooks of a folder, a zip or a single file; the latest of a student comes last."""
    if submitted.is_dir():
        files = {path.relative_to(submitted).as_posix(): path for path in sorted(submitted.rglob("*.ipynb"))}
        found = {file: path.stat().st_size for file, path in files.items() if path.is_file() and not path.is_symlink()}
        read = {file: files[file].read_bytes for file in found}
    elif zipfile.is_zipfile(submitted):
        archive = zipfile.ZipFile(submitted)
        members = sorted(archive.infolist(), key=lambda member: (member.date_time, member.filename))
        found = {m.filename: m.file_size for m in members if m.filename.endswith(".ipynb") and not m.is_dir()}
        read = {file: lambda file=file: archive.read(file) for file in found}
    elif submitted.is_file():
        found = {submitted.name: submitted.stat().st_size}
        read = {submitted.name: submitted.read_bytes}
    else:
        raise UserError(f"{submitted}: there is no such file or folder")
    taken = 0
    for file in sorted(found, key=_attempt):
        student = _student(PurePosixPath(file), name, notebook)
        if student is None:
            continue
        taken += 1
        yield student, read[file]() if found[file] <= LARGEST else b""
    if not taken:
        raise UserError(
            f"{submitted}: holds no notebook whose student can be told; name it STUDENT.ipynb or STUDENT/{notebook}"
        )


def _attempt(file: str) -> int:
    canvas = _CANVAS.match(PurePosixPath(file).name)
    return int(canvas["again"] or 0) if canvas else 0


def _student(file: PurePosixPath, name: str, notebook: str) -> str | None:
    """The student who handed in a file, from the names of nbgrader, Moodle, Canvas, or a plain folder or file."""
    if any(part.startswith((".", "__MACOSX")) for part in file.parts):
        return None
    folders = [part for part in file.parts[:-1] if part != name]
    canvas = _CANVAS.match(file.name)
    if canvas and not folders:
        student = canvas["student"]
    elif folders:
        moodle = _MOODLE.match(folders[-1])
        student = moodle["student"] if moodle else folders[-1]
    elif file.name != notebook:
        student = file.stem
    else:
        return None
    return re.sub(r"[^\w.@-]+", "-", student).strip("-.") or None


def _inspect(tree: Path, name: str, student: str, notebook: str) -> Submission:
    """Judge one submission fit to be graded, or say why it is not."""
    path = tree / "submitted" / student / name / notebook
    submission = Submission(student, path)
    if not path.is_file() or path.is_symlink():
        others = sorted(other.name for other in path.parent.glob("*.ipynb"))
        submission.refused = f"has no {notebook}" + (f", but {', '.join(others)}" if others else "")
        return submission
    if not 0 < path.stat().st_size <= LARGEST:
        submission.refused = f"{notebook} is empty or larger than {LARGEST // 10**6} MB"
        return submission
    try:
        cells = execute.read(path).cells
    except UserError as error:
        submission.refused = str(error).removeprefix(f"{path}: ")
        return submission
    released = execute.read(tree / "exercises" / name / notebook)
    ids = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in cells]
    for grade_id in (cell.metadata.get("nbgrader", {}).get("grade_id") for cell in released.cells):
        if grade_id and ids.count(grade_id) != 1:
            what = "is missing" if grade_id not in ids else f"occurs {ids.count(grade_id)} times"
            submission.notes.append(f"the cell {grade_id!r} {what}")
    return submission
