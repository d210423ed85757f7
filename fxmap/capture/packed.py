"""Packed sequences as slices: what a packed batch holds step by step, without the kernels that write it in place.

A packed batch holds the rows of all sequences that are not over yet, step after step, longest sequence first. torch packs
and pads with kernels that write in place, and its layers on packed batches have kernels of their own. Slices, joins and
cells say the same, for the lengths that were recorded.

>>> from torch.nn.utils.rnn import pack_padded_sequence
>>> batch = pack_padded_sequence(torch.arange(6.0).view(2, 3, 1), torch.tensor([3, 1]), batch_first=True)
>>> packed(torch.arange(6.0).view(2, 3, 1), [2, 1, 1], batch_first=True).flatten().tolist() == batch.data.flatten().tolist()
True
>>> padded(batch.data, [2, 1, 1], batch_first=True, value=0.0).flatten().tolist()
[0.0, 1.0, 2.0, 3.0, 0.0, 0.0]
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def packed(x: Tensor, counts: Sequence[int], *, batch_first: bool) -> Tensor:
    """Return the rows of a padded batch, `t b ...` or `b t ...`, that are there at each step: `counts` of them."""
    axis = 1 if batch_first else 0
    return torch.cat([x.select(axis, step)[:count] for step, count in enumerate(counts)])


def padded(data: Tensor, counts: Sequence[int], *, batch_first: bool, value: float, steps: int = 0) -> Tensor:
    """Return a packed batch with `value` behind the end of every sequence, up to a number of steps."""
    parts = split(data, counts)
    short = counts[0]
    for step, count in enumerate(counts):
        if count < short:
            rest = torch.full((short - count, *data.shape[1:]), value, dtype=data.dtype, device=data.device)
            parts[step] = torch.cat([parts[step], rest])
    missing = max(steps - len(counts), 0)
    empty = [torch.full((short, *data.shape[1:]), value, dtype=data.dtype, device=data.device) for _ in range(missing)]
    result = torch.stack([*parts, *empty])
    return result.transpose(0, 1) if batch_first else result


def split(data: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Return the rows of each step of a packed batch."""
    return list(data.split(list(counts)))  # type: ignore[no-untyped-call]


def run_cells(
    cell: Callable[[Tensor, Any], Any], steps: Sequence[Tensor], state: Any, *, backwards: bool
) -> tuple[list[Tensor], Any]:
    """Run a cell over the steps of a packed batch; return what it makes at each step, and the last state of every row."""
    over: list[Any] = []
    made: list[Tensor] = []
    hidden = _rows(state, 0, len(steps[-1 if backwards else 0]))
    for step in reversed(steps) if backwards else steps:
        rows, count = len(_first(hidden)), len(step)
        if count < rows:  # some sequences are over
            over.append(_rows(hidden, count, rows))
            hidden = _rows(hidden, 0, count)
        elif count > rows:  # backwards, shorter ones begin
            hidden = tree_map(lambda one, other: torch.cat([one, other]), hidden, _rows(state, rows, count))
        hidden = cell(step, hidden)
        made.append(_first(hidden))
    last = tree_map(lambda *parts: torch.cat(parts), hidden, *reversed(over)) if over else hidden
    return (made[::-1] if backwards else made), last


def numbers_of(tensor: Tensor) -> list[int]:
    """Return the numbers of a tensor one by one, as functional recordings need it."""
    return [int(number) for number in tensor]


def _rows(state: Any, begin: int, stop: int) -> Any:
    return tree_map(lambda part: part[begin:stop], state)


def _first(hidden: Any) -> Tensor:
    found: Tensor = hidden[0] if isinstance(hidden, tuple) else hidden
    return found
