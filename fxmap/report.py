"""Say what a mapping is, in words that a person reads."""

from collections import Counter

from fxmap.errors import shorten
from fxmap.expressions import Source
from fxmap.mapping import KeyMapping, Status

_WORDS = {
    Status.PROVEN: "proven: both models were run, and no other choice gives the same function",
    Status.TIED: "tied: the network is symmetric there, and every choice gives the same function",
    Status.INERT: "inert: the output does not depend on them",
    Status.MATCHED: "matched by structure, not proven",
    Status.GUESSED: "guessed by name and shape",
    Status.CALIBRATED: "from calibration data",
    Status.KEPT: "kept: the destination's own (ranges, observers, counters)",
    Status.MISSING: "missing: no source",
    Status.MISMATCHED: "mismatched: the source's counterpart has another shape",
}


def describe(mapping: KeyMapping) -> str:
    """Return the report that `print(mapping)` shows."""
    known = mapping.knowledge
    total = len(known.statuses)
    renames = len(mapping.renames)
    lines = [f"{len(mapping)} of {total} destination keys are made from the source: {_kinds(mapping, renames)}"]
    if any(known.stages):
        lines.append(f"source: {known.stages[0]}; destination: {known.stages[1]}; captured by {known.rungs[1] or 'nothing'}")
    counts = Counter(known.statuses.values())
    lines += [f"  {counts[status]:5d}  {words}" for status, words in _WORDS.items() if counts[status]]
    if mapping.mismatched:
        lines.append("mismatched:")
        lines += [f"  {m.key} {list(m.dst_shape)}: source {m.source} {list(m.src_shape)}" for m in mapping.mismatched[:6]]
    if mapping.missing:
        lines.append(f"missing: {shorten(mapping.missing, 6)}")
        reasons = {known.reasons[key] for key in mapping.missing if key in known.reasons}
        lines += [f"  because {reason}" for reason in sorted(reasons)]
    if mapping.unexpected:
        lines.append(f"unexpected (in the source alone): {shorten(mapping.unexpected, 6)}")
    lines += [f"note: {note}" for note in known.notes]
    if mapping.proof is not None:
        lines.append(str(mapping.proof))
    return "\n".join(lines)


def _kinds(mapping: KeyMapping, renames: int) -> str:
    other = Counter(expression.op for expression in mapping.values() if not isinstance(expression, Source))
    parts = [f"{renames} renamed" if renames else "", *(f"{count} {op.replace('_', ' ')}" for op, count in other.items())]
    return ", ".join(part for part in parts if part) or "none"
