"""Operands of pieces: what counts as the same, and what does not where results do not show it."""

import torch

from fxmap.graph.kinds import Trait, has
from fxmap.run.operands import PieceWatch, relation

X = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _differs(kind: str, ours: torch.Tensor, theirs: torch.Tensor, results: tuple[torch.Tensor, torch.Tensor]) -> str | None:
    watch = PieceWatch(("a", "b"), has(kind, Trait.HOMOGENEOUS), "a", "b", (("input", "x"),), (("input", "y"),))
    return watch.differs({("x", "y"): relation(ours, theirs, 1e-9)}, relation(*results, 1e-9))


def test_operands_before_a_result_that_is_zero_are_compared_in_order_and_in_size() -> None:
    zero, shifted = torch.zeros_like(X), X - 100
    assert _differs("relu", shifted, shifted.clone(), (zero, zero)) is None
    assert _differs("relu", shifted, 3 * X - 100, (zero, zero)) == "input"
    assert _differs("relu", shifted, 3 * shifted, (zero, zero)) == "input"
    assert _differs("relu", shifted, shifted.flip(1), (zero, zero)) == "input"


def test_another_layout_is_the_same_where_the_result_lies_there_too() -> None:
    assert _differs("relu", X, X.t(), (X.relu(), X.t().relu())) is None
    assert _differs("relu", X, X.flip(1), (X.relu(), X.flip(1).relu())) is None
    assert _differs("relu", X, X.flip(1), (X.relu(), X.relu())) == "input"


def test_a_factor_is_the_same_for_what_is_homogeneous_alone() -> None:
    assert _differs("relu", X, 2 * X, (X.relu(), 2 * X.relu())) is None
    assert _differs("relu", X, 2 * X, (X.relu(), X.relu())) == "input"
    assert _differs("hardtanh", X, 2 * X, (X.clamp(0, 6), 2 * X.clamp(0, 6))) == "input"


def test_operands_that_may_change_places_do_and_others_do_not() -> None:
    y = X.tanh()
    relations = {(a, b): relation(p, q, 1e-9) for a, p in (("x", X), ("y", y)) for b, q in (("u", y), ("v", X))}
    same = relation(X, X, 1e-9)
    either = PieceWatch(("a", "b"), True, "a", "b", (("input", "x"), ("input", "y")), (("input", "u"), ("input", "v")))
    assert either.differs(relations, same) is None
    ordered = PieceWatch(("a", "b"), False, "a", "b", (("input", "x"), ("other", "y")), (("input", "u"), ("other", "v")))
    assert ordered.differs(relations, same) == "input"
    lacking = PieceWatch(("a", "b"), False, "a", "b", (("input", "x"), ("max", "y")), (("input", "v"),))
    assert lacking.differs(relations, same) == "max"


def test_masks_that_are_broadcast_are_compared_in_full() -> None:
    mask = torch.tensor([True, False, True])
    assert relation(mask[:, None].long(), mask[:, None].expand(3, 8), 1e-9).equal
    assert not relation(mask[:, None], (~mask)[:, None].expand(3, 8), 1e-9).equal
