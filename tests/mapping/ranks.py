"""The processes of the tests of sharded models: each builds a model, shards it and loads its parts."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

import fxmap
from fxmap.errors import LoadError
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Gather, Permute, Reshape, Slice, Transpose
from fxmap.files.checkpoint import open_checkpoint
from fxmap.mapping.sharded import is_dtensor

WIDTH = 12
EXPERTS = 5  # no number of ranks divides them


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.o = nn.Linear(WIDTH, WIDTH, bias=False)
        self.experts = nn.Parameter(torch.zeros(EXPERTS, WIDTH, 3))
        self.norm = nn.LayerNorm(WIDTH)


def mapping() -> fxmap.KeyMapping:
    """Return one with a slice, permuted heads, rows by number, a transpose, a stack of experts and renames."""
    qkv, heads = Source("qkv"), (2, 2, WIDTH // 4, WIDTH)
    made: dict[str, Expression | str] = {
        "0.q.weight": Reshape(Permute(Reshape(Slice(qkv, 0, WIDTH), heads), (0, 2, 1, 3)), (WIDTH, WIDTH)),
        "0.k.weight": Slice(qkv, WIDTH, 2 * WIDTH),
        "0.q.bias": "bias",
        "0.k.bias": Gather(Source("bias"), tuple(reversed(range(WIDTH)))),
        "0.o.weight": Transpose(Source("o")),
        "0.experts": Concat(tuple(Reshape(Source(f"e.{i}"), (1, WIDTH, 3)) for i in range(EXPERTS))),
        "0.norm.weight": "norm",
        "0.norm.bias": "bias",
    }
    return fxmap.KeyMapping(made)


def write_source(path: Path) -> None:
    torch.manual_seed(0)
    state = {"qkv": torch.randn(2 * WIDTH, WIDTH), "bias": torch.randn(WIDTH), "norm": torch.randn(WIDTH)}
    experts = {f"e.{i}": torch.randn(WIDTH, 3) for i in range(EXPERTS)}
    save_file(state | experts | {"o": torch.randn(WIDTH, WIDTH)}, path)


def sharded(world: int, ways: str = "fsdp") -> nn.Module:
    """Return a model sharded by FSDP2 ("fsdp"), by tensor parallelism ("tp"), or by both, on a mesh of two axes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(1)
    model = nn.Sequential(Block())
    tensors = {"fsdp": 1, "tp": world}.get(ways, 2)
    both = init_device_mesh("cpu", (world // tensors, tensors), mesh_dim_names=("data", "tensor"))
    if "tp" in ways:
        plan = {"q": ColwiseParallel(), "k": ColwiseParallel(), "o": RowwiseParallel()}
        parallelize_module(model[0], both["tensor"], plan)
    if "fsdp" in ways:
        fully_shard(model[0], mesh=both["data"])
        fully_shard(model, mesh=both["data"])
    return model


def check_equal(rank: int, world: int, folder: Path, *ways: str) -> None:
    expected = mapping().apply(open_checkpoint(folder / "a.safetensors").state)
    for way in ways:
        model = sharded(world, way)
        mapping().load_into(model, folder / "a.safetensors")
        for key, value in model.state_dict().items():
            whole = value.full_tensor() if is_dtensor(value) else value
            assert torch.equal(whole, expected[key]), (way, rank, key)


def save_source(rank: int, world: int, folder: Path) -> None:
    """Write the source's tensors as a checkpoint of torch.distributed, each rank some rows of each."""
    from torch.distributed.checkpoint.state_dict_saver import save
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world,))
    state = open_checkpoint(folder / "a.safetensors").state
    save({key: distribute_tensor(value, mesh, [Shard(0)]) for key, value in state.items()}, checkpoint_id=folder / "dcp")


def check_planned(rank: int, world: int, folder: Path) -> None:
    """Both torch's loader with a planner of the mapping, and the mapping, load what other ranks wrote."""
    from torch.distributed.checkpoint.state_dict_loader import load

    expected = mapping().apply(open_checkpoint(folder / "a.safetensors").state)
    for by_torch in (True, False):
        model = sharded(world)
        if by_torch:
            load(model.state_dict(), checkpoint_id=folder / "dcp", planner=mapping().load_planner())
        else:
            mapping().load_into(model, folder / "dcp")
        for key, value in model.state_dict().items():
            assert torch.equal(value.full_tensor(), expected[key]), (rank, key, by_torch)


def save_and_load(rank: int, world: int, folder: Path) -> None:
    save_source(rank, world, folder)
    check_planned(rank, world, folder)


def check_failures(rank: int, world: int, folder: Path) -> None:
    """One rank has a file that is cut while it is read; then one rank ends: the other has its old values, and an error."""
    model = sharded(world)
    before = {key: value.to_local().clone() for key, value in model.state_dict().items()}
    state = open_checkpoint(folder / f"{rank}.safetensors", lazy=True).state
    if rank == 1:
        (folder / "1.safetensors").write_bytes((folder / "1.safetensors").read_bytes()[:-100])
    error = fxmap.CheckpointError if rank == 1 else LoadError
    text = "changed while" if rank == 1 else "1 of 2 ranks could not load their parts, rank 1 because of CheckpointError"
    with pytest.raises(error, match=text):
        mapping().load_into(model, state)
    assert all(torch.equal(value.to_local(), before[key]) for key, value in model.state_dict().items())
    if rank == 1:
        os._exit(0)
    with pytest.raises(LoadError, match="another rank ended"):
        mapping().load_into(model, state)
    assert all(torch.equal(value.to_local(), before[key]) for key, value in model.state_dict().items())
    os._exit(0)  # without a farewell to the rank that is gone


def run_ranks(world: int, folder: Path, work: Callable[..., None], *arguments: object) -> None:
    """Run `work(rank, world, folder, *arguments)` in several processes."""
    spawn(_rank, args=(world, folder, work, arguments), nprocs=world)


def _rank(rank: int, world: int, folder: Path, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    where, patience = f"file://{folder}/ranks", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world, timeout=patience)
    work(rank, world, folder, *arguments)
    dist.barrier()
    dist.destroy_process_group()
    # A thread of gloo may still let go of a tensor when a collective has returned; where Python is being finalized by then,
    # the thread is ended inside of C++, and the process aborts.
    os._exit(0)
