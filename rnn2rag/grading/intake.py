"""Submissions in: a folder in nbgrader's layout, a zip from a learning management system, or one notebook.

Every submission is read and judged before anything runs; a bad one is refused with a reason and never stops the class.

What the systems' zips tell, as far as their public sources say:

- Canvas packs STUDENT[_LATE]_USER_UPLOAD_NAME, the files of the latest attempt (canvas-lms, lib/content_zipper.rb).
  Upload numbers grow with time. The date of a member is that of the download, not of the hand-in
  (https://github.com/instructure/canvas-lms/issues/2219): LATE is all that the zip says of time.
- Moodle packs NAME_NUMBER_assignsubmission_file, a folder or a prefix, the latest attempt; the number is that of the
  participant in this one assignment. Members are streamed with the date of the download (moodle,
  mod/assign/classes/downloader.php, files/classes/local/archive_writer/zip_writer.php).
- Blackboard packs SET_STUDENT_attempt_YEAR-MONTH-DAY-HOUR-MINUTE-SECOND_NAME, every attempt. As in
  `nbgrader zip_collect` the time is taken as UTC and the latest counts.

A time that nobody told is not guessed: without a timestamp.txt nobody is late.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from rnn2rag import course, execute
from rnn2rag.errors import UserError

LARGEST = 20_000_000  # bytes of a submitted notebook, and of all files beside it together
MOST_FILES = 64  # beside the notebook
MOST_CELLS = 1_000
MOST_LEVELS = 100  # of lists and objects inside each other
MOST_MEMBERS = 250_000  # of a zip
TIMESTAMP = "timestamp.txt"  # nbgrader's file that says when a submission was handed in
NUMBERS = ".lms.json"  # under submitted/: the numbers by which a learning management system knows its students

_MOODLE = re.compile(
    r"(?P<student>.+?)_(?P<number>\d{1,20})_assignsubmission_(?:file|onlinetext)(?:_(?P<file>.*))?", re.S
)
_CANVAS = re.compile(r"(?P<student>\w+?)_(?P<late>LATE_)?(?P<number>\d{1,20})_(?P<upload>\d{1,20})_(?P<file>.+)", re.S)
_BLACKBOARD = re.compile(r".+?_(?P<student>[^_]+)_attempt_(?P<time>\d{4}(?:-\d\d){5})_(?P<file>.+)", re.S)
_AGAIN = re.compile(r"-\d+(?=\.ipynb$)")  # Canvas adds this to the name of a notebook that is uploaded again
_PLAIN = re.compile(r"\w[\w .,()+=@-]{0,99}")  # a part of the name of a file that is carried along
_TROUBLE = re.compile(r"^[-.]|[][*?{},]")  # in a student's name; nbgrader takes some of these for patterns


@dataclass
class Submission:
    """One student's notebook, ready to be graded, or refused.

    path: where it stands under submitted/. refused: why it cannot be graded, in one line. notes: what is odd about it.
    timestamp: when it was handed in (UTC without a zone, as nbgrader has it); None where nobody told. carried: the
    files handed in beside the notebook, relative to its folder.
    """

    student: str
    path: Path
    refused: str = ""
    notes: list[str] = field(default_factory=list)
    timestamp: datetime | None = None
    carried: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        """The files handed in beside the notebook, by name; read anew each time, so that no class fills the memory."""
        return {name: (self.path.parent / name).read_bytes() for name in self.carried}


@dataclass
class _File:
    """A file of a source: its path there, size in bytes and date; how to read it; why it must not be read."""

    path: PurePosixPath
    size: int
    date: tuple[float, ...]
    read: Callable[[], bytes]
    unfit: str = ""


@dataclass
class _Part:
    """A file that a student handed in: its name in the submission, and what the source's names say of it."""

    file: _File
    name: PurePosixPath
    student: str
    system: str = ""
    number: str = ""
    upload: int = 0
    late: bool = False
    time: str = ""

    @property
    def who(self) -> tuple[str, str]:
        """What tells one student of a source from another."""
        return (self.system, self.number) if self.number else ("", unicodedata.normalize("NFC", self.student))


class _RefusedError(Exception):
    """Why a submission is not taken in."""


