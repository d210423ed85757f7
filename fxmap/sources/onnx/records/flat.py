"""An ONNX graph with all its weights as initializers: those of `Constant` nodes, and of branches that are always taken.

>>> import onnx.helper as oh
>>> weight = oh.make_node("Constant", [], ["w"], value=oh.make_tensor("v", 1, [2, 2], [1.0, 2.0, 3.0, 4.0]))
>>> graph = oh.make_graph([weight, oh.make_node("MatMul", ["x", "w"], ["y"])], "net", [], [])
>>> flat = flattened(oh.make_model(graph)).graph
>>> [node.op_type for node in flat.node], [one.name for one in flat.initializer]
(['MatMul'], ['w'])
"""

from collections.abc import Iterator
from typing import Any

# onnx.TensorProto's numbers for floating-point types that are weights.
_REAL = (1, 10, 11, 16)


def flattened(proto: Any) -> Any:
    """Return a model whose weights are initializers; the model itself where they are already.

    Functions that the file defines, as torch's exporter by dynamo did at first, are put in the place of their calls.
    A branch of an `If` whose condition the file holds is put in the place of the `If`; its names get a prefix where they
    are taken. What other branches and loops hold stays inside.
    """
    proto = _without_functions(proto)
    if not any(_is_weight(node) or node.op_type == "If" for node in proto.graph.node):
        return proto
    made = type(proto)()
    made.CopyFrom(proto)
    graph, taken = made.graph, set(_names(proto.graph))
    while (place := _decided(graph)) is not None:
        node, branch = graph.node[place], _branch(graph, graph.node[place])
        inner = _renamed(branch, taken)
        taken |= set(_names(inner))
        ends = [
            type(node)(op_type="Identity", input=[one.name], output=[name])
            for one, name in zip(inner.output, node.output, strict=False)
        ]
        nodes = [*graph.node[:place], *inner.node, *ends, *graph.node[place + 1 :]]
        graph.initializer.extend(inner.initializer)
        _replace(graph, nodes)
    for node in graph.node:
        if _is_weight(node):
            held = graph.initializer.add()
            held.CopyFrom(node.attribute[0].t)
            held.name = node.output[0]
    _replace(graph, [node for node in graph.node if not _is_weight(node)])
    return made


def _without_functions(proto: Any) -> Any:
    if not len(proto.functions):
        return proto
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(proto)
    except Exception:  # whatever onnx raises on a damaged model; the functions are named as operators that are not known
        return proto


def inside(graph: Any) -> tuple[str, ...]:
    """Return the names of weights inside branches and loops, which are no keys."""
    found = [
        one.name
        for node in graph.node
        for attribute in node.attribute
        if attribute.HasField("g")
        for one in (*attribute.g.initializer, *(n.attribute[0].t for n in attribute.g.node if _is_weight(n)))
        if one.data_type in _REAL and len(one.dims)
    ]
    return tuple(name or "a constant" for name in found)


def _is_weight(node: Any) -> bool:
    """Whether a node holds several real numbers."""
    if node.op_type != "Constant" or len(node.attribute) != 1 or node.attribute[0].name != "value":
        return False
    value = node.attribute[0].t
    return value.data_type in _REAL and sum(extent > 1 for extent in value.dims) > 0


def _decided(graph: Any) -> int | None:
    """Return the place of the first `If` whose condition the file holds."""
    conditions = _conditions(graph)
    decided = (node.op_type == "If" and any(name in conditions for name in node.input) for node in graph.node)
    return next((place for place, known in enumerate(decided) if known), None)


def _conditions(graph: Any) -> dict[str, bool]:
    """Return the single truth values that a graph holds, by their names."""
    import onnx.numpy_helper

    held = {one.name: one for one in graph.initializer}
    held |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value"
    }
    bools = {name: one for name, one in held.items() if one.data_type == 9 and list(one.dims) in ([], [1])}
    return {name: bool(onnx.numpy_helper.to_array(one).item()) for name, one in bools.items()}


def _branch(graph: Any, node: Any) -> Any:
    name = "then_branch" if _conditions(graph)[node.input[0]] else "else_branch"
    return next(one.g for one in node.attribute if one.name == name)


def _names(graph: Any) -> Iterator[str]:
    yield from (one.name for one in (*graph.input, *graph.initializer))
    yield from (name for node in graph.node for name in node.output)


def _renamed(branch: Any, taken: set[str]) -> Any:
    """Return a copy of a branch in which the names that it defines are not taken."""
    made = type(branch)()
    made.CopyFrom(branch)
    others = {name: f"{branch.name}:{len(taken)}:{name}" for name in _names(branch) if name in taken and name}
    for one in (*made.initializer, *made.output):
        one.name = others.get(one.name, one.name)
    _rename_nodes(made, others)
    return made


def _rename_nodes(graph: Any, others: dict[str, str]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [others.get(name, name) for name in names]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_nodes(attribute.g, others)
                for one in attribute.g.output:
                    one.name = others.get(one.name, one.name)


def _replace(graph: Any, nodes: list[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
