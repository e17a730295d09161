"""What a section takes before it runs: `rnn2rag plan PATH --scale full` counts the memory and guesses the time.

A section's recipe defines `scaled(updates)`, the training (or inference) that grows with the scale. It is run here for
two updates on a pretended device whose tensors are shapes without memory (see `pretend`), so that every tensor that the
real run would hold is counted, and no formula has to be kept up to date beside the code. Data that would come from the
hub is stood in for by as many characters of the data that the embedded scale reads.

What was planned for all sections is stored in assets/plans.json (by rnn2rag.authoring.plans), and the book shows it.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from rnn2rag import machine
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

STORED = Path("assets", "plans.json")
_SHRINK = ("batch_size", "seq_len")  # what is halved, in this order, until a plan fits
# Where the time is guessed for: NVIDIA's T4, which Colab gives out, by its data sheet: 8.1 TFLOPS in float32, 320 GB/s.
# That an operation takes 10 microseconds at least, of Python and launch, is our assumption.
GPU = "T4"
_OPERATIONS, _BYTES, _LEAST = 8.1e12, 320e9, 1e-5
COMPUTED = (
    "Memory: of all tensors at the fullest moment, computed by rnn2rag plan. Time: a guess from the data sheet of "
    "the GPU that Colab gives out. Neither was measured at full scale."
)
_UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass(frozen=True)
class Plan:
    """What a section takes at a scale.

    sizes: as the section chose them; uses: bytes at the peak, of weights, gradients, optimizer, activations and cache;
    updates: of the whole training; seconds: guessed for it, on the GPU named above.
    """

    sizes: dict[str, Any]
    uses: dict[str, int]
    updates: int
    seconds: float

    @property
    def bytes(self) -> int:
        """All uses together."""
        return sum(self.uses.values())


def recipe(notebook: NotebookNode) -> list[str]:
    """Return the cells of a section that define what it trains: those tagged `export` or `recipe`."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if {"recipe", "export"} & set(cell.metadata.get("tags", ()))]


def plan(recipe: Sequence[str], scale: str, sizes: str = "") -> Plan:
    """Count what a section's recipe takes at a scale.

    sizes: overrule some of its own, as in ``RNN2RAG_SIZES``. Raises UserError where it has no `scaled`, or fails.
    """
    return Plan(**_run(recipe, "plan", scale, sizes))


def measure(recipe: Sequence[str]) -> int:
    """Run a section's `scaled` for two updates at the embedded scale; return the most bytes that its tensors held.

    torch's profiler counts every allocation of the CPU, where the tensors really are; what the section moves to its
    device is copied, as on a GPU. oneDNN's fused LSTM is switched off: it has a workspace of its own, which no GPU has.
    """
    return _run(recipe, "measure", "embedded", "")["bytes"]


def fitting(recipe: Sequence[str], scale: str, memory: int) -> tuple[str, Plan] | None:
    """Return the first smaller setting that fits into a memory (bytes), as for ``RNN2RAG_SIZES``, and its plan."""
    sizes, found = {}, plan(recipe, scale)
    for name in _SHRINK:
        while found.sizes.get(name, 1) > 1:
            sizes[name] = found.sizes[name] // 2
            setting = ", ".join(f"{key}={value}" for key, value in sizes.items())
            found = plan(recipe, scale, setting)
            if found.bytes <= memory:
                return setting, found
    return None


def report(recipe: Sequence[str], scale: str, memory: int) -> None:
    """Print the plan of a section's recipe. Raises UserError where it does not fit into a memory (bytes)."""
    found = plan(recipe, scale)
    print(f"at the {scale} scale: " + (", ".join(f"{k} {v}" for k, v in found.sizes.items()) or "no sizes"))
    for use, count in found.uses.items():
        print(f"{use:12} {size(count):>9}")
    print(f"{'together':12} {size(found.bytes):>9}")
    print(f"{found.updates:,} updates: about {duration(found.seconds)} on a {GPU} (computed, never measured)")
    if found.bytes <= memory:
        print(f"fits into {size(memory)}")
        return
    smaller = fitting(recipe, scale, memory)
    lack = f"needs {size(found.bytes)}, there are {size(memory)}"
    if smaller is None:
        raise UserError(f"{lack}, and no smaller batch or chunk fits")
    raise UserError(f'{lack}: set RNN2RAG_SIZES="{smaller[0]}", which needs {size(smaller[1].bytes)}')


def stored(root: Path) -> dict[str, dict[str, Any]]:
    """Return the stored plans of a course's tree, by the path of the section's source."""
    path = root / STORED
    return json.loads(path.read_text(encoding="utf8")) if path.exists() else {}


