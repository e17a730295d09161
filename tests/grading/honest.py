"""Honest submissions of problem set 1, the same every time: right, wrong and half done ones, as students write them.

Nobody attacks here. What two graders say of them must agree.
"""

import ast
import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

SET = "01-recurrent-networks"
NAME = "recurrent-networks.ipynb"
ANSWERED = "leaky-cell"  # the grade id of the cell that holds the function `leaky_states`
HEAD = "def leaky_states(inputs, lengths, weight_input, weight_hidden, bias, leak):\n"
DATA = "lengths.csv"
HELPERS = "my_helpers.py"
BESIDE = {
    DATA: "row,length\n0,3\n1,2\n2,1\n",
    HELPERS: "def mix(old, new, leak):\n    return (1 - leak) * old + leak * new\n",
}

# People of a class as registrars write them down: a folder's name each.
FIRST = (
    "ada anil anouk aoife björn chiara chloé dmitri elif emeka fatima françois goran hana igor ines jürgen jun "
    "kateřina kofi laila łukasz maría mei mikkel nadia ngozi noah olu oskar paola quý rahul renée sam søren tariq thị "
    "uma valentina viktor wei xin yusuf zoë"
).split()
LAST = (
    "abebe adeyemi andersson banerjee çelik chen costa dubois eriksen fernández garcía haddad hoang ito ivanov janssen "
    "kim kowalski larsen lee martin mbeki müller nakamura nguyễn novák o'brien okafor olsen park patel petrov "
    "rossi sato schmidt silva singh smith tanaka tran vargas wang weber wójcik yılmaz zhang"
).split()

RIGHT = (
    HEAD
    + """    batch, seq_len, _ = inputs.shape
    state = inputs.new_zeros(batch, len(bias))
    states = []
    for t in range(seq_len):
        new = torch.tanh(inputs[:, t] @ weight_input.T + state @ weight_hidden.T + bias)
        new = (1 - leak) * state + leak * new
        state = torch.where((t < lengths)[:, None], new, state)
        states.append(state)
    return torch.stack(states, dim=1)
"""
)


def inside(code, answer=RIGHT):
    """An answer with code at its beginning."""
    return answer.replace(HEAD, HEAD + "".join(f"    {line}\n" for line in code.splitlines()), 1)


def returning(value):
    """A right answer that returns something made of its states."""
    return RIGHT.replace(
        "return torch.stack(states, dim=1)", f"states = torch.stack(states, dim=1)\n    return {value}"
    )


@dataclass(frozen=True)
class Kind:
    """One way of handing in.

    answer: the source of the answer's cell; None leaves it as released. text: what is written into each free-text cell;
    None leaves it. first, before, after, last: cells of the student's own: after the notebook's imports, right before
    and right after the answer, at the end. edit: changes of the whole notebook. slow: takes seconds on purpose.
    """

    answer: str | None = RIGHT
    text: str | None = "The leak sets how fast the state forgets: about 1 / leak steps."
    first: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    edit: tuple[Callable[[dict], None], ...] = ()
    slow: bool = False


# Changes of a whole notebook


