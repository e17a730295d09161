"""The training loop that sections share, once they have written it out themselves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rnn2rag.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

Batch = TypeVar("Batch")

_PARTS = {"model", "optimizer", "losses", "random"}  # of a checkpoint


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
    clip: float | None = None,
    every: int | None = None,
    checkpoint: str | Path | None = None,
) -> list[float]:
    """Train a model and return the loss of every update; the model is left in evaluation mode.

    batches: one an update, started again when they end. loss: of a model and a batch, a tensor with one element.
    steps: the number of updates. clip: the largest norm of the gradient (of all parameters together); a longer gradient
    is scaled down to it. every: updates between two lines of progress; a tenth of `steps` by default.

    Ctrl-C ends the training early; the losses so far are returned.

    checkpoint: a file written with every line of progress, and read at the start if it is there. A run that was cut off
    goes on from it and ends as if it had never stopped, provided that `batches` gives the same sequence again and that
    whatever `loss` remembers between two calls is a buffer of the model.

    Raises UserError where the checkpoint belongs to another run, ValueError where `batches` cannot be started again.
    """
    import torch

    every = every or max(1, steps // 10)
    path = Path(checkpoint) if checkpoint else None
    source = _repeated(batches)
    losses: list[float] = []
    if path and path.exists():
        losses = _resume(path, model, optimizer, steps, source)
    model.train()
    try:
        for step in range(len(losses) + 1, steps + 1):
            value = loss(model, next(source))
            optimizer.zero_grad()
            value.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(value.item())
            if step % every == 0 or step == steps:
                recent = losses[-every:]
                print(f"update {step:>{len(str(steps))}} of {steps} · loss {sum(recent) / len(recent):.3f}")
                if path:
                    _save(path, model, optimizer, losses)
    except KeyboardInterrupt:
        print(f"stopped after {len(losses)} of {steps} updates")
    model.eval()
    return losses


def _repeated(batches: Iterable[Batch]) -> Iterator[Batch]:
    given = 0
    while True:
        before = given
        for batch in batches:
            given += 1
            yield batch
        if given == before:
            raise ValueError(f"the batches ended after {given}: give a list, a DataLoader, or a generator without end")


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
    """Write a checkpoint beside its place and move it there: a run killed while it writes leaves the last one whole."""
    import torch

    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "losses": losses,
        "random": [source.get_rng_state() for source in _random_sources(model)],
    }
    part = path.with_name(path.name + ".part")
    torch.save(state, part)
    os.replace(part, path)


def _resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, source: Iterator[Any]
) -> list[float]:
    """Bring model, optimizer, batches and random numbers to where a checkpoint left them; return its losses."""
    import pickle
    import zipfile

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True) if zipfile.is_zipfile(path) else None
    except (pickle.UnpicklingError, RuntimeError):
        state = None
    if not isinstance(state, dict) or state.keys() != _PARTS:
        raise UserError(f"{path} is not a checkpoint: delete it, or name another file")
    losses = state["losses"]
    same = (
        _shapes(model.state_dict()) == _shapes(state["model"])
        and optimizer.state_dict()["param_groups"] == state["optimizer"]["param_groups"]
        and len(losses) <= steps
    )
    if not same:
        raise UserError(
            f"{path} is of another run (the model, the optimizer's settings or the number of updates differ): "
            "delete it, or name another file"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for _ in losses:
        next(source)
    for random, numbers in zip(_random_sources(model), state["random"], strict=True):
        random.set_rng_state(numbers)
    print(f"resumed after {len(losses)} of {steps} updates")
    return losses


def _random_sources(model: nn.Module) -> list[Any]:
    """The modules of torch whose random numbers a model draws: the CPU's and, elsewhere, its own device's."""
    import torch

    device = next(model.parameters()).device
    return [torch.random] if device.type == "cpu" else [torch.random, torch.get_device_module(device)]


def _shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}
