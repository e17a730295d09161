"""What a problem forbids, looked for in the source of a submission: a best effort, without running anything.

The look starts at what a test calls and follows names through the student's functions, classes, assignments and
imports. What the test cannot reach counts for nothing: a student may compare with the library in a cell of their own.
Names count by what they resolve to, so that a function of the student's own called `RNN` is theirs. A determined author
can hide a name from it; `rnn2rag.checks` watches the calls too, while a probe runs.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rnn2rag import checks

LONGEST = 300_000  # characters of code that are looked at
MOST_STEPS = 100_000  # expressions and statements that are followed, a second at most
MOST_VALUES = 32  # that one name may stand for
LONGEST_NAME = 1000  # characters of a string that is put together

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_IMPORTERS = {"importlib.import_module", "importlib.__import__", "builtins.__import__", "__import__"}
_RUN = {"run_cell", "run_cell_magic", "run_line_magic", "ex"}  # of IPython's shell
_FILL = {"append", "appendleft", "extend", "insert", "add", "update", "setdefault"}  # of lists, sets and dicts

_SHELL = {"get_ipython", "display", "In", "Out", "exit", "quit"}  # names that IPython gives
_TIMED = re.compile(r"%(?:time|timeit|prun)\s+(?:-\S+\s+)*")
_ASSIGNED = re.compile(r"[\w, .]+=\s*[%!]")


@dataclass(frozen=True)
class _Text:
    """A string constant."""

    text: str


@dataclass(frozen=True)
class _Made:
    """Something that was made by calling a library name, or from what it gave."""

    by: str


# What a name may stand for: a dotted library name, a string, something made by the library, the student's own code.
_Value = str | _Text | _Made | _Function | ast.ClassDef
_Values = frozenset[_Value]
_NOTHING: _Values = frozenset()


@dataclass
class _Scope:
    """Names and their values. parent: where a name is looked for that is not here, None above the module."""

    parent: _Scope | None = None
    names: dict[str, _Values] = field(default_factory=dict)
    is_class: bool = False

    def find(self, name: str) -> _Values | None:
        """The values of a name as code in this scope sees it."""
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names and (scope is self or not scope.is_class):
                return scope.names[name]
            scope = scope.parent
        return None


class _Enough(Exception):
    """The code is longer than this look follows."""


class Look:
    """A look at a notebook: it is told each code cell in the order in which they ran, and asked about each test."""

    def __init__(self) -> None:
        self._cells: list[str] = []  # not looked at yet
        self._length = 0
        self._run = _Run()
        self._is_lost = False

    def ran(self, cell: str) -> None:
        """Take note of a cell; IPython's magics and `!` lines are understood, one that does not parse is skipped."""
        self._cells.append(cell)
        self._length += len(cell)

    def used(self, probe: str, forbids: Sequence[str]) -> str | None:
        """Return the first of the names in `forbids` that a test reaches through a student's code, or None.

        probe: the source that calls the answer, as the probe half of a test cell. forbids: library names and modules,
        as in `checks.Problem`; a layer of torch is also known by the functions that it calls. Returns None from where
        on there is more code than `LONGEST` or a cell is too intricate to be followed, and for a test that is.
        """
        if not forbids or self._is_lost or self._length + len(probe) > LONGEST:
            return None
        cells, self._cells = self._cells, []
        try:
            self._run.run(cells)
        except (_Enough, RecursionError):
            self._is_lost = True
            return None
        try:
            reached = self._run.reach(probe)
        except (_Enough, RecursionError):
            return None  # of this test; the next one may be plain
        return next((name for name in forbids if any(_is(path, name) for path in reached)), None)


def _is(path: str, name: str) -> bool:
    """Whether a dotted name is a forbidden one, lies in it, or is another of torch's names for it."""
    if f"{path}.".startswith(f"{name}."):
        return True
    if not (path.startswith("torch.") and name.startswith("torch.")):
        return False
    return bool({name.rpartition(".")[2], *checks.seen_as(name)} & set(path.split(".")[1:]))


