"""A class graded: submissions restored, run by workers, judged, recorded, and told what they earned.

The coordinator alone touches the gradebook, the solutions and the submissions. A submission travels to a worker as
bytes and comes back as bytes; its answers are judged in a process that never runs a student's code. What was graded
carries the hash of everything that its grade depends on: a run that is interrupted, or killed, goes on from there.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import json
import operator
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from rnn2rag import checks, course, execute
from rnn2rag.errors import UserError
from rnn2rag.grading import exports, feedback, forbidden, gradebook, lateness, report, split, worker
from rnn2rag.grading.fleet import Fleet
from rnn2rag.grading.intake import Submission
from rnn2rag.grading.results import Result

if TYPE_CHECKING:
    from nbformat import NotebookNode

_FOLDER = "rnn2rag-r"
OURS = feedback.JUDGED  # where a graded notebook's metadata keeps what is ours
NOT_RUN = "the kernel ended before this cell"
WRONG, RIGHT = -1, -2  # the numbers of two jobs of our own: a wrong answer that must lose, a right one that must win


def grade(
    tree: Path,
    name: str,
    submissions: Sequence[Submission],
    jobs: int = 1,
    scheduler: str | None = None,
    only: Collection[str] = (),
    again: bool = False,
    mode: str = "bubblewrap",
    done: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Grade submissions of a problem set into gradebook.db; write feedback pages, the class report, and the exports.

    jobs: how many run at a time here. scheduler: the address of a Dask scheduler whose workers run them instead. only:
    students; the others are not run, but stand in the report and the exports as they were graded before. again: grade
    those too that have not changed. mode: the sandbox. done: called with each result as it is made. Results come in the
    order of submissions. Raises UserError where nothing can be graded.
    """
    from nbgrader.api import InvalidEntry
    from sqlalchemy.exc import SQLAlchemyError

    if scheduler is None:
        execute.sandbox.check(mode, [tree])
    jobs = 1 if mode == "user" else jobs  # all kernels of a container are of one user
    try:
        with _own_folder(), _Run(tree, name, submissions, mode, Fleet(jobs, scheduler), done) as run:
            run.grade(only, again)
            run.publish()
    except (OSError, SQLAlchemyError, InvalidEntry) as error:
        reason = " ".join(str(error).splitlines()[:1])
        raise UserError(f"{tree}: cannot be written ({reason}); make room, then run the same command again") from None
    return [result for result in run.results if result and (not only or result.student in only)]


