"""Effort: what a search has cost so far, counted and not timed, so that it ends at the same place on every machine.

>>> effort = Effort(limit=1.0)
>>> effort.spend(runs=100, numbers=1_000_000)
>>> effort.spend(runs=100_000)
Traceback (most recent call last):
fxmap.matching.solve.runs.effort.OutOfEffort: nothing was found in the effort that a network of this size is given
"""

# What one run of an operation costs by itself, and each number that it makes: about the seconds that they take.
_RUN, _NUMBER = 2e-4, 1.5e-9


class OutOfEffort(Exception):
    """A search has cost more than it may."""


class Effort:
    """The cost of a search so far, in units of about a second, and its limit.

    As long as it goes `straight` on, it may spend the `reserve` as well, which is otherwise kept for other searches.
    """

    def __init__(self, limit: float, reserve: float = 0.0) -> None:
        self.limit, self.reserve, self.spent, self.straight = limit, reserve, 0.0, True

    def spend(self, *, runs: float = 0, numbers: float = 0) -> None:
        """Count some operations, and the numbers that they make.

        Raises:
            OutOfEffort: the limit is passed.
        """
        self.spent += runs * _RUN + numbers * _NUMBER
        if self.spent > self.limit + self.straight * self.reserve:
            raise OutOfEffort("nothing was found in the effort that a network of this size is given")

    def share(self, part: float) -> "Effort":
        """Return an effort of its own that may spend a part of what is left; all of it as long as it goes straight on."""
        left = max(self.limit - self.spent, 0.0)
        return Effort(part * left, (1 - part) * left)
