"""Planted answers to problem set 1: named wrong ones, differently written right ones, and forbidden ones."""

import torch

from rnn2rag.authoring.proofs import forbidden, right, wrong


@wrong("leaky-cell", says="shares are swapped")
def swapped_shares(inputs, lengths, weight_input, weight_hidden, bias, leak):
    state = inputs.new_zeros(inputs.shape[0], len(bias))
    states = []
    for t in range(inputs.shape[1]):
        new = torch.tanh(inputs[:, t] @ weight_input.T + state @ weight_hidden.T + bias)
        state = torch.where((t < lengths)[:, None], leak * state + (1 - leak) * new, state)
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("leaky-cell", says="outside the tanh")
def leak_inside_the_tanh(inputs, lengths, weight_input, weight_hidden, bias, leak):
    state = inputs.new_zeros(inputs.shape[0], len(bias))
    states = []
    for t in range(inputs.shape[1]):
        inner = inputs[:, t] @ weight_input.T + state @ weight_hidden.T + bias
        new = torch.tanh((1 - leak) * state + leak * inner)
        state = torch.where((t < lengths)[:, None], new, state)
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("leaky-cell", says="act transposed")
def transposed_hidden_weights(inputs, lengths, weight_input, weight_hidden, bias, leak):
    state = inputs.new_zeros(inputs.shape[0], len(bias))
    states = []
    for t in range(inputs.shape[1]):
        new = torch.tanh(inputs[:, t] @ weight_input.T + state @ weight_hidden + bias)
        state = torch.where((t < lengths)[:, None], (1 - leak) * state + leak * new, state)
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("leaky-cell", says="not from zeros")
def no_memory(inputs, lengths, weight_input, weight_hidden, bias, leak):
    states = leak * torch.tanh(inputs @ weight_input.T + bias)
    for row, length in enumerate(lengths.tolist()):
        states[row, length:] = states[row, length - 1].clone()
    return states


@wrong("leaky-cell", says="this is the plain cell")
def plain_cell(inputs, lengths, weight_input, weight_hidden, bias, leak):
    state = inputs.new_zeros(inputs.shape[0], len(bias))
    states = []
    for t in range(inputs.shape[1]):
        new = torch.tanh(inputs[:, t] @ weight_input.T + state @ weight_hidden.T + bias)
        state = torch.where((t < lengths)[:, None], new, state)
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("leaky-cell", says="goes on changing in the padding")
def runs_on_in_the_padding(inputs, lengths, weight_input, weight_hidden, bias, leak):
    state = inputs.new_zeros(inputs.shape[0], len(bias))
    states = []
    for t in range(inputs.shape[1]):
        new = torch.tanh(inputs[:, t] @ weight_input.T + state @ weight_hidden.T + bias)
        state = (1 - leak) * state + leak * new
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("leaky-cell", says="yours falls to zero")
def zeros_in_the_padding(inputs, lengths, weight_input, weight_hidden, bias, leak):
    state = inputs.new_zeros(inputs.shape[0], len(bias))
    states = []
    for t in range(inputs.shape[1]):
        new = torch.tanh(inputs[:, t] @ weight_input.T + state @ weight_hidden.T + bias)
        state = ((1 - leak) * state + leak * new) * (t < lengths)[:, None]
        states.append(state)
    return torch.stack(states, dim=1)


@right("leaky-cell")
def one_sequence_after_the_other(inputs, lengths, weight_input, weight_hidden, bias, leak):
    rows = []
    for sequence, length in zip(inputs, lengths, strict=True):
        states = [torch.zeros_like(bias)]
        for x in sequence[: int(length)]:
            new = (weight_input @ x + weight_hidden @ states[-1] + bias).tanh()
            states.append(states[-1] + leak * (new - states[-1]))
        states += [states[-1]] * (len(sequence) - int(length))
        rows.append(torch.stack(states[1:]))
    return torch.stack(rows)


@right("leaky-cell")
def inputs_first_then_a_mask(inputs, lengths, weight_input, weight_hidden, bias, leak):
    from_input = torch.einsum("bti,hi->tbh", inputs, weight_input) + bias
    running = (torch.arange(inputs.shape[1])[:, None] < lengths).to(inputs.dtype)[..., None]
    state, states = torch.zeros_like(from_input[0]), []
    for x, r in zip(from_input, running, strict=True):
        step = leak * (torch.tanh(x + torch.einsum("bj,hj->bh", state, weight_hidden)) - state)
        state = state + r * step
        states.append(state)
    return torch.stack(states).transpose(0, 1)


@forbidden("leaky-cell", points=0)
def calls_the_library_cell(inputs, lengths, weight_input, weight_hidden, bias, leak):
    cell = torch.nn.RNNCell(inputs.shape[-1], len(bias), bias=True)
    parameters = {"weight_ih": weight_input, "weight_hh": weight_hidden, "bias_ih": bias, "bias_hh": 0 * bias}
    state, states = inputs.new_zeros(inputs.shape[0], len(bias)), []
    for t in range(inputs.shape[1]):
        new = torch.func.functional_call(cell, parameters, (inputs[:, t], state))
        state = torch.where((t < lengths)[:, None], (1 - leak) * state + leak * new, state)
        states.append(state)
    return torch.stack(states, dim=1)


@forbidden("leaky-cell", points=0)
def imports_what_the_chapter_built(inputs, lengths, weight_input, weight_hidden, bias, leak):
    from rnn2rag.built.recurrent_networks import RecurrentCell

    cell = RecurrentCell(inputs.shape[-1], len(bias))
    parameters = {"weight_ih": weight_input, "weight_hh": weight_hidden, "bias": bias}
    state, states = inputs.new_zeros(inputs.shape[0], len(bias)), []
    for t in range(inputs.shape[1]):
        new = torch.func.functional_call(cell, parameters, (inputs[:, t], state))
        state = torch.where((t < lengths)[:, None], (1 - leak) * state + leak * new, state)
        states.append(state)
    return torch.stack(states, dim=1)
