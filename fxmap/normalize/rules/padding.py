"""Padding has one spelling: pad(x, p, "constant", c) = constant_pad_nd(x, p, c), and what a layer pads is the layer's own.

    conv(pad(x, p)) = conv(x, padding=p)        conv(x, padding=(p, p))[..., :-n] = conv(x, padding=(p, p - n stride))
    max_pool(pad(x, p, -inf)) = max_pool(x, padding=p)        avg_pool(pad(x, p)) = avg_pool(x, padding=p)

Hold for every input. Without a number a value is padded by 0.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from fxmap.graph.arguments import bind, comparable
from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule
from fxmap.normalize.rules.numbers import number_of

# What each layer pads by.
_NUMBERS = {"convolution": 0.0, "avg_pool": 0.0, "max_pool": -math.inf}

# The numbers of one axis, before and after it.
Sides = tuple[int, int]


def _to_constant(context: Context, op: Op) -> Outcome:
    """Make one kind of the ways to pad by a number."""
    if op.attribute("mode", "constant") != "constant":
        return "it does not pad by a number"
    attributes = tuple(
        (name, _padded_axes(value) if name == "pad" else value)
        for name, value in op.attributes
        if name != "mode" and (name, value) != ("value", 0)
    )
    if op.kind == "constant_pad_nd" and attributes == op.attributes:
        return "its numbers end with an axis that is padded"
    context.ops.add(replace(op, kind="constant_pad_nd", attributes=attributes))
    return (op.name,)


def _padded_axes(numbers: Any) -> Any:
    """Return the numbers of a padding up to the first axis that is padded: they begin with the last axis."""
    if not isinstance(numbers, tuple):
        return numbers
    last = max((place for place, number in enumerate(numbers) if number != 0), default=-1)
    return numbers[: last + 1 + (last + 1) % 2]


def _into_layer(context: Context, op: Op) -> Outcome:
    """Have a layer pad what is padded before it by the number that it pads by."""
    ops, own = context.ops, _sides(context, op)
    (before,) = ops.operands(op.name).get("input", [""])
    found = _padding(context, before, op.kind) if before and own is not None else None
    if own is None or found is None:
        return "it does not read what is padded so, or by how much it pads is not known"
    source, given = found
    if len(given) > len(own):
        return "another axis than those of the map is padded"
    given = [(0, 0)] * (len(own) - len(given)) + given
    total = [(a + c, b + d) for (a, b), (c, d) in zip(own, given, strict=True)]
    if op.kind != "convolution" and (any(map(any, own)) or not _fits_pool(context.nodes[op.name], total)):
        return "a pool pads by no more than half its window, alike on both sides"
    ops.network.remove_edge(before, op.name, key=ops.edge(before, op.name, "input"))
    ops.network.add_edge(source, op.name, argument="input")
    ops.add(_padded(op, total))
    return (op.name, *ops.operands(op.name)["input"], *ops.drop_unread([before]))


def _padding(context: Context, name: str, kind: str) -> tuple[str, list[Sides]] | None:
    """Return the value that is padded by a layer's own number, and by how much, axis by axis up to the last one."""
    ops, op = context.ops, context.ops.op(name)
    node = context.nodes.get(name)
    if node is not None and op.kind == "cat" and _NUMBERS[kind] == 0:
        return _joined_to_zeros(context, op, node)
    if node is None or op.kind != "constant_pad_nd" or float(op.attribute("value", 0)) != _NUMBERS[kind]:
        return None
    numbers = bind(node).get("pad")
    if not isinstance(numbers, list | tuple) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        return None
    return ops.operands(name)["input"][0], [(numbers[i], numbers[i + 1]) for i in range(0, len(numbers), 2)][::-1]


