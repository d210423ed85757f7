"""Integer tables: permutations, relative positions, lists of indices that both models keep in their state dicts.

A checkpoint may hold another permutation than the two models were built with, so that a table must be loaded like a weight.
Tables are matched by their values: those of equal shape and equal numbers correspond, in the order of the state dicts if
there are several, as where every layer has one. A table that only one model keeps, or that differs, is left to the proof.

Cost: linear in the size of the tables.
"""

from collections import defaultdict
from collections.abc import Container, Hashable
from dataclasses import replace

from torch import Tensor

from fxmap.expressions.base import Source
from fxmap.matching.derive.derivation import Derivation
from fxmap.matching.sides import Side
from fxmap.model.tensors import bytes_of


def with_integer_tables(src: Side, dst: Side, found: Derivation) -> Derivation:
    """Add to a derivation the integer tables that both graphs read and that hold the same numbers.

    >>> from torch import nn
    >>> import torch, fxmap
    >>> class Permuted(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(3, 3)
    ...         self.register_buffer("order", torch.tensor([2, 0, 1]))
    ...     def forward(self, x):
    ...         return self.fc(x)[:, self.order]
    >>> print(fxmap.auto_map(Permuted(), Permuted())["order"])
    order
    """
    used = {path for expression in found.expressions.values() for path in expression.sources()}
    ours, theirs = _tables(src, used), _tables(dst, found.expressions.keys())
    made = {
        path: Source(source)
        for numbers, paths in theirs.items()
        if len(paths) == len(ours.get(numbers, ()))
        for source, path in zip(ours[numbers], paths, strict=True)
    }
    return replace(found, expressions={**found.expressions, **made}) if made else found


def _tables(side: Side, known: Container[str]) -> dict[Hashable, list[str]]:
    """Return the paths of integer tables that a graph reads and that have no counterpart yet, grouped by their values."""
    tables: dict[Hashable, list[str]] = defaultdict(list)
    for path, tensor in side.main.tensors.items():
        is_read = path in side.main.read and side.main.canonical[path] == path
        if is_read and path not in known and _is_table(tensor):
            tables[tuple(tensor.shape), str(tensor.dtype), bytes(bytes_of(tensor))].append(path)
    return tables


def _is_table(tensor: Tensor) -> bool:
    whole = not tensor.is_floating_point() and not tensor.is_complex() and not tensor.is_quantized
    return whole and not tensor.is_meta and tensor.numel() > 1
