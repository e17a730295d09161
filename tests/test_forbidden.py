"""What a problem forbids, found in the source: every way to the library that a name takes, and nothing else."""

import json
import time

import pytest
from conftest import COURSE, SET, graded_cell, load

from rnn2rag.grading import forbidden, worker

FORBIDS = ("torch.nn.RNN", "torch.nn.RNNCell", "rnn2rag.built")
SETUP = "import torch\n\nimport rnn2rag\nfrom rnn2rag import checks\n\nrt = rnn2rag.runtime()"
PROBE = """
problem = checks.Problem("answer", forbids=["torch.nn.RNN"], seed=__seed__)

def make():
    return torch.ones(1, 2)

@problem.probe
def runs(seed):
    return answer(make(), weights=[1.0])

problem.send()
"""
OWN = """def answer(x, weights=None):
    total = 0.0
    for step in x:
        total = torch.tanh(step + total)
    return total
"""


def found(source, forbids=FORBIDS, probe=PROBE):
    """What is found in cells that lines of dashes tell apart; ANSWER stands for the head of the answer."""
    cells = source.replace("ANSWER: ", "def answer(x, weights):\n    ").split("---\n")
    return look(SETUP, *cells).used(probe, forbids)


def look(*cells):
    """A look at a notebook after these cells ran."""
    notebook = forbidden.Look()
    for cell in cells:
        notebook.ran(cell)
    return notebook


