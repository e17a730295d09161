"""Run the course's first chapter and a language model on emulated aarch64, and compare them with this machine.

A Jetson's processor is an aarch64. Here qemu translates one program's instructions: an arm64 root with Debian's Python
3.11, the aarch64 wheels of the learner's packages beside it, and the course's own tree. In one process (a notebook's
kernel would be a second) it imports torch, calls `rnn2rag.runtime()`, takes one training step of each mechanism of
chapter 1, and lets SmolLM2 write three tokens. The same steps run with the Python that runs this script; every loss
must agree, and every token be the same.

    python .ci/aarch64.py [FOLDER]

needs Linux on x86-64, root, and two programs: ``apt-get install qemu-user-static debootstrap``. Run it with the
course's Python (`.venv/bin/python`), once `rnn2rag fetch` has brought models and data. FOLDER (where none is named,
``~/.cache/rnn2rag-aarch64``) keeps root and packages for the next run, 2 GB. The log goes to
``assets/platforms/aarch64.log``, which the page on the Jetson shows; a test compares its numbers with those of the
present code. Exit status 1: a number differs, or a step failed.

From 2.11 on PyPI's torch for aarch64 is built for CUDA 13 and asks for NVIDIA's libraries; so the last one before that,
without CUDA, takes the place of the pinned torch there. This shows that code and packages work on the
architecture. It says nothing about a board's GPU or its speed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "assets" / "platforms" / "aarch64.log"
TORCH = "torch==2.10.0"
DEBIAN, MIRROR = "bookworm", "http://deb.debian.org/debian"
PYTHON = "3.11"  # Debian's there
EMULATOR = "qemu-aarch64-static"
TOLERANCE = 1e-5  # of a loss in float32, relative
PROMPT = "Once upon a time, there was a"


def steps() -> Iterator[tuple[str, list[float] | str]]:
    """Take the steps in this process; yield what each is and what came of it: numbers to compare, or text.

    A training step gives the loss before it and after it.
    """
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    import torch

    yield "import torch", torch.__version__
    import rnn2rag

    yield "rnn2rag.runtime()", str(rnn2rag.runtime(device="cpu", precision="float32", threads=1))
    from torch import nn
    from torch.nn import functional as F

    from rnn2rag import data, models
    from rnn2rag.built import recurrent_networks as chapter

    def train(model: nn.Module, loss_of: Callable[[], torch.Tensor]) -> list[float]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = loss_of()
        before.backward()
        optimizer.step()
        with torch.no_grad():
            return [before.item(), loss_of().item()]

    series = torch.tensor(data.load("air-passengers")["train"]["passengers"]).float()
    inputs, targets = chapter.windows((series - series.mean()) / series.std(), 24)
    inputs = inputs[..., None]  # (batch, seq_len, 1)
    yield "air passengers in windows", [float(len(inputs)), inputs.sum().item(), targets.sum().item()]

    def last_of_cell(cell: nn.Module) -> torch.Tensor:
        return chapter.run_cell(cell, inputs)[-1][0]

    mechanisms = {
        "recurrent cell": (chapter.RecurrentCell, lambda cell: chapter.unroll(cell, inputs)[1]),
        "recurrent cell, gradient cut": (chapter.RecurrentCell, lambda cell: chapter.unroll(cell, inputs, reach=6)[1]),
        "LSTM cell": (chapter.LSTMCell, last_of_cell),
        "GRU cell": (chapter.GRUCell, last_of_cell),
    }
    for way in ("loop", "doubling", "pairs"):
        run = getattr(chapter, f"recurrence_by_{way}")
        mechanisms[f"linear recurrence by {way}"] = (
            lambda *sizes, run=run: chapter.GatedLinearRecurrence(*sizes, run=run),
            lambda cell: cell(inputs)[1],
        )
    for name, (build, last) in mechanisms.items():
        torch.manual_seed(0)
        model = nn.ModuleList([build(1, 16), nn.Linear(16, 1)])
        yield name, train(model, lambda: F.mse_loss(model[1](last(model[0]))[:, 0], targets))  # noqa: B023

    torch.manual_seed(0)
    text = chapter.encode(chapter.split_tales(0)[0][:2112], chapter.alphabet())
    parts, following = next(chapter.chunks(chapter.streams(text, 32), 64))
    writer = chapter.CharacterLSTM(len(chapter.alphabet()), dropout=0.0)
    yield "character LSTM", train(writer, lambda: F.cross_entropy(writer(parts)[0].flatten(0, 1), following.flatten()))

    model, tokenizer = models.load("smollm2")
    yield "SmolLM2, its parameters", [float(model.num_parameters())]
    prompt = tokenizer(PROMPT, return_tensors="pt")
    tokens = model.generate(**prompt, max_new_tokens=3, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    yield "SmolLM2, three tokens", [float(token) for token in tokens]
    yield "in words", f"...{tokenizer.decode(tokens)}"


def work() -> None:
    """Print a line of JSON for each step: its name, what came of it, its seconds."""
    started = time.monotonic()
    for name, found in steps():
        print(json.dumps([name, found, time.monotonic() - started]), flush=True)
        started = time.monotonic()


def obstacle() -> str | None:
    """Say in a line what keeps this machine from running the script, or None."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"this is {platform.system()} {platform.machine()}; it needs Linux on x86-64"
    missing = [program for program in (EMULATOR, "debootstrap", "dpkg-deb") if not shutil.which(program)]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install qemu-user-static debootstrap"
    if os.geteuid() != 0:
        return "debootstrap needs root"
    return None


