"""A key that merges several of the source's is not proven beside a tensor that only had to be moved from 0."""

import pytest
import torch
from torch import nn

from fxmap.expressions.arithmetic import Product, Sum
from fxmap.expressions.base import Expression, Source
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Proof, Status
from fxmap.matching.sides import side
from fxmap.prove.neutral import without_merged
from tests.prove.partial.test_witnesses import Net, linear

MERGED = Sum((Source("a.weight"), Product(Source("q.weight"), Source("p.weight"))))


def beside(update: nn.Linear, merged: Expression = MERGED) -> Status:
    """Return the status of `a.weight`, which runs have proven, beside an update without a source."""
    layers = {"a": linear(), "p": nn.Linear(6, 2, bias=False), "q": update}
    dst = side(Net(lambda m, x: m.a(x) + m.q(m.p(x)), **layers))
    keys = {"a.weight": merged, "a.bias": Source("a.bias"), "p.weight": Source("p.weight")}
    statuses = dict.fromkeys(keys, Status.PROVEN) | {"q.weight": Status.MISSING}
    return without_merged(Proof(statuses=statuses), KeyMapping(keys), dst).statuses["a.weight"]


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_what_was_merged_is_matched_beside_an_update_of_one_number(number: float) -> None:
    update = nn.Linear(2, 6, bias=False)
    nn.init.constant_(update.weight, number)
    assert beside(update) is Status.MATCHED


def test_what_was_moved_alone_is_proven_beside_it() -> None:
    update = nn.Linear(2, 6, bias=False)
    nn.init.zeros_(update.weight)
    assert beside(update, Source("a.weight")) is Status.PROVEN


def test_what_was_merged_is_proven_beside_an_update_of_random_numbers() -> None:
    torch.manual_seed(0)
    assert beside(nn.Linear(2, 6, bias=False)) is Status.PROVEN
