"""Generated from the exported cells of chapters/01-recurrent-networks: edit those, then run `make notebooks`."""


# From chapters/01-recurrent-networks/recurrent-cell.md


from collections.abc import Iterator

import torch
from torch import Tensor, nn


class RecurrentCell(nn.Module):
    """One step of a recurrent network (Elman, 1990): state and input to new state.

    weight_ih: (hidden_size, input_size)
    weight_hh: (hidden_size, hidden_size)
    bias: (hidden_size,)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        bound = hidden_size**-0.5
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        nn.init.uniform_(self.weight_ih, -bound, bound)
        nn.init.uniform_(self.weight_hh, -bound, bound)

    def forward(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Return the new state, (batch, hidden_size).

        inputs: (batch, input_size). state: (batch, hidden_size), the one before.
        """
        from_inputs = inputs @ self.weight_ih.mT  # (batch, hidden_size)
        return torch.tanh(from_inputs + state @ self.weight_hh.mT + self.bias)


def unroll(
    cell: RecurrentCell,
    inputs: Tensor,
    state: Tensor | None = None,
    reach: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a cell over a batch of sequences.

    inputs: (batch, seq_len, input_size)
    state: (batch, hidden_size), zeros by default
    reach: cut the gradient, not the state, after so many steps; never by default
    returns every state, (batch, seq_len, hidden_size), and the last one
    """
    if state is None:
        state = inputs.new_zeros(len(inputs), len(cell.bias))
    states = []
    for step in range(inputs.shape[1]):
        if reach and step and step % reach == 0:
            state = state.detach()
        state = cell(inputs[:, step], state)  # (batch, hidden_size)
        states.append(state)
    return torch.stack(states, dim=1), state


def encode(text: str, alphabet: list[str]) -> Tensor:
    """Return the number of each character in the alphabet, (len(text),)."""
    number = {character: i for i, character in enumerate(alphabet)}
    return torch.tensor([number[character] for character in text])


def streams(tokens: Tensor, batch_size: int) -> Tensor:
    """Cut a sequence into parts to read side by side, (batch_size, stream_len).

    What does not fill another step of all parts is dropped.
    """
    stream_len = len(tokens) // batch_size
    return tokens[: batch_size * stream_len].view(batch_size, stream_len)


def chunks(parts: Tensor, seq_len: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets, (batch_size, seq_len) each, over and over.

    parts: (batch_size, stream_len); the targets are the inputs one step later.
    Raises ValueError where the streams are shorter than a chunk and its targets.
    """
    last = parts.shape[1] - seq_len
    if last < 1:
        raise ValueError(
            f"streams of {parts.shape[1]} tokens have no chunk of {seq_len}"
        )
    while True:
        for start in range(0, last, seq_len):
            chunk = parts[:, start : start + seq_len + 1]
            yield chunk[:, :-1], chunk[:, 1:]
