"""Combining: parts of a mapping by patterns of keys, and two mappings as one; what results is proven only by a new run.

A key that both mappings make must be made in the same way: nothing is overridden without a word. What a run has found wrong
stays with the result until `fxmap.verify` has looked again; what a run has proven does not.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Self

from fxmap.errors import MappingError, shorten
from fxmap.expressions.base import Expression
from fxmap.mapping.findings import Findings
from fxmap.mapping.proof import Proof, Status, StatusName
from fxmap.model.arguments import refuse_other_kind

# Of two statuses of a key that is not made, the one that asks for more.
_ASKING = (Status.MISMATCHED, Status.MISSING)


@dataclass(frozen=True)
class Whole:
    """The parts of a mapping that are combined: its expressions, the findings beside them, and the proof."""

    expressions: Mapping[str, Expression]
    findings: Findings
    proof: Proof


class Combinable(Mapping[str, Expression], ABC):
    """A mapping from destination key to expression of which parts can be taken, and which can be merged with another."""

    knowledge: Findings
    proof: Proof

    @abstractmethod
    def _of(self, whole: Whole) -> Self:
        """Return a mapping of this kind with other parts."""

    def _whole(self) -> Whole:
        return Whole(dict(self), self.knowledge, self.proof)

    def keys_with(self, *statuses: Status | StatusName) -> list[str]:
        """Return the destination keys that have one of the statuses, in the destination's order.

        >>> from fxmap.mapping.key_mapping import KeyMapping
        >>> KeyMapping({"fc.weight": "head.weight"}).keys_with("matched", "guessed")
        ['fc.weight']
        """
        for status in statuses:
            refuse_other_kind("a status", status, str, "a member of fxmap.Status, or its name")
        wanted = {Status(status) for status in statuses}
        return [key for key, status in self.knowledge.statuses.items() if status in wanted]

    def select(self, *patterns: str) -> Self:
        """Return the part of the mapping whose destination keys match a pattern, with `*`, `?` and `[...]`.

        What a run proved of the whole is `claimed` of the part, until `fxmap.verify` has proven that; what a run refuted
        stays refuted until then.

        Raises:
            MappingError: a pattern matches no key of the destination.

        >>> from fxmap.mapping.key_mapping import KeyMapping
        >>> mapping = KeyMapping({"backbone.weight": "net.weight", "head.weight": "fc.weight"})
        >>> list(mapping.select("backbone.*"))
        ['backbone.weight']
        """
        return self._of(selected(self._whole(), patterns))

    def __or__(self, other: object) -> Self:
        """Return the mapping that makes the keys of both; a key that both make must be made in the same way.

        A key that one makes and the other lacks is made. The result is not proven: what was proven is `claimed`, and what a
        run refuted stays refuted, until `fxmap.verify` has run the whole.

        Raises:
            MappingError: a key is made in two ways, or the two are of different models.

        >>> from fxmap.mapping.key_mapping import KeyMapping
        >>> whole = KeyMapping({"backbone.weight": "net.weight"}) | KeyMapping({"head.weight": "fc.weight"})
        >>> whole.renames
        {'backbone.weight': 'net.weight', 'head.weight': 'fc.weight'}
        """
        if not isinstance(other, Combinable):
            return NotImplemented
        return self._of(merged(self._whole(), other._whole()))

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)


def selected(whole: Whole, patterns: Iterable[str]) -> Whole:
    """Return the part of a mapping whose destination keys match one of the patterns, with `*`, `?` and `[...]`.

    Raises:
        MappingError: a pattern matches no key; the message names the closest.
    """
    known, keys = whole.findings, [*whole.findings.statuses]
    chosen: set[str] = set()
    for pattern in patterns:
        refuse_other_kind("a pattern", pattern, str, "a key, or has * for any text")
        found = [key for key in keys if fnmatchcase(key, pattern)]
        if not found:
            close = get_close_matches(pattern.rstrip("*."), keys, n=3, cutoff=0.0)
            raise MappingError(
                f"{pattern!r} matches none of the {len(keys)} destination keys; the closest are {', '.join(close)}. "
                "A pattern is a key, or has * for any text, as in 'backbone.*'"
            )
        chosen.update(found)
    left_out = [key for key in keys if key not in chosen]
    expressions = {key: part for key, part in whole.expressions.items() if key in chosen}
    read = _read(expressions)
    freed = [key for key in dict.fromkeys(_in_order(whole.expressions)) if key not in read]
    findings = replace(
        known,
        statuses={key: known.statuses[key].unverified for key in keys if key in chosen},
        unexpected=tuple(dict.fromkeys([*known.unexpected, *freed])),
        mismatched=tuple(one for one in known.mismatched if one.key in chosen),
        unread=tuple(key for key in known.unread if key in chosen),
        ranges=tuple(key for key in known.ranges if key not in left_out),
        reasons={key: text for key, text in known.reasons.items() if key not in left_out},
        src_shapes={key: shape for key, shape in known.src_shapes.items() if key in read},
        notes=(),
    )
    return Whole(expressions, findings, _proof(findings.statuses, "a part of a mapping", whole.proof))


def merged(one: Whole, other: Whole) -> Whole:
    """Return the mapping that makes what either makes.

    Raises:
        MappingError: both make a key, in different ways, or they speak of different sources; the message names the keys.
    """
    conflicts = [key for key, part in other.expressions.items() if one.expressions.get(key, part) != part]
    if conflicts:
        key = conflicts[0]
        raise MappingError(
            f"{shorten(conflicts)}: made in two ways, {key} as {one.expressions[key]} and as {other.expressions[key]}. "
            "Take one of them out by select(...), or say which is meant: KeyMapping(dict(a) | dict(b)) takes those of b"
        )
    expressions = {**one.expressions, **other.expressions}
    findings = _findings(one, other, expressions)
    return Whole(expressions, findings, _proof(findings.statuses, "merged of two mappings", one.proof, other.proof))


def _findings(one: Whole, other: Whole, expressions: Mapping[str, Expression]) -> Findings:
    ours, theirs = one.findings, other.findings
    keys, read = dict.fromkeys([*ours.statuses, *theirs.statuses]), _read(expressions)
    statuses = {key: _status(key, one, other) for key in keys}
    open_keys = [key for key, status in statuses.items() if status is Status.MISMATCHED]
    return Findings(
        statuses=statuses,
        unexpected=tuple(key for key in dict.fromkeys([*ours.unexpected, *theirs.unexpected]) if key not in read),
        mismatched=tuple(m for m in dict.fromkeys([*ours.mismatched, *theirs.mismatched]) if m.key in open_keys),
        unread=tuple(key for key in dict.fromkeys([*ours.unread, *theirs.unread]) if _agreed_unread(key, ours, theirs)),
        ranges=tuple(dict.fromkeys([*ours.ranges, *theirs.ranges])),
        reasons={key: text for key, text in (theirs.reasons | ours.reasons).items() if key not in expressions},
        notes=tuple(dict.fromkeys([*ours.notes, *theirs.notes])),
        stages=ours.stages if ours.stages == theirs.stages else ("", ""),
        rungs=ours.rungs if ours.rungs == theirs.rungs else ("", ""),
        saturating=_union("saturating", ours.saturating, theirs.saturating),
        literals=_union("literals", ours.literals, theirs.literals),
        left={key: text for key, text in (theirs.left | ours.left).items() if key not in read},
        src_shapes=_union("shapes of the source", ours.src_shapes, theirs.src_shapes),
        different=ours.different and theirs.different,
        blocked=ours.blocked or theirs.blocked,
        versions=theirs.versions | ours.versions,
    )


def _status(key: str, one: Whole, other: Whole) -> Status:
    """Return the status of a key: of the mapping that makes it, else the one that asks for more; proven is a claim."""
    known = [side.findings.statuses[key].unverified for side in (one, other) if key in side.findings.statuses]
    makers = [side.findings.statuses[key].unverified for side in (one, other) if key in side.expressions]
    if makers:
        return min(makers, key=list(Status).index)
    return next((status for status in _ASKING if status in known), known[0])


def _agreed_unread(key: str, *known: Findings) -> bool:
    return all(key in one.unread for one in known if key in one.statuses)


def _union(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    both = [key for key, value in ours.items() if theirs.get(key, value) != value]
    if both:
        raise MappingError(f"{shorten(both)}: the two mappings have different {what}: they are not of one pair of models")
    return {**ours, **theirs}


def _read(expressions: Mapping[str, Expression]) -> set[str]:
    return set(_in_order(expressions))


def _in_order(expressions: Mapping[str, Expression]) -> list[str]:
    return [key for part in expressions.values() for key in part.sources()]


def _proof(statuses: dict[str, Status], what: str, *proofs: Proof) -> Proof:
    """Return the first proof that found a difference, which stands until a new run; else one that nobody asked for."""
    found = next((one for one in proofs if one.refuted), next((one for one in proofs if one.differs), None))
    if found is not None:
        return replace(found, ok=False, statuses=statuses)
    return Proof.not_asked(statuses, f"{what}: run both models with fxmap.verify(src, dst, mapping)")