class _Run:
    """One run of the coordinator; use it as a context manager."""

    def __init__(
        self,
        tree: Path,
        name: str,
        submissions: Sequence[Submission],
        mode: str,
        fleet: Fleet,
        done: Callable[[Result], None] | None,
    ) -> None:
        self.tree, self.name, self.submissions, self.mode, self.fleet = tree, name, submissions, mode, fleet
        self.done = done or (lambda result: None)
        self.results: list[Result | None] = [None] * len(submissions)
        self._restored: dict[int, NotebookNode] = {}  # those that are with the workers
        self._stack = contextlib.ExitStack()
        self.judge: split.Judge | None = None

    def __enter__(self) -> _Run:
        self.source = gradebook.set_notebook(self.tree, self.name)
        self.key = gradebook.release_key(self.tree)
        self.common = self._common_hash()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def grade(self, only: Collection[str], again: bool) -> None:
        """Take over what a run before has graded and nothing has changed; let workers run the rest."""
        is_chosen = [not only or submission.student in only for submission in self.submissions]
        changed = [
            not submission.refused and (again and chosen or not self._is_graded(submission))
            for submission, chosen in zip(self.submissions, is_chosen, strict=True)
        ]
        if any(map(operator.and_, changed, is_chosen)):
            self._start()  # it warms up while the gradebook is made ready
        self.book = self._stack.enter_context(gradebook.Book(self.tree, self.name))
        with self.book.transaction() as database:
            lateness.apply_dates(database, self.name, self.book.config)
        waiting = []
        for index, submission in enumerate(self.submissions):
            if submission.refused:
                result = Result(submission.student, refused=submission.refused, notes=submission.notes)
            else:
                result = None if changed[index] else self._kept(submission)
            if not is_chosen[index]:
                self.results[index] = result
            elif result is None:
                waiting.append(index)
            else:
                self._finished(index, result)
        if waiting:
            self._start()
            self._grade(waiting)

    def _start(self) -> None:
        """Start the workers, and the process that judges."""
        if self.judge is None:
            cells = [cell for cell in execute.read(self.source).cells if cell.cell_type == "code"]
            imports = split.imports([cell.source for cell in cells if not course.grader_data(cell)])
            self.optimizers = any("optim" in cell.source for cell in cells)
            self.skipped = {course.grader_data(cell)["grade_id"] for cell in cells if _is_for_the_eye(cell)}
            self.judge = self._stack.enter_context(split.Judge(imports, self.key))
            self._stack.enter_context(self.fleet)
            self.fleet.warm(self.mode, self.optimizers)

    def _grade(self, waiting: Sequence[int]) -> None:
        """Let workers run what waits; record each that comes back, once our own two answers earned what they must."""
        gc.collect()
        gc.freeze()  # what stands until the end is not looked through again and again
        self._stack.callback(gc.unfreeze)
        held: list[tuple[int, bytes | Exception]] = []
        tried: set[int] = set()
        for index, outcome in self.fleet.run(self._jobs(waiting)):
            if index in (WRONG, RIGHT):
                self._try_out(index, outcome)
                tried.add(index)
            else:
                held.append((index, outcome))
            while len(tried) == 2 and held:
                self._take(*held.pop(0))

    def publish(self) -> None:
        """Write the exports and the class report."""
        results = [result for result in self.results if result]
        exports.write(self.tree, self.name, results)
        graded = (
            (submission.student, execute.read(self._graded_path(submission)))
            for submission, result in zip(self.submissions, self.results, strict=True)
            if result and not result.refused
        )
        _write(self.tree / "reports" / f"{self.name}.html", report.page(self.tree, self.name, results, graded))

    # One submission on its way

    def _jobs(self, waiting: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for index, answers in ((WRONG, _wrong_answers(self.source)), (RIGHT, _right_answers(self.source))):
            self._restored[index] = self.book.restore(self._answered(answers))
            yield index, self._job(self._restored[index], {})
        for index in waiting:
            submission = self.submissions[index]
            try:
                notebook = self.book.restore(execute.read(submission.path))
                files = submission.files
            except (UserError, OSError) as error:
                self._finished(index, Result(submission.student, refused=str(error), notes=submission.notes))
                continue
            self._restored[index] = notebook
            yield index, self._job(notebook, files)

    def _job(self, notebook: NotebookNode, files: dict[str, bytes]) -> bytes:
        """A submission as it may run: each test cell is its probe half, with its problem's seed."""
        cells = []
        for cell in notebook.cells:
            # With tags of their own students could have a test skipped, or expected to raise.
            tags = [execute.SKIPPED] if course.grader_data(cell).get("grade_id") in self.skipped else []
            cells.append({**cell, "metadata": {**cell.metadata, "tags": tags}})
            parts = split.halves(cell.source) if worker.is_test(cell) else None
            if parts:
                cells[-1]["source"] = f"__seed__ = {checks.seed_of(parts.problem, self.key)}\n{parts.probe}"
        text = json.dumps({**notebook, "cells": cells})
        built = (re.sub(r"^\d+-", "", self.name).replace("-", "_"),)
        return worker.packed(worker.Job(text, files, self.mode, built, self.optimizers, worker.CELL_TIMEOUT))

    def _take(self, index: int, outcome: bytes | Exception) -> None:
        """Judge and record what a worker brought back; whatever it is, it makes one result."""
        from nbgrader.api import InvalidEntry
        from sqlalchemy.exc import SQLAlchemyError

        submission, notebook = self.submissions[index], self._restored.pop(index)
        result = Result(submission.student, notes=submission.notes)
        try:
            if isinstance(outcome, Exception):
                raise UserError(f"could not be run ({' '.join(repr(outcome).split())[:300]}); grade again")
            result = self._recorded(submission, notebook, worker.unpacked(outcome))
        except UserError as error:
            result.refused = str(error)
        except (OSError, SQLAlchemyError, InvalidEntry):  # no room
            raise
        except Exception as error:  # what a submission made of itself
            result.refused = " ".join(f"what came of its run cannot be kept ({error!r})".split())[:500]
        self._finished(index, result)

    def _recorded(self, submission: Submission, notebook: NotebookNode, came: worker.Outcome) -> Result:
        """Judge a submission that was run, write its scores, its page and its notebook; return its result."""
        self._judge(notebook, came)
        notebook = self.book.record(submission.student, notebook, submission.timestamp)
        notes = [f"stopped: {came.error}"] if came.error else []
        for cell in worker.cell_scores(notebook):
            notes += [f"{cell.grade_id}: {cell.note}"] if cell.note else []
            notes += [f"{cell.grade_id}: the test itself failed: {fault}" for fault in cell.faults]
        notebook.metadata[OURS] = {
            "hash": self._hash(submission),
            "sandbox": self.mode,
            "seconds": round(came.seconds, 3),
            "cpu_seconds": round(came.cpu_seconds, 3),
            "peak_memory": came.peak_memory,
            "notes": [" ".join(note.split()) for note in notes],
        }
        result = self._result(submission, notebook)
        for name, content in submission.files.items():
            _write(self._graded_path(submission).parent / name, content)
        _write_notebook(self._graded_path(submission), notebook)  # the last: from here on it is graded
        return result

    def _judge(self, notebook: NotebookNode, came: worker.Outcome) -> None:
        """Give a notebook the outputs of its run, and each split test cell the score that its values deserve.

        Of what a student's process showed in such a cell only text and errors are kept: a result or a report of its own
        making counts for nothing. A cell that never ran earns nothing. What a problem forbids is looked for in the
        source, too.
        """
        import nbformat

        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        look = forbidden.Look()
        for cell, (outputs, count) in zip(code, came.outputs, strict=True):
            cell.outputs, cell.execution_count = nbformat.from_dict(outputs), count
            parts = split.halves(cell.source) if worker.is_test(cell) else None
            if parts:
                values = _values(cell, parts.probes)
                used = look.used(parts.probe, parts.forbids)
                if used:
                    values = {
                        probe: {"error": f"{used} is not allowed in this problem: write it yourself."}
                        for probe in parts.probes
                    }
                score = self.judge.score(parts, values)
                kept = [output for output in cell.outputs if output.output_type in ("stream", "error")]
                cell.outputs = [*kept, *_score_outputs(score, count)]
            elif worker.is_test(cell) and count is None:
                cell.outputs = [_output("error", ename="NotRun", evalue=NOT_RUN, traceback=[f"NotRun: {NOT_RUN}"])]
            if not worker.is_test(cell):
                look.ran(cell.source)
        if not _is_sound(notebook):
            for cell in code:
                if not worker.is_test(cell):
                    cell.outputs = []
        if not _is_sound(notebook):
            raise UserError("its outputs are no outputs of a notebook")

    def _result(self, submission: Submission, notebook: NotebookNode) -> Result:
        """The result of a submission that is in the gradebook; its page is written with what people gave by now."""
        scores, ours = self.book.scores(submission.student), notebook.metadata[OURS]
        result = Result(
            submission.student,
            scores.points,
            scores.possible,
            scores.manual,
            notes=[*submission.notes, *ours["notes"]],
            cells=worker.cell_scores(notebook),
            late=scores.late,
            penalty=scores.penalty,
            sandbox=ours["sandbox"],
            seconds=ours["seconds"],
        )
        self._write_page(submission, notebook, result, scores.reviews)
        return result

    def _is_graded(self, submission: Submission) -> bool:
        """Whether a run before has graded it, and nothing that its grade depends on has changed."""
        try:
            data = json.loads(self._graded_path(submission).read_bytes())
            return data["metadata"][OURS]["hash"] == self._hash(submission)
        except (OSError, ValueError, LookupError, TypeError):
            return False

    def _kept(self, submission: Submission) -> Result | None:
        """The result of a run before; None where the gradebook does not have it any more."""
        if self.book.scores(submission.student) is None:
            return None
        notebook = execute.read(self._graded_path(submission))
        result = self._result(submission, notebook)
        result.kept = True
        return result

    def _finished(self, index: int, result: Result) -> None:
        if result.refused:
            self._write_page(self.submissions[index], None, result, {})
        self.results[index] = result
        self.done(result)

    # Our own two answers

    def _answered(self, answers: Mapping[str, str]) -> NotebookNode:
        """The released set with an answer to each problem."""
        notebook = execute.read(self.tree / "exercises" / self.name / self.source.name)
        for cell in notebook.cells:
            cell.source = answers.get(course.grader_data(cell).get("grade_id"), cell.source)
        return notebook

    def _try_out(self, index: int, outcome: bytes | Exception) -> None:
        """Raise UserError when a wrong answer earned full marks, a right one less, or neither can be run."""
        if isinstance(outcome, Exception):
            raise UserError(f"not even the set's own answers can be run, so nothing is graded: {outcome}")
        notebook = self._restored.pop(index)
        self._judge(notebook, worker.unpacked(outcome))
        totals: dict[str, list[float]] = {}
        for cell, score in zip(filter(worker.is_test, notebook.cells), worker.cell_scores(notebook), strict=True):
            parts = split.halves(cell.source)
            sums = totals.setdefault(parts.problem if parts else score.grade_id, [0.0, 0.0])
            sums[0], sums[1] = sums[0] + score.points, sums[1] + score.possible
        for problem, (points, possible) in totals.items():
            earned = f"{points:g} of {possible:g} points for {problem!r}, so nothing is graded; run `rnn2rag prove`"
            if index == WRONG and points >= possible > 0:
                raise UserError(f"a wrong answer of ours earns {earned}")
            if index == RIGHT and points < possible:
                raise UserError(f"the set's own solution earns {earned}")

    # Where things are, and what a grade depends on

    def _graded_path(self, submission: Submission) -> Path:
        return self.tree / "autograded" / submission.student / self.name / self.source.name

    def _page_path(self, submission: Submission) -> Path:
        return self.tree / "feedback" / submission.student / self.name / self.source.with_suffix(".html").name

    def _write_page(
        self, submission: Submission, notebook: NotebookNode | None, result: Result, reviews: Mapping[str, Any]
    ) -> None:
        path = self._page_path(submission)
        _write(path, feedback.page(self.tree, self.name, notebook, result, reviews))
        for name in ("timestamp.txt", "submission_secret.txt"):  # nbgrader's exchange wants them beside the page
            if (submission.path.parent / name).is_file():
                shutil.copy(submission.path.parent / name, path.parent)
        result.feedback = path.relative_to(self.tree).as_posix()

    def _common_hash(self) -> str:
        """The hash of what all grades of the run depend on: the set, the key, the configuration, the grader itself."""
        package = Path(course.__file__).parent
        code = [
            package / "checks.py",
            *sorted((package / "execute").glob("*.py")),
            *sorted(Path(__file__).parent.glob("*.py")),
        ]
        parts = [path.read_bytes() for path in (self.source, self.tree / "nbgrader_config.py", *code)]
        versions = [importlib.metadata.version(name) for name in ("torch", "numpy", "nbgrader", "ipykernel")]
        return _digest(*parts, self.key.encode(), self.mode.encode(), *(version.encode() for version in versions))

    def _hash(self, submission: Submission) -> str:
        files = [part for name, data in sorted(submission.files.items()) for part in (name.encode(), data)]
        when = str(submission.timestamp).encode()
        return _digest(self.common.encode(), submission.path.read_bytes(), when, *files)


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """Let this run and what it starts keep temporary files in one folder; take away those of runs that were killed."""
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    top = Path(tempfile.gettempdir())
    for folder in top.glob(f"{_FOLDER}*-*"):
        owner = folder.name.removeprefix(_FOLDER).partition("-")[0]
        with contextlib.suppress(OSError, ValueError):
            if folder.stat().st_uid == os.geteuid() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)
    own = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=top)
    tempfile.tempdir = os.environ["TMPDIR"] = own
    try:
        yield
    finally:
        tempfile.tempdir = before[0]
        os.environ.pop("TMPDIR")
        if before[1] is not None:
            os.environ["TMPDIR"] = before[1]
        shutil.rmtree(own, ignore_errors=True)


