"""Rules for transformers: its own from_pretrained loads a checkpoint by them, and save_pretrained reverses them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fxmap
from fxmap.expressions.arithmetic import Shifted
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Gather, Slice, Transpose

transformers = pytest.importorskip("transformers", minversion="5.0")

LAYERS, WIDTH = 3, 16


def tiny() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": LAYERS, "vocab_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=False))


def expressions() -> dict[str, Expression | str]:
    """Return how a llama is made of a checkpoint with joined q, k, v, a transposed output and joined gate and up."""
    made: dict[str, Expression | str] = {
        "model.embed_tokens.weight": "wte.weight",
        "model.norm.weight": "ln_f.weight",
        "lm_head.weight": Transpose(Source("head")),
    }
    for i in range(LAYERS):
        ours, theirs = f"model.layers.{i}.", f"h.{i}."
        for place, name in enumerate("qkv"):
            rows = Slice(Source(theirs + "attn.qkv.weight"), place * WIDTH, (place + 1) * WIDTH)
            made[f"{ours}self_attn.{name}_proj.weight"] = rows
        made[f"{ours}self_attn.o_proj.weight"] = Transpose(Source(theirs + "attn.out"))
        for name in ("gate", "up", "down"):
            made[f"{ours}mlp.{name}_proj.weight"] = f"{theirs}mlp.{name}.weight"
        made[f"{ours}input_layernorm.weight"] = f"{theirs}ln_1.weight"
        made[f"{ours}post_attention_layernorm.weight"] = f"{theirs}ln_2.weight"
    return made


def test_from_pretrained_loads_by_the_rules_and_save_pretrained_reverses_them(tmp_path: Path) -> None:
    from transformers import conversion_mapping

    model, mapping = tiny(), fxmap.KeyMapping(expressions())
    shapes = {f"h.{i}.attn.qkv.weight": torch.zeros(3 * WIDTH, WIDTH) for i in range(LAYERS)}
    state = {key: value.contiguous() for key, value in mapping.inverse(like=shapes).apply(model.state_dict()).items()}
    assert state.keys() == mapping.sources()
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    model.config.save_pretrained(tmp_path)
    rules = mapping.to_transformers(like=state)
    assert len(rules) == 13, "one for each kind of key, and not one for each layer"
    known = conversion_mapping.get_checkpoint_conversion_mapping("llama")
    conversion_mapping.register_checkpoint_conversion_mapping("llama", rules, overwrite=True)
    try:
        loaded, info = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
        loaded.save_pretrained(tmp_path / "again")
    finally:
        conversion_mapping.register_checkpoint_conversion_mapping("llama", known or [], overwrite=True)
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_a_stack_and_a_join_are_said_in_their_operations() -> None:
    from fxmap.expressions.layout import Reshape

    shapes = {f"h.{i}.e.{j}.w": torch.zeros(4, 3) for i in range(2) for j in range(3)}
    shapes |= {f"h.{i}.{name}": torch.zeros(4, 3) for i in range(2) for name in ("q", "k")}
    made: dict[str, Expression | str] = {}
    for i in range(2):
        made[f"l.{i}.experts"] = Concat(tuple(Reshape(Source(f"h.{i}.e.{j}.w"), (1, 4, 3)) for j in range(3)))
        made[f"l.{i}.qk"] = Concat((Source(f"h.{i}.q"), Source(f"h.{i}.k")))
    rules = fxmap.KeyMapping(made).to_transformers(like=shapes)
    operations = [str(rule.operations) for rule in rules if hasattr(rule, "operations")]
    assert operations == ["[MergeModulelist(dim=0)]", "[Concatenate(dim=0)]"]


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (Shifted(Source("a"), 1.0), "no such operation"),
        (Gather(Source("a"), (1, 0, 2, 3)), "no such operation"),
        (Concat((Source("a"), Source("b"))), "its parts have other sizes"),
        (Slice(Source("a"), 0, 2), "leave rows out"),
    ],
)
def test_what_they_cannot_say_is_refused_by_name(expression: Expression, reason: str) -> None:
    mapping = fxmap.KeyMapping({"w": expression, "v": "c"})
    with pytest.raises(fxmap.MappingError, match=rf"w: transformers' operations cannot say .*{reason}"):
        mapping.to_transformers(like={"a": torch.zeros(4, 2), "b": torch.zeros(3, 2), "c": torch.zeros(1)})


def test_names_that_follow_one_another_are_put_in_order_and_exchanged_ones_refused() -> None:
    rules = fxmap.KeyMapping({"b.w": "a.w", "c.w": "b.w"}).to_transformers()
    assert [rule.target_patterns for rule in rules] == [["c.w"], ["b.w"]]
    with pytest.raises(fxmap.MappingError, match="exchanged"):
        fxmap.KeyMapping({"a.w": "b.w", "b.w": "a.w"}).to_transformers()