def collect(tree: Path, name: str, submitted: Path | None) -> list[Submission]:
    """Bring submissions for a problem set into submitted/STUDENT/NAME/ and return all that stand there, by student.

    submitted: None takes what is in submitted/ already; a folder in nbgrader's layout (STUDENT/NAME/*.ipynb) or with
    one notebook or folder a student; a zip of such a folder, or as Moodle, Canvas or Blackboard makes it; or
    STUDENT.ipynb. Of several notebooks of a student the one with the set's own file name is taken, else the latest;
    plain files beside it are carried along. It takes the place of an earlier submission, all or nothing. Two students
    of one name get the numbers by which their system knows them. Raises UserError when there is nothing to grade, and
    where a source cannot be read or submitted/ not be written.
    """
    source = course.set_folder(tree, name)
    notebook = next(source.glob("*.md")).with_suffix(".ipynb").name
    folders = [folder for folder in (source, tree / "exercises" / name) if folder.is_dir()]
    own = {TIMESTAMP, *(path.name.casefold() for folder in folders for path in folder.iterdir())}
    home = tree / "submitted"
    try:
        _tidy(home, name)
        said = {}
        if submitted is not None and submitted.resolve() != home.resolve():
            said = _take_in(tree, name, notebook, own, submitted)
    except OSError as error:
        raise UserError(f"{error.filename or home}: cannot be used ({error.strerror})") from None
    standing = {path.parent.name for path in home.glob(f"*/{name}") if path.is_dir()}
    students = sorted(student for student in standing | set(said) if not student.startswith("."))
    if not students:
        raise UserError(
            f"nothing is submitted for {name}: put notebooks into submitted/STUDENT/{name}/, or use --submitted"
        )
    released = execute.read(tree / "exercises" / name / notebook)
    expected = [grade_id for cell in released.cells if (grade_id := course.grader_data(cell).get("grade_id"))]
    collected = []
    for student in students:
        submission = Submission(student, home / student / name / notebook)
        try:
            _inspect(submission, own, expected)
        except _RefusedError as error:
            submission.refused = str(error)
        if student in said:
            submission.refused = said[student].refused or submission.refused
            submission.notes = said[student].notes + submission.notes
        submission.refused, submission.notes = _line(submission.refused), [_line(note) for note in submission.notes]
        collected.append(submission)
    return collected


def numbers(tree: Path, name: str) -> dict[str, tuple[str, str]]:
    """Return by which numbers a learning management system knows the students of a problem set.

    Returns {student: (system, number)}: ("canvas", number of the user) or ("moodle", number of the participant in the
    one assignment). Raises UserError where the file that keeps them is damaged.
    """
    return _read_numbers(tree).get(name, {})


# A source, file by file


def _files(submitted: Path, stack: contextlib.ExitStack) -> list[_File]:
    """The files of a folder, a zip or a single notebook."""
    if submitted.is_dir():
        return [_on_disk(Path(folder, file), submitted) for folder, _, files in os.walk(submitted) for file in files]
    if not submitted.exists():
        raise UserError(f"{submitted}: there is no such file or folder")
    if submitted.suffix == ".ipynb" and submitted.is_file():
        return [_on_disk(submitted.resolve(), submitted.resolve().parent)]
    if not submitted.is_file() or not zipfile.is_zipfile(submitted):
        raise UserError(
            f"{submitted}: is no folder, no notebook and no zip that can be read; pack submissions as a zip"
        )
    try:
        archive = stack.enter_context(zipfile.ZipFile(submitted))
    except Exception as error:  # whatever a damaged list of members makes the reader raise
        raise UserError(f"{submitted}: cannot be read ({_line(error)}); download it again") from None
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) > MOST_MEMBERS:
        raise UserError(f"{submitted}: holds more than {MOST_MEMBERS} files; split it")
    if sum(member.compress_size for member in members) > submitted.stat().st_size:
        raise UserError(f"{submitted}: cannot be read (its members overlap); download it again")
    return [_in_zip(archive, member) for member in members]


def _on_disk(path: Path, top: Path) -> _File:
    found = path.lstat()
    unfit = "" if stat.S_ISREG(found.st_mode) else "is a link" if stat.S_ISLNK(found.st_mode) else "is no plain file"
    relative = PurePosixPath(path.relative_to(top).as_posix())
    return _File(relative, found.st_size, (found.st_mtime,), path.read_bytes, unfit)


