"""Regroup: concatenations (joins) come last. Rewrites of a recorded graph that hold for every input, and change no value.

    cat(a, b) + w = cat(a + w[:n], b + w[n:])
    slice(cat(a, b)) = a, where it is a
    x[:] = x
    a + (w + c) = (a + w) + c
    cat(cat(a, b), c) = cat(a, b, c)
    cat(a, nothing) = a
    part(x @ w + y @ v) = part(x @ w) + part(y @ v)

The position of a class token may be added before or after it is joined to the patches, and register tokens may be inserted
in between: after these rewrites, all variants are one graph. The same holds for a position bias that is added to the scores
or first to their mask. `w` depends on parameters alone, c on constants. Where a sum of products is split, each product is
split instead: the gate and the value of every expert.
"""

from typing import Any

import torch
from torch import fx

from fxmap.capture.rewrites.driver import FxRule
from fxmap.capture.rewrites.origins import Origins
from fxmap.graph.kinds import kind_of

_PARTS = frozenset({torch.ops.aten.split.Tensor, torch.ops.aten.split_with_sizes.default})


_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}


# The end of a slice without one.
_END = 2**63 - 1


_ADD, _CAT, _SLICE = torch.ops.aten.add.Tensor, torch.ops.aten.cat.default, torch.ops.aten.slice.Tensor


def _join(node: Any) -> tuple[list[fx.Node], int] | None:
    """Return the parts of a join and its axis, counted from the front."""
    if not isinstance(node, fx.Node) or node.target is not _CAT or "shape" not in node.meta:
        return None
    parts, axis = _cat_arguments(*node.args)
    rank = len(node.meta["shape"])
    if not all("shape" in part.meta and len(part.meta["shape"]) == rank for part in parts):
        return None
    return parts, axis % rank


def _cat_arguments(parts: Any, axis: Any = 0) -> tuple[list[fx.Node], int]:
    return list(parts), axis


def _extents(parts: list[fx.Node], axis: int) -> list[tuple[int, int]]:
    """Return where each part begins and ends along the axis."""
    ends = torch.tensor([part.meta["shape"][axis] for part in parts]).cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _sum_of_join(node: fx.Node, origins: Origins) -> fx.Node | str:
    if len(node.args) != 2 or node.kwargs:
        return "it is a sum with a factor"
    operands: list[Any] = list(node.args)
    for join, weight in (operands, operands[::-1]):
        found = _join(join)
        if found is None or not origins.is_weight(weight):
            continue
        parts, axis = found
        shape, rank = weight.meta.get("shape", ()), len(node.meta["shape"])
        own = axis - (rank - len(shape))
        if own < 0 or shape[own] != node.meta["shape"][axis] or rank != len(join.meta["shape"]):
            continue
        with origins.graph.inserting_before(node):
            sums = []
            for part, (begin, end) in zip(parts, _extents(parts, axis), strict=True):
                piece = origins.insert(
                    node, _SLICE, (weight, own, begin, end), (*shape[:own], end - begin, *shape[own + 1 :])
                )
                size = (*part.meta["shape"][:axis], end - begin, *node.meta["shape"][axis + 1 :])
                sums.append(origins.insert(node, _ADD, (part, piece), size))
            return origins.insert(node, _CAT, (sums, axis), node.meta["shape"])
    return "it adds no weight to a join, along the axis of the join"


def _sum_of_sum(node: fx.Node, origins: Origins) -> fx.Node | str:
    if len(node.args) != 2 or node.kwargs:
        return "it is a sum with a factor"
    operands: list[Any] = list(node.args)
    for data, inner in (operands, operands[::-1]):
        if not isinstance(inner, fx.Node) or inner.target is not _ADD or len(inner.args) != 2 or inner.kwargs:
            continue
        parts: list[Any] = list(inner.args)
        for weight, constant in (parts, parts[::-1]):
            if origins.is_weight(weight) and origins.is_constant(constant) and data in origins.inputs:
                with origins.graph.inserting_before(node):
                    first = origins.insert(node, _ADD, (data, weight), node.meta["shape"])
                    return origins.insert(node, _ADD, (first, constant), node.meta["shape"])
    return "it adds no sum of a weight and a constant"


def _all_of_axis(node: fx.Node, _: Origins) -> fx.Node | str:
    """Read a slice of an axis from end to end, as traces write `x[:, :1]` for the first axis, as the value itself."""
    arguments = _slice_arguments(node)
    is_all = arguments.get("begin") in (None, 0) and arguments.get("end") in (None, _END) and arguments.get("step", 1) == 1
    return arguments["of"] if is_all else "it may leave out elements of other inputs"