EVASIONS = {
    "named in full": "ANSWER: return torch.nn.RNN(2, 3)(x)",
    "not called": "ANSWER: make = torch.nn.RNN\n    return make(2, 3)(x)",
    "module under another name": "import torch.nn as n\nANSWER: return n.RNN(2, 3)(x)",
    "class under another name": "from torch.nn import RNN as R\n---\nANSWER: return R(2, 3)(x)",
    "imported inside": "ANSWER: from torch.nn import RNN as R\n    return R(2, 3)(x)",
    "imported inside, not called": "ANSWER: import rnn2rag.built.recurrent_networks\n    return x",
    "assigned module": "nn = torch.nn\nlibrary = nn\n---\nANSWER: return library.RNN(2, 3)(x)",
    "assigned in a tuple": "a, (b, c) = 1, (torch.nn, 2)\nANSWER: return b.RNN(2, 3)(x)",
    "assigned in a condition": "if torch:\n    n = torch.nn\nANSWER: return n.RNN(2, 3)(x)",
    "tried": "try:\n    from torch.nn import RNN\nexcept ImportError:\n    RNN = None\nANSWER: RNN(2)",
    "walrus": "ANSWER: return (n := torch.nn).RNN(2, 3)(x)",
    "from a list": "ANSWER: return [torch.nn][0].RNN(2, 3)(x)",
    "from a dict": "TOOLS = {'n': torch.nn}\nANSWER: return TOOLS['n'].RNN(2, 3)(x)",
    "put into a dict": "TOOLS = {}\nTOOLS['n'] = torch.nn.RNN\nANSWER: return TOOLS['n'](2, 3)(x)",
    "put into a list": "TOOLS = []\nTOOLS.append(torch.nn.RNN)\nANSWER: return TOOLS[0](2, 3)(x)",
    "in a loop": "for n in [torch.nn]:\n    pass\nANSWER: return n.RNN(2, 3)(x)",
    "in a comprehension": "ANSWER: return [n.RNN(2, 3)(x) for n in (torch.nn,)]",
    "getattr": "ANSWER: return getattr(torch.nn, 'RNN')(2, 3)(x)",
    "getattr of a name": "NAME = 'RNN'\nANSWER: return getattr(torch.nn, NAME)(2, 3)(x)",
    "getattr of a sum": "ANSWER: r = 'R'\n    return getattr(torch.nn, r + 'NN')(2, 3)(x)",
    "getattr of an f-string": "ANSWER: k = 'NN'\n    return getattr(torch.nn, f'R{k}')(2, 3)(x)",
    "getattr under another name": "take = getattr\nANSWER: return take(torch.nn, 'RNN')(2)(x)",
    "vars": "ANSWER: return vars(torch.nn)['RNN'](2, 3)(x)",
    "__dict__": "ANSWER: return torch.nn.__dict__['RNN'](2, 3)(x)",
    "importlib": "import importlib\nANSWER: return importlib.import_module('torch.nn').RNN(2)(x)",
    "importlib, relative": ("from importlib import import_module as get\nANSWER: return get('.nn', 'torch').RNN(2)(x)"),
    "__import__": "ANSWER: return __import__('torch.nn').nn.RNN(2, 3)(x)",
    "__import__ of the module": "ANSWER: return __import__('torch.nn', fromlist=['a']).RNN(2)(x)",
    "sys.modules": "import sys\nANSWER: return sys.modules['torch.nn'].RNN(2, 3)(x)",
    "globals": "nn = torch.nn\nANSWER: return globals()['nn'].RNN(2, 3)(x)",
    "globals are set": "globals()['n'] = torch.nn\nANSWER: return n.RNN(2, 3)(x)",
    "star": "from torch.nn import *\nANSWER: return RNN(2, 3)(x)",
    "star of the built code": "from rnn2rag.built.recurrent_networks import *\nANSWER: return unroll(x)",
    "the module where it is made": "ANSWER: return torch.nn.modules.rnn.RNN(2, 3)(x)",
    "what the layer calls": "ANSWER: return torch.rnn_tanh(x, weights)",
    "what the layer calls, inner": "ANSWER: return torch._VF.rnn_tanh(x, weights)",
    "what the layer calls, imported": "from torch import _VF as v\nANSWER: return v.rnn_relu(x)",
    "an operator": "ANSWER: return torch.ops.aten.rnn_tanh.input(x, weights)",
    "patched in": "torch.linear = torch.nn.RNN(2, 3)\nANSWER: return torch.linear(x)",
    "set with setattr": "setattr(torch, 'linear', torch.nn.RNN)\nANSWER: return torch.linear(2, 3)(x)",
    "built": "from rnn2rag import built\nANSWER: return built.recurrent_networks.unroll(x)",
    "built, deeper": "from rnn2rag.built.recurrent_networks import unroll as mine\nANSWER: return mine(x)",
    "built, in full": "import rnn2rag.built.recurrent_networks\nANSWER: rnn2rag.built.recurrent_networks.f",
    "in a helper": "def help(x):\n    return torch.nn.RNN(2, 3)(x)\n---\nANSWER: return help(x)",
    "in a helper of a helper": (
        "ANSWER: return one(x)\n---\ndef one(x):\n    return two(x)\n---\ntwo = lambda x: torch.nn.RNN(2, 3)(x)"
    ),
    "in a helper inside": "ANSWER: def inner():\n        return torch.nn.RNN(2, 3)(x)\n    return inner()",
    "a helper gives the module": "def lib():\n    return torch.nn\nANSWER: return lib().RNN(2, 3)(x)",
    "a helper is given the module": "def f(m):\n    return m.RNN(2, 3)\nANSWER: return f(torch.nn)(x)",
    "a helper is given the name": (
        "def f(m, name='Linear'):\n    return getattr(m, name)\nANSWER: f(torch.nn, name='RNN')(2)"
    ),
    "a default": "def answer(x, weights, layer=torch.nn.RNN):\n    return layer(2, 3)(x)",
    "a keyword's default": "def answer(x, weights, *, layer=torch.nn.RNN):\n    return layer(2, 3)(x)",
    "a decorator": ("def use(f):\n    return torch.nn.RNN(2, 3)\n@use\nANSWER: return x"),
    "a decorator that wraps": (
        "def use(f):\n    def g(x, weights):\n        return torch.nn.RNN(2, 3)(x)\n    return g\n"
        "@use\nANSWER: return x"
    ),
    "partial": "import functools\nanswer = functools.partial(torch.nn.RNN, 3)",
    "another name for a helper": "def f(x, weights):\n    return torch.nn.RNN(2, 3)(x)\n---\nanswer = f",
    "a subclass": "class Mine(torch.nn.RNN):\n    pass\nANSWER: return Mine(2, 3)(x)",
    "a subclass of a subclass": ("class A(torch.nn.RNN):\n    pass\nclass B(A):\n    pass\nANSWER: return B(2, 3)(x)"),
    "a method": (
        "class Mine:\n    def run(self, x):\n        return self.go(x)\n"
        "    def go(self, x):\n        return torch.nn.RNN(2)(x)\n"
        "ANSWER: return Mine().run(x)"
    ),
    "a class attribute": ("class Mine:\n    tools = torch.nn\nANSWER: return Mine.tools.RNN(2, 3)(x)"),
    "an attribute of a function": ("ANSWER: return answer.layer(x)\n---\nanswer.layer = torch.nn.RNN(2, 3)"),
    "made before": "layer = torch.nn.RNN(2, 3)\n---\nANSWER: return layer(x)",
    "computed before": "right = torch.nn.RNN(2, 3)(torch.ones(1, 2))\n---\nANSWER: return right",
    "kept before": "kept = {}\nkept['a'] = torch.nn.RNN(2, 3)(torch.ones(1, 2))[0] * 2\nANSWER: return kept",
    "kept by a call": (
        "def fill():\n    global kept\n    kept = torch.nn.RNN(2, 3)(torch.ones(1, 2))\n---\nfill()\n---\n"
        "ANSWER: return kept"
    ),
    "defined elsewhere": f"{OWN}\n---\nANSWER: return torch.nn.RNN(2, 3)(x)",
    "scripted": "@torch.jit.script\nANSWER: return torch.rnn_tanh(x, weights)",
    "compiled": "def f(x, w):\n    return torch.nn.RNN(2, 3)(x)\nanswer = torch.compile(f)",
    "in a thread": (
        "import threading\ndef work():\n    torch.nn.RNN(2, 3)\nANSWER: threading.Thread(target=work).start()"
    ),
    "executed": "ANSWER: exec('import torch.nn as n; n.RNN(2, 3)')",
    "executed before": "exec('from torch.nn import RNN as r')\nANSWER: return r(2, 3)(x)",
    "evaluated": "ANSWER: return eval('torch.nn.RNN')(2, 3)(x)",
    "in a match": "ANSWER: match x:\n        case _:\n            return torch.nn.RNN(2, 3)(x)",
    "in a context": "ANSWER: with torch.no_grad():\n        return torch.nn.RNN(2, 3)(x)",
    "beside a magic": "%matplotlib inline\n!pip list\nfiles = !ls\ntorch.nn?\nANSWER: return torch.nn.RNN(2)",
    "under a cell magic": "%%time\nANSWER: return torch.nn.RNN(2, 3)(x)",
    "on a line magic": "%time layer = torch.nn.RNN(2, 3)\nANSWER: return layer(x)",
    "by IPython": "get_ipython().run_cell('layer = torch.nn.RNN')\nANSWER: return layer(x)",
    "later in a loop": (
        "ANSWER: n = None\n    for _ in x:\n        if n:\n            n.RNN(2, 3)\n        n = torch.nn\n"
    ),
    "a coroutine": "async def work():\n    return torch.nn.RNN(2, 3)\nANSWER: return work()",
    "a generator": "def layers():\n    yield torch.nn\nANSWER: return [n.RNN(2, 3) for n in layers()]",
}


