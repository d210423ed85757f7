"""Attacks and equal pairs run in both ways: with weights in memory, and with weights that are drawn when they are read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from benchmarks.proof.attacks.measure import Row
from fxmap.run import recipe, streamed

# Numbers in a block of a weight, so that those of the attacks, which are small, have several.
_BLOCK = 64


@contextmanager
def small_weights_too() -> Iterator[None]:
    """Inside its `with` block, weights of any size are drawn when they are read, not large ones alone."""
    with mock.patch.object(streamed, "LEAST", 1), mock.patch.object(recipe, "BLOCK", _BLOCK):
        yield


def other_verdicts(kept: Sequence[Row], drawn: Sequence[Row]) -> list[str]:
    """Name the cases in which the two ways differ: in what the proof says, or in its false labels.

    >>> other_verdicts([Row("pools", "ceil", False)], [Row("pools", "ceil", False, ok=True, report="ok")])
    ['pools, ceil: not proven in memory, proven when drawn: ok']
    """
    found = []
    for one, other in zip(kept, drawn, strict=True):
        if (one.ok, bool(one.false_keys)) != (other.ok, bool(other.false_keys)):
            words = ["proven" if row.ok else "not proven" for row in (one, other)]
            why = other.cause or one.cause or other.report.splitlines()[0]
            found.append(f"{one.kind}, {one.name}: {words[0]} in memory, {words[1]} when drawn: {why}")
    return found
