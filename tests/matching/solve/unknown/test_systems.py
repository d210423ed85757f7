"""Systems of a value that were found are those that are left when more is known; equal columns are found in sorted ones."""

import torch
from torch import nn

from fxmap.capture.recorded import capture_run
from fxmap.matching.solve.choosing.signatures import _groups, _Looks
from fxmap.matching.solve.unknown.frontier import Advance, Frontier
from fxmap.matching.solve.unknown.systems import Factorisations, Point, Systems
from fxmap.matching.solve.unknown.unknowns import Layout, Weights
from fxmap.model.inputs import as_inputs


def _point(advance: Advance, frontier: Frontier) -> Point:
    node = next(node for node in advance.nodes if "tanh" in node.name).all_input_nodes[0]
    systems = Systems(advance, frontier, node, 40, Factorisations())
    return systems.point(systems.shape())


def test_where_more_is_known_the_systems_are_those_that_are_left() -> None:
    captured = capture_run(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), as_inputs(torch.randn(2, 3)))
    advance = Advance(captured, [torch.randn(40, 2, 3).double()])
    none = Weights.none(Layout.of(captured, dict(captured.tensors)))
    whole = _point(advance, advance(none))
    assert [len(system.entries) for system in whole.systems] == [4] * 4

    first = whole.systems[0].entries
    known = none.having(first, torch.randn(4).double(), torch.zeros(4, dtype=torch.long))
    assert known.extends(none, torch.arange(16))
    left = whole.without(known.known)
    assert left is not None
    fresh = _point(advance, advance(known))
    assert [system.entries.tolist() for system in left.systems] == [system.entries.tolist() for system in fresh.systems]
    assert whole.without(none.known) is whole

    part = none.having(first[:1], torch.ones(1).double(), torch.zeros(1, dtype=torch.long))
    assert whole.without(part.known) is None
    other = none.having(first, torch.zeros(4).double(), torch.zeros(4, dtype=torch.long))
    assert not other.extends(known, torch.arange(16))


def test_each_column_is_found_wherever_it_stands_in_another_matrix() -> None:
    theirs, rest = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    theirs = torch.cat([theirs, theirs[:, :1]], 1)
    ours = torch.cat([rest, theirs[:, [2, 0]], rest[:, :1], theirs[:, :1]], 1)
    found = _groups(theirs, _Looks(theirs), _Looks(ours))
    assert found == [([0, 3], [3, 5]), ([1], []), ([2], [2])]
