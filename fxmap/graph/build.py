"""Build the operation graph of an fx graph of functions."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxmap.graph.arguments import bind, comparable, default_arguments
from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.graph.opgraph import CONSTANT, INPUT, OUTPUT, TENSOR, Op, OpGraph, drop_dead
from fxmap.graph.repeats import repeats

# Arguments that change nothing about the value that an operation computes in eval mode.
_IRRELEVANT = {
    "inplace",
    "training",
    "momentum",
    "out",
    "return_indices",
    "cudnn_enabled",
    "allow_tf32",
    "benchmark",
    "deterministic",
    "dtype",
    "use_input_stats",
    "_stacklevel",
}


# Arguments that lay data out: every input shows a difference, so they are left to values.
_LAYOUT = {"dim", "dims", "keepdim", "size", "shape", "N", "C", "HxW", "half_to_float", "implicit", "memory_format"}


_NOT_COMPARED = _IRRELEVANT | _LAYOUT


def build(graph: fx.Graph, tensors: dict[str, Tensor]) -> OpGraph:
    """Build the operation graph of an fx graph of functions whose tensors are `get_attr` nodes. Linear time.

    `tensors` are the parameters and buffers by the path that the fx graph uses.
    """
    ops = OpGraph()
    numbers: set[fx.Node] = set()
    names: dict[fx.Node, str] = {}
    same = repeats(graph)
    for node in graph.nodes:
        if _is_number(node, numbers):
            numbers.add(node)
            continue
        if node in same and same[node] in names:
            names[node] = names[same[node]]
            continue
        if _is_first_result(node):
            # Of an operation with several results, only the first is its value; the others are statistics.
            names[node] = names[node.args[0]]
            ops.add(replace(ops.op(names[node]), output=node.name))
            continue
        if _stands_for_first(node):
            ops.add(replace(ops.op(names[node.args[0]]), output=node.name))
        op = _op(node, tensors)
        names[node] = op.name
        ops.add(op)
        for argument, producer in _operands(node):
            if producer not in numbers:
                ops.network.add_edge(names[producer], op.name, argument=argument)
            elif not has(op.kind, Trait.ANALYTIC):
                ops.numbers[op.name] = (*ops.numbers.get(op.name, ()), (argument, producer.name))
    drop_dead(ops)
    return ops


def _is_first_result(node: fx.Node) -> bool:
    """Whether a node takes the first of the results that a call has: those of `max(x, dim)`, or of an aten operation."""
    if node.op != "call_function" or kind_of(node) != "getitem" or node.args[1] not in (0, "values"):
        return False
    producer = node.args[0]
    return isinstance(producer, fx.Node) and _has_several(producer)


def _has_several(producer: fx.Node) -> bool:
    """Whether a call returns several tensors that each have a meaning."""
    if isinstance(producer.target, OpOverload):
        return len(producer.target._schema.returns) > 1
    kind = kind_of(producer)
    return kind in _RANKED or (kind in _WITH_PLACES and isinstance(bind(producer).get("dim"), int))


def _stands_for_first(node: fx.Node) -> bool:
    """Whether a node takes a later result of a call whose first result nothing takes, and no earlier one is taken."""
    if node.op != "call_function" or kind_of(node) != "getitem" or not isinstance(node.args[1], int):
        return False
    producer = node.args[0]
    if not isinstance(producer, fx.Node) or not _has_several(producer):
        return False
    taken = [user.args[1] for user in producer.users if kind_of(user) == "getitem"]
    whole = len(taken) == len(producer.users)
    return whole and all(isinstance(index, int) and index >= node.args[1] for index in taken) and node.args[1] > 0


# Calls that return values and their places; some do so where an axis is given, and are of two values otherwise.
_RANKED, _WITH_PLACES = {"topk", "sort", "kthvalue", "mode", "cummax", "cummin"}, {"max", "min", "median", "nanmedian"}


def _op(node: fx.Node, tensors: dict[str, Tensor]) -> Op:
    if node.op == "placeholder":
        return Op(node.name, INPUT, output=node.name)
    if node.op == "output":
        return Op(node.name, OUTPUT, output=node.name)
    if node.op == "get_attr":
        path = str(node.target)
        if path in tensors:
            # One node for a tensor, however often it is read: "%" keeps its name apart from those of operations.
            return Op(f"%{path}", TENSOR, output=node.name, key=path, shape=tuple(tensors[path].shape))
        return Op(node.name, CONSTANT, output=node.name)
    return Op(node.name, kind_of(node), _attributes(node), module_of(node), node.name)


def _attributes(node: fx.Node) -> tuple[tuple[str, Any], ...]:
    """Return the static arguments that affect the value and are not defaults, so that spellings of one call agree."""
    arguments = bind(node)
    kind = kind_of(node)
    if kind in ("max_pool", "avg_pool") and not arguments.get("stride"):
        arguments["stride"] = arguments.get("kernel_size")
    if kind == "avg_pool" and not any(_each(arguments.get("padding", 0))):
        arguments.pop("count_include_pad", None)  # there is none to count
    if kind == "embedding":
        arguments.pop("padding_idx", None)  # it stops gradients alone
    if getattr(node.target, "__name__", "") in ("relu6", "relu6_"):
        arguments |= {"min_val": 0.0, "max_val": 6.0}
    arguments |= _scales(arguments)
    if isinstance(dtype := arguments.get("dtype"), torch.dtype) and not (dtype.is_floating_point or dtype.is_complex):
        arguments["rounded to"] = dtype  # any other dtype is one of floating-point numbers, and those are all float64 here
    defaults = default_arguments(node)
    return tuple(
        sorted(
            (name, comparable(value))
            for name, value in arguments.items()
            if name not in _NOT_COMPARED
            and value is not None
            and not nodes_in(value)
            and comparable(value) != defaults.get(name)
        )
    )


_FACTORS = ("scale_factor", "scale_factors", "scales", "scales_h", "scales_w", "scales_d")


def _scales(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the factors of a resize, None where the sizes of the maps tell all about it.

    A factor is the distance of the points that are read. It is the ratio of the sizes if it is a whole number, or if it is
    computed anew from them; where corners are aligned it is not read. Else it is not, on sizes that it does not divide.
    """
    read = {name: arguments[name] for name in _FACTORS if name in arguments}
    factors = [factor for value in read.values() if value is not None for factor in _each(value)]
    whole = all(isinstance(factor, int | float) and float(factor).is_integer() for factor in factors)
    if whole or arguments.get("align_corners") or arguments.get("recompute_scale_factor"):
        read = dict.fromkeys(read)
    return read | ({"recompute_scale_factor": None} if "recompute_scale_factor" in arguments else {})


