"""The examples of docs/large.md on models larger than memory, run small."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist

import fxmap
from fxmap.testing.generated import Decoder, JoinedDecoder

SIZES = {"layers": 2, "width": 32, "heads": 4, "groups": 4, "hidden": 48, "vocabulary": 50}

PAGE = Path(__file__).parents[2] / "docs" / "large.md"


def example(of: str) -> str:
    """Return the first Python block behind a text of the section."""
    section = PAGE.read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", section.split(of)[1], re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write the folder `hub` into the current one, and return the names that the examples use."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    state = JoinedDecoder(**SIZES).state_dict()
    Path("hub").mkdir()
    keys = list(state)
    places = {key: f"model-{1 + (key > keys[9]):05d}-of-00002.safetensors" for key in keys}
    for name in sorted(set(places.values())):
        save_file({key: state[key] for key in keys if places[key] == name}, Path("hub") / name, {"format": "pt"})
    Path("hub/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    make: Callable[[type], Any] = lambda kind: lambda: kind(**SIZES).eval()  # noqa: E731
    models = {"HubModel": make(JoinedDecoder), "MyModel": make(Decoder)}
    return {"fxmap": fxmap, "torch": torch, "tokens": torch.tensor([[1, 7, 4, 3, 9, 2]]), "state": state} | models


def run(of: str, names: dict[str, Any]) -> None:
    exec(example(of), names)


def is_equal(model: torch.nn.Module, names: dict[str, Any]) -> bool:
    """Whether a model computes what the model of the folder does."""
    reference = names["HubModel"]()
    reference.load_state_dict(names["state"])
    with torch.no_grad():
        found = model(names["tokens"])
        logits: torch.Tensor = getattr(found, "logits", found)
        return torch.allclose(logits, reference(names["tokens"]), atol=1e-5)


def test_a_folder_into_a_model_without_memory(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run("A folder into your own model", names)
    assert is_equal(names["dst"], names)
    assert "stack.{i}.qkv.weight[0:32] -> layers.{i}.q.weight, i = 0, 1" in capsys.readouterr().out
    again = names["MyModel"]()
    fxmap.load(again, "mine", src=names["MyModel"](), verify=False, example_inputs=names["tokens"])
    assert is_equal(again, names)
    assert set(names["lazy"]) == set(again.state_dict())


def test_a_proof_of_what_does_not_fit(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run("A folder into your own model", names)
    run("**A proof of what does not fit**", names)
    assert names["mapping"].proof.ok
    assert all(value.is_meta for value in names["src"].parameters())
    assert re.search(r"(\d+) of \1 keys are equal, bit for bit", capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_folders_of_torch_distributed_checkpoint(names: dict[str, Any]) -> None:
    run("**torch.distributed.checkpoint**", names)
    assert is_equal(names["model"], names)


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_fsdp(names: dict[str, Any]) -> None:
    run("**FSDP2**", names)
    plain = names["MyModel"]()
    plain.load_state_dict({key: value.full_tensor() for key, value in names["dst"].state_dict().items()})
    assert is_equal(plain, names)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torchtitan(names: dict[str, Any]) -> None:
    run("**torchtitan**", names)
    assert is_equal(names["dst"], names)


def test_transformers(names: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    from transformers import conversion_mapping

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    names |= {"transformers": transformers, "config": transformers.LlamaConfig(**sizes, **heads)}
    names["config"].architectures = ["LlamaForCausalLM"]
    names["config"].save_pretrained("hub")
    known = conversion_mapping.get_checkpoint_conversion_mapping("llama")
    try:
        run("**transformers**", names)
    finally:
        conversion_mapping.register_checkpoint_conversion_mapping("llama", known or [], overwrite=True)
    assert is_equal(names["model"], names)
    again = load_file("again/model.safetensors")
    assert again.keys() == names["state"].keys()
    assert all(torch.equal(again[key], value) for key, value in names["state"].items())


@pytest.mark.parametrize(("src_device", "dst_device"), [("meta", "cpu"), ("cpu", "meta")])
def test_a_model_without_numbers_is_not_compared_with_numbers_of_the_other(src_device: str, dst_device: str) -> None:
    tokens = torch.tensor([[1, 7, 4, 3, 9, 2]])
    expected = fxmap.auto_map(JoinedDecoder(**SIZES), Decoder(**SIZES), example_inputs=tokens, verify="required")
    with torch.device(src_device):
        src = JoinedDecoder(**SIZES)
    with torch.device(dst_device):
        dst = Decoder(**SIZES)
    assert dict(fxmap.auto_map(src, dst, example_inputs=tokens, verify=False)) == dict(expected)
