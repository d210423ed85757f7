"""int8 state dicts in safe files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization as tq
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import fxmap
from fxmap.files.checkpoint import read
from fxmap.files.quantized import ENTRY
from fxmap.files.writing import save
from fxmap.run.noise import equal_states
from fxmap.testing.recipes import layers as recipes
from fxmap.testing.recipes.forms import Form, engine

pytestmark = pytest.mark.usefixtures("fbgemm")


@pytest.fixture(autouse=True)
def _engine() -> Iterator[None]:
    # That of the recipes. On CPUs with VNNI torch's default is another, whose transposed convolution is wrong in 1d.
    with engine("fbgemm"):
        yield


def equal(one: Any, other: Any) -> bool:
    keys = list(one) == list(other)
    return keys and all(equal_states(a, b) and exactly(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def exactly(a: Any, b: Any) -> bool:
    """Tell whether scales have the same dtypes as well."""
    if not isinstance(a, torch.Tensor) or not a.is_quantized or not str(a.qscheme()).startswith("torch.per_channel"):
        return True
    scales = a.q_per_channel_scales().dtype == b.q_per_channel_scales().dtype
    return scales and a.q_per_channel_axis() == b.q_per_channel_axis() and torch.equal(a.int_repr(), b.int_repr())


@pytest.mark.parametrize("form", [Form.PREPARED, Form.QAT, Form.INT8_CHANNEL, Form.DYNAMIC])
def test_round_trip_is_exact_and_loads_into_a_fresh_model(form: Form, tmp_path: Path) -> None:
    data = recipes.batches(3)
    model = recipes.build_form(form, recipes.randomised(1).state_dict(), data)
    file = tmp_path / "model.safetensors"
    save(model.state_dict(), file)
    state = read(file)
    assert equal(model.state_dict(), state)
    assert state._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]
    fresh = recipes.build_form(form, recipes.randomised(2).state_dict(), recipes.batches(4))
    fresh.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(*data[0]), model.eval()(*data[0]))


def test_a_saved_int8_model_is_a_source(tmp_path: Path) -> None:
    data = recipes.batches(3)
    int8 = recipes.build_form(Form.INT8_CHANNEL, recipes.randomised(1).state_dict(), data)
    save(int8.state_dict(), tmp_path / "int8.safetensors")
    one, other = recipes.randomised(2), recipes.randomised(3)
    fxmap.transfer(int8, one, example_inputs=data[0], verify=False)
    fxmap.load(other, tmp_path / "int8.safetensors", src=int8, example_inputs=data[0], verify=False)
    sourced = [key for key in one.state_dict() if "num_batches" not in key]
    assert all(torch.equal(one.state_dict()[key], other.state_dict()[key]) for key in sourced)


def test_packed_layers_that_torch_cannot_read_safely_go_into_safetensors_alone(tmp_path: Path) -> None:
    model = tq.quantize_dynamic(nn.Sequential(nn.GRU(4, 4)), {nn.GRU})
    with pytest.raises(fxmap.CheckpointError, match=r"Write a \.safetensors file"):
        save(model.state_dict(), tmp_path / "gru.pth")
    assert list(tmp_path.iterdir()) == []
    save(model.state_dict(), tmp_path / "gru.safetensors")
    assert equal(model.state_dict(), read(tmp_path / "gru.safetensors"))


def test_without_metadata_a_filled_model_is_complete_all_the_same(tmp_path: Path) -> None:
    src = nn.Sequential(nn.Linear(4, 4))
    bare = dict(src.state_dict())
    dst = tq.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})
    with pytest.raises(KeyError):
        dst.load_state_dict(dict(dst.state_dict()))  # what torch does without it
    fxmap.load(dst, bare, src=src)
    assert equal(tq.quantize_dynamic(src, {nn.Linear}).state_dict(), dst.state_dict())


@pytest.mark.parametrize(
    "description",
    [
        "{",
        "[]",
        '{"format": 9, "entries": {}, "metadata": null}',
        '{"format": 1, "entries": {"a": {"tensor": "b"}}, "metadata": null}',
        '{"format": 1, "entries": {"a": {"dtype": "load"}}, "metadata": null}',
        '{"format": 1, "entries": {"a": {"object": "cell", "parts": [null]}}, "metadata": null}',
        '{"format": 1, "entries": {"a": 3}, "metadata": null}',
        json.dumps(
            {
                "format": 1,
                "entries": {"a": {"quantized": "a", "dtype": "qint8", "qscheme": "per_channel_affine", "axis": 5}},
                "metadata": None,
            }
        ),
    ],
)
def test_a_broken_description_is_a_fault_of_the_file(description: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.safetensors"
    parts = {"a": torch.zeros(2), "a#integers": torch.zeros(2, 2, dtype=torch.int8)}
    parts |= {"a#scales": torch.ones(2, dtype=torch.float64), "a#zero_points": torch.zeros(2, dtype=torch.int64)}
    save_file(parts, file, metadata={ENTRY: description})
    with pytest.raises(fxmap.CheckpointError, match="not a readable safetensors file"):
        read(file)


def test_plain_files_have_no_description(tmp_path: Path) -> None:
    save(dict(nn.Linear(2, 2).state_dict()), tmp_path / "plain.safetensors")
    with safe_open(tmp_path / "plain.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
