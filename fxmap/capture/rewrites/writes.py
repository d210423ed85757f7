"""Writes: rewrite the scatters of a functional recording as the operations that code without in-place writes uses.

    empty = zeros
    copy(z, x) = x, in the shape and the dtype of z
    fill(z, 1) = full_like(z, 1)
    scatter(z, x, a:b) = cat(z[:a], x, z[b:]), and x where that is all of z
    scatter(zeros, x, a:b) = pad(x, a, n - b)
    cat(a, b)[i] = a[i], where i lies in a
    put(x, mask, 0) = masked_fill(x, mask, 0)

Results that a loop writes into a tensor one by one become a `torch.stack`, and a shift that writes into zeros becomes a
padding. All rewrites hold for every input. Writes with steps, along diagonals and by index stay as they are.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.capture.recorder import getitem
from fxmap.capture.rewrites.driver import FxRule
from fxmap.capture.rewrites.origins import Origins
from fxmap.graph.kinds import Trait, has, kind_of

_ATEN = torch.ops.aten


_CAT, _SLICE, _SELECT, _UNSQUEEZE = _ATEN.cat.default, _ATEN.slice.Tensor, _ATEN.select.int, _ATEN.unsqueeze.default


_VIEW, _INVOLUTIONS = _ATEN.view.default, frozenset({_ATEN.transpose.int, _ATEN.t.default})


_PAD, _SCATTERS = _ATEN.constant_pad_nd.default, frozenset({_ATEN.slice_scatter.default, _ATEN.select_scatter.default})


_PARTS = frozenset({_ATEN.split.Tensor, _ATEN.split_with_sizes.default, _ATEN.unbind.int})


# Operations that fill a tensor, each with the number; uninitialised memory may as well be zero.
_FILLED = dict.fromkeys(("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty"), 0) | dict.fromkeys(
    ("ones", "ones_like", "new_ones"), 1
)


_FULL = {"full": 1, "full_like": 1, "new_full": 2}


_EMPTY: dict[Any, Any] = {
    _ATEN.empty.memory_format: _ATEN.zeros.default,
    _ATEN.empty_like.default: _ATEN.zeros_like.default,
    _ATEN.new_empty.default: _ATEN.new_zeros.default,
}


# Operations that depend on the memory layout, which rewrites may change.
AS_STRIDED = {_ATEN.as_strided.default, _ATEN.as_strided_scatter.default}


# A tensor that is written in more pieces than this stays as recorded: each write would list all pieces.
_MOST_PIECES = 512


def value_rules(constants: Mapping[str, Tensor]) -> tuple[FxRule, ...]:
    """Return the rules for writes to whole tensors (copies, fills, masked writes); `constants` are those of the graph."""
    return (
        FxRule("memory that is not initialised as zeros", frozenset(_EMPTY), _initialised),
        FxRule("copies as what is copied", frozenset({_ATEN.copy.default}), _copied),
        FxRule(
            "fills as full tensors",
            frozenset({_ATEN.fill.Scalar, _ATEN.fill.Tensor, _ATEN.zero.default}),
            partial(_filled, constants),
        ),
        FxRule("writes where a mask is as masked fills", frozenset({_ATEN.index_put.default}), partial(_put, constants)),
    )


def _initialised(node: fx.Node, _: Origins) -> fx.Node | str:
    """Replace uninitialised memory by zeros, so that runs are the same; code that writes to all of it reads no zero."""
    node.target = _EMPTY[node.target]
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "memory_format"}
    return node


def _copied(node: fx.Node, origins: Origins) -> fx.Node | str:
    base, value, *_ = _args(node)
    if not isinstance(value, fx.Node) or not isinstance(base, fx.Node) or "dtype" not in base.meta:
        return "it copies no value"
    with origins.graph.inserting_before(node):
        if not _same_dtype(value, base):
            dtype = base.meta["dtype"]
            value = origins.insert(value, _ATEN._to_copy.default, (value,), value.meta["shape"], dtype=dtype)
            value.meta["dtype"] = dtype
        return _expanded(value, node, origins)


def _filled(constants: Mapping[str, Tensor], node: fx.Node, origins: Origins) -> fx.Node | str:
    value: Any = _args(node)[1] if len(_args(node)) > 1 else 0
    number = _number(constants, value)
    shape = node.meta["shape"]
    if number is None:
        return _expanded(value, node, origins) if _same_dtype(value, _args(node)[0]) else "it is filled in another dtype"
    with origins.graph.inserting_before(node):
        if number == 0:
            return origins.insert(node, _ATEN.zeros_like.default, _args(node)[:1], shape)
        return origins.insert(node, _ATEN.full_like.default, (_args(node)[0], number), shape)


def _scattered(node: fx.Node, origins: Origins) -> fx.Node | str:
    base, value, axis, begin, end, step = _written_range(node)
    if step != 1 or not _same_dtype(value, base):
        return "it is written with steps, or from another dtype"
    shape = node.meta["shape"]
    with origins.graph.inserting_before(node):
        if node.target is _ATEN.select_scatter.default:
            value = origins.insert(value, _UNSQUEEZE, (value, axis), (*shape[:axis], 1, *shape[axis + 1 :]))
        if end - begin == shape[axis]:
            whole: fx.Node = value
            return whole
        number = _fill_value(base)
        if number is not None:
            return _padded(value, axis, begin, shape, number, node, origins)
        parts = [
            *_pieces(base, axis, 0, begin, origins),
            *_pieces(value, axis, 0, end - begin, origins),
            *_pieces(base, axis, end, shape[axis], origins),
        ]
        if len(parts) > _MOST_PIECES:
            return "it is one of very many pieces"
        return origins.insert(node, _CAT, (parts, axis), shape)


def _element_of_join(node: fx.Node, origins: Origins) -> fx.Node | str:
    base, axis, index = _args(node)
    return _element_at(node, base, axis, index, origins)


def _element_at(node: fx.Node, base: Any, axis: Any, index: Any, origins: Origins) -> fx.Node | str:
    shape = base.meta.get("shape", ())
    if not shape or not _joined(base, axis % len(shape)):
        return "it is no element of a join along the same axis"
    axis = axis % len(shape)
    with origins.graph.inserting_before(node):
        (part,) = _pieces(base, axis, index % shape[axis], index % shape[axis] + 1, origins)
        return _element(part, axis, origins)


def _range_of_join(node: fx.Node, origins: Origins) -> fx.Node | str:
    named = dict(zip(("of", "axis", "begin", "end", "step"), _args(node), strict=False))
    if named.get("step", 1) != 1:
        return "it is taken with steps"
    return _range_at(node, named["of"], named.get("axis", 0), named.get("begin"), named.get("end"), origins)


def _range_at(node: fx.Node, base: Any, axis: int, begin: Any, end: Any, origins: Origins) -> fx.Node | str:
    shape = base.meta.get("shape", ())
    if not shape or not _joined(base, axis % len(shape)):
        return "it is no range of a join along the same axis"
    axis = axis % len(shape)
    begin, end, _ = slice(begin, end).indices(shape[axis])
    if begin >= end:
        return "it is empty"
    with origins.graph.inserting_before(node):
        parts = _pieces(base, axis, begin, end, origins)
        return parts[0] if len(parts) == 1 else origins.insert(node, _CAT, (parts, axis), node.meta["shape"])


def _part_of_join(node: fx.Node, origins: Origins) -> fx.Node | str:
    """Replace a part of a join that is split again by the piece of the join that it is."""
    parts, number = _args(node)
    if not isinstance(parts, fx.Node) or parts.target not in _PARTS:
        return "it is no part of a value"
    base, *rest = _args(parts)
    if parts.target is _ATEN.unbind.int:
        return _element_at(node, base, rest[0] if rest else 0, number, origins)
    sizes, axis = rest if len(rest) == 2 else (rest[0], 0)
    bounds = sizes if isinstance(sizes, list | tuple) else [sizes] * (number + 1)
    return _range_at(node, base, axis, sum(bounds[:number]), sum(bounds[: number + 1]), origins)


def _put(constants: Mapping[str, Tensor], node: fx.Node, origins: Origins) -> fx.Node | str:
    base, indices, value, *accumulate = _args(node)
    mask = indices[0] if len(indices) == 1 else None
    if any(accumulate) or not isinstance(mask, fx.Node) or mask.meta.get("dtype") is not torch.bool:
        return "it is not written where one mask is"
    number = _number(constants, value)
    if mask.meta["shape"] != base.meta["shape"] or number is None:
        return "it is no number that is written, or a mask of other axes"
    with origins.graph.inserting_before(node):
        return origins.insert(node, _ATEN.masked_fill.Scalar, (base, mask, number), node.meta["shape"])


def _stacked(node: fx.Node, origins: Origins) -> fx.Node | str:
    parts, axis = _args(node) if len(_args(node)) == 2 else (_args(node)[0], 0)
    shape = node.meta["shape"]
    axis = axis % len(shape)
    if len(parts) != shape[axis] or not any(part.target is _UNSQUEEZE and _args(part)[1] == axis for part in parts):
        return "a part is more than one element"
    with origins.graph.inserting_before(node):
        elements = [_element(part, axis, origins) for part in parts]
        return origins.insert(node, _ATEN.stack.default, (elements, axis), shape)


def _element(part: fx.Node, axis: int, origins: Origins) -> fx.Node:
    """Return a value of size 1 along an axis with that axis removed."""
    shape = part.meta["shape"]
    if part.target is _UNSQUEEZE and _args(part)[1] == axis:
        element: fx.Node = _args(part)[0]
        return element
    if part.target is _SLICE and _args(part)[1] == axis:
        base, _, begin, *_ = _args(part)
        return origins.insert(part, _SELECT, (base, axis, begin), (*shape[:axis], *shape[axis + 1 :]))
    return origins.insert(part, _SELECT, (part, axis, 0), (*shape[:axis], *shape[axis + 1 :]))


def _undone(node: fx.Node, _: Origins) -> fx.Node | str:
    """Replace a view of a view by the base, where the second undoes the first: views are taken anew after every write."""
    inner = _args(node)[0]
    if not isinstance(inner, fx.Node) or inner.target is not node.target:
        return "it is no view of a view"
    base = _args(inner)[0]
    if node.target is _VIEW:
        return base if base.meta.get("shape") == node.meta["shape"] else "it has another shape"
    return base if {*_args(inner)[1:]} == {*_args(node)[1:]} else "it exchanges other axes"


def _written_range(node: fx.Node) -> tuple[Any, Any, int, int, int, int]:
    """Return the node written to, the written value, the axis, and the range along it: begin, end and step."""
    base, value, *rest = _args(node)
    shape = node.meta["shape"]
    axis = (rest[0] if rest else 0) % len(shape)
    if node.target is _ATEN.select_scatter.default:
        index = rest[1] % shape[axis]
        return base, value, axis, index, index + 1, 1
    begin, end, _ = slice(*(*rest[1:3], None, None)[:2]).indices(shape[axis])
    return base, value, axis, begin, max(begin, end), rest[3] if len(rest) > 3 else 1


def _args(node: fx.Node) -> Any:
    """Return the arguments of a call, typed as Any."""
    return node.args


def _same_dtype(value: Any, base: Any) -> bool:
    dtypes = [part.meta.get("dtype") if isinstance(part, fx.Node) else None for part in (value, base)]
    return dtypes[0] is not None and dtypes[0] == dtypes[1]


def _expanded(value: fx.Node, node: fx.Node, origins: Origins) -> fx.Node:
    """Return a value expanded to the shape of a node."""
    if value.meta["shape"] == node.meta["shape"]:
        return value
    with origins.graph.inserting_before(node):
        return origins.insert(node, _ATEN.expand.default, (value, list(node.meta["shape"])), node.meta["shape"])


def _number(constants: Mapping[str, Tensor], value: Any) -> Any:
    """Return a number, or the item of a constant with one element; None for a computed value."""
    while isinstance(value, fx.Node) and _kind(value) in ("lift_fresh", "lift_fresh_copy", "detach", "alias"):
        value = _args(value)[0]
    if not isinstance(value, fx.Node):
        return value
    constant = constants.get(str(value.target)) if value.op == "get_attr" else None
    return constant.item() if constant is not None and constant.numel() == 1 and not constant.is_meta else None


def _kind(node: fx.Node) -> str:
    """Return the kind of a called function; empty for any other node."""
    return kind_of(node) if node.op == "call_function" else ""


def _fill_value(node: Any) -> Any:
    """Return the number that all elements of a value are equal to; None if there is none, or it is not known."""
    while has(_kind(node), Trait.MOVEMENT) or _kind(node) in ("alias", "detach"):
        node = _args(node)[0]
    kind = _kind(node)
    value = _args(node)[_FULL[kind]] if kind in _FULL else _FILLED.get(kind)
    return None if isinstance(value, fx.Node) else value


def _joined(node: Any, axis: int) -> list[tuple[Any, int]]:
    """Return the parts of a join along an axis, or of a value that is padded along it alone, each with its size.

    The parts that come from padding are numbers.
    """
    shape = node.meta["shape"]
    if node.target is _CAT:
        parts, own = _args(node) if len(_args(node)) == 2 else (_args(node)[0], 0)
        known = own % len(shape) == axis and all(len(part.meta.get("shape", ())) == len(shape) for part in parts)
        return [(part, part.meta["shape"][axis]) for part in parts] if known else []
    if node.target is not _PAD:
        return []
    value, pads, *number = _args(node)
    before, after = _pads(pads, axis, len(shape))
    if before < 0 or after < 0 or before + after != sum(pads):
        return []
    fill = number[0] if number else 0
    return [(fill, before), (value, shape[axis] - before - after), (fill, after)]


def _pads(pads: Sequence[int], axis: int, rank: int) -> tuple[int, int]:
    """Return the padding before and after a value along an axis; `pads` lists the last axis first."""
    place = 2 * (rank - 1 - axis)
    return (pads[place], pads[place + 1]) if place < len(pads) else (0, 0)


def _pieces(node: fx.Node, axis: int, begin: int, end: int, origins: Origins) -> list[fx.Node]:
    """Return the nodes, in order, whose concatenation is a range of a value along an axis."""
    shape = node.meta["shape"]
    if begin >= end:
        return []
    if node.target is _SLICE and len(_args(node)) == 4:
        base = _args(node)[0]
        first, _, _ = slice(*_args(node)[2:]).indices(base.meta["shape"][axis])
        if _args(node)[1] == axis:  # a range of a range
            return _pieces(base, axis, first + begin, first + end, origins)
    parts = _joined(node, axis)
    if not parts and (begin, end) == (0, shape[axis]):
        return [node]
    if not parts:
        return [origins.insert(node, _SLICE, (node, axis, begin, end), _resized(shape, axis, end - begin))]
    like = next(part for part, _ in parts if isinstance(part, fx.Node))
    found, first = [], 0
    for part, extent in parts:
        low, high = max(begin, first) - first, min(end, first + extent) - first
        if isinstance(part, fx.Node):
            found += _pieces(part, axis, low, high, origins)
        elif low < high:
            found.append(_full(like, _resized(shape, axis, high - low), part, origins))
        first += extent
    return found


def _resized(shape: Sequence[int], axis: int, extent: int) -> tuple[int, ...]:
    return (*shape[:axis], extent, *shape[axis + 1 :])


def _full(like: fx.Node, shape: tuple[int, ...], number: Any, origins: Origins) -> fx.Node:
    if number == 0:
        return origins.insert(like, _ATEN.new_zeros.default, (like, list(shape)), shape)
    return origins.insert(like, _ATEN.new_full.default, (like, list(shape), number), shape)


def _padded(
    value: fx.Node, axis: int, begin: int, shape: tuple[int, ...], number: Any, node: fx.Node, origins: Origins
) -> fx.Node:
    """Pad a value along an axis; if it is a padding itself, make one padding of the two."""
    rank = len(shape)
    pads = [0] * (2 * rank)
    place = 2 * (rank - 1 - axis)
    pads[place : place + 2] = begin, shape[axis] - begin - value.meta["shape"][axis]
    inner = _args(value)
    if value.target is _PAD and (inner[2] if len(inner) > 2 else 0) == number and min(inner[1]) >= 0:
        pads = [a + b for a, b in zip(pads, (*inner[1], *[0] * (2 * rank - len(inner[1]))), strict=True)]
        value = inner[0]
    while len(pads) > 2 and pads[-2:] == [0, 0]:
        pads = pads[:-2]
    return origins.insert(node, _PAD, (value, pads, float(number)), shape)


RANGES = (
    FxRule("views that undo views", frozenset({_VIEW, *_INVOLUTIONS}), _undone),
    FxRule("writes to a range as joins", _SCATTERS, _scattered),
    FxRule("elements of joins", frozenset({_SELECT}), _element_of_join),
    FxRule("ranges of joins", frozenset({_SLICE}), _range_of_join),
    FxRule("parts of joins", frozenset({getitem}), _part_of_join),
)


# After all others, which expect joins, not stacks.
STACKS = (FxRule("joins of elements as stacks", frozenset({_CAT}), _stacked),)


def as_reshapes(graph: fx.Graph) -> None:
    """Replace every view of a graph by a reshape: the replacement of a write may have another memory layout."""
    for node in graph.nodes:
        if node.target is _VIEW:
            node.target = _ATEN.reshape.default
