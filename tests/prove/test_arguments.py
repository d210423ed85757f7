"""Arguments: what a model is called with beside tensors, and in what holds them; whatever both models accept they compute."""

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.proof import Proof

FLOATS = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
HOLES = torch.tensor([[1, 1, 0, 1, 1, 0.0]] * 2)


class Net(nn.Module):
    """Two layers; the function makes what is between them of the arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(8, 8), nn.Linear(8, 5), function

    def forward(self, x: Any, c: Any = None) -> Any:
        h = torch.tanh(self.a(x if isinstance(x, Tensor) else x["x"] if isinstance(x, UserDict) else x.x))
        result: Tensor = self.b(self.function(h, x if c is None else c))
        return result


def proof_of(one: nn.Module, other: nn.Module, example: Any) -> Proof:
    proof = fxmap.auto_map(one, other, example_inputs=example).proof
    assert proof is not None
    return proof


def parted(one: Callable[..., Any], other: Callable[..., Any], example: Any) -> None:
    """Assert that two functions are told apart, and that the first one is itself."""
    assert not proof_of(Net(one), Net(other), example).ok
    own = proof_of(Net(one), Net(one), example)
    assert own.ok, own.reason


class Nested:
    """A batch and its mask, as of images of several sizes."""

    def __init__(self, x: Tensor, mask: Tensor) -> None:
        self.x, self.mask = x, mask


@dataclass(frozen=True)
class Batch:
    """The same, as a dataclass."""

    x: Tensor
    mask: Tensor


def _masked(h: Tensor, batch: Any) -> Tensor:
    return h * (batch["mask"] if isinstance(batch, UserDict) else batch.mask)[..., None]


ONES = torch.ones(2, 6)
OBJECTS = {
    "an object": Nested(FLOATS, ONES),
    "a dataclass": Batch(FLOATS, HOLES),
    "a namespace": SimpleNamespace(x=FLOATS, mask=ONES),
    "a dict of a user": UserDict(x=FLOATS, mask=ONES),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_tensors_in_an_object_are_varied(name: str) -> None:
    parted(_masked, lambda h, _: h, (OBJECTS[name],))


def test_an_object_beside_a_tensor_is_varied_and_its_scope_is_named() -> None:
    example = FLOATS, SimpleNamespace(ids=torch.zeros(2, 6, dtype=torch.long))
    parted(lambda h, c: h * (1 + c.ids[..., None] % 5), lambda h, c: h * (1 + 0 * c.ids[..., None]), example)
    own = proof_of(*[Net(lambda h, c: h * (1 + c.ids[..., None] % 5)) for _ in range(2)], example)
    assert "argument 1.ids" in own.scope.varied


def test_inputs_that_cannot_vary_are_no_proof() -> None:
    def spoken(h: Any, words: Any) -> Any:
        return h

    class Spoken(Net):
        def forward(self, x: Any, c: Any = None) -> Any:
            return self.b(torch.tanh(self.a.weight.sum(1) * len(x.text)))

    proof = proof_of(*[Spoken(spoken) for _ in range(2)], (SimpleNamespace(text="some words"),))
    assert not proof.ok
    assert "no other values" in proof.reason
