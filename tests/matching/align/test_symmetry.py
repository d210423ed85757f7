"""Ties: automorphisms are found, whole branches at a time, and other choices are tried."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.graph.opgraph import Op, OpGraph
from fxmap.mapping.proof import Status
from fxmap.matching.align.alignment import Evidence, Pair
from fxmap.matching.align.symmetry import exchange, rivals, ties
from fxmap.testing.planted import randomised


class Branches(nn.Module):
    """Two branches of three operations each, which come together in a sum or a difference."""

    def __init__(self, difference: bool) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.right = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.difference = difference

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        return left - right if self.difference else left + right


@pytest.mark.parametrize(("difference", "status"), [(False, Status.TIED), (True, Status.PROVEN)])
def test_branches_are_tied_where_they_may_be_exchanged(difference: bool, status: Status) -> None:
    src, dst = randomised(Branches(difference), 1), Branches(difference)
    mapping = fxmap.auto_map(src, dst)
    assert mapping.proof.ok, str(mapping)
    assert {mapping.status(key) for key in mapping} == {status}


def _projections() -> OpGraph:
    graph = OpGraph()
    for op in (Op("x", "input"), Op("q", "linear"), Op("k", "linear"), Op("scores", "matmul")):
        graph.add(op)
    for name in ("q", "k"):
        graph.add(Op(f"%{name}.weight", "tensor", key=f"{name}.weight", shape=(4, 4)))
        graph.network.add_edge(f"%{name}.weight", name, argument="weight")
        graph.network.add_edge("x", name, argument="input")
    graph.network.add_edge("q", "scores", argument="input")
    graph.network.add_edge("k", "scores", argument="mat2")
    return graph


@pytest.mark.parametrize(("same", "found"), [(False, set()), (True, {"q", "k"})])
def test_operations_with_equal_inputs_are_tried_the_other_way_round(same: bool, found: set[str]) -> None:
    graph, tried = _projections(), list[dict[str, str]]()

    def agrees(moved: dict[str, str]) -> bool:
        tried.append(moved)
        return same

    assert exchange(graph, "q", "k") is None
    assert rivals(graph, "q") == ["k"]
    tied, count = ties(graph, [Pair("a", "q", Evidence.ASSIGNED), Pair("b", "k", Evidence.ASSIGNED)], agrees)
    assert tied == found
    assert count == len(tried) > 0
    assert tried[0] == {"q.weight": "k.weight", "k.weight": "q.weight"}
    assert ties(graph, [Pair("a", "q", Evidence.SIGNATURE), Pair("b", "k", Evidence.SIGNATURE)], agrees) == (set(), 0)


def test_a_tensor_that_both_share_does_not_move() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.relu(self.fc(x)) + torch.relu(self.fc(y))

    src = randomised(Shared(), 1)
    proof = fxmap.verify(src, Shared(), {"fc.weight": "fc.weight", "fc.bias": "fc.bias"})
    assert proof.ok, str(proof)


class Positions(nn.Module):
    """Scores of rows and of columns of a map, alike but for the movement of data; `names` are those of the two tables."""

    def __init__(self, names: str) -> None:
        super().__init__()
        self.names = names
        for name in sorted(names):
            self.register_parameter(name, nn.Parameter(torch.randn(4, 6)))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 4:  # keeps symbolic tracing out
            raise ValueError("of another size")
        rows, columns = (getattr(self, name) for name in self.names)
        return (torch.einsum("bhwc,hc->bhw", x, rows) + torch.einsum("bhwc,wc->bhw", x, columns)).tanh()


def test_rows_and_columns_are_no_tie() -> None:
    src, dst = randomised(Positions("ab"), 1).eval(), randomised(Positions("ba"), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 4, 4, 6))
    assert mapping.renames == {"a": "b", "b": "a"}
    assert set(mapping.proof.statuses.values()) == {fxmap.Status.PROVEN}
