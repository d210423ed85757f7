"""The table of kinds: what its traits must agree on, and that spellings lead to kinds that stand in it."""

import pytest
import torch
from torch import Tensor, fx

from fxmap.graph.kinds import KINDS, SPELLINGS, Trait, facts, has, kind_of, kinds, out_of_place


def test_traits_that_imply_others_do() -> None:
    assert kinds(Trait.PART | Trait.VIEW | Trait.RESHAPE | Trait.FLATTEN | Trait.PERMUTE | Trait.TRANSPOSE) <= kinds(
        Trait.MOVEMENT
    )
    assert kinds(Trait.MOVEMENT | Trait.IDENTITY | Trait.SCALING | Trait.AFFINE) <= kinds(Trait.ANALYTIC)
    assert kinds(Trait.JOIN) <= kinds(Trait.ARRANGE)
    assert kinds(Trait.INDEX) <= kinds(Trait.LOOKUP)
    assert kinds(Trait.OUTPUT_FIRST) < kinds(Trait.AFFINE)
    assert kinds(Trait.SCALING) == kinds(Trait.SUM) | kinds(Trait.PRODUCT) == {"add", "sub", "mul", "div"}


def test_a_kind_that_is_not_in_the_table_has_no_trait() -> None:
    assert not any(has("argsort", trait) for trait in Trait)
    assert facts("argsort").channel_axis == -1


def test_what_is_filled_has_a_kind_that_needs_no_input() -> None:
    assert {kind for kind in KINDS if facts(kind).filled} == kinds(Trait.FILLED)


def test_no_spelling_that_stands_for_a_kind_is_itself_in_the_table() -> None:
    assert not SPELLINGS.keys() & KINDS.keys()


@pytest.mark.parametrize("trait", list(Trait))
def test_every_trait_is_some_kinds(trait: Trait) -> None:
    assert kinds(trait)


def test_movement_computes_nothing_and_identities_change_nothing() -> None:
    x = torch.randn(2, 3, 4)
    calls = {"view": (x, [6, 4]), "permute": (x, [2, 0, 1]), "flip": (x, [1]), "roll": (x, [1], [0]), "unsqueeze": (x, 0)}
    for name, args in calls.items():
        assert has(name, Trait.MOVEMENT)
        moved = getattr(torch.ops.aten, name).default(*args)
        assert torch.equal(moved.flatten().sort().values, x.flatten().sort().values)
    for name in ("alias", "clone", "detach"):
        assert has(name, Trait.IDENTITY)
        assert torch.equal(getattr(torch.ops.aten, name).default(x), x)


def test_every_way_to_write_a_sum_is_one_commutative_kind() -> None:
    def forward(x: Tensor) -> Tensor:
        y = torch.add(x, 1) + x
        y += 2
        return y.add_(3)

    nodes = [node for node in fx.symbolic_trace(forward).graph.nodes if node.op.startswith("call")]
    assert {kind_of(node) for node in nodes} == {"add"}
    assert has("add", Trait.COMMUTATIVE)


def test_what_writes_in_place_and_its_counterpart_take_the_same() -> None:
    packets = [getattr(torch.ops.aten, name) for name in dir(torch.ops.aten) if name.endswith("_") and name[0] != "_"]
    pairs = [
        (one, out_of_place(one)) for packet in packets for one in (getattr(packet, name) for name in packet.overloads())
    ]
    found = [(one, pure) for one, pure in pairs if pure is not None]
    assert len(found) > 100
    for one, pure in found:
        assert [str(part.type) for part in one._schema.arguments] == [str(part.type) for part in pure._schema.arguments]
