"""Entries: the units that are matched instead of keys, so that joined projections and `i o` weights are comparable.

An entry is a key, or a part of a joined key (q of a `qkv` weight), with its weight transposed to `o i`. Its path is the key
split into the names of its modules; `in_proj_weight` is read as `in_proj.weight`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Permute, Reshape, Slice, Transpose
from fxmap.model.wrappers import plain

Shape = tuple[int, ...]

_TRANSPOSED = (1, 0)


# Flax keeps parameters and statistics of one layer in trees of their own.
_TREES = frozenset({"params", "batch_stats"})

# Other libraries' names of torch's weights and statistics, and names of which one must stand beside them: a lone `gamma` may
# be anything.
_LEAVES: dict[str, tuple[str, frozenset[str]]] = {
    "gamma": ("weight", frozenset({"beta", "moving_mean"})),
    "beta": ("bias", frozenset({"gamma", "moving_mean"})),
    "scale": ("weight", frozenset({"bias"})),
    "kernel": ("weight", frozenset()),
    "depthwise_kernel": ("weight", frozenset()),
    "embedding": ("weight", frozenset()),
    "embeddings": ("weight", frozenset()),
    "moving_mean": ("running_mean", frozenset()),
    "moving_variance": ("running_var", frozenset()),
    "mean": ("running_mean", frozenset({"var"})),
    "var": ("running_var", frozenset({"mean"})),
}
# Sonnet and Haiku call them so, in trees that are written with `/`; elsewhere a `w` may be anything.
_IN_TREES = {"w": ("weight", frozenset({"b"})), "b": ("bias", frozenset({"w"}))}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor, or rows `start` to `stop` of it, in the form in which it is compared.

    The tensor is first reshaped to `flat`, if that is given, then its axes are permuted to the order `axes`, which turns
    `i o` to `o i`; then its `rows` are taken. `shape` is the resulting shape.
    """

    key: str
    path: tuple[str, ...]
    shape: Shape
    floating: bool
    flat: Shape | None = None
    axes: tuple[int, ...] = ()
    rows: tuple[int, int] | None = None

    @property
    def size(self) -> Shape:
        """The shape without axes of length one, which is the same for a 1x1 convolution and a linear layer."""
        return tuple(length for length in self.shape if length != 1)

    @property
    def leaf(self) -> str:
        """The last name of the path, such as `weight`."""
        return self.path[-1]

    @property
    def owner(self) -> tuple[str, ...]:
        """The module that the entry belongs to."""
        return self.path[:-1]

    def read(self) -> Expression:
        """Return the expression that reads the entry from its own state dict."""
        whole: Expression = Source(self.key)
        if self.flat is not None:
            whole = Reshape(whole, self.flat)
        whole = turned(whole, self.axes)
        return whole if self.rows is None else Slice(whole, *self.rows)


def turned(of: Expression, axes: tuple[int, ...]) -> Expression:
    """Return an expression with its axes in another order.

    >>> print(turned(turned(Source("kernel"), (1, 0)), (1, 0)), turned(Source("kernel"), (3, 2, 0, 1)))
    kernel permute(kernel, [3, 2, 0, 1])
    """
    if axes == _TRANSPOSED:
        return of.of if isinstance(of, Transpose) else Transpose(of)
    return Permute(of, axes) if axes else of


def entries_of(state: Mapping[str, Any], names: Mapping[str, str] | None = None) -> list[Entry]:
    """Return an entry for every tensor of a state dict, in its order; `names` maps keys to the names to use for them.

    >>> import torch
    >>> [entry.path for entry in entries_of({"attn.in_proj_weight": torch.ones(3), "attn.out.weight": torch.ones(1)})]
    [('attn', 'in_proj', 'weight'), ('attn', 'out', 'weight')]
    """
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    found = {key: _path(plain(key) if names is None else names[key]) for key in tensors}
    paths = _nested(_without_trees(found), [key for key in tensors if "/" in key])
    return _with_common_leaves(
        [
            Entry(key, paths[key], tuple(value.shape), value.is_floating_point() or value.is_quantized)
            for key, value in tensors.items()
        ]
    )


