"""The report that `print(mapping)` shows: counts of expressions, findings, and the proof."""

from collections import Counter
from collections.abc import Mapping

from fxmap.expressions.base import Expression, Source
from fxmap.mapping.findings import Findings
from fxmap.mapping.proof import Proof


def describe(expressions: Mapping[str, Expression], findings: Findings, proof: Proof) -> str:
    """Return the report of a mapping.

    >>> from fxmap.mapping.proof import Status
    >>> statuses = {"head.weight": Status.MATCHED}
    >>> print(describe({"head.weight": Source("fc.weight")}, Findings(statuses), Proof.not_asked(statuses)))
    no proof asked for; 1 of 1 destination keys are made from the source: 1 renamed
          1  matched by structure, not proven
    proof: not asked for: run both models with fxmap.verify(src, dst, mapping)
    """
    made = f"{len(expressions)} of {len(findings.statuses)} destination keys are made from the source"
    return "\n".join([f"{proof.verdict}; {made}: {_kinds(expressions)}", *findings.lines(), str(proof)])


def _kinds(expressions: Mapping[str, Expression]) -> str:
    """Count the expressions by kind, as in `3 renamed, 1 fold bias`."""
    renames = sum(isinstance(expression, Source) for expression in expressions.values())
    other = Counter(expression.op for expression in expressions.values() if not isinstance(expression, Source))
    parts = [f"{renames} renamed" if renames else "", *(f"{count} {op.replace('_', ' ')}" for op, count in other.items())]
    return ", ".join(part for part in parts if part) or "none"
