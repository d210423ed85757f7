"""Streaming: nothing is read before it is needed, nothing is half-written, and memory stays that of the destination."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxmap
from fxmap.expressions.base import Source
from fxmap.expressions.layout import Concat, Slice, Transpose
from fxmap.files.checkpoint import open_checkpoint
from fxmap.mapping import journal, writing

JOINED = fxmap.KeyMapping(
    {
        "0.weight": Slice(Source("qkv"), 0, 4),
        "0.bias": "bias",
        "1.weight": Transpose(Slice(Source("qkv"), 4, 8)),
        "1.bias": "bias",
    }
)


def model(device: str = "cpu") -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4, device=device), nn.Linear(4, 4, device=device))


def file(folder: Path) -> Path:
    torch.manual_seed(0)
    save_file({"qkv": torch.randn(12, 4), "bias": torch.randn(4)}, folder / "a.safetensors")
    return folder / "a.safetensors"


def test_a_lazy_state_gives_what_apply_gives_and_parts_of_it(tmp_path: Path) -> None:
    path = file(tmp_path)
    lazy, whole = JOINED.lazy(path), JOINED.apply(fxmap.KeyMapping({"qkv": "qkv", "bias": "bias"}).lazy(path))
    assert list(lazy) == list(whole)
    assert all(torch.equal(lazy[key], whole[key]) for key in whole)
    assert torch.equal(lazy.part("1.weight", ((1, 3), (2, 4))), whole["1.weight"][1:3, 2:4])
    assert {type(lazy[key]) for key in lazy} == {torch.Tensor}


@pytest.mark.parametrize("bound", [0, 1 << 20])
def test_a_file_that_breaks_while_it_is_read_leaves_the_old_values(
    bound: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "bound_of", lambda _: bound)
    state = open_checkpoint(file(tmp_path), lazy=True).state
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[: len(data) - 80])  # of qkv, which lies last, the last rows
    dst = model()
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    mapping = fxmap.KeyMapping(dict(JOINED) | {"1.weight": Slice(Source("qkv"), 8, 12)})
    with pytest.raises(fxmap.CheckpointError, match=r"changed while it was read.*Sequential has its old values again"):
        mapping.load_into(dst, state)
    assert all(torch.equal(value, before[key]) for key, value in dst.state_dict().items())


def test_an_interrupt_leaves_the_old_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dst = model()
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    save, saved = journal.Journal.save, list[str]()

    def interrupted(self: journal.Journal, key: str, tensor: torch.Tensor) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(key)
        save(self, key, tensor)

    monkeypatch.setattr(journal.Journal, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        JOINED.load_into(dst, file(tmp_path))
    assert all(torch.equal(value, before[key]) for key, value in dst.state_dict().items())


def test_a_full_disk_for_the_journal_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> IO[bytes]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "bound_of", lambda _: 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    dst = model()
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    with pytest.raises(fxmap.LoadError, match=r"0\.weight: its old value .*No space left.*TMPDIR"):
        JOINED.load_into(dst, file(tmp_path))
    assert all(torch.equal(value, before[key]) for key, value in dst.state_dict().items())


def test_a_wrong_shape_is_found_before_anything_is_read_or_written(tmp_path: Path) -> None:
    dst = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    before = dst.state_dict()["0.weight"].clone()
    with pytest.raises(fxmap.LoadError, match=r"1\.weight: source \[4, 4\], destination \[3, 4\]"):
        JOINED.load_into(dst, file(tmp_path))
    assert torch.equal(dst.state_dict()["0.weight"], before)


def test_a_model_on_the_meta_device_is_given_the_tensors(tmp_path: Path) -> None:
    dst, plain = model("meta"), model()
    JOINED.load_into(plain, file(tmp_path))
    with pytest.raises(fxmap.LoadError, match="assign=True"):
        JOINED.load_into(dst, file(tmp_path))
    assert JOINED.load_into(dst, file(tmp_path), assign=True).written == 4
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in dst.state_dict().items())
    assert isinstance(dst[0].weight, nn.Parameter)
    assert dst[0].bias is not dst[1].bias


def test_tied_parameters_of_the_meta_device_stay_tied() -> None:
    dst = model("meta")
    dst[1].weight = dst[0].weight
    state = {"w": torch.randn(4, 4), "b": torch.randn(4)}
    mapping = fxmap.KeyMapping({"0.weight": "w", "1.weight": "w", "0.bias": "b", "1.bias": "b"})
    mapping.load_into(dst, state, assign=True)
    assert dst[1].weight is dst[0].weight
    dst[0].weight.data.zero_()
    assert state["w"].any(), "the source's tensors are not the destination's"


def test_what_stays_without_values_on_the_meta_device_is_refused(tmp_path: Path) -> None:
    dst = model("meta")
    mapping = fxmap.KeyMapping({key: part for key, part in JOINED.items() if key != "1.bias"})
    with pytest.raises(fxmap.LoadError, match=r"1\.bias: no value is made for it"):
        mapping.load_into(dst, file(tmp_path), "keep", verify=False, assign=True)
    assert all(value.is_meta for value in dst.state_dict().values())


def test_a_whole_load_into_the_meta_device_is_proven_and_equal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    src, dst = nn.Sequential(model(), nn.ReLU()), nn.Sequential(nn.Identity(), model("meta"), nn.ReLU())
    torch.save(src.state_dict(), tmp_path / "a.pth")
    mapping = fxmap.load(dst, tmp_path / "a.pth", src=src, assign=True, verify="required")
    assert mapping.ok
    x = torch.randn(2, 4)
    assert torch.equal(dst(x), src(x))


PEAK = """
import resource, sys, torch, fxmap
from torch import nn
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
for device in ("meta", "cpu"):
    dst = nn.Sequential(*[nn.Linear(2048, 2048, bias=False, device=device) for _ in range(12)])
    mapping = fxmap.KeyMapping({f"{i}.weight": f"h.{i}.w" for i in range(12)})
    mapping.load_into(dst, sys.argv[1], assign=device == "meta")
    print(peak() - before)
    del dst
