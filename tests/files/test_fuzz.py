"""Damaged input to every reader: fxmap's own error or a right answer, never a crash, a partial load or a changed model."""

import json
import random
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fxmap
from fxmap.files.checkpoint import open_checkpoint

Damage = Callable[[random.Random, bytes], bytes]


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))


def write_zip(folder: Path) -> Path:
    torch.save({"state_dict": build().state_dict(), "epoch": 1}, folder / "a.pth")
    return folder / "a.pth"


def write_legacy(folder: Path) -> Path:
    torch.save(build().state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder / "old.pth"


def write_safetensors(folder: Path) -> Path:
    save_file(build().state_dict(), folder / "a.safetensors")
    return folder / "a.safetensors"


def write_index(folder: Path) -> Path:
    """Write a checkpoint in two files; what is damaged is the index."""
    state = build().state_dict()
    names = {key: f"model-{n % 2}.safetensors" for n, key in enumerate(state)}
    for name in set(names.values()):
        save_file({key: value for key, value in state.items() if names[key] == name}, folder / name)
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    return file


def write_mapping(folder: Path) -> Path:
    file = folder / "mapping.json"
    file.write_text(fxmap.auto_map(build(), build(), verify=False).to_json())
    return file


WRITERS = (write_zip, write_legacy, write_safetensors, write_index, write_mapping)


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        # Most of a file is values, which no reader can judge: prefer its ends, where the structure is.
        place = rng.randrange(len(data)) if rng.random() < 0.5 else rng.choice((1, -1)) * rng.randrange(min(len(data), 400))
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut_out(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 50) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[max(0, start - rng.randrange(1, 200)) :]


def zero(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.randrange(1, 300)
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def renumber(rng: random.Random, data: bytes) -> bytes:
    """Declare another number somewhere: a length, a shape, an offset; often a huge one."""
    digits = [n for n, byte in enumerate(data[:4000]) if chr(byte).isdigit()]
    if not digits:
        return data[:1] + b"\xff" * 7 + data[8:]
    place = rng.choice(digits)
    return data[:place] + rng.choice((b"99999999999999999", b"-1", b"1e9", b"0", b"null")) + data[place + 1 :]


def huge_header(rng: random.Random, data: bytes) -> bytes:
    return rng.getrandbits(64).to_bytes(8, "little") + data[8:]


def noise(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.randrange(0, 200))


DAMAGES: tuple[Damage, ...] = (truncate, flip, cut_out, repeat, zero, renumber, huge_header, noise)


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


def check(load: Callable[[nn.Module], object]) -> bool:
    """Load into a new model; return whether that was refused, in words, and with the model as it was."""
    dst = build()
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    message = None
    try:
        load(dst)
    except fxmap.FxmapError as error:
        message = str(error)
    assert message is None or (message.strip() and same_state(before, dst.state_dict()))
    return message is not None


def load_file(file: Path, dst: nn.Module) -> None:
    if file.suffix == ".json" and not file.name.endswith(".index.json"):
        fxmap.KeyMapping.from_json(file.read_text(errors="replace")).load_into(dst, build().state_dict())
    else:
        fxmap.load(dst, file, verify=False)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_files(tmp_path: Path, writer: Callable[[Path], Path], count: int) -> None:
    file = writer(tmp_path)
    whole = file.read_bytes()
    assert not check(partial(load_file, file))
    refused = 0
    for number in range(count):
        rng = random.Random(f"{writer.__name__} {number}")
        file.write_bytes(rng.choice(DAMAGES)(rng, whole))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            refused += check(partial(load_file, file))
    assert refused > count / 4


def other_dtype(rng: random.Random, value: Tensor) -> Tensor:
    return value.to(rng.choice((torch.float16, torch.int64, torch.bool, torch.complex64, torch.float64)))


def other_shape(rng: random.Random, value: Tensor) -> Tensor:
    return torch.zeros(rng.choice(((0,), (), (7,), (*value.shape, 2), tuple(reversed(value.shape)))))


def spoil(rng: random.Random, state: dict[str, Any]) -> Any:
    """Return a state dict that is wrong in meaning, not in bytes."""
    state = dict(state)
    for _ in range(rng.randrange(1, 4)):
        if not state:
            break
        key = rng.choice(list(state))
        value = state.pop(key)
        kind = rng.randrange(7)
        if not isinstance(value, Tensor):
            continue
        if kind == 0:
            state[rng.choice(("", ".", "x", f"{key}.y", key[1:], "module." + key, "é.weight"))] = value
        elif kind == 1:
            state[key] = other_dtype(rng, value)
        elif kind == 2:
            state[key] = other_shape(rng, value)
        elif kind == 3:
            state[key] = rng.choice((None, 3, "text", [value], {"tensor": value}, (value, value)))
        elif kind == 4:
            state[key] = value.to("meta")
        elif kind == 5:
            state[key] = value.to_sparse() if value.dim() and not value.is_meta else value
    nesting = rng.randrange(6)
    if nesting == 0:
        return {"state_dict": state}
    if nesting == 1:
        return {"a": {"b": {"c": {"d": {"e": {"f": state}}}}}}
    if nesting == 2:
        return rng.choice(
            ([state], (state,), {1: state}, {}, {"model": {}}, {"optimizer": {"state": state, "param_groups": []}})
        )
    return state


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_wrong_state_dicts(count: int) -> None:
    refused = 0
    for number in range(count):
        rng = random.Random(number)
        data = spoil(rng, build().state_dict())
        refused += check(lambda dst, data=data: fxmap.load(dst, data, verify=False))  # type: ignore[misc]
    assert refused > count / 4


def test_an_index_of_the_wrong_files(tmp_path: Path) -> None:
    file = write_index(tmp_path)
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(fxmap.CheckpointError, match=r"model-1\.safetensors: an empty file"):
        open_checkpoint(file)
