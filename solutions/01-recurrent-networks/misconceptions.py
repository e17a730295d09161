"""Planted answers to problem set 1: named wrong ones, differently written right ones, and forbidden ones."""

import math

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


# Problem 3: a unit with one gate


@wrong("gated-unit", says="without the gate")
def candidate_without_the_gate(inputs, state, gate, candidate):
    states = []
    for x in inputs.unbind(1):
        f = torch.sigmoid(x @ gate[0].T + state @ gate[1].T + gate[2])
        new = torch.tanh(x @ candidate[0].T + state @ candidate[1].T + candidate[2])
        state = (1 - f) * state + f * new
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("gated-unit", says="acts after the weights")
def gate_after_the_product(inputs, state, gate, candidate):
    states = []
    for x in inputs.unbind(1):
        f = torch.sigmoid(x @ gate[0].T + state @ gate[1].T + gate[2])
        new = torch.tanh(x @ candidate[0].T + f * (state @ candidate[1].T) + candidate[2])
        state = (1 - f) * state + f * new
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("gated-unit", says="wrong way round")
def mixed_the_other_way(inputs, state, gate, candidate):
    states = []
    for x in inputs.unbind(1):
        f = torch.sigmoid(x @ gate[0].T + state @ gate[1].T + gate[2])
        new = torch.tanh(x @ candidate[0].T + (f * state) @ candidate[1].T + candidate[2])
        state = f * state + (1 - f) * new
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("gated-unit", says="goes through a tanh")
def gate_from_minus_one_to_one(inputs, state, gate, candidate):
    states = []
    for x in inputs.unbind(1):
        f = torch.tanh(x @ gate[0].T + state @ gate[1].T + gate[2])
        new = torch.tanh(x @ candidate[0].T + (f * state) @ candidate[1].T + candidate[2])
        state = (1 - f) * state + f * new
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("gated-unit", says="reads the input and not the state")
def gate_without_the_state(inputs, state, gate, candidate):
    states = []
    for x in inputs.unbind(1):
        f = torch.sigmoid(x @ gate[0].T + gate[2])
        new = torch.tanh(x @ candidate[0].T + (f * state) @ candidate[1].T + candidate[2])
        state = (1 - f) * state + f * new
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("gated-unit", says="reads the state and not the input")
def gate_without_the_input(inputs, state, gate, candidate):
    states = []
    for x in inputs.unbind(1):
        f = torch.sigmoid(state @ gate[1].T + gate[2])
        new = torch.tanh(x @ candidate[0].T + (f * state) @ candidate[1].T + candidate[2])
        state = (1 - f) * state + f * new
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("gated-unit", says="act transposed")
def transposed_state_weights(inputs, state, gate, candidate):
    states = []
    for x in inputs.unbind(1):
        f = torch.sigmoid(x @ gate[0].T + state @ gate[1] + gate[2])
        new = torch.tanh(x @ candidate[0].T + (f * state) @ candidate[1] + candidate[2])
        state = (1 - f) * state + f * new
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("gated-unit", says="first state that is given")
def starts_from_zeros(inputs, state, gate, candidate):
    state = torch.zeros_like(state)
    states = []
    for x in inputs.unbind(1):
        f = torch.sigmoid(x @ gate[0].T + state @ gate[1].T + gate[2])
        new = torch.tanh(x @ candidate[0].T + (f * state) @ candidate[1].T + candidate[2])
        state = (1 - f) * state + f * new
        states.append(state)
    return torch.stack(states, dim=1)


@wrong("gated-unit", says="leave h_0 out")
def keeps_the_first_state_too(inputs, state, gate, candidate):
    states = [state]
    for x in inputs.unbind(1):
        f = torch.sigmoid(x @ gate[0].T + states[-1] @ gate[1].T + gate[2])
        new = torch.tanh(x @ candidate[0].T + (f * states[-1]) @ candidate[1].T + candidate[2])
        states.append((1 - f) * states[-1] + f * new)
    return torch.stack(states, dim=1)


