"""ReLU6 in the source, ReLU in the destination: where an int8 range can do what the activation no longer does.

An int8 activation saturates at the largest value of its range. Where that is 6, the saturation is the ReLU6: relu(x) in
integers 0..255 of scale 6/255 is min(max(x, 0), 6). Which activations these are follows from the alignment: an operation
that clamps to 0..b, matched with a relu.

These ranges have no headroom. Kernels that add pairs of products in 16 bits can overflow on integers above 127, which is why
torch's default observers leave the upper half unused; so those of the other activations still do.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.align import Pair
from fxmap.graph import Op, OpGraph

# Relu module of the destination -> (the module whose range bounds it, the upper bound).
Saturations = Mapping[str, tuple[str, float]]

_LEVELS = 255

FULL_RANGE = (
    "these ranges use all of 0..255: kernels that add pairs of products in 16 bits can overflow there, as those of "
    "depthwise convolutions do in the engines x86 and fbgemm, and others on CPUs without VNNI; qnnpack's do not"
)


def upper_bound(op: Op) -> float | None:
    """Return the `b` of an operation that clamps to 0..b; None for any other.

    >>> upper_bound(Op("a", "hardtanh", (("max_val", 6.0), ("min_val", 0.0))))
    6.0
    """
    names = {"hardtanh": ("min_val", "max_val", -1.0, 1.0), "clamp": ("min", "max", None, None)}.get(op.kind)
    if names is None:
        return None
    low, high = op.attribute(names[0], names[2]), op.attribute(names[1], names[3])
    return float(high) if low == 0 and isinstance(high, int | float) else None


def saturations(
    src: OpGraph, dst: OpGraph, pairs: Iterable[Pair], module: nn.Module, converted: Iterable[str]
) -> dict[str, tuple[str, float]]:
    """Find the relu modules of a converted destination whose counterpart saturates, and the range that bounds each.

    Args:
        src, dst: the operation graphs, which `pairs` align.
        module: the destination's float twin.
        converted: the paths of its int8 modules.
    """
    own, found = set(converted), {}
    relus = {path for path, part in module.named_modules() if isinstance(part, nn.ReLU)} if own else set()
    for pair in pairs if relus else ():
        bound, relu = upper_bound(src.op(pair.src)), dst.op(pair.dst)
        if bound is None or relu.kind != "relu" or relu.module not in relus:
            continue
        owner = _range_owner(dst, relu, own)
        if owner is not None:
            found[relu.module] = owner, bound
    return found


def _range_owner(graph: OpGraph, relu: Op, converted: set[str]) -> str | None:
    """Return the int8 module that the relu is a part of, or whose output nothing but the relu reads."""
    parent = relu.module.rpartition(".")[0]
    if parent in converted:
        return parent
    producers = [name for names in graph.operands(relu.name).values() for name in names]
    if len(producers) != 1 or len(graph.users(producers[0])) != 1:
        return None
    before = graph.op(producers[0]).module
    return before if before in converted else None


@contextmanager
def saturated(module: nn.Module, found: Saturations) -> Iterator[None]:
    """Let the relus of a float twin saturate inside a `with` block, so that what follows sees what int8 will give."""

    def clamp_at(bound: float) -> Any:
        return lambda _, __, output: output.clamp(max=bound)

    # Before observers, which are hooks as well.
    handles = [
        module.get_submodule(path).register_forward_hook(clamp_at(bound), prepend=True) for path, (_, bound) in found.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def saturating_ranges(state: Mapping[str, Any], found: Saturations) -> dict[str, Tensor]:
    """Return the scales and zero points with which int8 activations end at their bound; a range that ends below stays.

    All of 0..255 is used, where observers that leave a bit of headroom (reduce_range) would end at twice the bound.

    >>> state = {"a.scale": torch.tensor(0.1), "a.zero_point": torch.tensor(0)}
    >>> round(float(saturating_ranges(state, {"a.1": ("a", 6.0)})["a.scale"]) * 255, 5)
    6.0
    """
    changed: dict[str, Tensor] = {}
    for owner, bound in found.values():
        scale, zero_point = state[f"{owner}.scale"], state[f"{owner}.zero_point"]
        if float(scale) * (_LEVELS - int(zero_point)) <= bound:
            continue
        low = -float(scale) * int(zero_point)
        step = (bound - low) / _LEVELS
        changed[f"{owner}.scale"] = torch.full_like(scale, step)
        changed[f"{owner}.zero_point"] = torch.full_like(zero_point, round(-low / step))
    return changed