@pytest.mark.parametrize("name", EVASIONS)
def test_a_way_to_the_library_is_found(name):
    assert found(EVASIONS[name]) in FORBIDS


INNOCENT = {
    "the answer alone": OWN,
    "words": '# torch.nn.RNN\nANSWER: """As torch.nn.RNN does."""\n    return "torch.nn.RNN" or x',
    "own class of that name": (
        "class RNN(torch.nn.Module):\n    def forward(self, x):\n        return x\n---\nANSWER: return RNN()(x)"
    ),
    "own function of that name": "def rnn_tanh(x):\n    return x\nANSWER: return rnn_tanh(x)",
    "own variable of that name": "ANSWER: RNN = rnn = 3\n    return RNN + rnn",
    "own attribute of that name": (
        "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.RNN = torch.nn.Linear(2, 3)\n    def forward(self, x):\n        return self.RNN(x)\n"
        "ANSWER: net = Net()\n    return net.RNN(x)"
    ),
    "other layers": "ANSWER: return torch.nn.Linear(2, 3)(torch.nn.utils.rnn.pad_sequence(x))",
    "other modules of the course": "from rnn2rag import show, data\nANSWER: return show.PALETTE",
    "a comparison in another cell": (
        f"{OWN}\n---\nimport torch.nn as nn\nreference = nn.RNN(2, 3)\n"
        "assert answer(torch.ones(2), reference.weight_ih_l0) is not reference(torch.ones(1, 2))"
    ),
    "a comparison in the same cell": f"{OWN}\nlayer = torch.nn.RNN(2, 3)\nprint(answer(layer.weight_ih_l0))",
    "a comparison before": f"layer = torch.nn.RNN(2, 3)\nfrom rnn2rag.built.recurrent_networks import *\n---\n{OWN}",
    "a comparing function": f"def compare(x):\n    torch.nn.RNN(2)(x) - answer(x)\n---\n{OWN}\n---\ncompare(1)",
    "a class given the library's weights": (
        "class Cell(torch.nn.Module):\n    def __init__(self, weight):\n        super().__init__()\n"
        "        self.weight = weight\n    def forward(self, x):\n        return x @ self.weight\n---\n"
        "layer = torch.nn.RNN(2, 3)\nmine = Cell(layer.weight_ih_l0)\nmine.weight.data = layer.weight_ih_l0\n"
        "mine.load_state_dict(layer.state_dict())\n---\n"
        "ANSWER: return Cell(weights)(x)"
    ),
    "a first try": "ANSWER: return torch.nn.RNN(2, 3)(x)\n---\n" + OWN,
    "a helper's first try": (
        "def step(x):\n    return torch.nn.RNN(2, 3)(x)\n---\nstep(1)\n---\ndef step(x):\n    return x\n"
        "ANSWER: return step(x)"
    ),
    "a name that is taken away": "layer = torch.nn.RNN\ndel layer\nANSWER: return layer",
    "a local name": "layer = torch.nn.RNN\nANSWER: layer = x\n    return layer",
    "a parameter": "layer = torch.nn.RNN\ndef answer(layer, weights):\n    return layer",
    "a name in a comprehension": "n = torch.nn.RNN\nANSWER: return [n for n in x]",
    "annotations": "def answer(x: torch.nn.RNN, weights) -> torch.nn.RNN:\n    y: torch.nn.RNN = x\n    return y",
    "a cell that is no Python": "def answer(x:\n    torch.nn.RNN\n---\n" + OWN,
    "a class's own method": (
        "class Net:\n    def backward(self, error):\n        return error\nANSWER: return Net().backward(torch.ones(2))"
    ),
    "nothing": "",
}


