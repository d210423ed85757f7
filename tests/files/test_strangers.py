"""Files that are no checkpoints are called by their names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxmap


def refused(path: Path) -> str:
    with pytest.raises(fxmap.CheckpointError) as caught:
        fxmap.load(nn.Linear(2, 2), path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "page of HTML.*download it anew"),
        (b"\n  <html></html>", "page of HTML"),
        (b"GGUF\x03\x00", "GGUF file"),
        (b"\x89HDF\r\n\x1a\n", "HDF5 file"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a"])
def test_by_their_first_bytes(tmp_path: Path, content: bytes, words: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(fxmap.CheckpointError, match=words):
        fxmap.load(nn.Linear(2, 2), tmp_path / name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_archive_of_torchscript(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    assert "TorchScript archive" in refused(tmp_path / "a.pt")


def test_a_folder_of_hugging_face_is_a_checkpoint(tmp_path: Path) -> None:
    src, dst = nn.Linear(2, 2), nn.Linear(2, 2)
    save_file(src.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    fxmap.load(dst, tmp_path)
    assert torch.equal(dst.weight, src.weight)


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"")
    assert "an empty file" in refused(tmp_path)
    (tmp_path / ".metadata").unlink()
    for rank in range(2):
        torch.save({"weight": torch.ones(1, 2)}, tmp_path / f"consolidated.0{rank}.pth")
    assert "2 shards of tensor parallelism" in refused(tmp_path)
    assert "one of 2 shards of tensor parallelism" in refused(tmp_path / "consolidated.00.pth")
    assert "name the file in it" in refused(tmp_path.parent)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.pth", b"", "an empty file"),
        ("m.pth", b"\x1f\x8b\x08abc", "a gzip archive"),
        ("m.onnx", b"\x08\x07", "an ONNX model"),
        ("__0_0.distcp", b"x", "torch.distributed.checkpoint"),
        ("config.json", b"{}", "no index of shards"),
        ("m.pth", bytes(range(200)), "neither torch.save nor safetensors wrote it"),
    ],
)
def test_other_files_are_called_by_their_name_and_no_library_is_quoted(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert words in message
    assert "weights_only" not in message


def test_a_folder_of_deepspeed_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "global_step5").mkdir()
    (tmp_path / "global_step5" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
    assert "zero_to_fp32" in refused(tmp_path)


@pytest.mark.parametrize("name", ["m.pth", "m.safetensors", "m.bin"])
def test_text_is_called_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello, these are my notes\n")
    text = refused(tmp_path / name)
    assert "a file of text, and no checkpoint: it begins with 'hello, these are my notes'" in text
    assert "KeyError" not in text


def test_an_empty_file_is_not_said_to_be_on_git_lfs(tmp_path: Path) -> None:
    (tmp_path / "m.pth").touch()
    assert "an empty file, of 0 bytes" in refused(tmp_path / "m.pth")
    assert "lfs" not in refused(tmp_path / "m.pth")


def test_a_name_that_is_not_there_has_the_closest_beside_it(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "resnet.pth")
    assert refused(tmp_path / "resent.pth").endswith("no such file; the closest beside it is resnet.pth")
    assert f"there is no folder {tmp_path / 'gone'}" in refused(tmp_path / "gone" / "a.pth")


def test_folders_without_what_is_needed_say_what_that_is(tmp_path: Path) -> None:
    assert "no checkpoint; it is an empty folder" in refused(tmp_path)
    for number in (1, 3):
        save_file({"weight": torch.ones(1)}, tmp_path / f"model-0000{number}-of-00003.safetensors")
    text = refused(tmp_path)
    assert "1 of 3 are missing: model-00002-of-00003.safetensors; and so is model.safetensors.index.json" in text
    save_file({"weight": torch.ones(1)}, tmp_path / "model-00002-of-00003.safetensors")
    assert "all 3 shards, without model.safetensors.index.json" in refused(tmp_path)