def _joined_to_zeros(context: Context, op: Op, node: fx.Node) -> tuple[str, list[Sides]] | None:
    """Return the value that zeros are joined to along its last axis, and how many before and behind it."""
    ops, made = (
        context.ops,
        {name: number_of(context, name) for names in context.ops.operands(op.name).values() for name in names},
    )
    values, rank = [name for name, number in made.items() if number is None], len(node.meta.get("shape", ()))
    parts = node.args[0]
    if len(values) != 1 or not isinstance(parts, list | tuple) or bind(node).get("dim", 0) not in (-1, rank - 1):
        return None
    outputs = {ops.op(name).output: name for name in made}
    sides: tuple[list[int], list[int]] = ([], [])
    extents = [(part, _last_extent(part)) for part in parts if isinstance(part, fx.Node)]
    behind = False
    for part, extent in extents:
        if _root(part).name == ops.op(values[0]).output:
            behind = True
        elif extent is None or made.get(outputs.get(_root(part).name, ""), 0.0) != 0:
            return None
        else:
            sides[behind].append(extent)
    return (values[0], [(sum(sides[0]), sum(sides[1]))]) if behind and len(extents) == len(parts) else None


def _root(node: fx.Node) -> fx.Node:
    """Return what a node only moves or passes on."""
    while has(kind_of(node), Trait.MOVEMENT | Trait.IDENTITY) and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node


def _last_extent(node: fx.Node) -> int | None:
    """Return the extent of a value's last axis; None where that is not known."""
    if "shape" in node.meta:
        return int(node.meta["shape"][-1])
    if kind_of(node) == "getitem" and isinstance(node.args[1], tuple) and isinstance(part := node.args[1][-1], slice):
        plain = isinstance(part.stop, int) and part.stop > 0 and part.start in (0, None) and part.step in (1, None)
        return part.stop if plain else None
    if kind_of(node) == "zeros_like" and isinstance(node.args[0], fx.Node):
        return _last_extent(node.args[0])
    sizes = [part for part in node.args if isinstance(part, int)]
    return sizes[-1] if kind_of(node) in ("new_zeros", "zeros") and sizes and node.args[-1] == sizes[-1] else None


