"""x * x = x ** 2 = square(x), for every input."""

from dataclasses import replace

from fxmap.graph.opgraph import OpGraph


def unify_squares(graph: OpGraph) -> None:
    """Make one kind of the ways to write a square."""
    for op in graph.of_kind({"pow", "mul"}):
        operands = graph.operands(op.name)
        if op.kind == "pow" and list(operands) == ["input"] and [value for _, value in op.attributes] == [2]:
            graph.add(replace(op, kind="square", attributes=()))
        elif op.kind == "mul" and len(factors := operands.get("input", [])) == 2 and factors[0] == factors[1]:
            graph.network.remove_edge(factors[0], op.name, key=graph.edge(factors[0], op.name, "input"))
            graph.add(replace(op, kind="square", attributes=()))
