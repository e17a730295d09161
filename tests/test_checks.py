"""The checks of a problem: messages, values in plain form, seeds, rungs, what is forbidden; and claims."""

import base64
import concurrent.futures
import functools
import json
import os
import subprocess
import sys
import threading
import time
import warnings

import nbformat
import pytest
import torch
from conftest import ROOT, copy_package, surroundings

from rnn2rag import checks
from rnn2rag.checks import Claim, Claims, Problem, Wrong, close, equal, from_plain, shape, to_plain, true
from rnn2rag.errors import UserError

INFINITE = float("inf")


def message(function, *arguments, **options):
    with pytest.raises(Wrong) as caught:
        function(*arguments, **options)
    return str(caught.value)


# What a verdict asserts


def test_shape():
    shape(torch.zeros(2, 3), (2, 3))
    assert torch.equal(shape([[1, 2]], [1, 2])[:, 0], torch.tensor([1.0], dtype=torch.float64))
    shape(3.0, ())
    assert message(shape, torch.zeros(2, 3), (3, 2)) == "expected the shape (3, 2), got (2, 3)."
    assert message(shape, torch.zeros(3), (3, 1), instead={"Keep it.": (3,), "Other.": (1, 3)}) == "Keep it."
    assert "expected numbers or a tensor, got None" in message(shape, None, (1,))


def test_close_accepts_what_agrees():
    close(1.00005, 1)
    close([[1, 2], [3, 4]], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    close(torch.tensor([1, 0]), [True, False])
    close(torch.ones(2, dtype=torch.bfloat16), [1.0, 1.001], tolerance=1e-2)
    close(torch.tensor([-INFINITE, 1.0]), [-INFINITE, 1.0])
    close(torch.zeros(0, 3), torch.zeros(0, 3))
    close(torch.ones(2, requires_grad=True), [1, 1])


@pytest.mark.parametrize(
    ("value", "expected", "said"),
    [
        (torch.ones(2), [1, 3], "right shape, wrong values: 1 of 2 differ, most at [1]: expected 3, got 1."),
        (5.0, 4.0, "right shape, wrong values: 1 of 1 differ, most at []: expected 4, got 5."),
        ([[1.0, 2.0], [3.0, 9.0]], [[1, 2.5], [3, 4]], "2 of 4 differ, most at [1, 1]: expected 4, got 9."),
        (torch.ones(2), [[1, 1]], "expected the shape (1, 2), got (2,)."),
        ([float("nan"), 1.0], [1, 1], "right shape, but 1 of 2 values are not finite (NaN or infinite)."),
        ([INFINITE, -INFINITE], [1, 1], "right shape, but 2 of 2 values are not finite (NaN or infinite)."),
        ([-INFINITE, 2.0], [-INFINITE, 3.0], "1 of 2 differ, most at [1]: expected 3, got 2."),
        ([float("nan"), 2.0], [-INFINITE, 3.0], "2 of 2 differ, most at [0]: expected -inf, got nan."),
        (torch.tensor([1j]), [1.0], "expected real numbers, got complex ones."),
        ("0.5", 0.5, "expected numbers or a tensor, got 0.5."),
        (None, 0.5, "expected numbers or a tensor, got None."),
        ({"a": 1}, 0.5, "expected numbers or a tensor, got {'a': 1}."),
        ([[1], [1, 2]], [[1, 1]], "expected numbers or a tensor, got [[1], [1, 2]]."),
        ([10**400], [1.0], "expected numbers or a tensor"),
    ],
)
def test_close_says_what_is_wrong(value, expected, said):
    assert said in message(close, value, expected)


def test_close_names_a_known_mistake_and_none_of_the_others():
    instead = {"Halve it.": [2.0, 4.0], "Of another shape.": [[1.0, 2.0]], "Turn it round.": [2.0, 1.0]}
    assert message(close, [2.0, 1.0], [1.0, 2.0], instead) == "Turn it round."
    assert message(close, [2.0, 4.0], [1.0, 2.0], instead) == "Halve it."
    assert "wrong values" in message(close, [1.0, 2.5], [1.0, 2.0], instead)
    close([1.0, 2.0], [1.0, 2.0], instead)


def test_equal_is_exact():
    equal("yes", "yes")
    equal([1, "a", None], (1, "a", None))
    equal({"a": 1, "b": 2}, {"b": 2, "a": 1})
    equal(torch.tensor([1, 2]), torch.tensor([1, 2]))
    equal(float("nan"), float("nan"))
    assert message(equal, "yes", "no") == "expected no, got yes."
    assert message(equal, 2, 3, {"Count from 0.": 2}) == "Count from 0."
    for value, expected in (
        (True, 1),
        (1.0, 1),
        (torch.tensor([1]), [1]),
        ({1: 2}, {"1": 2}),
        (torch.ones(2), torch.ones(1, 2)),
    ):
        assert message(equal, value, expected).startswith("expected ")
    assert len(message(equal, "x" * 10_000, "y")) < 300


def test_true():
    true(True, "not seen")
    assert message(true, False, "3 is odd.") == "3 is odd."


# Values in plain form


class Sneaky(torch.Tensor):
    pass


class Mine:
    def __reduce__(self):
        raise AssertionError("nothing is ever pickled")


class Liar:
    """Says that it is a tensor, equals everything, and has every attribute."""

    __class__ = torch.Tensor
    dtype, layout, shape = torch.float32, torch.strided, (2,)

    def __eq__(self, other):
        return True

    def __getattr__(self, name):
        return lambda *arguments, **named: self


class Integer(int):
    def __repr__(self):
        return "3"


class Float(float):
    def __repr__(self):
        return "nan"


class Listed(list):
    def __iter__(self):
        yield from range(10**9)


class Mapped(dict):
    def __getitem__(self, key):
        return Mine()


EVIL = (Liar, Integer, Float, Listed, Mapped)


def itself():
    value = []
    value.append(value)
    return value


def is_same(one, other):
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(one.nan_to_num(7), other.nan_to_num(7))
        )
    return one == other or (one != one and other != other)


