"""The positions of a search are forgotten in the order in which they were met, where all would take too much memory."""

import pytest

from fxmap.matching.solve.choosing import positions
from fxmap.matching.solve.choosing.positions import Holding, Position
from fxmap.matching.solve.unknown.frontier import Frontier
from fxmap.matching.solve.unknown.unknowns import Layout, Weights


def position(size: int) -> Position:
    return Position(frontier(size))


def frontier(size: int) -> Frontier:
    weights = Weights.none(Layout({}, {}, {}, frozenset(), {}, {}))
    return Frontier(weights, fresh=size)


def test_a_position_that_was_dropped_as_unsound_and_is_met_again_keeps_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "HELD", 10)
    holding, met, other = Holding(), position(6), position(3)
    holding.add(met)
    met.frontier = None
    holding.add(other)
    met.frontier = frontier(6)
    holding.add(met)
    assert met.frontier is not None
    assert other.frontier is not None
    assert holding.size() == 9


def test_what_was_met_first_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "HELD", 10)
    holding, met = Holding(), [position(6) for _ in range(3)]
    for one in met:
        holding.add(one)
    assert [one.frontier is None for one in met] == [True, True, False]