def _in_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _File:
    """A member of a zip; the size that it claims is not believed."""

    def read() -> bytes:
        with archive.open(member) as opened:
            return opened.read(LARGEST + 1)

    mode = member.external_attr >> 16
    unfit = ""
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        unfit = "is a link" if stat.S_ISLNK(mode) else "is no plain file"
    elif member.flag_bits & 0x1:
        unfit = "is encrypted"
    elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a limit
        unfit = "is packed in a way that is not read here"
    path = PurePosixPath(member.filename.replace("\\", "/").lstrip("/"))
    return _File(path, member.file_size, member.date_time, read, unfit)


# Who handed in what


def _parts(files: Iterable[_File], name: str, notebook: str, others: set[str]) -> list[_Part]:
    """What students handed in for a problem set; not the files of other sets, of nobody, and hidden ones."""
    kept = [
        file
        for file in files
        if not others & set(file.path.parts[:-1])
        and not any(part.startswith((".", "__MACOSX")) for part in file.path.parts)
    ]
    # A student's own data may be called results_2027_01_all.csv: no system named it, unless it named notebooks there.
    named = {file.path.parent for file in kept if file.path.suffix == ".ipynb" and _named_file(file, file.path.name)}
    named.add(PurePosixPath("."))
    parts, rest = [], []
    for file in kept:
        *folders, last = file.path.parts or [""]
        part = _named_folder(file, folders, last, name)
        if part is None and file.path.parent in named:
            part = _named_file(file, last)
        if part:
            parts.append(part)
        else:
            rest.append((file, PurePosixPath(*folders[folders[:1] == [name] :], last)))
    # Else a folder or a notebook is a student's; other files belong to the nearest folder that holds a notebook.
    owned = {path.parent for _, path in rest if path.suffix == ".ipynb" and path.parent.name}
    for file, path in rest:
        folder = next((parent for parent in path.parents if parent in owned), None)
        if folder is not None:
            parts.append(_Part(file, path.relative_to(folder), folder.name))
        elif path.suffix == ".ipynb" and path.name != notebook:
            parts.append(_Part(file, PurePosixPath(path.name), path.stem))
    return [part for part in parts if _clean(part.student)]


def _named_folder(file: _File, folders: list[str], last: str, name: str) -> _Part | None:
    """A file whose owner is told by a folder that Moodle or nbgrader named."""
    for index, folder in enumerate(folders):
        if moodle := _MOODLE.fullmatch(folder):
            inside = folders[index + 1 :]
            inside = inside[inside[:1] == [name] :]
            return _Part(file, PurePosixPath(*inside, last), moodle["student"], "moodle", moodle["number"])
    if name in folders[1:]:
        index = folders.index(name, 1)
        return _Part(file, PurePosixPath(*folders[index + 1 :], last), folders[index - 1], "nbgrader")
    return None


def _named_file(file: _File, last: str) -> _Part | None:
    """A file whose owner is told by the name that a learning management system gave it."""
    if moodle := _MOODLE.fullmatch(last):
        return _Part(file, PurePosixPath(moodle["file"] or last), moodle["student"], "moodle", moodle["number"])
    if attempt := _BLACKBOARD.fullmatch(last):
        day, clock = attempt["time"][:10], attempt["time"][11:].replace("-", ":")
        return _Part(file, PurePosixPath(attempt["file"]), attempt["student"], "blackboard", time=f"{day} {clock} UTC")
    if canvas := _CANVAS.fullmatch(last):
        named = PurePosixPath(_AGAIN.sub("", canvas["file"]))
        upload, late = int(canvas["upload"]), bool(canvas["late"])
        return _Part(file, named, canvas["student"], "canvas", canvas["number"], upload, late)
    return None


def _clean(student: str) -> str:
    """A student's name as the name of a folder and in nbgrader; nothing where none is left."""
    plain = re.sub(r"[^\w.@-]+", "-", unicodedata.normalize("NFC", student)).strip("-.@")
    return plain if len(plain.encode()) <= 100 else f"{plain.encode()[:80].decode(errors='ignore')}-{_digest(student)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


