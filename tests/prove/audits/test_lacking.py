"""Lacking: where one model makes no numbers of a sample, the others are compared, and that is said."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.proof import Proof
from fxmap.model.inputs import as_inputs
from fxmap.prove.audits.audit import Auditor
from fxmap.prove.audits.lacking import with_numbers

NAN, INF = float("nan"), float("inf")
ROWS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
LOG_2 = math.log(2)


class Net(nn.Module):
    """A layer without bias, of which a function makes something."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.function = nn.Linear(8, 8, bias=False), function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def proof_of(one: Callable[..., Tensor], other: Callable[..., Tensor], *example: Tensor) -> Proof:
    proof = fxmap.auto_map(Net(one), Net(other), example_inputs=example).proof
    assert proof is not None
    return proof


def by_own_norm(m: Any, x: Tensor) -> Tensor:
    h: Tensor = m.a(x)
    return h / h.norm(dim=-1, keepdim=True)


def by_norm_with_a_number(m: Any, x: Tensor) -> Tensor:
    h: Tensor = m.a(x)
    return h / (h.norm(dim=-1, keepdim=True) + 1e-20)


def test_a_model_that_alone_makes_numbers_of_zeros_is_said() -> None:
    for one, other, which in ((by_own_norm, by_norm_with_a_number, "source"), (by_norm_with_a_number, by_own_norm, "dest")):
        proof = proof_of(one, other, ROWS)
        assert any(f"of some samples the {which}" in note for note in proof.notes), proof


def test_two_models_that_make_no_numbers_of_the_same_samples_need_no_note() -> None:
    proof = proof_of(by_own_norm, by_own_norm, ROWS)
    assert proof.ok, proof.reason
    assert not any("makes no numbers" in note for note in proof.notes)


def test_samples_beside_one_without_numbers_are_compared() -> None:
    rows = torch.tensor([[1.0, 3.0], [-1.0, 2.0], [2.0, 2.0]], dtype=torch.float64)  # of the second, log is NaN
    both = as_inputs(rows), as_inputs(rows)
    same = Auditor(lambda i: i.args[0].log2(), lambda i: i.args[0].log() / LOG_2, 1e-9).compare(both)
    other = Auditor(lambda i: i.args[0].log2(), lambda i: i.args[0].log(), 1e-9).compare(both)
    assert [outcome is not None and outcome[0] < 1e-9 for outcome in (same, other)] == [True, False]
    assert other is not None


def test_equal_infinities_are_equal_and_others_lack_numbers() -> None:
    ours, theirs = torch.tensor([[-INF, 1.0], [INF, 2.0], [3.0, 4.0]]), torch.tensor([[-INF, 1.0], [0.0, 2.0], [3.0, NAN]])
    pairs, count, which = with_numbers([(ours, theirs)], 3)
    assert (count, which) == (2, "source")
    assert pairs[0][0].tolist() == [[0.0, 1.0], [3.0, 4.0]]
    assert with_numbers([(ours, theirs)], 3, both=True)[1] == 1
    assert with_numbers([(ours, theirs)], None) == ([], None, "source")
