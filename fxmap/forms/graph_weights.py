"""Weights that a graph quantizes or dequantizes by nodes of `quantized_decomposed`, as PT2E writes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.expressions.arithmetic import Full
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.scheme import Scheme

_DTYPES = {torch.int8: "qint8", torch.uint8: "quint8", torch.int32: "qint32"}


@dataclass(frozen=True, slots=True)
class GraphWeight:
    """A weight that a graph quantizes or dequantizes: its path, the node, and its scales and zero points.

    These are paths, or numbers where the graph has them as literals. `axis` is -1 where there is one scale for all.
    """

    target: str
    node: fx.Node
    scale: str | float
    zero_point: str | int
    axis: int
    low: int
    high: int
    dtype: torch.dtype

    def scheme(self, zero_point: Tensor | None) -> Scheme:
        """Return the quantization scheme of the weight."""
        symmetric = not bool(zero_point.any()) if zero_point is not None else self.zero_point == 0
        kind = f"per_{'channel' if self.axis >= 0 else 'tensor'}_{'symmetric' if symmetric else 'affine'}"
        return Scheme(_DTYPES[self.dtype], kind, max(self.axis, 0), self.low, self.high, self._eps())

    def parts(self) -> tuple[Expression, Expression]:
        """Return the expressions of scales and zero points."""
        whole = Source(self.target)
        scale, zero_point = (
            Source(part) if isinstance(part, str) else Full((1,), float(part), whole)
            for part in (self.scale, self.zero_point)
        )
        return scale, zero_point

    def specification(self) -> Any:
        """Return the quantizer's specification of the weight from the graph's annotations; None where these are lost."""
        borders = [user for user in self.node.users if getattr(user.target, "namespace", "") == "quantized_decomposed"]
        for user in (user for node in (self.node, *borders) for user in node.users):
            annotation = user.meta.get("quantization_annotation")
            for spec in getattr(annotation, "input_qspec_map", {}).values():
                if hasattr(spec, "observer_or_fake_quant_ctr") and self._is_own(spec):
                    return spec
        return None

    def _is_own(self, spec: Any) -> bool:
        """Whether a specification is the weight's and not an activation's, which is asymmetric."""
        kind = f"torch.per_{'channel' if self.axis >= 0 else 'tensor'}_symmetric"
        return str(spec.qscheme) == kind and (spec.dtype, spec.quant_min, spec.quant_max) == (
            self.dtype,
            self.low,
            self.high,
        )

    def _eps(self) -> float:
        """Return the observers' `eps`, the least scale, from the graph's annotations, or else torch's default."""
        options = getattr(
            getattr(getattr(self.specification(), "observer_or_fake_quant_ctr", None), "p", None), "keywords", {}
        )
        return float(options.get("eps", torch.finfo(torch.float32).eps))


def graph_weight(node: fx.Node) -> GraphWeight | None:
    """Return the weight that a node of `quantized_decomposed` reads; None for activations, and for other nodes."""
    if getattr(node.target, "namespace", "") != "quantized_decomposed":
        return None
    if not node.args or not isinstance(node.args[0], fx.Node) or node.args[0].op != "get_attr":
        return None
    target = str(node.args[0].target)
    arguments = [str(value.target) if isinstance(value, fx.Node) else value for value in node.args[1:]]
    values: list[Any] = arguments if len(arguments) == 6 else [*arguments[:2], -1, *arguments[2:]]
    scale, zero_point, axis, low, high, dtype = values[:6]
    return GraphWeight(target, node, scale, zero_point, axis, low, high, dtype)


def float_copy(weight: GraphWeight, live: Tensor, dead: Mapping[str, Any]) -> str | None:
    """Return the key of the unread tensor that is the float weight behind the integers; None where there is none.

    Told by its values, which are the live weight's up to rounding; or, where they were overwritten, by the layer's path.
    """
    scale = float(live.abs().amax()) / max(weight.high, 1)
    same = {key: value for key, value in dead.items() if isinstance(value, Tensor) and value.shape == live.shape}
    floats = {key: value for key, value in same.items() if value.is_floating_point()}
    for key, value in floats.items():
        if float((value - live).abs().amax()) <= _ROUNDING * scale:
            return key
    for user in (user for node in (weight.node, *weight.node.users) for user in node.users):
        stack = list((user.meta.get("nn_module_stack") or {}).values())
        if stack and f"{stack[-1][0]}.weight" in floats:
            return f"{stack[-1][0]}.weight"
    return None


# Half a step, and a little for the arithmetic of float32.
_ROUNDING = 0.51