PLAIN = [
    *(None, True, False, 0, -(10**30), "", "ä\U0001f600", 10**1000, 0.1, -0.0, 1e-320, INFINITE, float("nan")),
    *(torch.arange(6.0)[5::6], torch.arange(12).reshape(3, 4)[:, 1:3], torch.arange(6.0).as_strided((2, 2), (1, 1))),
    *(
        torch.tensor(3.5),
        torch.zeros(0),
        torch.zeros(2, 0, 3),
        torch.arange(6).reshape(2, 3).T,
        torch.ones(1).expand(3, 4),
    ),
    *(torch.tensor([True, False]), torch.tensor([-128, 127], dtype=torch.int8), torch.tensor([1.5, float("nan")])),
    *(torch.tensor([0.1, 3e38], dtype=torch.bfloat16), torch.tensor([1 + 2j]), torch.tensor([1 + 2j]).conj()),
    *(torch.tensor([1 + 2j]).conj().imag, torch.ones(2, requires_grad=True), torch.nn.Parameter(torch.ones(2))),
]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_round_trip(value):
    back = from_plain(json.loads(json.dumps(to_plain(value))))
    assert is_same(value.detach() if isinstance(value, torch.Tensor) else value, back)
    assert not isinstance(back, torch.Tensor) or (not back.requires_grad and type(back) is torch.Tensor)


def test_round_trip_nested():
    value = {"a": [1, {"b": torch.tensor([1, 2])}], "float": 1.5, "tensor": "no", "dict": [], 3: None}
    back = from_plain(json.loads(json.dumps(to_plain(value))))
    assert torch.equal(back["a"][1].pop("b"), torch.tensor([1, 2]))
    assert back == {"a": [1, {}], "float": 1.5, "tensor": "no", "dict": [], 3: None}
    assert from_plain(to_plain((1, (2,)))) == [1, [2]]


