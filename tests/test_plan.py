"""The memory planner: what it counts against what was measured, and what it says when something does not fit."""

import json
import re

import pytest
from conftest import ROOT, one_line, rnn2rag, write_section

from rnn2rag import plan
from rnn2rag.authoring import claims, editions, plans
from rnn2rag.errors import UserError

SECTION = ROOT / "chapters" / "01-recurrent-networks" / "gates-and-memory.md"
TINY = """%%
:tags: [recipe]

import torch
import rnn2rag

rt = rnn2rag.runtime()
size = rt.sizes(batch_size=(10, 1000), seq_len=(4, 4))


def scaled(updates: int = 500) -> float:
    model = torch.nn.Linear(1000, 1000).to(rt.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(updates):
        optimizer.zero_grad()
        loss = model(torch.ones(size.batch_size, size.seq_len, 1000, device=rt.device)).tanh().sum()
        loss.backward()
        optimizer.step()
    return loss.item()"""
# Pretrained models, as later sections use them: a pass through an encoder, an update of a language model, generation
# with a cache of keys and values.
MODELS = {
    "an encoder": ("minilm", "output = model(**batch)\n    return output.last_hidden_state.sum().item()"),
    "generation": (
        "smollm2",
        """cache, tokens = None, batch["input_ids"]
    for _ in range(4 * updates):
        output = model(tokens, past_key_values=cache, use_cache=True)
        cache, tokens = output.past_key_values, output.logits[:, -1:].argmax(-1)
    return tokens.sum().item()""",
    ),
    "fine-tuning": (
        "smollm2",
        """model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for _ in range(updates):
        optimizer.zero_grad()
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
    return loss.item()""",
    ),
}


def with_model(name, body):
    """A recipe that loads a pretrained model and does something with 16 equal sentences."""
    guard = "" if "optimizer" in body else "@torch.no_grad()\n"
    return [
        f"""import torch
import rnn2rag
from rnn2rag import models

rt = rnn2rag.runtime()
model, tokenizer = models.load({name!r}, rt)
text = ["The king went into the wood and did not come back."] * 16
batch = tokenizer(text, return_tensors="pt").to(rt.device)


{guard}def scaled(updates: int = 10) -> float:
    {body}
"""
    ]


@pytest.mark.parametrize("what", MODELS)
def test_what_is_computed_for_pretrained_models_is_what_was_measured(what):
    recipe = with_model(*MODELS[what])
    computed, measured = plan.plan(recipe, "embedded"), plan.measure(recipe)
    print(f"{what}: {plan.size(computed.bytes)} computed, {plan.size(measured)} measured, {computed.uses}")
    assert abs(computed.bytes / measured - 1) < plans.TOLERANCE
    assert computed.uses["weights"] > 80e6
    assert (computed.uses["cache"] > 0) == (what == "generation")
    assert (computed.uses["optimizer"] > 0) == (what == "fine-tuning")


def test_every_section_has_a_plan_of_its_present_recipe_that_agrees_with_what_was_measured():
    stored = plan.stored(ROOT)
    sections = {source.relative_to(ROOT).as_posix(): source for source in claims.with_claims(ROOT)}
    assert stored.keys() == sections.keys()
    for name, found in stored.items():
        assert found["recipe"] == claims.recipe_hash(sections[name]), f"{name}: run `rnn2rag plan`"
        assert abs(sum(found["embedded"]["uses"].values()) / found["measured"] - 1) < plans.TOLERANCE


def test_a_stored_plan_is_what_is_computed_and_measured_now():
    recipe = plan.recipe(editions.read(SECTION))
    found = plan.stored(ROOT)[SECTION.relative_to(ROOT).as_posix()]
    assert plan.plan(recipe, "embedded").uses == found["embedded"]["uses"]
    assert plan.plan(recipe, "full").uses == found["full"]["uses"]
    assert plan.measure(recipe) == pytest.approx(found["measured"], rel=0.02)


def test_update_stores_what_it_prints_and_fails_where_it_is_off(tree, monkeypatch, capsys):
    source = write_section(tree, "tiny", TINY)
    assert plans.update(tree, [source]) == 0
    [found] = json.loads((tree / plan.STORED).read_text(encoding="utf8")).values()
    weights = 4 * 1001 * 1000
    assert found["embedded"]["uses"]["weights"] == found["embedded"]["uses"]["gradients"] == weights
    assert found["full"]["uses"]["activations"] >= 4 * 1000 * 4 * 1000 * 2
    assert found["full"]["updates"] == 500 and found["full"]["sizes"] == {"batch_size": 1000, "seq_len": 4}
    assert plan.rows(found)[0] == ("batch_size", "10", "1,000")
    monkeypatch.setattr(plan, "measure", lambda recipe: 10**6)
    assert plans.update(tree, [source]) == 1 and "FAILED" in capsys.readouterr().out


def test_the_command_takes_source_and_edition_and_refuses_with_what_would_fit(tree):
    source = write_section(tree, "tiny", TINY)
    status, out, _ = rnn2rag(tree, "plan", source, "--memory", "16GB")
    assert status == 0 and "batch_size 1000" in out and "fits into 16.0 GB" in out and "computed, never measured" in out
    refused = one_line_of(rnn2rag(tree, "plan", source, "--memory", "30MB"))
    said = r'needs (.+?), there are 30.0 MB: set RNN2RAG_SIZES="(.+)", which needs (.+)'
    needs, setting, less = re.search(said, refused).groups()
    assert (setting, needs) == ("batch_size=500", "52.0 MB") and float(less.removesuffix(" MB")) < 30
    assert "no smaller batch or chunk fits" in one_line_of(rnn2rag(tree, "plan", source, "--memory", "5MB"))
    status, out, _ = rnn2rag(tree, "plan", SECTION.with_suffix(".ipynb"), "--scale", "embedded", "--memory", "1GB")
    assert status == 0 and "batch_size 32" in out


def one_line_of(result):
    status, _, err = result
    assert status == 2 and len(err.splitlines()) == 1, err
    return err.strip()


def test_what_cannot_be_planned_is_one_line(tree):
    bare = write_section(tree, "bare", "%%\n:tags: [recipe]\n\nx = 1")
    broken = write_section(tree, "broken", "%%\n:tags: [recipe]\n\n1 / 0")
    assert "defines no scaled(updates)" in one_line_of(rnn2rag(tree, "plan", bare, "--memory", "1GB"))
    assert "ZeroDivisionError" in one_line_of(rnn2rag(tree, "plan", broken, "--memory", "1GB"))
    assert "is no section" in one_line(*rnn2rag(tree, "plan", tree / "none.md"))
    assert "a memory is written as 16GB" in one_line(*rnn2rag(tree, "plan", bare, "--memory", "lots"))


@pytest.mark.parametrize(("text", "count"), [("16GB", 16e9), ("800 MB", 8e8), ("1.5kB", 1500)])
def test_memory_in_words(text, count):
    assert plan.parse(text) == count
    assert plan.parse(plan.size(count).replace(" ", "")) == count


def test_numbers_for_people():
    assert (plan.size(0), plan.size(88_600_000), plan.size(1.5e9)) == ("0.0 kB", "88.6 MB", "1.5 GB")
    assert [plan.duration(s) for s in (0.2, 80, 600, 7200)] == ["1 s", "80 s", "10 minutes", "2 hours"]
    with pytest.raises(UserError):
        plan.parse("16")
