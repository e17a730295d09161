"""Notebooks in real kernels: what comes back, what went wrong, what is cut off, and that no kernel stays behind."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
from conftest import notebook
from nbformat.v4 import new_code_cell, new_notebook, new_output

from rnn2rag import execute
from rnn2rag.errors import UserError

REACH = """
import socket
from pathlib import Path
try:
    socket.create_connection(("127.0.0.1", int(Path("{port}").read_text())), timeout=2)
    print("reached")
except OSError as error:
    print(type(error).__name__)
"""


def with_old_outputs():
    """A notebook that was saved with outputs, the first of its cells an intended error."""
    nb = notebook("1 / 0", "print('slow')\nimport time\ntime.sleep(60)", "print('never')")
    nb.cells[0].metadata["tags"] = ["raises-exception"]
    for count, cell in enumerate(nb.cells, start=1):
        cell.execution_count, cell.outputs = count, [new_output("stream", name="stderr", text="of old")]
    return nb


def tagged():
    nb = notebook("{}['nothing']", "'went on'")
    nb.cells[0].metadata["tags"] = ["raises-exception"]
    return nb


JULIA = {"name": "julia", "display_name": "Julia"}
USES = "import time\nblock = bytearray(150_000_000)\nblock[::4096] = b'1' * len(block[::4096])\n" + (
    "start = time.process_time()\nwhile time.process_time() - start < 1: pass"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every kind of notebook, run side by side; the runs by name."""
    import socket

    folder = tmp_path_factory.mktemp("beside")
    (folder / "beside.txt").write_text("here", encoding="utf8")
    server = socket.create_server(("127.0.0.1", 0))
    (folder / "port").write_text(str(server.getsockname()[1]), encoding="utf8")
    reach = REACH.format(port=folder / "port")
    tasks = {
        "error": execute.Task(notebook("print('first')", "x = 1\nx / 0", "print('never')")),
        "goes on": execute.Task(notebook("1 / 0", "'after'"), allow_errors=True),
        "intended": execute.Task(tagged()),
        "slow": execute.Task(with_old_outputs(), cell_timeout=2),
        "dead": execute.Task(notebook("print('alive')", "import os\nos._exit(3)"), allow_errors=True),
        "noise": execute.Task(notebook("import sys, warnings\nwarnings.warn('loud')", "print('x', file=sys.stderr)")),
        "shadows": execute.Task(notebook("sum = print = len = json = 0\n7"), allow_errors=True),
        "folder": execute.Task(notebook("print(open('beside.txt').read())"), folder=folder),
        "empty": execute.Task(notebook("import os\nprint(os.listdir())\nopen('mine', 'w').close()")),
        "environment": execute.Task(notebook("import os, sys\nprint(os.getenv('A'), sys.prefix)"), None, {"A": "7"}),
        "online": execute.Task(notebook(reach)),
        "offline": execute.Task(notebook(reach, "import os\nprint(os.environ['https_proxy'])"), network=False),
        "uses": execute.Task(notebook(USES)),
        "wrong kernel": execute.Task(new_notebook(cells=[new_code_cell("6 * 7")], metadata={"kernelspec": JULIA})),
        "nothing": execute.Task(new_notebook()),
    }
    given = copy.deepcopy(list(tasks.values()))
    seen = []
    results = execute.run_all(list(tasks.values()), jobs=3, done=lambda index, run: seen.append((index, run)))
    server.close()
    assert list(tasks.values()) == given, "the notebooks that were given have changed"
    assert [run for _, run in sorted(seen, key=lambda pair: pair[0])] == results
    return dict(zip(tasks, results, strict=True))


def printed(run, cell=0):
    return "".join(output.text for output in run.notebook.cells[cell].outputs if output.output_type == "stream")


def test_an_error_ends_the_run_and_names_its_cell(runs):
    run = runs["error"]
    assert run.error == "ZeroDivisionError: division by zero\nin the cell\n    x = 1\n    x / 0"
    assert printed(run) == "first\n" and run.notebook.cells[2].outputs == []
    assert (run.cpu_seconds, run.peak_memory, run.versions) == (0.0, 0, {})