@pytest.mark.parametrize("name", INNOCENT)
def test_what_is_the_students_own_costs_nothing(name):
    assert found(INNOCENT[name], forbids=(*FORBIDS, "torch.Tensor.backward", "torch.nn.LSTM")) is None


def test_the_first_forbidden_name_is_told():
    both = "ANSWER: torch.nn.RNNCell\n    import rnn2rag.built\n"
    assert found(both) == "torch.nn.RNNCell"
    assert found(both, forbids=["rnn2rag.built", "torch.nn.RNNCell"]) == "rnn2rag.built"
    assert found(both, forbids=["rnn2rag.data"]) is None and found(both, forbids=[]) is None


def test_each_test_of_a_notebook_is_looked_at_with_what_ran_before_it():
    second = PROBE.replace("answer(", "other(")
    notebook = look(SETUP, OWN, TWICE)
    notebook.ran("def hard(x):\n    return " + "f59(" * 60 + "x" + ")" * 60)
    assert notebook.used(PROBE, FORBIDS) is None
    notebook.ran("def other(x, weights):\n    return torch.nn.RNN(2, 3)(x)")
    assert notebook.used(PROBE, FORBIDS) is None and notebook.used(second, FORBIDS) == "torch.nn.RNN"
    notebook.ran("def other(x, weights):\n    return x")
    assert notebook.used(second, FORBIDS) is None
    notebook.ran("def answer(x, weights):\n    return torch.nn.RNNCell(2, 3)(x)")
    assert notebook.used(PROBE, FORBIDS) == "torch.nn.RNNCell" and notebook.used(second, FORBIDS) is None


def test_a_test_that_is_too_intricate_hides_no_other():
    hard = "\n".join(
        [
            "def g0(x):\n    return x",
            *(f"def g{n}(x):\n    return [" + f"g{n - 1}(x), " * 950 + "]" for n in range(1, 41)),
        ]
    )
    notebook = look(SETUP, hard, "def answer(x, weights):\n    return g40(x)")
    assert notebook.used(PROBE, FORBIDS) is None
    notebook.ran("def answer(x, weights):\n    return torch.nn.RNN(2, 3)(x)")
    assert notebook.used(PROBE, FORBIDS) == "torch.nn.RNN"