def _without_trees(paths: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    """Put the statistics of a layer beside its parameters, where each have a tree of their own."""
    if not {path[0] for path in paths.values()} <= _TREES or not all(len(path) > 2 for path in paths.values()):
        return paths
    return {key: path[1:] for key, path in paths.items()}


def _nested(paths: Mapping[str, tuple[str, ...]], slashed: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Cut the names of layers where one list has all, as in Keras: `conv2_block1_1_bn` is in the block `conv2_block1`."""
    if len(slashed) < len(paths) or any(len(path) != 2 for path in paths.values()):
        return paths
    # A number belongs to the word behind it, as `1_bn` is torch's `bn1`, or counts layers of one kind, as in `conv2d_17`.
    whole = re.compile(r"(?<=\d)_(?=[a-zA-Z]+$)|_(?=\d+$)")
    return {key: (*whole.sub(" ", layer).split("_"), leaf) for key, (layer, leaf) in paths.items()}


def is_unordered(entries: Sequence[Entry]) -> bool:
    """Whether the order of a file says less than its names: that of TensorFlow and Keras is no order of modules.

    Layers that are named by counting them (`conv2d_17`) are told apart by nothing but their order.
    """
    owners = {entry.owner[-1] for entry in entries if entry.owner and "/" in entry.key}
    counted = sum(re.search(r"[_ ]\d+$", name) is not None for name in owners)
    return bool(owners) and 2 * counted <= len(owners)


def _path(key: str) -> tuple[str, ...]:
    if "/" in key:
        # As in TensorFlow and Flax: `layer_0/query/kernel:0`, `layer_._0/query/kernel:0`.
        key = key.partition(":")[0].replace("_._", ".").replace("/", ".")
    *modules, leaf = key.split(".")
    name, _, kind = leaf.rpartition("_")
    return (*modules, name, kind) if name and kind in ("weight", "bias") else (*modules, leaf)


def _with_common_leaves(entries: Sequence[Entry]) -> list[Entry]:
    """Rename leaves from other libraries' names to torch's (`gamma` to `weight`), if the module around confirms them.

    >>> def side(*keys): return [Entry(key, tuple(key.split(".")), (2,), True) for key in keys]
    >>> [entry.leaf for entry in _with_common_leaves(side("norm.gamma", "norm.beta", "block.gamma"))]
    ['weight', 'bias', 'gamma']
    """
    held: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for entry in entries:
        held[entry.owner].add(entry.leaf)
    result = []
    for entry in entries:
        leaf, beside = (_LEAVES | _IN_TREES if "/" in entry.key else _LEAVES).get(entry.leaf, (entry.leaf, frozenset()))
        confirmed = (not beside or beside & held[entry.owner]) and leaf not in held[entry.owner]
        result.append(replace(entry, path=(*entry.owner, leaf)) if confirmed else entry)
    return result


def compose(shape: Shape, parts: Sequence[tuple[Entry, Entry]]) -> Expression | None:
    """Return the expression of a destination key from pairs of its entries and their sources, or None if some are missing.

    >>> whole, part = Entry("a", ("a",), (2, 1), True), Entry("qkv", ("q",), (2,), True, rows=(2, 4))
    >>> print(compose((2, 1), [(whole, part)]))
    reshape(qkv[2:4], [2, 1])
    """
    ordered = sorted(parts, key=lambda pair: pair[0].rows or (0, 0))
    if not ordered:
        return None
    first = ordered[0][0]
    seen = shape if first.flat is None else first.flat
    total = tuple(seen[axis] for axis in first.axes) if first.axes else seen
    if total and sum(ours.shape[0] for ours, _ in ordered) != total[0]:
        return None
    made = [source.read() if source.shape == ours.shape else Reshape(source.read(), ours.shape) for ours, source in ordered]
    whole = turned(made[0] if len(made) == 1 else Concat(tuple(made)), tuple(int(n) for n in np.argsort(first.axes)))
    return whole if first.flat is None else Reshape(whole, shape)


def by_owner(entries: Sequence[Entry]) -> dict[tuple[str, ...], list[int]]:
    """Map each module to the indices of its entries."""
    result: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        result[entry.owner].append(number)
    return result
