"""Models of DTensors: bit-equal to one process, and all ranks end where one fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import fxmap
from fxmap.errors import LoadError
from fxmap.mapping import sharded
from tests.mapping.ranks import (
    check_equal,
    check_failures,
    check_planned,
    run_ranks,
    save_and_load,
    save_source,
    write_source,
)

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")


def test_fsdp_and_tensor_parallel_on_two_ranks_are_equal_to_one_process(tmp_path: Path) -> None:
    write_source(tmp_path / "a.safetensors")
    run_ranks(2, tmp_path, check_equal, "fsdp", "tp")


@pytest.mark.slow
def test_fsdp_of_tensor_parallel_on_four_ranks_is_equal_to_one_process(tmp_path: Path) -> None:
    write_source(tmp_path / "a.safetensors")
    run_ranks(4, tmp_path, check_equal, "fsdp and tp", "fsdp")


def test_a_checkpoint_of_two_ranks_is_loaded_by_torch_with_a_planner_of_the_mapping(tmp_path: Path) -> None:
    write_source(tmp_path / "a.safetensors")
    run_ranks(2, tmp_path, save_and_load)


@pytest.mark.slow
def test_a_checkpoint_of_four_ranks_is_loaded_by_two(tmp_path: Path) -> None:
    write_source(tmp_path / "a.safetensors")
    run_ranks(4, tmp_path, save_source)
    (tmp_path / "ranks").unlink(missing_ok=True)
    run_ranks(2, tmp_path, check_planned)


def test_a_rank_that_fails_or_ends_leaves_the_others_with_their_old_values_and_an_error(tmp_path: Path) -> None:
    for rank in range(2):
        write_source(tmp_path / f"{rank}.safetensors")
    run_ranks(2, tmp_path, check_failures)


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/one-rank", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_a_mesh_that_does_not_divide_a_tensor_as_torch_would_is_refused_by_name(one_rank: DeviceMesh) -> None:
    model = nn.Module()
    rows = DTensor.from_local(
        torch.zeros(3, 2), one_rank, [Shard(0)], run_check=False, shape=torch.Size((8, 2)), stride=(2, 1)
    )
    model.first, model.rows = nn.Parameter(torch.zeros(2)), nn.Parameter(rows)
    mapping = fxmap.KeyMapping({"first": "a", "rows": "b"})
    state = {"a": torch.ones(2), "b": torch.ones(8, 2)}
    words = r"rows: \[8, 2\] as \[Shard\(dim=0\)\] on a mesh of \[1\]: this rank has \[3, 2\], and would have \[8, 2\]"
    with pytest.raises(LoadError, match=words):
        mapping.load_into(model, state)
    assert not model.first.any()


def test_what_torch_cannot_tell_of_a_mesh_is_named(one_rank: DeviceMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(own: Any, axis: int) -> torch.Tensor:
        raise NotImplementedError("strided and uneven")

    monkeypatch.setattr(sharded, "held_indices", refuses)
    model = nn.Module()
    model.rows = nn.Parameter(distribute_tensor(torch.zeros(4, 2), one_rank, [Shard(0)]))
    with pytest.raises(LoadError, match=r"rows: .*torch cannot tell which part this rank holds: strided and uneven"):
        fxmap.KeyMapping({"rows": "b"}).load_into(model, {"b": torch.ones(4, 2)})


def test_dtensors_of_one_rank_are_a_source(one_rank: DeviceMesh) -> None:
    src, dst = nn.Linear(4, 2), nn.Linear(4, 2)
    state = {key: distribute_tensor(value.detach(), one_rank, [Shard(0)]) for key, value in src.state_dict().items()}
    assert fxmap.load(dst, state, src=nn.Linear(4, 2)).ok
    assert torch.equal(dst.weight, src.weight)


def test_dtensors_of_which_other_ranks_hold_parts_are_refused_as_a_source(
    one_rank: DeviceMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = distribute_tensor(torch.ones(2, 4), one_rank, [Shard(0)])
    monkeypatch.setattr(DeviceMesh, "size", lambda mesh, axis=None: 2)
    dst = nn.Linear(4, 2, bias=False)
    before = dst.weight.detach().clone()
    with pytest.raises(LoadError, match=r"weight: a DTensor, of which other ranks hold parts .*full_tensor\(\)"):
        fxmap.KeyMapping({"weight": "weight"}).load_into(dst, {"weight": value})
    assert torch.equal(dst.weight, before)
