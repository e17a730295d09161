"""The machine that a notebook runs on: device, precision, threads, scale, seed, memory.

Every device decision of the course is made here, once. Nothing else in the tree names a device.
"""

from __future__ import annotations

import ast
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rnn2rag.errors import UserError

if TYPE_CHECKING:
    import torch

DEVICES = ("cuda", "mps", "cpu")
PRECISIONS = ("float32", "bfloat16", "float16")
SCALES = ("embedded", "full")
_MOST_THREADS = 1024
_JETSON_RELEASE = Path("/etc/nv_tegra_release")
_DEVICE_TREE = Path("/proc/device-tree")
# What the device tree calls a Jetson's chip: its name, and its GPU's compute capability.
_CHIPS = {
    "nvidia,tegra264": ("Thor", "11.0"),
    "nvidia,tegra234": ("Orin", "8.7"),
    "nvidia,tegra194": ("Xavier", "7.2"),
    "nvidia,tegra186": ("TX2", "6.2"),
    "nvidia,tegra210": ("TX1 or Nano", "5.3"),
}
_JETPACKS = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}  # by the major release of Jetson Linux
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_PROCESS_STATUS = Path("/proc/self/status")
_scale: str | None = None  # what `runtime` chose
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Runtime:
    """What `runtime` decided.

    device: where tensors live; dtype: in which precision pretrained models compute here; scale: "embedded" (no network,
    small models) or "full" (the hub's models, a GPU); seed: what every generator was seeded with; threads: CPU threads
    that torch uses; machine: the hardware in words.
    """

    device: torch.device
    dtype: torch.dtype
    scale: str
    seed: int
    threads: int
    machine: str

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        precision = str(self.dtype).removeprefix("torch.")
        return f"{self.machine} · {self.device} · {precision} · {threads} · {self.scale} scale · seed {self.seed}"

    def sizes(self, **choices: tuple[Any, Any]) -> SimpleNamespace:
        """Return the sizes of this run: of each pair the first at the embedded scale, the second at the full scale.

        The environment may overrule some: ``RNN2RAG_SIZES="batch_size=16, seq_len=128"``. Raises UserError where it is
        not of this form, or names a size that is not among the choices.
        """
        chosen = {name: pair[self.scale == "full"] for name, pair in choices.items()}
        wanted = os.environ.get("RNN2RAG_SIZES", "")
        for part in filter(str.strip, wanted.split(",")):
            name, _, value = (word.strip() for word in part.partition("="))
            if name not in chosen:
                known = ", ".join(chosen)
                raise UserError(f"unknown size {name!r} (from RNN2RAG_SIZES): this notebook has {known}")
            try:
                chosen[name] = type(chosen[name])(value)
            except ValueError:
                kind = {int: "a whole number", float: "a number"}.get(type(chosen[name]), "a word")
                raise UserError(f"{name} must be {kind}, not {value!r} (from RNN2RAG_SIZES)") from None
        return SimpleNamespace(**chosen)

    def seconds(self, function: Callable[[], object], repeats: int = 5) -> float:
        """Return the wall seconds of a call, the median of some, after one that warms up.

        A GPU works on while Python goes on: the clock is read when the device has finished.
        """
        import statistics
        import time

        import torch

        wait = torch.get_device_module(self.device).synchronize
        taken = []
        for _ in range(1 + repeats):
            wait()
            start = time.perf_counter()
            function()
            wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[1:])

    def generator(self, seed: int | None = None) -> torch.Generator:
        """Return a CPU generator seeded with `seed`, or with the runtime's own seed."""
        import torch

        return torch.Generator().manual_seed(self.seed if seed is None else seed)


