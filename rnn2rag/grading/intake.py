"""Submissions in: a folder in nbgrader's layout, a zip from a learning management system, or one notebook.

Every submission is read and judged before anything runs; a bad one is refused with a reason and never stops the class.
"""

from __future__ import annotations

import contextlib
import functools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rnn2rag import course, execute
from rnn2rag.errors import UserError

LARGEST = 20_000_000  # bytes of a submitted notebook

# How learning management systems name what a student handed in.
_MOODLE = re.compile(r"^(?P<student>.+?)_(?P<number>\d+)_assignsubmission_file(_.*)?$")  # a folder, or a file
_CANVAS = re.compile(r"^(?P<student>[^_]+)_(?:LATE_)?(?P<number>\d+)_\d+_(?P<file>.+?)(?:-(?P<again>\d+))?\.ipynb$")


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
    one notebook or folder a student; a zip of such a folder, or as Moodle or Canvas makes it; or STUDENT.ipynb. Of
    several notebooks of a student the one with the set's own file name is taken, else the latest; it takes the place of
    an earlier submission. Two students of one name get the numbers that Moodle or Canvas knows them by. Raises
    UserError when there is nothing to grade.
    """
    notebook = next(course.set_folder(tree, name).glob("*.md")).with_suffix(".ipynb").name
    if submitted is not None:
        others = set(course.set_names(tree)) - {name}
        for student, data in _incoming(submitted, name, notebook, others):
            target = tree / "submitted" / student / name / notebook
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    students = sorted(folder.parent.name for folder in (tree / "submitted").glob(f"*/{name}") if folder.is_dir())
    if not students:
        raise UserError(
            f"nothing is submitted for {name}: put notebooks into submitted/STUDENT/{name}/, or use --submitted"
        )
    return [_inspect(tree, name, student, notebook) for student in students]


def _incoming(submitted: Path, name: str, notebook: str, others: set[str]) -> Iterator[tuple[str, bytes]]:
    """The students and notebooks of a folder, a zip or a single file; the one to be graded of each comes last."""
    with contextlib.ExitStack() as stack:
        files = _files(submitted, stack)
        owners = {file: _owner(PurePosixPath(file), name, notebook, others) for file in files}
        owned = {file: owner for file, owner in owners.items() if owner}
        for file in sorted(owned, key=lambda file: _rank(PurePosixPath(file).name, notebook)):
            student, number = owned[file]
            if len({other for same, other in owned.values() if same == student}) > 1:
                student = f"{student}-{number}"
            size, read = files[file]
            try:
                yield student, read() if size <= LARGEST else b""
            except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise UserError(f"{submitted}: {file} cannot be read ({error}); get it once more") from None
    if not owned:
        raise UserError(
            f"{submitted}: holds no notebook whose student can be told; name it STUDENT.ipynb or STUDENT/{notebook}"
        )


def _files(submitted: Path, stack: contextlib.ExitStack) -> dict[str, tuple[int, Callable[[], bytes]]]:
    """The notebooks of a folder, a zip or a single file: the size of each and how to read it, the oldest first."""
    if submitted.is_dir():
        paths = [path for path in sorted(submitted.rglob("*.ipynb")) if path.is_file() and not path.is_symlink()]
        return {path.relative_to(submitted).as_posix(): (path.stat().st_size, path.read_bytes) for path in paths}
    if zipfile.is_zipfile(submitted):
        archive = stack.enter_context(zipfile.ZipFile(submitted))
        members = sorted(archive.infolist(), key=lambda member: (member.date_time, member.filename))
        notebooks = [member for member in members if member.filename.endswith(".ipynb")]
        return {m.filename: (m.file_size, functools.partial(archive.read, m)) for m in notebooks}
    if submitted.is_file():
        return {submitted.name: (submitted.stat().st_size, submitted.read_bytes)}
    raise UserError(f"{submitted}: there is no such file or folder")


def _rank(file: str, notebook: str) -> tuple[bool, int]:
    """How much a file counts among those of one student: the set's own file name first, then Canvas's count."""
    canvas = _CANVAS.match(file)
    if canvas:
        return f"{canvas['file']}.ipynb" == notebook, int(canvas["again"] or 0)
    return file == notebook or file.endswith(f"_{notebook}"), 0


def _owner(file: PurePosixPath, name: str, notebook: str, others: set[str]) -> tuple[str, str] | None:
    """The student who handed in a file, from the names of nbgrader, Moodle, Canvas, or a plain folder or file.

    Moodle's and Canvas's number comes with the student. None for files of other sets and of nobody.
    """
    folders = file.parts[:-1]
    if any(part.startswith((".", "__MACOSX")) for part in file.parts) or others & set(folders):
        return None
    if name in folders[1:]:  # STUDENT/NAME/, with whatever above and below
        folders = folders[: folders.index(name, 1)]
    elif folders[:1] == (name,):
        folders = folders[1:]
    lms = _MOODLE.match(folders[-1]) if folders else _CANVAS.match(file.name) or _MOODLE.match(file.name)
    if lms is None and not folders and file.name == notebook:
        return None
    student = lms["student"] if lms else folders[-1] if folders else file.stem
    student = re.sub(r"[^\w.@-]+", "-", student).strip("-.")
    return (student, lms["number"] if lms else "") if student else None


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
    ids = [course.grader_data(cell).get("grade_id") for cell in cells]
    for grade_id in (course.grader_data(cell).get("grade_id") for cell in released.cells):
        if grade_id and ids.count(grade_id) != 1:
            what = "is missing" if grade_id not in ids else f"occurs {ids.count(grade_id)} times"
            submission.notes.append(f"the cell {grade_id!r} {what}")
    return submission