@right("gated-unit")
def joined_weights_and_lerp(inputs, state, gate, candidate):
    gate_weight = torch.cat(gate[:2], dim=1)  # (hidden_size, input_size + hidden_size)
    candidate_weight = torch.cat(candidate[:2], dim=1)
    states = []
    for t in range(inputs.shape[1]):
        both = torch.cat([inputs[:, t], state], dim=1)
        f = torch.nn.functional.linear(both, gate_weight, gate[2]).sigmoid()
        both = torch.cat([inputs[:, t], f * state], dim=1)
        state = torch.lerp(state, torch.nn.functional.linear(both, candidate_weight, candidate[2]).tanh(), f)
        states.append(state)
    return torch.stack(states, dim=1)


@right("gated-unit")
def row_by_row_with_a_class(inputs, state, gate, candidate):
    class Part:
        def __init__(self, weight_input, weight_hidden, bias):
            self.weight_input, self.weight_hidden, self.bias = weight_input, weight_hidden, bias

        def __call__(self, x, h):
            return self.weight_input @ x + self.weight_hidden @ h + self.bias

    inner_gate, inner = Part(*gate), Part(*candidate)
    rows = []
    for sequence, h in zip(inputs, state, strict=True):
        row = []
        for x in sequence:
            f = 1 / (1 + (-inner_gate(x, h)).exp())
            h = h + f * (inner(x, f * h).tanh() - h)
            row.append(h)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@forbidden("gated-unit", points=0)
def candidate_by_the_library_cell(inputs, state, gate, candidate):
    cell = torch.nn.RNNCell(inputs.shape[-1], state.shape[-1])
    names = ("weight_ih", "weight_hh", "bias_ih")
    parameters = {**dict(zip(names, candidate, strict=True)), "bias_hh": 0 * candidate[2]}
    states = []
    for x in inputs.unbind(1):
        f = torch.sigmoid(x @ gate[0].T + state @ gate[1].T + gate[2])
        state = (1 - f) * state + f * torch.func.functional_call(cell, parameters, (x, f * state))
        states.append(state)
    return torch.stack(states, dim=1)


@forbidden("gated-unit", points=0)
def library_gru_with_one_gate_twice(inputs, state, gate, candidate):
    gru = torch.nn.GRU(inputs.shape[-1], state.shape[-1], batch_first=True)
    parameters = {
        "weight_ih_l0": torch.cat([gate[0], -gate[0], candidate[0]]),
        "weight_hh_l0": torch.cat([gate[1], -gate[1], candidate[1]]),
        "bias_ih_l0": torch.cat([gate[2], -gate[2], candidate[2]]),
        "bias_hh_l0": torch.zeros(3 * len(gate[2])),
    }
    return torch.func.functional_call(gru, parameters, (inputs, state[None]))[0]


@forbidden("gated-unit", points=0)
def candidate_that_the_chapter_built(inputs, state, gate, candidate):
    from rnn2rag.built.recurrent_networks import RecurrentCell

    cell = RecurrentCell(inputs.shape[-1], state.shape[-1])
    parameters = dict(zip(("weight_ih", "weight_hh", "bias"), candidate, strict=True))
    states = []
    for x in inputs.unbind(1):
        f = torch.sigmoid(x @ gate[0].T + state @ gate[1].T + gate[2])
        state = (1 - f) * state + f * torch.func.functional_call(cell, parameters, (x, f * state))
        states.append(state)
    return torch.stack(states, dim=1)


# Problem 4: clip by the joint norm


@wrong("clip", says="each tensor by itself")
def each_by_its_own_norm(gradients, max_norm):
    norm = sum((gradient**2).sum() for gradient in gradients).sqrt()
    return [g * (max_norm / g.norm()).clamp(max=1.0).nan_to_num(1.0) for g in gradients], norm


@wrong("clip", says="each number by itself")
def by_value(gradients, max_norm):
    norm = sum((gradient**2).sum() for gradient in gradients).sqrt()
    return [gradient.clamp(-max_norm, max_norm) for gradient in gradients], norm


