"""What a search forgets where it would hold too much is never the position that it stands at."""

from collections import deque

from fxmap.matching.solve.frontier import Frontier
from fxmap.matching.solve.search import HELD, Search, _Position
from fxmap.matching.solve.unknowns import Layout, Weights


def test_a_position_that_is_met_again_is_not_forgotten_by_what_was_held_of_it_before() -> None:
    nothing = Weights.none(Layout({}, {}, {}, frozenset(), {}, {}))
    search = Search.__new__(Search)
    search._holding = deque()
    position = _Position(Frontier(nothing, fresh=HELD))
    search._hold(position)
    position.frontier = Frontier(nothing, fresh=HELD)  # it was left, and is made anew
    search._hold(position)
    assert position.frontier is not None
    search._hold(_Position(Frontier(nothing, fresh=HELD)))
    assert position.frontier is None