def runtime(
    device: str | None = None,
    precision: str | None = None,
    scale: str | None = None,
    seed: int | None = None,
    threads: int | None = None,
) -> Runtime:
    """Choose device, precision, scale and threads; seed every generator; print one line.

    Arguments win over the environment (``RNN2RAG_DEVICE``, ``RNN2RAG_PRECISION``, ``RNN2RAG_SCALE``, ``RNN2RAG_SEED``,
    ``RNN2RAG_THREADS``), the environment wins over what is found: CUDA, then MPS, then the CPU; bfloat16 where the
    hardware computes in it, else float32; the embedded scale; seed 0; every core this process may use. At the embedded
    scale Hugging Face's libraries do not ask their hub from then on (see `allow_hub`).

    At the full scale an `assert` of a notebook's cell that fails prints a line and the cell goes on: what sections
    assert about their results was measured at the embedded scale.

    Raises UserError for an unknown name, a number out of range, or a device that is not there. Told "cpu" it never
    touches CUDA.
    """
    import torch

    wanted = _choice("device", device, DEVICES)
    scale = _choice("scale", scale, SCALES) or "embedded"
    precision = _choice("precision", precision, PRECISIONS)
    seed = _number("seed", seed, least=0, most=2**32 - 1, default=0)
    threads = _number("threads", threads, least=1, most=_MOST_THREADS, default=available_cores())

    found = torch.device(wanted or _best_device())
    if wanted and wanted != "cpu" and not _is_available(wanted):
        raise UserError(f"device {wanted!r} is not available here: use device='cpu', or unset RNN2RAG_DEVICE")
    dtype = getattr(torch, precision) if precision else _best_precision(found)
    torch.set_num_threads(threads)
    seed_everything(seed, found)
    global _scale
    _scale = scale
    _soften_assertions(scale == "full")
    allow_hub(scale == "full")
    result = Runtime(found, dtype, scale, seed, threads, hardware(found))
    print(f"rnn2rag {_version()} · {result}")
    return result


def scale() -> str:
    """Return this process's scale: what `runtime` chose last, else what the environment says."""
    return _scale or _choice("scale", None, SCALES) or "embedded"


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed Python's, NumPy's and torch's generators, and the device's own; no other device is touched.

    seed: from 0 to 2**32 - 1, what NumPy takes.
    """
    import random

    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def allow_hub(allowed: bool) -> None:
    """Let Hugging Face's libraries ask their hub, or keep them from trying, also those that are imported already.

    They read ``HF_HUB_OFFLINE`` and ``TRANSFORMERS_OFFLINE`` once, when they are imported; this sets what they made of
    them, unless one of the two is set: then that stays.
    """
    if os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE"):
        return
    from huggingface_hub import constants  # where transformers looks each time, and datasets when it is imported

    constants.HF_HUB_OFFLINE = not allowed
    if "datasets.config" in sys.modules and not os.environ.get("HF_DATASETS_OFFLINE"):
        sys.modules["datasets.config"].HF_HUB_OFFLINE = not allowed


def available_cores() -> int:
    """Return the number of cores this process may use: its affinity, and a container's limit where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if _CPU_QUOTA.exists():
        quota, period = _CPU_QUOTA.read_text(encoding="ascii").split()  # microseconds of CPU in each period, or "max"
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


@dataclass(frozen=True)
class Board:
    """An NVIDIA Jetson. Its processor and its GPU share one memory.

    name: as the board gives it; chip: the module's, None where the device tree does not tell; capability: the GPU's
    compute capability as "8.7"; linux: the release of Jetson Linux as "36.4.7", None in a container that does not see
    it. Source of the capabilities: https://developer.nvidia.com/cuda-gpus and .../cuda-legacy-gpus.
    """

    name: str
    chip: str | None
    capability: str | None
    linux: str | None

    @property
    def jetpack(self) -> int | None:
        """The JetPack that this release of Jetson Linux belongs to; None where that is not known."""
        return _JETPACKS.get(int(self.linux.partition(".")[0])) if self.linux else None


def jetson() -> Board | None:
    """Return the NVIDIA Jetson board that this is, or None elsewhere.

    Not every board's model names NVIDIA, but the list of what it is compatible with does. A container may lack the
    release file or hide the device tree; one of the two is enough.
    """
    files = _DEVICE_TREE / "compatible", _DEVICE_TREE / "model"
    compatible, model = (file.read_bytes().decode("utf8", "replace") if file.exists() else "" for file in files)
    release = _JETSON_RELEASE.read_text(encoding="utf8") if _JETSON_RELEASE.exists() else None
    if release is None and "nvidia,tegra" not in compatible:
        return None
    chip, capability = next((_CHIPS[part] for part in compatible.split("\0") if part in _CHIPS), (None, None))
    found = re.search(r"R(\d+) .*?REVISION: ([\d.]+)", release or "")  # "# R36 (release), REVISION: 4.7, GCID: ..."
    return Board(model.rstrip("\0\n ") or "NVIDIA Jetson", chip, capability, found and ".".join(found.groups()))


