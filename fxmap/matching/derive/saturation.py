"""ReLU6 in the source, ReLU in the destination: an int8 range can clamp where the activation no longer does.

Idea: an int8 activation saturates at the largest value of its range. If that is 6, saturation acts as ReLU6: relu(x) in
integers 0..255 of scale 6/255 is min(max(x, 0), 6). The alignment gives these activations: an operation that clamps to 0..b,
matched with a relu. The range to set is that of the int8 module that the relu is a part of, or of the one before it that
nothing else reads.

These ranges have no headroom. Kernels that add pairs of products in 16 bits can overflow on integers above 127, which is why
torch's default observers leave the upper half unused; the ranges of other activations keep this headroom.

Cost: linear in the pairs. Source: clamping by saturation is usual in integer inference, B. Jacob et al., CVPR 2018, section
2.4, doi:10.1109/CVPR.2018.00286.
"""

from collections.abc import Iterable

from torch import nn

from fxmap.graph.opgraph import Op, OpGraph
from fxmap.matching.align.alignment import Pair

# The attributes with the lower and upper bound of a clamping operation, and their defaults.
_BOUNDS = {"hardtanh": (("min_val", -1.0), ("max_val", 1.0)), "clamp": (("min", None), ("max", None))}


def clipped(op: Op, low: float, high: float) -> tuple[float, float] | None:
    """Return the range of an operation's results where its input is in a range; None unless it clips, or chooses, alone.

    >>> clipped(Op("a", "relu"), -3.0, 3.0), clipped(Op("a", "max_pool"), -3.0, 3.0), clipped(Op("a", "mean"), -3.0, 3.0)
    ((0.0, 3.0), (-3.0, 3.0), None)
    """
    if op.kind in ("max_pool", "adaptive_max_pool"):
        return low, high
    if op.kind == "relu":
        return max(low, 0.0), max(high, 0.0)
    if op.kind not in _BOUNDS:
        return None
    least, most = (op.attribute(name, default) for name, default in _BOUNDS[op.kind])
    for bound, choose in ((least, max), (most, min)):
        if isinstance(bound, int | float):
            low, high = choose(low, float(bound)), choose(high, float(bound))
    return low, high


def upper_bound(op: Op) -> float | None:
    """Return the `b` of an operation that clamps to 0..b; None for any other.

    >>> upper_bound(Op("a", "hardtanh", (("max_val", 6.0), ("min_val", 0.0))))
    6.0
    """
    bounds = _BOUNDS.get(op.kind)
    if bounds is None:
        return None
    low, high = (op.attribute(name, default) for name, default in bounds)
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
    int8_modules, found = set(converted), {}
    relus = {path for path, part in module.named_modules() if isinstance(part, nn.ReLU)} if int8_modules else set()
    for pair in pairs if relus else ():
        bound, relu = upper_bound(src.op(pair.src)), dst.op(pair.dst)
        if bound is None or relu.kind != "relu" or relu.module not in relus:
            continue
        owner = _range_owner(dst, relu, int8_modules)
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
