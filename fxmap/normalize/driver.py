"""The rewrite driver: applies a phase of rules, from a worklist of operations, until none of them applies any more.

The first turn asks every rule, in the order of the phase, at every operation of its kinds, in the order in which these were
added. After that only those operations are asked again that stand near a change, until there are none: a fixpoint of the
phase. Applications end since each takes an operation out or gives it another kind for good; a rule that does not keep to
that is an internal error.

Cost: linear in the operations, and in the neighbours of those that change.
"""

from collections.abc import Container, Iterable, Sequence

from fxmap.errors import InternalError
from fxmap.graph.kinds import Trait, kinds
from fxmap.graph.opgraph import OpGraph
from fxmap.normalize.rule import Context, Rewrites, Rule

# Kinds that patterns reach across: they may stand between a layer and the norm or the bias behind it.
_PASSED = kinds(Trait.MOVEMENT | Trait.IDENTITY)


# How often a rule may be applied for each operation that there is when it is first asked: it may take out as many as there
# are, and give each of them another kind before.
_APPLICATIONS = 2


def rewrite(context: Context, phase: Sequence[Rule], rewrites: Rewrites) -> None:
    """Apply the rules of a phase to a fixpoint, and record every application and refusal in `rewrites`.

    Raises:
        InternalError: a rule is applied without end.
    """
    ops = context.ops
    asked_at = {kind: [rule for rule in phase if kind in rule.kinds] for rule in phase for kind in rule.kinds}
    budget = {rule.name: _APPLICATIONS * len(ops.network) for rule in phase}
    waiting: dict[str, dict[str, None]] = {rule.name: {} for rule in phase}

    def ask(rule: Rule, names: Iterable[str]) -> None:
        for name in names:
            if name not in ops.network or (op := ops.op(name)).kind not in rule.kinds:
                continue
            outcome = rule.apply(context, op)
            rewrites.note(rule, op, outcome)
            if isinstance(outcome, str):
                continue
            budget[rule.name] -= 1
            if budget[rule.name] < 0:
                raise InternalError(f"the rule {rule.name!r} is applied without end, at {op} (node {name}) among others")
            for near in _near(ops, outcome):
                for other in asked_at.get(ops.op(near).kind, ()):
                    waiting[other.name][near] = None

    for _, op in ops.network.nodes(data="op"):
        for rule in asked_at.get(op.kind, ()):
            waiting[rule.name][op.name] = None
    while any(waiting.values()):
        for rule in phase:
            names, waiting[rule.name] = waiting[rule.name], {}
            ask(rule, _consumers_first(ops, names) if rule.backwards and names else names)


def _consumers_first(ops: OpGraph, names: Container[str]) -> list[str]:
    return [op.name for op in reversed(list(ops.ops())) if op.name in names]


def _near(ops: OpGraph, names: Iterable[str]) -> dict[str, None]:
    """Return those operations that still exist, with their operands and consumers, also across data movement."""
    there = [name for name in names if name in ops.network]
    found = dict.fromkeys(there)
    for name in there:
        found.update(dict.fromkeys(ops.network.predecessors(name)))
    queue, seen = there, set(there)
    while queue:
        for user in ops.network.successors(queue.pop()):
            found[user] = None
            if user not in seen and ops.op(user).kind in _PASSED:
                seen.add(user)
                queue.append(user)
    return found
