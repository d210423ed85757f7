"""What rules ask of operations that go along axes: along which, and what the only value is that they read."""

from typing import Any

from fxmap.graph.arguments import bind
from fxmap.graph.opgraph import OpGraph
from fxmap.normalize.rule import Context


def axes_of(context: Context, name: str) -> Any:
    """Return the axes that an operation goes along, as the code has them; None where they are not numbers."""
    node = context.nodes.get(name)
    dims = None if node is None else bind(node).get("dim", bind(node).get("dims"))
    dims = [dims] if isinstance(dims, int) else dims
    return sorted(dims) if isinstance(dims, list | tuple) and all(isinstance(dim, int) for dim in dims) else None


def sole(ops: OpGraph, name: str, kind: str) -> str | None:
    """Return the one operand of an operation of a kind without attributes; None of others."""
    operands = ops.operands(name)
    plain = ops.op(name).kind == kind and not ops.op(name).attributes and list(operands) == ["input"]
    return operands["input"][0] if plain and len(operands["input"]) == 1 else None
