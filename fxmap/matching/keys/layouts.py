"""Layouts: permute, join or split tensors that the two sides store in different layouts, so that they are comparable.

Four steps, each guided by the shapes of the other side: kernels stored `h w i o` or `i o` are permuted to `o i h w` and
`o i`; attention heads in an axis of their own are joined; tensors with an axis of experts become one entry for each expert;
a joined projection becomes its parts. A part has an expression that reads it from its tensor (`Entry.read`), and a tensor of
the destination is made from its parts (`compose`).

Cost: linear in the number of entries, but for the tensors to unstack, which look at the lists of the other side.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import prod

from fxmap.matching.keys.entries import Entry, Shape
from fxmap.matching.keys.vocabulary import parts_named, says

_TRANSPOSED = (1, 0)


def comparable(src: Sequence[Entry], dst: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Permute the tensors of both sides to `o i ...`, and split tensors that are stacked or joined on one side only."""
    src, dst = _turned(src, dst), _turned(dst, src)
    src, dst = _unstacked(src, dst), _unstacked(dst, src)
    return _split(src, dst), _split(dst, src)


def _turned(entries: Sequence[Entry], others: Sequence[Entry]) -> list[Entry]:
    """Permute the tensors that are stored with their output axis last."""
    return _transposed(_permuted(_without_heads(entries, others), others))


def _transposed(entries: Sequence[Entry]) -> list[Entry]:
    """Transpose the matrices that are stored `i o`, recognised by a bias as long as the last axis of the weight.

    A square matrix does not show its layout; it is taken to be stored as the others are. A `kernel` is always stored so.
    """
    biases = {entry.owner: entry.shape for entry in entries if entry.leaf == "bias"}
    weights = [entry for entry in entries if entry.leaf == "weight" and len(entry.shape) == 2 and not entry.axes]
    matrices = [entry for entry in weights if entry.owner in biases]
    shown = [entry for entry in matrices if entry.shape[0] != entry.shape[1]]
    turned = {entry.key for entry in shown if biases[entry.owner] == entry.shape[1:]}
    if turned and len(turned) == len(shown):
        turned = {entry.key for entry in matrices}
    turned |= {entry.key for entry in weights if _is_kernel(entry)}
    return [replace(entry, shape=entry.shape[::-1], axes=_TRANSPOSED) if entry.key in turned else entry for entry in entries]


def _is_kernel(entry: Entry) -> bool:
    """Whether the name of a weight says that its outputs are last: `kernel`, or `w` in a tree that is written with `/`."""
    return entry.leaf == "weight" and re.search(r"((^|[./])(depthwise_)?kernel|/w)(:\d+)?$", entry.key) is not None


def _permuted(entries: Sequence[Entry], others: Sequence[Entry]) -> list[Entry]:
    """Permute kernels of convolutions from `... i o` to `o i ...`, if the other side then has more of their shapes.

    Where shapes cannot tell, as of three filters of 3 x 3 over three channels, the name does: a `kernel` is stored so.
    """
    turned, gain = _turning(entries, others)
    _, gain_of_others = _turning(others, entries)
    named = {entry.key for entry in entries if _is_kernel(entry) and entry.key in turned}
    # Square kernels of a side that is right as it is would fit the other side's as well.
    if gain < 0 or gain < gain_of_others or (gain in (0, gain_of_others) and not named):
        return list(entries)
    turned = {key: axes for key, axes in turned.items() if gain > 0 or key in named}
    return [
        replace(entry, shape=tuple(entry.shape[axis] for axis in turned[entry.key]), axes=turned[entry.key])
        if entry.key in turned
        else entry
        for entry in entries
    ]


def _turning(entries: Sequence[Entry], others: Sequence[Entry]) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return the permutation of each kernel, and how many more of the other side's shapes there are with it."""
    kernels = [entry for entry in entries if entry.leaf == "weight" and len(entry.shape) >= 3]
    sizes = Counter(entry.shape for entry in others if len(entry.shape) >= 3)
    turned = {entry.key: _outputs_first(entry, sizes) for entry in kernels}
    as_stored = Counter(entry.shape for entry in kernels) & sizes
    as_turned = Counter(tuple(entry.shape[axis] for axis in turned[entry.key]) for entry in kernels) & sizes
    return turned, as_turned.total() - as_stored.total()


def _outputs_first(entry: Entry, sizes: Counter[Shape]) -> tuple[int, ...]:
    """Return the permutation from `... i o` to `o i ...`; for a depthwise kernel, from `... o 1`, if only that fits."""
    last = len(entry.shape) - 1
    usual, depthwise = (last, last - 1, *range(last - 1)), (last - 1, last, *range(last - 1))
    if "depthwise_kernel" in entry.key and entry.shape[-1] == 1:
        return depthwise
    fits = [tuple(entry.shape[axis] for axis in axes) in sizes for axes in (usual, depthwise)]
    return depthwise if fits == [False, True] and entry.shape[-1] == 1 else usual


def _without_heads(entries: Sequence[Entry], others: Sequence[Entry]) -> list[Entry]:
    """Join the axes of heads and channels of projections, `i heads o` or `heads i o`, as in Flax and Keras."""
    sizes = {entry.shape for entry in others}
    biases = {entry.owner: entry.shape for entry in entries if entry.leaf == "bias"}
    result = []
    for entry in entries:
        flat = _joined_heads(entry, biases.get(entry.owner), sizes)
        result.append(entry if flat is None else replace(entry, shape=flat, flat=flat))
    return result


