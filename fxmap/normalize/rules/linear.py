"""addmm(b, x, t(w)) = linear(x, w, b), and mm(x, t(w)) = linear(x, w).

Holds for every input: it is how torch computes a linear layer. The weight is `o i`, read through one transposition; where
it is read as it is, it is `i o` (GPT-2's Conv1D), which the attribute "axes" says.

linear(x, w) + b = linear(x, w, b), where b has one number for each output channel and nothing else reads the product.
"""

from dataclasses import replace

from fxmap.graph.affine import affine_shape
from fxmap.graph.kinds import Trait, has, kinds
from fxmap.graph.opgraph import TENSOR, OpGraph


def restore_linear(graph: OpGraph) -> None:
    """Turn matrix products with a transposed parameter back into linear layers."""
    for op in graph.of_kind(kinds(Trait.MATRIX_PRODUCT)):
        name, read = op.name, _weight(graph, op.name)
        if read is None:
            continue
        matrix, weight = read
        graph.network.remove_edge(matrix, name, key=graph.edge(matrix, name, "mat2"))
        graph.network.add_edge(weight, name, argument="weight")
        attributes = op.attributes if matrix != weight else (*op.attributes, ("axes", "i o"))
        graph.add(replace(op, kind="linear", attributes=attributes))
        if matrix != weight and not graph.users(matrix):
            graph.network.remove_node(matrix)


def _weight(graph: OpGraph, name: str) -> tuple[str, str] | None:
    """Return what a product reads as its matrix, and the parameter that this is, or is the transpose of."""
    (matrix,) = graph.operands(name).get("mat2", [""])
    if not matrix:
        return None
    source = matrix
    if has(graph.op(matrix).kind, Trait.PERMUTE | Trait.TRANSPOSE):
        (source,) = graph.operands(matrix)["input"]
    shape = graph.op(source).shape
    return (matrix, source) if graph.op(source).kind == TENSOR and shape is not None and len(shape) == 2 else None


def merge_added_bias(graph: OpGraph) -> None:
    """Give linear layers the bias that is added behind them."""
    for op in graph.of_kind({"add"}):
        name, parts = op.name, _added_bias(graph, op.name)
        if parts is None:
            continue
        layer, between, bias = parts
        graph.add(replace(graph.op(layer), output=graph.op(name).output))
        graph.network.add_edge(bias, layer, argument="bias")
        for user, argument in graph.users(name):
            graph.network.add_edge(layer, user, argument=argument)
        graph.network.remove_nodes_from([name, *between])


def _added_bias(graph: OpGraph, name: str) -> tuple[str, list[str], str] | None:
    """Return the layer, the movement between it and the sum, and the bias."""
    operands = graph.operands(name).get("input", [])
    biases = [producer for producer in operands if graph.op(producer).kind == TENSOR]
    if len(operands) != 2 or len(biases) != 1:
        return None
    (layer,) = set(operands) - set(biases)
    between: list[str] = []
    while has(graph.op(layer).kind, Trait.VIEW) and len(graph.users(layer)) == 1:
        between.append(layer)
        (layer,) = graph.operands(layer)["input"]
    tensors = graph.tensors(layer)
    if graph.op(layer).kind != "linear" or "bias" in tensors or "weight" not in tensors or len(graph.users(layer)) != 1:
        return None
    channels = affine_shape(graph.op(layer), tensors["weight"])[0]
    return (layer, between, biases[0]) if graph.op(biases[0]).shape == (channels,) else None