def hardware(device: torch.device) -> str:
    """Name the hardware behind a device: the board, the GPU, or the processor's architecture."""
    import platform

    board = jetson()
    if board:
        return f"{board.name}, {device_memory(device) / 1e9:.0f} GB for CPU and GPU together"
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    system = {"Darwin": "macOS"}.get(platform.system(), platform.system())
    return f"{system} {platform.machine()}"


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes.

    Where the system keeps it for the program that runs (Linux) that is taken: what getrusage tells there includes the
    process that started this one.
    """
    if _PROCESS_STATUS.exists():
        for line in _PROCESS_STATUS.read_text(encoding="utf8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_memory(device: torch.device | None = None) -> int:
    """Return how many bytes of memory a device (by default the one that `runtime` chooses) has, used or free.

    A GPU's own memory; what Apple recommends as the most for its GPU; for a processor, and for the GPU of a Jetson,
    which shares it, the machine's memory, or the least limit that a container or a service sets for this process.
    """
    import torch

    device = device or torch.device(_choice("device", None, DEVICES) or _best_device())
    if device.type == "cuda" and not jetson():
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_memory_limits()])


def asset(path: str) -> Path:
    """Return the path of a file under assets/: in the installed package, else in the tree that holds the package.

    Raises FileNotFoundError when neither has it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "assets", package.parent / "assets"):
        if (folder / path).exists():
            return folder / path
    raise FileNotFoundError(f"assets/{path}")


class _Report(ast.NodeTransformer):
    """Makes of `assert condition` a line of output where the condition does not hold."""

    def visit_Assert(self, node: ast.Assert) -> ast.If:
        """Return the statement that reports."""
        text = f"Not as at the embedded scale: {ast.unparse(node.test)}"
        report = ast.parse(f"print({text!r})").body
        return ast.copy_location(ast.fix_missing_locations(ast.If(ast.UnaryOp(ast.Not(), node.test), report, [])), node)


def _soften_assertions(soft: bool) -> None:
    """Let the cells of a notebook report a failed assertion and go on, or fail as they do by default.

    What a section asserts about its own results was measured at the embedded scale. (What holds at any scale, such as
    being equal to PyTorch, it asserts by torch.testing, which raises as always.)
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell:
        shell.ast_transformers[:] = [one for one in shell.ast_transformers if not isinstance(one, _Report)]
        if soft:
            shell.ast_transformers.append(_Report())


def _memory_limits() -> Iterator[int]:
    """Yield the limits in bytes of this process's control group (version 2) and of those around it."""
    if not _OWN_CGROUP.exists():
        return
    for line in _OWN_CGROUP.read_text(encoding="utf8").splitlines():
        if line.startswith("0::/"):  # relative to the root that this process sees
            own = Path(os.path.normpath(_CGROUPS / line.removeprefix("0::/")))
            for place in (own, *own.parents):
                limit = place / "memory.max"
                if place.is_relative_to(_CGROUPS) and limit.exists():
                    value = limit.read_text(encoding="ascii").strip()
                    if value != "max":
                        yield int(value)


def _version() -> str:
    import rnn2rag

    return rnn2rag.__version__


def _choice(what: str, given: str | None, allowed: tuple[str, ...]) -> str | None:
    variable = f"RNN2RAG_{what.upper()}"
    value = given if given is not None else os.environ.get(variable) or None
    if value is not None and value not in allowed:
        source = "" if given is not None else f" (from {variable})"
        raise UserError(f"unknown {what} {value!r}{source}: choose one of {', '.join(allowed)}")
    return value


def _number(what: str, given: int | None, least: int, most: int, default: int) -> int:
    variable = f"RNN2RAG_{what.upper()}"
    value = given if given is not None else os.environ.get(variable) or default
    try:
        number = int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        number = None
    if number is None or not least <= number <= most:
        source = "" if given is not None else f" (from {variable})"
        raise UserError(f"{what} must be a whole number from {least} to {most}, not {value!r}{source}")
    return number


def _is_available(device: str) -> bool:
    import torch

    return torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()


def _best_device() -> str:
    return next((name for name in ("cuda", "mps") if _is_available(name)), "cpu")


def _best_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware computes in it: Ampere and later GPUs, CPUs with AVX512-BF16 or AMX, Apple's GPUs."""
    import torch

    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "mps":
        fast = torch.backends.mps.is_macos_or_newer(14, 0)
    else:  # private in torch 2.9 to 2.13; where a later one lacks them, float32 is right and merely slower
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        fast = any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe))
    return torch.bfloat16 if fast else torch.float32
