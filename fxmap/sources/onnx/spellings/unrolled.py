"""A quantized ONNX model as a graph of torch's operators, such as torch's own quantization makes (PT2E).

So the one form that knows these graphs takes integers, scales and zero points out of it.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxmap.errors import CheckpointError
from fxmap.sources.onnx.spellings.partial import EXTENTS


def fixed_names(nodes: Iterable[Any], given: Iterable[str]) -> frozenset[str]:
    """Return what depends neither on inputs nor on weights, as far as their numbers go: shapes, and what is made of them.

    Args:
        nodes: onnx.NodeProtos in their order.
        given: the names of inputs and weights.
    """
    live = set(given)
    fixed: set[str] = set()
    for node in nodes:
        is_live = node.op_type not in EXTENTS and (node.op_type == "If" or any(name in live for name in node.input))
        (live if is_live else fixed).update(node.output)
    return frozenset(fixed)


def unrecorded(fixed: bool) -> AbstractContextManager[Any]:
    """Compute a fixed value without a record of it, so that it can be asked for its numbers."""
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    return disable_proxy_modes_tracing() if fixed else nullcontext()


def unrolled(model: nn.Module, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """Return the graph of a run of a model, with its parameters and buffers under their names.

    Raises:
        CheckpointError: the model does not run on the inputs.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    paths = list(held)

    def run(values: list[Tensor], given: list[Tensor]) -> Any:
        return torch.func.functional_call(model, dict(zip(paths, values, strict=True)), tuple(given))

    try:
        with torch.no_grad():
            traced = make_fx(run, pre_dispatch=True)(list(held.values()), list(inputs))
    except Exception as error:  # whatever torch raises on inputs that do not fit
        shapes = [list(one.shape) for one in inputs]
        raise CheckpointError(
            f"the graph does not run on inputs of the shapes {shapes}: {type(error).__name__}: {error}. Give example_inputs="
        ) from error
    return _with_names(traced, held)


def _with_names(traced: fx.GraphModule, held: dict[str, Tensor]) -> fx.GraphModule:
    """Read weights by their names, where the record has them as inputs; constants of the record are in no state dict."""
    root = nn.Module()
    for path, value in held.items():
        *parents, last = path.split(".")
        owner = root
        for part in parents:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if isinstance(value, nn.Parameter):
            owner.register_parameter(last, value)
        else:
            owner.register_buffer(last, value)
    for name, constant in traced.named_buffers():
        root.register_buffer(name, constant, persistent=False)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    places = [node for node in traced.graph.nodes if node.op == "placeholder"]
    for node, path in zip(places, held, strict=False):
        copies[node] = graph.get_attr(path)
    result = graph.graph_copy(traced.graph, copies)
    graph.output(result)
    graph.eliminate_dead_code()
    return fx.GraphModule(root, graph)
