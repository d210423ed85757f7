"""The adapter of torchtitan's protocol: there and back, also for a part of a model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict_loader import load

import fxmap
from fxmap.expressions.arithmetic import Shifted
from fxmap.expressions.base import Source
from fxmap.expressions.layout import Concat, Slice

MAPPING = fxmap.KeyMapping(
    {
        "tok.weight": "embed.weight",
        "wqkv": Concat((Source("q"), Source("kv"))),
        "w1": Slice(Source("gate_up"), 0, 3),
        "w3": Slice(Source("gate_up"), 3, 6),
    }
)


def hub() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {key: torch.randn(6, 2) for key in ("embed.weight", "q", "kv", "gate_up")}


def test_there_and_back() -> None:
    adapter = MAPPING.to_state_dict_adapter(like=hub())()
    native = adapter.from_hf(hub())
    assert native.keys() == set(MAPPING)
    again = adapter.to_hf(native)
    assert all(torch.equal(again[key], value) for key, value in hub().items())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torch_reads_the_checkpoint_through_it_as_torchtitan_does(tmp_path: Path) -> None:
    save_file(hub(), tmp_path / "model.safetensors")
    adapter = MAPPING.to_state_dict_adapter(like=hub())(None, str(tmp_path))
    model = {key: torch.zeros_like(value) for key, value in MAPPING.apply(hub()).items()}
    wanted = adapter.to_hf(model)
    load(wanted, storage_reader=adapter.get_hf_storage_reader(str(tmp_path)), no_dist=True)
    loaded = adapter.from_hf(wanted)
    assert all(torch.equal(loaded[key], value) for key, value in MAPPING.apply(hub()).items())


def test_a_stage_of_a_pipeline_has_a_part_of_the_keys() -> None:
    adapter = MAPPING.to_state_dict_adapter(like=hub())()
    assert list(adapter.from_hf({"q": torch.ones(6, 2), "gate_up": torch.ones(6, 2)})) == ["w1", "w3"]
    assert list(adapter.to_hf({"tok.weight": torch.ones(6, 2), "w1": torch.ones(3, 2)})) == ["embed.weight"]


def test_the_index_says_into_which_file_a_key_goes(tmp_path: Path) -> None:
    index = {"weight_map": {"q": "model-00001-of-00002.safetensors", "kv": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    kind = MAPPING.to_state_dict_adapter(like=hub())
    assert kind(None, str(tmp_path)).fqn_to_index_mapping == {"q": 1, "kv": 2}
    assert kind().fqn_to_index_mapping is None


def test_what_cannot_be_written_back_is_refused_by_name() -> None:
    with pytest.raises(fxmap.MappingError, match=r"a: cannot be made from the model's own keys.*w = a \+ 1"):
        fxmap.KeyMapping({"w": Shifted(Source("a"), 1.0)}).to_state_dict_adapter()
