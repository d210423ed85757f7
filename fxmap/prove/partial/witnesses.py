"""Witnesses: which operations the others show to be right, where two models differ.

Where outputs are equal, they show that every choice before them is right. Where they are not, an operation that gives the
source's values with the source's tensors shows nothing by itself: both were chosen by the mapping that is to be judged. What
has no counterpart among its readers proves nothing. See `anchors` and `exchangeable` for what counts.
"""

from collections.abc import Iterable

from fxmap.prove.partial.agreement import Agreement
from fxmap.prove.partial.anchors import anchored
from fxmap.prove.partial.exchangeable import exchangeable


def witnessed(agreement: Agreement, sound: Iterable[str]) -> set[str]:
    """Return those of the sound operations of the destination that what reads them shows to be the right ones."""
    shown = set(sound) & anchored(agreement)
    return shown - exchangeable(agreement, sorted(shown))
