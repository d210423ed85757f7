"""Strangers: files that are often taken for checkpoints, each recognised by its first bytes and called by its name."""

import re
import zipfile
from pathlib import Path

_GET_IT = "the file itself was not downloaded: fetch it with `git lfs pull`, or from the page that it is offered on"

_AGAIN = "write it or fetch it again"

_ANEW = "whoever was asked for the file answered with a page: download it anew"

# What a name ends in.
_ENDINGS: tuple[tuple[str, str, str], ...] = (
    (".onnx", "an ONNX model", "save its initializers as a dict of tensors first: onnx.numpy_helper.to_array(initializer)"),
    (
        ".distcp",
        "a part of a checkpoint of torch.distributed.checkpoint",
        "make one file of its folder with torch.distributed.checkpoint.format_utils.dcp_to_torch_save(folder, path)",
    ),
    (".tflite", "a TensorFlow Lite model", "take the checkpoint that it was made from"),
    (".json", "a file of JSON, and no index of shards, which is named *.index.json", "name the file of the weights"),
)

# What a file begins with, what it is, and what to do.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS, and not the file that it points to", _GET_IT),
    (b"<!doctype", "a page of HTML, and no checkpoint", _ANEW),
    (b"<html", "a page of HTML, and no checkpoint", _ANEW),
    (b"<?xml", "a page of XML, and no checkpoint", _ANEW),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"bzh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zxz", "an xz archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"rar!", "a RAR archive", "unpack it first"),
    (b"%pdf", "a PDF document, and no checkpoint", _ANEW),
)

# What files of formats that go by their names begin with, and these names.
_MISNAMED: tuple[tuple[bytes, str, tuple[str, ...]], ...] = (
    (b"gguf", "a GGUF file", (".gguf",)),
    (b"\x89hdf\r\n", "an HDF5 file, as Keras writes it", (".h5", ".hdf5", ".keras")),
    (b"\x93numpy", "an array of NumPy", (".npy", ".npz")),
)


def stranger(path: Path) -> str:
    """Return the kind of a file that is no checkpoint, and the way out; empty where it may be one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.pth").write_bytes(b"<!DOCTYPE html><html>")
    ...     print(stranger(Path(folder) / "a.pth").partition(":")[0])
    a page of HTML, and no checkpoint
    """
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
            if not start and not path.stat().st_size:
                return f"an empty file, of 0 bytes: writing it or fetching it was broken off, or never began; {_AGAIN}"
    except OSError:
        return ""
    if not path.name.endswith(".index.json"):
        for ending, what, way_out in _ENDINGS:
            if path.name.lower().endswith(ending):
                return f"{what}: {way_out}"
    found = next((f"{what}: {way_out}" for begin, what, way_out in _BEGINNINGS if start.startswith(begin)), "")
    for begin, what, names in _MISNAMED:
        if start.startswith(begin) and not path.name.endswith(names):
            return f"{what}: give it a name that ends in {names[0]}, by which it is known"
    if not found and start.startswith(b"pk\x03\x04") and is_script(path):
        return (
            "a TorchScript archive: a model with its code, which is not read here. Save its weights: "
            "torch.save(torch.jit.load(path).state_dict(), other_path)"
        )
    return found or _tensor_parallel(path) or _text(path)


# Fewer characters may be the beginning of anything.
_TEXT_NEEDS = 4


def _text(path: Path) -> str:
    """Say that a file with a name of weights holds text."""
    if not path.name.lower().endswith(_OF_WEIGHTS):
        return ""
    with path.open("rb") as file:
        start = file.read(512)
    try:
        words = start.decode("ascii")
    except UnicodeDecodeError:
        return ""
    if len(words.strip()) < _TEXT_NEEDS or not all(sign.isprintable() or sign in "\n\r\t" for sign in words):
        return ""
    line = words.strip().splitlines()[0][:40]
    return f"a file of text, and no checkpoint: it begins with {line!r}. Name the file of the weights, or fetch it again"


