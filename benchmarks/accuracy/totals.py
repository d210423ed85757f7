"""Totals by group and mapper, and whether a peer is ahead of fxmap somewhere."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.accuracy.cases import NAMES
from benchmarks.accuracy.mappers import OURS
from benchmarks.accuracy.run import Row


@dataclass(frozen=True, slots=True)
class Total:
    """What one mapper made of the cases of one group.

    `answered` counts the cases that it did not refuse, `judged` those with a function to compare, `claims` those that it
    calls equal, and `false_claims` the functions and keys that it is certain of and that are wrong.
    """

    cases: int
    answered: int
    keys: int
    right: int
    wrong: int
    missing: int
    judged: int
    equal: int
    claims: int
    false_claims: int
    seconds: float
    longest: float
    peak_mb: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Total":
        """Add up rows."""
        seconds = [row.seconds for row in rows if row.seconds is not None]
        return cls(
            len(rows),
            sum(not row.failure for row in rows),
            sum(row.keys for row in rows),
            sum(row.right for row in rows),
            sum(row.wrong for row in rows),
            sum(row.missing for row in rows),
            sum(row.equal is not None for row in rows),
            sum(bool(row.equal) for row in rows),
            sum(bool(row.claim) for row in rows),
            sum(len(row.false_claims) for row in rows),
            statistics.median(seconds) if seconds else 0.0,
            max(seconds, default=0.0),
            max((row.peak_mb for row in rows), default=0),
        )


def groups_of(rows: Sequence[Row]) -> list[str]:
    """Return the groups, in the order of the rows."""
    return list(dict.fromkeys(row.group for row in rows))


def mappers_of(rows: Sequence[Row]) -> list[str]:
    """Return the mappers, in the order of the rows."""
    return list(dict.fromkeys(row.mapper for row in rows))


def totals(rows: Sequence[Row]) -> dict[tuple[str, str], Total]:
    """Add up the rows of each group and mapper; a mapper that is not installed has no total."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not row.not_run and row.installed:
            found.setdefault((row.group, row.mapper), []).append(row)
    return {name: Total.of(group) for name, group in found.items()}


def ours(group: str) -> str:
    """Return the way of fxmap that a group is about."""
    return f"{OURS}, names alone" if group == NAMES else OURS


def is_ours(mapper: str) -> bool:
    """Whether a mapper is a way of fxmap."""
    return mapper.startswith(OURS)


def ahead(rows: Sequence[Row]) -> list[str]:
    """Say where a peer has more keys right at as many or fewer wrong, or more functions equal."""
    found = totals(rows)
    result = []
    for (group, mapper), total in found.items():
        own = found.get((group, ours(group)))
        if own is None or is_ours(mapper):
            continue
        if total.right > own.right and total.wrong <= own.wrong:
            result.append(f"{mapper} on {group}: {total.right} right, {total.wrong} wrong; {own.right}, {own.wrong}")
        if total.equal > own.equal:
            result.append(f"{mapper} on {group}: {total.equal} functions equal; {own.equal}")
    return result


def false_claims(rows: Sequence[Row]) -> list[Row]:
    """Return the rows in which a mapper is certain of what is not so."""
    return [row for row in rows if row.false_claims]
