"""What the models' own code shows beside the lockstep: each pair differs somewhere that the given inputs do not reach."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap import Status


class Net(nn.Module):
    def __init__(self, function: Callable[..., Any], **buffers: Tensor) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(8, 8), nn.Linear(8, 4)
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Any:
        return self.h(self.function(self.a(x), self))


class Masked(nn.Module):
    """Scores to which a mask is added, on the keys or on the queries."""

    def __init__(self, queries: bool) -> None:
        super().__init__()
        self.table, self.q, self.k = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.queries = queries

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.table(ids)
        bias = (1 - mask.to(x.dtype)) * -1e4
        scores = self.q(x) @ self.k(x).transpose(1, 2) + (bias[:, :, None] if self.queries else bias[:, None])
        return scores.softmax(-1) @ x


class Standardised(nn.Module):
    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.conv, self.axes = nn.Conv2d(3, 4, 3), axes

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv((x - x.mean(self.axes, keepdim=True)) / (1 + x.var(self.axes, keepdim=True, unbiased=False)))
        return y


class Patches(nn.Module):
    """Patches of 8 pixels; a map that is no multiple of that is cut, or padded."""

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.conv, self.head, self.padded = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 4), padded

    def forward(self, x: Tensor) -> Tensor:
        if self.padded:
            x = F.pad(x, (0, -x.shape[3] % 8, 0, -x.shape[2] % 8))
        y: Tensor = self.head(F.gelu(self.conv(x)).mean((2, 3)))
        return y


class Named(nn.Module):
    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self.one, self.two, self.names = nn.Linear(8, 4), nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)), names

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, (self.one(x), self.two(x)), strict=True))


class Each(nn.Module):
    """One output for each sample, or for each step; `change` says what becomes of the list."""

    def __init__(self, change: Callable[[list[Tensor], Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.change = nn.Linear(8, 8), nn.Linear(8, 4), change

    def forward(self, x: Tensor) -> Any:
        return self.change([self.b(torch.tanh(self.a(row))) for row in x], x)


def _whole(found: list[Tensor], _: Tensor) -> list[Tensor]:
    return found


IDS = torch.randint(0, 20, (1, 6))
PAIRS: dict[str, tuple[nn.Module, nn.Module, Any]] = {
    "a mask of ones": (Masked(False), Masked(True), (IDS, torch.ones_like(IDS))),
    "a batch of one": (Standardised((1, 2, 3)), Standardised((0, 1, 2, 3)), torch.randn(1, 3, 16, 16)),
    "one length": (Net(lambda h, _: h.mean(1)), Net(lambda h, _: h[:, :16].mean(1)), torch.randn(2, 16, 8)),
    "small numbers": (Net(lambda h, _: h), Net(lambda h, _: h * torch.sigmoid(-20 * (h - 60))), torch.randn(2, 8)),
    "outputs that are dropped": (Each(_whole), Each(lambda found, _: found[:3]), torch.randn(2, 8)),
    "outputs beyond those of the example": (
        Each(_whole),
        Each(lambda found, _: [*found[:2], *(-row for row in found[2:])]),
        torch.randn(2, 8),
    ),
    "an output that may be none": (
        Each(lambda found, x: (found[0], x.sum(-1))),
        Each(lambda found, x: (found[0], x.sum(-1) if float(x.sum()) > -30 else None)),
        torch.randn(2, 8),
    ),
    "one size": (Patches(padded=False), Patches(padded=True), torch.randn(1, 3, 64, 64)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_difference_beyond_the_given_inputs_refutes_the_proof(name: str) -> None:
    src, dst, inputs = PAIRS[name]
    mapping = fxmap.auto_map(src.eval(), dst.eval(), example_inputs=inputs)
    assert not mapping.proof.ok
    assert "on other inputs" in mapping.proof.reason
    assert not any(status is Status.PROVEN for status in mapping.proof.statuses.values())


def test_names_of_outputs_that_disagree_refute_the_proof() -> None:
    src, dst = Named(("mu", "logvar")), Named(("logvar", "mu"))
    proof = fxmap.auto_map(src.eval(), dst.eval(), example_inputs=torch.randn(2, 8)).proof
    assert not proof.ok
    assert "the outputs differ" in proof.reason
    returned = [key for key in proof.statuses if not key.startswith("two.0")]
    assert all(proof.statuses[key] is Status.MATCHED for key in returned)


class Towers(nn.Module):
    """Two layers of one shape on one value, which only the names or the places of what is returned tell apart."""

    def __init__(self, *, swapped: bool, named: bool, recorded: bool) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.swapped, self.named, self.recorded = swapped, named, recorded

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.body(x))
        if self.recorded and bool(torch.isnan(h.detach()).any()):
            raise ValueError("no number")
        first, second = self.one(h), self.two(h)
        if self.named:
            return {"scale": first, "mean": second} if self.swapped else {"mean": first, "scale": second}
        return (second, first) if self.swapped else (first, second)


@pytest.mark.parametrize("recorded", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("named", [True, False])
def test_names_and_places_of_outputs_tell_towers_apart(named: bool, recorded: tuple[bool, bool]) -> None:
    src = Towers(swapped=False, named=named, recorded=recorded[0])
    dst = Towers(swapped=True, named=named, recorded=recorded[1])
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 8))
    assert mapping.proof.ok, mapping.proof
    assert (str(mapping["one.weight"]), str(mapping["two.bias"])) == ("two.weight", "one.bias")


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_model_is_proven_on_the_same_inputs_and_says_its_scope(name: str) -> None:
    src, _, inputs = PAIRS[name]
    proof = fxmap.auto_map(src.eval(), src.eval(), example_inputs=inputs).proof
    assert proof.ok, proof
    assert proof.scope.ran
    assert not proof.scope.fixed
    assert "scope: the models' own code agrees on" in str(proof)


def test_state_of_the_source_that_the_destination_lacks_blocks_the_proof() -> None:
    src = Net(lambda h, s: (h - s.mean) / s.std, mean=torch.zeros(8), std=torch.ones(8))
    proof = fxmap.auto_map(src, Net(lambda h, _: h), example_inputs=torch.randn(2, 8)).proof
    assert not proof.ok
    assert proof.reason.startswith("mean, std: state of the source that moves its outputs")


def test_a_table_that_both_models_have_needs_no_mapping() -> None:
    table = torch.arange(8.0)
    pair = (Net(lambda h, s: h + s.table, table=table), Net(lambda h, s: h + s.numbers, numbers=table.clone()))
    proof = fxmap.auto_map(*pair, example_inputs=torch.randn(2, 8)).proof
    assert proof.ok, proof


def test_a_permutation_is_mapped_and_proven_by_permuting_it() -> None:
    src = Net(lambda h, s: h[..., s.order], order=torch.arange(8))
    dst = Net(lambda h, s: h.index_select(-1, s.order), order=torch.arange(8))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 8))
    assert mapping.status("order") is Status.PROVEN
    src.order = torch.randperm(8)
    mapping.load_into(dst, src.state_dict())
    assert torch.equal(dst.state_dict()["order"], src.state_dict()["order"])


def test_a_key_without_a_gradient_that_moves_labels_is_not_inert() -> None:
    class Labels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).argmax(-1)

    mapping = fxmap.auto_map(Labels(), Labels(), example_inputs=torch.randn(16, 8))
    assert {mapping.status(key) for key in ("fc.weight", "fc.bias")} == {Status.PROVEN}


def test_the_bias_of_a_key_stays_inert() -> None:
    src, dst = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
    x = torch.randn(2, 5, 8)
    mapping = fxmap.auto_map(src, dst, example_inputs=(x, x, x))
    assert mapping.proof.ok, mapping.proof


def test_an_argument_that_is_no_tensor_is_named_as_given() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 4)

        def forward(self, x: Tensor, steps: int) -> Tensor:
            y: Tensor = self.a(x) * steps
            return y

    proof = fxmap.auto_map(Scaled(), Scaled(), example_inputs=(torch.randn(2, 8), 3)).proof
    assert proof.ok, proof
    assert "with argument 1=3, as given" in str(proof)


class Branching(nn.Module):
    """An encoder with a branch that only a count above 1 takes: the example does not reach the weights in it."""

    def __init__(self, body: str) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(8, 4)
        block = nn.Module()
        block.query, block.query_global = nn.Linear(8, 8), nn.Linear(8, 8)
        self.add_module(body, block)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        block = getattr(self, self.body)
        h = block.query(x)
        if bool((mask > 1).any()):
            h = torch.where((mask > 1)[..., None], block.query_global(x), h)
        y: Tensor = self.head(torch.tanh(h))
        return y


def test_weights_in_a_branch_that_the_example_does_not_take_come_from_the_module_that_corresponds() -> None:
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1]])
    mapping = fxmap.auto_map(Branching("layer"), Branching("block"), example_inputs=(torch.randn(2, 4, 8), mask))
    assert mapping.proof.ok, mapping.proof
    assert str(mapping["block.query_global.weight"]) == "layer.query_global.weight"


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).mT
        y: Tensor = self.out(scores.softmax(-1) @ self.v(x))
        return y


def test_what_moves_nothing_in_a_sequence_of_one_step_is_not_inert() -> None:
    mapping = fxmap.auto_map(Attending(), Attending(), example_inputs=torch.randn(2, 1, 8))
    assert not {mapping.status(f"{name}.weight") for name in "qk"} & {Status.INERT}
