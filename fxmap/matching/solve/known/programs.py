"""Programs of the source: parts of its graph as data, for expressions that compute what it computes of its weights."""

import json
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxmap.expressions.base import Expression, Source
from fxmap.expressions.computed import Computed, Stretch
from fxmap.expressions.programs import operation
from fxmap.matching.solve.known.source import SourceValues

# Constants of a graph up to this size are written into a program.
_LARGEST_CONSTANT = 4096


class NotAProgram(Exception):
    """A part of a graph that no program can hold."""


def computed(source: SourceValues, goal: fx.Node) -> Expression:
    """Return what the source computes of its weights alone at a node.

    Raises:
        NotAProgram: it has an operation that no program has.
    """
    paths, steps = _program(source, goal, [])
    return Computed(tuple(map(Source, paths)), json.dumps(steps))


def stretch(
    source: SourceValues, inputs: Sequence[fx.Node], goal: fx.Node, probes: Sequence[int], read: Sequence[int]
) -> Expression:
    """Return the matrix of what the source does between some nodes and another: see `Stretch`.

    Raises:
        NotAProgram: it has an operation that no program has, or the goal depends on inputs beside the given ones.
    """
    paths, steps = _program(source, goal, inputs)
    if not paths:
        raise NotAProgram(f"what is done up to {goal.name} has no weights")
    shapes = tuple(tuple(source.values[node].data.shape[1:]) for node in inputs)
    return Stretch(tuple(map(Source, paths)), json.dumps(steps), shapes, tuple(probes), tuple(read))


def _program(source: SourceValues, goal: fx.Node, inputs: Sequence[fx.Node]) -> tuple[list[str], list[Any]]:
    needed = _between(goal, set(inputs))
    nodes = [node for node in source.nodes if node in needed]
    weights = [node for node in nodes if node.op == "get_attr" and str(node.target) in source.tensors]
    paths = list(dict.fromkeys(source.captured.canonical[str(node.target)] for node in weights))
    places: dict[fx.Node, int] = {node: index for index, node in enumerate(inputs)}
    places |= {node: len(inputs) + paths.index(source.captured.canonical[str(node.target)]) for node in weights}
    steps: list[Any] = []
    for node in nodes:
        if node in places:
            continue
        if node.op == "placeholder":
            raise NotAProgram(f"{node.name} is another input")
        if node.op == "get_attr":
            steps.append(["aten.clone.default", [_constant(source, node)], {}])
        else:
            steps.append([_name(node), _plain(list(node.args), places), _plain(dict(node.kwargs), places)])
        places[node] = len(inputs) + len(paths) + len(steps) - 1
    if not steps:
        steps.append(["aten.clone.default", [{"value": places[goal]}], {}])
    return paths, steps


def _between(goal: fx.Node, stops: Collection[fx.Node]) -> set[fx.Node]:
    found, waiting = set[fx.Node](), [goal]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [] if node in stops else node.all_input_nodes
    return found


def _name(node: fx.Node) -> str:
    if isinstance(node.target, OpOverload):
        name = str(node.target)
        try:
            operation(name)
        except ValueError as error:
            raise NotAProgram(f"{node.name}: {error}") from error
        return name
    if getattr(node.target, "__name__", "") == "getitem":
        return "getitem"
    raise NotAProgram(f"{node.name}: {node.target} is not an operation of aten")


def _constant(source: SourceValues, node: fx.Node) -> dict[str, Any]:
    value = source.values[node].data
    if not isinstance(value, Tensor) or value.numel() > _LARGEST_CONSTANT or value.is_complex():
        raise NotAProgram(f"{node.name} is too large to be written")
    return {"tensor": value.tolist(), "of": str(value.dtype).removeprefix("torch.")}


def _plain(value: Any, places: dict[fx.Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return {"value": places[value]}
    if isinstance(value, list | tuple):
        return [_plain(part, places) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part, places) for key, part in value.items() if key not in ("layout", "device", "pin_memory")}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.memory_format):
        return {"memory_format": str(value).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise NotAProgram(f"{value!r} is no argument that can be written")