"""


def test_memory_is_that_of_the_destination_and_its_largest_tensor_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({f"h.{i}.w": torch.zeros(2048, 2048) for i in range(12)}, path)  # 12 tensors of 16 MiB
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    assigned, written = (float(line) - 12 * 16 for line in done.stdout.split())
    assert assigned < 2 * 16
    assert written < 2 * 16 + (journal.BOUND >> 20)


def test_keys_that_code_of_a_module_loads_are_put_back_as_well() -> None:
    class Own(nn.Linear):
        def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
            with torch.no_grad():
                self.bias.fill_(9)
            super()._load_from_state_dict(state, prefix, *rest)
            raise RuntimeError("refused")

    dst = Own(3, 2)
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    with pytest.raises(fxmap.LoadError, match="refused"):
        fxmap.KeyMapping({"weight": "w", "bias": "b"}).load_into(dst, {"w": torch.ones(2, 3), "b": torch.ones(2)})
    assert all(torch.equal(value, before[key]) for key, value in dst.state_dict().items())


def test_a_join_is_not_made_to_know_its_shape(tmp_path: Path) -> None:
    path = file(tmp_path)
    lazy = fxmap.KeyMapping({"w": Concat((Source("qkv"), Source("qkv")))}).lazy(path)
    path.unlink()
    assert lazy.shape("w") == (24, 4)
    with pytest.raises(fxmap.CheckpointError, match=r"a\.safetensors: it is gone"):
        lazy["w"]


def test_memory_of_what_was_loaded_can_still_be_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "bound_of", lambda _: 0)  # all old values go through the journal's file
    dst = model()
    JOINED.load_into(dst, file(tmp_path))
    assert all(tensor.untyped_storage().resizable() for tensor in dst.state_dict().values())