def _is_for_the_eye(cell: NotebookNode) -> bool:
    """Whether a cell of the set only shows something, a figure to read: no grade depends on it."""
    data = course.grader_data(cell)
    is_tagged = execute.SKIPPED in cell.metadata.get("tags", ())
    return is_tagged and bool(data.get("locked")) and not data.get("grade") and not data.get("solution")


def _is_sound(notebook: NotebookNode) -> bool:
    """Whether a notebook, whose outputs a submission made, can be written and read again."""
    import nbformat

    try:
        nbformat.validate(notebook)
        json.dumps(notebook, ensure_ascii=False).encode("utf8")
    except (nbformat.ValidationError, ValueError, TypeError, RecursionError):
        return False
    return True


def _values(cell: NotebookNode, probes: Sequence[str]) -> dict[str, Any]:
    """What the probes of a cell sent; nothing where they sent it not exactly once."""
    sent = [output.data[checks.VALUES_MIME] for output in cell.outputs if checks.VALUES_MIME in output.get("data", {})]
    return checks.received(sent[0], probes) if len(sent) == 1 else {}


def _score_outputs(score: dict[str, Any], count: int | None) -> list[NotebookNode]:
    points = {"text/plain": repr(float(score[checks.SCORE_MIME]["points"]))}
    return [_output("display_data", data=score), _output("execute_result", data=points, execution_count=count)]


