"""How much an audit may run, by how many numbers the models have."""

from dataclasses import dataclass

from fxmap.prove.inputs.shapes import EXTENTS

_TINY, _SMALL, _HUGE = 50_000, 300_000, 500_000_000


@dataclass(frozen=True, slots=True)
class Plenty:
    """How many values of each option are combined, and how many pairs of options are run with no other one.

    `runs` is how many runs of combinations there are, and `calls` how many options a call is given before the next one.
    """

    values: int
    alone: int
    runs: int = 1000
    calls: int = 0


_MUCH = Plenty(4, 40, runs=120, calls=40)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much an audit may run: other manners, special values, further sizes, and the longest sequence.

    `always` is how many further sizes run even where no decision by sizes is open; `turns` is how many decisions by values,
    and how many lengths, are followed to where they turn, and `turned` how many choices of code that went one way are
    turned; `crossed` is how many runs of sizes, values, options and manners together there are. `thrifty` says that each run
    takes long: what can be had from less than a further run is. `plenty` is how many options are combined.
    """

    manners: int = 80
    values: int = 400
    sizes: int = 160
    longest: int = 1100
    always: int = 60
    turns: int = 30
    thrifty: bool = False
    plenty: Plenty = _MUCH
    turned: int = 60
    crossed: int = 110

    @classmethod
    def of(cls, numbers: int) -> "Budget":
        """Return the budget for a model with so many numbers in its weights.

        >>> Budget.of(40_000_000).longest
        300
        """
        if numbers <= _TINY:
            return cls()
        if numbers <= _SMALL:
            return cls(80, 120, 60, EXTENTS.longest, 20, 8, plenty=Plenty(3, 10, runs=30, calls=8), turned=20, crossed=40)
        few = cls(16, 8, 2, EXTENTS.longest, 0, 0, thrifty=True, plenty=Plenty(1, 0, runs=2), turned=3, crossed=0)
        return few if numbers <= _HUGE else cls.least()

    @classmethod
    def least(cls) -> "Budget":
        """Return the budget for models in which every token costs seconds: no sequence beyond what their code names."""
        return cls(1, 1, 1, 0, 0, 0, thrifty=True, plenty=Plenty(1, 0, runs=0), turned=0, crossed=0)


# For tiny models: everything.
FULL = Budget()