def deep(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (deep(9), ValueError, "nested more than 8 levels"),
        (itself(), ValueError, "nested more than 8 levels"),
        ([0] * 100_001, ValueError, "more than 100000 items"),
        ([[0] * 1000] * 1000, ValueError, "more than 100000 items"),
        ([[[[0] * 1000] * 1000] * 1000] * 1000, ValueError, "more than 100000 items"),
        (dict.fromkeys(range(100_001)), ValueError, "more than 100000 items"),
        (torch.zeros(2**20 + 1), ValueError, "larger than 4 MiB"),
        (torch.zeros(1).expand(10**12), ValueError, "larger than 4 MiB"),
        (torch.zeros(0, 10**12), ValueError, "a tensor of more than 4 Mi elements"),
        (torch.zeros([1] * 65), ValueError, "a tensor of more than 64 dimensions"),
        ([torch.zeros(2**19) for _ in range(5)], ValueError, "larger than 4 MiB"),
        ("x" * (9 << 20), ValueError, "larger than 4 MiB"),
        (["x" * (1 << 20)] * 5, ValueError, "larger than 4 MiB"),
        (10**100_000, ValueError, "a whole number of more than 4096 bits"),
        ({-(10**5000): 1}, ValueError, "a whole number of more than 4096 bits"),
        ("half \ud83d", ValueError, "a string with half a character"),
        ({"\udc00": 1}, ValueError, "a string with half a character"),
        *((Evil(), TypeError, f"got {Evil.__name__}") for Evil in EVIL),
        (torch.ones(2).to_mkldnn(), TypeError, "ordinary tensor"),
        (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), TypeError, "ordinary tensor"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), TypeError, "ordinary tensor"),
        (torch.nn.Buffer(torch.ones(2)).as_subclass(Sneaky), TypeError, "got Sneaky"),
        (torch.ones(2).as_subclass(Sneaky), TypeError, "got Sneaky"),
        (Mine(), TypeError, "got Mine"),
        ([Mine], TypeError, "got type"),
        ({Mine(): 1}, TypeError, "keys of a dict"),
        (type("Text", (str,), {})("a"), TypeError, "got Text"),
        (1j, TypeError, "got complex"),
        ({1}, TypeError, "got set"),
        ((x for x in "ab"), TypeError, "got generator"),
        (torch.ones(2).numpy(), TypeError, "got ndarray"),
        (torch.ones(2).numpy()[0], TypeError, "got float32"),
        (torch.eye(2).to_sparse(), TypeError, "ordinary tensor"),
        (torch.empty(2, device="meta"), TypeError, "ordinary tensor"),
        (torch.ones(2).to(torch.float8_e4m3fn), TypeError, "ordinary tensor"),
    ],
    ids=lambda value: value if type(value) is str and len(value) < 60 else type(value).__name__,
)
def test_what_is_not_plain_is_refused(value, kind, said):
    with pytest.raises(kind, match=said):
        to_plain(value)


def bytes_of(count):
    return base64.b64encode(bytes(count)).decode()


@pytest.mark.parametrize(
    "lie",
    [
        {"tensor": bytes_of(4), "dtype": "float32", "shape": [2]},
        {"tensor": bytes_of(8), "dtype": "float32", "shape": []},
        {"tensor": bytes_of(4), "dtype": "float32", "shape": [-1, -1]},
        {"tensor": "", "dtype": "float32", "shape": [0, 2**62, 2**62]},
        {"tensor": "", "dtype": "float32", "shape": [2**64]},
        {"tensor": bytes_of(1), "dtype": "bool", "shape": [True]},
        {"tensor": bytes_of(1), "dtype": "int8", "shape": [1.0]},
        {"tensor": bytes_of(1), "dtype": "int8", "shape": "1"},
        {"tensor": bytes_of(1), "dtype": "int8", "shape": None},
        {"tensor": bytes_of(1), "dtype": "qint8", "shape": [1]},
        {"tensor": bytes_of(1), "dtype": "load", "shape": [1]},
        {"tensor": bytes_of(1), "dtype": ["int8"], "shape": [1]},
        {"tensor": "?", "dtype": "int8", "shape": [1]},
        {"tensor": 5, "dtype": "int8", "shape": [1]},
        {"tensor": bytes_of(1), "dtype": "int8"},
        {"tensor": bytes_of(1), "dtype": "int8", "shape": [1], "more": 1},
        {},
        {"float": "abc"},
        {"float": [1]},
        {"float": "1_0"},
        {"float": " 1.0"},
        {"float": "1"},
        {"float": "١.٠"},
        {"float": "Infinity"},
        {"float": "nan(5)"},
        {"float": "1" * 10**6},
        {"float": "1.0", "dict": []},
        {"float": "1.0", "more": 1},
        {"dict": [["a", 1], ["a", 2]]},
        {"dict": [["a", 1, 2]]},
        {"dict": ["ab"]},
        {"dict": {"a": 1}},
        {"dict": [[True, 1]]},
        {"dict": [[None, 1]]},
        {"dict": [[{"float": "1.0"}, 1]]},
        {"tensor": 3},
        {"tensor": None, "dtype": "int8", "shape": [1]},
        {"tensor": bytes_of(1), "dtype": "__class__", "shape": [1]},
        {"tensor": bytes_of(1), "dtype": None, "shape": [1]},
        {"tensor": bytes_of(1), "dtype": "int8", "shape": [1] * 65},
        {"tensor": "", "dtype": "int8", "shape": [0, 2**22 + 1]},
        {"tensor": "", "dtype": "int8", "shape": [10**5000, 0]},
        {"tensor": bytes_of(1), "dtype": "int8", "shape": {"0": 1}},
        {"tensor": base64.b64encode(b"\2").decode(), "dtype": "bool", "shape": [1]},
        {"tensor": "AA==\n", "dtype": "int8", "shape": [1]},
        {"tensor": "ÄÄ==", "dtype": "int8", "shape": [1]},
        {"tensor": "A" * (8 << 20), "dtype": "int8", "shape": [6 << 20]},
        {"ok": 1},
        {"__class__": "Tensor"},
        {1: 2},
        1.5,
        json.loads("NaN"),
        json.loads("-Infinity"),
        json.loads("1e999"),
        10**5000,
        "\ud83d",
        (1, 2),
        b"bytes",
        torch.ones(1),
        Liar(),
        Listed([1]),
        [0] * 200_000,
        [[0] * 1000] * 1000,
        ["x" * 10**6] * 5,
        {"dict": [[[1], 2]]},
        {"dict": [1]},
        {"dict": None},
        deep(9),
        json.loads("[" * 900 + "]" * 900),
    ],
    ids=lambda lie: " ".join(map(str, lie)) if type(lie) is dict else type(lie).__name__,
)
def test_what_to_plain_cannot_have_written_is_refused(lie):
    with pytest.raises(ValueError):
        from_plain(lie)


