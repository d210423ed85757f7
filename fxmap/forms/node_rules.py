"""Rewrite rules for the nodes that torch.ao puts into graphs: each replaces them by their float counterparts."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxmap.errors import QuantizationError
from fxmap.forms.conversion import NodeRule, Within
from fxmap.forms.graph_nodes import border, bound_arguments, quantized_name

# Arguments of torch.ops.quantized that say how the result is quantized.
_RANGES = ("scale", "zero_point", "output_scale", "output_zero_point")


# The float counterparts of torch.ops.quantized; without those of _RANGES, the arguments are the float function's, in order.
_FLOAT: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "mul": operator.mul,
    "matmul": torch.matmul,
    "cat": torch.cat,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "prelu": F.prelu,
    "softmax": F.softmax,
    "layer_norm": F.layer_norm,
    "group_norm": F.group_norm,
}


def _is_border(node: fx.Node, within: Within) -> bool:
    return border(node) is not None


def _is_identity(node: fx.Node, within: Within) -> bool:
    """Whether a node calls an identity, or a check of the inputs' shapes that torch.export leaves behind."""
    if node.op != "call_module":
        return False
    return node.target == "_guards_fn" or isinstance(within.module.get_submodule(str(node.target)), nn.Identity)


def _bypass(node: fx.Node, within: Within) -> None:
    """quantize(x, scale, zero_point), dequantize(x), observer(x), fake_quantize(x)  ->  x."""
    if node.args and isinstance(node.args[0], fx.Node):
        node.replace_all_uses_with(node.args[0])
    node.graph.erase_node(node)


def _is_quantized_function(node: fx.Node, within: Within) -> bool:
    return quantized_name(node) is not None


def _compute_in_float(node: fx.Node, within: Within) -> None:
    """quantized.f(a, scale, zero_point)  ->  f(a), and quantized.f_relu(a, scale, zero_point)  ->  relu(f(a))."""
    name = str(quantized_name(node))
    plain = name.removesuffix("_relu")
    function = _FLOAT.get(plain)
    if function is None:
        raise QuantizationError(
            f"{within.path or 'the graph'}: {node.name} calls torch.ops.quantized.{name}, whose float counterpart is not "
            "known; known are " + ", ".join(_FLOAT)
        )
    args = tuple(value for argument, value in bound_arguments(node).items() if argument not in _RANGES)
    with node.graph.inserting_before(node):
        result = node.graph.call_function(function, args)
        if plain != name:
            result = node.graph.call_function(F.relu, (result,))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)


# Of FX graph mode and PT2E alike.
DROP_BORDER = NodeRule(_is_border, _bypass)


# Observers are identities in a twin.
DROP_IDENTITY = NodeRule(_is_identity, _bypass)


QUANTIZED_FUNCTION = NodeRule(_is_quantized_function, _compute_in_float)
