"""The machine: what is chosen, what overrides it, what is said when it cannot be."""

import http.server
import os
import random
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy
import psutil
import pytest
import torch

from rnn2rag import machine
from rnn2rag.errors import UserError

BOARDS = tomllib.loads((Path(__file__).parent / "boards.toml").read_text(encoding="utf8"))["board"]
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


def tree(folder, monkeypatch, compatible=None, model=None, release=None):
    """Let the machine be one with this device tree and this release file."""
    for name, content in (("compatible", compatible), ("model", model)):
        if content:
            (folder / name).write_bytes("\0".join([*content, ""]).encode())
    if release:
        (folder / "nv_tegra_release").write_text(
            f"# {release}, GCID: 1, BOARD: generic, EABI: aarch64\nINSTALL_TYPE=\n"
        )
    monkeypatch.setattr(machine, "_JETSON_RELEASE", folder / "nv_tegra_release")
    monkeypatch.setattr(machine, "_DEVICE_TREE", folder)


@pytest.mark.parametrize("recorded", BOARDS, ids=lambda recorded: recorded["board"])
def test_a_jetson_is_recognized_by_its_device_tree(recorded, tmp_path, monkeypatch):
    tree(tmp_path, monkeypatch, recorded["compatible"], [recorded["model"]])
    board = machine.jetson()
    assert (board.name, board.chip, board.capability) == tuple(recorded[key] for key in ("model", "chip", "capability"))
    line = str(machine.runtime(device="cpu"))
    assert line.startswith(f"{recorded['model']}, ") and "GB for CPU and GPU together · cpu" in line


@pytest.mark.parametrize(
    ("release", "linux", "jetpack"),
    [
        ("R32 (release), REVISION: 7.2", "32.7.2", 4),
        ("R35 (release), REVISION: 4.1", "35.4.1", 5),
        ("R36 (release), REVISION: 4.7", "36.4.7", 6),
        ("R38 (release), REVISION: 2.2", "38.2.2", 7),
        ("R39 (release), REVISION: 2.1", "39.2.1", 7),
        ("R99 (release), REVISION: 1.0", "99.1.0", None),
        ("something else", None, None),
    ],
)
def test_the_release_tells_the_jetpack_where_a_container_hides_the_tree(release, linux, jetpack, tmp_path, monkeypatch):
    tree(tmp_path, monkeypatch, release=release)
    board = machine.jetson()
    assert (board.name, board.chip, board.linux, board.jetpack) == ("NVIDIA Jetson", None, linux, jetpack)


@pytest.mark.parametrize("compatible", [["raspberrypi,5-model-b", "brcm,bcm2712"], None])
def test_another_board_is_no_jetson(compatible, tmp_path, monkeypatch):
    tree(tmp_path, monkeypatch, compatible, ["Raspberry Pi 5 Model B Rev 1.0"])
    assert machine.jetson() is None
    assert "together" not in machine.runtime(device="cpu").machine


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
    assert machine.device_memory(torch.device("cpu")) == (bytes_left or psutil.virtual_memory().total)


def test_the_memory_of_a_gpu_is_its_own_and_that_of_a_jetsons_the_boards(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=15_000_000))
    monkeypatch.setattr(machine, "_OWN_CGROUP", tmp_path / "absent")
    tree(tmp_path, monkeypatch)
    assert machine.device_memory(torch.device("cuda")) == 15_000_000
    tree(tmp_path, monkeypatch, BOARDS[0]["compatible"])
    assert machine.device_memory(torch.device("cuda")) == psutil.virtual_memory().total


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
