"""The source layer currently paired with every destination layer, and the pairs that were chosen among several."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations

from fxmap.matching.search.layers import RecordedLayer


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """Limits of backtracking, which bound the cost of the search; tuned on `python -m benchmarks pairs`."""

    exchanges: int = 120  # orders of one group that are tried: all 5! of the largest group that is tried in every order
    groups: int = 4  # groups back from a value that is lacking: a wrong choice shows a few layers on, not a network on
    permuted: int = 5  # groups up to this size are tried in every order, larger ones by exchanges of two alone


LIMITS = SearchLimits()


@dataclass
class Group:
    """Destination layers with equal inputs and forms, and the source layers that read the same values.

    Their assignment is a choice; a group is exhausted when all orders were tried and none helped.
    """

    choices: tuple[RecordedLayer, ...]
    members: list[RecordedLayer] = field(default_factory=list)
    exhausted: bool = False


class Choices:
    """The partner of every destination layer, by name, and the groups among which partners may be exchanged."""

    def __init__(self, prior: Mapping[str, str]) -> None:
        self.partners: dict[str, RecordedLayer] = {}
        self.groups: dict[Hashable, Group] = {}
        # Source by destination layer, as alignment by structure paired them.
        self._prior = prior
        # Labels of pairs that an exchange has shown to be right: the next layer with such labels tries them first.
        self._learned: set[tuple[int, int]] = set()

    def choose(self, layer: RecordedLayer, fitting: Sequence[RecordedLayer], others: Sequence[RecordedLayer]) -> None:
        """Choose the partner of a layer among the `fitting` ones; without any, take another if it resembles the layer."""
        taken = {partner.name for partner in self.partners.values()}
        free = [other for other in fitting or others if other.name not in taken]
        free.sort(key=lambda other: self._unlikeness(layer, other))
        if not free or not (fitting or self._resembles(layer, free[0])):
            return
        self.partners[layer.name] = free[0]
        if len(fitting) > 1:
            key = (layer.form, tuple(other.name for other in fitting))
            self.groups.setdefault(key, Group(tuple(fitting))).members.append(layer)

    def _unlikeness(self, layer: RecordedLayer, other: RecordedLayer) -> tuple[bool, bool, int]:
        labels = list(zip(other.likeness, layer.likeness, strict=True))
        return (
            not any(pair in self._learned for pair in labels),
            self._prior.get(layer.name) != other.name,
            -sum(a == b for a, b in labels),
        )

    def _resembles(self, layer: RecordedLayer, other: RecordedLayer) -> bool:
        return self._prior.get(layer.name) == other.name or layer.likeness[0] == other.likeness[0]

    def of(self, group: Group) -> list[RecordedLayer]:
        """Return the partners of a group's members."""
        return [self.partners[layer.name] for layer in group.members]

    def retake(self, group: Group, order: Iterable[RecordedLayer], later: Collection[str]) -> None:
        """Give a group's members other partners, and undo all later choices, which depended on theirs."""
        for name in later:
            self.partners.pop(name, None)
        for other in self.groups.values():
            if other is not group:
                other.members = [layer for layer in other.members if layer.name not in later]
        self.partners.update({layer.name: partner for layer, partner in zip(group.members, order, strict=True)})

    def learn(self, group: Group) -> None:
        """Remember that the current choices of a group are right."""
        for layer in group.members:
            self._learned.update(zip(self.partners[layer.name].likeness, layer.likeness, strict=True))


def other_orders(choices: Sequence[RecordedLayer], before: Sequence[RecordedLayer]) -> Iterator[list[RecordedLayer]]:
    """Yield other ordered selections of as many choices as were picked before: exchanges of two first."""
    picked = list(before)
    rest = [choice for choice in choices if choice not in picked]
    everything = picked + rest
    swaps = []
    for i in range(len(picked)):
        for j in range(i + 1, len(everything)):
            order = everything.copy()
            order[i], order[j] = order[j], order[i]
            swaps.append(order[: len(picked)])
    yield from swaps[: LIMITS.exchanges]
    others = permutations(everything, len(picked)) if len(everything) <= LIMITS.permuted else iter(())
    for order in islice((list(order) for order in others), LIMITS.exchanges):
        if order != picked and order not in swaps:
            yield order