_OF_WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


# How libraries name the file, or the folder, of one rank.
_RANK = re.compile(r"(consolidated\.|(?:mp|tp)_rank_)(\d+)")


def _tensor_parallel(path: Path) -> str:
    """Say that a file has others beside it that hold the other parts of its tensors."""
    for place in (path, path.parent):
        rank = _RANK.search(place.name)
        if rank is None:
            continue
        beside = place.parent.glob(f"*{rank[1]}*")
        ranks = [(other.name, found[2]) for other in beside if (found := _RANK.search(other.name))]
        others = [name for name, number in ranks if number != rank[2]]
        if others:
            return (
                f"one of {len(others) + 1} shards of tensor parallelism, with a part of every tensor: the others are beside "
                f"it ({', '.join(sorted(others)[:3])}). Join them with the tools of the library that wrote them"
            )
    return ""


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file with constants and code."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError):
        return False
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


# Files of the libraries of Hugging Face, in the order in which they are looked for in a folder.
_IN_FOLDERS = tuple(
    f"{stem}{ending}"
    for stem in ("model", "diffusion_pytorch_model", "pytorch_model", "adapter_model")
    for ending in (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
)


def file_in(folder: Path) -> Path | str:
    """Return the checkpoint in a folder of a Hugging Face library; else a description of the folder, and the way out."""
    found = [folder / name for name in _IN_FOLDERS if (folder / name).is_file()]
    if found:
        return found[0]
    if (folder / ".metadata").is_file():
        return folder / ".metadata"  # of torch.distributed.checkpoint
    if (folder / "_METADATA").is_file():
        return folder / "_METADATA"  # of orbax
    if (folder / "checkpoint").is_file() and (indices := sorted(folder.glob("*.index"))):
        return indices[-1]  # of TensorFlow
    shards = sorted(path.name for path in folder.glob("consolidated.*.pth")) or sorted(
        path.name for path in folder.glob("mp_rank_*")
    )
    if shards:
        return (
            f"a folder of {len(shards)} shards of tensor parallelism ({', '.join(shards[:3])}), each with a part of every "
            "tensor: join them with the tools of the library that wrote them"
        )
    if any(folder.glob("**/*zero_pp_rank_*")):
        return (
            "a folder of DeepSpeed, whose tensors are shared out among ranks (ZeRO): make one file of it with "
            "zero_to_fp32.py, which DeepSpeed puts beside it"
        )
    if told := _shards_without_index(folder):
        return told
    if not any(folder.iterdir()):
        return "an empty folder: fetch or write the checkpoint into it"
    return "a folder without a checkpoint of a usual name: name the file in it, such as one that ends in .safetensors"


# How libraries number shards: model-00001-of-00002.safetensors.
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")


def _shards_without_index(folder: Path) -> str:
    """Say of numbered shards without their index which numbers are missing; empty where there are none."""
    found = [match for path in sorted(folder.iterdir()) if (match := _SHARD.fullmatch(path.name))]
    if not found:
        return ""
    stem, count, ending = found[0][1], int(found[0][3]), found[0][4]
    there = {int(match[2]) for match in found if (match[1], int(match[3])) == (stem, count)}
    absent = [number for number in range(1, min(count, _MOST_SHARDS) + 1) if number not in there]
    index = f"{stem}{ending}.index.json"
    if absent:
        names = ", ".join(f"{stem}-{number:0{len(found[0][2])}d}-of-{found[0][3]}{ending}" for number in absent[:3])
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        return f"a folder of shards, of which {len(absent)} of {count} are missing: {names}{more}; and so is {index}"
    return (
        f"a folder of all {count} shards, without {index}, which says what is in them: fetch it, or give the files "
        f"themselves as a list, [{found[0][0]}, ...]"
    )


_MOST_SHARDS = 10_000