def test_other_forbidden_names():
    loss = "ANSWER: torch.Tensor.backward(x)\n    torch.autograd.grad(x, x)"
    assert found(loss, forbids=["torch.Tensor.backward"]) == "torch.Tensor.backward"
    assert found(loss, forbids=["torch.autograd.grad"]) == "torch.autograd.grad"
    attention = "import torch.nn.functional as F\nANSWER: return F.scaled_dot_product_attention(x, x, x)"
    assert found(attention, forbids=["torch.nn.functional.scaled_dot_product_attention"])
    assert found(attention, forbids=["torch.nn.MultiheadAttention"]) is None
    other = "import numpy as np\nANSWER: return np.linalg.svd(x)"
    assert found(other, forbids=["numpy.linalg"]) == "numpy.linalg"
    assert found(other, forbids=["numpy.lin", "linalg", "torch.linalg.svd"]) is None


TWICE = "\n".join(
    ["def f0(x):\n    return x", *(f"def f{n}(x):\n    return f{n - 1}(x), f{n - 1}(x)" for n in range(1, 60))]
)
HARD = {
    "long": "x = 1\n" * 1_000_000,
    "many names": "x\n" * 140_000,
    "wide values": (
        "x = ["
        + ", ".join(f"torch.a{n}" for n in range(40))
        + "]\n"
        + "def f():\n"
        + "    x.b.c.d.e\n" * 900
        + "f()\n" * 20_000
    ),
    "deep": "x = " + "(" * 100_000,
    "deep sum": "x = " + "1+" * 100_000 + "1",
    "deep calls": "x = " + "f(" * 150 + ")" * 150,
    "nested functions": "\n".join(f"{' ' * n}def f{n}():" for n in range(90)) + "\n" + " " * 90 + "pass",
    "calls that double": TWICE + "\nANSWER: return f59(x)",
    "values that double": "x = [1]\n" + "x = [x, x, torch.a, torch.b]\n" * 2000,
    "recursion": "ANSWER: return answer(answer(x))\nanswer(1)",
    "a class of itself": "class A:\n    pass\nclass A(A):\n    pass\nA()\nANSWER: return A().b",
    "text in text": "a = 'exec(a)'\nexec(a)\n",
    "texts that double": "a = 'a'\n" + "a = a + a\n" * 200,
    "a null": "x = 1\0",
    "half an emoji": "x = '\ud83d'",
    "many question marks": "?" * 200_000 + "\n" + " " * 200_000,
}


@pytest.mark.parametrize("name", HARD)
def test_code_made_to_be_hard_takes_a_moment(name):
    start = time.process_time()
    assert found(HARD[name]) is None
    assert time.process_time() - start < 3


def test_an_ordinary_notebook_takes_no_time():
    cells = "---\n".join([OWN, "layer = torch.nn.RNN(2, 3)\nprint(answer(layer))\n"] * 50)
    found(cells)
    start = time.process_time()
    found(cells)
    assert time.process_time() - start < 0.2


SCRIPTED = """

layer = torch.jit.script(torch.nn.RNNCell(1, 1))  # what it runs, Python does not see
states = leaky_states


def leaky_states(inputs, **named):
    layer(torch.ones(1, 1))
    return states(inputs, **named)
"""


@pytest.mark.parametrize(("beside", "points"), [("", 3), (SCRIPTED, 0)])
def test_a_students_own_check_finds_it_too(tmp_path, beside, points):
    nb = load(COURSE / "exercises" / SET / "recurrent-networks.ipynb")
    solved = load(COURSE / "solutions" / SET / "recurrent-networks.ipynb")
    graded_cell(nb, "leaky-cell")["source"] = "".join(graded_cell(solved, "leaky-cell")["source"]) + beside
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps(nb), encoding="utf8")
    score = worker.check(path)[0]
    assert (score.grade_id, score.points) == ("leaky-cell-test", points)
    said = {rung["message"] for rung in score.rungs}
    assert said == ({""} if points else {"torch.nn.RNNCell is not allowed in this problem: write it yourself."})
