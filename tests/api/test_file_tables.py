"""Integers of a file that no mapping carries over: the source computes with the file's, and so the destination has to."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.api.file_tables import with_tables

X = torch.randn(2, 4)
ORDER = torch.tensor([1, 0, 3, 2])


class Net(nn.Module):
    """Two layers with a function of the values between, which may read buffers."""

    def __init__(self, function: Callable[[Tensor, nn.Module], Tensor], **buffers: Tensor) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 4), nn.Linear(4, 3), function
        for name, value in buffers.items():
            self.register_buffer(name, value.clone())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.function(torch.tanh(self.a(x)), self))
        return y


def ordered(h: Tensor, model: nn.Module) -> Tensor:
    return h.index_select(-1, model.get_buffer("order"))


def counted(h: Tensor, _: nn.Module) -> Tensor:
    return h.index_select(-1, torch.arange(4))


def saved(model: nn.Module, **values: Tensor) -> dict[str, Tensor]:
    return {**model.state_dict(), **values}


@pytest.mark.parametrize("kept", [True, False])
def test_a_permutation_of_the_file_that_the_destination_does_not_make_goes_into_the_weights(kept: bool) -> None:
    src, trained = Net(ordered, order=torch.arange(4)), Net(ordered, order=ORDER)
    dst = Net(counted, **({"order": torch.arange(4)} if kept else {}))
    mapping = fxmap.load(dst, trained.state_dict(), src=src, example_inputs=X)
    assert mapping.proof.ok
    assert torch.allclose(dst(X), trained(X), atol=1e-6)


def test_a_permutation_that_goes_into_no_weight_is_refused() -> None:
    src = Net(lambda h, model: h[..., model.get_buffer("order")] * h, order=torch.arange(4))
    dst = Net(lambda h, model: h * h, order=torch.arange(4))
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    with pytest.raises((fxmap.ProofError, fxmap.LoadError), match="order"):
        fxmap.load(dst, saved(src, order=ORDER), src=src, example_inputs=X)
    assert all(torch.equal(value, before[key]) for key, value in dst.state_dict().items())


def test_a_mask_of_the_file_that_the_destination_computes_otherwise_is_refused() -> None:
    src = Net(lambda h, model: torch.where(model.get_buffer("mask"), h, h * h), mask=torch.ones(4).bool())
    dst = Net(lambda h, model: h)
    with pytest.raises((fxmap.ProofError, fxmap.LoadError), match="mask"):
        fxmap.load(dst, saved(src, mask=ORDER > 1), src=src, example_inputs=X)


def test_a_destination_with_the_numbers_of_the_file_is_proven_whatever_the_source_was_built_with() -> None:
    src, dst = Net(ordered, order=torch.arange(4)), Net(lambda h, model: h[..., [1, 0, 3, 2]])
    file = saved(src, order=ORDER)
    mapping = fxmap.load(dst, file, src=src, example_inputs=X)
    trained = Net(ordered, order=ORDER)
    trained.load_state_dict(file)
    assert mapping.proof.ok
    assert torch.allclose(dst(X), trained(X))
    assert "numbers than the file" in mapping.left_in_file["order"]
    assert src.get_buffer("order").tolist() == [0, 1, 2, 3]


def test_what_is_left_in_the_file_is_said_of_a_key_that_the_destination_has() -> None:
    src, dst = Net(ordered, order=torch.arange(4)), Net(counted, order=torch.arange(4))
    left = fxmap.load(dst, src.state_dict(), src=src, example_inputs=X, verify=False).left_in_file
    assert left == {"order": "src has it, and the destination keeps its own"}
    left = fxmap.load(dst, saved(src, order=ORDER), src=src, example_inputs=X, verify=False).left_in_file
    assert left == {
        "order": "src has it with other numbers than the file, which were not compared, and the destination keeps its own"
    }


def test_only_integers_that_differ_make_a_copy_and_counters_of_norms_are_none() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    state = {**model.state_dict(), "0.num_batches_tracked": torch.tensor(7)}
    assert with_tables(model, state) == (model, [])


class Made(nn.Module):
    """A layer whose outputs are weighed by a buffer that the model makes itself."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.register_buffer("table", table.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.tanh(self.a(x)) * self.get_buffer("table")
        return y


SLOPES = 10.0 ** -torch.arange(4.0)


@pytest.mark.parametrize("table", [SLOPES, ORDER, ORDER > 1], ids=["floats", "integers", "booleans"])
def test_a_file_with_other_numbers_of_what_a_source_makes_itself_is_refused(table: Tensor) -> None:
    src, dst = Made(table), Made(table)
    with pytest.raises((fxmap.ProofError, fxmap.LoadError), match="table"):
        fxmap.load(dst, saved(src, table=table.flip(0)), src=src, example_inputs=X)


@pytest.mark.parametrize("table", [SLOPES, SLOPES.half(), SLOPES * (1 + 1e-7)], ids=["alike", "half", "of another machine"])
def test_a_file_with_the_numbers_that_a_source_makes_itself_is_proven(table: Tensor) -> None:
    src, dst = Made(SLOPES), Made(SLOPES)
    mapping = fxmap.load(dst, saved(src, table=table), src=src, example_inputs=X)
    assert mapping.proof.ok
    assert mapping.left_in_file == {"table": "src makes it itself, with the same numbers"}


def test_a_destination_that_makes_the_numbers_of_the_file_is_proven() -> None:
    src, dst = Made(SLOPES), Made(SLOPES.flip(0))
    mapping = fxmap.load(dst, saved(src, table=SLOPES.flip(0)), src=src, example_inputs=X)
    assert mapping.proof.ok
    assert "whose were compared" in mapping.left_in_file["table"]


def test_a_permutation_of_the_file_of_which_the_source_knows_nothing_is_not_called_inert() -> None:
    src, dst = Made(SLOPES), Made(SLOPES)
    with pytest.warns(fxmap.ProofWarning, match="order"):
        assert not fxmap.load(dst, saved(src, order=ORDER), src=src, example_inputs=X).proof.ok
    assert fxmap.load(dst, saved(src, order=torch.arange(4)), src=src, example_inputs=X).proof.ok
