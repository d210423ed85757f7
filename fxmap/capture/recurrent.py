"""lstm(x) = its cells, step by step: recurrent layers are recorded as loops over cells.

torch computes the input projection of a layer for all steps at once, and a loop over cells computes it step by step; with
cells, both models have one graph. Of packed sequences, only the rows that are not over go through a cell. Layers with a
projection are recorded as torch computes them.

fill_diagonal_(x) = fill_(diagonal(x)): torch's kernel uses strides, which functional recordings cannot follow through views.

x.data = x.detach(): the same memory without autograd history; `detach` is dispatched as an operation, `data` is not.

linear(x) = linear(contiguous(x)): for an x that is not contiguous, torch computes a batched matrix product instead.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fxmap.capture.packed import numbers_of, packed, padded, run_cells, split

_CELLS: dict[str, Callable[..., Any]] = {
    "lstm": torch.lstm_cell,
    "gru": torch.gru_cell,
    "rnn_tanh": torch.rnn_tanh_cell,
    "rnn_relu": torch.rnn_relu_cell,
}


class Unrolled(TorchFunctionMode):
    """Runs recurrent layers as loops over cells, and linear layers as one product each, inside the `with` block."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function; recurrent layers run cell by cell."""
        name = getattr(func, "__name__", "")
        if name == "__get__" and func.__self__ is torch.Tensor.data:
            return args[0].detach()
        if name == "__set__" and func.__self__ is torch.Tensor.data and len(args) == 2:
            return func(args[0], _of_one_kind(args[1], args[0]))
        if name == "fill_diagonal_" and len(args) == 2 and not kwargs and args[0].dim() == 2:
            args[0].diagonal().fill_(args[1])
            return args[0]
        if func is F.linear and args and not args[0].is_contiguous():
            return func(args[0].contiguous(), *args[1:], **(kwargs or {}))
        if name in _CELLS and not kwargs and _is_plain(args):
            return _unrolled(name, *args)
        if name in _CELLS and not kwargs and _is_packed(args):
            return _unrolled_packed(name, *args)
        if name == "_pack_padded_sequence" and len(args) == 3 and not kwargs:
            counts = func(*args)[1]
            return packed(args[0], numbers_of(counts), batch_first=args[2]), counts
        if name == "_pad_packed_sequence" and len(args) == 5 and not kwargs:
            return _padded(*args)
        return func(*args, **(kwargs or {}))


def _of_one_kind(value: Tensor, holder: Tensor) -> Tensor:
    """Return a value that a tensor can hold as its data: torch ends the process where one alone is functional."""
    wrapped, held = torch._is_functional_tensor(holder), torch._is_functional_tensor(value)
    if held and not wrapped:
        torch._sync(value)  # type: ignore[attr-defined, no-untyped-call]
        made: Tensor = torch._from_functional_tensor(value)
        return made
    return torch._to_functional_tensor(value) if wrapped and not held else value


def _is_plain(args: Any) -> bool:
    """Whether these are the arguments of a recurrent layer without a projection, for a padded sequence in eval mode."""
    if len(args) != 9 or not isinstance(args[2], list | tuple):
        return False
    _, _, weights, has_biases, layers, _, training, bidirectional, _ = args
    return not training and len(weights) == layers * (1 + bidirectional) * (4 if has_biases else 2)


def _is_packed(args: Any) -> bool:
    """Whether these are the arguments of such a layer for a packed batch: its rows, and how many there are at each step."""
    if len(args) != 9 or not isinstance(args[1], Tensor) or not isinstance(args[3], list | tuple):
        return False
    _, _, _, weights, has_biases, layers, _, training, bidirectional = args
    return not training and len(weights) == layers * (1 + bidirectional) * (4 if has_biases else 2)


def _unrolled_packed(
    name: str,
    data: Tensor,
    counts: Tensor,
    state: Any,
    weights: Any,
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
) -> Any:
    """Run a recurrent layer on a packed batch as its cells, in eval mode."""
    states = _states(name, state, layers * (1 + bidirectional))
    steps, last = _run_layers(name, split(data, numbers_of(counts)), states, weights, has_biases, layers, run_cells)
    return torch.cat(steps), *_stacked(name, last)


def _cell(name: str, weights: Any, x: Tensor, state: Any) -> Any:
    return _CELLS[name](x, state, *weights)


def _padded(data: Tensor, sizes: Tensor, batch_first: bool, value: float, steps: int) -> tuple[Tensor, Tensor]:
    """Pad a packed batch; return it with the length of every sequence."""
    counts = numbers_of(sizes)
    lengths = torch.tensor([sum(count > row for count in counts) for row in range(counts[0])])
    return padded(data, counts, batch_first=batch_first, value=value, steps=steps), lengths


def _unrolled(
    name: str,
    x: Tensor,
    state: Any,
    weights: Any,
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """Run a recurrent layer as its cells, in eval mode, in which there is no dropout."""
    states = _states(name, state, layers * (1 + bidirectional))
    axis = 1 if batch_first else 0
    steps = [x.select(axis, i) for i in range(x.shape[axis])]
    steps, last = _run_layers(name, steps, states, weights, has_biases, layers, _run_steps)
    result = torch.stack(steps)
    return result.transpose(0, 1) if batch_first else result, *_stacked(name, last)


def _states(name: str, state: Any, count: int) -> list[Any]:
    """Return the first state of every layer and direction."""
    # Selected one by one, as code with cells does: `unbind` would be another operation.
    return [tuple(part[i] for part in state) if name == "lstm" else state[i] for i in range(count)]


def _run_layers(
    name: str, steps: list[Tensor], states: list[Any], weights: Any, has_biases: bool, layers: int, run: Callable[..., Any]
) -> tuple[list[Tensor], list[Any]]:
    """Run every layer, in each direction, on what the one before made; return the steps of the last and all last states."""
    last: list[Any] = []
    directions, count = len(states) // layers, 4 if has_biases else 2
    for layer in range(layers):
        outputs: list[list[Tensor]] = []
        for direction in range(directions):
            place = layer * directions + direction
            cell = partial(_cell, name, weights[place * count : (place + 1) * count])
            made, hidden = run(cell, steps, states[place], backwards=bool(direction))
            outputs.append(made)
            last.append(hidden)
        steps = outputs[0] if directions == 1 else [torch.cat(both, -1) for both in zip(*outputs, strict=True)]
    return steps, last


def _run_steps(cell: Callable[[Tensor, Any], Any], steps: list[Tensor], state: Any, *, backwards: bool) -> Any:
    """Run a cell over steps that all have every row; return what it makes at each step, and the last state."""
    made: list[Tensor] = []
    for step in reversed(steps) if backwards else steps:
        state = cell(step, state)
        made.append(state[0] if isinstance(state, tuple) else state)
    return (made[::-1] if backwards else made), state


def _stacked(name: str, last: list[Any]) -> tuple[Tensor, ...]:
    """Return the last states of all layers as torch returns them: hidden states, and those of the cells of an LSTM."""
    return tuple(torch.stack(parts) for parts in zip(*last, strict=True)) if name == "lstm" else (torch.stack(last),)
