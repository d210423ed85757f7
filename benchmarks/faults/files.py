"""Attacks by files that are read (damaged, hostile, growing, of bad quantization, changed behind the reader) or written."""

import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import fxmap
from benchmarks.faults.attack import Attack, copies, load_or_refuse, model, raw, same
from fxmap.files.checkpoint import read
from fxmap.files.quantized import ENTRY
from fxmap.files.writing import save


def _write(kind: str, folder: Path) -> Path:
    """Write a good file of a kind; what is damaged of an index is the index."""
    state = model().state_dict()
    if kind == "index":
        save_file(state, folder / "part.safetensors")
        file = folder / "model.safetensors.index.json"
        file.write_text(json.dumps({"weight_map": dict.fromkeys(state, "part.safetensors")}))
    elif kind == "safetensors":
        file = folder / "a.safetensors"
        save(state, file)
    else:
        file = folder / "a.pth"
        torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=kind == "zip")
    return file


def _damaged(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 500))
    junk = rng.choice((b"", b"\xff" * 8, b"\0" * rng.randrange(1, 300), b"99999999999999999", b"-1", rng.randbytes(8)))
    end = place + rng.choice((0, 1, 8, rng.randrange(1, 400), len(data)))
    return data[:place] + junk + data[end:]


def damaged_files(rng: random.Random, folder: Path) -> str:
    """Cut, overwrite, insert and remove bytes, most often where the structure is."""
    file = _write(rng.choice(("zip", "old", "safetensors", "index")), folder)
    data = file.read_bytes()
    for _ in range(rng.choice((1, 1, 2, 5))):
        data = _damaged(rng, data) or b"\0"
    file.write_bytes(data)
    return load_or_refuse(lambda dst: fxmap.load(dst, file, verify=False))


# What a pickle may want to import; `os.system` would leave a file.
_GLOBALS: tuple[bytes, ...] = (
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n", b"cbuiltins\nbytearray\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\nset\n", b"c_codecs\nencode\n", b"ctorch\nFloatStorage\n"),
)
_PARTS: tuple[bytes, ...] = (
    *(b"}", b"]", b")", b"(", b"K\x01", b"N", b"\x85", b"\x86", b"\x87", b"t", b"u", b"s", b"e", b"a", b"R", b"b", b"Q"),
    *(b"h\x00", b"h\x01", b"q\x00", b"q\x01", b"\x81", b"\x88", b"X\x01\x00\x00\x00a", b"X\x05\x00\x00\x00state"),
)


def hostile_pickles(rng: random.Random, folder: Path) -> str:
    """Build pickles of random instructions: growing, recursive, importing, calling."""
    mark = folder / "code-was-run"
    call = b"(X" + struct.pack("<I", len(f"touch {mark}")) + f"touch {mark}".encode() + b"tR"
    parts = [rng.choice((*_PARTS, *_GLOBALS, _GLOBALS[0] + call)) for _ in range(rng.randrange(2, 60))]
    if rng.random() < 0.4:
        # Keys of nested tuples, whose hash visits their parts along every way.
        pairs, singles = rng.randrange(60), rng.choice((0, 100, rng.randrange(1_000_000)))
        parts = [b")q\x00", *[b"h\x00h\x00\x86q\x00"] * pairs, b"\x85" * singles, b"K\x01" * (pairs % 2)]
    payload = b"\x80\x02}(" + b"".join(parts) + b"K\x01u."
    file = folder / "a.pth"
    if rng.random() < 0.5:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", payload)
            archive.writestr("a/version", "3\n")
            archive.writestr("a/data/0", bytes(rng.choice((4, 4000))))
    else:
        start: tuple[Any, ...] = (0x1950A86A20F9469CFC6C, 1001, {})
        file.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in start) + payload)
    failure = load_or_refuse(lambda dst: fxmap.load(dst, file, verify=False))
    return "code of the file was run" if mark.exists() else failure