@wrong("clip", says="made longer")
def scales_short_ones_up(gradients, max_norm):
    norm = sum((gradient**2).sum() for gradient in gradients).sqrt()
    return [gradient * (max_norm / norm.clamp(min=1e-12)) for gradient in gradients], norm


@wrong("clip", says="add up to more")
def adds_the_norms(gradients, max_norm):
    norm = sum(gradient.norm() for gradient in gradients)
    return [gradient * min(1.0, max_norm / max(float(norm), 1e-12)) for gradient in gradients], norm


@wrong("clip", says="square root is missing")
def without_the_root(gradients, max_norm):
    norm = sum((gradient**2).sum() for gradient in gradients)
    return [gradient * min(1.0, max_norm / max(float(norm), 1e-12)) for gradient in gradients], norm


@wrong("clip", says="tensors that you were given")
def in_place(gradients, max_norm):
    norm = sum((gradient**2).sum() for gradient in gradients).sqrt()
    if norm > max_norm:
        for gradient in gradients:
            gradient *= max_norm / norm
    return gradients, norm


@wrong("clip", says="norm before clipping")
def norm_afterwards(gradients, max_norm):
    norm = sum((gradient**2).sum() for gradient in gradients).sqrt()
    if norm > max_norm:
        return [gradient * (max_norm / norm) for gradient in gradients], max_norm
    return [gradient.clone() for gradient in gradients], norm


@right("clip")
def one_long_vector(gradients, max_norm):
    norm = torch.linalg.vector_norm(torch.cat([gradient.reshape(-1) for gradient in gradients])).item()
    scale = max_norm / norm if norm > max_norm else 1.0
    return [scale * gradient for gradient in gradients], norm


@right("clip")
def norm_of_the_norms(gradients, max_norm):
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    return tuple(gradient.mul(scale) for gradient in gradients), norm


@forbidden("clip", points=0)
def by_the_library(gradients, max_norm):
    weights = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_(weights, max_norm)
    return [weight.grad for weight in weights], norm


@forbidden("clip", points=0)
def with_the_library_norm(gradients, max_norm):
    norm = torch.nn.utils.get_total_norm(gradients)
    scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    return [gradient * scale for gradient in gradients], norm


@forbidden("clip", points=0)
def by_what_the_chapter_built(gradients, max_norm):
    from rnn2rag.built.recurrent_networks import clip_norm

    clipped = [gradient.clone() for gradient in gradients]
    return clipped, clip_norm(clipped, max_norm)


# Problem 5: mend the windows


@wrong("debug-windows", says="lowest and the highest value of the whole series")
def scaled_by_the_whole_series(series, window, test_size):
    scaled = (series - series.min()) / (series.max() - series.min())
    inputs = torch.stack([scaled[s : s + window] for s in range(len(series) - window)])
    targets = scaled[window:]
    cut = len(series) - window - test_size
    return {
        "train_inputs": inputs[:cut],
        "train_targets": targets[:cut],
        "test_inputs": inputs[cut:],
        "test_targets": targets[cut:],
    }


@wrong("debug-windows", says="target is the last value of its own window")
def target_inside_the_window(series, window, test_size):
    training = series[: len(series) - test_size]
    scaled = (series - training.min()) / (training.max() - training.min())
    inputs = torch.stack([scaled[s : s + window] for s in range(len(series) - window)])
    targets = scaled[window - 1 : -1]
    cut = len(series) - window - test_size
    return {
        "train_inputs": inputs[:cut],
        "train_targets": targets[:cut],
        "test_inputs": inputs[cut:],
        "test_targets": targets[cut:],
    }


@wrong("debug-windows", says="cut one window too late")
def cut_one_window_late(series, window, test_size):
    training = series[: len(series) - test_size]
    scaled = (series - training.min()) / (training.max() - training.min())
    inputs = torch.stack([scaled[s : s + window] for s in range(len(series) - window)])
    targets = scaled[window:]
    cut = len(inputs) - test_size + 1
    return {
        "train_inputs": inputs[:cut],
        "train_targets": targets[:cut],
        "test_inputs": inputs[cut:],
        "test_targets": targets[cut:],
    }