def make_root(folder: Path) -> Path:
    """Return an arm64 root with Debian's Python; make it when it is not there. What was downloaded is kept."""
    root, partial = folder / "root", folder / "root.partial"
    if not root.exists():
        command = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", "--include=python3"]
        run("an arm64 root", [*command, DEBIAN, partial, MIRROR])
        for package in sorted((partial / "var" / "cache" / "apt" / "archives").glob("*.deb")):
            run(
                "", ["dpkg-deb", "--extract", package, partial]
            )  # instead of a second stage, which runs what it unpacks
        partial.rename(root)
    return root


def make_site(folder: Path) -> Path:
    """Return a folder with the learner's packages for aarch64, as pinned but for torch; fill it the first time."""
    import tomllib

    import wheels
    from packaging.requirements import Requirement

    pins, project = ROOT / "requirements.txt", ROOT / "pyproject.toml"
    key = hashlib.sha256(pins.read_bytes() + project.read_bytes() + TORCH.encode()).hexdigest()[:12]
    kept, partial = folder / f"packages-{key}", folder / "packages.partial"
    site = "site-packages"  # dill, and so datasets, tells libraries from a user's code by this name
    if kept.exists():
        return kept / site
    machine = next(one for one in wheels.MACHINES if one.arch == "aarch64" and one.system == "Linux")
    environment = machine.environment(PYTHON)
    pinned = [pin for pin in wheels.pins(pins) if wheels.applies(pin, environment)]
    wanted = [TORCH if pin.name == "torch" else f"{pin.name}{pin.specifier}" for pin in pinned]
    with tempfile.TemporaryDirectory() as temporary:
        pip = Path(temporary)
        run("pip", [sys.executable, "-m", "pip", "install", "--quiet", "--target", pip, wheels.PIP])
        found, missing = wheels.resolve(wanted, machine, PYTHON, pip)
        if missing:
            raise SystemExit(f"aarch64: {'; '.join(missing)}")
        roots = map(Requirement, tomllib.loads(project.read_text(encoding="utf8"))["project"]["dependencies"])
        reached = {wheels.canonicalize_name(item.name) for _, item in wheels.reach(roots, found, environment)}
        chosen = [f"{name}=={found[name].version}" for name in sorted(reached & found.keys())]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--upgrade"]
        command += ["--implementation=cp", f"--python-version={PYTHON}", "--target", partial / site]
        command += [part for tag in machine.tags for part in ("--platform", tag)]
        run(f"{len(chosen)} packages for aarch64", [*command, *chosen], wheels.surroundings(pip))
    for old in folder.glob("packages-*"):
        shutil.rmtree(old)
    partial.rename(kept)
    return kept / site


def run(text: str, command: Sequence[str | Path], environment: dict[str, str] | None = None) -> None:
    """Run a command, print its seconds; exit with 1 and what it wrote when it fails."""
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"aarch64: {' '.join(map(str, command[:3]))} ...: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    if text:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)


def results(command: Sequence[str | Path], path: Sequence[Path]) -> Iterator[tuple[str, list[float] | str, float]]:
    """Run the steps with an interpreter; yield each as it ends. Exits with 1 when the interpreter fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RNN2RAG_D"))}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, __file__, "--steps"], env=environment, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("["):
            yield tuple(json.loads(line))
    if process.wait():
        raise SystemExit(f"aarch64: {command[0]} ended with exit status {process.returncode}")


def compare(here: list[float] | str, there: list[float] | str) -> float | None:
    """Return the largest relative difference of two steps' numbers; None where they gave text."""
    if isinstance(there, str):
        return None
    return max(abs(one - other) / max(abs(one), 1e-9) for one, other in zip(here, there, strict=True))


def main(argv: Sequence[str]) -> int:
    """Prepare, run the steps here and emulated, write the log; return 1 when they differ."""
    reason = obstacle()
    if reason:
        raise SystemExit(f"aarch64: not run: {reason}")
    folder = Path(argv[0]) if argv else Path.home() / ".cache" / "rnn2rag-aarch64"
    folder.mkdir(parents=True, exist_ok=True)
    root, site = make_root(folder.resolve()), make_site(folder.resolve())
    emulator = subprocess.run([EMULATOR, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    here = {name: found for name, found, _ in results([sys.executable], [ROOT])}
    lines = [
        f"The course's first steps on emulated aarch64: qemu {emulator}, Debian {DEBIAN}",
        f"compared with torch {here['import torch']} on x86-64",
        f"tolerance {TOLERANCE:.0e}; a training step: the loss before it and after it",
        "",
        f"{'step':<29}{'seconds':>8}  {'differs by':<11} result",
    ]
    print("", *lines, sep="\n")
    different = []
    # -S: none of this machine's own packages
    for name, found, seconds in results([EMULATOR, "-L", root, root / "usr/bin/python3", "-S"], [site, ROOT]):
        difference = compare(here[name], found)
        if difference is not None and not difference < TOLERANCE:
            different.append(name)
        lines.append(row(name, found, difference, seconds))
        print(lines[-1], flush=True)
    lines += ["", f"outside of the tolerance: {', '.join(different) or 'nothing'}"]
    print(lines[-1])
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("\n".join(lines) + "\n", encoding="utf8")
    return 1 if different else 0


def row(name: str, found: list[float] | str, difference: float | None, seconds: float) -> str:
    """Format a step as a line of the log."""
    shown = found if isinstance(found, str) else ", ".join(f"{n:.{10 if n.is_integer() else 7}g}" for n in found)
    compared = "" if difference is None else f"{difference:.0e}"
    return f"{name:<29}{seconds:>8.1f}  {compared:<11} {shown}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--steps"]:
        work()
    else:
        sys.exit(main(sys.argv[1:]))
