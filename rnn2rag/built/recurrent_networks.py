"""Generated from the exported cells of chapters/01-recurrent-networks: edit those, then run `make notebooks`."""


# From chapters/01-recurrent-networks/recurrent-cell.md


import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn2rag import data


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
    for step, x in enumerate(inputs.unbind(dim=1)):  # x: (batch, input_size)
        if reach and step and step % reach == 0:
            state = state.detach()
        state = cell(x, state)  # (batch, hidden_size)
        states.append(state)
    return torch.stack(states, dim=1), state


@cache
def tales() -> list[str]:
    """Return the text of each tale: Grimm's, and at full scale TinyStories."""
    return list(data.load("tales")["train"]["text"])


@cache
def alphabet() -> list[str]:
    """Return every character of the tales, in order."""
    return sorted(set("\n".join(tales())))


def split_tales(seed: int, n_held_out: int = 9) -> tuple[str, str]:
    """Return training and held-out text; the seed draws the tales to hold out."""
    order = torch.randperm(
        len(tales()), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    parts = order[n_held_out:], order[:n_held_out]
    training, held_out = ("\n".join(tales()[i] for i in part) for part in parts)
    return training, held_out


def ngram_bits(training: str, held_out: str, n: int) -> float:
    """Bits a character for counts of up to n characters (Witten and Bell, 1991)."""
    followers: dict[str, Counter[str]] = defaultdict(Counter)
    for length in range(n):
        for i in range(length, len(training)):
            followers[training[i - length : i]][training[i]] += 1
    totals = {context: counts.total() for context, counts in followers.items()}
    bits = 0.0
    for i in range(n - 1, len(held_out)):
        probability = 1 / len(alphabet())
        for length in range(n):
            context = held_out[i - length : i]
            if context not in totals:
                break
            counts, total = followers[context], totals[context]
            trust = total / (total + len(counts))  # against a shorter context
            share = counts[held_out[i]] / total
            probability = trust * share + (1 - trust) * probability
        bits -= math.log2(probability)
    return bits / (len(held_out) - n + 1)


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


@torch.no_grad()
def bits_per_character(model: nn.Module, text: str) -> float:
    """Bits a character that a model needs on a text, read as 64 streams.

    model: from tokens, (batch, seq_len), to scores of the next ones, and a state
    """
    device = next(model.parameters()).device
    parts = streams(encode(text, alphabet()), 64).to(device)
    logits, _ = model(parts[:, :-1])
    nats = F.cross_entropy(logits.flatten(0, 1), parts[:, 1:].flatten())
    return nats.item() / math.log(2)


# From chapters/01-recurrent-networks/gates-and-memory.md


import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_norm(gradients: list[Tensor], largest: float) -> float:
    """Scale gradients down, in place, to a joint norm of at most `largest`.

    gradients: of all parameters, any shapes. Returns their norm before.
    """
    norm = (
        torch.stack([gradient.square().sum() for gradient in gradients])
        .sum()
        .sqrt()
    )
    scale = min(1.0, largest / norm.item()) if norm else 1.0
    for gradient in gradients:
        gradient *= scale
    return norm.item()


class LSTMCell(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).

    weight_ih: (4 * hidden_size, input_size), rows: input, forget, candidate, output
    weight_hh: (4 * hidden_size, hidden_size)
    bias: (4 * hidden_size,)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        for weight in self.parameters():
            nn.init.uniform_(weight, -(hidden_size**-0.5), hidden_size**-0.5)

    def gates(self, inputs: Tensor, hidden: Tensor) -> list[Tensor]:
        """Return input gate, forget gate, candidate, output gate, as `forward`."""
        stacked = (
            inputs @ self.weight_ih.mT + hidden @ self.weight_hh.mT + self.bias
        )
        i, f, g, o = stacked.chunk(4, dim=-1)  # (batch, hidden_size) each
        return [i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()]

    def forward(self, inputs: Tensor, state: list[Tensor]) -> list[Tensor]:
        """From (batch, input_size) and [hidden, memory] to the next [hidden, memory]."""
        hidden, memory = state  # (batch, hidden_size) each
        i, f, g, o = self.gates(inputs, hidden)
        memory = f * memory + i * g
        return [o * memory.tanh(), memory]

    def start(self, batch_size: int) -> list[Tensor]:
        """Return a first state of zeros."""
        return [self.weight_hh.new_zeros(batch_size, self.hidden_size)] * 2


class GRUCell(nn.Module):
    """Gated recurrent unit (Cho et al., 2014), reset after the product as in PyTorch.

    weight_ih: (3 * hidden_size, input_size), rows: reset, update, candidate
    weight_hh: (3 * hidden_size, hidden_size)
    bias_ih, bias_hh: (3 * hidden_size,)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(3 * hidden_size))
        for weight in self.parameters():
            nn.init.uniform_(weight, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, inputs: Tensor, state: list[Tensor]) -> list[Tensor]:
        """From (batch, input_size) and [hidden] to the next [hidden]."""
        (hidden,) = state  # (batch, hidden_size)
        from_inputs = (inputs @ self.weight_ih.mT + self.bias_ih).chunk(3, dim=-1)
        from_hidden = (hidden @ self.weight_hh.mT + self.bias_hh).chunk(3, dim=-1)
        reset = (from_inputs[0] + from_hidden[0]).sigmoid()
        update = (from_inputs[1] + from_hidden[1]).sigmoid()
        candidate = (from_inputs[2] + reset * from_hidden[2]).tanh()
        return [(1 - update) * candidate + update * hidden]

    def start(self, batch_size: int) -> list[Tensor]:
        """Return a first state of zeros."""
        return [self.weight_hh.new_zeros(batch_size, self.hidden_size)]


def run_cell(cell: nn.Module, inputs: Tensor) -> list[list[Tensor]]:
    """Run a gated cell over (batch, seq_len, input_size) from its first state.

    Returns the state after each step, as the cell gives it.
    """
    state = cell.start(len(inputs))
    return [state := cell(step, state) for step in inputs.unbind(dim=1)]


def remember_batch(
    distance: int, batch_size: int, random: torch.Generator
) -> Tensor:
    """Sequences of a symbol below 8 and `distance` distractors from 8 to 15."""
    first = torch.randint(8, (batch_size, 1), generator=random)
    rest = torch.randint(8, 16, (batch_size, distance), generator=random)
    return torch.cat([first, rest], dim=1)  # (batch_size, 1 + distance)


# From chapters/01-recurrent-networks/forecasting.md


import torch
from torch import Tensor, nn


def windows(series: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return every window of a series and the value that follows each.

    series: (steps,), oldest first
    returns windows, (steps - length, length), and targets, (steps - length,)
    Raises ValueError where the series is not longer than a window.
    """
    if len(series) <= length:
        raise ValueError(f"{len(series)} steps have no window of {length} and a target")
    parts = series.unfold(0, length + 1, 1)  # (steps - length, length + 1)
    return parts[:, :-1], parts[:, -1]


# From chapters/01-recurrent-networks/character-model.md


import torch
from torch import Tensor, nn


class CharacterLSTM(nn.Module):
    """Predicts the next character with an LSTM.

    vocab_size: the number of characters. dropout: of the LSTM's inputs and outputs.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 64,
        hidden_size: int = 320,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.rnn = nn.LSTM(d_model, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)
        self.rnn.bias_ih_l0.data[hidden_size : 2 * hidden_size] += 1.0

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return scores, (batch, seq_len, vocab_size), and the last state.

        tokens: (batch, seq_len)
        """
        states, last = self.rnn(self.dropout(self.embedding(tokens)), state)
        return self.output(self.dropout(states)), last


@torch.no_grad()
def write(
    model: nn.Module,
    tokens: Tensor,
    length: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Continue a text character by character; return the new tokens, (length,).

    model: from tokens, (batch, seq_len), and a state to scores and the next state
    tokens: (seq_len,), what the model reads first
    temperature: above 0; small values take the likeliest character
    """
    state, given = None, tokens[None]  # (1, seq_len)
    new = []
    for _ in range(length):
        logits, state = model(given, state)
        chances = (logits[0, -1] / temperature).softmax(-1).cpu()  # (vocab_size,)
        new.append(torch.multinomial(chances, 1, generator=generator))
        given = new[-1][None].to(tokens.device)  # (1, 1)
    return torch.cat(new)


# From chapters/01-recurrent-networks/parallel-recurrence.md


from collections.abc import Callable

import torch
from torch import Tensor, nn


LinearStep = tuple[Tensor, Tensor]  # what the state is multiplied by, what is added


def compose(earlier: LinearStep, later: LinearStep) -> LinearStep:
    """Make one step of two: (a1, b1), then (a2, b2). All of one shape."""
    return earlier[0] * later[0], later[0] * earlier[1] + later[1]


def recurrence_by_loop(decay: Tensor, add: Tensor) -> Tensor:
    """Every state of h[t] = decay[t] * h[t - 1] + add[t], one step after the other.

    decay, add: (batch, seq_len, channels). Returns the same shape; h starts at 0.
    """
    state, states = torch.zeros_like(add[:, 0]), []
    for a, b in zip(decay.unbind(1), add.unbind(1), strict=True):
        state = a * state + b  # (batch, channels)
        states.append(state)
    return torch.stack(states, dim=1)


def recurrence_by_doubling(decay: Tensor, add: Tensor) -> Tensor:
    """The same states by a scan of few rounds (Hillis and Steele, 1986)."""
    reach = 1
    while reach < add.shape[1]:
        earlier = decay[:, :-reach], add[:, :-reach]
        later = decay[:, reach:], add[:, reach:]
        a, b = compose(earlier, later)
        decay = torch.cat([decay[:, :reach], a], dim=1)
        add = torch.cat([add[:, :reach], b], dim=1)
        reach *= 2
    return add


def recurrence_by_pairs(decay: Tensor, add: Tensor) -> Tensor:
    """The same states by a work-efficient scan (after Blelloch, 1990)."""
    if add.shape[1] == 1:
        return add
    half = add.shape[1] // 2
    earlier = decay[:, : 2 * half : 2], add[:, : 2 * half : 2]
    later = decay[:, 1::2], add[:, 1::2]
    seconds = recurrence_by_pairs(*compose(earlier, later))  # steps 2, 4, 6, ...
    a, b = decay[:, 2::2], add[:, 2::2]  # of steps 3, 5, 7, ...
    between = a * seconds[:, : a.shape[1]] + b
    firsts = torch.cat([add[:, :1], between], dim=1)  # steps 1, 3, 5, ...
    both = torch.stack([firsts[:, :half], seconds], dim=2).flatten(1, 2)
    return torch.cat([both, firsts[:, half:]], dim=1)


class GatedLinearRecurrence(nn.Module):
    """h = (1 - z) * h + z * candidate, from the input alone (Feng et al., 2024).

    gate_bias: the first bias of z; run: how the recurrence is computed
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        gate_bias: float = 0.0,
        run: Callable[[Tensor, Tensor], Tensor] = recurrence_by_pairs,
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(input_size, hidden_size)
        self.candidate = nn.Linear(input_size, hidden_size)
        self.run = run
        nn.init.constant_(self.gate.bias, gate_bias)

    def forward(
        self, inputs: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """From (batch, seq_len, input_size) to every state, and the last one."""
        z = self.gate(inputs).sigmoid()  # (batch, seq_len, hidden_size)
        decay, add = 1 - z, z * self.candidate(inputs)
        if state is not None:  # (batch, hidden_size)
            first = add[:, :1] + decay[:, :1] * state[:, None]
            add = torch.cat([first, add[:, 1:]], dim=1)
        states = self.run(decay, add)
        return states, states[:, -1]