@wrong("debug-windows", says="counts values, and there are fewer windows")
def cut_at_the_value(series, window, test_size):
    training = series[: len(series) - test_size]
    scaled = (series - training.min()) / (training.max() - training.min())
    inputs = torch.stack([scaled[s : s + window] for s in range(len(series) - window)])
    targets = scaled[window:]
    cut = len(series) - test_size
    return {
        "train_inputs": inputs[:cut],
        "train_targets": targets[:cut],
        "test_inputs": inputs[cut:],
        "test_targets": targets[cut:],
    }


@wrong("debug-windows", says="get no forecast")
def test_windows_without_the_past(series, window, test_size):
    cut = len(series) - test_size
    low, high = series[:cut].min(), series[:cut].max()
    result = {}
    for name, part in (("train", series[:cut]), ("test", series[cut:])):
        scaled = (part - low) / (high - low)
        result[f"{name}_inputs"] = torch.stack([scaled[s : s + window] for s in range(len(part) - window)])
        result[f"{name}_targets"] = scaled[window:]
    return result


@wrong("debug-windows", says="by its own lowest and highest")
def each_part_scaled_by_itself(series, window, test_size):
    cut = len(series) - test_size
    parts = [(part - part.min()) / (part.max() - part.min()) for part in (series[:cut], series[cut:])]
    scaled = torch.cat(parts)
    inputs = torch.stack([scaled[s : s + window] for s in range(len(series) - window)])
    return {
        "train_inputs": inputs[: cut - window],
        "train_targets": scaled[window:cut],
        "test_inputs": inputs[cut - window :],
        "test_targets": scaled[cut:],
    }


@wrong("debug-windows", says="cut off at 1")
def clipped_to_the_range(series, window, test_size):
    training = series[: len(series) - test_size]
    scaled = ((series - training.min()) / (training.max() - training.min())).clamp(0, 1)
    inputs = torch.stack([scaled[s : s + window] for s in range(len(series) - window)])
    cut = len(series) - window - test_size
    return {
        "train_inputs": inputs[:cut],
        "train_targets": scaled[window : window + cut],
        "test_inputs": inputs[cut:],
        "test_targets": scaled[window + cut :],
    }


@right("debug-windows")
def unfolded(series, window, test_size):
    training = series[:-test_size]
    scaled = (series - training.amin()) / (training.amax() - training.amin())
    both = scaled.unfold(0, window + 1, 1)  # (windows, window + 1): each window and the value after it
    train, test = both[:-test_size], both[-test_size:]
    return {
        "train_inputs": train[:, :-1],
        "train_targets": train[:, -1],
        "test_inputs": test[:, :-1],
        "test_targets": test[:, -1],
    }


@right("debug-windows")
def one_target_after_the_other(series, window, test_size):
    first = len(series) - test_size
    values = series.tolist()
    low, high = min(values[:first]), max(values[:first])
    scaled = [(value - low) / (high - low) for value in values]
    result = {"train_inputs": [], "train_targets": [], "test_inputs": [], "test_targets": []}
    for t in range(window, len(scaled)):
        part = "train" if t < first else "test"
        result[f"{part}_inputs"].append(scaled[t - window : t])
        result[f"{part}_targets"].append(scaled[t])
    return {name: torch.tensor(part) for name, part in result.items()}


@forbidden("debug-windows", points=0)
def windows_that_the_chapter_built(series, window, test_size):
    from rnn2rag.built.recurrent_networks import windows

    training = series[:-test_size]
    inputs, targets = windows((series - training.min()) / (training.max() - training.min()), window)
    return {
        "train_inputs": inputs[:-test_size],
        "train_targets": targets[:-test_size],
        "test_inputs": inputs[-test_size:],
        "test_targets": targets[-test_size:],
    }


# Problem 6: read the figure


