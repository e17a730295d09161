"""Tests that tell a student what went wrong, and claims that hold on another machine.

A test of a problem has two halves. A *probe* runs beside the student's code and returns plain values; a *verdict*
judges those values and never touches the student's code. In a notebook both halves run one after the other in
`Problem.score`; values pass through the same plain form everywhere, so that a grader may run the halves in two
processes and reach the same points.

A *claim* is what a section says that its measurements show. Its band comes from a stored sweep over seeds.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import hashlib
import inspect
import io
import json
import math
import os
import sys
import threading
import traceback
import types
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from types import FrameType
from typing import TYPE_CHECKING, Any

from rnn2rag import machine
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    import torch

SCORE_MIME = "application/vnd.rnn2rag.score+json"
VALUES_MIME = "application/vnd.rnn2rag.values+json"
RELEASE_KEY = "RNN2RAG_RELEASE_KEY"  # environment variable; absent in a student's notebook
# What one probe's values may hold
MAX_BYTES = 4 << 20  # of tensors and strings
MAX_ITEMS = 100_000  # of lists and dicts; a tensor counts as ten, for the time that it takes
MAX_DEPTH = 8
MAX_DIMENSIONS = 64
MAX_BITS = 4096  # of a whole number

MAX_MESSAGE = 1000  # characters
DTYPES = (
    *("bool", "uint8", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)

# What torch's function mode sees when a layer of torch.nn runs; other names are seen as their last part.
_SEEN_AS = {
    "torch.nn.RNN": {"rnn_tanh", "rnn_relu"},
    "torch.nn.RNNCell": {"rnn_tanh_cell", "rnn_relu_cell"},
    "torch.nn.LSTM": {"lstm"},
    "torch.nn.LSTMCell": {"lstm_cell"},
    "torch.nn.GRU": {"gru"},
    "torch.nn.GRUCell": {"gru_cell"},
    "torch.nn.MultiheadAttention": {"multi_head_attention_forward", "_native_multi_head_attention"},
}


class Wrong(AssertionError):
    """An answer that is not right; its text says what was expected, what came and, where known, why."""


@dataclass
class Rung:
    """One step of a test: what it checks in words, the points it is worth, the points earned, what went wrong."""

    name: str
    possible: float
    points: float = 0.0
    message: str = ""
    hidden: bool = False


@dataclass
class Score:
    """The result of one test cell; it shows itself as text in a notebook and as data to a grader.

    faults: errors in a verdict, that is in the problem set itself; never the student's.
    """

    problem: str
    seed: int
    rungs: list[Rung] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def points(self) -> float:
        """Points earned."""
        return float(sum(rung.points for rung in self.rungs))

    @property
    def possible(self) -> float:
        """Points of all rungs."""
        return float(sum(rung.possible for rung in self.rungs))

    def __str__(self) -> str:
        lines = [f"{self.problem}: {self.points:g} of {self.possible:g} points"]
        for rung in self.rungs:
            mark = "✓" if rung.points == rung.possible else "✗"
            lines.append(f"  {mark} {rung.points:g}/{rung.possible:g}  {rung.name}")
            lines += [f"         {line}" for line in rung.message.splitlines()]
        lines += [f"  ! the test itself failed, tell your instructor: {fault}" for fault in self.faults]
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        data = {**asdict(self), "points": self.points, "possible": self.possible}
        return {"text/plain": str(self), SCORE_MIME: data}


class Problem:
    """The tests of one problem in one test cell.

    name: the problem's name, the same in its visible and its hidden cell.
    forbids: what the answer must not use: library calls by their public names ("torch.nn.RNN", "torch.Tensor.backward")
        and modules ("rnn2rag.built"). A rung whose probe used one of them earns nothing. Calls are seen while a probe
        runs, by torch's function mode and Python's profiler: a best effort, not a proof.
    seed: of the inputs that probes make; by default drawn from the name (see `seed_of`).
    """

    def __init__(self, name: str, forbids: Sequence[str] = (), seed: int | None = None) -> None:
        self.name = name
        self.forbids = tuple(forbids)
        self.seed = seed_of(name) if seed is None else seed
        self._probes: dict[str, Callable[..., Any]] = {}
        self._verdicts: list[tuple[str, float, str | None, Callable[..., None]]] = []

    def probe(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register a probe: it calls the student's code and returns numbers, strings, lists, dicts or tensors.

        A probe with a parameter `seed` is given the run's seed, from which it makes its inputs. Raises ValueError for a
        second probe of the same name.
        """
        if function.__name__ in self._probes:
            raise ValueError(f"problem {self.name!r} has two probes named {function.__name__!r}")
        self._probes[function.__name__] = function
        return function

    def verdict(
        self, probe: Callable[..., Any], points: float, hidden: str | None = None
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Register a rung: a function of a probe's values (and `seed`, if it takes it) that raises on wrong ones.

        points: what the rung is worth. hidden: the public description of a hidden rung; all that feedback says of it.
        """

        def register(function: Callable[..., None]) -> Callable[..., None]:
            self._verdicts.append((probe.__name__, points, hidden, function))
            return function

        return register

    def score(self) -> float:
        """Run the probes, judge their values, show a line for each rung; return the points, the cell's last value."""
        from IPython.display import display

        score = self.judge(self.collect())
        display(score)
        return score.points

    def send(self) -> None:
        """Run the probes and display their values as data: what `score` becomes where the halves run apart."""
        from IPython.display import display

        display({VALUES_MIME: self.collect()}, raw=True)

    def collect(self) -> dict[str, dict[str, Any]]:
        """Run the probes; return their values in plain form, {name: {"ok": values} or {"error": what stopped it}}."""
        return {name: self._run(function) for name, function in self._probes.items()}

    def judge(self, values: Mapping[str, Mapping[str, Any]]) -> Score:
        """Judge what `collect` returned; a probe that sent nothing, or what cannot be read, earns nothing."""
        score = Score(self.name, self.seed)
        fit = received(values, {verdict[0] for verdict in self._verdicts})  # the probes may have run elsewhere
        for probe, possible, hidden, function in self._verdicts:
            value = fit.get(probe, {"error": "This test sent no answer."})
            score.rungs.append(self._judge(value, possible, hidden, function, score.faults))
        return score

    def _run(self, function: Callable[..., Any]) -> dict[str, Any]:
        """The values of a probe in plain form, {"ok": ...}, or {"error": ...} with what stopped it in one line."""
        try:
            with _quiet(), _usual_numbers(), _watched() as calls:
                value = function(self.seed) if _takes_seed(function) else function()
        except (Exception, SystemExit) as error:
            return {"error": _explain(error)}
        used = [name for name in self.forbids if calls.include(name)]
        if used:
            return {"error": f"{used[0]} is not allowed in this problem: write it yourself."}
        try:
            return {"ok": to_plain(value)}
        except (TypeError, ValueError, RuntimeError) as error:
            return {"error": _printable(f"This answer cannot be judged: {error}.")}

    def _judge(
        self,
        value: dict[str, Any],
        possible: float,
        hidden: str | None,
        function: Callable[..., None],
        faults: list[str],
    ) -> Rung:
        rung = Rung(hidden or function.__name__.replace("_", " "), float(possible), hidden=hidden is not None)
        try:
            answer = None if "error" in value else from_plain(value["ok"])
        except (ValueError, RuntimeError, MemoryError) as error:
            value = {"error": f"This answer cannot be judged: {error}."}
        if "error" in value:
            rung.message = _printable(value["error"])
        else:
            arguments = (answer, self.seed)[: 2 if _takes_seed(function) else 1]
            try:
                with _quiet(), _usual_numbers():
                    _with_builtins(function)(*arguments)
            except AssertionError as error:
                rung.message = _printable(str(error)) or "This does not hold."
            except Exception as error:
                what = type(error).__name__ if hidden else _short(repr(error))
                faults.append(f"{rung.name} ({what})")
            else:
                rung.points = rung.possible
        if hidden:
            rung.message = ""
        return rung


def seed_of(problem: str, key: str | None = None) -> int:
    """Return the seed of a problem's inputs: fixed in a student's notebook, drawn from the release key in grading.

    key: the release key; by default what the environment says, nothing in a student's notebook.
    """
    key = os.environ.get(RELEASE_KEY, "") if key is None else key
    return int.from_bytes(hashlib.sha256(f"{problem}\0{key}".encode()).digest()[:4], "big")


# What a verdict asserts


def shape(value: Any, expected: Sequence[int], instead: Mapping[str, Sequence[int]] | None = None) -> torch.Tensor:
    """Assert that numbers have the expected shape, and return them as a tensor of float64.

    value: a number, nested lists of numbers or a tensor. instead: {message: shape} for shapes that known mistakes give.
    Raises Wrong.
    """
    tensor = _tensor(value)
    got = tuple(tensor.shape)
    if got == tuple(expected):
        return tensor
    for message, mistaken in (instead or {}).items():
        if got == tuple(mistaken):
            raise Wrong(message)
    raise Wrong(f"expected the shape {tuple(expected)}, got {got}.")


def close(value: Any, expected: Any, instead: Mapping[str, Any] | None = None, tolerance: float = 1e-4) -> None:
    """Assert that numbers agree with the expected ones to `tolerance`, absolute and relative.

    value, expected: a number, nested lists of numbers or a tensor. instead: {message: values} for the values that known
    mistakes give; a value that agrees with one of them draws its message. Raises Wrong.
    """
    import torch

    want = _tensor(expected)
    got = _tensor(value)
    shape(got, want.shape)
    if not bool(torch.isfinite(got).all() | ~torch.isfinite(want).all()):
        infinite = int((~torch.isfinite(got)).sum())
        raise Wrong(f"right shape, but {infinite} of {got.numel()} values are not finite (NaN or infinite).")
    differ = ~torch.isclose(got, want, rtol=tolerance, atol=tolerance)
    if not differ.any():
        return
    for message, mistaken in (instead or {}).items():
        other = _tensor(mistaken)
        if other.shape == got.shape and torch.allclose(got, other, rtol=tolerance, atol=tolerance):
            raise Wrong(message)
    difference = torch.where(differ, (got - want).abs().nan_to_num(math.inf), -1.0).flatten()
    worst = int(difference.argmax())
    where = [int(i) for i in torch.unravel_index(torch.tensor(worst), want.shape)] if want.dim() else []
    raise Wrong(
        f"right shape, wrong values: {int(differ.sum())} of {got.numel()} differ, most at {where}: "
        f"expected {want.flatten()[worst]:.4g}, got {got.flatten()[worst]:.4g}."
    )


def equal(value: Any, expected: Any, instead: Mapping[str, Any] | None = None) -> None:
    """Assert that a value equals the expected one exactly; `instead` names known mistakes. Raises Wrong."""
    plain = json.dumps(to_plain(value))  # as text: True is not 1
    if plain == json.dumps(to_plain(expected)):
        return
    for message, mistaken in (instead or {}).items():
        if plain == json.dumps(to_plain(mistaken)):
            raise Wrong(message)
    raise Wrong(f"expected {_short(expected)}, got {_short(value)}.")


def true(condition: bool, message: str) -> None:
    """Assert a condition; the message says what was expected and what came. Raises Wrong."""
    if not condition:
        raise Wrong(message)


# Values in plain form: what may cross from a student's process to a grader's


def to_plain(value: Any) -> Any:
    """Return a value as JSON: numbers, strings, lists, dicts, and tensors as raw bytes with shape and dtype.

    Tuples become lists; the order of a dict is lost. Raises TypeError for anything else, ValueError for what is too
    deep or too large.
    """
    plain = _to_plain(value, _Allowance())
    examine(plain)
    return plain


def from_plain(plain: Any) -> Any:
    """Return the value that `to_plain` wrote. Raises ValueError for what it cannot have written."""
    examine(plain)
    return _from_plain(plain)


def examine(plain: Any) -> None:
    """Raise ValueError unless `to_plain` may have written this: whatever a process sent, quickly and without torch."""
    _examine(plain, _Allowance(), 0)


def received(sent: Any, probes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what a process sent for each probe, whatever it sent: as `Problem.collect` would, fit to be judged.

    sent: JSON of any form. A probe that is not in it is not in the result either.
    """
    values = {probe: sent[probe] for probe in probes if probe in sent} if isinstance(sent, dict) else {}
    return {probe: _received(value) for probe, value in values.items()}


def _received(value: Any) -> dict[str, Any]:
    try:
        if isinstance(value, dict) and list(value) == ["error"] and type(value["error"]) is str:
            return {"error": _printable(value["error"])}
        if not isinstance(value, dict) or list(value) != ["ok"]:
            raise ValueError("it is not in plain form")
        examine(value["ok"])
    except ValueError as error:
        return {"error": f"This answer cannot be judged: {error}."}
    return value


@dataclass
class _Allowance:
    """What a value in plain form may still hold: so many items, and so many bytes of tensors and strings."""

    items: int = MAX_ITEMS
    bytes: int = MAX_BYTES

    def take(self, items: int = 0, size: int = 0) -> None:
        self.items -= items
        self.bytes -= size
        if self.items < 0:
            raise ValueError(f"the answer has more than {MAX_ITEMS} items")
        if self.bytes < 0:
            raise ValueError(f"the answer is larger than {MAX_BYTES >> 20} MiB")


def _to_plain(value: Any, allowance: _Allowance, depth: int = 0) -> Any:
    import torch

    if depth > MAX_DEPTH:
        raise ValueError(f"the answer is nested more than {MAX_DEPTH} levels deep")
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return {"float": repr(value)}
    if type(value) in (list, tuple):
        allowance.take(len(value))
        return [_to_plain(item, allowance, depth + 1) for item in value]
    if type(value) is dict:
        allowance.take(len(value))
        if any(type(key) not in (str, int) for key in value):
            raise TypeError("expected strings or whole numbers as the keys of a dict")
        keys = sorted(value, key=lambda key: (type(key) is str, key))
        return {"dict": [[key, _to_plain(value[key], allowance, depth + 1)] for key in keys]}
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return _tensor_to_plain(value, allowance)
    raise TypeError(f"expected numbers, strings, lists, dicts or tensors, got {_short(type(value).__name__)}")


def _tensor_to_plain(value: torch.Tensor, allowance: _Allowance) -> dict[str, Any]:
    import torch

    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES or value.layout is not torch.strided or value.is_nested or value.is_meta:
        raise TypeError(f"expected an ordinary tensor, got one of {value.dtype}, {value.layout}, {value.device}")
    allowance.take(10, value.numel() * value.element_size())
    flat = value.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format).reshape(-1)
    raw = bytes(flat.view(torch.uint8).numpy()) if len(flat) else b""
    return {"tensor": base64.b64encode(raw).decode("ascii"), "dtype": dtype, "shape": list(value.shape)}


def _examine(plain: Any, allowance: _Allowance, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"the answer is nested more than {MAX_DEPTH} levels deep")
    if plain is None or type(plain) is bool:
        return
    if type(plain) is int:
        if plain.bit_length() > MAX_BITS:
            raise ValueError(f"the answer holds a whole number of more than {MAX_BITS} bits")
    elif type(plain) is str:
        allowance.take(size=len(plain))
        try:
            plain.encode("utf8")
        except UnicodeEncodeError:
            raise ValueError("the answer holds a string with half a character") from None
    elif type(plain) is list:
        allowance.take(len(plain))
        for item in plain:
            _examine(item, allowance, depth + 1)
    elif isinstance(plain, dict):
        _examine_form(plain, allowance, depth)
    else:
        raise ValueError("it is not in plain form")


def _examine_form(plain: dict[Any, Any], allowance: _Allowance, depth: int) -> None:
    """One of the forms that are JSON objects: a float, a dict or a tensor."""
    match plain:
        case {"float": str(text)} if len(plain) == 1 and len(text) < 32:
            if repr(float(text)) != text:
                raise ValueError("a number is not in plain form")
        case {"dict": list(pairs)} if len(plain) == 1:
            allowance.take(len(pairs))
            keys = set()
            for pair in pairs:
                if type(pair) is not list or len(pair) != 2 or type(pair[0]) not in (str, int):
                    raise ValueError("a dict is not in plain form")
                keys.add(pair[0])
                _examine(pair[0], allowance, depth + 1)
                _examine(pair[1], allowance, depth + 1)
            if len(keys) < len(pairs):
                raise ValueError("a dict has a key twice")
        case {"tensor": str(tensor), "dtype": str(dtype), "shape": list(shape)} if len(plain) == 3:
            allowance.take(10, len(tensor) * 3 // 4 - 2)
            if dtype not in DTYPES:
                raise ValueError(f"a tensor cannot have the dtype {_short(dtype)!r}")
            if any(type(size) is not int or size < 0 for size in shape):
                raise ValueError("a tensor has no possible shape")
            if len(shape) > MAX_DIMENSIONS:
                raise ValueError(f"the answer holds a tensor of more than {MAX_DIMENSIONS} dimensions")
            if math.prod(max(size, 1) for size in shape) > MAX_BYTES:  # also where one size is 0: loops run over sizes
                raise ValueError(f"the answer holds a tensor of more than {MAX_BYTES >> 20} Mi elements")
        case _:
            raise ValueError("it is not in plain form")


def _from_plain(plain: Any) -> Any:
    match plain:
        case list():
            return [_from_plain(item) for item in plain]
        case {"float": text}:
            return float(text)
        case {"dict": pairs}:
            return {key: _from_plain(item) for key, item in pairs}
        case {"tensor": tensor, "dtype": dtype, "shape": shape}:
            return _tensor_from_plain(tensor, dtype, shape)
    return plain


def _tensor_from_plain(tensor: str, dtype: str, shape: list[int]) -> torch.Tensor:
    import torch

    kind: torch.dtype = getattr(torch, dtype)
    raw = bytearray(base64.b64decode(tensor, validate=True))
    if len(raw) != math.prod(shape) * kind.itemsize:
        raise ValueError("the bytes of a tensor do not fit its shape and dtype")
    if kind is torch.bool and raw.translate(None, b"\0\1"):
        raise ValueError("a tensor of truth values holds others")
    return torch.frombuffer(raw, dtype=kind).reshape(shape) if raw else torch.empty(shape, dtype=kind)


# Claims


@dataclass(frozen=True)
class Claim:
    """A statement about a measured value: it lies above a floor, below a ceiling, or both.

    text: the claim in words. tolerance: the least half-width of the band, for values whose spread over seeds is tiny.
    """

    text: str
    above: float | None = None
    below: float | None = None
    tolerance: float = 0.0

    def holds(self, value: float) -> bool:
        """Whether the statement is true of a value."""
        return (self.above is None or value > self.above) and (self.below is None or value < self.below)

    def band(self, values: Sequence[float]) -> tuple[float, float]:
        """Return the mean of the sweep plus and minus 5 standard deviations, or `tolerance` where that is wider."""
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        width = max(5 * deviation, self.tolerance)
        return mean - width, mean + width

    def is_certain(self, values: Sequence[float]) -> bool:
        """Whether the statement still holds at the edges of the band; otherwise it is reported as uncertain."""
        return all(self.holds(edge) for edge in self.band(values))


class Claims:
    """The claims of one section, with the seed sweep stored in assets/claims/NAME.json by `rnn2rag claims`.

    name: the sweep's name, for instance "01-recurrent-cell"; claims: {key: Claim}, with the keys of `measure(seed)`.
    """

    def __init__(self, name: str, claims: Mapping[str, Claim]) -> None:
        self.name = name
        self.claims = dict(claims)

    def values(self) -> dict[str, list[float]]:
        """Return the stored values of each claim over the seeds. Raises UserError where the sweep lacks them."""
        try:
            stored = json.loads(machine.asset(f"claims/{self.name}.json").read_text(encoding="utf8"))
        except FileNotFoundError:
            raise UserError(f"no sweep is stored for the claims {self.name!r}: run `rnn2rag claims`") from None
        runs = list(stored["seeds"].values())
        if len(runs) < 2 or not all(key in run for key in self.claims for run in runs):
            raise UserError(f"the sweep stored for {self.name!r} is of other claims or cut short: run `rnn2rag claims`")
        return {key: [run[key] for run in runs] for key in self.claims}

    def hold(self, measured: Mapping[str, float]) -> None:
        """Show the table of claims, and assert that each measured value lies in its band and satisfies its statement.

        Raises Wrong when a value does not. An uncertain claim is shown as such and held to its band alone. The sweeps
        are of the embedded scale: at the full scale the table shows what differs, and nothing is raised.
        """
        from IPython.display import display

        rows, failures = [], []
        for key, stored in self.values().items():
            claim, value = self.claims[key], measured[key]
            low, high = claim.band(stored)
            certain = claim.is_certain(stored)
            if not low <= value <= high or (certain and not claim.holds(value)):
                failures.append(f"{claim.text}: measured {value:.3g}, the sweep's band is {low:.3g} to {high:.3g}")
            text = claim.text if certain else f"{claim.text} (uncertain)"
            rows.append((text, f"{value:.3g}", f"{low:.3g} to {high:.3g}", str(len(stored))))
        display(_ClaimsTable(rows))
        if failures and machine.scale() == "full":
            print("Not as at the embedded scale:", *failures, sep="\n")
        elif failures:
            raise Wrong("; ".join(failures))


@dataclass
class _ClaimsTable:
    rows: list[tuple[str, str, str, str]]

    def __repr__(self) -> str:
        return "\n".join(f"{claim}: {value} (band {band}, {seeds} seeds)" for claim, value, band, seeds in self.rows)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{title}</th>" for title in ("Claim", "Here", "Band", "Seeds"))
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        return (
            f'<table class="rnn2rag-table rnn2rag-claims"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        )


# Helpers


def _takes_seed(function: Callable[..., Any]) -> bool:
    return "seed" in inspect.signature(function).parameters


def seen_as(name: str) -> set[str]:
    """Return what torch's function mode calls a library function or layer."""
    return _SEEN_AS.get(name, {name.rpartition(".")[2]})


@dataclass
class _Calls:
    """What ran inside a probe: torch functions by name, and the modules whose Python code ran."""

    functions: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)

    def include(self, name: str) -> bool:
        """Whether a library function or layer was called, or a module used."""
        is_run = any(f"{module}.".startswith(f"{name}.") for module in self.modules)
        return is_run or bool(self.functions & seen_as(name))


@contextlib.contextmanager
def _watched() -> Iterator[_Calls]:
    """Note what is called inside, also in threads that are started there.

    What torch runs without Python (a scripted function) is not seen.
    """
    from torch.overrides import TorchFunctionMode

    calls = _Calls()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.functions.add(getattr(func, "__name__", "").partition(".")[0])  # an operator's is "rnn_tanh.input"
            return func(*args, **(kwargs or {}))

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            calls.modules.add(str(frame.f_globals.get("__name__")))

    def watch_thread(frame: FrameType, event: str, argument: Any) -> None:
        sys.setprofile(watch)
        Watch().__enter__()  # torch keeps the mode for each thread; this one's ends with it

    before = sys.getprofile()
    with Watch():
        threading.setprofile(watch_thread)
        sys.setprofile(watch)
        try:
            yield calls
        finally:
            sys.setprofile(before)
            threading.setprofile(None)


@contextlib.contextmanager
def _usual_numbers() -> Iterator[None]:
    """Torch's own default type of numbers, whatever a notebook has set: inputs that a seed draws depend on it."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _with_builtins(function: Callable[..., Any]) -> Callable[..., Any]:
    """A verdict with Python's own `round` and `sum`, whatever a student's notebook calls by these names."""
    names = {name: value for name, value in function.__globals__.items() if not hasattr(builtins, name)}
    return types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Turn warnings and writes to stderr into lines on stdout: for stderr, nbgrader gives a test cell no points."""
    stderr = io.StringIO()
    try:
        with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stderr(stderr):
            warnings.simplefilter("always")
            yield
    finally:
        for line in [str(warning.message) for warning in caught] + stderr.getvalue().splitlines():
            print(f"  note: {line[:300]}")


def _explain(error: BaseException) -> str:
    if isinstance(error, NotImplementedError) and not str(error):
        return "Nothing is written here yet."
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.line for frame in frames if "ipykernel" in frame.filename or "ipython-input" in frame.filename]
    where = f", at `{_short(lines[-1])}`" if lines and lines[-1] else ""
    try:
        said = str(error)
    except Exception:  # a student's own class of errors
        said = ""
    return _printable(f"Your code raised {type(error).__name__}{where}: {_short(said or 'no message')}")


def _tensor(value: Any) -> torch.Tensor:
    """A number, nested lists of numbers or a tensor as float64."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_complex():
            raise Wrong("expected real numbers, got complex ones.")
        return value.detach().to("cpu", torch.float64)
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise Wrong(f"expected numbers or a tensor, got {_short(value)}.") from None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(_printable(text).split())
    return text if len(text) <= 200 else text[:199] + "…"


def _printable(text: str) -> str:
    """A text that can be shown and stored: not too long, no half characters, nothing that steers a terminal."""
    whole = text[:MAX_MESSAGE].encode("utf8", "replace").decode("utf8")
    return "".join(c for c in whole if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf"))
