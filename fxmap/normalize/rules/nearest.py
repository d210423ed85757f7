"""Nearest upsampling by a whole factor repeats elements: it is data movement, as repeat_interleave and expand are.

Holds for every input. By another factor, which elements are taken depends on the size, and the operation stays.
"""

from torch import fx

from fxmap.graph.arguments import bind
from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule

_KINDS = frozenset({"interpolate", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"})


def _pass_nearest(context: Context, op: Op) -> Outcome:
    """Read through upsampling that repeats every element as often."""
    node = context.nodes.get(op.name)
    if node is None or list(context.ops.operands(op.name)) != ["input"]:
        return "by how much it resizes is not known"
    arguments = bind(node)
    if op.kind == "interpolate" and (arguments.get("mode", "nearest") != "nearest" or arguments.get("align_corners")):
        return "it resizes in another way"
    return context.ops.bypass(op.name, "input") if _repeats(node) else "its factor is not whole"


def _repeats(node: fx.Node) -> bool:
    arguments = bind(node)
    names = ("scale_factor", "scale_factors", "scales", "scales_h", "scales_w", "scales_d")
    factors = [arguments[name] for name in names if arguments.get(name) is not None]
    each = [part for factor in factors for part in (factor if isinstance(factor, list | tuple) else (factor,))]
    return bool(each) and all(isinstance(part, int | float) and part >= 1 and float(part).is_integer() for part in each)


PASS_NEAREST = Rule("read through repeated elements", _KINDS, _pass_nearest)