@pytest.mark.parametrize("name", ["goes on", "intended"])
def test_an_error_that_is_allowed(runs, name):
    run = runs[name]
    assert run.error is None and run.cpu_seconds > 0
    assert run.notebook.cells[0].outputs[0].output_type == "error"
    assert run.notebook.cells[1].outputs[0].data["text/plain"] in ("'after'", "'went on'")


def test_a_timeout_names_the_cell_that_ran_whatever_the_file_held(runs):
    run = runs["slow"]
    assert run.error.startswith("a cell took longer than 2 s\nin the cell\n    print('slow')")
    assert run.noise == [] and run.notebook.cells[2].outputs == [] and run.wall_seconds < 20


def test_a_kernel_that_dies(runs):
    assert runs["dead"].error == "the kernel died\nin the cell\n    import os\n    os._exit(3)"
    assert printed(runs["dead"]) == "alive\n"


def test_noise(runs):
    first, second = runs["noise"].noise
    assert "UserWarning: loud" in first and second == "x\n" and runs["noise"].error is None
    assert runs["error"].noise == []


def test_a_notebook_may_name_its_variables_as_it_likes(runs):
    assert runs["shadows"].error is None and runs["shadows"].cpu_seconds > 0


def test_folders_and_environment(runs):
    assert printed(runs["folder"]) == "here\n"
    assert printed(runs["empty"]) == "[]\n"
    assert printed(runs["environment"]) == f"7 {sys.prefix}\n"


def test_the_network_is_really_cut(runs):
    assert printed(runs["online"]) == "reached\n"
    assert printed(runs["offline"]) != "reached\n" and runs["offline"].error is None
    assert printed(runs["offline"], 1) == "http://127.0.0.1:9\n"


def test_usage_is_sane(runs):
    run, small = runs["uses"], runs["empty"]
    assert 1 < run.cpu_seconds < 4 and run.cpu_seconds <= run.wall_seconds + 1
    assert 150e6 < run.peak_memory < 400e6 and small.peak_memory < run.peak_memory - 100e6
    assert run.versions["python"] == ".".join(map(str, sys.version_info[:3])) and run.versions["torch"][0].isdigit()


def test_the_added_cell_is_gone(runs):
    assert [len(runs[name].notebook.cells) for name in ("nothing", "uses", "error")] == [0, 1, 3]


def test_the_interpreter_is_this_one_whatever_the_notebook_says(runs):
    assert runs["wrong kernel"].notebook.cells[0].outputs[0].data["text/plain"] == "42"


# In the sandbox

ALIKE = (
    "1 + 1",
    "print('a')\nprint('b', end='')\n3",
    "import sys\nprint('loud', file=sys.stderr)",
    "{}['nothing']",
    "import os\nos.system('echo low')\nprint('high')",
    "!echo shell",
    "from IPython.display import display, clear_output, Markdown\nshown = display(1, display_id=True)\nshown.update(2)",
    "print('gone')\nclear_output()\nprint('x')\nclear_output(wait=True)\nprint('stays')",
    "display(Markdown('*m*'), {'a': 1}, metadata={'k': 1})",
    "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    "import ipywidgets\nfrom tqdm import tqdm\nlist(tqdm(range(3), disable=True))",
    "input('?')",
    "import asyncio\ntask = asyncio.create_task(asyncio.sleep(0.01, 'done'))",
    "await task",
    "asyncio.run(asyncio.sleep(0))",
    "x = 5\n%store x\n%who_ls int",
    "import __main__, pickle\nclass A: pass\n__main__.x, type(pickle.loads(pickle.dumps(A()))).__name__, __name__",
    "def broken(:",
    "%%capture kept\nprint('unseen')",
    "kept.stdout, _, Out[1], In[1]",
    "get_ipython().run_line_magic('timeit', '-n1 -r1 -q pass')\n'ipykernel_launcher' in sys.argv[0]",
    "raise SystemExit",
    "class Bad:\n    def __repr__(self):\n        raise ValueError('no text')\nBad()",
    "sys.stdout.isatty(), sys.stdout.encoding.lower(), sys.stdin.readline()",
    "",
)


@pytest.fixture(scope="module")
def zygote():
    """A warm process of the sandbox."""
    found = execute.sandbox.obstacle()
    if found:
        pytest.skip(f"not run: {found[0]}")
    with execute.sandbox.Zygote("bubblewrap") as started:
        yield started


