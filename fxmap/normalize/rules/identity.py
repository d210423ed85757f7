"""identity(x) = x: dropout in eval mode, nn.Identity, quantization stubs, contiguous, clone; x + 0 = x * 1 = x.

Holds for every input in eval mode. Observers and fake quantizers never reach a graph: the float twin has none.
"""

from fxmap.graph.kinds import Trait, kinds
from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule

# The neutral number of each kind, with which code that sums or multiplies in a loop begins.
_NEUTRAL = {"add": 0, "mul": 1}


def _drop_identity(context: Context, op: Op) -> Outcome:
    return context.ops.bypass(op.name, "input")


def _drop_neutral(context: Context, op: Op) -> Outcome:
    operands = context.ops.operands(op.name)
    if list(operands) != ["input"] or len(operands["input"]) != 1:
        return "it is not of one value and a number"
    if [value for _, value in op.attributes] != [_NEUTRAL[op.kind]]:
        return "the number changes the value"
    return context.ops.bypass(op.name, "input")


DROP_IDENTITY = Rule("drop identities", kinds(Trait.IDENTITY), _drop_identity)


DROP_NEUTRAL = Rule("drop sums with 0 and products with 1", frozenset(_NEUTRAL), _drop_neutral)