class _Run:
    """A notebook's statements run on values that are sets of what a name may stand for."""

    def __init__(self) -> None:
        self.steps = 0
        self.module = _Scope()
        self.stars: list[str] = []  # modules whose names were all imported
        self.scopes: dict[_Function | ast.ClassDef, _Scope] = {}  # around each definition
        self.bodies: dict[ast.ClassDef, _Scope] = {}
        self.defaults: dict[_Function, dict[str, _Values]] = {}  # and the `self` of a method
        self.given: dict[_Function, dict[str, _Values]] = {}  # arguments of the calls in what is followed
        self.returned: dict[_Function, _Values] = {}  # by the functions that were followed
        self.parsed: dict[str, list[ast.stmt]] = {}
        self.patched: dict[str, _Values] = {}  # what was assigned to a library's attribute
        self.seen: set[_Value] = set()  # what the code that is followed touches
        self.defined: list[_Function | ast.ClassDef] = []

    def run(self, cells: Iterable[str]) -> None:
        """Run the statements of cells."""
        self.steps = 0
        for cell in cells:
            self._module_level(_parsed(cell))

    def reach(self, probe: str) -> set[str]:
        """Return the dotted names that the functions of a probe reach after all that ran."""
        self.steps = 0
        self.seen, self.defined = set(), []
        self._module_level(_parsed_probe(probe))
        self._forget()
        self.seen |= set(self.defined)
        followed: set[_Value] = set()
        while self.seen - followed:
            for value in self.seen - followed:
                followed.add(value)
                if isinstance(value, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
                    self._enter(value)
        paths = {value.by if isinstance(value, _Made) else value for value in followed}
        return {path for path in paths if isinstance(path, str)}

    def _module_level(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._forget()
            self._run(statement, self.module, certain=True)

    def _forget(self) -> None:
        """Forget what calls gave: names have changed since, and a call of the student's own is not the test's."""
        self.returned.clear()
        self.given.clear()

    def _enter(self, definition: _Function | ast.ClassDef) -> None:
        """Follow all that a definition may do when it is used."""
        if isinstance(definition, ast.ClassDef):
            for part in (*definition.decorator_list, *definition.bases, *(k.value for k in definition.keywords)):
                self._value(part, self.scopes[definition])
            for values in list(self.bodies[definition].names.values()):
                self.seen |= values
        else:
            if not isinstance(definition, ast.Lambda):
                for part in definition.decorator_list:
                    self._value(part, self.scopes[definition])
            self._call(definition)

    # Statements

    def _run(self, node: ast.stmt, scope: _Scope, certain: bool) -> None:
        """Run one statement. certain: whether it surely runs, so that it replaces what a name stood for."""
        self._step()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._define(node, scope)
                made = self._decorated(node, scope)
                self._bind(node.name, made, scope, certain)
            case ast.Import():
                for alias in node.names:
                    self.seen.add(alias.name)
                    path = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._bind(alias.asname or path, frozenset({path}), scope, certain)
            case ast.ImportFrom(module=str(module)):
                for alias in node.names:
                    self.seen.add(f"{module}.{alias.name}")
                    if alias.name == "*":
                        self.stars.append(module)
                    else:
                        self._bind(alias.asname or alias.name, frozenset({f"{module}.{alias.name}"}), scope, certain)
            case ast.Assign():
                for target in node.targets:
                    self._assign(target, node.value, scope, certain)
            case ast.AnnAssign(value=ast.expr() as value):
                self._assign(node.target, value, scope, certain)
            case ast.AugAssign():
                self._bind_target(node.target, self._value(node.value, scope), scope, certain=False)
            case ast.Delete():
                for target in node.targets:
                    if isinstance(target, ast.Name) and certain:
                        scope.names.pop(target.id, None)
            case ast.Return(value=ast.expr() as value):
                scope.names["return"] = scope.names.get("return", _NOTHING) | self._value(value, scope)
            case ast.For() | ast.AsyncFor():
                self._bind_target(node.target, self._value(node.iter, scope), scope, certain=False)
                self._run_all([*node.body, *node.orelse], scope, certain=False)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    entered = self._value(item.context_expr, scope)
                    if item.optional_vars:
                        self._bind_target(item.optional_vars, entered, scope, certain)
                self._run_all(node.body, scope, certain)
            case ast.Expr():
                self._value(node.value, scope)
            case ast.AnnAssign() | ast.Global() | ast.Nonlocal() | ast.ImportFrom():
                pass
            case _:  # if, while, try, match, assert, raise: any part of them may run
                self._run_parts(node, scope)

    def _run_parts(self, node: ast.AST, scope: _Scope) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self._run(child, scope, certain=False)
            elif isinstance(child, ast.expr):
                self._value(child, scope)
            else:
                self._run_parts(child, scope)

    def _run_all(self, body: Iterable[ast.stmt], scope: _Scope, certain: bool) -> None:
        for statement in body:
            self._run(statement, scope, certain)

    def _define(self, node: _Function | ast.ClassDef, scope: _Scope) -> None:
        """Note where a definition stands, follow its defaults, and the body of a class."""
        self.scopes[node] = scope
        self.defined.append(node)
        if isinstance(node, ast.ClassDef):
            self.bodies[node] = _Scope(scope, self.bodies[node].names if node in self.bodies else {}, is_class=True)
            before = self.seen
            self.seen = set()
            self._run_all(node.body, self.bodies[node], certain=True)
            self.bodies[node].names["class body"] = frozenset(self.seen)
            self.seen = before
            for method in node.body:
                if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) and method.args.args:
                    self.defaults[method][method.args.args[0].arg] = frozenset({node})
        else:
            spec = node.args
            named = [*spec.posonlyargs, *spec.args]
            pairs = [*zip(named[len(named) - len(spec.defaults) :], spec.defaults, strict=True)]
            pairs += [pair for pair in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if pair[1]]
            self.defaults[node] = {name.arg: self._value(default, scope) for name, default in pairs}

    def _decorated(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, scope: _Scope) -> _Values:
        """What a definition's name stands for: itself, or also what a decorator makes of it."""
        values: _Values = frozenset({node})
        for decorator in reversed(node.decorator_list):
            values |= self._called(self._value(decorator, scope), [values], {})
        return values

    # Names

    def _assign(self, target: ast.expr, value: ast.expr, scope: _Scope, certain: bool) -> None:
        if (
            isinstance(target, (ast.Tuple, ast.List))
            and isinstance(value, (ast.Tuple, ast.List))
            and len(target.elts) == len(value.elts)
            and not any(isinstance(part, ast.Starred) for part in (*target.elts, *value.elts))
        ):
            values = [self._value(part, scope) for part in value.elts]
            for part, one in zip(target.elts, values, strict=True):
                self._bind_target(part, one, scope, certain)
        else:
            self._bind_target(target, self._value(value, scope), scope, certain)

    def _bind_target(self, target: ast.expr, values: _Values, scope: _Scope, certain: bool) -> None:
        match target:
            case ast.Name():
                self._bind(target.id, values, scope, certain)
            case ast.Tuple() | ast.List():
                for part in target.elts:
                    self._bind_target(part, values, scope, certain)
            case ast.Starred():
                self._bind_target(target.value, values, scope, certain)
            case ast.Attribute():
                self._set(self._value(target.value, scope), target.attr, values)
                self._add(target.value, values, scope)
            case ast.Subscript():
                names = self._text(target.slice, scope)
                match target.value:
                    case ast.Call(ast.Name("globals"), [], []):
                        for name in names:
                            self._bind(name, values, self.module, certain)
                self._add(target.value, values, scope)

    def _bind(self, name: str, values: _Values, scope: _Scope, certain: bool) -> None:
        while name not in scope.names and scope.parent is not None and not scope.is_class:
            scope = scope.parent  # declared global or nonlocal: a function's own names are there from its start
            certain = False
        before = _NOTHING if certain else scope.names.get(name, _NOTHING)
        scope.names[name] = _some(before | values)

    def _set(self, owners: _Values, name: str, values: _Values) -> None:
        """An attribute of a library's module or class is assigned."""
        for path in (f"{owner}.{name}" for owner in owners if isinstance(owner, str)):
            self.patched[path] = _some(self.patched.get(path, _NOTHING) | values)

    def _add(self, container: ast.expr, values: _Values, scope: _Scope) -> None:
        """Something is put into what a name stands for: a list, a dict, an attribute of an object."""
        while isinstance(container, (ast.Attribute, ast.Subscript)):
            container = container.value
        if isinstance(container, ast.Name):
            found = scope.find(container.id)
            if found is not None and not any(isinstance(value, str) for value in found):
                self._bind(container.id, values, scope, certain=False)

    def _name(self, name: str, scope: _Scope) -> _Values:
        found = scope.find(name)
        if found is not None:
            return found
        if hasattr(builtins, name):
            return frozenset({f"builtins.{name}"})
        is_public = not name.startswith("_") and name not in _SHELL
        return frozenset(f"{module}.{name}" for module in self.stars if is_public)

    # Expressions

    def _value(self, node: ast.expr, scope: _Scope) -> _Values:
        """What an expression may stand for; all that it touches is noted."""
        values = _some(self._evaluate(node, scope))
        self.seen |= values
        return values

    def _evaluate(self, node: ast.expr, scope: _Scope) -> _Values:
        self._step()
        match node:
            case ast.Name():
                return self._name(node.id, scope)
            case ast.Constant(str(text)):
                return frozenset({_Text(text)})
            case ast.Attribute():
                return self._attribute(self._value(node.value, scope), node.attr)
            case ast.Call():
                return self._call_of(node, scope)
            case ast.Subscript():
                return self._item(node, scope)
            case ast.Lambda():
                self._define(node, scope)
                return frozenset({node})
            case ast.NamedExpr():
                values = self._value(node.value, scope)
                self._bind_target(node.target, values, scope, certain=False)
                return values
            case ast.BinOp(op=ast.Add()):
                left, right = self._value(node.left, scope), self._value(node.right, scope)
                return _joined([left, right]) | _made(left | right)
            case ast.JoinedStr():
                parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
                return _joined([self._value(part, scope) for part in parts])
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self._comprehension(node, scope)
            case ast.List() | ast.Tuple() | ast.Set() | ast.Dict() | ast.IfExp() | ast.BoolOp() | ast.Starred():
                return self._any(ast.iter_child_nodes(node), scope)
            case ast.Await() | ast.Yield() | ast.YieldFrom() if node.value:
                values = self._value(node.value, scope)
                if not isinstance(node, ast.Await):
                    scope.names["return"] = scope.names.get("return", _NOTHING) | values
                return values
            case _:
                return _made(self._any(ast.iter_child_nodes(node), scope))

    def _any(self, nodes: Iterable[ast.AST], scope: _Scope) -> _Values:
        values: _Values = _NOTHING
        for node in nodes:
            if isinstance(node, ast.expr):
                values |= self._value(node, scope)
        return values

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, scope: _Scope
    ) -> _Values:
        inner = _Scope(scope)
        for loop in node.generators:
            values = self._value(loop.iter, inner)
            for name in _stored(loop.target):
                inner.names[name] = values
            self._any(loop.ifs, inner)
        return self._any([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt], inner)

    def _attribute(self, owners: _Values, name: str) -> _Values:
        found: set[_Value] = set()
        for owner in owners:
            if isinstance(owner, str):
                path = f"{owner}.{name}"
                found |= {path, *self.patched.get(path, ())}
            elif isinstance(owner, ast.ClassDef):
                found |= {owner, *self._member(owner, name, set())}
            elif not isinstance(owner, _Text):
                found.add(owner)
        return frozenset(found)

    def _member(self, owner: ast.ClassDef, name: str, visited: set[ast.ClassDef]) -> _Values:
        """What an attribute of a class of the student's, or of the classes that it is made from, stands for."""
        visited.add(owner)
        body = self.bodies.get(owner)
        values = body.names.get(name, _NOTHING) if body else _NOTHING
        for base in owner.bases:
            for value in self._value(base, self.scopes[owner]):
                if isinstance(value, ast.ClassDef) and value not in visited:
                    values |= self._member(value, name, visited)
        return values

    def _item(self, node: ast.Subscript, scope: _Scope) -> _Values:
        values = self._value(node.value, scope)
        names = self._text(node.slice, scope)
        match node.value:
            case ast.Call(ast.Name("globals" | "locals" | "vars"), [], []):
                return frozenset(value for name in names for value in self._name(name, scope))
            case ast.Call(ast.Name("vars"), [owner], []) | ast.Attribute(owner, "__dict__"):
                owners = self._value(owner, scope)
                return frozenset(value for name in names for value in self._attribute(owners, name))
        if "sys.modules" in values:
            return values | set(names)
        return values

    def _call_of(self, node: ast.Call, scope: _Scope) -> _Values:
        functions = self._value(node.func, scope)
        positional = [self._value(part, scope) for part in node.args]
        named = {part.arg or "": self._value(part.value, scope) for part in node.keywords}
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in _FILL:
                self._add(node.func.value, _NOTHING.union(*positional, *named.values()), scope)
            if node.func.attr in _RUN:
                for value in positional[-1] if positional else ():
                    if isinstance(value, _Text):
                        self._run_text(value.text, scope)
        paths = {value.removeprefix("builtins.") for value in functions if isinstance(value, str)}
        if paths & {"exec", "eval"} and positional:
            for value in positional[0]:
                if isinstance(value, _Text):
                    self._run_text(value.text, scope)
        if "setattr" in paths and len(positional) == 3:
            for name in _texts(positional[1]):
                self._set(positional[0], name, positional[2])
            self._add(node.args[0], positional[2], scope)
        if "getattr" in paths and len(positional) >= 2:
            owners = positional[0]
            return frozenset(v for name in _texts(positional[1]) for v in self._attribute(owners, name)) | _made(owners)
        if paths & _IMPORTERS and positional:
            names = _texts(positional[0])
            package = next(iter(_texts(positional[1])), "") if len(positional) > 1 else ""
            names = [f"{package}{name}" if name.startswith(".") else name for name in names]
            return frozenset(part for name in names for part in (name, name.partition(".")[0]))
        return self._called(functions, positional, named)

    def _called(self, functions: _Values, positional: list[_Values], named: dict[str, _Values]) -> _Values:
        """What a call may give: of the student's own function what it returns, of a library's what it made."""
        values: set[_Value] = set()
        for function in functions:
            if isinstance(function, ast.ClassDef):
                values.add(function)
                for maker in self._member(function, "__init__", set()) | self._member(function, "__call__", set()):
                    if isinstance(maker, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        self._give_call(maker, [_NOTHING, *positional], named)
                        values |= self._call(maker)
            elif isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                self._give_call(function, positional, named)
                values |= self._call(function)
            elif isinstance(function, (str, _Made)):
                values |= _made(frozenset({function}))
                for given in (*positional, *named.values()):  # as functools.partial keeps what it is given
                    values |= {
                        v if isinstance(v, ast.AST) else _Made(v) for v in given if isinstance(v, (ast.AST, str))
                    }
                    values |= {v for v in given if isinstance(v, _Made)}
        return frozenset(values)

    def _give_call(self, function: _Function, positional: list[_Values], named: dict[str, _Values]) -> None:
        spec = function.args
        names = [part.arg for part in (*spec.posonlyargs, *spec.args)]
        given = dict(zip(names, positional, strict=False))
        if spec.vararg and positional[len(names) :]:
            given[spec.vararg.arg] = frozenset().union(*positional[len(names) :])
        for name, values in named.items():
            target = (
                name if name in {*names, *(part.arg for part in spec.kwonlyargs)} else spec.kwarg and spec.kwarg.arg
            )
            if target:
                given[target] = given.get(target, _NOTHING) | values
        self._give(function, given)

    def _give(self, function: _Function, given: dict[str, _Values]) -> None:
        """Add to what the parameters of a function may stand for."""
        known = self.given.setdefault(function, {})
        for name, values in given.items():
            more = _some(known.get(name, _NOTHING) | values)
            if more != known.get(name, _NOTHING):
                known[name] = more
                self.returned.pop(function, None)  # to be followed once more

    def _call(self, function: _Function) -> _Values:
        """Follow a function's body, once for each set of arguments; return what it may return."""
        if function in self.returned:
            return self.returned[function]
        self.returned[function] = _NOTHING  # while it is followed, should it call itself
        spec = function.args
        every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
        scope = _Scope(self.scopes[function], {part.arg: _NOTHING for part in every})
        arguments = dict(self.defaults[function])
        for name, values in self.given.get(function, {}).items():
            arguments[name] = _some(arguments.get(name, _NOTHING) | values)
        if isinstance(function, ast.Lambda):
            scope.names |= arguments
            values = self._value(function.body, scope)
        else:
            scope.names |= dict.fromkeys(_locals(function), _NOTHING) | arguments
            for _ in range(2 if _loops(function) else 1):  # a loop's later statements come before its earlier ones
                self._run_all(function.body, scope, certain=False)
            values = scope.names.get("return", _NOTHING)
        self.returned[function] = values
        return values

    def _run_text(self, text: str, scope: _Scope) -> None:
        if text not in self.parsed:
            self.parsed[text] = _parsed(text)
        self._run_all(self.parsed[text], scope, certain=False)

    def _text(self, node: ast.expr, scope: _Scope) -> list[str]:
        return _texts(self._value(node, scope))

    def _step(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise _Enough


def _parsed(cell: str) -> list[ast.stmt]:
    """The statements of a cell without IPython's own lines; none where it is not Python."""
    for source in (cell, "\n".join(map(_plain, cell.split("\n")))):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python says of a student's code
            return ast.parse(source).body
    return []


_parsed_probe = functools.lru_cache(64)(_parsed)  # the same in every submission


def _plain(line: str) -> str:
    """A line of a cell as Python: a timed statement alone, and nothing of other magics, commands and questions."""
    code = line.strip()
    indent = line[: len(line) - len(line.lstrip())]
    if _TIMED.match(code):
        return indent + _TIMED.sub("", code, count=1)
    if code.startswith(("%", "!", "?")) or code.endswith("?"):
        return f"{indent}pass"
    return f"{line.partition('=')[0]}= None" if _ASSIGNED.match(code) else line


@functools.lru_cache(1024)
def _locals(function: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[str]:
    """The names that belong to a function: those that its body binds and does not declare to be another's."""
    bound, others = set(), set()
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                bound.add(node.name)
                continue
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                continue
            case ast.Global() | ast.Nonlocal():
                others |= set(node.names)
            case ast.Import():
                bound |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
            case ast.ImportFrom():
                bound |= {alias.asname or alias.name for alias in node.names}
            case ast.Name(ctx=ast.Store()):
                bound.add(node.id)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                bound.add(name)
        waiting += ast.iter_child_nodes(node)
    return frozenset(bound - others)


@functools.lru_cache(1024)
def _loops(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(node, (ast.For, ast.AsyncFor, ast.While)) for node in ast.walk(function))


def _stored(target: ast.expr) -> Iterator[str]:
    return (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _texts(values: _Values) -> list[str]:
    return [value.text for value in values if isinstance(value, _Text)]


def _joined(parts: list[_Values]) -> _Values:
    """The strings that are made by joining one of each part; none where a part is not known."""
    texts = [""]
    for part in parts:
        texts = [text + more for text in texts for more in _texts(part)][:MOST_VALUES]
        texts = [text for text in texts if len(text) <= LONGEST_NAME]
    return frozenset(_Text(text) for text in texts)


def _made(values: _Values) -> _Values:
    """What comes from values by a call or an operation of a library's."""
    names = {value if isinstance(value, str) else value.by for value in values if isinstance(value, (str, _Made))}
    own = {value for value in values if isinstance(value, ast.AST)}
    return frozenset({_Made(name) for name in names} | own)


def _some(values: _Values) -> _Values:
    return values if len(values) <= MOST_VALUES else frozenset(list(values)[:MOST_VALUES])