def _slice_arguments(node: fx.Node) -> dict[str, Any]:
    return dict(zip(("of", "axis", "begin", "end", "step"), node.args, strict=False)) | node.kwargs


def _part_of_join(node: fx.Node, origins: Origins) -> fx.Node | str:
    arguments = _slice_arguments(node)
    found = _join(arguments["of"])
    if found is None or arguments.get("step", 1) != 1:
        return "it is no run of elements of a join"
    parts, axis = found
    shape = arguments["of"].meta["shape"]
    if int(arguments.get("axis", 0)) % len(shape) != axis:
        return "it is taken along another axis"
    begin, end, _ = slice(arguments.get("begin"), arguments.get("end")).indices(shape[axis])
    inside = [
        part for part, (first, last) in zip(parts, _extents(parts, axis), strict=True) if begin <= first and last <= end
    ]
    if not inside or sum(part.meta["shape"][axis] for part in inside) != end - begin:
        return "it begins or ends inside a part"
    if len(inside) == 1:
        return inside[0]
    with origins.graph.inserting_before(node):
        return origins.insert(node, _CAT, (inside, axis), node.meta["shape"])


def _join_of_joins(node: fx.Node, _: Origins) -> fx.Node | str:
    found = _join(node)
    if found is None:
        return "the shapes of its parts are not known"
    parts, axis = found
    flat: list[fx.Node] = []
    for part in parts:
        inner = _join(part)
        flat += inner[0] if inner is not None and inner[1] == axis else [part]
    if flat == parts:
        return "no part is a join along the same axis"
    node.args = (flat, axis)
    return node


def _sole_part(node: fx.Node, origins: Origins) -> fx.Node | str:
    """Replace a join by its only part that has elements: the others are caches that are still empty."""
    parts, _ = _cat_arguments(*node.args)
    filled = [part for part in parts if 0 not in part.meta.get("shape", ())]
    if len(filled) != 1:
        return "several parts have elements"
    with origins.graph.inserting_before(node):
        # The nodes behind may need a contiguous value, which a join is.
        return origins.insert(node, torch.ops.aten.contiguous.default, (filled[0],), node.meta["shape"])


def _parts_of_sum(node: fx.Node, origins: Origins) -> fx.Node | str:
    """Split each product of a sum by itself, and add the parts, instead of splitting the sum."""
    terms = _terms(node.args[0])
    if len(terms) < 2 or any(kind_of(user) != "getitem" for user in node.users):
        return "it takes no sum of products apart"
    graph = origins.graph
    with graph.inserting_before(node):
        split = [origins.insert(node, node.target, (term, *node.args[1:]), ()) for term in terms]
    for result in list(node.users):
        with graph.inserting_before(result):
            parts = [origins.insert(result, result.target, (one, *result.args[1:]), result.meta["shape"]) for one in split]
            total = parts[0]
            for part in parts[1:]:
                total = origins.insert(result, _ADD, (total, part), result.meta["shape"])
        result.replace_all_uses_with(total)
        graph.erase_node(result)
    (whole,) = node.all_input_nodes
    node.args = ()  # nothing reads it any more, and it reads nothing
    _erase_sum(graph, whole)
    return split[0]


def _erase_sum(graph: fx.Graph, value: fx.Node) -> None:
    """Erase a sum that no node reads any more, and sums that only it read: its products would seem to have two readers."""
    if value.target is _ADD and not value.users:
        parts = value.all_input_nodes
        graph.erase_node(value)
        for part in parts:
            _erase_sum(graph, part)


def _terms(value: Any) -> list[fx.Node]:
    """Return the matrix products whose sum a value is; none if it is not a sum of products."""
    if not isinstance(value, fx.Node):
        return []
    if value.target in _PRODUCTS:
        return [value]
    if value.target is not _ADD or len(value.args) != 2 or value.kwargs or len(value.users) > 1:
        return []
    one, other = (_terms(part) for part in value.args)
    return [*one, *other] if one and other else []


REGROUP = (
    FxRule("slices of all of an axis as the value", frozenset({_SLICE}), _all_of_axis),
    FxRule("sums of joins as joins of sums", frozenset({_ADD}), _sum_of_join),
    FxRule("weights added before constants", frozenset({_ADD}), _sum_of_sum),
    FxRule("parts of joins", frozenset({_SLICE}), _part_of_join),
    FxRule("joins of joins as one", frozenset({_CAT}), _join_of_joins),
    FxRule("joins with nothing", frozenset({_CAT}), _sole_part),
    FxRule("parts of sums as sums of parts", _PARTS, _parts_of_sum),
)
