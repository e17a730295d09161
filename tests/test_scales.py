"""The full scale, as far as a machine without GPU and network can tell: every section runs at it, as if on a GPU.

What it would load from the hub lies in a folder laid out as the hub's own cache: small random models, few texts. So the
loading is the real one. The sizes are small, and the claims do not hold at them; that the cells run is what is tested.
"""

import ast
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from datasets import Dataset

from rnn2rag import catalog, data, machine, plan, pretend
from rnn2rag.authoring import editions
from rnn2rag.errors import UserError

SECTIONS = [source.relative_to(ROOT).as_posix() for source in editions.sources(ROOT)]
# A few updates, and the widths of the embedded scale, for which the figures are drawn.
SMALL = {
    "recurrent-cell": "held_out=9, batch_size=32, seq_len=16, d_model=32, hidden_size=128, updates=100",
    "gates-and-memory": "held_out=9, batch_size=32, seq_len=32, d_model=32, hidden_size=128, updates=60",
    "character-model": "held_out=9, batch_size=32, width_both=48, width_left=71, updates=60",
    "parallel-recurrence": "held_out=9, batch_size=32, seq_len=64, d_model=32, hidden_size=64, updates=20",
}


def put(home, kind, repository, revision):
    """A folder for the files of a repository in the hub's cache; `revision` is its main branch's commit."""
    place = home / "hub" / f"{kind}--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    folder = place / "snapshots" / revision
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The hub's cache with what the full scale loads: a random small model for each name, and some tales."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    home = tmp_path_factory.mktemp("hub")
    sources = {"smollm2": catalog.cache_dir() / "smollm2-bf16", "minilm": catalog.folder("minilm")}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for name, source in sources.items():
        folder = put(home, "models", catalog.entry(name).hub, "0" * 40)
        config = AutoConfig.from_pretrained(source, **small)
        if name == "smollm2":
            config.num_key_value_heads, config.head_dim = 2, 8
        (AutoModelForCausalLM if name == "smollm2" else AutoModel).from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    for role in catalog.roles().values():
        text = "\n".join(data.load(role.embedded)["train"]["text"])
        pieces = [text[start : start + 2000] for start in range(0, 250_000, 2000)]
        file = put(home, "datasets", role.hub, role.revision) / role.path
        file.parent.mkdir()
        Dataset.from_dict({"text": pieces}).to_parquet(file)
    return home


@pytest.fixture(scope="module")
def full(hub, tmp_path_factory):
    """The environment of a full-scale run, with the model that one section wants trained before."""
    cache = tmp_path_factory.mktemp("cache")
    for entry in catalog.cache_dir().iterdir():
        if not entry.name.startswith("."):
            (cache / entry.name).symlink_to(entry)
    environment = os.environ | {
        "HF_HOME": str(hub),
        "HF_HUB_OFFLINE": "1",
        "RNN2RAG_CACHE": str(cache),
        "RNN2RAG_SCALE": "full",
        "RNN2RAG_PRECISION": "float32",
        "OMP_NUM_THREADS": "1",
        "RNN2RAG_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    script = ROOT / "assets" / "checkpoints" / "01-character-model" / "train.py"
    sizes = {"RNN2RAG_SIZES": "held_out=9, d_model=16, hidden_size=24, seq_len=64, epochs=1", "RNN2RAG_DEVICE": "cpu"}
    subprocess.run([sys.executable, str(script)], env=environment | sizes, check=True, capture_output=True)
    return environment


@pytest.mark.parametrize("section", SECTIONS)
def test_every_cell_runs_at_full_scale_as_on_a_gpu(section, full):
    sizes = {"RNN2RAG_SIZES": SMALL.get(section.rpartition("/")[2].removesuffix(".md"), "")}
    command = [sys.executable, str(ROOT / "tests" / "audit.py"), str(ROOT / section)]
    done = subprocess.run(command, env=full | sizes, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("operations") > 1000
    assert found == {"failures": [], "mixed": [], "early": [], "waits": []}


SCALED = """
import json, os, sys, torch
from contextlib import nullcontext
names = {"__name__": "__main__"}
for cell in json.loads(sys.stdin.read()):
    exec(cell, names)
found = []
torch.backends.mkldnn.enabled = sys.argv[1] == "float32"  # oneDNN has no LSTM in float16 on most processors
for updates, kind in enumerate(sys.argv[1:], start=1):
    with nullcontext() if kind == "float32" else torch.autocast(names["rt"].device.type, getattr(torch, kind)):
        found.append(names["scaled"](updates if kind != "float32" else 2))
print(json.dumps(found))
"""


def scaled(section, *kinds, **environment):
    """What a section's training ends at after few updates, in each precision."""
    recipe = json.dumps(plan.recipe(editions.read(ROOT / section)))
    command = [sys.executable, "-c", SCALED, *kinds]
    done = subprocess.run(command, input=recipe, env=os.environ | environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("section", SECTIONS)
def test_the_training_runs_in_mixed_precision(section):
    losses = scaled(section, "bfloat16", "float16", RNN2RAG_DEVICE="cpu")
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses)


@pytest.mark.skipif(
    not (torch.cuda.is_available() or torch.backends.mps.is_available()), reason="not run: there is no accelerator"
)
@pytest.mark.parametrize("section", SECTIONS)
def test_the_training_on_the_accelerator_is_the_one_on_the_cpu(section):
    [there], [here] = scaled(section, "float32"), scaled(section, "float32", RNN2RAG_DEVICE="cpu")
    assert there == pytest.approx(here, rel=1e-2)


@pytest.mark.parametrize("section", SECTIONS)
def test_no_cell_names_a_device(section):
    for cell in editions.read(ROOT / section).cells:
        if cell.cell_type == "code":
            named = {node.value for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Constant)}
            called = {node.attr for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Attribute)}
            assert not named & set(machine.DEVICES) and "cuda" not in called, cell.source