def _joined_heads(entry: Entry, bias: Shape | None, sizes: set[Shape]) -> Shape | None:
    role = says(entry.path).get("attention")
    shape = entry.shape
    if role is None or (entry.leaf == "weight" and not _is_kernel(entry)) or shape in sizes:
        return None
    if entry.leaf == "bias" and len(shape) == 2 and (prod(shape),) in sizes:
        return (prod(shape),)
    if entry.leaf != "weight" or len(shape) != 3 or (bias is not None and bias not in (shape[1:], shape[2:])):
        return None
    before = shape[2:] == bias if bias is not None else role == "out"
    flat = (shape[0] * shape[1], shape[2]) if before else (shape[0], shape[1] * shape[2])
    return flat if flat[::-1] in sizes else None


def _unstacked(entries: Sequence[Entry], others: Sequence[Entry]) -> list[Entry]:
    """Split the tensors whose first axis stacks tensors that the other side has in a list, such as experts.

    Only if no tensor of the other side has the stacked shape, and the other side has lists of that length of tensors with
    the rest of the shape: with all rows, or, if the name tells which two parts are joined in them, with half of the rows.
    """
    sizes = {entry.size for entry in others}
    lists = _lists(others)
    lengths = {shape[0] for shape in lists}
    result: list[Entry] = []
    for entry in entries:
        parts = () if not entry.shape or entry.shape[0] not in lengths or entry.size in sizes else _stacked(entry, lists)
        result.extend(parts or [entry])
    return result


def _stacked(entry: Entry, lists: Counter[Shape]) -> list[Entry]:
    """Return the parts of a stacked tensor, or none."""
    count, *rest = entry.shape
    if not rest or entry.axes or entry.flat is not None or not entry.floating or len(entry.path) < 2:
        return []
    bare = entry.leaf not in ("weight", "bias")
    above, name, leaf = (entry.owner, entry.leaf, "weight") if bare else (entry.owner[:-1], entry.owner[-1], entry.leaf)
    half = parts_named(name, 2) if rest[0] % 2 == 0 else None
    if lists[count, *rest]:
        names = [name]
    elif half is not None and lists[count, rest[0] // 2, *rest[1:]] > 1:
        names = list(half)
    else:
        return []
    rows = rest[0] // len(names)
    flat = (count * rest[0], *rest[1:])
    return [
        replace(
            entry,
            path=(*above, str(number), part, leaf),
            shape=(rows, *rest[1:]),
            flat=flat,
            rows=(number * rest[0] + place * rows, number * rest[0] + (place + 1) * rows),
        )
        for number in range(count)
        for place, part in enumerate(names)
    ]


def _lists(entries: Sequence[Entry]) -> Counter[Shape]:
    """Count the lists of tensors of equal shape, numbered from 0, by their length and that shape."""
    found: dict[tuple[tuple[str, ...], tuple[str, ...], Shape], list[int]] = defaultdict(list)
    for entry in entries:
        for depth in range(1, len(entry.path) - 1):
            if entry.path[depth].isdigit():
                found[entry.path[:depth], entry.path[depth + 1 :], entry.shape].append(int(entry.path[depth]))
    return Counter(
        (len(numbers), *shape) for (_, _, shape), numbers in found.items() if sorted(numbers) == list(range(len(numbers)))
    )


def _split(entries: Sequence[Entry], others: Sequence[Entry]) -> list[Entry]:
    """Split the tensors that the other side has in parts.

    Only if no tensor of the other side has the joined shape, and the other side has enough more parts of the right shapes
    than this one: then the shapes allow no other interpretation.
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
        sizes_of = parts.get(entry.shape, ())
        name = entry.owner[-1] if entry.owner else ""
        names = parts_named(name, len(sizes_of)) if sizes_of and entry.rows is None else None
        if names is None:
            result.append(entry)
            continue
        start = 0
        for part, rows in zip(names, _as_named(sizes_of, names), strict=True):
            path = (*entry.path[:-2], part, entry.leaf)
            path = (*entry.path[:-1], part, entry.leaf) if path in taken else path
            result.append(replace(entry, path=path, shape=(rows, *entry.shape[1:]), rows=(start, start + rows)))
            start += rows
    return result


def _as_named(rows: tuple[int, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the numbers of rows in the order of the names: where they differ, the first and largest is that of q."""
    if len(set(rows)) == 1 or "q" not in names:
        return rows
    return tuple(rows[0] if name == "q" else rows[1] for name in names)


def _parts(shape: Shape, count: int, ours: Counter[Shape], theirs: Counter[Shape]) -> tuple[int, ...]:
    """Return the numbers of rows of the parts of a joined shape: three or two equal ones, or one and two smaller ones."""
    surplus = {other[0]: theirs[other] - ours[other] for other in theirs if other and other[1:] == shape[1:]}
    for rows in sorted(surplus, reverse=True):
        for number in (3, 2):
            if rows * number == shape[0] and surplus[rows] >= number * count:
                return (rows,) * number
        narrow, odd = divmod(shape[0] - rows, 2)
        if not odd and 0 < narrow < rows and surplus[rows] >= count and surplus.get(narrow, 0) >= 2 * count:
            return (rows, narrow, narrow)
    return ()
