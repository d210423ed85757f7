"""Find the activation ranges that an int8 destination takes over from an int8 source: see `derive.ranges`."""

from fxmap.errors import shorten
from fxmap.expressions.base import Source
from fxmap.matching.derive.derivation import Derivation
from fxmap.matching.derive.places import Quantizer
from fxmap.matching.derive.ranges import Taken, take_over
from fxmap.matching.plan import Plan


def source_ranges(plan: Plan) -> Taken | str:
    """Find the activation ranges of an int8 source for an int8 destination; or return why they do not correspond."""
    src, dst, found = plan.src, plan.dst, plan.derivation
    needed, known = set(dst.twin.ranges), {number for site in dst.twin.sites for number in site.numbers()}
    if not needed or not src.twin.sites:
        return Taken()
    if needed != known:
        return f"{shorten(sorted(number.name for number in needed ^ known))}: it is not known where this is read"
    ours, theirs = (
        Quantizer(side.twin.sites, side.main, side.model.state_dict(), side.prefix, side.twin.stage.runs_int8)
        for side in (src, dst)
    )
    ops = dst.main.ops
    # If the source does not provide an operation's tensors, the source's range does not fit the operation's result.
    made = (
        pair
        for pair in plan.alignment.pairs
        if all(t.key in found.expressions or t.key in ops.composed for t in ops.tensors(pair.dst).values())
    )
    return take_over(ours, theirs, made, _owners(found))


def _owners(found: Derivation) -> dict[str, str]:
    """Map destination modules to source modules: those whose tensors all come from one module, under the same names."""
    owners: dict[str, set[str]] = {}
    for path, expression in found.expressions.items():
        owner, _, name = path.rpartition(".")
        source, _, other = expression.key.rpartition(".") if isinstance(expression, Source) else ("", "", "")
        owners.setdefault(owner, set()).add(source if name == other else "")
    return {owner: next(iter(sources)) for owner, sources in owners.items() if len(sources) == 1}