def _output(kind: str, **content: Any) -> NotebookNode:
    """An output of a cell; the notebook is validated as a whole."""
    import nbformat

    metadata = {} if kind == "error" else {"metadata": {}}
    return nbformat.from_dict({"output_type": kind, **metadata, **content})


def _right_answers(source: Path) -> dict[str, str]:
    """The solutions of a set, by grade id."""
    cells = {course.grader_data(cell).get("grade_id"): cell for cell in execute.read(source).cells}
    return {name: cell.source for name, cell in cells.items() if course.grader_data(cell).get("solution")}


def _wrong_answers(source: Path) -> dict[str, str]:
    """The first wrong answer that is planted for each problem of a set, by grade id."""
    planted = source.with_name("misconceptions.py")
    text = planted.read_text(encoding="utf8") if planted.exists() else ""
    solutions = _right_answers(source)
    found: dict[str, str] = {}
    for node in ast.parse(text).body:
        for decorator in getattr(node, "decorator_list", ()):
            match decorator:
                case ast.Call(ast.Name("wrong"), [ast.Constant(str(problem)), *_]) if problem not in found:
                    answer = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
                    defined = re.search(r"^(?:def|class) (\w+)", solutions.get(problem, ""), re.M)
                    found[problem] = re.sub(rf"\b{node.name}\b", defined[1], answer) if defined else answer
    return found


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _write_notebook(path: Path, notebook: NotebookNode) -> None:
    import nbformat

    _write(path, nbformat.v4.writes(notebook))


def _write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content.encode("utf8") if isinstance(content, str) else content)
    os.replace(new, path)