def growing_files(rng: random.Random, folder: Path) -> str:
    """Save containers that hold themselves, are shared or deep, and tensors that are larger than their storage."""
    inner: Any = {"weight": torch.zeros(1).expand(rng.choice((1, 2**20, 2**40)))}
    for _ in range(rng.choice((1, 3, 30, 200))):
        inner = {str(n): inner for n in range(rng.choice((1, 2, 9)))}
    if rng.random() < 0.4:
        loop: dict[str, Any] = {"inner": inner}
        loop.update({str(n): rng.choice((loop, [loop], (loop,))) for n in range(rng.choice((1, 999)))})
        inner = loop
    file = folder / "a.pth"
    torch.save(inner, file, _use_new_zipfile_serialization=rng.random() < 0.5)
    with fxmap.file_limits(entries=200_000, free=2**22):
        return load_or_refuse(lambda dst: fxmap.load(dst, file, verify=False))


def bad_quantization(rng: random.Random, folder: Path) -> str:
    """Describe quantized tensors whose dtype, scheme, axis, scales and zero points do not belong together."""
    numbers = (0, 1, 1, 1, -1, 127, 300, 2**31, float("nan"), float("inf"), 1e-45)
    kinds = (torch.float32, torch.float64, torch.int64, torch.int8, torch.bool)
    fits = rng.random() < 0.5  # the shapes, if not what is in them
    shape = (2, 3) if fits else tuple(rng.choice((0, 1, 2, 3)) for _ in range(rng.choice((0, 1, 2, 2, 2, 4))))
    parts = {"a#integers": torch.zeros(shape, dtype=rng.choice((torch.int8, torch.uint8, torch.int32, torch.float32)))}
    for name in ("a#scales", "a#zero_points"):
        length = 2 if fits else rng.choice((0, 1, 2, 3))
        value = torch.full((length,) if rng.random() < 0.9 else (), rng.choice(numbers), dtype=torch.float64)
        dtype = rng.choice(kinds)
        parts[name] = (torch.nan_to_num(value) if dtype in kinds[2:] else value).to(dtype)
    schemes = [name for name in vars(torch) if isinstance(getattr(torch, name), torch.qscheme)]
    entry: dict[str, Any] = {"quantized": "a", "dtype": rng.choice(("qint8", "quint8", "qint32", "quint4x2", "int8"))}
    entry["qscheme"] = rng.choice(schemes)
    if rng.random() < 0.7:
        entry["axis"] = rng.choice((0, 0, 0, 1, 2, -1, 10**9, None, "0"))
    whole: Any = entry if rng.random() < 0.5 else {"object": rng.choice(("linear", "cell")), "parts": [entry, None]}
    description = json.dumps({"format": 1, "entries": {"4.weight": whole, "b": entry}, "metadata": None})
    save_file(parts, folder / "a.safetensors", metadata={ENTRY: description})
    return load_or_refuse(lambda dst: fxmap.load(dst, folder / "a.safetensors", verify=False))


def files_changed_behind_the_reader(rng: random.Random, folder: Path) -> str:
    """Rewrite, cut or remove a file when it has been read."""
    file = folder / f"a.{rng.choice(('safetensors', 'pth'))}"
    state: dict[str, Any] = {"a": torch.arange(rng.choice((1, 10_000))) * 1.0, "b": torch.ones(3, dtype=torch.bfloat16)}
    save(state, file)
    found = read(file)
    harm = rng.randrange(3)
    if harm == 0:
        file.write_bytes(rng.randbytes(file.stat().st_size))
    elif harm == 1:
        os.truncate(file, rng.randrange(file.stat().st_size))
    else:
        file.unlink()
    return "" if same(state, found) else "what was read has changed"


_NAMES = ("a", "é", "\udcff", "a" * 240, "a" * 300, "..", "-", " ", "\n", "\x1b[2J", "a\0b", "漢字", "CON", "a/b", ".", "")


