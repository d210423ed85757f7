"""The report that `print(mapping)` shows: counts of expressions, findings, and the proof."""

from collections import Counter
from collections.abc import Callable, Mapping

from fxmap.expressions.base import Expression, Source
from fxmap.mapping.findings import Findings
from fxmap.mapping.next_steps import Step, next_steps
from fxmap.mapping.outline import outline
from fxmap.mapping.proof import Proof

SAME_NAME, RENAMED = "same name", "renamed"


def describe(expressions: Mapping[str, Expression], findings: Findings, proof: Proof) -> str:
    """Return the report of a mapping.

    >>> from fxmap.mapping.proof import Status
    >>> statuses = {"head.weight": Status.MATCHED}
    >>> print(describe({"head.weight": Source("fc.weight")}, Findings(statuses), Proof.not_asked(statuses)))
    no proof asked for; 1 of 1 destination keys are made from the source: 1 renamed
          1  matched by structure, not proven
    proof: not asked for: run both models with fxmap.verify(src, dst, mapping)
    """
    return "\n".join([_head(expressions, findings, proof), *findings.lines(), str(proof)])


def summarise(
    expressions: Mapping[str, Expression],
    findings: Findings,
    proof: Proof,
    all_keys: bool = False,
    step: Callable[[Step], str] = str,
    loaded: bool = False,
) -> str:
    """Return the verdict, the mapping itself, generalised over layers, what is open, the proof, and the next step.

    Args:
        expressions, findings, proof: the parts of a mapping.
        step: how a next step is said: as Python, or as a command.
        all_keys: one line for every key, instead of a screen of patterns of those that are not of the same name.
        loaded: whether the mapping has filled its destination, so that this is no next step.

    >>> from fxmap.mapping.proof import Status
    >>> made = {f"layers.{i}.weight": Source(f"h.{i}.weight") for i in range(3)}
    >>> statuses = dict.fromkeys(made, Status.PROVEN)
    >>> print(summarise(made, Findings(statuses), Proof(ok=True, statuses=statuses)))
    proven; 3 of 3 destination keys are made from the source: 3 renamed
      h.{i}.weight -> layers.{i}.weight, i = 0..2
          3  proven: both models were run, and no other choice gives the same function
    proof: nothing could be run:
    next: load a checkpoint of the source: fxmap.load(dst, "checkpoint.pth", src=src)
    """
    if all_keys:
        lines = [f"  {expression} -> {key}  ({findings.statuses[key]})" for key, expression in expressions.items()]
    else:
        changed = {key: part for key, part in expressions.items() if kind_of(key, part) != SAME_NAME}
        lines = outline(changed, findings.statuses)
    steps = [f"next: {step(one)}" for one in next_steps(expressions, findings, proof, loaded)]
    proven = str(proof).rstrip()
    return "\n".join([_head(expressions, findings, proof), *lines, *findings.lines(), proven, *steps])


def kind_of(key: str, expression: Expression) -> str:
    """Return how a key is made, in a word: of the same name, renamed, or by what operation.

    >>> kind_of("fc.weight", Source("fc.weight")), kind_of("fc.weight", Source("head.weight"))
    ('same name', 'renamed')
    """
    if isinstance(expression, Source):
        return SAME_NAME if expression.key == key else RENAMED
    return expression.op.replace("_", " ")


def _head(expressions: Mapping[str, Expression], findings: Findings, proof: Proof) -> str:
    made = f"{len(expressions)} of {len(findings.statuses)} destination keys are made from the source"
    return f"{proof.verdict}; {made}: {_kinds(expressions)}"


def _kinds(expressions: Mapping[str, Expression]) -> str:
    """Count the expressions by kind, as in `3 renamed, 1 fold bias`."""
    counts = Counter(kind_of(key, expression) for key, expression in expressions.items())
    first = {SAME_NAME: "of the same name", RENAMED: "renamed"}
    ordered = sorted(counts, key=lambda kind: list(first).index(kind) if kind in first else len(first))
    return ", ".join(f"{counts[kind]} {first.get(kind, kind)}" for kind in ordered) or "none"
