"""Running a notebook: a fresh kernel of this interpreter, in a folder of its own, measured, offline if asked."""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag.errors import UserError
from rnn2rag.execute import sandbox

if TYPE_CHECKING:
    from nbformat import NotebookNode

GRACE = 10.0  # seconds that an interrupted cell has to end before the whole run is ended
SKIPPED = "skip-execution"  # Jupyter's tag of a cell that a run without a reader leaves out
_FIELDS = {  # of an output from a sandbox
    "stream": {"name": str, "text": str},
    "display_data": {"data": dict, "metadata": dict},
    "execute_result": {"data": dict, "metadata": dict, "execution_count": int},
    "error": {"ename": str, "evalue": str, "traceback": list},
}
USAGE_MIME = "application/vnd.rnn2rag.usage+json"
_USAGE = "import rnn2rag.execute\nrnn2rag.execute.show_usage()"  # a notebook may have its own `sum` or `print`


@dataclass
class Task:
    """A notebook to run: where (None: an empty folder), with what environment, for how many seconds a cell.

    network: False cuts the network where bubblewrap can do so. allow_errors: go on after a cell that raises, or that
    ends when it is interrupted because its time is over.
    """

    notebook: NotebookNode
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    cell_timeout: float = 600.0
    network: bool = True
    allow_errors: bool = False


@dataclass
class Run:
    """A notebook that was run.

    error: the first cell that raised (or the death of the kernel) in a few lines, or None. noise: what cells wrote to
    stderr. cpu_seconds, peak_memory (bytes) and versions are known only for a run without error. is_killed: whether
    somebody outside of the sandbox ended the kernel.
    """

    notebook: NotebookNode
    wall_seconds: float
    error: str | None = None
    noise: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    is_killed: bool = False


def read(path: Path) -> NotebookNode:
    """Read a notebook file. Raises UserError where it is missing, not JSON, or not a notebook of format 4."""
    import nbformat
    from nbformat.warnings import DuplicateCellId, MissingIDFieldWarning

    try:
        text = path.read_text(encoding="utf8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save it again from JupyterLab") from None
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not a notebook: it is not JSON ({error}); save it again from JupyterLab") from None
    if not isinstance(raw, dict) or raw.get("nbformat") != 4:
        raise UserError(f"{path}: is not a notebook of format 4; open it in JupyterLab and save it again")
    try:
        notebook = nbformat.v4.reads(text)
        with warnings.catch_warnings():  # cells that lack an id, or share one, get a new one
            warnings.simplefilter("ignore", MissingIDFieldWarning)
            warnings.simplefilter("ignore", DuplicateCellId)
            nbformat.validate(notebook)
        json.dumps(notebook, ensure_ascii=False).encode("utf8")  # half an emoji can be read, but not written again
    except (
        nbformat.ValidationError,
        AssertionError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0][:200]
        raise UserError(f"{path}: is not a valid notebook ({reason}); save it again from JupyterLab") from None
    return notebook


def run(task: Task) -> Run:
    """Run one notebook in a fresh kernel and return it with outputs; the notebook given stays as it is."""
    return run_all([task])[0]


def run_all(tasks: Sequence[Task], jobs: int = 1, done: Callable[[int, Run], None] | None = None) -> list[Run]:
    """Run notebooks, at most `jobs` at a time, each in its own kernel.

    done: called with the index and the result of each notebook as it ends. Ctrl-C ends every kernel and is passed on.
    """
    results: list[Run | None] = [None] * len(tasks)

    async def everything() -> None:
        slots = asyncio.Semaphore(jobs)

        async def one(index: int, task: Task) -> None:
            async with slots:
                result = await _run(task)
            results[index] = result
            if done:
                done(index, result)

        await asyncio.gather(*(one(index, task) for index, task in enumerate(tasks)))

    asyncio.run(everything())
    return [result for result in results if result is not None]


@functools.cache
def offline_command() -> tuple[str, ...]:
    """Return what cuts the network off a command that follows; nothing where this machine does not let bubblewrap."""
    program = sandbox.program()
    if program is None:
        return ()
    command = (program, "--dev-bind", "/", "/", "--unshare-net", "--die-with-parent", "--")
    tried = subprocess.run([*command, sys.executable, "-c", ""], capture_output=True)
    return command if tried.returncode == 0 else ()


def show_usage() -> None:
    """Display what this kernel has used so far, as data: the last cell that `run` adds to a notebook."""
    import importlib.metadata
    import platform
    import resource

    from IPython.display import display

    from rnn2rag import machine

    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    usage = {
        "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in spent),
        "peak_memory": machine.peak_memory(),
        "versions": {
            "python": platform.python_version(),
            "torch": importlib.metadata.version("torch").partition("+")[0],
        },
    }
    display({USAGE_MIME: usage}, raw=True)


def run_in(zygote: sandbox.Zygote, box: sandbox.Box, notebook: NotebookNode, cell_timeout: float) -> Run:
    """Run a notebook in a kernel of a sandbox, and go on after cells that raise; what is given stays as it is.

    A cell that takes longer than `cell_timeout` seconds is interrupted. Raises SandboxFailure when the sandbox breaks.
    """
    result = Run(_emptied(notebook), 0.0)
    start = time.perf_counter()
    with zygote.kernel(box) as kernel:
        for cell in result.notebook.cells:
            if cell.cell_type == "code" and SKIPPED not in cell.metadata.get("tags", ()) and cell.source.strip():
                result.error = _run_cell(kernel, cell, cell_timeout)
                if result.error:
                    break
    ended = kernel.ended
    result.wall_seconds = time.perf_counter() - start
    result.cpu_seconds, result.peak_memory = ended.cpu_seconds, ended.peak_memory
    result.is_killed = (ended.why, ended.status) == ("exit", -signal.SIGKILL)
    if result.error and ended.why in ("time", "memory"):
        result.error = f"the kernel used more {ended.why} than a submission may"
    return result


