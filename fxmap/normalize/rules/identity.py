"""identity(x) = x: dropout in eval mode, nn.Identity, quantization stubs, contiguous, clone; x + 0 = x * 1 = x.

Holds for every input in eval mode. Observers and fake quantizers never reach a graph: the float twin has none.
"""

from fxmap.graph.kinds import Trait, kinds
from fxmap.graph.opgraph import Op, OpGraph

# Numbers that change nothing: what a sum over branches begins with.
_NEUTRAL = {"add": 0, "mul": 1}


def drop_identities(graph: OpGraph) -> None:
    """Take identities out of a graph."""
    for op in graph.of_kind(kinds(Trait.IDENTITY)):
        graph.bypass(op.name, "input")
    for op in graph.of_kind(set(_NEUTRAL)):
        operands = graph.operands(op.name)
        if list(operands) == ["input"] and len(operands["input"]) == 1 and _NEUTRAL[op.kind] == _number(op):
            graph.bypass(op.name, "input")


def _number(op: Op) -> object:
    values = [value for _, value in op.attributes]
    return values[0] if len(values) == 1 else None
