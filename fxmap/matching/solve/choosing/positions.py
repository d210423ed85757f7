"""Positions of a search: what is known at some weights, held to be gone back to as far as memory goes."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from fxmap.matching.solve.choosing.fitting import Choice
from fxmap.matching.solve.unknown.frontier import Frontier

# So many numbers of positions that were met are held, to be gone back to.
HELD = 20_000_000


@dataclass(frozen=True)
class Bounds:
    """How many choices may have numbers that are not the source's, and whether every value must be one of the source's.

    `unusual` says that numbers may be a constant times the source's (queries may be scaled, and keys the other way), and
    axes in another order.
    """

    unrecognised: int
    strict: bool = True
    unusual: bool = False


class Steps:
    """The choices at one position, made as they are asked for, and kept for the next search."""

    def __init__(self, made: Iterator[Choice | None]) -> None:
        self._made, self._known = made, list[Choice | None]()

    def __iter__(self) -> Iterator[Choice | None]:
        for index in count():
            if index == len(self._known):
                try:
                    self._known.append(next(self._made))
                except StopIteration:
                    return
            yield self._known[index]


@dataclass(eq=False)
class Position:
    """What is known at some weights: the frontier, whether it is sound, its choices, and bounds in which these failed."""

    frontier: Frontier | None = None
    sound: bool | None = None
    steps: Steps | None = None
    failed: list[Bounds] = field(default_factory=list)

    def size(self) -> int:
        """Return how many numbers its frontier holds by itself."""
        return 0 if self.frontier is None else self.frontier.fresh

    def hopeless(self, bounds: Bounds) -> bool:
        """Whether a search within no narrower bounds has failed here."""
        return any(
            one.unrecognised >= bounds.unrecognised and one.strict <= bounds.strict and one.unusual >= bounds.unusual
            for one in self.failed
        )


class Holding:
    """The positions whose values are held; where all would take too much memory, those that were met first are forgotten."""

    def __init__(self) -> None:
        self._positions: deque[Position] = deque()

    def size(self) -> int:
        """Return how many numbers the positions hold."""
        return sum(map(Position.size, self._positions))

    def add(self, position: Position) -> None:
        """Hold a position that has a frontier; it is the last one to be forgotten, also where it was held before."""
        if position in self._positions:
            self._positions.remove(position)
        self._positions.append(position)
        while len(self._positions) > 1 and self.size() > HELD:
            forgotten = self._positions.popleft()
            forgotten.frontier = forgotten.steps = None
