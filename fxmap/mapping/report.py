"""Say what a mapping is, in words that a person reads."""

from collections import Counter
from collections.abc import Mapping

from fxmap.errors import shorten
from fxmap.expressions.base import Expression, Source
from fxmap.mapping.knowledge import Knowledge
from fxmap.mapping.proof import Proof, Status

# Reasons of single keys that are shown; `knowledge.reasons` has them all.
_MANY = 6


_WORDS = {
    Status.PROVEN: "proven: both models were run, and no other choice gives the same function",
    Status.TIED: "tied: the network is symmetric there, and every choice gives the same function",
    Status.INERT: "inert: the output does not depend on them",
    Status.MATCHED: "matched by structure, not proven",
    Status.GUESSED: "guessed by shapes, names and order",
    Status.CALIBRATED: "from calibration data",
    Status.TAKEN: "ranges of activations, taken over from the int8 source",
    Status.KEPT: "kept: the destination's own (ranges, observers, counters)",
    Status.MISSING: "missing: no source",
    Status.MISMATCHED: "mismatched: the source's counterpart has another shape",
}


def describe(expressions: Mapping[str, Expression], known: Knowledge, proof: Proof | None) -> str:
    """Return the report that `print(mapping)` shows."""
    made = f"{len(expressions)} of {len(known.statuses)} destination keys are made from the source"
    lines = [f"{made}: {_kinds(expressions)}"]
    if any(known.stages):
        lines.append(f"source: {known.stages[0]}; destination: {known.stages[1]}; captured by {known.rungs[1] or 'nothing'}")
    counts = Counter(known.statuses.values())
    lines += [f"  {counts[status]:5d}  {words}" for status, words in _WORDS.items() if counts[status]]
    if known.mismatched:
        lines.append("mismatched:")
        lines += [f"  {m.key} {list(m.dst_shape)}: source {m.source} {list(m.src_shape)}" for m in known.mismatched[:6]]
    missing = [key for key, status in known.statuses.items() if status is Status.MISSING]
    if missing:
        lines.append(f"missing: {shorten(missing, 6)}")
        reasons = [known.reasons[key] for key in missing if key in known.reasons]
        if len(set(reasons)) <= _MANY:
            lines += [f"  because {reason}" for reason in sorted(set(reasons))]
        else:
            lines += [f"  {key}: {known.reasons[key]}" for key in missing[:_MANY] if key in known.reasons]
    if known.unexpected:
        lines.append(f"unexpected (in the source alone): {shorten(known.unexpected, 6)}")
    lines += [f"note: {note}" for note in known.notes]
    if proof is not None:
        lines.append(str(proof))
    return "\n".join(lines)


def _kinds(expressions: Mapping[str, Expression]) -> str:
    renames = sum(isinstance(expression, Source) for expression in expressions.values())
    other = Counter(expression.op for expression in expressions.values() if not isinstance(expression, Source))
    parts = [f"{renames} renamed" if renames else "", *(f"{count} {op.replace('_', ' ')}" for op, count in other.items())]
    return ", ".join(part for part in parts if part) or "none"
