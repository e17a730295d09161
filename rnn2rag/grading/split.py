"""A test cell in two halves that run in two processes.

The probe half goes to the student's kernel: the probes, the run's seed, no verdict. The verdict half runs in a process
that never runs a student's code; it is given the values that came back as data, and returns the score. What a student
patches, replaces or prints in the first process reaches nothing in the second.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rnn2rag import checks
from rnn2rag.errors import UserError

PATIENCE = 120  # seconds that the verdicts of a test cell may take


@dataclass(frozen=True)
class Halves:
    """The two halves of a test cell as source.

    problem: the problem's name. variable: the name that the cell gives to its `checks.Problem`. The probe half asks for
    the problem's seed by the name `__seed__`. forbids: what the problem forbids. probes: the names of its probes.
    """

    problem: str
    variable: str
    probe: str
    verdict: str
    forbids: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()


@functools.lru_cache(256)  # the test cells of a set, the same for every submission
def halves(source: str) -> Halves | None:
    """Split a test cell by its decorators; None for a cell that does not have the form of a `checks.Problem`.

    The form: `NAME = checks.Problem("problem", ...)`, functions decorated by `NAME.probe` and `NAME.verdict(...)`, what
    both halves need, and `NAME.score()` as the last line.
    """
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return None
    variable = _scored(body[-1]) if body else None
    problem = next((name for name in (_problem(node, variable) for node in body) if name), None)
    if variable is None or problem is None:
        return None
    probe, verdict, forbids, names = [], [], [], []
    for node in body[:-1]:
        half = _half(node, variable)
        if half != "verdict":
            probe.append(_with_seed(node) if _problem(node, variable) else node)
        if _problem(node, variable):
            forbids = _forbids(node)
        if half == "probe":
            names.append(node.name)
            verdict += ast.parse(f"def {node.name}(): pass").body  # verdicts name their probe
        else:
            verdict.append(node)
    probe += ast.parse(f"{variable}.send()").body
    return Halves(problem, variable, _unparsed(probe), _unparsed(verdict), tuple(forbids), tuple(names))


def imports(sources: list[str]) -> str:
    """Return the import statements of a problem set's own code cells, for the verdicts' names."""
    nodes = [node for source in sources for node in ast.parse(source).body]
    return _unparsed([node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))])


class Judge:
    """A process that runs verdicts, warm: one for a whole class. Use it as a context manager.

    imports: the import statements of the problem set, for the verdicts' names. key: the release key.
    """

    def __init__(self, imports: str, key: str) -> None:
        self._imports = imports
        self._key = key

    def __enter__(self) -> Judge:
        self._start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def score(self, parts: Halves, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mime bundle of a test cell's score for the values that its probes sent (see `checks.Score`).

        Raises UserError when the verdict half itself cannot run: a fault of the problem set.
        """
        answer = self._ask({"verdict": parts.verdict, "variable": parts.variable, "values": dict(values)})
        if "fault" in answer:
            raise UserError(f"the test of {parts.problem!r} cannot be run: {answer['fault']}")
        return answer

    def _start(self) -> None:
        command = [sys.executable, "-m", "rnn2rag.grading.split"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._send({"imports": self._imports, "key": self._key})
        self._greeted = False

    def _restart(self) -> None:
        self._process.kill()
        self._process.wait()
        self._start()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        for _ in range(3):  # someone may kill it
            try:
                if not self._greeted:
                    self._receive()
                    self._greeted = True
                self._send(request)
                return self._receive()
            except (OSError, json.JSONDecodeError):
                self._restart()
        raise UserError("the process that judges the answers ends again and again: free some memory and grade again")

    def _send(self, request: dict[str, Any]) -> None:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self._restart()
            return {"fault": f"its verdicts take longer than {PATIENCE} s"}
        return json.loads(self._process.stdout.readline())


def _scored(node: ast.stmt | None) -> str | None:
    """The name in `NAME.score()`."""
    match node:
        case ast.Expr(ast.Call(ast.Attribute(ast.Name(name), "score"), [], [])):
            return name
    return None


def _half(node: ast.stmt, variable: str) -> str | None:
    """To which half a decorated function belongs: "probe", "verdict", or None for what both need."""
    if isinstance(node, ast.FunctionDef):
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            match called:
                case ast.Attribute(ast.Name(name), "probe" | "verdict" as half) if name == variable:
                    return half
    return None


def _problem(node: ast.stmt, variable: str | None) -> str | None:
    """The problem's name in `NAME = checks.Problem("problem", ...)`."""
    match node:
        case ast.Assign([ast.Name(name)], ast.Call(ast.Attribute(_, "Problem"), [ast.Constant(str(problem)), *_])):
            return problem if name == variable else None
    return None


def _forbids(node: ast.Assign) -> list[str]:
    """The names in `checks.Problem(..., forbids=[...])`."""
    for keyword in node.value.keywords:
        if keyword.arg == "forbids":
            return [str(name) for name in ast.literal_eval(keyword.value)]
    return []


def _with_seed(node: ast.Assign) -> ast.Assign:
    """`checks.Problem(...)` with the seed that is given, not drawn."""
    call = node.value
    seed = ast.keyword("seed", ast.Name("__seed__", ast.Load()))
    return ast.Assign(node.targets, ast.Call(call.func, call.args, [*call.keywords, seed]))


def _unparsed(nodes: list[ast.stmt]) -> str:
    return ast.unparse(ast.fix_missing_locations(ast.Module(nodes, [])))


def _serve() -> None:
    """The process of a `Judge`: first what is common to all, then one line of JSON a test cell, and one line back."""
    answers = sys.stdout
    with open(os.devnull, "w", encoding="utf8") as nowhere, contextlib.redirect_stdout(nowhere):
        common = json.loads(sys.stdin.readline())
        os.environ[checks.RELEASE_KEY] = common["key"]
        names: dict[str, Any] = {}
        exec(common["imports"], names)  # noqa: S102 (the instructor's own cells)
        compiled = functools.lru_cache(256)(lambda source: compile(source, "<verdict>", "exec"))
        print("{}", file=answers, flush=True)
        for line in sys.stdin:
            try:
                request = json.loads(line)
                cell = dict(names)
                exec(compiled(request["verdict"]), cell)  # noqa: S102
                answer = cell[request["variable"]].judge(request["values"])._repr_mimebundle_()
            except Exception as error:
                answer = {"fault": repr(error)}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
