"""Arguments: what a model is called with beside tensors, and in what holds them, is varied."""

import copy
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
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
    return fxmap.auto_map(one, other, example_inputs=example).proof


def own_proof(model: nn.Module, example: Any) -> Proof:
    return proof_of(model, copy.deepcopy(model), example)


def parted(one: Callable[..., Any], other: Callable[..., Any], example: Any) -> None:
    """Assert that two functions are told apart, and that the first one is itself."""
    assert not proof_of(Net(one), Net(other), example).ok
    own = own_proof(Net(one), example)
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
    own = own_proof(Net(lambda h, c: h * (1 + c.ids[..., None] % 5)), example)
    assert "argument 1.ids" in own.scope.varied


def test_inputs_that_cannot_vary_are_no_proof() -> None:
    class Spoken(Net):
        def forward(self, x: Any, c: Any = None) -> Any:
            return self.b(torch.tanh(self.a.weight.sum(1) * len(x.text)))

    proof = own_proof(Spoken(_masked), (SimpleNamespace(text=memoryview(b"some words")),))
    assert not proof.ok
    assert "no other values" in proof.reason


def _kept(h: Tensor, lengths: Any) -> Tensor:
    """Keep as many positions of each sample as a list of Python says."""
    kept = torch.arange(h.shape[1]) < torch.tensor(lengths)[:, None]
    return h * kept[..., None]


def _row_sums(h: Tensor, grid: Any) -> Tensor:
    _, rows, columns = grid[0]
    assert rows * columns == h.shape[1]
    return h * torch.arange(rows).repeat_interleave(columns)[:, None]


@dataclass(frozen=True)
class Switches:
    """What a model is told beside tensors."""

    causal: bool = False


HELD: dict[str, tuple[Callable[..., Any], Callable[..., Any], Any]] = {
    "lengths in a list": (_kept, lambda h, n: _kept(h, [k - (k < h.shape[1]) for k in n]), [6, 6]),
    "sizes in a list of tuples": (
        lambda h, c: h * torch.tensor([a * b / 36 for a, b in c]).to(h)[:, None, None], lambda h, c: h, [(6, 6)] * 2,
    ),
    "lengths into which a sequence is split": (
        lambda h, c: torch.cat([part.cumsum(1) for part in h.split(c, 1)], 1),
        lambda h, c: torch.cat([part.cumsum(1) for part in h.split(c[0], 1)], 1), [3, 3],
    ),
    "the edges of a map": (_row_sums, lambda h, c: _row_sums(h, [(1, c[0][2], c[0][1])]), [(1, 6, 1)]),
    "a number in a dict": (lambda h, c: h * c["s"], lambda h, c: h * min(c["s"], 10), {"s": 1.0}),
    "a word in a list": (lambda h, c: h * (1 + ("b" in c)), lambda h, c: h * (1 + 2 * ("b" in c)), ["a"]),
    "a number in a set": (lambda h, c: h * (1 + (4 in c)), lambda h, c: h * (1 + 2 * (4 in c)), {3}),
    "a switch of an object": (lambda h, c: h.cumsum(1) if c.causal else h, lambda h, c: h, Switches()),
}  # fmt: skip


@pytest.mark.parametrize("name", HELD)
def test_what_containers_and_objects_hold_is_varied(name: str) -> None:
    one, other, given = HELD[name]
    parted(one, other, (FLOATS, given))


def test_a_list_that_cannot_be_drawn_is_named_as_given() -> None:
    own = own_proof(Net(lambda h, c: h * (1 + (c == ["x", 3.0]))), (FLOATS, ["x", 3.0]))
    assert own.ok
    assert "argument 1=['x', 3.0], as given" in own.notes[0]


class Flagged(nn.Module):
    """Two layers, whose second output is asked for by a switch, and times a factor."""

    def __init__(self, factor: float, named: bool = True) -> None:
        super().__init__()
        self.a, self.b, self.factor, self.named = nn.Linear(8, 4), nn.Linear(8, 4), factor, named

    def forward(self, x: Tensor, output_attentions: bool = False, return_dict: bool = True) -> Any:
        one, other = self.a(x), torch.tanh(self.b(x))
        found = {"logits": one + other}
        if output_attentions:
            found["attentions"] = other * (self.factor if self.named else 1)
        return found if return_dict else tuple(value * (1 if self.named else self.factor) for value in found.values())


@pytest.mark.parametrize("named", [True, False])
def test_outputs_that_are_asked_for_are_compared(named: bool) -> None:
    assert not proof_of(Flagged(1, named), Flagged(2, named), FLOATS).ok
    assert proof_of(Flagged(2, named), Flagged(2, named), FLOATS).ok