def saved_outputs(nb):
    """Cells were run out of order, and their outputs saved."""
    codes = [cell for cell in nb["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(codes):
        cell["execution_count"] = (7 * number + 3) % 19 + 1
        text = {"output_type": "stream", "name": "stdout", "text": ["leaky-cell: 3 of 3 points\n"]}
        warned = {"output_type": "stream", "name": "stderr", "text": ["UserWarning: old\n"]}
        value = {"output_type": "execute_result", "execution_count": 3, "metadata": {}, "data": {"text/plain": ["3.0"]}}
        cell["outputs"] = [text, warned, value]


def cleared(nb):
    """Without an output or a count."""
    for cell in nb["cells"]:
        if cell["cell_type"] == "code":
            cell["execution_count"], cell["outputs"] = None, []


def from_colab(nb):
    """As Colab saves a notebook: format 4.0, no cell ids, metadata of its own."""
    nb["nbformat_minor"] = 0
    nb["metadata"] |= {"colab": {"provenance": [], "toc_visible": True}, "accelerator": "GPU"}
    nb["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    for number, cell in enumerate(nb["cells"]):
        cell["metadata"]["id"] = cell.pop("id", f"c{number}")


def from_vs_code(nb):
    """As VS Code saves a notebook: another kernel's name, a full language_info, languages in the cells."""
    nb["metadata"]["kernelspec"] = {"display_name": "course (3.12.1)", "language": "python", "name": "course"}
    nb["metadata"]["language_info"] = {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
        "version": "3.12.1",
    }
    for cell in nb["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"]["vscode"] = {"languageId": "python"}


def from_classic(nb):
    """As the classic Notebook saves one: format 4.4, no ids, scrolled outputs, widgets' state, tags, an attachment."""
    nb["nbformat_minor"] = 4
    state = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2, "version_minor": 0}}
    nb["metadata"] |= {"toc": {"base_numbering": 1}, "varInspector": {"window_display": False}, "widgets": state}
    for cell in nb["cells"]:
        cell.pop("id", None)
        cell["metadata"] |= {"tags": ["week1"], "slideshow": {"slide_type": "-"}}
        if cell["cell_type"] == "code":
            cell["metadata"] |= {"scrolled": True, "collapsed": False}
    note = {"cell_type": "markdown", "metadata": {}, "source": "![plot](attachment:plot.png)"}
    note["attachments"] = {"plot.png": {"image/png": "iVBORw0KGgo="}}
    nb["cells"].insert(2, note)
    nb["cells"].insert(3, {"cell_type": "raw", "metadata": {}, "source": "raw notes"})


def without(*kinds):
    """Without the cells whose grade id ends in one of these."""

    def edit(nb):
        nb["cells"] = [cell for cell in nb["cells"] if not str(grade_id(cell)).endswith(kinds)]

    return edit


def edited_tests(nb):
    """The visible tests commented out, and given other points, as one does while looking for a mistake."""
    for cell in nb["cells"]:
        if grade_id(cell) and str(grade_id(cell)).endswith("-test"):
            cell["source"] = "".join(f"# {line}\n" for line in text_of(cell).splitlines())


def copied_answer(nb):
    """The answer's cell copied below itself with all that it carries, as JupyterLab copies a cell."""
    index = next(i for i, cell in enumerate(nb["cells"]) if grade_id(cell) == ANSWERED)
    copied = copy.deepcopy(nb["cells"][index])
    copied["id"] = "copied-answer"
    nb["cells"].insert(index + 1, copied)


def answer_below_its_tests(nb):
    """The answer stands under its test, and works in the student's own session alone."""
    index = next(i for i, cell in enumerate(nb["cells"]) if grade_id(cell) == ANSWERED)
    nb["cells"].append(nb["cells"].pop(index))


# Ways of handing in

# Who earns 1, 4 and no points: at these places among those who have not begun the rest of the set.
RARE = {1: "returns whole numbers", 5: "index error for more than one row", 9: "blank"}

TORCH_WRONG = {
    "returns None": returning("None"),
    "returns text": returning("'states'"),
    "returns the last state only": returning("states[:, -1]"),
    "returns the steps first": returning("states.transpose(0, 1)"),
    "returns NaN": returning("states / 0 * 0"),
    "returns float64": returning("states.double()"),
    "returns a tensor that asks for a gradient": returning("states.detach().requires_grad_()"),
    "returns nested lists": returning("states.tolist()"),
    "returns an array": returning("states.detach().numpy()"),
    "returns complex numbers": returning("states.to(torch.complex64)"),
    "returns a dict": returning("{'states': states, 'last': states[:, -1]}"),
    "returns whole numbers": returning("states.round().long()"),
    "cuts the gradient": RIGHT.replace("states.append(state)", "states.append(state.detach())"),
    "prints instead of returning": RIGHT.replace("return torch.stack(states, dim=1)", "print(torch.stack(states, 1))"),
    "name error in the answer": RIGHT.replace("state = inputs.new_zeros", "state = input.new_zeros"),
    "index error for more than one row": inside("inputs[1, 0], lengths[1]"),
    "copies the numbers of the test": HEAD + "    return torch.tensor([[[0.1904, 0.1155], [0.1716, 0.0866]]])\n",
    "asserts too much": inside("assert len(set(lengths.tolist())) == 1, 'only equal lengths'"),
}

KINDS = {
    "loop": Kind(),
    "a builtin's name": Kind(before=("round = 3\nmax = max([1, 2])",)),
    "half done: the last lines lack": Kind(RIGHT.rpartition("    return")[0] + "    raise NotImplementedError\n"),
    "blank": Kind(None, None),
    "syntax error": Kind(RIGHT.replace("for t in range(seq_len):", "for t in range(seq_len)"), None),
    "float64 by default": Kind(first=("torch.set_default_dtype(torch.float64)",)),
    "helpers in cells before": Kind(
        HEAD + "    return run_cell(inputs, lengths, partial(one_step, weight_input, weight_hidden, bias, leak))\n",
        first=("from functools import partial",),
        before=(
            "def one_step(w_x, w_h, b, a, x, h):\n    return (1 - a) * h + a * torch.tanh(x @ w_x.T + h @ w_h.T + b)",
            "def run_cell(inputs, lengths, step):\n"
            "    h = torch.zeros(inputs.shape[0], step.args[2].shape[0])\n    all_h = []\n"
            "    for t, x in enumerate(inputs.unbind(1)):\n"
            "        h = torch.where((lengths > t).unsqueeze(1), step(x, h), h)\n        all_h += [h]\n"
            "    return torch.stack(all_h, 1)",
        ),
    ),
    "class": Kind(
        "class LeakyCell:\n"
        '    """A leaky recurrent cell."""\n\n'
        "    def __init__(self, w_x, w_h, b, a):\n        self.w_x, self.w_h, self.b, self.a = w_x, w_h, b, a\n\n"
        "    def __call__(self, x, h):\n"
        "        return torch.lerp(h, torch.tanh(x @ self.w_x.T + h @ self.w_h.T + self.b), self.a)\n\n\n"
        + HEAD
        + "    cell = LeakyCell(weight_input, weight_hidden, bias, leak)\n"
        "    states = [inputs.new_zeros(len(inputs), len(bias))]\n"
        "    for t in range(inputs.size(1)):\n"
        "        runs = (t < lengths).unsqueeze(-1)\n"
        "        states.append(torch.where(runs, cell(inputs[:, t], states[-1]), states[-1]))\n"
        "    return torch.stack(states[1:], 1)\n"
    ),
    "module of torch.nn": Kind(
        "from torch import nn\n\n\nclass Leaky(nn.Module):\n    def __init__(self, w_x, w_h, b, a):\n"
        "        super().__init__()\n        self.a, self.w_x, self.w_h, self.b = a, w_x, w_h, b\n\n"
        "    def forward(self, inputs, lengths):\n"
        "        h, out = torch.zeros(len(inputs), len(self.b)), []\n"
        "        for t in range(inputs.shape[1]):\n"
        "            new = torch.tanh(nn.functional.linear(inputs[:, t], self.w_x, self.b) + h @ self.w_h.mT)\n"
        "            mask = (t < lengths).float()[:, None] * self.a\n"
        "            h = h + mask * (new - h)\n            out.append(h)\n        return torch.stack(out, 1)\n\n\n"
        + HEAD
        + "    return Leaky(weight_input, weight_hidden, bias, leak)(inputs, lengths)\n"
    ),
    "einsum and Greek names": Kind(
        HEAD + "    α, W, U, β = leak, weight_input, weight_hidden, bias\n"
        "    h = torch.zeros(inputs.shape[0], U.shape[0])\n    H = []  # every state, héhé 😀\n"
        "    for t, x in enumerate(inputs.permute(1, 0, 2)):\n"
        "        σ = torch.tanh(torch.einsum('bi,hi->bh', x, W) + torch.einsum('bk,hk->bh', h, U) + β)\n"
        "        läuft = (lengths > t)[:, None]\n        h = torch.where(läuft, (1 - α) * h + α * σ, h)\n"
        "        H.append(h)\n    return torch.stack(H, dim=1)\n"
    ),
    "type hints and a docstring": Kind(
        RIGHT.replace(
            HEAD,
            "from torch import Tensor\n\n\ndef leaky_states(\n    inputs: Tensor, lengths: Tensor, "
            "weight_input: Tensor, weight_hidden: Tensor, bias: Tensor, leak: float\n) -> Tensor:\n"
            '    """States of a leaky cell.\n\n    >>> leaky_states(x, n, w, u, b, 0.5).shape\n    """\n',
        )
    ),
    "recursion": Kind(
        HEAD + "    def upto(t):\n        if t == 0:\n            return [inputs.new_zeros(len(inputs), len(bias))]\n"
        "        before = upto(t - 1)\n        h = before[-1]\n"
        "        new = (inputs[:, t - 1] @ weight_input.T + h @ weight_hidden.T + bias).tanh()\n"
        "        return before + [torch.where((t <= lengths)[:, None], h + leak * (new - h), h)]\n\n"
        "    return torch.stack(upto(inputs.shape[1])[1:], dim=1)\n"
    ),
    "itertools.accumulate": Kind(
        HEAD
        + "    from itertools import accumulate\n\n    def step(h, tx):\n        t, x = tx\n"
        + "        new = torch.tanh(x @ weight_input.T + h @ weight_hidden.T + bias)\n"
        + "        return torch.where((t < lengths)[:, None], (1 - leak) * h + leak * new, h)\n\n"
        + "    h_0 = torch.zeros(len(inputs), len(bias))\n"
        + "    states = list(accumulate(enumerate(inputs.unbind(1)), step, initial=h_0))\n"
        + "    return torch.stack(states[1:], dim=1)\n"
    ),
    "a tensor made before": Kind(
        HEAD + "    out = torch.zeros(inputs.shape[0], inputs.shape[1], weight_hidden.shape[0])\n"
        "    for b in range(len(inputs)):\n        h = torch.zeros(weight_hidden.shape[0])\n"
        "        for t in range(inputs.shape[1]):\n            if t < lengths[b]:\n"
        "                inner = weight_input @ inputs[b, t] + weight_hidden @ h + bias\n"
        "                h = (1 - leak) * h + leak * torch.tanh(inner)\n"
        "            out[b, t] = h\n    return out\n"
    ),
    "numpy": Kind(
        HEAD + "    x, w, u, b = (v.detach().numpy() for v in (inputs, weight_input, weight_hidden, bias))\n"
        "    h, out = np.zeros((len(x), len(b)), dtype=np.float32), []\n    for t in range(x.shape[1]):\n"
        "        new = (1 - leak) * h + leak * np.tanh(x[:, t] @ w.T + h @ u.T + b)\n"
        "        h = np.where((t < lengths.numpy())[:, None], new, h)\n        out.append(h)\n"
        "    return torch.from_numpy(np.stack(out, axis=1)).float()\n",
        first=("import numpy as np",),
    ),
    "threads": Kind(
        "from concurrent.futures import ThreadPoolExecutor\n\n\ndef one_row(args):\n"
        "    x, n, w, u, b, a = args\n    h, out = torch.zeros(len(b)), []\n    for t in range(len(x)):\n"
        "        h = (1 - a) * h + a * torch.tanh(w @ x[t] + u @ h + b) if t < n else h\n        out.append(h)\n"
        "    return torch.stack(out)\n\n\n"
        + HEAD
        + "    rest = weight_input, weight_hidden, bias, leak\n    with ThreadPoolExecutor(4) as pool:\n"
        "        rows = pool.map(one_row, [(x, n, *rest) for x, n in zip(inputs, lengths)])\n"
        "    return torch.stack(list(rows))\n"
    ),
    "prints in the answer": Kind(
        inside("print('shapes:', inputs.shape, lengths)\nprint(f'{leak=}')"),
        after=("leaky_states(torch.ones(1, 2, 1), torch.tensor([2]), *map(torch.ones, [(3, 1), (3, 3), 3]), 0.5)",),
    ),
    "warns in the answer": Kind(inside("import warnings\nwarnings.warn('the shapes are not checked')")),
    "warns in a cell": Kind(after=("import warnings\nwarnings.warn('mine')\ntorch.tensor(torch.ones(2))",)),
    "logs in the answer": Kind(inside("import logging\nlogging.warning('leak %s', leak)")),
    "logging set up in a cell": Kind(
        inside("log.info('leak %s', leak)"),
        first=(
            "import logging\nlogging.basicConfig(level=logging.INFO)\nlog = logging.getLogger('me')\nlog.info('hi')",
        ),
    ),
    "stderr in a cell": Kind(last=("import sys\nprint('debug', file=sys.stderr)\nsys.stderr.write('more\\n')",)),
    "stderr in the answer": Kind(inside("import sys\nprint('debug', file=sys.stderr)")),
    "tqdm": Kind(
        RIGHT.replace("range(seq_len)", "tqdm(range(seq_len), desc='steps')"),
        first=("from tqdm import tqdm",),
        last=("for _ in tqdm(range(100)):\n    pass",),
    ),
    "tqdm in a widget": Kind(
        RIGHT.replace("range(seq_len)", "tqdm(range(seq_len), leave=False)"), first=("from tqdm.auto import tqdm",)
    ),
    "plots": Kind(
        first=("%matplotlib inline\nimport matplotlib.pyplot as plt",),
        after=(
            "states = leaky_states(torch.ones(2, 20, 1), torch.tensor([20, 5]), "
            "torch.ones(3, 1), torch.eye(3), torch.zeros(3), 0.3)\n"
            "plt.plot(states[0], label='long')\nplt.legend()\nplt.title('états')\nplt.show()",
            "fig, ax = plt.subplots()\nax.imshow(states[1])",
        ),
    ),
    "plots in the answer": Kind(
        inside("plt.figure()\nplt.plot(inputs[0].detach())"), first=("import matplotlib.pyplot as plt",)
    ),
    "await": Kind(last=("import asyncio\nawait asyncio.sleep(0)\nx = await asyncio.gather(asyncio.sleep(0, 'a'))\nx",)),
    "magics": Kind(
        first=("%load_ext autoreload\n%autoreload 2\n%config InlineBackend.figure_format = 'retina'",),
        last=(
            "%time sum(range(1000))",
            "%%capture out\nprint('hidden')",
            "!ls\n!pwd\nfiles = !echo one two\nprint(files)",
            "%timeit -n 2 -r 2 torch.zeros(3)",
            "%who_ls\n%pwd",
            "torch.stack?",
            "%%bash\necho hello from bash",
        ),
    ),
    "the answer is timed": Kind("%%time\n" + RIGHT),
    "numbers are shown in another way": Kind(
        first=("%precision 3\ntorch.set_printoptions(precision=2, sci_mode=False)",)
    ),
    "every value is shown": Kind(
        first=(
            "from IPython.core.interactiveshell import InteractiveShell\n"
            "InteractiveShell.ast_node_interactivity = 'all'\n1\n2",
        )
    ),
    "display": Kind(
        after=(
            "from IPython.display import HTML, Markdown, display\ndisplay(torch.randn(50, 50), HTML('<b>done</b>'))\n"
            "display(Markdown('$h_t$'))\ntorch.arange(10.0)",
        )
    ),
    "seeds": Kind(
        first=("import random\nimport numpy as np\nrandom.seed(0)\nnp.random.seed(0)\ntorch.manual_seed(0)",),
        last=("torch.rand(2), np.random.rand(2), random.random()",),
    ),
    "asks": Kind(last=("name = input('Your name? ')", "print(name)")),
    "an error in a cell before": Kind(first=("import seaborn_of_mine as sns", "df.head()", "1 / 0")),
    "an error in the last cell": Kind(last=("raise ValueError('stop here')",)),
    "a syntax error in a cell": Kind(before=("for i in range(3)\n    print(i)", "print 'hello'")),
    "saved outputs": Kind(edit=(saved_outputs,), after=("leaky_states",)),
    "cleared outputs": Kind(edit=(cleared,)),
    "from Colab": Kind(
        edit=(saved_outputs, from_colab), first=("try:\n    import google.colab\nexcept ImportError:\n    pass",)
    ),
    "from VS Code": Kind(edit=(from_vs_code,)),
    "from the classic Notebook": Kind(edit=(from_classic,)),
    "copied answer": Kind(edit=(copied_answer,)),
    "the answer below its tests": Kind(edit=(answer_below_its_tests,)),
    "edited tests": Kind(edit=(edited_tests,)),
    "without a test": Kind(edit=(without("-test"),)),
    "without the hidden tests": Kind(edit=(without("-hidden"),)),
    "without the answer's cell": Kind(edit=(without(ANSWERED),)),
    "the answer in another cell": Kind(None, after=(RIGHT,)),
    "an empty answer": Kind("", ""),
    "pass": Kind(HEAD + "    pass\n", "I do not know."),
    "text with a space": Kind(text=" "),
    "text not written": Kind(text=None),
    "a long text": Kind(
        text="## Answer\n\n$$h_t = (1 - a) h_{t-1} + a\\,\\tanh(\\cdot)$$\n\n1. *Erstens* — größer\n2. 第二 😀\n\n"
        "| leak | steps |\n|---|---|\n| 0.1 | 10 |\n\n<b>bold</b> & `code`\n\n" + "A longer argument follows. " * 200
    ),
    "notes at the end": Kind(last=("# scratch", "x = torch.ones(3)\nx.sum()", "")),
    "reads a file": Kind(
        first=(
            "import csv",
            f"rows = list(csv.DictReader(open('{DATA}')))\nlongest = max(int(r['length']) for r in rows)",
        ),
        answer=inside("assert longest == 3"),
    ),
    "a module beside": Kind(
        first=("from my_helpers import mix",),
        answer=RIGHT.replace("(1 - leak) * state + leak * new", "mix(state, new, leak)"),
    ),
    "writes a module": Kind(
        first=(f"%%writefile steps.py\n{BESIDE[HELPERS]}", "from steps import mix"),
        answer=RIGHT.replace("(1 - leak) * state + leak * new", "mix(state, new, leak)"),
    ),
    "writes files": Kind(
        last=(
            "import os\nos.makedirs('out', exist_ok=True)\ntorch.save({'leak': 0.5}, 'out/weights.pt')\n"
            "torch.load('out/weights.pt')",
            "import tempfile\nwith tempfile.NamedTemporaryFile('w') as f:\n    print(f.write('x'))",
        )
    ),
    "a process of its own": Kind(
        last=("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(6)'], capture_output=True).stdout",)
    ),
    "global state": Kind(
        inside("global calls\ncalls += 1\nseen.append(inputs.shape)"), before=("calls = 0\nseen = []",)
    ),
    "names of the tests": Kind(before=("problem = 'leaky'\nexpected = 1\ndata = states = gradient = []",)),
    "prints much": Kind(inside("for number in range(2000):\n    print(f'step {number:05}: {leak:.20f}')")),
    "200 kB of output": Kind(last=("for number in range(5000):\n    print('x' * 40)",)),
    "no gradients": Kind(first=("torch.set_grad_enabled(False)",)),
    "every name of torch": Kind(first=("from torch import *",)),
    "runs a script": Kind(
        first=("%%writefile leaky.py\nimport torch\n" + RIGHT.replace("leaky_states", "by_script"), "%run leaky.py"),
        answer=HEAD + "    return by_script(inputs, lengths, weight_input, weight_hidden, bias, leak)\n",
    ),
    "another folder": Kind(
        first=("import os, sys\nsys.path.append('..')\nos.chdir('/tmp')\ntorch.set_num_threads(2)",)
    ),
    "warnings are errors": Kind(
        inside("import warnings\nwarnings.warn('x')"), first=("import warnings\nwarnings.filterwarnings('error')",)
    ),
    "a breakpoint left in": Kind(inside("breakpoint()")),
    "endless recursion": Kind(
        HEAD + "    return leaky_states(inputs, lengths, weight_input, weight_hidden, bias, leak)\n"
    ),
    "too much memory": Kind(inside("torch.zeros(10**14)")),
    "a coroutine": Kind("async " + RIGHT),
    "the answer is captured": Kind("%%capture\n" + RIGHT),
    "without gradients": Kind("@torch.no_grad()\n" + RIGHT),
    "vmap": Kind(RIGHT.replace("torch.tanh(", "torch.vmap(torch.tanh)(")),
    "control characters": Kind(inside(r"print('\0 \x1b[31mred\x1b[0m \u202e \b\x07')"), last=("print('\0 \x0c')",)),
    "a shell in the answer": Kind(inside("!echo hi")),
    "stderr of a program": Kind(inside("import os\nos.system('echo hi >&2')")),
    "an error in a thread": Kind(
        inside("import threading\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\nthread.join()")
    ),
    "widgets": Kind(
        inside("with out:\n    print('in the widget')"),
        first=("import ipywidgets\nout = ipywidgets.Output()\nipywidgets.interact(lambda x: x, x=5)\nout",),
    ),
    "clears the output": Kind(inside("from IPython.display import clear_output\nclear_output()")),
    "leaves": Kind(last=("exit()",)),
    "leaves early": Kind(first=("quit()",)),
    "leaves in the answer": Kind(inside("import sys\nsys.exit(1)")),
    "the book's code beside": Kind(first=("import rnn2rag.built.recurrent_networks as book\nbook.__name__",)),
    "the library beside": Kind(before=("torch.nn.RNN(2, 3)(torch.ones(1, 4, 2))[0].shape",)),
    "trains": Kind(
        last=(
            "model = torch.nn.Linear(2, 1)\noptimizer = torch.optim.Adam(model.parameters())\nfor _ in range(3):\n"
            "    model(torch.ones(4, 2)).sum().backward()\n    optimizer.step()\n    optimizer.zero_grad()",
        ),
        slow=True,
    ),
    "sleeps": Kind(inside("import time\ntime.sleep(0.5)"), slow=True),
    "installs": Kind(first=("!pip install -q torch", "%pip --version"), slow=True),
    "loads data in a process": Kind(
        last=(
            "from torch.utils.data import DataLoader, TensorDataset\n"
            "sum(x[0].sum() for x in DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=2, num_workers=1))",
        ),
        slow=True,
    ),
    **{kind: Kind(answer) for kind, answer in TORCH_WRONG.items()},
}


def kinds(root):
    """Every way of handing in: the ones above and each planted answer of the set, mixed, for any part to show many."""
    known = {**{name: Kind(answer) for name, answer in planted(root).items()}, **KINDS}
    names = list(known)
    mixed = [name for start in (0, 2, 1, 3) for name in names[start::4]]
    for place, name in RARE.items():
        mixed.remove(name)
        mixed.insert(place, name)
    return {name: known[name] for name in mixed}


def planted(root, answer=ANSWERED):
    """The planted answers of one of the set's problems, right, wrong and forbidden, as a student writes them."""
    path = root / "solutions" / SET / "misconceptions.py"
    text = path.read_text(encoding="utf8")
    asked = function_of(root, answer)
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and any(_is_for(decorator, answer) for decorator in node.decorator_list):
            source = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
            found[node.name.replace("_", " ")] = source.replace(f"def {node.name}(", f"def {asked}(", 1) + "\n"
    return found


def function_of(root, answer):
    """The name of the function that an answer's cell asks for."""
    nb = json.loads((root / "exercises" / SET / NAME).read_text(encoding="utf8"))
    return re.search(r"^def (\w+)\(", text_of(next(c for c in nb["cells"] if grade_id(c) == answer)), re.MULTILINE)[1]


def other_answers(root):
    """{cell: ways of filling it} of the set's other coded problems: as released, the set's own, every planted one."""
    nb = json.loads((root / "solutions" / SET / NAME).read_text(encoding="utf8"))
    own = {
        grade_id(cell): re.sub(r"(?m)^ *### (BEGIN|END) SOLUTION\n", "", text_of(cell) + "\n")
        for cell in nb["cells"]
        if cell["cell_type"] == "code" and cell["metadata"].get("nbgrader", {}).get("solution")
    }
    return {
        answer: [None, source, *planted(root, answer).values()] for answer, source in own.items() if answer != ANSWERED
    }


def roster(root, count=48, slow=True):
    """{student: way of handing in} for `count` students; slow: False leaves out what sleeps or waits on purpose."""
    known = [name for name, kind in kinds(root).items() if slow or not kind.slow]
    return {student(number): known[number % len(known)] for number in range(count)}


def student(number):
    """The name of a student, another one for each number."""
    again, index = divmod(number, len(FIRST) * len(LAST))
    turn, place = divmod(index, len(FIRST))
    first, last = FIRST[place], LAST[(7 * place + turn) % len(LAST)]
    return f"{last}.{first}" + (f"-{again + 1}" if again else "")


def submissions(root, count=48, slow=True):
    """{student: notebook}: what `count` students handed in, of the released notebook in root/exercises/.

    Every fourth has the rest of the set right, another fourth has not begun it, the others have both.
    """
    released = json.loads((root / "exercises" / SET / NAME).read_text(encoding="utf8"))
    known, others = kinds(root), other_answers(root)
    return {
        name: filled(
            released,
            known[kind],
            {answer: rest(number, place, ways) for place, (answer, ways) in enumerate(others.items())},
        )
        for number, (name, kind) in enumerate(roster(root, count, slow).items())
    }


def rest(number, place, ways):
    """How one student answers one of the other problems: right, not at all, or in some way."""
    return {0: ways[1], 1: None}.get(number % 4, ways[(number + place) % len(ways)])


def filled(released, kind, others=None):
    """The released notebook, filled in as one kind of student does; others: {cell: source} of the other problems."""
    nb = copy.deepcopy(released)
    cells = []
    for cell in nb["cells"]:
        is_answer = grade_id(cell) == ANSWERED
        if is_answer and kind.answer is not None:
            cell["source"] = kind.answer
        if (others or {}).get(grade_id(cell)):
            cell["source"] = others[grade_id(cell)]
        if is_free_text(cell) and kind.text is not None:
            cell["source"] = text_of(cell) + " " if kind.text == " " else kind.text
        cells += [*(map(own, kind.before) if is_answer else ()), cell, *(map(own, kind.after) if is_answer else ())]
        if cell["cell_type"] == "code" and kind.first and not any(map(is_own, cells)):
            cells += map(own, kind.first)
    nb["cells"] = [*cells, *map(own, kind.last)]
    for number, cell in enumerate(filter(is_own, nb["cells"])):
        cell["id"] = f"own-{number}"
    for edit in kind.edit:
        edit(nb)
    return nb


def own(source):
    return {"cell_type": "code", "id": "own", "metadata": {}, "execution_count": None, "outputs": [], "source": source}


def is_own(cell):
    return str(cell.get("id", "")).startswith("own")


def grade_id(cell):
    return cell["metadata"].get("nbgrader", {}).get("grade_id")


def is_free_text(cell):
    """Whether a cell is a free-text answer."""
    data = cell["metadata"].get("nbgrader", {})
    return cell["cell_type"] == "markdown" and bool(data.get("solution"))


def text_of(cell):
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def write(tree, students):
    """Put notebooks, {student: notebook}, into submitted/STUDENT/SET/, each with the files that it reads."""
    for name, nb in students.items():
        folder = tree / "submitted" / name / SET
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NAME).write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
        sources = "\n".join(text_of(cell) for cell in nb["cells"])
        for file, text in BESIDE.items():
            if re.search(rf"\b{file.removesuffix('.py')}\b", sources):
                (folder / file).write_text(text, encoding="utf8")


def _is_for(decorator, answer):
    return isinstance(decorator, ast.Call) and any(
        isinstance(value, ast.Constant) and value.value == answer for value in decorator.args
    )
