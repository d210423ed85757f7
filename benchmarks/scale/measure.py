"""One measurement of the scale benchmark, in a process of its own: `python -m benchmarks.scale.measure TASK FOLDER SIZES`.

It prints a JSON object: seconds by the clock, and the peak of memory over what importing torch and fxmap takes.
"""

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import fxmap
from fxmap.api import conversion, loading  # what is imported when it is asked for counts as importing
from fxmap.mapping.sharded import is_dtensor
from fxmap.testing.generated import Decoder, JoinedDecoder

MB = 2**20


def peak() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def built(kind: type[nn.Module], sizes: dict[str, int], device: str = "meta") -> nn.Module:
    """Return a decoder on a device."""
    with torch.device(device):
        return kind(**sizes)


def write(kind: type[nn.Module], sizes: dict[str, int], folder: Path, shards: int = 4) -> None:
    """Write a checkpoint of random numbers, tensor by tensor, in shards with an index."""
    folder.mkdir()
    shapes = {key: value.shape for key, value in built(kind, sizes).state_dict().items()}
    keys, places = list(shapes), dict[str, str]()
    generator = torch.Generator().manual_seed(0)
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = keys[number * len(keys) // shards : (number + 1) * len(keys) // shards]
        save_file({key: torch.randn(shapes[key], generator=generator) for key in part}, folder / name)
        places |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def write_both(folder: Path, sizes: dict[str, int]) -> None:
    """Write a checkpoint with joined projections, and one with the destination's own names."""
    write(JoinedDecoder, sizes, folder / "joined")
    write(Decoder, sizes, folder / "plain")


def tokens(device: str = "cpu") -> torch.Tensor:
    """Return an example input of the decoders, b n."""
    return torch.zeros(1, 8, dtype=torch.int64, device=device)


def load(device: str, folder: Path, sizes: dict[str, int]) -> None:
    """Load the joined checkpoint into a model on a device: meta, which is given the tensors, or cpu."""
    dst = built(Decoder, sizes, device)
    options: Any = {"verify": False, "example_inputs": tokens(), "assign": device == "meta"}
    fxmap.load(dst, folder / "joined", src=built(JoinedDecoder, sizes), **options)


def convert(name: str, folder: Path, sizes: dict[str, int]) -> dict[str, float]:
    """Convert the joined checkpoint, or, with renames alone, the plain one; returns the rate behind the first tensor."""
    ticks: list[tuple[float, int]] = []
    src = built(JoinedDecoder if name == "joined" else Decoder, sizes)
    output = folder / f"out-{name}"
    options: Any = {"verify": False, "example_inputs": tokens(), "shard_size": 500_000_000}
    options["progress"] = lambda done, total, what: ticks.append((time.perf_counter(), done))
    fxmap.convert(folder / name, output, src=src, dst=built(Decoder, sizes), **options)
    (start, first), (end, last) = ticks[0], ticks[-1]
    return {"bytes_a_second": (last - first) / (end - start)}


def ranks(count: int, folder: Path, sizes: dict[str, int]) -> list[dict[str, float]]:
    """Load the joined checkpoint into a model sharded by FSDP2 over several processes."""
    context = multiprocessing.get_context("spawn")
    (folder / f"ranks-{count}").mkdir(exist_ok=True)
    with context.Pool(count) as pool:
        return pool.starmap(_rank, [(rank, count, folder, sizes) for rank in range(count)], chunksize=1)


def _rank(rank: int, count: int, folder: Path, sizes: dict[str, int]) -> dict[str, float]:
    from torch import distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    where = f"file://{folder}/ranks-{count}/rendezvous"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=count)
    model = built(Decoder, sizes)
    mapping = fxmap.auto_map(built(JoinedDecoder, sizes), model, example_inputs=tokens(), verify=False)
    mesh = init_device_mesh("cpu", (count,))
    for layer in model.layers:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    before = peak()
    model.to_empty(device="cpu")
    start = time.perf_counter()
    mapping.load_into(model, folder / "joined")
    seconds = time.perf_counter() - start
    held = sum(value.to_local().nbytes for value in model.state_dict().values() if is_dtensor(value)) / MB
    dist.destroy_process_group()
    return {"seconds": seconds, "peak_mb": peak() - before, "held_mb": held}


TASKS: dict[str, Callable[[Path, dict[str, int]], Any]] = {
    "write": write_both,
    "load into the meta device": lambda folder, sizes: load("meta", folder, sizes),
    "load into memory": lambda folder, sizes: load("cpu", folder, sizes),
    "convert, renames alone": lambda folder, sizes: convert("plain", folder, sizes),
    "convert, joins taken apart": lambda folder, sizes: convert("joined", folder, sizes),
    "2 ranks": lambda folder, sizes: ranks(2, folder, sizes),
    "4 ranks": lambda folder, sizes: ranks(4, folder, sizes),
}


def warm_up() -> None:
    """Map two small decoders on the meta device, so that what is imported for that counts as importing."""
    sizes = {"layers": 1, "width": 16, "heads": 2, "groups": 2, "hidden": 16, "vocabulary": 8}
    src, dst = built(JoinedDecoder, sizes), built(Decoder, sizes)
    fxmap.auto_map(src, dst, example_inputs=tokens(), verify=False)


def main(task: str, folder: str, sizes: str) -> None:
    """Run a task, and print what it took."""
    assert conversion
    assert loading
    warm_up()
    before, start = peak(), time.perf_counter()
    found = TASKS[task](Path(folder), json.loads(sizes))
    row = {"seconds": time.perf_counter() - start, "peak_mb": peak() - before}
    print(json.dumps(row | ({"ranks": found} if task.endswith("ranks") else found or {})))


if __name__ == "__main__":
    main(*sys.argv[1:])