# What a process sent for the two probes of a test, and what the rungs then say.
CANNOT = "This answer cannot be judged: "
NONE = "This test sent no answer."
SENT = {
    "nothing": (None, [NONE, NONE]),
    "a list": ([1, 2], [NONE, NONE]),
    "one of two": ({"one": {"ok": 1}}, ["", NONE]),
    "one that is no probe": ({"three": {"ok": 1}, 1: 2, None: 3}, [NONE, NONE]),
    "no object": ({"one": 1, "two": None}, [CANNOT, CANNOT]),
    "an empty object": ({"one": {}, "two": {"ok": 1}}, [CANNOT, ""]),
    "both": ({"one": {"ok": 1, "error": "x"}, "two": {"ok": 1, "points": 3}}, [CANNOT, CANNOT]),
    "an error": ({"one": {"error": "Nothing is written here yet."}, "two": {"ok": 1}}, ["Nothing is", ""]),
    "an error that is no text": ({"one": {"error": ["x"] * 10**6}, "two": {"error": {"a": 1}}}, [CANNOT, CANNOT]),
    "a long error": ({"one": {"error": "x" * 10**7}, "two": {"ok": 1}}, ["x" * 1000, ""]),
    "an error that steers a terminal": (
        {"one": {"error": "\x1b[2J\u202egone\ud83d"}, "two": {"ok": 1}},
        ["[2Jgone?", ""],
    ),
    "a malformed tensor": ({"one": {"ok": {"tensor": 3}}, "two": {"ok": 1}}, [CANNOT, ""]),
    "a deep value": ({"one": {"ok": deep(500)}, "two": {"ok": 1}}, [f"{CANNOT}the answer is nested more than 8", ""]),
    "a value in itself": ({"one": {"ok": itself()}, "two": {"ok": 1}}, [f"{CANNOT}the answer is nested", ""]),
    "a long whole number": ({"one": {"ok": 10**100_000}, "two": {"ok": 1}}, [f"{CANNOT}the answer holds a whole", ""]),
    "half a character": ({"one": {"ok": "\ud83d"}, "two": {"ok": 1}}, [f"{CANNOT}the answer holds a string", ""]),
    "a bare NaN": ({"one": {"ok": float("nan")}, "two": {"ok": 1}}, [CANNOT, ""]),
    "bytes that lie": (
        {"one": {"ok": {"tensor": "AAAA", "dtype": "float32", "shape": [1]}}, "two": {"ok": 1}},
        [f"{CANNOT}the bytes of a tensor do not fit", ""],
    ),
    "16 MB of items": ({"one": {"ok": [0] * (8 << 20)}, "two": {"ok": 1}}, [f"{CANNOT}the answer has more than", ""]),
    "16 MB of text": ({"one": {"ok": "x" * (16 << 20)}, "two": {"ok": 1}}, [f"{CANNOT}the answer is larger", ""]),
    "16 MB of tensor": (
        {"one": {"ok": {"tensor": "A" * (16 << 20), "dtype": "int8", "shape": [12 << 20]}}, "two": {"ok": 1}},
        [f"{CANNOT}the answer is larger", ""],
    ),
    "many small tensors": (
        {"one": {"ok": [{"tensor": "AA==", "dtype": "int8", "shape": [1]}] * 9000}, "two": {"ok": 1}},
        ["", ""],
    ),
    "many probes": ({f"p{n}": {"ok": n} for n in range(10**6)} | {"two": {"ok": 1}}, [NONE, ""]),
}