def _fits_pool(node: fx.Node, total: Sequence[Sides]) -> bool:
    kernel, arguments = bind(node).get("kernel_size"), bind(node)
    kernels = [kernel] * len(total) if isinstance(kernel, int) else list(kernel or ())
    plain = (
        not arguments.get("ceil_mode") and arguments.get("count_include_pad", True) and not arguments.get("divisor_override")
    )
    known = plain and len(kernels) == len(total) and all(isinstance(extent, int) for extent in kernels)
    return known and all(a == b and a <= extent // 2 for (a, b), extent in zip(total, kernels, strict=True))


def _sides(context: Context, op: Op) -> list[Sides] | None:
    """Return what a layer pads each axis of the map by; None where that is not known."""
    if ("padding", value := op.attribute("padding", 0)) in op.attributes and isinstance(value, Pads):
        return list(value.sides)
    node = context.nodes.get(op.name)
    rank = _rank(context, op)
    if node is None or rank is None:
        return None
    padding = bind(node).get("padding", 0)
    if padding == "same":
        return _same(context, op, bind(node), rank)
    if padding == "valid":
        return [(0, 0)] * rank
    each = [padding] * rank if isinstance(padding, int) else list(padding or [0])
    each = each * rank if len(each) == 1 else each
    return [(n, n) for n in each] if len(each) == rank and all(isinstance(n, int) for n in each) else None


def _rank(context: Context, op: Op) -> int | None:
    """Return how many axes the map of a layer has.

    A convolution's weight tells it, or the operation's name or strides: the weight may be moved before it is read.
    """
    weight, node = context.ops.tensors(op.name).get("weight"), context.nodes.get(op.name)
    if op.kind == "convolution" and weight is not None and weight.shape:
        return len(weight.shape) - 2
    name = "" if node is None else getattr(getattr(node.target, "overloadpacket", node.target), "__name__", "")
    strides = () if node is None or name != "convolution" else bind(node).get("stride", ())
    named = next((rank for rank in (1, 2, 3) if f"{rank}d" in name), None)
    return named or (len(strides) if isinstance(strides, list | tuple) and strides else None)


def _same(context: Context, op: Op, arguments: dict[str, Any], rank: int) -> list[Sides] | None:
    weight, dilation = context.ops.tensors(op.name).get("weight"), arguments.get("dilation", 1)
    dilations = [dilation] * rank if isinstance(dilation, int) else list(dilation)
    dilations = dilations * rank if len(dilations) == 1 else dilations
    if weight is None or len(dilations) != rank or not all(isinstance(n, int) for n in dilations):
        return None
    totals = [n * (extent - 1) for n, extent in zip(dilations, (weight.shape or ())[2:], strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


class Pads(str):
    """By how much each axis is padded, where that is not alike on both sides: an attribute that holds the numbers."""

    sides: tuple[Sides, ...]

    def __new__(cls, sides: Sequence[Sides]) -> "Pads":
        made = super().__new__(cls, ", ".join(f"{a} and {b}" for a, b in sides))
        made.sides = tuple(sides)
        return made


def _padded(op: Op, total: Sequence[Sides]) -> Op:
    alike = all(a == b for a, b in total)
    value = comparable([a for a, _ in total]) if alike else Pads(total)
    rest = tuple((name, own) for name, own in op.attributes if name != "padding")
    kept = "padding" in dict(op.attributes) or value != 0
    return replace(op, attributes=tuple(sorted((*rest, *((("padding", value),) if kept else ())))))


def _cut(context: Context, op: Op) -> Outcome:
    """Have a convolution compute no numbers that are cut off behind it."""
    ops, users = context.ops, context.ops.users(op.name)
    sides, node = _sides(context, op), context.nodes.get(op.name)
    if sides is None or node is None or len(users) != 1 or op.output != op.name:
        return "several read it, or by how much it pads is not known"
    cut = ops.op(users[0][0])
    found = _cut_off(context.nodes.get(cut.name), node, len(sides))
    stride = bind(node).get("stride", 1)
    strides = [stride] * len(sides) if isinstance(stride, int) else list(stride)
    strides = strides * len(sides) if len(strides) == 1 else strides
    if found is None or len(strides) != len(sides) or not all(isinstance(n, int) for n in strides):
        return "no known number is cut off behind it"
    axis, count = found
    total = list(sides)
    total[axis] = (total[axis][0], total[axis][1] - count * strides[axis])
    ops.add(replace(_padded(op, total), output=cut.output))
    users_behind = ops.substitute(cut.name, op.name)
    return (op.name, *users_behind)


def _cut_off(cut: fx.Node | None, layer: fx.Node, rank: int) -> tuple[int, int] | None:
    """Return the axis of the map along which a slice cuts numbers off at the end, and how many."""
    if cut is None or cut.op == "placeholder":
        return None
    name, shape = getattr(cut.target, "__name__", ""), layer.meta.get("shape")
    if getattr(cut.target, "overloadpacket", None) is not None and name.startswith("slice"):
        arguments = bind(cut)
        start, end, step, axis = (arguments.get(n) for n in ("start", "end", "step", "dim"))
        if start not in (0, None) or step not in (1, None) or not isinstance(end, int) or shape is None:
            return None
        assert isinstance(axis, int)
        place = axis if axis < 0 else axis - len(shape)
        count = -end if end < 0 else shape[axis] - end
    elif name == "getitem":
        index = cut.args[1] if isinstance(cut.args[1], tuple) else (cut.args[1],)
        last, others = index[-1], index[:-1]
        plain = all(part is Ellipsis or part == slice(None) for part in others) and (
            Ellipsis in others or len(others) == rank + 1
        )
        if not plain or not isinstance(last, slice) or last.start not in (0, None) or last.step not in (1, None):
            return None
        if not isinstance(last.stop, int) or last.stop >= 0:
            return None
        place, count = -1, -last.stop
    else:
        return None
    return (place + rank, count) if -rank <= place and count > 0 else None


PAD_BY_NUMBER = Rule("padding by a number", frozenset({"pad", "constant_pad_nd"}), _to_constant)


PAD_IN_LAYER = Rule("padding before layers", frozenset(_NUMBERS), _into_layer)


CUT_IN_LAYER = Rule("what is cut off behind convolutions", frozenset({"convolution"}), _cut)
