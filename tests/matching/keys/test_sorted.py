"""Files whose keys are sorted by name, as safetensors files are: q, k and v by name, blocks by number, experts stacked."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from fxmap.mapping.findings import NoteKind
from fxmap.matching.keys.lists import is_sorted
from fxmap.matching.keys.mapper import map_by_name

WIDTH, DEPTH = 8, 12


def layer(name: str, out: int = WIDTH, into: int = WIDTH) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {key: torch.randn(shape) for key, shape in shapes.items()}


def encoder(names: str, block: str, depth: int = DEPTH) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an encoder whose blocks have q, k, v, an output and two norms, in this order."""
    before, query, key, value, out, after = names.split()
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(depth):
        own = f"{block}.{number}."
        shapes |= norm(own + before)
        for name in (query, key, value, out):
            shapes |= layer(own + name)
        shapes |= norm(own + after)
    return shapes | norm("last_norm")


OURS = encoder("layernorm_before att.query att.key att.value att.output.dense layernorm_after", "encoder.layer")
THEIRS = encoder("norm1 attn.q_proj attn.k_proj attn.v_proj attn.o_proj norm2", "blocks")


def by_name(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: state[key] for key in sorted(state)}


def test_the_order_of_names_is_no_order_of_a_model() -> None:
    assert not is_sorted(list(OURS))
    assert is_sorted(sorted(OURS))


def test_q_k_v_norms_and_blocks_are_told_by_name_in_a_sorted_file() -> None:
    mapping = map_by_name(by_name(filled(OURS)), filled(THEIRS), "test")
    assert mapping.renames == dict(zip(THEIRS, OURS, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_parts_that_no_name_tells_apart_stay_open_in_a_sorted_file(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    names = ["pim", "dor", "taz", "wex"]
    order = [names[n] for n in torch.randperm(4, generator=generator).tolist()]
    theirs = encoder("norm1 attn.beb attn.cuc attn.gog attn.hih norm2", "blocks")
    ours = encoder(f"norm1 attn.{order[0]} attn.{order[1]} attn.{order[2]} attn.{order[3]} norm2", "layers")
    mapping = map_by_name(by_name(filled(ours)), filled(theirs), "test")
    assert not [key for key in mapping if ".attn." in key]
    assert "blocks.3.norm2.weight" in mapping


def experts(names: Iterable[str], number: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for block in range(3):
        shapes |= {f"layers.{block}.norm.weight": (WIDTH,), f"layers.{block}.moe.router.weight": (number, WIDTH)}
        for expert in range(number):
            for name in names:
                shape = (WIDTH, 6) if "down" in name or name == "w2" else (6, WIDTH)
                shapes[f"layers.{block}.moe.experts.{expert}.{name}.weight"] = shape
    return shapes


def stacked(number: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for block in range(3):
        own = f"model.layers.{block}."
        shapes |= {f"{own}mlp.experts.gate_up_proj": (number, 12, WIDTH), f"{own}mlp.experts.down_proj": (number, WIDTH, 6)}
        shapes |= {f"{own}norm.weight": (WIDTH,), f"{own}mlp.gate.weight": (number, WIDTH)}
    return shapes


@pytest.mark.parametrize("names", [("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")])
def test_experts_one_by_one_become_stacked_ones(names: tuple[str, str, str]) -> None:
    src, dst = by_name(filled(experts(names, 11))), filled(stacked(11))
    made = map_by_name(src, dst, "test").apply(src)
    assert made.keys() == dst.keys()
    gate, up, down = (torch.stack([src[f"layers.1.moe.experts.{n}.{name}.weight"] for n in range(11)]) for name in names)
    assert torch.equal(made["model.layers.1.mlp.experts.gate_up_proj"], torch.cat([gate, up], 1))
    assert torch.equal(made["model.layers.1.mlp.experts.down_proj"], down)


def test_stacked_experts_become_experts_one_by_one() -> None:
    src, dst = filled(stacked(4)), filled(experts(("gate_proj", "up_proj", "down_proj"), 4))
    mapping = map_by_name(src, dst, "test")
    made = mapping.apply(src)
    assert made.keys() == dst.keys()
    joined = src["model.layers.2.mlp.experts.gate_up_proj"]
    assert torch.equal(made["layers.2.moe.experts.3.up_proj.weight"], joined[3, 6:])
    (note,) = mapping.knowledge.notes_of(NoteKind.LAYOUT)[-1:]
    assert "names do not tell whether they are joined head by head or interleaved" in note