def rows(planned: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return what a stored plan says as rows: what, at the embedded scale, at the full scale."""
    small, large = planned["embedded"], planned["full"]
    found = [(name, _plain(value), _plain(large["sizes"][name])) for name, value in small["sizes"].items()]
    found.append(("memory", *(size(sum(one["uses"].values())) for one in (small, large))))
    return [*found, (f"training on a {GPU}", *(f"about {duration(one['seconds'])}" for one in (small, large)))]


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def parse(text: str) -> int:
    """Return the bytes that "16GB" or "800 MB" says. Raises UserError."""
    number, unit = text.strip()[:-2].strip(), text.strip()[-2:]
    try:
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError):
        raise UserError(f"a memory is written as 16GB or 800MB, not {text!r}") from None


def size(count: float) -> str:
    """Write bytes for people."""
    unit = "GB" if count >= 1e9 else "MB" if count >= 1e6 else "kB"
    return f"{count / _UNITS[unit]:.1f} {unit}"


def duration(seconds: float) -> str:
    """Write a time for people, as coarse as a guess is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.0f} hours"


def _run(recipe: Sequence[str], task: str, scale: str, sizes: str) -> dict[str, Any]:
    """Have a process of its own do a task with the recipe of a section."""
    environment = {
        **os.environ,
        "RNN2RAG_SCALE": scale,
        "RNN2RAG_SIZES": sizes,
        "RNN2RAG_DEVICE": "cuda",
        "RNN2RAG_PRECISION": "float32",
        "RNN2RAG_THREADS": "1",
    }
    request = json.dumps({"task": task, "recipe": list(recipe)})
    command = [sys.executable, "-m", "rnn2rag.plan"]
    done = subprocess.run(command, input=request, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"cannot be planned: {reason.removeprefix('rnn2rag.errors.UserError: ')}")
    return json.loads(done.stdout)


def _stand_in(role: Any) -> Any:
    """As many texts as a role has at the full scale, and as long, cut out of what its embedded entry has."""
    from datasets import Dataset

    from rnn2rag import data

    with mock.patch.object(machine, "_scale", "embedded"):
        table = data.load(role.name)["train"]
    text, length = "\n".join(table["text"]), role.characters // role.texts
    starts = (at * length % (len(text) - length) for at in range(role.texts))
    return Dataset.from_dict({"text": [text[start : start + length] for start in starts]})


def _plan(names: dict[str, Any], recipe: Sequence[str]) -> dict[str, Any]:
    """Run a recipe's `scaled` for one and for two updates on shapes, and count."""
    from rnn2rag import data, pretend

    with pretend.Device(shapes_only=True) as device, mock.patch.object(data, "_from_hub", _stand_in):
        _define(names, recipe)
        before, seconds = device.held(), []
        for updates in (1, 2):
            device.start()
            names["scaled"](updates)
            work = device.trace.work
            seconds.append(sum(max(flops / _OPERATIONS, moved / _BYTES, _LEAST) for flops, moved in work))
        device.trace.allocations += [replace(one, born=0) for one in before]
        uses = device.trace.peak()
    updates = next(iter(inspect.signature(names["scaled"]).parameters.values())).default
    return {
        "sizes": vars(names["size"]) if "size" in names else {},
        "uses": uses,
        "updates": updates,
        "seconds": seconds[0] + (updates - 1) * (seconds[1] - seconds[0]),
    }


def _measure(names: dict[str, Any], recipe: Sequence[str]) -> dict[str, Any]:
    """Run a recipe's `scaled` for two updates, after one that warms up, under the profiler."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from rnn2rag import pretend

    with pretend.Device() as device, torch.backends.mkldnn.flags(enabled=False):
        _define(names, recipe)
        held = most = sum(one.bytes for one in device.held())
        names["scaled"](1)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            names["scaled"](2)
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return {"bytes": most}


def _define(names: dict[str, Any], recipe: Sequence[str]) -> None:
    """Run the cells. Reading a model's file is the host's work: the device does not see it."""
    from torch.utils._python_dispatch import _disable_current_modes

    from rnn2rag import models

    read = models._read

    def unseen(*arguments: Any) -> Any:
        with _disable_current_modes():
            return read(*arguments)

    models._read = unseen  # for the rest of this process
    for number, cell in enumerate(recipe, start=1):
        exec(compile(cell, f"<recipe cell {number}>", "exec"), names)  # noqa: S102 (an author's own cells)
    if "scaled" not in names:
        raise UserError("its recipe defines no scaled(updates), the training that grows with the scale")


def _serve() -> None:
    """The process that plans: a request on stdin, a result on stdout."""
    request = json.loads(sys.stdin.read())
    names: dict[str, Any] = {"__name__": "__main__"}
    with open(os.devnull, "w", encoding="utf8") as nowhere, redirect_stdout(nowhere):
        result = {"plan": _plan, "measure": _measure}[request["task"]](names, request["recipe"])
    print(json.dumps(result))


if __name__ == "__main__":
    _serve()