@pytest.mark.parametrize("name", catalog.names("model"))
def test_models_come_from_the_hub(name, full):
    code = (
        f"from rnn2rag import models; m, t = models.load({name!r}); print(m.config.hidden_size, t('so')['input_ids'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=full, capture_output=True, text=True)
    assert done.stdout.startswith("16 ["), done.stderr


def test_a_role_is_other_data_at_full_scale(full):
    code = "from rnn2rag import data; t = data.load('tales')['train']; print(len(t), t.column_names, t.info.license)"
    done = subprocess.run([sys.executable, "-c", code], env=full, capture_output=True, text=True)
    assert done.stdout == "125 ['text'] CDLA-Sharing-1.0\n", done.stderr
    tales = data.load("tales")["train"]
    assert tales["text"] == data.load("grimm")["train"]["text"] and catalog.entry("tales").name == "grimm"


def test_a_role_without_the_hub_is_one_line(full, tmp_path):
    code = "from rnn2rag import data; data.load('tales')"
    environment = full | {"HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith("rnn2rag.errors.UserError: the hub did not give roneneldan/TinyStor")


def test_the_scale_is_what_the_runtime_chose(monkeypatch):
    assert machine.scale() == "embedded"
    monkeypatch.setenv("RNN2RAG_SCALE", "full")
    assert machine.scale() == "full"
    machine.runtime(device="cpu", scale="embedded")
    assert machine.scale() == "embedded"


def test_sizes(monkeypatch):
    small, large = (machine.runtime(device="cpu", scale=scale) for scale in machine.SCALES)
    pairs = {"batch_size": (32, 128), "lr": (4e-3, 1e-3), "run": ("loop", "pairs")}
    assert vars(small.sizes(**pairs)) == {"batch_size": 32, "lr": 4e-3, "run": "loop"}
    assert vars(large.sizes(**pairs)) == {"batch_size": 128, "lr": 1e-3, "run": "pairs"}
    monkeypatch.setenv("RNN2RAG_SIZES", " batch_size = 8, run=loop ,")
    assert vars(large.sizes(**pairs)) == {"batch_size": 8, "lr": 1e-3, "run": "loop"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch=8", r"unknown size 'batch' \(from RNN2RAG_SIZES\): this notebook has batch_size"),
        ("batch_size=many", "batch_size must be a whole number, not 'many'"),
        ("batch_size", "batch_size must be a whole number, not ''"),
    ],
)
def test_sizes_that_are_none(monkeypatch, text, message):
    monkeypatch.setenv("RNN2RAG_SIZES", text)
    with pytest.raises(UserError, match=message):
        machine.runtime(device="cpu").sizes(batch_size=(32, 128))


def test_assertions_report_at_full_scale_and_fail_at_the_embedded():
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for scale in ("full", "embedded"):
    shell.run_cell(f"import rnn2rag; rnn2rag.runtime(device='cpu', scale={scale!r})")
    done = shell.run_cell("for i in range(2):\\n    assert i == 0, 'no'\\nprint('went on')")
    print(scale, type(done.error_in_exec).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("rnn2rag ", "Out["))]
    assert lines[:3] == ["Not as at the embedded scale: i == 0", "went on", "full NoneType"], done.stdout + done.stderr
    assert lines[-1] == "embedded AssertionError"


