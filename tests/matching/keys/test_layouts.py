"""Layouts that other libraries store: kernels with their outputs last, heads in an axis of their own, other leaf names."""

import pytest
import torch
from torch import Tensor, nn

from fxmap.mapping.findings import NoteKind
from fxmap.matching.keys.mapper import map_by_name


def test_kernels_of_keras_are_turned_and_it_is_said() -> None:
    src = {
        "conv/kernel:0": torch.randn(3, 3, 3, 8),
        "conv/bias:0": torch.randn(8),
        "norm/gamma:0": torch.randn(8),
        "norm/beta:0": torch.randn(8),
        "norm/moving_mean:0": torch.randn(8),
        "norm/moving_variance:0": torch.rand(8),
        "dense/kernel:0": torch.randn(8, 4),
        "dense/bias:0": torch.randn(4),
    }
    dst = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))
    mapping = map_by_name(src, dst.state_dict(), "test")
    made = mapping.apply(src)
    assert torch.equal(made["0.weight"], src["conv/kernel:0"].permute(3, 2, 0, 1))
    assert torch.equal(made["3.weight"], src["dense/kernel:0"].t())
    assert torch.equal(made["1.running_var"], src["norm/moving_variance:0"])
    assert torch.equal(made["1.weight"], src["norm/gamma:0"])
    assert "stored with their outputs last" in " ".join(mapping.knowledge.notes_of(NoteKind.KERNELS))


def flax_attention(width: int, heads: int, name: str) -> dict[str, Tensor]:
    each = width // heads
    parts = {f"{name}.{part}.kernel": torch.randn(width, heads, each) for part in ("key", "query", "value")}
    parts |= {f"{name}.{part}.bias": torch.randn(heads, each) for part in ("key", "query", "value")}
    return parts | {f"{name}.out.kernel": torch.randn(heads, each, width), f"{name}.out.bias": torch.randn(width)}


def test_heads_in_an_axis_of_their_own_are_joined() -> None:
    src = flax_attention(12, 3, "block.attention")
    parts = {f"{name}_proj": nn.Linear(12, 12) for name in ("q", "k", "v", "out")}
    dst = {f"layer.attn.{key}": value for key, value in nn.ModuleDict(parts).state_dict().items()}
    made = map_by_name(src, dst, "test").apply(src)
    assert torch.equal(made["layer.attn.k_proj.weight"], src["block.attention.key.kernel"].reshape(12, 12).t())
    assert torch.equal(made["layer.attn.q_proj.bias"], src["block.attention.query.bias"].reshape(12))
    assert torch.equal(made["layer.attn.out_proj.weight"], src["block.attention.out.kernel"].reshape(12, 12).t())


def test_gamma_and_beta_are_weight_and_bias() -> None:
    src = {f"model.encoder.{n}.LayerNorm.{leaf}": torch.randn(4) for n in range(3) for leaf in ("beta", "gamma")}
    dst = {f"encoder.{n}.LayerNorm.{leaf}": torch.randn(4) for n in range(3) for leaf in ("weight", "bias")}
    renames = map_by_name(src, dst, "test").renames
    assert renames["encoder.2.LayerNorm.weight"] == "model.encoder.2.LayerNorm.gamma"
    assert renames["encoder.1.LayerNorm.bias"] == "model.encoder.1.LayerNorm.beta"
    assert len(renames) == 6


@pytest.mark.parametrize("joined", ["fc1", "w12", "proj"])
def test_a_gate_and_what_it_gates_are_cut_only_where_the_name_says_in_which_order(joined: str) -> None:
    dst = {"mlp.gate_proj.weight": torch.randn(6, 4), "mlp.up_proj.weight": torch.randn(6, 4)}
    assert len(map_by_name({f"mlp.{joined}.weight": torch.randn(12, 4)}, dst, "test")) == 0
    mapping = map_by_name({"mlp.gate_up_proj.weight": torch.randn(12, 4)}, dst, "test")
    assert str(mapping["mlp.up_proj.weight"]) == "mlp.gate_up_proj.weight[6:12]"


def test_a_joined_gate_is_not_taken_for_one_that_does_not_say_its_order() -> None:
    src, dst = {"ff.proj.weight": torch.randn(12, 4)}, {"mlp.gate_up_proj.weight": torch.randn(12, 4)}
    mapping = map_by_name(src, dst, "test")
    assert not len(mapping)
    assert "in which order" in mapping.knowledge.reasons["mlp.gate_up_proj.weight"]


def test_rotary_layouts_are_warned_of_and_learned_positions_are_not() -> None:
    src = {f"h.0.attn.{part}.weight": torch.randn(4, 4) for part in ("wq", "wk", "wv")}
    dst = {f"layers.0.self_attn.{part}_proj.weight": torch.randn(4, 4) for part in "qkv"}
    notes = " ".join(map_by_name(src, dst, "test").knowledge.notes_of(NoteKind.LAYOUT))
    assert "in halves or in pairs, which names do not tell" in notes
    assert "layers.0.self_attn.v_proj.weight" not in notes
    table = {"wpe.weight": torch.randn(9, 4)}
    mapping = map_by_name(src | table, dst | {"position_embeddings.weight": torch.randn(9, 4)}, "test")
    assert not mapping.knowledge.notes_of(NoteKind.LAYOUT)