@wrong("read-the-plot", says="evenly spaced")
def as_if_the_axis_were_linear():
    return {
        "grows": "B",
        "A_left_after_20": 0.063,
        "A_factor_of_one_step": 0.871,
        "C_half_left_at": 25,
        "C_left_after_100": 0.0625,
    }


@wrong("read-the-plot", says="after 20 steps, and you give it for one")
def share_of_twenty_steps_for_one():
    return {
        "grows": "B",
        "A_left_after_20": 0.04,
        "A_factor_of_one_step": 0.04,
        "C_half_left_at": 15,
        "C_left_after_100": 0.01,
    }


@wrong("read-the-plot", says="the same amount at every step")
def loss_divided_by_twenty():
    return {
        "grows": "B",
        "A_left_after_20": 0.04,
        "A_factor_of_one_step": 1 - (1 - 0.04) / 20,
        "C_half_left_at": 15,
        "C_left_after_100": 0.01,
    }


@wrong("read-the-plot", says="the reciprocal")
def how_many_times_smaller():
    return {
        "grows": "B",
        "A_left_after_20": 0.04,
        "A_factor_of_one_step": 1.18,
        "C_half_left_at": 15,
        "C_left_after_100": 0.01,
    }


@wrong("read-the-plot", says="is the steepest line")
def steepest_line():
    return {
        "grows": "A",
        "A_left_after_20": 0.04,
        "A_factor_of_one_step": 0.85,
        "C_half_left_at": 15,
        "C_left_after_100": 0.01,
    }


@wrong("read-the-plot", says="never reaches 0")
def nothing_left_in_the_end():
    return {
        "grows": "B",
        "A_left_after_20": 0.04,
        "A_factor_of_one_step": 0.85,
        "C_half_left_at": 15,
        "C_left_after_100": 0.0,
    }


@right("read-the-plot")
def with_a_ruler():
    left = 10**-1.4
    half = 40 * 0.3 / 0.8  # C falls by 0.8 of a decade in 40 steps, and half is 0.3 of a decade
    return {
        "grows": "B",
        "A_left_after_20": left,
        "A_factor_of_one_step": left ** (1 / 20),
        "C_half_left_at": half,
        "C_left_after_100": 0.5 ** (100 / half),
    }


@right("read-the-plot")
def roughly():
    return {
        "grows": "B",
        "A_left_after_20": 0.035,
        "A_factor_of_one_step": 0.84,
        "C_half_left_at": 16,
        "C_left_after_100": 0.014,
    }


# Problem 7: states from both sides


@wrong("both-directions", says="starts in the padding")
def reverses_the_padded_axis(step_forward, step_backward, inputs, lengths, hidden_size):
    def states_of(step, sequence):
        state, states = inputs.new_zeros(len(inputs), hidden_size), []
        for x in sequence.unbind(1):
            state = step(x, state)
            states.append(state)
        return torch.stack(states, dim=1)

    forward = states_of(step_forward, inputs)
    backward = states_of(step_backward, inputs.flip(1)).flip(1)
    valid = torch.arange(inputs.shape[1]) < lengths[:, None]
    return torch.cat([forward, backward], dim=-1) * valid[..., None]


@wrong("both-directions", says="turned back")
def left_in_reading_order(step_forward, step_backward, inputs, lengths, hidden_size):
    states = inputs.new_zeros(*inputs.shape[:2], 2 * hidden_size)
    for row, length in enumerate(lengths.tolist()):
        forward = backward = inputs.new_zeros(1, hidden_size)
        for t in range(length):
            forward = step_forward(inputs[row : row + 1, t], forward)
            backward = step_backward(inputs[row : row + 1, length - 1 - t], backward)
            states[row, t] = torch.cat([forward[0], backward[0]])
    return states


@wrong("both-directions", says="twice the forward states")
def forward_states_twice(step_forward, step_backward, inputs, lengths, hidden_size):
    states = inputs.new_zeros(*inputs.shape[:2], 2 * hidden_size)
    state = inputs.new_zeros(len(inputs), hidden_size)
    for t in range(inputs.shape[1]):
        state = step_forward(inputs[:, t], state)
        states[:, t] = torch.cat([state, state], dim=-1) * (t < lengths)[:, None]
    return states