def written_files(rng: random.Random, folder: Path) -> str:
    """Write under all kinds of names, over links, devices and files of others, and fail in the middle."""
    file = folder / (rng.choice(_NAMES) + rng.choice((".pth", ".safetensors", ".bin", ".txt")))
    state = {"a": torch.arange(5.0)}
    old, overwrite = rng.choice(("", "file", "link", "pipe", "device")), rng.random() < 0.5
    try:
        _prepare(file, old, folder)
    except (OSError, ValueError):
        old = ""  # no such name
    broken: dict[str, Any] = state | ({"b": "no tensor"} if (fails := rng.random() < 0.3) else {})
    try:
        save(broken if file.suffix == ".safetensors" else state, file, overwrite=overwrite)
    except fxmap.FxmapError as error:
        untouched = old != "file" or file.read_bytes() == b"old"
        rest = [path.name for path in folder.iterdir() if path.name.startswith(".fxmap")]
        return ("" if str(error) else "no words") if untouched and not rest else f"something was left: {rest}"
    if fails and file.suffix == ".safetensors":
        return "what cannot be stored was written"
    if old and not overwrite and old != "link":
        return f"a {old} was overwritten"
    if (old == "link") != file.is_symlink() or (old == "file" and file.stat().st_mode & 0o777 != 0o640):
        return "a link or the permissions are lost"
    return "" if same(state, read(file)) else "it reads back as something else"


def _prepare(file: Path, old: str, folder: Path) -> None:
    if old == "file":
        file.write_bytes(b"old")
        file.chmod(0o640)
    elif old == "link":
        file.symlink_to(folder / "target")
    elif old == "pipe":
        os.mkfifo(file)
    elif old == "device":
        file.symlink_to("/dev/full")


def spoiled_numbers(rng: random.Random, folder: Path) -> str:
    """Give numbers that the destination's dtype does not hold, or that a fold makes NaN."""
    src, dst = model(), model()
    state = copies(src.state_dict())
    dtypes = (torch.float16, torch.float32, torch.float64, torch.int8, torch.int64)
    key = rng.choice(list(state))
    value = torch.full_like(state[key], 1, dtype=torch.float64)
    value.view(-1)[0] = rng.choice((-1.0, 1e5, 1e39, 300.0, -1e-3, float("inf"), float("nan"), 2**40))
    value = (torch.nan_to_num(value, 1, 1).clamp(-1e9, 1e9) if (dtype := rng.choice(dtypes)) in dtypes[3:] else value).to(
        dtype
    )
    state[key] = value
    dst.to(rng.choice(dtypes[:3]))
    own = dst.state_dict()[key].dtype
    mapping = fxmap.KeyMapping({name: name for name in state})
    try:
        mapping.load_into(dst, state)
    except fxmap.FxmapError:
        return ""
    except Exception as error:
        return raw(error)
    got = dst.state_dict()[key].double()
    wrong = (got.isfinite() != value.double().isfinite()).any() or (not own.is_floating_point and (got != value).any())
    return f"{dtype} became {own} and other numbers" if bool(wrong) else ""


def quietly(try_one: Callable[[random.Random, Path], str]) -> Callable[[random.Random, Path], str]:
    """Return the function without the warnings of torch about what is deprecated."""

    def run(rng: random.Random, folder: Path) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return try_one(rng, folder)

    return run


def attacks() -> Iterator[Attack]:
    """Yield the kinds of attacks by files."""
    yield Attack("damaged files", "an error of fxmap, or a right answer; the model as it was", quietly(damaged_files))
    yield Attack("hostile pickles", "no code of the file runs, no hang, no overflow", quietly(hostile_pickles))
    yield Attack("files that grow", "refused within the limits", quietly(growing_files))
    yield Attack("bad quantization", "refused before torch packs it", quietly(bad_quantization))
    yield Attack("changed behind the reader", "what was read stays", quietly(files_changed_behind_the_reader))
    yield Attack("written files", "whole or not at all; links and permissions stay", quietly(written_files))
    yield Attack("spoiled numbers", "refused, or written as they are", quietly(spoiled_numbers))
