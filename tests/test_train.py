"""The shared training loop: progress, clipping, Ctrl-C, and a run that is killed and resumed."""

import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from rnn2rag import train
from rnn2rag.errors import UserError

# A run with everything that a checkpoint must bring back: Adam's moments, dropout, a second pass over the batches.
SCRIPT = """
import os, signal, sys
import torch
from torch import nn
from rnn2rag import train

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
inputs = torch.randn(8, 4, 3)
batches = [(x, x.sum(1, keepdim=True)) for x in inputs]
calls = 0

def loss(model, batch):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.functional.mse_loss(model(batch[0]), batch[1])

optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
losses = train.fit(model, batches, loss, optimizer, steps=15, clip=0.5, every=4, checkpoint=sys.argv[1])
torch.save({"losses": losses, "model": model.state_dict()}, sys.argv[1] + ".result")
"""


def run(checkpoint, kill_at):
    command = [sys.executable, "-c", SCRIPT, str(checkpoint), str(kill_at)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def a_model():
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def squared(model, batch):
    return model(batch).square().mean()


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_a_killed_run_resumes_to_the_same_result(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, kill_at=0).returncode == 0
    assert run(killed, kill_at=11).returncode == -signal.SIGKILL
    resumed = run(killed, kill_at=0)
    assert resumed.returncode == 0 and resumed.stderr == ""
    assert resumed.stdout.startswith("resumed after 8 of 15 updates\n")
    expected, got = torch.load(f"{whole}.result"), torch.load(f"{killed}.result")
    assert got["losses"] == expected["losses"] and len(got["losses"]) == 15
    for name, value in expected["model"].items():
        assert torch.equal(got["model"][name], value), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "killed.result", "whole", "whole.result"]


def test_a_finished_run_is_not_repeated(tmp_path):
    batch = torch.ones(4, 2)
    first = a_model()
    losses = train.fit(first, [batch], squared, sgd(first), steps=5, checkpoint=tmp_path / "run")
    second = a_model()
    assert train.fit(second, [batch], squared, sgd(second), steps=5, checkpoint=tmp_path / "run") == losses
    assert torch.equal(first.weight, second.weight)


def test_ctrl_c_returns_what_was_done(capsys):
    def loss(model, batch):
        if batch is None:
            signal.raise_signal(signal.SIGINT)
        return squared(model, batch)

    model = a_model()
    losses = train.fit(model, [torch.ones(4, 2)] * 3 + [None], loss, sgd(model), steps=10)
    assert len(losses) == 3 and losses[2] < losses[0]
    assert not model.training
    assert capsys.readouterr().out.endswith("stopped after 3 of 10 updates\n")


def test_progress_is_sparse_and_on_stdout(capsys):
    model = a_model()
    losses = train.fit(model, [torch.ones(4, 2)], squared, sgd(model), steps=100)
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) == 10
    assert lines[-1] == f"update 100 of 100 · loss {sum(losses[-10:]) / 10:.3f}"


def test_clip_bounds_the_gradient():
    model = a_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train.fit(model, [1e6 * torch.ones(4, 2)], squared, sgd(model, lr=1.0), steps=1, clip=0.5)
    moved = torch.cat([(new - old).flatten() for new, old in zip(model.parameters(), before, strict=True)])
    torch.testing.assert_close(moved.norm(), torch.tensor(0.5))


@pytest.mark.parametrize(
    ("other", "steps", "lr"),
    [(nn.Linear(3, 1), 5, 0.1), (nn.Linear(2, 1), 5, 0.2), (nn.Linear(2, 1), 4, 0.1)],
    ids=["model", "settings", "steps"],
)
def test_a_checkpoint_of_another_run_is_refused_untouched(tmp_path, other, steps, lr):
    model = a_model()
    train.fit(model, [torch.ones(4, 2)], squared, sgd(model), steps=5, checkpoint=tmp_path / "run")
    before, stored = other.weight.detach().clone(), (tmp_path / "run").read_bytes()
    with pytest.raises(UserError, match="of another run"):
        train.fit(other, [torch.ones(4, 2)], squared, sgd(other, lr), steps=steps, checkpoint=tmp_path / "run")
    assert torch.equal(other.weight, before) and (tmp_path / "run").read_bytes() == stored


@pytest.mark.parametrize("content", [b"", b"some text", {"weight": torch.ones(1, 2)}], ids=["empty", "text", "weights"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / "run").write_bytes(content)
    else:
        torch.save(content, tmp_path / "run")
    model = a_model()
    with pytest.raises(UserError, match="is not a checkpoint"):
        train.fit(model, [torch.ones(4, 2)], squared, sgd(model), steps=5, checkpoint=tmp_path / "run")


def test_batches_that_cannot_start_again_are_named():
    model = a_model()
    with pytest.raises(ValueError, match="the batches ended after 2"):
        train.fit(model, iter([torch.ones(4, 2)] * 2), squared, sgd(model), steps=5)
