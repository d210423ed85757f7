"""Nested values: whoever reads the tensors of a batch and whoever changes them meets the same ones."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fxmap.model.inputs import as_inputs, settings_of
from fxmap.model.tensors import named_outputs

Pair = namedtuple("Pair", ["first", "second"])


@dataclass(frozen=True, slots=True)
class Batch:
    """Two tensors and a number."""

    first: Tensor
    second: Tensor
    count: int = 2


class Plain:
    """An object with two tensors."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.first, self.second = first, [second]


ONE, OTHER = torch.zeros(2), torch.ones(3)
HOLDERS = {
    "a named tuple": Pair(ONE, OTHER),
    "a frozen dataclass with slots": Batch(ONE, OTHER),
    "an object": Plain(ONE, OTHER),
    "a namespace in a dict": {"more": SimpleNamespace(first=ONE, second=OTHER)},
    "a dict of a user": UserDict(first=ONE, second=OTHER),
    "an ordered dict in a list": [OrderedDict(first=ONE, second=OTHER)],
}


@pytest.mark.parametrize("name", HOLDERS)
def test_tensors_are_found_and_changed_in_what_holds_them(name: str) -> None:
    holder: Any = HOLDERS[name]
    inputs = as_inputs((holder,))
    assert [tuple(tensor.shape) for tensor in inputs.flat()] == [(2,), (3,)]
    changed = inputs.map(lambda tensor: tensor + 1)
    assert [tensor.tolist() for tensor in changed.flat()] == [[1, 1], [2, 2, 2]]
    assert type(changed.args[0]) is type(holder)
    assert [tensor.tolist() for tensor in inputs.flat()] == [[0, 0], [1, 1, 1]]


def test_an_object_that_holds_itself_ends() -> None:
    holder: Any = SimpleNamespace(x=ONE)
    holder.own = holder
    assert as_inputs((holder,)).map(torch.neg).args[0].x is not ONE


def test_values_that_are_no_tensors_are_named_with_their_places() -> None:
    inputs = as_inputs((ONE, [3, 4], {"scale": 2.0, "words": ["a"]}, SimpleNamespace(causal=False, x=ONE), b"bytes"))
    assert [name for name, _ in settings_of(inputs)] == [
        "argument 1", "argument 2['scale']", "argument 2['words']", "argument 3.causal",
        "argument 4",
    ]  # fmt: skip


def test_tensors_of_outputs_that_are_dataclasses_and_namespaces_have_their_names() -> None:
    found = named_outputs({"batch": Batch(ONE, OTHER), "more": SimpleNamespace(scores=ONE)})
    assert [name for name, _ in found] == ["batch.first", "batch.second", "more.scores"]