@pytest.mark.parametrize("name", SENT)
def test_whatever_is_sent_costs_its_own_rung_alone_and_no_time(name):
    problem = Problem("p")

    def one():
        raise AssertionError("probes do not run here")

    def two():
        raise AssertionError("probes do not run here")

    problem.verdict(problem.probe(one), 1)(lambda value: None)
    problem.verdict(problem.probe(two), 1)(lambda value: equal(value, 1))
    sent, said = SENT[name]
    start = time.process_time()
    fit = checks.received(sent, ["one", "two"])
    line = json.dumps(fit)  # as it goes on to the process that judges
    score = problem.judge(json.loads(line))
    assert time.process_time() - start < 1
    assert len(line) < 20 << 20 and not score.faults
    assert all(
        rung.message.startswith(text) and len(rung.message) <= 1000
        for rung, text in zip(score.rungs, said, strict=True)
    )
    assert [rung.points for rung in score.rungs] == [float(not text) for text in said]
    assert problem.judge(sent).points == score.points  # also where nothing lies between
    json.dumps(score._repr_mimebundle_(), ensure_ascii=False).encode("utf8")


def test_values_are_received_as_a_notebook_holds_them():
    value = {"a": torch.ones(2), "b": [0.5]}
    sent = nbformat.from_dict({"one": {"ok": to_plain(value)}, "two": {"error": "No."}})
    fit = checks.received(sent, ["one", "two"])
    assert json.loads(json.dumps(fit)) == {"one": {"ok": to_plain(value)}, "two": {"error": "No."}}
    assert from_plain(fit["one"]["ok"])["b"] == [0.5]


def test_an_error_of_the_students_own_class_costs_its_rung_alone(capsys):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def mute():
        raise Mute

    rung, _ = scored(mute)
    assert rung.message == "Your code raised Mute: no message"
    rung, _ = scored(lambda: {}["\x1b[31m \ud83d"])
    assert rung.message == "Your code raised KeyError: '\\x1b[31m \\ud83d'"
    with pytest.raises(UnicodeEncodeError):
        "\ud83d".encode()

    def shouts():
        raise ValueError("\ud83d" + "a" * 10**6)

    rung, _ = scored(shouts)
    assert rung.message.startswith("Your code raised ValueError: ?aaa") and len(rung.message) < 300


# Problems


def outcome(capsys, problem):
    """The points, and what was printed, of a problem scored in this process."""
    points = problem.score()
    captured = capsys.readouterr()
    assert captured.err == ""
    return points, captured.out


def test_rungs_points_and_messages(capsys):
    problem = Problem("sum")

    @problem.probe
    def answer():
        return [1.0, 2.0]

    @problem.verdict(answer, points=2)
    def has_two_values(values):
        shape(values, (2,))

    @problem.verdict(answer, points=1.5)
    def has_the_right_ones(values):
        close(values, [1.0, 3.0])

    @problem.verdict(answer, points=1)
    def is_sorted(values):
        if values[0] < values[1]:
            raise AssertionError

    points, said = outcome(capsys, problem)
    assert points == 2.0 and type(points) is float
    assert said.splitlines() == [
        "sum: 2 of 4.5 points",
        "  ✓ 2/2  has two values",
        "  ✗ 0/1.5  has the right ones",
        "         right shape, wrong values: 1 of 2 differ, most at [1]: expected 3, got 2.",
        "  ✗ 0/1  is sorted",
        "         This does not hold.",
    ]


def scored(probe, forbids=(), verdict=lambda value: None, hidden=None):
    """The rung of a problem with one probe and one verdict, worth a point, and the faults."""
    problem = Problem("p", forbids)
    problem.probe(probe)
    problem.verdict(probe, 1, hidden)(verdict)
    faults = []
    rung = problem._judge(problem._run(probe), 1, hidden, verdict, faults)
    assert problem.score() == rung.points
    return rung, faults


def raises():
    raise KeyError("weights")


def exits():
    sys.exit("bye")


def is_blank():
    raise NotImplementedError


def gives_an_object():
    return Mine()


def gives_a_number(seed):
    return seed


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        (raises, "Your code raised KeyError: 'weights'"),
        (exits, "Your code raised SystemExit: bye"),
        (is_blank, "Nothing is written here yet."),
        (
            gives_an_object,
            "This answer cannot be judged: expected numbers, strings, lists, dicts or tensors, got Mine.",
        ),
        (lambda: 10**5000, "This answer cannot be judged"),
    ],
)
def test_a_probe_that_fails_costs_its_rungs_alone(capsys, probe, said):
    problem = Problem("p")
    problem.probe(probe)
    problem.verdict(probe, 1)(lambda value: None)
    problem.verdict(problem.probe(gives_a_number), 2)(lambda value: None)
    points, printed = outcome(capsys, problem)
    assert points == 2 and said in printed and "2 of 3 points" in printed


