"""Pretrained models as chapters get them: the right weights, the right tokens, answers that are known."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rnn2rag import catalog, models
from rnn2rag.errors import UserError
from rnn2rag.machine import Runtime

ROOT = Path(catalog.__file__).parent.parent


@pytest.fixture(scope="module")
def smollm2():
    return models.load("smollm2")


@pytest.fixture(scope="module")
def minilm():
    return models.load("minilm")


def embed(model, tokenizer, sentences):
    """Mean of the last hidden states over a sentence's own tokens, of length 1: (sentences, d_model)."""
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def quiet_load(name, **environment):
    """Load a model in a process of its own that must not write to stderr; return what it printed."""
    code = f"from rnn2rag import models; models.load({name!r})"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("name", catalog.names("model"))
def test_size_state_and_precision(name, request):
    model, _ = request.getfixturevalue(name)
    assert sum(weight.numel() for weight in model.parameters()) == catalog.entry(name).parameters
    assert not model.training
    assert {(weight.dtype, weight.device.type) for weight in model.parameters()} == {(torch.float32, "cpu")}


def test_smollm2_answers(smollm2):
    model, tokenizer = smollm2
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    start = prompt["input_ids"].shape[1]
    assert tokenizer.decode(answer[0, start:]) == "The capital of France is Paris.<|im_end|>"


def test_smollm2_predicts_english(smollm2):
    """The loss that transformers' own GGUF reader gives; rotary dimensions in the wrong order give 2.37."""
    model, tokenizer = smollm2
    text = (
        "Paris is the capital and largest city of France. The city is known for its museums and architectural "
        "landmarks, such as the Louvre and the Eiffel Tower."
    )
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        loss = model(tokens, labels=tokens).loss
    assert loss.item() == pytest.approx(1.959, abs=0.02)


def test_smollm2_tokens(smollm2):
    _, tokenizer = smollm2
    assert len(tokenizer) == 49152 and tokenizer.model_max_length == 8192
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>",
    )
    text = "In 1984, they said:\n\n1. “naïve” café  2 不\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    # each digit by itself, and white space before a digit in one piece
    assert tokenizer.tokenize("1984\n\n1.  2") == ["1", "9", "8", "4", "ĊĊ", "1", ".", "ĠĠ", "2"]
    assert tokenizer("<|im_start|>user")["input_ids"][0] == tokenizer.bos_token_id == 1


def test_minilm_embeds_sentences_as_published(minilm):
    """Values from the documentation of sentence-transformers for this model."""
    vectors = embed(*minilm, ["This is an example sentence", "Each sentence is converted"])
    expected = [[0.067657, 0.063496, 0.048713], [0.086439, 0.10276, 0.0053946]]
    torch.testing.assert_close(vectors[:, :3], torch.tensor(expected), atol=1e-4, rtol=0)


def test_minilm_ranks_a_paraphrase_first(minilm):
    vectors = embed(*minilm, ["A man is eating food.", "A man is eating a piece of bread.", "The market fell sharply."])
    paraphrase, unrelated = (vectors[0] @ vectors[1:].T).tolist()
    assert paraphrase == pytest.approx(0.7553, abs=1e-3) and paraphrase > unrelated + 0.5


def test_runtime_and_dtype_choose_the_precision():
    runtime = Runtime(torch.device("cpu"), torch.bfloat16, "embedded", 0, 1, "test")
    assert models.load("minilm", runtime)[0].dtype == torch.bfloat16
    assert models.load("minilm", runtime, dtype=torch.float32)[0].dtype == torch.float32


@pytest.mark.parametrize("name", catalog.names("model"))
def test_loading_is_quiet(name, smollm2):
    assert quiet_load(name) == ""


def test_loading_leaves_the_progress_bars_as_they_were():
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    models.load("minilm")
    assert logging.is_progress_bar_enabled()


def test_conversion_survives_a_kill(tmp_path, smollm2):
    (tmp_path / "smollm2").symlink_to(catalog.folder("smollm2"))
    code = "from rnn2rag import models; models.load('smollm2')"
    environment = os.environ | {"RNN2RAG_CACHE": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=subprocess.PIPE)
    end = time.monotonic() + 120
    while not list(tmp_path.glob(".work/*/smollm2-bf16")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "smollm2-bf16").exists() and list((tmp_path / ".work").iterdir())

    assert "smollm2: converting" in quiet_load("smollm2", RNN2RAG_CACHE=str(tmp_path))
    assert list((tmp_path / ".work").iterdir()) == []
    made, known = tmp_path / "smollm2-bf16", catalog.cache_dir() / "smollm2-bf16"
    assert {path.name: path.read_bytes() for path in made.iterdir()} == {
        path.name: path.read_bytes() for path in known.iterdir()
    }


def test_names_that_are_no_models():
    with pytest.raises(UserError, match=r"'grimm' is a data set: load it with rnn2rag.data.load\('grimm'\)"):
        models.load("grimm")
    with pytest.raises(UserError, match="did you mean 'minilm'"):
        models.load("mini-lm")


def test_a_model_that_is_not_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RNN2RAG_CACHE", str(tmp_path))
    for name in catalog.names("model"):
        with pytest.raises(UserError, match=f"run `rnn2rag fetch {name}`"):
            models.load(name)


def test_full_scale_asks_the_hub(tmp_path):
    code = "from rnn2rag import models; models.load('minilm')"
    environment = os.environ | {"RNN2RAG_SCALE": "full", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert result.stderr.splitlines()[-1].startswith(
        "rnn2rag.errors.UserError: the hub did not give sentence-transformers/all-MiniLM-L6-v2: check the network"
    )