def _students(parts: Iterable[_Part], known: dict[str, dict[str, tuple[str, str]]], name: str) -> dict[Any, str]:
    """The name under submitted/ for each student of a source; no two differ by capitals alone.

    Whom a system's number told before keeps that name. Canvas's numbers hold in all sets, Moodle's in one.
    """
    before = {
        who: student
        for at, known_there in known.items()
        for student, who in known_there.items()
        if at == name or who[0] == "canvas"
    }
    labels = {part.who: _clean(part.student) for part in parts}
    named = {who: before[who] for who in labels if who in before}
    taken = {student.casefold() for student in known.get(name, {})}
    often = Counter(label.casefold() for who, label in labels.items() if who not in named)
    used = {student.casefold() for student in named.values()}
    for who in sorted(labels.keys() - named.keys()):
        student, (system, number) = labels[who], who
        if often[student.casefold()] > 1 or (system and student.casefold() in taken):
            student = f"{student}-{number if system else _digest(number)}"
        if student.casefold() in used:
            student = f"{student}-{_digest(repr(who))}"
        used.add(student.casefold())
        named[who] = student
    return named


# Into submitted/


def _take_in(tree: Path, name: str, notebook: str, own: set[str], submitted: Path) -> dict[str, Submission]:
    """Put what a source holds into submitted/; return what there is to say of each student in it."""
    home, said = tree / "submitted", {}
    with contextlib.ExitStack() as stack:
        parts = _parts(_files(submitted, stack), name, notebook, set(course.set_names(tree)) - {name})
        if not parts:
            raise UserError(
                f"{submitted}: holds no notebook whose student can be told; name it STUDENT.ipynb or STUDENT/{notebook}"
            )
        known = _read_numbers(tree)
        students = _students(parts, known, name)
        told = {student: who for who, student in students.items() if who[0]}
        if told:
            known[name] = known.get(name, {}) | told
            home.mkdir(exist_ok=True)
            _write(home / NUMBERS, json.dumps(known, indent=1, sort_keys=True).encode())
        handed: dict[str, list[_Part]] = {}
        for part in parts:
            handed.setdefault(students[part.who], []).append(part)
        for student in sorted(handed):
            said[student] = submission = Submission(student, home / student / name / notebook)
            try:
                _store(submission, *_contents(handed[student], notebook, own, submission.notes))
            except _RefusedError as error:
                submission.refused = str(error)
                if not submission.path.parent.exists():  # so that the student is not forgotten
                    _replace(submission.path.parent, {notebook: b""})
    return said


def _contents(parts: list[_Part], notebook: str, own: set[str], notes: list[str]) -> tuple[dict[str, bytes], str]:
    """The files of a submission, the notebook among them if there is one, and the time of its hand-in if it is told."""
    latest = max(part.time for part in parts)
    if any(part.time != latest for part in parts):
        notes.append("earlier attempts are left out")
    parts = sorted((part for part in parts if part.time == latest), key=lambda part: (part.upload, part.file.date))
    if any(part.late for part in parts):
        notes.append("Canvas marks it as late, and does not tell by how much")
    notebooks = [part for part in parts if part.name.suffix == ".ipynb"]
    notebooks.sort(key=lambda part: (part.name.name == notebook, -len(part.name.parts)))
    if len(notebooks) > 1:
        notes.append(f"other notebooks are left out: {_listed(part.name for part in notebooks[:-1])}")
    beside, left = {}, []
    folded, above = {}, set()  # names but for capitals: on some file systems these are one
    for part in parts:
        name = part.name
        if name.suffix == ".ipynb" or name.parts[0].casefold() in own:
            continue
        alike = str(name).casefold()
        parents = {str(parent).casefold() for parent in name.parents}
        clashes = folded.get(alike, name) != name or alike in above or any(parent in folded for parent in parents)
        if part.file.unfit or clashes or not _is_plain(name):
            left.append(name)
        else:
            beside[str(name)] = part
            folded[alike] = name
            above |= parents
    if left:
        notes.append(f"files are left out: {_listed(sorted(left))}")
    if len(beside) > MOST_FILES:
        raise _RefusedError(f"has {len(beside)} files beside the notebook; at most {MOST_FILES} are taken")
    if sum(part.file.size for part in beside.values()) > LARGEST:
        _refuse_large()
    contents = {notebook: _read(notebooks[-1])} if notebooks else {}
    room = LARGEST
    for name, part in beside.items():
        contents[name] = _read(part)
        room -= len(contents[name])
        if room < 0:
            _refuse_large()
    told = [part for part in parts if part.system == "nbgrader" and str(part.name) == TIMESTAMP]
    time = _read(told[-1]).decode(errors="replace").strip() if told else latest
    if time and _parsed(time) is None:
        notes.append(f"the time of its hand-in cannot be read: {time}")
        time = ""
    return contents, time