def test_an_interrupt_is_not_an_answer():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored(interrupted)


def test_warnings_and_stderr_cost_nothing_and_are_shown(capsys):
    def noisy():
        warnings.warn("mind the gap", stacklevel=1)
        print("lost", file=sys.stderr)
        print("found")
        return 1

    def noisy_verdict(value):
        warnings.warn("in the verdict", stacklevel=1)

    rung, faults = scored(noisy, verdict=noisy_verdict)
    captured = capsys.readouterr()
    assert rung.points == 1 and not faults and captured.err == ""
    for line in ("  note: mind the gap", "  note: lost", "found", "  note: in the verdict"):
        assert line in captured.out.splitlines()


def test_a_fault_of_the_test_is_never_the_students(capsys):
    def broken(value):
        raise ZeroDivisionError("expected value 42")

    rung, faults = scored(lambda: 1, verdict=broken)
    assert (rung.points, rung.message) == (0, "")
    assert faults == ["broken (ZeroDivisionError('expected value 42'))"]
    assert "the test itself failed, tell your instructor" in capsys.readouterr().out
    _, faults = scored(lambda: 1, verdict=broken, hidden="works elsewhere")
    assert faults == ["works elsewhere (ZeroDivisionError)"]
    assert "42" not in capsys.readouterr().out.partition("points\n")[2]


def test_a_hidden_rung_never_shows_its_message(capsys):
    def wrong(value, seed):
        close(value, [2.0 * seed])

    rung, _ = scored(lambda seed: [float(seed)], verdict=wrong, hidden="works for other values")
    assert (rung.name, rung.message, rung.points, rung.hidden) == ("works for other values", "", 0.0, True)
    rung, _ = scored(raises, verdict=wrong, hidden="works for other values")
    assert rung.message == ""
    printed = capsys.readouterr().out
    assert "wrong values" not in printed and "KeyError" not in printed and "✗ 0/1  works for other values" in printed


def test_each_verdict_gets_its_own_copy_of_the_values():
    problem = Problem("p")
    tensor = torch.ones(2)
    probe = problem.probe(lambda: tensor)
    problem.verdict(probe, 1)(lambda value: value.zero_())
    problem.verdict(probe, 1)(lambda value: close(value, [1, 1]))
    assert problem.score() == 2 and torch.equal(tensor, torch.ones(2))


def test_two_probes_of_one_name_are_refused():
    problem = Problem("p")
    problem.probe(raises)
    with pytest.raises(ValueError, match="two probes named 'raises'"):
        problem.probe(raises)


def test_seeds():
    blank = checks.seed_of("leaky-cell")
    assert blank == checks.seed_of("leaky-cell") == Problem("leaky-cell").seed != checks.seed_of("other")
    os.environ[checks.RELEASE_KEY] = "one"
    one = checks.seed_of("leaky-cell")
    os.environ[checks.RELEASE_KEY] = "two"
    assert len({blank, one, checks.seed_of("leaky-cell")}) == 3
    assert all(0 <= seed < 2**32 for seed in (blank, one))
    os.environ[checks.RELEASE_KEY] = ""
    assert checks.seed_of("leaky-cell") == blank