def _operands(node: fx.Node) -> Iterator[tuple[str, fx.Node]]:
    if node.op in ("placeholder", "get_attr"):
        return
    arguments = {"": node.args[0]} if node.op == "output" else bind(node)
    commutative = has(kind_of(node), Trait.COMMUTATIVE)
    for name, value in arguments.items():
        for place, operand in nodes_in(value):
            yield ("input" if commutative else f"{name}{place}"), operand


def nodes_in(value: Any, place: str = "") -> list[tuple[str, fx.Node]]:
    """Return the nodes in a nested argument, each with its place in it, such as ".2"."""
    if isinstance(value, fx.Node):
        return [(place, value)]
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif isinstance(value, slice):
        items = enumerate((value.start, value.stop, value.step))
    else:
        return []
    return [found for key, part in items for found in nodes_in(part, f"{place}.{key}")]


def _is_number(node: fx.Node, numbers: set[fx.Node]) -> bool:
    if node.op in ("call_function", "call_method") and has(kind_of(node), Trait.NUMBER):
        return True
    producers = node.all_input_nodes
    return node.op != "output" and bool(producers) and all(producer in numbers for producer in producers)


def _each(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def module_of(node: fx.Node) -> str:
    """Return the path of the innermost module that a node was made in."""
    stack = node.meta.get("nn_module_stack")
    return next(reversed(stack)) if stack else ""
