"""Where a model computes in int8: between quantize and dequantize."""

from torch import fx


def floats_inside(graph: fx.Graph, converted: set[str]) -> list[str]:
    """Return the float modules with tensors that stand between quantize and dequantize in a converted model's twin.

    `converted` are the paths of the modules that are int8 in the model itself. Such a model cannot run.
    """
    quantized: set[fx.Node] = set()
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            if str(node.target) in converted and "DeQuant" not in _stub(graph, node):
                quantized.add(node)
            continue
        data = [producer for producer in node.all_input_nodes if producer.op != "get_attr"]
        if not any(producer in quantized for producer in data) or node.op == "output":
            continue
        quantized.add(node)
        owners = list(node.meta.get("nn_module_stack") or ())
        own = any(producer.op == "get_attr" for producer in node.all_input_nodes)
        if own and owners and not any(owner in converted for owner in owners):
            found[owners[-1]] = None
    return list(found)


def _stub(graph: fx.Graph, node: fx.Node) -> str:
    return str(node.meta.get("nn_module_stack", {}).get(str(node.target), ("", ""))[1])
