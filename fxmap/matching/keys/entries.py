"""Entries: what is compared in the place of keys, so that joined projections and `i o` weights become like the others.

An entry is a key, or the part of a joined key (q of a `qkv` weight), with its weight turned to `o i`. Its path is the key
taken apart into the names of its modules; `in_proj_weight` reads as `in_proj.weight`.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Reshape, Slice, Transpose
from fxmap.model.wrappers import plain

Shape = tuple[int, ...]


# The names of the parts of a joined projection, by how many there are: attention is written as q, k and v everywhere.
_PARTS = {3: ("q", "k", "v"), 2: ("k", "v")}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor, or rows `start` to `stop` of it, as it is compared.

    `shape` is that of these rows after `transposed` has turned the tensor from `i o` to `o i`.
    """

    key: str
    path: tuple[str, ...]
    shape: Shape
    floating: bool
    transposed: bool = False
    rows: tuple[int, int] | None = None

    @property
    def size(self) -> Shape:
        """The shape without axes of length one: a 1x1 convolution and a linear layer have the same."""
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
        """Return how the entry is read from its own state dict."""
        whole: Expression = Source(self.key)
        if self.transposed:
            whole = Transpose(whole)
        return whole if self.rows is None else Slice(whole, *self.rows)


def entries_of(state: Mapping[str, Any], names: Mapping[str, str] | None = None) -> list[Entry]:
    """Return an entry for every tensor of a state dict, in its order; `names` says how its keys are to be read.

    >>> import torch
    >>> [entry.path for entry in entries_of({"attn.in_proj_weight": torch.ones(3), "attn.out.weight": torch.ones(1)})]
    [('attn', 'in_proj', 'weight'), ('attn', 'out', 'weight')]
    """
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    return [
        Entry(
            key,
            _path(plain(key) if names is None else names[key]),
            tuple(value.shape),
            value.is_floating_point() or value.is_quantized,
        )
        for key, value in tensors.items()
    ]


def _path(key: str) -> tuple[str, ...]:
    *modules, leaf = key.split(".")
    name, _, kind = leaf.rpartition("_")
    return (*modules, name, kind) if name and kind in ("weight", "bias") else (*modules, leaf)


def comparable(src: Sequence[Entry], dst: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Turn the matrices of both sides to `o i`, and take apart what is joined on one side alone."""
    src, dst = _turned(src), _turned(dst)
    return _split(src, dst), _split(dst, src)


def _turned(entries: Sequence[Entry]) -> list[Entry]:
    """Transpose the matrices that are stored `i o`: a bias is as long as the last axis of its weight.

    A square matrix does not show it; it is stored as the others are.
    """
    biases = {entry.owner: entry.shape for entry in entries if entry.leaf == "bias"}
    matrices = [entry for entry in entries if entry.leaf == "weight" and len(entry.shape) == 2 and entry.owner in biases]
    shown = [entry for entry in matrices if entry.shape[0] != entry.shape[1]]
    turned = {entry.key for entry in shown if biases[entry.owner] == entry.shape[1:]}
    if turned and len(turned) == len(shown):
        turned = {entry.key for entry in matrices}
    return [replace(entry, shape=entry.shape[::-1], transposed=True) if entry.key in turned else entry for entry in entries]


def _split(entries: Sequence[Entry], others: Sequence[Entry]) -> list[Entry]:
    """Take apart the tensors that the other side has in parts.

    Only where no tensor of the other side has the joined shape, and the other side has as many more parts of the right
    shapes than this one as it takes: then no other reading of the shapes is left.
    """
    ours, theirs = (Counter(entry.shape for entry in side if entry.floating) for side in (entries, others))
    sizes = {entry.size for entry in others}
    parts = {
        shape: found
        for shape, count in ours.items()
        if shape and tuple(length for length in shape if length != 1) not in sizes
        for found in [_parts(shape, count, ours, theirs)]
        if found
    }
    taken = {entry.path for entry in entries}
    result: list[Entry] = []
    for entry in entries:
        if entry.shape not in parts:
            result.append(entry)
            continue
        start = 0
        for name, rows in zip(_PARTS[len(parts[entry.shape])], parts[entry.shape], strict=True):
            path = (*entry.path[:-2], name, entry.leaf)
            path = (*entry.path[:-1], name, entry.leaf) if path in taken else path
            shape = (rows, *entry.shape[1:])
            result.append(replace(entry, path=path, shape=shape, rows=(start, start + rows)))
            start += rows
    return result


def _parts(shape: Shape, count: int, ours: Counter[Shape], theirs: Counter[Shape]) -> tuple[int, ...]:
    """Return the rows of the parts that a shape is made of: three or two equal ones, or one and two narrower ones."""
    surplus = {other[0]: theirs[other] - ours[other] for other in theirs if other and other[1:] == shape[1:]}
    for rows in sorted(surplus, reverse=True):
        for number in (3, 2):
            if rows * number == shape[0] and surplus[rows] >= number * count:
                return (rows,) * number
        narrow, odd = divmod(shape[0] - rows, 2)
        if not odd and 0 < narrow < rows and surplus[rows] >= count and surplus.get(narrow, 0) >= 2 * count:
            return (rows, narrow, narrow)
    return ()


def compose(shape: Shape, parts: Sequence[tuple[Entry, Entry]]) -> Expression | None:
    """Return the expression of a destination key from pairs of its entries and their sources, or None if some are absent.

    >>> whole, part = Entry("a", ("a",), (2, 1), True), Entry("qkv", ("q",), (2,), True, rows=(2, 4))
    >>> print(compose((2, 1), [(whole, part)]))
    reshape(qkv[2:4], [2, 1])
    """
    ordered = sorted(parts, key=lambda pair: pair[0].rows or (0, 0))
    rows = sum(ours.shape[0] for ours, _ in ordered if ours.shape)
    transposed = bool(ordered) and ordered[0][0].transposed
    total = shape[::-1] if transposed else shape
    if not ordered or (total and rows != total[0]):
        return None
    expressions = [source.read() for _, source in ordered]
    made = expressions[0] if len(expressions) == 1 else Concat(tuple(expressions))
    if len(ordered) == 1 and ordered[0][1].shape != ordered[0][0].shape:
        made = Reshape(made, ordered[0][0].shape)
    if not transposed:
        return made
    return made.of if isinstance(made, Transpose) else Transpose(made)


def by_owner(entries: Sequence[Entry]) -> dict[tuple[str, ...], list[int]]:
    """Return the numbers of the entries of each module."""
    result: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        result[entry.owner].append(number)
    return result