def _read(part: _Part) -> bytes:
    where = part.file.path
    if part.file.unfit:
        raise _RefusedError(f"{where} {part.file.unfit}; hand in the plain file")
    try:
        data = b"" if part.file.size > LARGEST else part.file.read()
    except Exception as error:  # whatever a damaged archive makes the reader raise
        raise _RefusedError(f"{where} cannot be read ({error}); get it once more") from None
    if part.file.size > LARGEST or len(data) > LARGEST:
        raise _RefusedError(f"{where} is larger than {LARGEST // 10**6} MB")
    return data


def _refuse_large() -> NoReturn:
    raise _RefusedError(f"has more than {LARGEST // 10**6} MB of files beside the notebook")


def _is_plain(name: PurePosixPath) -> bool:
    return len(name.parts) <= 8 and all(_PLAIN.fullmatch(part) and part[-1] not in " ." for part in name.parts)


def _store(submission: Submission, contents: dict[str, bytes], time: str) -> None:
    """Put a submission in the place of what stands there, unless that is the same, or was handed in later."""
    folder = submission.path.parent
    if folder.is_symlink() or folder.parent.is_symlink():
        raise _RefusedError("its folder in submitted/ is a link; put the folder itself there")
    stands = {str(file.relative_to(folder)): file for file in _plain_files(folder)} if folder.is_dir() else {}
    stamp = stands.pop(TIMESTAMP, None)
    before = stamp.read_text(encoding="utf8", errors="replace").strip() if stamp else ""
    is_same = stands.keys() == contents.keys() and all(file.read_bytes() == contents[at] for at, file in stands.items())
    if is_same and time in ("", before):
        return
    then, now = (_parsed(text) if text else None for text in (before, time))
    if stands and then and now and now < then:
        submission.notes.append(f"what was handed in at {time} is left out: a later submission is there")
        return
    _replace(folder, contents | ({TIMESTAMP: f"{time}\n".encode()} if time else {}))


def _replace(folder: Path, contents: dict[str, bytes]) -> None:
    """Make a folder of files in the place of another: whenever this is interrupted, `_tidy` finds one of the two."""
    new, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    for name, data in contents.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(data)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _tidy(home: Path, name: str) -> None:
    """End what an interrupted `_replace` left."""
    for new in home.glob(f"*/.{name}.new"):
        shutil.rmtree(new)
    for old in home.glob(f"*/.{name}.old"):
        folder = old.with_name(name)
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    os.replace(new, path)