@wrong("both-directions", says="use step_backward")
def one_step_function_for_both(step_forward, step_backward, inputs, lengths, hidden_size):
    states = inputs.new_zeros(*inputs.shape[:2], 2 * hidden_size)
    for row, length in enumerate(lengths.tolist()):
        forward = backward = inputs.new_zeros(1, hidden_size)
        for t in range(length):
            forward = step_forward(inputs[row : row + 1, t], forward)
            backward = step_forward(inputs[row : row + 1, length - 1 - t], backward)
            states[row, t, :hidden_size] = forward[0]
            states[row, length - 1 - t, hidden_size:] = backward[0]
    return states


@wrong("both-directions", says="along time")
def one_direction_after_the_other(step_forward, step_backward, inputs, lengths, hidden_size):
    seq_len = inputs.shape[1]
    states = inputs.new_zeros(len(inputs), 2 * seq_len, hidden_size)
    for row, length in enumerate(lengths.tolist()):
        forward = backward = inputs.new_zeros(1, hidden_size)
        for t in range(length):
            forward = step_forward(inputs[row : row + 1, t], forward)
            backward = step_backward(inputs[row : row + 1, length - 1 - t], backward)
            states[row, t] = forward[0]
            states[row, seq_len + length - 1 - t] = backward[0]
    return states


@wrong("both-directions", says="padding must be zero")
def states_in_the_padding(step_forward, step_backward, inputs, lengths, hidden_size):
    forward = backward = inputs.new_zeros(len(inputs), hidden_size)
    first, second = [], []
    for t in range(inputs.shape[1]):
        forward = step_forward(inputs[:, t], forward)
        first.append(forward)
    for t in reversed(range(inputs.shape[1])):
        new = step_backward(inputs[:, t], backward)
        backward = torch.where((t < lengths)[:, None], new, backward)
        second.insert(0, backward)
    return torch.cat([torch.stack(first, dim=1), torch.stack(second, dim=1)], dim=-1)


@right("both-directions")
def turned_by_an_index(step_forward, step_backward, inputs, lengths, hidden_size):
    def states_of(step, sequence):
        state, states = inputs.new_zeros(len(inputs), hidden_size), []
        for x in sequence.unbind(1):
            state = step(x, state)
            states.append(state)
        return torch.stack(states, dim=1)

    steps = torch.arange(inputs.shape[1])
    valid = steps < lengths[:, None]  # (batch, seq_len)
    turned = torch.where(valid, lengths[:, None] - 1 - steps, steps)
    rows = torch.arange(len(inputs))[:, None]
    forward = states_of(step_forward, inputs)
    backward = states_of(step_backward, inputs[rows, turned])[rows, turned]
    return torch.cat([forward, backward], dim=-1).masked_fill(~valid[..., None], 0.0)


@right("both-directions")
def one_row_at_a_time(step_forward, step_backward, inputs, lengths, hidden_size):
    def read(step, sequence):
        states = [sequence.new_zeros(1, hidden_size)]
        for x in sequence:
            states.append(step(x[None], states[-1]))
        return torch.cat(states[1:])

    rows = []
    for sequence, length in zip(inputs, lengths, strict=True):
        sequence = sequence[: int(length)]
        rows.append(torch.hstack([read(step_forward, sequence), read(step_backward, sequence.flip(0)).flip(0)]))
    padding = [(0, 0, 0, inputs.shape[1] - len(row)) for row in rows]
    return torch.stack([torch.nn.functional.pad(row, pad) for row, pad in zip(rows, padding, strict=True)])