def boxed(zygote, *sources, seconds=60.0):
    return execute.run_in(zygote, execute.sandbox.Box(), notebook(*sources), seconds)


def plainly(cell):
    """What a cell shows, without what differs from run to run."""
    shown = []
    for output in cell.outputs:
        output = copy.deepcopy(output)
        if output.output_type == "stream":
            if shown and shown[-1].get("name") == output.name:
                shown[-1].text += output.text
                continue
        elif output.output_type == "error":
            output.traceback = len(output.traceback)
        elif "image/png" in output.data:
            output.data["image/png"] = len(output.data["image/png"])
        shown.append(output)
    return shown, cell.execution_count


def test_a_kernel_in_the_sandbox_shows_what_a_kernel_shows(zygote, monkeypatch):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # ipykernel would not look at the descriptors
    ours = boxed(zygote, *ALIKE)
    plain = execute.run(execute.Task(notebook(*ALIKE), allow_errors=True))
    for source, one, other in zip(ALIKE, ours.notebook.cells, plain.notebook.cells, strict=True):
        assert (source, *plainly(one)) == (source, *plainly(other))
    assert ours.error is None and plain.error is None
    assert 0 < ours.cpu_seconds < 10 and 50e6 < ours.peak_memory < 1e9


def test_exit_ends_a_kernel_in_the_sandbox(zygote):
    run = boxed(zygote, "print('first')\nexit()", "'never'")
    assert run.error == "the kernel died\nin the cell\n    'never'" and printed(run) == "first\n"


def test_every_kernel_is_fresh_and_draws_its_own(zygote):
    draws = "import random, numpy\nrandom.random(), numpy.random.rand()"
    first, second = (boxed(zygote, draws, "x = 1", "dir()") for _ in range(2))
    assert first.notebook.cells[0].outputs != second.notebook.cells[0].outputs
    assert first.notebook.cells[2].outputs == second.notebook.cells[2].outputs


@pytest.mark.parametrize("slow", ["import time\ntime.sleep(60)", "import asyncio\nawait asyncio.sleep(60)"])
def test_a_cell_in_the_sandbox_that_takes_too_long_is_interrupted(zygote, slow):
    run = boxed(zygote, f"print('first')\n{slow}", "'after'", seconds=1)
    assert run.error is None and run.wall_seconds < 10
    assert printed(run) == "first\n"
    assert run.notebook.cells[0].outputs[-1].ename in ("KeyboardInterrupt", "CancelledError")
    assert run.notebook.cells[1].outputs[0].data["text/plain"] == "'after'"


def test_a_cell_in_the_sandbox_that_cannot_be_interrupted_ends_the_run(zygote, monkeypatch):
    monkeypatch.setattr(execute, "GRACE", 1.0)
    ignores = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nimport time\ntime.sleep(60)"
    run = boxed(zygote, ignores, "'never'", seconds=1)
    assert run.error.startswith("a cell took longer than 1 s") and run.wall_seconds < 10
    assert run.notebook.cells[1].outputs == []


def test_a_cell_in_the_sandbox_cannot_flood(zygote):
    run = boxed(
        zygote,
        "print('x' * 5_000_000)",
        "for _ in range(300_000): print('some text')",
        "for number in range(3000): display(number)",
        "import os\nfor _ in range(60): os.write(1, b'y' * 1_000_000)",
        "display({'text/plain': 'z' * 40_000_000}, raw=True)",
        "'after'",
    )
    assert run.error is None
    assert [len(printed(run, cell)) for cell in (0, 1, 3)] == [1 << 20] * 3
    assert [len(run.notebook.cells[cell].outputs) for cell in (2, 4)] == [execute.sandbox.MOST, 0]
    assert run.notebook.cells[5].outputs[0].data["text/plain"] == "'after'"


def processes():
    """The parent and the command of every process."""
    listed = subprocess.run(["ps", "-ww", "-eo", "ppid=,args="], capture_output=True, text=True, check=True).stdout
    return [(int(line.split()[0]), line) for line in listed.splitlines()]


