"""Keys that nothing but the order of a file decides: mapped with a warning, or left open where order is worth nothing."""

import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxmap
import fxmap.matching.keys.mapper
from fxmap.mapping.findings import NoteKind
from fxmap.mapping.proof import Status

WIDTH = 4


class Chain(nn.Module):
    """Linear layers of one size with the given names, called in the order of `calls`."""

    def __init__(self, names: str, calls: str = "") -> None:
        super().__init__()
        self.calls = (calls or names).split()
        for name in names.split():
            self.add_module(name, nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.calls:
            x = torch.tanh(self.get_submodule(name)(x))
        return x


def of(names: str) -> "OrderedDict[str, Tensor]":
    return OrderedDict(Chain(names).state_dict())


@pytest.mark.parametrize(
    ("file", "model"), [("0 1", "fc1 fc2"), ("encoder decoder", "up down"), ("key query value", "a b c"), ("l0 l1", "0 2")]
)
def test_names_that_say_nothing_are_loaded_with_a_warning_that_names_the_keys(file: str, model: str) -> None:
    dst = Chain(model)
    first, other = model.split()[:2]
    with pytest.warns(fxmap.ProofWarning, match=f"{first}.weight from {file.split(maxsplit=1)[0]}.weight") as caught:
        mapping = fxmap.load(dst, of(file))
    assert "src=" in str(caught[0].message)
    assert mapping.knowledge.by_order == tuple(dst.state_dict())
    assert set(mapping.knowledge.statuses.values()) == {Status.GUESSED}
    assert str(mapping).splitlines()[1].startswith(f"warning: {len(mapping)} keys are decided by nothing but the order")
    assert other in str(mapping).splitlines()[1]


@pytest.mark.parametrize(
    ("file", "model"),
    [("key query value", "q k v"), ("fc1 fc2", "lin1 lin2"), ("layers.0 layers.1", "h.0 h.1"), ("up down", "a.up a.down")],
)
def test_names_that_say_something_are_loaded_without_one(file: str, model: str) -> None:
    own, theirs = ({f"{name}.weight": torch.zeros(WIDTH, WIDTH) for name in names.split()} for names in (file, model))
    mapping = fxmap.matching.keys.mapper.map_by_name(own, theirs, "test")
    assert len(mapping) == len(theirs)
    assert not mapping.knowledge.by_order


def test_a_mapping_that_order_decided_warns_where_it_is_loaded_by_hand_and_after_json() -> None:
    state, dst = of("0 1"), Chain("fc1 fc2")
    mapping = fxmap.auto_map(state, dst)
    for one in (mapping, fxmap.KeyMapping.from_json(mapping.to_json())):
        with pytest.warns(fxmap.ProofWarning, match="nothing but the order"):
            one.load_into(dst, state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapping.load_into(dst, state, verify=False)


def test_of_a_part_of_a_model_the_whole_keys_are_named() -> None:
    dst = nn.ModuleDict({"inner": Chain("fc1 fc2")})
    with pytest.warns(fxmap.ProofWarning, match="nothing but the order"):
        mapping = fxmap.load(dst, of("0 1"), into="inner")
    assert mapping.knowledge.by_order[0] == "inner.fc1.weight"


def test_a_file_that_is_sorted_by_name_decides_nothing(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(of("query key value"), tmp_path / "sorted.safetensors")
    dst = Chain("a b c")
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    with pytest.raises(fxmap.LoadError, match="sorted by name, so that their order tells nothing"):
        fxmap.load(dst, tmp_path / "sorted.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in dst.state_dict().items())


def test_a_destination_that_calls_its_layers_in_another_order_than_it_declares_them_decides_nothing() -> None:
    with pytest.raises(fxmap.LoadError, match="calls them in another order than it declares them"):
        fxmap.load(Chain("fc1 fc2", calls="fc2 fc1"), of("0 1"))


def test_layers_whose_shapes_differ_need_no_order() -> None:
    src = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error", fxmap.ProofWarning)
        mapping = fxmap.load(nn.Sequential(OrderedDict(up=nn.Linear(4, 8), down=nn.Linear(8, 4))), src.state_dict())
    assert not mapping.knowledge.notes_of(NoteKind.BY_ORDER)