@forbidden("both-directions", points=0)
def unrolled_as_the_chapter_built(step_forward, step_backward, inputs, lengths, hidden_size):
    from rnn2rag.built.recurrent_networks import unroll

    states = inputs.new_zeros(*inputs.shape[:2], 2 * hidden_size)
    for row, length in enumerate(lengths.tolist()):
        sequence, start = inputs[row : row + 1, :length], inputs.new_zeros(1, hidden_size)
        states[row, :length, :hidden_size] = unroll(step_forward, sequence, start)[0][0]
        states[row, :length, hidden_size:] = unroll(step_backward, sequence.flip(1), start)[0][0].flip(0)
    return states


# Problem 8: bits a character


@wrong("bits", says="in nats")
def natural_logarithm(logits, targets, lengths):
    surprise = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    valid = torch.arange(targets.shape[1]) < lengths[:, None]
    nats = surprise[valid].mean()
    return nats, nats.exp()


@wrong("bits", says="to the base 10")
def decimal_logarithm(logits, targets, lengths):
    surprise = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    valid = torch.arange(targets.shape[1]) < lengths[:, None]
    nats = surprise[valid].mean()
    return nats / math.log(10), nats.exp()


@wrong("bits", says="counts the padding")
def mean_over_the_padding_too(logits, targets, lengths):
    surprise = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    bits = surprise.mean() / math.log(2)
    return bits, 2**bits


@wrong("bits", says="every sequence counts the same")
def mean_of_the_means(logits, targets, lengths):
    surprise = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    valid = torch.arange(targets.shape[1]) < lengths[:, None]
    bits = ((surprise * valid).sum(1) / lengths).mean() / math.log(2)
    return bits, 2**bits


@wrong("bits", says="over the steps")
def softmax_over_time(logits, targets, lengths):
    surprise = -logits.log_softmax(1).gather(-1, targets[..., None])[..., 0]
    valid = torch.arange(targets.shape[1]) < lengths[:, None]
    bits = surprise[valid].mean() / math.log(2)
    return bits, 2**bits


@wrong("bits", says="e to the power of bits")
def bases_mixed_up(logits, targets, lengths):
    surprise = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    valid = torch.arange(targets.shape[1]) < lengths[:, None]
    bits = surprise[valid].mean() / math.log(2)
    return bits, bits.exp()


@wrong("bits", says="rounded to 0")
def logarithm_of_a_softmax(logits, targets, lengths):
    probability = logits.softmax(-1).gather(-1, targets[..., None])[..., 0]
    valid = torch.arange(targets.shape[1]) < lengths[:, None]
    bits = -probability[valid].log2().mean()
    return bits, 2**bits


@right("bits")
def character_by_character(logits, targets, lengths):
    total = 0.0
    for row, length in enumerate(lengths.tolist()):
        for t in range(length):
            scores = logits[row, t].double()
            total += (torch.logsumexp(scores, 0) - scores[targets[row, t]]).item() / math.log(2)
    bits = total / int(lengths.sum())
    return bits, 2.0**bits


@right("bits")
def one_hot_and_a_mask(logits, targets, lengths):
    scores = logits - logits.amax(-1, keepdim=True)
    log_probability = scores - scores.exp().sum(-1, keepdim=True).log()
    chosen = torch.nn.functional.one_hot(targets, logits.shape[-1]).to(logits.dtype)
    surprise = -torch.einsum("btv,btv->bt", log_probability, chosen)
    valid = (torch.arange(targets.shape[1])[None] < lengths[:, None]).to(logits.dtype)
    nats = (surprise * valid).sum() / valid.sum()
    return nats / math.log(2), torch.exp(nats)


@forbidden("bits", points=0)
def cross_entropy_of_the_library(logits, targets, lengths):
    valid = torch.arange(targets.shape[1]) < lengths[:, None]
    nats = torch.nn.functional.cross_entropy(logits[valid], targets[valid])
    return nats / math.log(2), nats.exp()


@forbidden("bits", points=0)
def negative_log_likelihood_layer(logits, targets, lengths):
    valid = torch.arange(targets.shape[1]) < lengths[:, None]
    nats = torch.nn.NLLLoss()(logits[valid].log_softmax(-1), targets[valid])
    return nats / math.log(2), nats.exp()