def _run_cell(kernel: sandbox.Kernel, cell: NotebookNode, seconds: float) -> str | None:
    """Run one cell in a sandbox and give it its outputs; return what ends the whole run."""
    try:
        answer = kernel.run(cell.source, seconds)
        if answer is None:
            answer = kernel.interrupt(GRACE)
        if answer is None:
            return f"a cell took longer than {seconds:g} s\n{_shown(cell)}"
        cell.outputs, cell.execution_count = _read_outputs(answer["outputs"]), int(answer["count"])
    except sandbox.Died:
        return f"the kernel died\n{_shown(cell)}"
    except (LookupError, RecursionError, TypeError, ValueError) as failure:
        return f"the kernel sent what is no answer ({type(failure).__name__})\n{_shown(cell)}"
    return None


def _read_outputs(outputs: Any) -> list[NotebookNode]:
    """Outputs that a kernel in the sandbox says it has, as a notebook's. Raises ValueError where they are none."""
    import nbformat

    if not isinstance(outputs, list) or len(outputs) > sandbox.MOST:
        raise ValueError("no outputs")
    for output in outputs:
        fields = _FIELDS[output["output_type"]]
        if output.keys() != {"output_type", *fields} or any(type(output[name]) is not fields[name] for name in fields):
            raise ValueError("no output")
    return nbformat.from_dict(outputs)


def _emptied(notebook: NotebookNode) -> NotebookNode:
    """A copy of a notebook without outputs."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


async def _run(task: Task) -> Run:
    from nbformat.v4 import new_code_cell

    notebook = _emptied(task.notebook)
    result = Run(notebook, 0.0)
    start = time.perf_counter()
    usage = new_code_cell(_USAGE)
    notebook.cells.append(usage)
    with tempfile.TemporaryDirectory(prefix="rnn2rag-") as own:
        empty = Path(own, "empty")
        empty.mkdir()
        manager = _kernel_manager(task, sockets=Path(own, "kernel"))
        surroundings = {"env": _environment(task), "cwd": str(task.folder or empty)}
        await _run_cells(task, result, manager, surroundings)
    notebook.cells.remove(usage)
    for output in usage.outputs:
        spent = output.get("data", {}).get(USAGE_MIME)
        if spent:
            result.cpu_seconds, result.peak_memory = spent["cpu_seconds"], spent["peak_memory"]
            result.versions = dict(spent["versions"])
    result.wall_seconds = time.perf_counter() - start
    result.noise = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stderr"
    ]
    return result


async def _run_cells(task: Task, result: Run, manager: Any, surroundings: Mapping[str, Any]) -> None:
    """Run the cells of a notebook one by one; the first that fails, if errors are not allowed, ends the run."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    client = _client(task, result.notebook, manager)
    cell = None
    try:
        # One by one: the client's own `execute` takes Ctrl-C for itself, and leaves the kernel running.
        await client.async_start_new_kernel(**surroundings)
        await client.async_start_new_kernel_client()
        for index, cell in enumerate(result.notebook.cells):
            running = client.async_execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
            await asyncio.wait_for(running, task.cell_timeout + GRACE)
    except CellExecutionError as failure:
        result.error = f"{failure.ename}: {failure.evalue}\n{_shown(cell)}"
    except (CellTimeoutError, TimeoutError):
        result.error = f"a cell took longer than {task.cell_timeout:g} s\n{_shown(cell)}"
    except DeadKernelError:
        if asyncio.current_task().cancelling():  # the client takes Ctrl-C for the death of its kernel
            raise asyncio.CancelledError from None
        result.error = f"the kernel died\n{_shown(cell)}"
    except RuntimeError as failure:  # before the first cell
        result.error = f"the kernel did not start ({failure})"
    finally:
        if client.kc:
            client.kc.stop_channels()
        await manager.shutdown_kernel(now=True)


def _client(task: Task, notebook: NotebookNode, manager: Any) -> Any:
    from nbclient import NotebookClient

    class Client(NotebookClient):
        """A client for which what a cell showed is not changed by a later one."""

        async def async_execute_cell(self, cell: NotebookNode, *arguments: Any, **named: Any) -> NotebookNode:
            self._display_id_map = {}
            return await super().async_execute_cell(cell, *arguments, **named)

    client = Client(
        notebook,
        km=manager,
        timeout=task.cell_timeout,
        allow_errors=task.allow_errors,
        interrupt_on_timeout=task.allow_errors,
    )
    client.reset_execution_trackers()
    return client


def _kernel_manager(task: Task, sockets: Path) -> Any:
    """A manager for a kernel of this very interpreter (a kernel spec of the user could name another).

    It speaks over sockets in the file system: they work without a network, and no one else can connect.
    """
    from jupyter_client import AsyncKernelManager

    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(sockets))
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.log_level=40"]
    manager.kernel_spec.argv = command if task.network else [*offline_command(), *command]
    return manager


def _environment(task: Task) -> dict[str, str]:
    environment = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1", **task.environment}
    if not task.network:  # where the network cannot be cut, nothing finds its way out by the usual routes
        environment |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    return environment


def _shown(cell: NotebookNode) -> str:
    return "in the cell\n" + "\n".join(f"    {line}" for line in cell.source.splitlines())
