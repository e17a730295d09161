"""Proofs of a problem set: planted answers take the student's place, and each must earn what it deserves.

`solutions/NN-name/misconceptions.py` plants them with `wrong`, `right` and `forbidden`. The reference solution must
earn full marks and pass nbgrader's Validate in the released notebook, the blank release nothing, a wrong answer less
than full marks with a message of its own, a differently written right answer full marks, a forbidden call what the
problem states; all of that for several seeds of the tests' inputs.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import inspect
import io
import json
import re
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag import checks, course, execute
from rnn2rag.authoring import editions
from rnn2rag.errors import UserError
from rnn2rag.grading import split, worker

if TYPE_CHECKING:
    from nbformat import NotebookNode

SEEDS = 3
LEAST_WRONG, LEAST_RIGHT = 3, 2

_planted: list[Planted] = []


@dataclass
class Planted:
    """An answer put into the student's place.

    problem: the grade id of the problem's solution cell. kind: "wrong", "right", "forbidden", "reference" or "blank".
    source: the cell's code. says: what the message of a wrong answer contains. points: what a forbidden one earns.
    """

    problem: str
    name: str
    kind: str
    source: str
    says: str = ""
    points: float = 0.0


@dataclass
class Proof:
    """What a planted answer earned: over all seeds the least and the most points, its messages, and what is amiss."""

    problem: str
    name: str
    kind: str
    least: float
    most: float
    possible: float
    seconds: float
    messages: list[str] = field(default_factory=list)
    amiss: list[str] = field(default_factory=list)


def wrong(problem: str, says: str) -> Callable[[Any], Any]:
    """Plant a wrong answer: it must lose points on every seed and draw a message that contains `says`; no other may."""
    return _plant(problem, "wrong", says=says)


def right(problem: str) -> Callable[[Any], Any]:
    """Plant a right answer, written differently from the reference: it must earn full marks on every seed."""
    return _plant(problem, "right")


def forbidden(problem: str, points: float) -> Callable[[Any], Any]:
    """Plant an answer that uses what the problem forbids: it must earn exactly the points that the problem states."""
    return _plant(problem, "forbidden", points=points)


def prove(root: Path, name: str, jobs: int, done: Callable[[Proof], None] | None = None) -> list[Proof]:
    """Prove one problem set; `done` is called with each proof as it is made.

    Raises UserError where the set cannot be proved at all: too few planted answers, or one for an unknown problem.
    """
    folder = course.set_folder(root, name)
    source = next(folder.glob("*.md"))
    reference = editions.read(source)
    released = execute.read(root / "exercises" / name / source.with_suffix(".ipynb").name)
    answers = _answers(folder, reference, released)
    tasks = [
        execute.Task(_with_answer(reference, a), cell_timeout=worker.CELL_TIMEOUT, allow_errors=True) for a in answers
    ]
    proofs: list[Proof] = []

    def add(proof: Proof) -> None:
        proofs.append(proof)
        if done:
            done(proof)

    execute.run_all(tasks, jobs, lambda index, run: add(_judge(answers[index], run, reference)))
    _compare(answers, proofs)
    add(_validate(root, released, reference))
    return proofs


def as_json(proofs: list[Proof]) -> str:
    """Return proofs as JSON."""
    return json.dumps([asdict(proof) for proof in proofs], indent=1)


def _plant(problem: str, kind: str, says: str = "", points: float = 0.0) -> Callable[[Any], Any]:
    def plant(answer: Any) -> Any:
        lines = textwrap.dedent(inspect.getsource(answer)).splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith(("def ", "class ")))
        _planted.append(Planted(problem, answer.__name__, kind, "\n".join(lines[start:]), says, points))
        return answer

    return plant


def _answers(folder: Path, reference: NotebookNode, released: NotebookNode) -> list[Planted]:
    """Every answer to be proved: the planted ones, and the reference and the blank of each problem."""
    planted = _load(folder / "misconceptions.py")
    problems = _solutions(reference)
    blanks = _solutions(released)
    for cell in filter(worker.is_test, reference.cells):
        if _tested(cell) not in problems:
            form = '`problem = checks.Problem("..."), ..., problem.score()`'
            raise UserError(
                f"{folder}: the test {cell.metadata.nbgrader.grade_id!r} is for no problem; "
                f"its form is {form}, with the grade id of a solution cell"
            )
    for answer in planted:
        if answer.problem not in problems:
            known = ", ".join(problems)
            raise UserError(f"{folder}/misconceptions.py: {answer.name} is for {answer.problem!r}; there are {known}")
        expected = _defined(problems[answer.problem].source)
        answer.source = re.sub(rf"\b{answer.name}\b", expected, answer.source)
    answers = []
    for problem in problems:
        mine = [answer for answer in planted if answer.problem == problem]
        for kind, least in (("wrong", LEAST_WRONG), ("right", LEAST_RIGHT)):
            count = sum(answer.kind == kind for answer in mine)
            if count < least:
                raise UserError(f"{folder}/misconceptions.py: {problem} has {count} {kind} answers; plant {least}")
        if _forbids(reference, problem) and not any(answer.kind == "forbidden" for answer in mine):
            raise UserError(f"{folder}/misconceptions.py: {problem} forbids something; plant an answer that uses it")
        if problem not in blanks:
            raise UserError(f"exercises/{folder.name}: does not have {problem} yet; run `make exercises`")
        solution = problems[problem].source
        answers.append(Planted(problem, "reference", "reference", _unmarked(solution)))
        answers.append(Planted(problem, "blank release", "blank", blanks[problem].source))
        answers += mine
    return answers


def _load(path: Path) -> list[Planted]:
    if not path.exists():
        raise UserError(f"{path}: is missing; it plants the wrong and the right answers that prove the set")
    _planted.clear()
    spec = importlib.util.spec_from_file_location(f"misconceptions_{path.parent.name.replace('-', '_')}", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return list(_planted)


def _solutions(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """The solution cells by problem."""
    found = {}
    for cell in notebook.cells:
        data = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and data.get("solution") and not data.get("grade"):
            found[data.grade_id] = cell
    return found


def _tests(notebook: NotebookNode, problem: str) -> list[NotebookNode]:
    """The test cells of a problem, which name it: `checks.Problem("problem")`."""
    return [cell for cell in notebook.cells if worker.is_test(cell) and _tested(cell) == problem]


def _tested(cell: NotebookNode) -> str | None:
    """The problem that a test cell is for."""
    parts = split.halves(cell.source)
    return parts.problem if parts else None


def _forbids(notebook: NotebookNode, problem: str) -> bool:
    return any("forbids=" in cell.source for cell in _tests(notebook, problem))


def _defined(source: str) -> str:
    """The name of the first function or class that a solution cell defines. Raises UserError where there is none."""
    names = [n.name for n in ast.parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    if not names:
        raise UserError(f"a solution cell defines no function or class to be proved: {source.splitlines()[0]!r}")
    return names[0]


def _unmarked(source: str) -> str:
    return "\n".join(line for line in source.splitlines() if not any(mark in line for mark in course.MARKS))


def _with_answer(reference: NotebookNode, answer: Planted) -> NotebookNode:
    """The notebook with one answer in place, and the tests of its problem once for each seed."""
    from nbformat.v4 import new_code_cell

    notebook = copy.deepcopy(reference)
    _solutions(notebook)[answer.problem].source = answer.source
    tests = _tests(notebook, answer.problem)
    notebook.cells = [cell for cell in notebook.cells if not course.grader_data(cell).get("grade")]
    for seed in range(SEEDS):
        notebook.cells.append(new_code_cell(f"import os\nos.environ[{checks.RELEASE_KEY!r}] = 'proof {seed}'"))
        for cell in copy.deepcopy(tests):
            cell.id = f"seed-{seed}-{cell.id}"
            notebook.cells.append(cell)
    return notebook


def _judge(answer: Planted, run: execute.Run, reference: NotebookNode) -> Proof:
    scores = worker.cell_scores(run.notebook)
    tests = _tests(reference, answer.problem)
    possible = sum(float(cell.metadata.nbgrader.points) for cell in tests)
    totals = [
        sum(score.points for score in scores[seed * len(tests) : (seed + 1) * len(tests)]) for seed in range(SEEDS)
    ]
    proof = Proof(answer.problem, answer.name, answer.kind, min(totals), max(totals), possible, run.wall_seconds)
    proof.messages = sorted({rung["message"] for score in scores for rung in score.rungs if rung["message"]})
    proof.amiss = [run.error] if run.error else []
    for score in scores:
        proof.amiss += [f"{score.grade_id}: {fault}" for fault in score.faults]
        if score.note:
            proof.amiss.append(f"{score.grade_id}: {score.note}")
        if score.rungs and sum(rung["possible"] for rung in score.rungs) != score.possible:
            proof.amiss.append(f"{score.grade_id}: its rungs do not sum to its {score.possible:g} points")
        if score.rungs and sum(rung["points"] for rung in score.rungs) != score.points:
            proof.amiss.append(f"{score.grade_id}: its result is not the sum of its rungs")
    deserved = {"reference": possible, "right": possible, "blank": 0.0, "forbidden": answer.points}
    if answer.kind in deserved and {proof.least, proof.most} != {deserved[answer.kind]}:
        proof.amiss.append(f"earns {proof.least:g} to {proof.most:g} points, deserves {deserved[answer.kind]:g}")
    if answer.kind == "forbidden" and not any("is not allowed" in message for message in proof.messages):
        proof.amiss.append(f"is not caught using what is forbidden; the messages are {proof.messages}")
    if answer.kind == "wrong" and proof.most >= possible:
        proof.amiss.append("earns full marks on a seed")
    if answer.kind == "wrong" and not any(answer.says in message for message in proof.messages):
        proof.amiss.append(f"draws no message that says {answer.says!r}")
    return proof


def _compare(answers: list[Planted], proofs: list[Proof]) -> None:
    """No answer may draw the message of another."""
    for answer in answers:
        for proof in proofs:
            same = proof.problem == answer.problem and proof.name == answer.name
            if answer.kind == "wrong" and proof.problem == answer.problem and not same:
                if any(answer.says in message for message in proof.messages):
                    proof.amiss.append(f"draws the message of {answer.name}: {answer.says!r}")


def _validate(root: Path, released: NotebookNode, reference: NotebookNode) -> Proof:
    """The released notebook with the reference solutions filled in, under nbgrader's Validate."""
    import nbformat
    from nbgrader.validator import Validator

    answers = {course.grader_data(cell).get("grade_id"): cell.source for cell in reference.cells}
    for cell in released.cells:
        if course.grader_data(cell).get("solution"):
            cell.source = _unmarked(answers[cell.metadata.nbgrader.grade_id])
    start = time.perf_counter()
    validator = Validator(config=course.nbgrader_config(root))
    validator.stream = said = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="rnn2rag-validate-") as folder:
        filled = Path(folder, "filled.ipynb")
        nbformat.write(released, filled)
        validator.validate_and_print(str(filled))
    proof = Proof("(all)", "Validate", "reference", 0.0, 0.0, 0.0, time.perf_counter() - start)
    if "Success" not in said.getvalue():
        proof.amiss.append(f"nbgrader's Validate says: {said.getvalue().strip()}")
    return proof