def kernels_of(mark):
    return [line for _, line in processes() if mark in line and "ipykernel_launcher" in line]


def test_no_kernel_stays_behind(runs):
    assert not [line for parent, line in processes() if parent == os.getpid() and "ipykernel" in line]


INTERRUPTED = """
import sys
from nbformat.v4 import new_code_cell, new_notebook
from rnn2rag import execute
cell = new_code_cell("import time\\nopen(%r, 'a').write('x')\\ntime.sleep(60)" % sys.argv[1])
tasks = [execute.Task(new_notebook(cells=[cell]), network=bool(n % 2)) for n in range(3)]
try:
    execute.run_all(tasks, jobs=2, done=lambda index, run: print("done", index, run.error))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_every_kernel(tmp_path):
    started = tmp_path / "started"
    os.environ["TMPDIR"] = str(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, started], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: started.exists() and started.read_text(encoding="utf8") == "xx")
    assert len(kernels_of(str(tmp_path))) >= 2
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert said == "interrupted\n"
    assert kernels_of(str(tmp_path)) == [] and list(tmp_path.glob("rnn2rag-*")) == []


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# Reading


CELL = {"id": "a", "cell_type": "code", "source": ["x = 1\n", "x"], "metadata": {}, "outputs": [], "execution_count": 1}
GOOD = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [CELL]}


def read(tmp_path, content):
    path = tmp_path / "given.ipynb"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return execute.read(path)


def changed(**fields):
    return {**GOOD, **fields}


def with_cell(**fields):
    return changed(cells=[{**CELL, **fields}])


def test_a_good_notebook_is_read(tmp_path):
    assert read(tmp_path, GOOD).cells[0].source == "x = 1\nx"
    assert read(tmp_path, changed(nbformat_minor=99)).nbformat_minor == 99
    assert read(tmp_path, changed(metadata={"kernelspec": JULIA, "mine": [1]})).metadata.mine == [1]


def test_ids_that_lack_or_repeat_are_mended_in_silence(tmp_path):
    without = {key: value for key, value in CELL.items() if key != "id"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cells in ([without, without], [CELL, CELL]):
            ids = [cell.get("id") for cell in read(tmp_path, changed(cells=cells)).cells]
            assert len(set(ids)) == 2 and None not in ids


BAD = {
    "empty": b"",
    "text": b"this is not JSON",
    "half a file": json.dumps(GOOD).encode()[:-20],
    "latin-1": b'{"caf\xe9": 1}',
    "nul": b"\0",
    "deep": b"[" * 100_000,
    "a number without end": b'{"nbformat": 4, "x": ' + b"1" * 5000 + b"}",
    "a list": [],
    "format 3": {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []},
    "format as text": changed(nbformat="4"),
    "minor as text": changed(nbformat_minor="5"),
    "minor as list": changed(nbformat_minor=[5]),
    "no minor": {key: value for key, value in GOOD.items() if key != "nbformat_minor"},
    "no cells": {key: value for key, value in GOOD.items() if key != "cells"},
    "no metadata": {key: value for key, value in GOOD.items() if key != "metadata"},
    "metadata as text": changed(metadata="x"),
    "cells as text": changed(cells="abc"),
    "cells as number": changed(cells=3),
    "a cell as text": changed(cells=["abc"]),
    "no cell type": with_cell(cell_type=None),
    "another cell type": with_cell(cell_type="video"),
    "source as number": with_cell(source=3),
    "source of numbers": with_cell(source=[3]),
    "outputs as text": with_cell(outputs="x"),
    "output as number": with_cell(outputs=[3]),
    "output without type": with_cell(outputs=[{}]),
    "tags as text": with_cell(metadata={"tags": "export"}),
    "id with spaces": with_cell(id="a b"),
    "half an emoji": with_cell(source="\ud83d"),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_bad_notebook_is_one_line(tmp_path, content):
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/given.ipynb: ") and "\n" not in said and len(said) < 500


def test_no_file_and_no_right_to_it(tmp_path):
    with pytest.raises(UserError, match="nothing.ipynb: there is no such file"):
        execute.read(tmp_path / "nothing.ipynb")
    with pytest.raises(UserError, match="cannot be read"):
        execute.read(tmp_path)
