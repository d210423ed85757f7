"""What a file without its model leaves unsaid is said: unread tensors, kept keys, two tensors for one."""

import warnings
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import fxmap


class Heads(nn.Module):
    """A body, a head, and an adapter between them, if it is wanted."""

    def __init__(self, names: str = "body head", *, adapter: bool = False) -> None:
        super().__init__()
        self.names = names.split()
        for name in (*self.names, *(["adapter"] if adapter else [])):
            self.add_module(name, nn.Linear(4, 3 if name == self.names[1] else 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.get_submodule(self.names[0])(x)
        y = y + self.adapter(y) if hasattr(self, "adapter") else y
        result: Tensor = self.get_submodule(self.names[1])(y)
        return result


class Tied(nn.Module):
    """An embedding and an output layer, of one tensor or of two."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.out(self.table(ids))
        return result


@pytest.mark.parametrize("names", ["body head", "body fc"])
def test_an_adapter_that_nothing_reads_is_warned_of(names: str) -> None:
    with pytest.warns(fxmap.ProofWarning, match=r"2 tensors that nothing in the destination reads: adapter\.weight"):
        mapping = fxmap.load(Heads(names), Heads(adapter=True).state_dict())
    assert set(mapping.left_in_file) == {"adapter.weight", "adapter.bias"}


def test_layers_behind_the_last_one_of_a_list_are_warned_of() -> None:
    file, dst = (nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth))) for depth in (4, 3))
    with pytest.warns(fxmap.ProofWarning, match=r"nothing in the destination reads: 3\.weight, 3\.bias"):
        fxmap.load(dst, file.state_dict())


def test_keys_that_keep_their_values_are_warned_of() -> None:
    state = nn.Linear(3, 2, bias=False).state_dict()
    with pytest.warns(fxmap.ProofWarning, match="1 keys of the destination keep their own values: bias"):
        fxmap.load(nn.Linear(3, 2), state, on_mismatch="keep")


def test_counters_and_second_copies_are_no_reason_to_warn() -> None:
    body = nn.Linear(3, 3)
    state = OrderedDict(body.state_dict())
    state["steps"], state["again.weight"] = torch.tensor(7), state["weight"].clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error", fxmap.ProofWarning)
        fxmap.load(nn.Linear(3, 3), state)


def test_two_tensors_of_the_file_for_one_of_the_destination_are_refused() -> None:
    dst = Tied(tied=True)
    before = dst.table.weight.clone()
    with pytest.raises(fxmap.LoadError, match=r"table\.weight and out\.weight are one tensor in the destination, and two"):
        fxmap.load(dst, Tied(tied=False).state_dict())
    assert torch.equal(dst.table.weight, before)


@pytest.mark.parametrize("tied", [True, False])
def test_equal_tensors_of_the_file_are_not(tied: bool) -> None:
    src, dst = Tied(tied=True), Tied(tied=tied)
    fxmap.load(dst, src.state_dict())
    assert torch.equal(dst.out.weight, src.table.weight)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_source_model_that_ties_what_the_file_does_not_is_refused(device: str) -> None:
    with torch.device(device):
        src = Tied(tied=True)
    with pytest.raises(fxmap.LoadError, match=r"are one tensor in src \(Tied\), and two with different values"):
        fxmap.load(Tied(tied=False), Tied(tied=False).state_dict(), src=src)


def test_what_stands_beside_the_prefix_of_the_source_model_is_no_part_of_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.fc = nn.Parameter(torch.ones(3)), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * self.scale

    tower, dst = Scaled(), Scaled()
    state = {f"visual.{key}": value for key, value in tower.state_dict().items()} | {"text_projection": torch.randn(3, 3)}
    mapping = fxmap.load(dst, state, src=Scaled(), example_inputs=torch.randn(2, 3))
    assert "beside the weights of src" in mapping.left_in_file["text_projection"]
    assert torch.equal(dst.fc.weight, tower.fc.weight)


def test_buffers_on_the_meta_device_that_no_file_has_are_named() -> None:
    class Angles(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 3)
            self.register_buffer("angles", torch.arange(3.0), persistent=False)

    with torch.device("meta"):
        dst = Angles()
    with pytest.warns(fxmap.ProofWarning, match="1 buffers of the destination are on the meta device .*: angles"):
        fxmap.load(dst, Angles().state_dict(), assign=True)
    with fxmap.without_weights():
        dst = Angles()
    with warnings.catch_warnings():
        warnings.simplefilter("error", fxmap.ProofWarning)
        fxmap.load(dst, Angles().state_dict(), assign=True)