class Masked(nn.Module):
    """A layer with a mask that may be left out; the number is what it is then."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.a, self.number = nn.Linear(8, 4), number

    def forward(self, x: Tensor, mask: Any = None, scale: float = 1.5) -> Tensor:
        result: Tensor = torch.tanh(self.a(x)) * (self.number if mask is None else mask[..., None]) * scale
        return result


@pytest.mark.parametrize("example", [(FLOATS, HOLES), (FLOATS, HOLES, 2.0), {"x": FLOATS, "mask": HOLES}])
def test_what_the_example_gives_is_left_out(example: Any) -> None:
    refuted = proof_of(Masked(1), Masked(2), example)
    assert not refuted.ok
    assert "without mask" in refuted.reason
    assert proof_of(Masked(2), Masked(2), example).ok


def _hidden(h: Tensor, c: Any) -> Tensor:
    state = c[0] if isinstance(c, tuple) else c
    assert state.shape == (1, h.shape[0], 8)
    return h + state.transpose(0, 1)


LEFT_OUT: dict[str, Callable[..., Any]] = {
    "a state of the first axis 1": _hidden,
    "two states": lambda h, c: _hidden(h, (c[1] - c[0],)) if isinstance(c, tuple) else 1 / 0,
    "scores of positions": lambda h, c: (h @ h.mT + c.reshape(6, 6)).softmax(-1) @ h,
    "scores of samples": lambda h, c: (h @ h.mT + c[:, 0]).softmax(-1) @ h,
    "pairs of layers": lambda h, c: h + c[0][1].mean(1, True),
    "a tensor by a word": lambda h, c: h + c["hidden"],
}


class Optional(Net):
    """What is between the layers changes if an argument is given."""

    def forward(self, x: Any, c: Any = None) -> Any:
        h = torch.tanh(self.a(x))
        return self.b(h if c is None else self.function(h, c))


@pytest.mark.parametrize("name", LEFT_OUT)
def test_arguments_of_other_shapes_are_given(name: str) -> None:
    function = LEFT_OUT[name]
    assert not proof_of(Optional(function), Optional(lambda h, c: -function(h, c)), FLOATS).ok
    own = proof_of(Optional(function), Optional(function), FLOATS)
    assert own.ok, own.reason
    assert not own.notes


def test_an_argument_for_which_nothing_is_accepted_is_named() -> None:
    def strange(h: Tensor, c: Any) -> Tensor:
        return h * c.tensors.sum()

    own = proof_of(Optional(strange), Optional(strange), FLOATS)
    assert own.ok
    assert "c: both models name it" in own.notes[0]


class Looked(nn.Module):
    """A table, and a function of ids."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.table, self.function = nn.Embedding(20, 8), function

    def forward(self, ids: Tensor) -> Tensor:
        return torch.tanh(self.table(self.function(ids)))


IDS = torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(0))
BEYOND: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "below 0": (lambda i: i.abs() if (i < 0).any() else i, lambda i: i.clamp(min=0) if (i < 0).any() else i),
    "beyond": (lambda i: i % 20 if (i >= 20).any() else i, lambda i: i.clamp(max=19) if (i >= 20).any() else i),
}


@pytest.mark.parametrize("name", BEYOND)
def test_ids_that_are_in_no_table_are_run(name: str) -> None:
    one, other = BEYOND[name]
    assert not proof_of(Looked(one), Looked(other), IDS).ok
    assert proof_of(Looked(one), Looked(one), IDS).ok


class Kept(nn.Module):
    """A state of the example's batch, to which a call writes."""

    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.a, self.writes = nn.Linear(8, 8), writes
        self.state: Tensor
        self.register_buffer("state", torch.zeros(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.a(x[:, -1]) + self.state)
        if self.writes:
            self.state.copy_(y.detach())
        return y


def test_a_second_call_has_the_batch_that_is_accepted() -> None:
    refuted = proof_of(Kept(False), Kept(True), FLOATS)
    assert not refuted.ok
    assert "second call" in refuted.reason
    assert proof_of(Kept(True), Kept(True), FLOATS).ok


def test_an_array_beside_a_tensor_is_named_as_given() -> None:
    own = own_proof(Net(lambda h, c: h * float(c.sum())), (FLOATS, np.ones(2)))
    assert own.ok, own.reason
    assert "argument 1=array([1., 1.]), as given" in own.notes[0]


def test_a_list_of_ids_alone_is_drawn() -> None:
    class Listed(Looked):
        def forward(self, ids: Any) -> Tensor:
            return super().forward(torch.tensor(ids))

    own = own_proof(Listed(lambda i: i), ([1, 5, 3],))
    assert own.ok, own.reason
    assert not proof_of(Listed(lambda i: i), Listed(lambda i: i.clamp(max=6)), ([1, 5, 3],)).ok


class Packed(nn.Module):
    """A recurrent layer over sequences of several lengths, in falling order."""

    def __init__(self) -> None:
        super().__init__()
        self.r = nn.GRU(8, 4, batch_first=True)

    def forward(self, x: Tensor, lengths: Any) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        result, _ = nn.utils.rnn.pad_packed_sequence(self.r(packed)[0], batch_first=True)
        return result


@pytest.mark.parametrize("lengths", [torch.tensor([6, 4]), [6, 4]])
def test_lengths_in_falling_order_are_drawn(lengths: Any) -> None:
    own = own_proof(Packed(), (FLOATS, lengths))
    assert own.ok, own.reason
    assert own.scope.varied == ("argument 0", "argument 1")


class Embedded(nn.Module):
    """A table, or what it gives, in its place."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.table, self.a, self.factor = nn.Embedding(20, 8), nn.Linear(8, 8), factor

    def forward(self, ids: Any = None, embeds: Any = None) -> Any:
        if (ids is None) == (embeds is None):
            raise ValueError("one of ids and embeds is wanted")
        result: Tensor = self.a(self.table(ids) if embeds is None else self.factor * embeds)
        return result


def test_numbers_in_the_place_of_ids_are_given() -> None:
    assert "embeds in the place of ids" in proof_of(Embedded(1), Embedded(2), IDS).reason
    assert own_proof(Embedded(2), IDS).ok
