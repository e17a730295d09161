"""The scripts in assets/checkpoints/ that train what sections load: here on little text, for few epochs."""

import importlib.util
import json

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

FOLDER = ROOT / "assets" / "checkpoints" / "01-character-model"


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The training script, for two epochs of a text of 2,600 characters, writing into an empty folder."""
    spec = importlib.util.spec_from_file_location("train_character_model", FOLDER / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "once upon a time there was" * 100
    monkeypatch.setenv("RNN2RAG_SIZES", "epochs=2, batch_size=8")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "split_tales", lambda seed, held_out: (text, text[:520]))
    return module


def test_it_learns_and_leaves_weights_and_a_log(script, tmp_path):
    script.main()
    log = json.loads((tmp_path / "log.json").read_text(encoding="utf8"))
    assert [epoch["epoch"] for epoch in log] == [1, 2]
    assert log[1]["held_out_bits"] < log[0]["held_out_bits"]
    ours, stored = load_file(tmp_path / "weights.safetensors"), load_file(FOLDER / "weights.safetensors")
    assert {name: weight.shape for name, weight in ours.items()} == {name: w.shape for name, w in stored.items()}
    assert {weight.dtype for weight in ours.values()} == {torch.float16}


def test_an_interrupted_training_goes_on(script, tmp_path, monkeypatch):
    save = torch.save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        script.main()
    assert not (tmp_path / "log.json").exists()
    monkeypatch.setattr(torch, "save", save)
    script.main()
    log = json.loads((tmp_path / "log.json").read_text(encoding="utf8"))
    assert [epoch["epoch"] for epoch in log] == [1, 2] and not (tmp_path / "interrupted.pt").exists()
