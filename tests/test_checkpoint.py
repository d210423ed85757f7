"""Files: what is read, what is refused, and what wrappers do to keys."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxmap
from fxmap import checkpoint
from fxmap.checkpoint import match_prefix


def test_torch_file(tmp_path: Path) -> None:
    torch.save({"state_dict": nn.Linear(2, 2).state_dict(), "epoch": 3}, tmp_path / "a.pth")
    assert list(checkpoint.read(tmp_path / "a.pth")) == ["weight", "bias"]


def test_safetensors_file(tmp_path: Path) -> None:
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "a.safetensors")
    assert set(checkpoint.read(tmp_path / "a.safetensors")) == {"weight", "bias"}


def test_load_from_a_file_in_one_call(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())

    src, dst = build(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    torch.save(src.state_dict(), tmp_path / "float.pth")
    mapping = fxmap.load(dst, tmp_path / "float.pth", src=build())
    assert mapping.proof is not None
    assert mapping.proof.ok
    x = torch.randn(1, 3, 8, 8)
    assert torch.allclose(dst.eval()(x), src.eval()(x), atol=1e-6)


def test_a_file_without_a_model_is_guessed(tmp_path: Path) -> None:
    src, dst = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save(src.state_dict(), tmp_path / "a.pth")
    mapping = fxmap.load(dst, tmp_path / "a.pth")
    assert mapping.status("weight") is fxmap.Status.GUESSED
    assert torch.equal(dst.weight, src.weight)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.ones(2), "x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(fxmap.CheckpointError, match="would run code"):
        checkpoint.read(tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", pickle.dumps([1, 2])])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_broken_files_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"broken{suffix}"
    file.write_bytes(content)
    with pytest.raises(fxmap.CheckpointError, match="broken"):
        checkpoint.read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(fxmap.CheckpointError, match=r"nowhere\.pth: no such file"):
        checkpoint.read(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("data", [{}, [], 3, {"a": 1}, {"state_dict": {}}, {3: torch.ones(1)}])
def test_what_is_no_state_dict_is_refused(data: object) -> None:
    with pytest.raises(fxmap.CheckpointError):
        checkpoint.unwrap(data, "here")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_prefixes_are_stripped_and_added(prefix: str) -> None:
    plain, wrapped = {"a.b": 1}, {f"{prefix}a.b": 1}
    assert match_prefix(wrapped, {"a.b"})[0] == plain
    assert match_prefix(plain, set(wrapped))[0] == wrapped
    assert match_prefix(plain, {"other"})[0] == plain
