"""Files of other frameworks: read lazily, by the names in them, and refused by name where they are broken or hostile."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fxmap
from fxmap.files.checkpoint import open_checkpoint
from fxmap.files.lazy import LazyTensor

ARRAYS: dict[str, Any] = {
    "params/conv/kernel": np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2),
    "params/conv/bias": np.array([1, 2], dtype=np.float16),
    "params/count": np.array(3, dtype=np.int64),
    "opt/mu/kernel": np.zeros((3, 3, 3, 2), dtype=np.float32),
}


def read(path: Path, lazy: bool = True) -> dict[str, Tensor]:
    state = open_checkpoint(path, lazy=lazy).state
    assert not lazy or all(isinstance(value, LazyTensor) for value in state.values())
    return dict(state)


def check(found: dict[str, Tensor], expected: dict[str, Any] | None = None) -> None:
    wanted = {key: value for key, value in ARRAYS.items() if not key.startswith("opt")} if expected is None else expected
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert torch.equal(found[key] + 0, torch.from_numpy(np.array(value))), key
        assert torch.equal(found[key][1:] + 0, torch.from_numpy(np.array(value))[1:]) if value.ndim else True


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("lazy", [True, False])
def test_npz_is_read_without_the_state_of_an_optimizer(tmp_path: Path, save: Callable[..., None], lazy: bool) -> None:
    save(tmp_path / "a.npz", **ARRAYS)
    check(read(tmp_path / "a.npz", lazy))


def test_arrays_by_columns_and_of_other_machines_are_read_as_they_are_meant(tmp_path: Path) -> None:
    arrays = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.arange(4, dtype=">f4")}
    save: Callable[..., None] = np.savez
    save(tmp_path / "a.npz", **arrays)
    check(read(tmp_path / "a.npz"), {"a": arrays["a"], "b": arrays["b"].astype("<f4")})


def test_bare_16_bits_are_bfloat16_and_an_array_alone_has_a_name(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0]).to(torch.bfloat16)
    np.save(tmp_path / "a.npy", values.view(torch.int16).numpy().view("V2"))
    found = read(tmp_path / "a.npy")
    assert found["array"].dtype is torch.bfloat16
    assert torch.equal(found["array"] + 0, values)


def test_objects_in_an_archive_are_refused_and_their_pickle_is_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weights=np.array([{"a": 1}], dtype=object))
    with pytest.raises(fxmap.CheckpointError, match="weights holds Python objects or text: reading them would run code"):
        read(tmp_path / "a.npz")


def zipped(compression: int, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("a.npy", content)
    return stream.getvalue()


def npy(shape: str, numbers: bytes = b"") -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + numbers


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npz", zipped(zipfile.ZIP_STORED, npy("(1000000000000,)")), "are announced"),
        ("a.npz", zipped(zipfile.ZIP_STORED, npy("(-1,)")), "the shape"),
        ("a.npz", zipped(zipfile.ZIP_DEFLATED, npy("(200000000,)", bytes(800_000_000))), "would become"),
        ("a.npz", b"PK\x03\x04 nothing", "not a readable file of NumPy"),
        ("a.npy", npy("(4,)", bytes(3)), "cut off"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(200), "not a readable HDF5 file"),
        ("a.keras", zipped(zipfile.ZIP_STORED, b""), "none of Keras"),
        ("a.msgpack", b"\x81\xa1a\xc7", "not a readable file of Flax"),
        ("a.msgpack", b"\x91" * 5000 + b"\x01", "not a readable file of Flax"),
        ("a.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "are announced"),
        ("a.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**50), "are announced"),
        ("a.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1, 0), "not a readable GGUF file"),
        ("a.gguf", b"GGUF" + struct.pack("<IQQ", 9, 1, 0), "version 2 or 3"),
    ],
)
def test_broken_and_hostile_files_are_refused_by_their_name(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    pytest.importorskip({".h5": "h5py", ".keras": "h5py", ".msgpack": "msgpack"}.get(Path(name).suffix, "numpy"))
    (tmp_path / name).write_bytes(content)
    for lazy in (True, False):
        with pytest.raises(fxmap.CheckpointError, match=words):
            read(tmp_path / name, lazy)


def test_a_missing_library_is_named_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module, words in (
        ("a.h5", "h5py", r"pip install 'fxmap\[hdf5\]'"),
        ("a.msgpack", "msgpack", r"pip install 'fxmap\[flax\]'"),
        ("a.index", "tensorflow", "pip install tensorflow"),
        ("_METADATA", "orbax.checkpoint", "pip install orbax-checkpoint"),
    ):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        (tmp_path / name).write_bytes(b"\x80nothing")
        with pytest.raises(fxmap.CheckpointError, match=words):
            read(tmp_path / name)


def test_hdf5_of_keras_2_is_read_in_the_order_of_its_layers(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = [b"stem", b"dense"]
        for layer, shapes in (("dense", {"kernel:0": (3, 2), "bias:0": (2,)}), ("stem", {"kernel:0": (3, 3, 3, 3)})):
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{name}".encode() for name in shapes]
            for name, shape in shapes.items():
                group.create_dataset(f"{layer}/{name}", data=np.ones(shape, dtype=np.float32), compression="gzip")
    assert list(read(tmp_path / "a.h5")) == ["stem/kernel:0", "dense/kernel:0", "dense/bias:0"]


def test_variables_of_keras_3_get_the_names_of_their_layers_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    layers: dict[str, tuple[str, list[tuple[int, ...]]]] = {
        "conv2d": ("stem", [(3, 3, 3, 8), (8,)]),
        "batch_normalization": ("norm", [(8,)] * 4),
        "attention/query_dense": ("query", [(8, 2, 4), (2, 4)]),
        "lstm/cell": ("cell", [(8, 20), (5, 20), (20,)]),
        "embedding": ("embedding", [(9, 8)]),
        "odd": ("odd", [(8,)] * 3),
    }
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        for path, (name, shapes) in layers.items():
            group = file.create_group(f"layers/{path}/vars")
            group.attrs["name"] = name
            for number, shape in enumerate(shapes):
                group.create_dataset(str(number), data=np.zeros(shape, dtype=np.float32))
        file.create_group("optimizer/vars").create_dataset("0", data=np.zeros((3, 3, 3, 8), dtype=np.float32))
    assert list(read(tmp_path / "a.weights.h5")) == [
        "stem/kernel", "stem/bias", "norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance",
        "attention/query/kernel", "attention/query/bias", "lstm/cell/kernel", "lstm/cell/recurrent_kernel", "lstm/cell/bias",
        "embedding/embeddings", "odd/0", "odd/moving_mean", "odd/moving_variance",
    ]  # fmt: skip


def test_hdf5_that_leads_to_other_files_is_not_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    np.save(tmp_path / "secret", np.arange(4.0))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["w"] = np.zeros(2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink("b.h5", "/w")
        file["own"] = np.ones(2)
    assert list(read(tmp_path / "a.h5")) == ["own"]
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("raw", (4,), dtype="f8", external=[(str(tmp_path / "secret.npy"), 128, 32)])
    with pytest.raises(fxmap.CheckpointError, match="its numbers lie in another file"):
        read(tmp_path / "c.h5")


def test_hdf5_of_a_kilobyte_that_announces_terabytes_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("w", (10**12,), dtype="f4", chunks=(1024,), compression="gzip")
    with pytest.raises(fxmap.CheckpointError, match="would become"):
        read(tmp_path / "a.h5")


PLACES: list[tuple[str, str, list[tuple[int, ...]]]] = [("a", "second", [(3, 2), (2,)]), ("b", "first", [(3,)] * 3)]


def test_a_model_that_keras_saved_is_read_with_the_names_of_its_configuration(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    config = {"class_name": "Functional", "config": {"name": "net", "layers": [
        {"class_name": "BatchNormalization", "config": {"name": "first", "scale": False, "center": True}},
        {"class_name": "Dense", "config": {"name": "second", "use_bias": True}},
    ]}}  # fmt: skip
    import json

    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as file:
        for path, name, shapes in PLACES:
            group = file.create_group(f"layers/{path}/vars")
            group.attrs["name"] = name
            for number, shape in enumerate(shapes):
                group.create_dataset(str(number), data=np.full(shape, number, dtype=np.float32))
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    found = read(tmp_path / "a.keras")
    assert list(found) == ["first/beta", "first/moving_mean", "first/moving_variance", "second/kernel", "second/bias"]
    assert torch.equal(found["first/moving_variance"] + 0, torch.full((3,), 2.0))


def packed(array: Any) -> Any:
    msgpack = pytest.importorskip("msgpack")
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def test_msgpack_of_flax_is_read_without_flax(tmp_path: Path) -> None:
    msgpack = pytest.importorskip("msgpack")
    kernel = ARRAYS["params/conv/kernel"]
    halves = {"0": packed(kernel.reshape(-1)[:30]), "1": packed(kernel.reshape(-1)[30:])}
    chunked = {
        "__msgpack_chunked_array__": True,
        "shape": {str(n): extent for n, extent in enumerate(kernel.shape)},
        "chunks": halves,
    }
    tree = {
        "step": 3,
        "params": {"conv": {"kernel": chunked, "bias": packed(ARRAYS["params/conv/bias"])}, "count": packed(np.array(3))},
        "opt_state": {"0": {"mu": packed(kernel)}},
    }
    (tmp_path / "a.msgpack").write_bytes(msgpack.packb(tree))
    check(read(tmp_path / "a.msgpack", lazy=False))


def gguf_file(path: Path, tensors: dict[str, Any], architecture: str = "", **facts: int) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, architecture or "none")
    if not architecture:
        writer.kv_data[0].pop("general.architecture")
    for name, value in facts.items():
        writer.add_uint32(name.replace("__", "."), value)
    for name, (array, kind) in tensors.items():
        data = array if kind is None else gguf.quants.quantize(array, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_has_the_shapes_of_torch_and_its_blocks_are_dequantized_row_by_row(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    array = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    gguf_file(tmp_path / "a.gguf", {"w.weight": (array, kind), "n.weight": (array[0], None)})
    found = read(tmp_path / "a.gguf")
    assert found["w.weight"].shape == (6, 64)
    expected = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind))
    assert torch.equal(found["w.weight"] + 0, expected)
    assert torch.equal(found["w.weight"][2:4, 5:9] + 0, expected[2:4, 5:9])
    assert torch.equal(found["n.weight"] + 0, torch.from_numpy(array[0]))


def test_rows_that_llama_cpp_reordered_are_put_back_and_what_it_changed_otherwise_is_refused(tmp_path: Path) -> None:
    heads, width = 2, 6
    array = np.arange(heads * width * 3, dtype=np.float32).reshape(heads * width, 3)
    # As convert_hf_to_gguf.py writes it.
    turned = array.reshape(heads, 2, width // 2, 3).swapaxes(1, 2).reshape(array.shape)
    facts = {"llama__attention__head_count": heads, "llama__attention__head_count_kv": heads}
    gguf_file(
        tmp_path / "a.gguf", {"blk.0.attn_q.weight": (turned, None), "blk.0.attn_v.weight": (array, None)}, "llama", **facts
    )
    found = read(tmp_path / "a.gguf")
    assert torch.equal(found["blk.0.attn_q.weight"] + 0, torch.from_numpy(array))
    assert torch.equal(found["blk.0.attn_v.weight"] + 0, torch.from_numpy(array))
    gguf_file(tmp_path / "b.gguf", {"a.weight": (array, None)}, "gemma")
    with pytest.raises(
        fxmap.CheckpointError, match="of the architecture 'gemma': the script that wrote it may have changed"
    ):
        read(tmp_path / "b.gguf")


def test_a_folder_of_orbax_is_read_where_orbax_is_installed(tmp_path: Path) -> None:
    checkpoint = pytest.importorskip("orbax.checkpoint")
    tree = {"params": {"conv": {"kernel": ARRAYS["params/conv/kernel"]}}, "batch_stats": {"norm": {"mean": np.ones(2)}}}
    checkpoint.PyTreeCheckpointer().save(tmp_path / "saved", tree)
    found = open_checkpoint(tmp_path / "saved").state
    assert set(found) == {"params/conv/kernel", "batch_stats/norm/mean"}