def _read_numbers(tree: Path) -> dict[str, dict[str, tuple[str, str]]]:
    path = tree / "submitted" / NUMBERS
    try:
        known = json.loads(path.read_text(encoding="utf8"))
        return {
            name: {student: (str(system), str(number)) for student, (system, number) in students.items()}
            for name, students in known.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        raise UserError(f"{path}: is damaged; delete it, and hand in the zip from your system again") from None


# What stands there


def _inspect(submission: Submission, own: set[str], expected: list[str]) -> None:
    """Judge a submission fit to be graded and note what is odd; raise where it is not fit."""
    path = submission.path
    folder = path.parent
    if _TROUBLE.search(submission.student) or not submission.student.isprintable():
        raise _RefusedError("its folder's name has characters that nbgrader cannot take; rename it")
    if folder.is_symlink() or folder.parent.is_symlink():
        raise _RefusedError("its folder in submitted/ is a link; put the folder itself there")
    files = _plain_files(folder)
    if path not in files:
        others = [file.relative_to(folder) for file in files if file.name != TIMESTAMP]
        raise _RefusedError(f"has no {path.name}" + (f", but {_listed(others)}" if others else ""))
    if not 0 < path.stat().st_size <= LARGEST:
        raise _RefusedError(f"{path.name} is empty or larger than {LARGEST // 10**6} MB")
    beside = {file.relative_to(folder).as_posix(): file for file in files if file.suffix != ".ipynb"}
    submission.carried = [
        name for name in sorted(beside) if name.split("/")[0].casefold() not in own and _is_plain(PurePosixPath(name))
    ]
    if len(submission.carried) > MOST_FILES:
        raise _RefusedError(f"has more than {MOST_FILES} files beside the notebook")
    if sum(beside[name].stat().st_size for name in submission.carried) > LARGEST:
        _refuse_large()
    if TIMESTAMP in beside:
        time = beside[TIMESTAMP].read_bytes()[:1000].decode(errors="replace").strip()
        submission.timestamp = _parsed(time) if time else None
        if time and submission.timestamp is None:
            raise _RefusedError(f"{TIMESTAMP} holds no time; write it as 2027-03-01 22:59:00 UTC")
    submission.notes += _oddities(path, expected)


def _plain_files(folder: Path) -> list[Path]:
    """The files of a submission but for hidden ones; raise where something is no plain file, or there are too many."""
    found = []
    for above, folders, files in os.walk(folder):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and name != "__pycache__"]
        for path in (Path(above, name) for name in [*folders, *sorted(files)]):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise _RefusedError(f"holds a link, {path.relative_to(folder)}; put the file itself there")
            if stat.S_ISREG(mode) and not path.name.startswith("."):
                found.append(path)
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise _RefusedError(f"holds {path.relative_to(folder)}, which is no plain file")
        if len(found) > 10 * MOST_FILES:
            raise _RefusedError(f"has more than {MOST_FILES} files beside the notebook")
    return found


def _oddities(path: Path, expected: list[str]) -> list[str]:
    """Read a notebook; say which test cells are missing or repeated; raise where it cannot be graded."""
    with contextlib.suppress(ValueError, RecursionError):  # `read` below says what is wrong
        _check_measures(json.loads(path.read_bytes(), parse_constant=_no_number))
    try:
        cells = execute.read(path).cells
    except UserError as error:
        raise _RefusedError(str(error).removeprefix(f"{path}: ")) from None
    ids = [course.grader_data(cell).get("grade_id") for cell in cells]
    return [
        f"the cell {grade_id!r} " + (f"occurs {ids.count(grade_id)} times" if grade_id in ids else "is missing")
        for grade_id in expected
        if ids.count(grade_id) != 1
    ]


def _check_measures(raw: Any) -> None:
    """Raise where a notebook nests too deep, has too many cells, or a number that no other program reads."""
    if isinstance(raw, dict) and isinstance(raw.get("cells"), list) and len(raw["cells"]) > MOST_CELLS:
        raise _RefusedError(f"has more than {MOST_CELLS} cells")
    level, depth = [raw], 0
    while level:
        depth += 1
        if depth > MOST_LEVELS:
            raise _RefusedError(f"is nested deeper than {MOST_LEVELS} levels; save it again from JupyterLab")
        inside = []
        for item in level:
            if isinstance(item, dict):
                inside += item.values()
            elif isinstance(item, list):
                inside += item
            elif isinstance(item, float) and not math.isfinite(item):
                _no_number(str(item))
        level = inside


def _no_number(token: str) -> NoReturn:
    raise _RefusedError(f"is not JSON: it holds the number {token}; save it again from JupyterLab")


def _parsed(time: str) -> datetime | None:
    """A time as nbgrader reads it, in UTC; None where it cannot."""
    from nbgrader.utils import parse_utc

    try:
        return parse_utc(time)
    except Exception:  # dateutil raises errors of many types for text that is no time
        return None


def _listed(names: Iterable[object]) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _line(text: object) -> str:
    """Text as one line of characters that can be shown."""
    line = "".join(character if character.isprintable() else "?" for character in str(text)[:2000])
    return line if len(line) <= 300 else f"{line[:297]}..."