def test_a_checkpoint_that_was_not_trained(monkeypatch, tmp_path):
    assert (catalog.checkpoint("01-character-model") / "log.json").exists()
    monkeypatch.setenv("RNN2RAG_SCALE", "full")
    monkeypatch.setenv("RNN2RAG_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"run assets/checkpoints/01-character-model/train.py with RNN2RAG_SCALE=full"):
        catalog.checkpoint("01-character-model")


# The pretended device itself


def on_the_device(shapes_only=False):
    device = pretend.Device(shapes_only)
    return device, torch.device(pretend.NAME)


def run(cell, number, names):
    exec(compile(cell, f"<cell {number}>", "exec"), names)  # noqa: S102


@pytest.mark.parametrize("shapes_only", [False, True])
def test_tensors_and_modules_move(shapes_only):
    device, there = on_the_device(shapes_only)
    with device:
        rt = machine.runtime(device=pretend.NAME)
        layer = torch.nn.Linear(3, 4).to(rt.device)
        made = torch.zeros(2, 3, device=rt.device)
        assert rt.device == layer.weight.device == made.device == there and torch.zeros(2).device.type == "cpu"
        layer(made).sum().backward()
        assert layer.weight.grad.device == there and made.cpu().device.type == "cpu"
    assert device.trace.mixed == []
    assert not torch.cuda.is_available() or torch.zeros(1).device.type == "cpu"


def test_a_tensor_left_behind_is_noted_with_its_line():
    device, there = on_the_device()
    with device:
        names = {"torch": torch, "there": there}
        cell = "weights = torch.ones(3, 3).to(there)\nbias = torch.ones(3)\nweights @ torch.ones(3, 3) + bias"
        run(cell, 7, names)
        assert len(device.trace.mixed) == 2 and device.trace.mixed[0].endswith("cell 7, line 3")
        device.start()
        run("weights * 2 + torch.tensor(1.0)\nweights[torch.tensor([0])]", 8, names)
    assert device.trace.mixed == []


def test_a_clock_that_does_not_wait_and_a_wait_under_a_clock_are_noted():
    device, there = on_the_device()
    timed = """
import time
def clocked(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
"""
    with device:
        rt = machine.runtime(device=pretend.NAME)
        weights = torch.ones(3, 3).to(there)
        names = {}
        run(timed, 1, names)
        rt.seconds(lambda: weights @ weights)
        assert (device.trace.early, device.trace.waits) == ([], [])
        names["clocked"](lambda: weights @ weights)
        assert device.trace.early == ["perf_counter, cell 1, line 6"]
        rt.seconds(lambda: (weights @ weights).sum().item(), repeats=1)
        assert len(device.trace.waits) == 2
        weights.sum().item()
        assert len(device.trace.waits) == 2


def test_shapes_alone_take_no_memory():
    device, there = on_the_device(shapes_only=True)
    with device:
        large = torch.ones(10**6, 10**6, device=there)
        assert (large @ large).sum().item() == 1.0
        with pytest.raises(NotImplementedError, match="cannot be planned from shapes"):
            large.nonzero()
    assert sum(device.trace.peak().values()) == 2 * 4 * 10**12 + 4


def test_uses_are_told_apart():
    device, there = on_the_device(shapes_only=True)
    with device:
        model = torch.nn.Sequential(torch.nn.Linear(1000, 1000), torch.nn.Tanh(), torch.nn.Linear(1000, 1000))
        model.to(there)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(50, 1000, device=there)).sum().backward()
            optimizer.step()
    uses = device.trace.peak()
    weights = 4 * 2 * 1001 * 1000
    assert uses["weights"] == uses["gradients"] == weights and uses["cache"] == 0
    assert uses["optimizer"] == pytest.approx(2 * weights, rel=1e-4)
    assert 2 * 4 * 50 * 1000 < uses["activations"] <= weights
