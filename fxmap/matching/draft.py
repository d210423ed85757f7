"""Draft: convert a plan to a mapping between the keys of the two state dicts, before anything is proven."""

from fxmap.expressions.base import Expression
from fxmap.mapping.findings import Findings, Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.matching.derive.ranges import Taken
from fxmap.matching.derive.saturation import saturations
from fxmap.matching.notes import different_networks, float_inside, notes_on
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side
from fxmap.matching.source_ranges import source_ranges
from fxmap.matching.statuses import findings
from fxmap.model.tensors import is_whole


def mapping_of(plan: Plan) -> KeyMapping:
    """Convert a plan to a mapping between keys, with the status of each."""
    src, dst = plan.src, plan.dst
    if plan.different:
        return _nothing(plan)
    found = list(findings(plan))
    ranges = source_ranges(plan)
    taken, untaken = (Taken(), ranges) if isinstance(ranges, str) else (ranges, "")
    expressions = {one.key: one.expression for one in found if one.expression is not None} | taken.keys
    blocked = float_inside(dst)
    knowledge = Findings(
        statuses={one.key: one.status for one in found} | dict.fromkeys(taken.keys, Status.TAKEN),
        unexpected=_unexpected(src, expressions, {key for one in found for key in one.replaced}),
        mismatched=tuple(one.mismatch for one in found if one.mismatch is not None),
        unread=tuple(one.key for one in found if one.unread),
        ranges=tuple(f"{dst.prefix}{number}" for number in dst.twin.ranges if number not in taken.idle),
        reasons={one.key: one.reason for one in found if one.reason},
        notes=tuple(notes_on(plan, taken, untaken, blocked)),
        stages=(src.twin.stage.name, dst.twin.stage.name),
        rungs=(src.main.rung, dst.main.rung),
        saturating=saturations(src.main.ops, dst.main.ops, plan.alignment.pairs, dst.twin.module, dst.twin.converted),
        literals=taken.literals,
        blocked=blocked,
    )
    return KeyMapping(expressions, knowledge)


def _unexpected(src: Side, expressions: dict[str, Expression], replaced: set[str]) -> tuple[str, ...]:
    """Return the source keys that no expression reads, and that have no counterpart of another shape either."""
    used = {source for expression in expressions.values() for source in expression.sources()} | replaced
    # A counter counts as used together with its norm, whether that was copied or folded.
    owners = {key.rpartition(".")[0] for key in used}
    result = []
    for key, store in src.twin.stores.items():
        name = src.prefix + key
        if store.part and src.prefix + store.weight in used:
            continue
        counter = is_whole(src.main.tensors[store.weight])
        if name not in used and not (counter and name.rpartition(".")[0] in owners):
            result.append(name)
    return tuple(result)


def _nothing(plan: Plan) -> KeyMapping:
    """Return an empty mapping, for two models that are different networks."""
    src, dst = plan.src, plan.dst
    text = different_networks(plan)
    statuses = {
        dst.prefix + key: Status.MISSING if key in dst.twin.stores else Status.KEPT for key in dst.model.state_dict()
    }
    knowledge = Findings(
        statuses=statuses,
        unexpected=tuple(src.prefix + key for key in src.twin.stores),
        notes=(Note(text, NoteKind.DIFFERENT_NETWORKS),),
        stages=(src.twin.stage.name, dst.twin.stage.name),
        rungs=(src.main.rung, dst.main.rung),
        different=text,
    )
    return KeyMapping({}, knowledge)
