"""The machine: what is chosen, what overrides it, what is said when it cannot be."""

import http.server
import os
import random
import re
import subprocess
import sys
import threading

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


# The hub

# At each scale asks for a file, a model and a data set, each of which bears the step's name.
ASKS = """
import rnn2rag

for step, scale in (("first", "embedded"), ("then", "full"), ("last", "embedded")):
    rnn2rag.runtime(device="cpu", scale=scale)
    from datasets import load_dataset
    from huggingface_hub import hf_hub_download
    from transformers import AutoConfig

    for ask in (
        lambda: hf_hub_download(f"someone/{step}", "config.json"),
        lambda: AutoConfig.from_pretrained(f"model/{step}"),
        lambda: load_dataset(f"rows/{step}"),
    ):
        try:
            print(open(ask()).read())
        except (OSError, ConnectionError) as error:
            print(step, type(error).__name__)
"""


@pytest.fixture
def hub(tmp_path):
    """A hub that has one file, and the environment to reach it; it writes down what it is asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = b'{"model_type": "bert"}'
            self.send_response(200 if self.path.startswith("/someone/") else 404)
            for name, value in {"ETag": '"1"', "X-Repo-Commit": "a" * 40, "Content-Length": len(body)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
        environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
        yield asked, environment
        server.shutdown()


def steps(asked):
    """What a hub was asked for: pairs of what and of the step."""
    return {match.groups() for match in re.finditer(r"(someone|model|rows)/(first|then|last)", " ".join(asked))}


@pytest.mark.parametrize("before", ["", "import datasets, transformers"])
def test_the_hub_is_asked_at_the_full_scale_only(hub, before):
    asked, environment = hub
    run = python(before + ASKS, env=environment)
    assert run.returncode == 0 and '{"model_type": "bert"}' in run.stdout, run.stderr
    assert steps(asked) == {("someone", "then"), ("model", "then"), ("rows", "then")}


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_what_the_user_says_of_the_hub_stays(hub, variable):
    asked, environment = hub
    run = python(ASKS, env=environment | {variable: "1"})
    assert (run.returncode, asked) == (0, []), run.stderr
    run = python(ASKS, env=environment | {"HF_HUB_OFFLINE": "0"})
    assert run.returncode == 0 and len(steps(asked)) == 9, run.stderr
