"""The planner of torch.distributed.checkpoint, in one process."""

from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

import fxmap
from fxmap.expressions.base import Source
from fxmap.expressions.computed import Computed

MAPPING = fxmap.KeyMapping({"q": "qkv[0:4]", "both": "concat(w, qkv[2:3])", "t": "transpose(w)", "sum": "w + w", "n": "n"})

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def source() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"qkv": torch.randn(12, 3), "w": torch.randn(2, 3), "n": torch.tensor(7)}


def _destination(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    shapes = {"q": (4, 3), "both": (3, 3), "t": (3, 2), "sum": (2, 3)}
    return {key: torch.zeros(shape) for key, shape in shapes.items()} | {"n": torch.tensor(0)} | more


def test_every_kind_of_expression_is_made(source: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save({"model": source, "step": 3}, checkpoint_id=tmp_path, no_dist=True)
    state = _destination(own=torch.ones(2))
    load(state, checkpoint_id=tmp_path, planner=MAPPING.load_planner(), no_dist=True)
    expected = MAPPING.apply(source)
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    assert torch.equal(state["own"], torch.ones(2))


def test_a_checkpoint_without_a_source_key_is_refused_by_name(source: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save({"w": source["w"], "n": source["n"]}, checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(CheckpointException, match="qkv: not in the checkpoint, which holds 2 tensors such as n, w"):
        load(_destination(), checkpoint_id=tmp_path, planner=MAPPING.load_planner(), no_dist=True)


def test_a_value_of_another_shape_is_refused_before_anything_is_read(
    source: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save(source | {"w": torch.zeros(3, 3)}, checkpoint_id=tmp_path, no_dist=True)
    state = _destination()
    with pytest.raises(CheckpointException, match=r"both: source .4, 3., destination .3, 3.. Nothing was written"):
        load(state, checkpoint_id=tmp_path, planner=MAPPING.load_planner(), no_dist=True)
    assert not state["q"].any()


def test_what_cannot_be_told_without_numbers_is_refused_by_name(source: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save({"square": torch.eye(3), **source}, checkpoint_id=tmp_path, no_dist=True)
    program = '[["aten.linalg_inv.default", [{"value": 0}], {}]]'
    mapping = fxmap.KeyMapping({"made": Computed((Source("square"),), program)})
    made = {"made": torch.zeros(3, 3)}
    with pytest.raises(CheckpointException, match=r"made = linalg_inv\(square\): cannot be made from parts of its sources"):
        load(made, checkpoint_id=tmp_path, planner=mapping.load_planner(), no_dist=True)
    assert not made["made"].any()
    model = torch.nn.Module()
    model.made = torch.nn.Parameter(made["made"])
    mapping.load_into(model, tmp_path)
    assert torch.equal(model.made, torch.eye(3))