WEIGHT = torch.ones(2, requires_grad=True)
FORBIDDEN = {
    "torch.nn.RNN": lambda: torch.nn.RNN(2, 3)(torch.ones(1, 4, 2))[0],
    "torch.nn.RNNCell": lambda: torch.nn.RNNCell(2, 3, nonlinearity="relu")(torch.ones(1, 2)),
    "torch.nn.LSTM": lambda: torch.nn.LSTM(2, 3)(torch.nn.utils.rnn.pack_sequence([torch.ones(4, 2)]))[1][0],
    "torch.nn.LSTMCell": lambda: torch.nn.LSTMCell(2, 3)(torch.ones(1, 2))[0],
    "torch.nn.GRU": lambda: torch.nn.GRU(2, 3)(torch.ones(1, 4, 2))[0],
    "torch.nn.GRUCell": lambda: torch.nn.GRUCell(2, 3)(torch.ones(1, 2)),
    "torch.nn.MultiheadAttention": lambda: torch.nn.MultiheadAttention(4, 2)(*[torch.ones(1, 2, 4)] * 3)[0],
    "torch.nn.functional.scaled_dot_product_attention": lambda: torch.nn.functional.scaled_dot_product_attention(
        *[torch.ones(1, 2, 4)] * 3
    ),
    "torch.Tensor.backward": lambda: WEIGHT.sum().backward(),
    "torch.autograd.backward": lambda: torch.autograd.backward(WEIGHT.sum()),
    "torch.autograd.grad": lambda: torch.autograd.grad(WEIGHT.sum(), WEIGHT)[0],
    "torch.softmax": lambda: torch.ones(2).softmax(-1),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_forbidden_call_earns_nothing(name):
    rung, _ = scored(FORBIDDEN[name], forbids=[name])
    assert (rung.points, rung.message) == (0, f"{name} is not allowed in this problem: write it yourself.")
    others = [other for other in FORBIDDEN if other.rpartition(".")[2] != name.rpartition(".")[2]]
    rung, _ = scored(FORBIDDEN[name], forbids=others)
    assert rung.points == 1, rung.message


def test_a_gradient_that_is_read_is_no_call():
    WEIGHT.sum().backward()
    rung, _ = scored(lambda: WEIGHT.grad, forbids=["torch.autograd.grad"])
    assert rung.points == 1


def test_a_forbidden_module_of_the_course():
    from rnn2rag.built import recurrent_networks

    def uses():
        cell = recurrent_networks.RecurrentCell(2, 3)
        return cell(torch.ones(1, 2), torch.zeros(1, 3))

    def uses_it_in_a_thread():
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return pool.submit(uses).result()

    for probe in (uses, uses_it_in_a_thread):
        rung, _ = scored(probe, forbids=["rnn2rag.built"])
        assert (rung.points, rung.message) == (0, "rnn2rag.built is not allowed in this problem: write it yourself.")
        assert scored(probe, forbids=["rnn2rag.build", "built", "torch.nn.RNN"])[0].points == 1


def test_a_forbidden_module_that_is_loaded_and_not_used_costs_nothing():
    from rnn2rag.built import recurrent_networks  # as a student does who compares with it in another cell

    assert recurrent_networks.__name__ in sys.modules
    assert scored(lambda: 1, forbids=["rnn2rag.built"])[0].points == 1


def in_a_thread():
    thread = threading.Thread(target=FORBIDDEN["torch.nn.RNN"])
    thread.start()
    thread.join()


RNN = torch.nn.RNN(2, 3)
HIDDEN_CALLS = {
    "a thread": in_a_thread,
    "the function of the layer": lambda: torch._VF.rnn_tanh(
        torch.ones(4, 1, 2), torch.zeros(1, 1, 3), list(RNN.parameters()), True, 1, 0.0, False, False, False
    ),
    "an operator": lambda: torch.ops.aten.rnn_tanh.input(
        torch.ones(4, 1, 2), torch.zeros(1, 1, 3), list(RNN.parameters()), True, 1, 0.0, False, False, False
    ),
    "compiled": lambda: torch.compile(RNN, backend="eager")(torch.ones(4, 1, 2)),
    "by functools": lambda: functools.partial(RNN, torch.ones(4, 1, 2))(),
    "by map": lambda: list(map(RNN, [torch.ones(4, 1, 2)])),
}


@pytest.mark.parametrize("name", HIDDEN_CALLS)
def test_a_forbidden_call_is_seen_however_it_is_made(name):
    def probe():
        HIDDEN_CALLS[name]()
        return 1

    rung, _ = scored(probe, forbids=["torch.nn.RNN"])
    assert (rung.points, rung.message) == (0, "torch.nn.RNN is not allowed in this problem: write it yourself.")
    assert scored(probe, forbids=["torch.nn.LSTM"])[0].points == 1


def test_watching_ends_with_the_probe():
    seen = []

    def profile(frame, event, argument):
        seen.append(frame)

    sys.setprofile(profile)
    try:
        scored(raises)
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert threading.getprofile() is None and not torch.overrides._get_current_function_mode_stack()


def test_a_score_shows_itself_as_text_and_as_data():
    score = checks.Score("p", 7, [checks.Rung("a", 1.0, 1.0), checks.Rung("b", 2.0, 0.0, "two\nlines", True)], ["oops"])
    bundle = score._repr_mimebundle_()
    assert bundle["text/plain"] == str(score) and "         two\n         lines\n" in bundle["text/plain"]
    assert json.loads(json.dumps(bundle[checks.SCORE_MIME])) == {
        "problem": "p",
        "seed": 7,
        "rungs": [
            {"name": "a", "possible": 1.0, "points": 1.0, "message": "", "hidden": False},
            {"name": "b", "possible": 2.0, "points": 0.0, "message": "two\nlines", "hidden": True},
        ],
        "faults": ["oops"],
        "points": 1.0,
        "possible": 3.0,
    }


PROGRAM = """
from rnn2rag import checks
problem = checks.Problem("p")
probe = problem.probe(lambda: 2)
problem.verdict(probe, 3)(lambda value: checks.equal(value, 2))
assert problem.score() == 3
claims = checks.Claims("tiny", {key: checks.Claim(f"{key} is above 0", above=0.0) for key in "ab"})
claims.hold({"a": 1.1, "b": 0.2})
try:
    claims.hold({"a": 9.0, "b": 0.2})
except checks.Wrong as error:
    print("wrong:", error)
"""


def test_in_plain_python_and_with_a_stored_sweep(tmp_path):
    copy_package(tmp_path)
    seeds = {str(n): {"a": 1 + n / 10, "b": 0.1 * (n - 1)} for n in range(4)}
    (tmp_path / "assets" / "claims" / "tiny.json").write_text(json.dumps({"seeds": seeds}), encoding="utf8")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=surroundings(tmp_path, True), capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [
        "p: 3 of 3 points",
        "  ✓ 3/3  <lambda>",
        "a is above 0: 1.1 (band 0.505 to 1.8, 4 seeds)",
        "b is above 0 (uncertain): 0.2 (band -0.595 to 0.695, 4 seeds)",
        "a is above 0: 9 (band 0.505 to 1.8, 4 seeds)",
        "b is above 0 (uncertain): 0.2 (band -0.595 to 0.695, 4 seeds)",
        "wrong: a is above 0: measured 9, the sweep's band is 0.505 to 1.8",
    ]


# Claims


def test_band():
    low, high = Claim("c").band([1.0, 2.0, 3.0])
    assert (low, high) == (2 - 5 * 1.0, 2 + 5 * 1.0)
    assert Claim("c", tolerance=0.5).band([2.0, 2.0]) == (1.5, 2.5)
    assert Claim("c", tolerance=0.5).band([1.0, 3.0]) == pytest.approx((2 - 5 * 2**0.5, 2 + 5 * 2**0.5))


def test_a_statement_and_its_certainty():
    between = Claim("c", above=0.0, below=1.0)
    assert [between.holds(value) for value in (-1, 0, 0.5, 1, 2)] == [False, False, True, False, False]
    assert Claim("c").holds(1e9)
    assert between.is_certain([0.5, 0.51, 0.52]) and not between.is_certain([0.1, 0.5, 0.9])
    assert not between.is_certain([0.5, float("nan")])


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Store a sweep where the package looks for it."""

    def store(seeds):
        path = tmp_path / "sweep.json"
        path.write_text(json.dumps({"seeds": {str(n): run for n, run in enumerate(seeds)}}), encoding="utf8")
        monkeypatch.setattr(checks.machine, "asset", lambda name: path)

    return store


def test_hold(stored):
    stored([{"bits": 1.0}, {"bits": 1.1}, {"bits": 1.2}])
    claims = Claims("x", {"bits": Claim("fewer bits", above=0.5)})
    claims.hold({"bits": 1.4, "other": 3})
    assert "fewer bits: measured 2, the sweep's band is 0.6 to 1.6" in message(claims.hold, {"bits": 2.0})
    assert "measured 0.55" in message(claims.hold, {"bits": 0.55})
    assert "measured nan" in message(claims.hold, {"bits": float("nan")})
    Claims("x", {"bits": Claim("uncertain, held to its band alone", above=1.3)}).hold({"bits": 1.0})


def test_a_sweep_that_is_missing_or_of_other_claims(stored):
    with pytest.raises(UserError, match="no sweep is stored for the claims 'never-run': run `rnn2rag claims`"):
        Claims("never-run", {"a": Claim("a")}).hold({"a": 1.0})
    stored([{"a": 1.0}, {"a": 2.0}])
    for runs, claims in (([{"a": 1.0}], "a"), ([{"a": 1.0}, {"a": 2.0}], "b"), ([], "a")):
        stored(runs)
        with pytest.raises(UserError, match="run `rnn2rag claims`") as caught:
            Claims("x", {claims: Claim("c")}).hold({claims: 1.0})
        assert "\n" not in str(caught.value)


def test_the_table_of_claims(stored):
    from IPython.core.formatters import format_display_data

    table = checks._ClaimsTable([("a < b", "1", "0 to 2", "10")])
    data, _ = format_display_data(table)
    assert data["text/plain"] == "a < b: 1 (band 0 to 2, 10 seeds)"
    assert "<td>a &lt; b</td>" in data["text/html"] and data["text/html"].count("<th>") == 4


def test_the_package_is_the_one_in_this_tree():
    assert (ROOT / "rnn2rag" / "checks.py").samefile(checks.__file__)
