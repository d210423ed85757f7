"""A plan says in words what structure found and left open, and what passes between stages is not written into."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from fxmap.capture.symbolic import SYMBOLIC
from fxmap.expressions.base import Source
from fxmap.matching.derive.derivation import Derivation, in_stored_tensors
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side, sides
from fxmap.matching.structure import plan_by_structure
from fxmap.model.inputs import Given
from fxmap.testing.planted import randomised


class Joined(nn.Module):
    """A skip connection, joined one way round or the other."""

    def __init__(self, turned: bool = False, classes: int = 2) -> None:
        super().__init__()
        self.turned = turned
        self.one, self.two, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), nn.Conv2d(10, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.one(x).tanh()
        x = self.two(skip).tanh()
        return self.head(torch.cat((skip, x) if self.turned else (x, skip), 1))


class Halved(nn.Module):
    """A branch of the destination that no source has."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 7)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.one(x)
        return x, self.other(x)


def both(src: nn.Module, dst: nn.Module) -> tuple[Side, Side]:
    return sides(SYMBOLIC, randomised(src, 1), randomised(dst, 2), Given())


def test_a_plan_that_leaves_nothing_open_is_certain() -> None:
    plan = plan_by_structure(*both(Joined(), Joined()), thorough=False)
    assert plan.certain
    assert plan.doubt == ""
    assert str(plan).splitlines() == [
        "source: Joined, float, 6 operations by symbolic trace",
        "destination: Joined, float, 6 operations by symbolic trace",
        "8 pairs of operations (8 signature) cover 100%",
        "6 tensors are made, 0 have another shape, 0 that are read have no source",
    ]


def test_a_join_the_other_way_round_is_a_doubt() -> None:
    plan = plan_by_structure(*both(Joined(turned=True), Joined()), thorough=False)
    assert not plan.certain
    assert plan.doubt == "cat joins its operands in another order than its counterpart"


def test_a_tensor_without_a_source_is_a_doubt() -> None:
    plan = plan_by_structure(*both(nn.Sequential(nn.Linear(4, 4)), Halved()), thorough=False)
    assert plan.doubt == "2 tensors that the destination reads have no source, such as other.bias"


def test_weak_evidence_is_a_doubt() -> None:
    plan = plan_by_structure(*both(Joined(), Joined(classes=5)), thorough=False)
    assert plan.doubt.endswith("on weak evidence (position)")
    assert set(plan.derivation.mismatched) == {"head.weight", "head.bias"}


def test_different_networks_are_not_derived() -> None:
    plan = plan_by_structure(*both(nn.Sequential(nn.Conv2d(3, 8, 5)), nn.Sequential(nn.Linear(9, 2), nn.Linear(2, 2))))
    assert plan.different
    assert plan.derivation == Plan(plan.src, plan.dst, plan.alignment).derivation


def test_what_was_derived_is_not_written_into() -> None:
    src, dst = (side.main.ops for side in both(Joined(), Joined()))
    computed = replace(dst, computed={"head.weight": Source("head.weight_v")})
    found = Derivation(reasons={"head.weight": "groups differ"})
    assert in_stored_tensors(found, src, computed).reasons == {"head.weight_v": "groups differ"}
    assert found.reasons == {"head.weight": "groups differ"}
