"""The machine: what is chosen, what overrides it, what is said when it cannot be."""

import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch

from rnn2rag import machine
from rnn2rag.errors import UserError

VARIABLES = [f"RNN2RAG_{name}" for name in ("DEVICE", "PRECISION", "SCALE", "SEED", "THREADS")]
# Every function of torch.cuda, and every one that is CUDA's in torch's C++ half, raises when it is called.
TRAP = """
import torch
def trap(*arguments, **options):
    raise SystemExit("CUDA was touched")
for module, names in ((torch.cuda, vars(torch.cuda)), (torch._C, [n for n in dir(torch._C) if n.startswith("_cuda")])):
    for name in list(names):
        if callable(getattr(module, name)) and not isinstance(getattr(module, name), type):
            setattr(module, name, trap)
import rnn2rag
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


def test_the_default_is_embedded_with_seed_0_on_every_core():
    runtime = machine.runtime(device="cpu")
    assert (runtime.scale, runtime.seed, runtime.threads) == ("embedded", 0, machine.available_cores())
    assert runtime.dtype in (torch.float32, torch.bfloat16)


def test_the_environment_overrides_and_one_line_says_so(monkeypatch, capsys):
    for variable, value in zip(VARIABLES, ("cpu", "float16", "full", "7", "1"), strict=True):
        monkeypatch.setenv(variable, value)
    runtime = machine.runtime()
    assert (runtime.device, runtime.dtype, runtime.scale) == (torch.device("cpu"), torch.float16, "full")
    assert (runtime.seed, runtime.threads, torch.get_num_threads()) == (7, 1, 1)
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("cpu · float16 · 1 thread · full scale · seed 7")


def test_arguments_win_over_the_environment(monkeypatch):
    for variable, value in zip(VARIABLES, ("tpu", "int4", "huge", "x", "x"), strict=True):
        monkeypatch.setenv(variable, value)
    runtime = machine.runtime(device="cpu", precision="float32", scale="embedded", seed=3, threads=2)
    assert (runtime.dtype, runtime.scale, runtime.seed, runtime.threads) == (torch.float32, "embedded", 3, 2)


def test_an_empty_variable_is_no_override(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")
    assert machine.runtime().seed == 0


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("device", "tpu", "cuda, mps, cpu"),
        ("device", "cuda:1", "cuda, mps, cpu"),
        ("precision", "int8", "float32, bfloat16, float16"),
        ("scale", "Full", "embedded, full"),
        ("seed", "-1", "from 0 to 4294967295"),
        ("seed", "4294967296", "from 0 to 4294967295"),
        ("seed", "0.5", "whole number"),
        ("threads", "0", "from 1 to"),
        ("threads", "many", "whole number"),
    ],
)
def test_what_is_unknown_is_said_in_one_line(option, value, hint, monkeypatch):
    variable = f"RNN2RAG_{option.upper()}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as told:
        machine.runtime()
    [line] = str(told.value).splitlines()
    assert option in line and value in line and hint in line and variable in line

    monkeypatch.delenv(variable)
    with pytest.raises(UserError) as told:
        machine.runtime(**{option: 1.5 if option in ("seed", "threads") else value})
    assert variable not in str(told.value)


def test_a_device_that_is_not_there():
    absent = next(name for name in ("cuda", "mps") if not getattr(torch, name).is_available())
    with pytest.raises(UserError, match=f"'{absent}' is not available here"):
        machine.runtime(device=absent)


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_told_cpu_it_never_touches_cuda(how, monkeypatch):
    call = "rnn2rag.runtime(device='cpu', seed=1)"
    if how == "environment":
        monkeypatch.setenv("RNN2RAG_DEVICE", "cpu")
        call = "rnn2rag.runtime(seed=1)"
    done = python(f"{TRAP}\nruntime = {call}\ntorch.randn(2, generator=runtime.generator()).to(runtime.device)")
    assert done.returncode == 0, done.stderr
    assert " cpu " in done.stdout


def test_told_nothing_it_asks_for_cuda():
    """So the trap of the test above does catch something."""
    done = python(f"{TRAP}\nrnn2rag.runtime()")
    assert (done.returncode, done.stderr.strip()) == (1, "CUDA was touched")


def test_a_seed_gives_the_same_numbers_again():
    def draws(seed):
        runtime = machine.runtime(device="cpu", seed=seed)
        own = torch.randn(3, generator=runtime.generator())
        other = torch.randn(3, generator=runtime.generator(seed + 1))
        return [random.random(), *numpy.random.rand(2), *torch.rand(3).tolist(), *own.tolist(), *other.tolist()]

    assert draws(11) == draws(11)
    assert all(one != other for one, other in zip(draws(11), draws(12), strict=True))


def test_seeding_reaches_the_largest_seed():
    assert machine.runtime(device="cpu", seed=2**32 - 1).generator().initial_seed() == 2**32 - 1


def test_a_torch_without_the_private_probes_computes_in_float32(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert machine.runtime(device="cpu").dtype == torch.float32


@pytest.mark.parametrize(("limit", "cores"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None)])
def test_a_container_limits_the_cores(limit, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPU_QUOTA", tmp_path / "absent")
    all_of_them = machine.available_cores()
    monkeypatch.setattr(machine, "_CPU_QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert machine.available_cores() == (cores or all_of_them)


# As boards report themselves; the second in a container, without the release file, and without NVIDIA in its model.
@pytest.mark.parametrize(
    ("release", "compatible", "model", "name"),
    [
        (
            True,
            b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
            "NVIDIA Jetson Orin Nano\0",
            "NVIDIA Jetson Orin Nano",
        ),
        (False, b"nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0", "Jetson AGX Orin\0", "Jetson AGX Orin"),
        (True, None, None, "NVIDIA Jetson"),
        (False, b"raspberrypi,5-model-b\0brcm,bcm2712\0", "Raspberry Pi 5 Model B\0", None),
        (False, None, None, None),
    ],
)
def test_a_jetson_is_recognized(release, compatible, model, name, tmp_path, monkeypatch):
    if release:
        (tmp_path / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.7\n")
    if compatible:
        (tmp_path / "compatible").write_bytes(compatible)
    if model:
        (tmp_path / "model").write_text(model)
    monkeypatch.setattr(machine, "_JETSON_RELEASE", tmp_path / "nv_tegra_release")
    monkeypatch.setattr(machine, "_DEVICE_TREE", tmp_path)
    assert machine.jetson() == name
    assert (machine.runtime(device="cpu").machine == name) == bool(name)


def total_memory():
    [line] = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")]
    return int(line.split()[1]) * 1024


# In a container the process is in the root group that it sees; a service's process (a JupyterHub's server) is deeper.
@pytest.mark.parametrize(
    ("own", "limits", "bytes_left"),
    [
        ("0::/", {}, None),
        ("0::/", {"": "max"}, None),
        ("0::/", {"": str(2**60)}, None),
        ("0::/", {"": str(2**29)}, 2**29),
        ("0::/system.slice/ada.service", {"system.slice": "max", "system.slice/ada.service": str(2**28)}, 2**28),
        ("0::/system.slice/ada.service", {"system.slice": str(2**27), "system.slice/ada.service": "max"}, 2**27),
        ("4:memory:/docker\n0::/", {"docker": str(2**27)}, None),
        ("0::/../outside", {"": str(2**29)}, None),
    ],
)
def test_the_memory_of_the_processor_is_the_machines_or_the_containers(own, limits, bytes_left, tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1\n")  # beside the groups, and none of them
    for group, limit in limits.items():
        (tmp_path / "cgroup" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / group / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "own").write_text(f"{own}\n")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_OWN_CGROUP", tmp_path / "own")
    assert machine.device_memory(torch.device("cpu")) == (bytes_left or total_memory())


def test_the_memory_of_a_gpu_is_its_own_and_that_of_a_jetsons_the_boards(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=15_000_000))
    for path in ("_OWN_CGROUP", "_JETSON_RELEASE", "_DEVICE_TREE"):
        monkeypatch.setattr(machine, path, tmp_path / "absent")
    assert machine.device_memory(torch.device("cuda")) == 15_000_000
    monkeypatch.setattr(machine, "_JETSON_RELEASE", Path(__file__))
    assert machine.device_memory(torch.device("cuda")) == total_memory()


def test_peak_memory_is_of_this_process_alone():
    ballast = bytearray(400_000_000)
    code = "from rnn2rag import machine; {}; print(machine.peak_memory())"
    small, large = (int(python(code.format(held)).stdout) for held in ("pass", "held = bytearray(200_000_000)"))
    assert 5e6 < small < 100e6 and 200e6 < large < 300e6
    assert machine.peak_memory() > len(ballast)


def test_an_asset_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="assets/claims/nothing.json"):
        machine.asset("claims/nothing.json")


def test_importing_the_package_imports_nothing_heavy():
    done = python("import sys, rnn2rag, rnn2rag.machine, rnn2rag.doctor; print(*sys.modules)")
    assert not {"torch", "numpy", "transformers", "datasets", "matplotlib", "nbformat"} & set(done.stdout.split())
