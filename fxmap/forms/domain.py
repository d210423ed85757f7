"""The int8 regions of a model, between quantize and dequantize, and the float layers that stand in them by mistake."""

from torch import fx

from fxmap.forms.graph_nodes import border, quantized_name


def floats_inside(graph: fx.Graph, converted: set[str]) -> list[str]:
    """Return the float modules with tensors that stand between quantize and dequantize in a converted model's twin.

    `converted` are the paths of the modules that are int8 in the model itself. Such a model cannot run.
    """
    quantized: set[fx.Node] = set()
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            if str(node.target) in converted and "DeQuant" not in _stub(node):
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


def floats_inside_graph(graph: fx.Graph, converted: set[str], floats: set[str]) -> list[str]:
    """Return the float modules that a graph of convert_fx calls on int8 activations. Such a model cannot run.

    Args:
        graph: as it was converted, with its quantizing nodes.
        converted: the modules that are int8.
        floats: the modules that have float parameters.
    """
    quantized: set[fx.Node] = set()
    found: list[str] = []
    for node in graph.nodes:
        inside = any(producer in quantized for producer in node.all_input_nodes)
        name = border(node)
        if node.op == "call_module" and str(node.target) in floats and inside:
            found.append(str(node.target))
        elif name is not None:
            inside = name.startswith("quantize")
        elif node.op == "call_module" and str(node.target) in converted:
            inside = True
        if (inside or quantized_name(node) is not None) and node.op != "output":
            quantized.add(node)
    return found


def _stub(node: fx.Node) -> str:
    return str(node.meta.get("nn_module_stack", {}).get(str(node.target), ("", ""))[1])
