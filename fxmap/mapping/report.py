"""The report that `print(mapping)` shows: counts of expressions, findings, and the proof."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from fxmap.expressions.base import Expression, Source
from fxmap.mapping.findings import Findings
from fxmap.mapping.next_steps import Step, next_steps
from fxmap.mapping.patterns import Pattern, patterns
from fxmap.mapping.proof import Proof

SAME_NAME, RENAMED = "same name", "renamed"
# Lines of patterns that fit one screen beside the rest of a report.
_SCREEN = 24


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
        found = list(_by_module(patterns(changed), Counter(key.rpartition(".")[0] for key in findings.statuses)))
        lines = [line for text, _ in found[:_SCREEN] for line in _on_lines(text)]
        if len(found) > _SCREEN:
            rest = sum(count for _, count in found[_SCREEN:])
            lines.append(f"  and {rest} more keys, which --all and summary(all_keys=True) list")
    steps = [f"next: {step(one)}" for one in next_steps(expressions, findings, proof, loaded)]
    proven = str(proof).rstrip()
    return "\n".join([_head(expressions, findings, proof), *lines, *findings.lines(), proven, *steps])


# Wider lines become two, of which the second begins with the arrow.
_WIDE = 80


def _on_lines(text: str) -> list[str]:
    """Return the lines of a pattern: one, or two where it is wide.

    >>> _on_lines("a.weight -> b.weight"), len(_on_lines(f"{'long.' * 12}weight -> net.{'long.' * 12}weight"))
    (['  a.weight -> b.weight'], 2)
    """
    if len(text) + 2 <= _WIDE:
        return [f"  {text}"]
    made, _, key = text.rpartition(" -> ")
    return [f"  {made}", f"    -> {key}"]


def _by_module(found: Iterable[Pattern], sizes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield a line for the tensors of one module that are only renamed with it, and how many keys it stands for.

    `sizes` are the numbers of tensors of the destination's modules: where all of several are meant, they are `*`.
    """
    groups: dict[tuple[str, ...], list[Pattern]] = {}
    for pattern in found:
        ours, theirs = pattern.source.rpartition("."), pattern.destination.rpartition(".")
        where = "; ".join(map(str, pattern.indices))
        together = isinstance(pattern.expression, Source) and ours[2] == theirs[2]
        groups.setdefault((ours[0], theirs[0], where) if together else (str(pattern),), []).append(pattern)
    for group in groups.values():
        first, count = group[0], sum(len(pattern.keys) for pattern in group)
        if len(group) == 1:
            yield str(first), count
            continue
        whole = len(group) > 2 and all(sizes[key.rpartition(".")[0]] == len(group) for key in first.keys)
        names = "*" if whole else f"{{{','.join(pattern.source.rpartition('.')[2] for pattern in group)}}}"
        where = "; ".join(map(str, first.indices))
        made = " -> ".join(f"{text.rpartition('.')[0]}.{names}" for text in (first.source, first.destination))
        yield f"{made}, {where}" if where else made, count


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
