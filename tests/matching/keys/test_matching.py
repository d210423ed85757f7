"""Keys matched by shapes, names and order: what stays open, and what joined weights become; real pairs: tests/benchmarks."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.matching.keys import choice, groups, scores
from fxmap.matching.keys.mapper import map_by_name
from fxmap.matching.keys.weights import LIMITS


def attention(**layers: nn.Module) -> dict[str, Tensor]:
    return {f"attn.{key}": value for key, value in nn.ModuleDict(layers).state_dict().items()}


def test_a_joined_projection_is_taken_apart_and_put_together() -> None:
    joined = attention(qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8))
    parts = attention(query=nn.Linear(8, 8), value=nn.Linear(8, 8), key=nn.Linear(8, 8), output=nn.Linear(8, 8))
    apart = map_by_name(joined, parts, "test")
    assert str(apart["attn.key.weight"]) == "attn.qkv.weight[8:16]"
    assert str(apart["attn.value.bias"]) == "attn.qkv.bias[16:24]"
    together = map_by_name(parts, joined, "test")
    assert str(together["attn.qkv.weight"]) == "concat(attn.query.weight, attn.key.weight, attn.value.weight)"


def test_a_joined_shape_that_both_sides_have_is_left_whole() -> None:
    one = attention(qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8))
    other = attention(in_proj=nn.Linear(8, 24), out_proj=nn.Linear(8, 8))
    assert map_by_name(one, other, "test").renames["attn.in_proj.weight"] == "attn.qkv.weight"


def test_a_weight_stored_i_o_is_turned() -> None:
    src = {"fc.weight": torch.randn(3, 5), "fc.bias": torch.zeros(5)}
    dst = nn.Linear(3, 5)
    mapping = map_by_name(src, dst.state_dict(), "test")
    assert str(mapping["weight"]) == "transpose(fc.weight)"
    mapping.load_into(dst, src)
    assert torch.equal(dst.weight, src["fc.weight"].t())


def test_a_replaced_head_is_mismatched() -> None:
    def build(classes: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))

    src, dst = build(10), build(3)
    mapping = fxmap.auto_map(src.state_dict(), dst)
    assert mapping.mismatched == ["2.weight", "2.bias"]
    with pytest.raises(fxmap.LoadError, match=r"2\.weight: source 2\.weight is \[10, 8\], destination \[3, 8\]"):
        mapping.load_into(dst, src.state_dict())
    with pytest.warns(fxmap.ProofWarning, match=r"made for 2\.weight \(source 2\.weight \[10, 8\]\), 2\.bias"):
        assert mapping.load_into(dst, src.state_dict(), on_mismatch="keep").written == 2
    assert torch.equal(dst.get_parameter("0.weight"), src.get_parameter("0.weight"))


class Tied(nn.Module):
    """An embedding whose weight is that of the output, as in language models, and a layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.idle = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 7)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.embed(ids)))
        return out


def test_what_the_destination_tells_is_used() -> None:
    state = Tied().state_dict()
    src = {"wte.weight": state["embed.weight"], "h.weight": state["body.weight"], "h.bias": state["body.bias"]}
    dst = Tied()
    mapping = fxmap.auto_map(src, dst)
    assert mapping.renames == {
        "embed.weight": "wte.weight",
        "head.weight": "wte.weight",
        "body.weight": "h.weight",
        "body.bias": "h.bias",
    }
    assert set(mapping.missing) == {"idle.weight", "idle.bias"}
    # What the destination never reads does not hinder loading.
    assert mapping.load_into(dst, src).written == 4
    assert "tied in the destination" in str(mapping)
    assert "the destination runs with the mapped weights on" in str(mapping)
    assert not mapping.proof.ok
    assert {mapping.status(key) for key in mapping} == {fxmap.Status.GUESSED}


def test_a_model_that_cannot_be_run_says_so() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not today")

    mapping = fxmap.auto_map(Broken(), Broken())
    assert mapping.renames == {"fc.weight": "fc.weight", "fc.bias": "fc.bias"}
    assert "could not be run with the mapped weights: RuntimeError: not today" in str(mapping)


def scrambled(seed: int) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return a key tree under names that say nothing, in an order that says nothing, and which key is which of the first."""
    rng = random.Random(seed)
    layers = [(rng.choice((8, 16, 24)), rng.choice((8, 16, 24))) for _ in range(24)]
    names = {i: "".join(rng.choices("bcdfghklmnprst", k=5)) for i in range(len(layers))}
    order = rng.sample(range(len(layers)), len(layers))
    state = {f"{names[i]}.m{rng.randrange(5)}.weight": i for i in order}
    return {key: torch.empty(*layers[i], device="meta") for key, i in state.items()}, state


def test_where_neither_names_nor_order_say_anything_keys_stay_open() -> None:
    rng = random.Random(0)
    src, ours = scrambled(0)
    theirs = dict(zip((f"{key[::-1]}.weight" for key in src), ours.values(), strict=True))
    keys = rng.sample(list(theirs), len(theirs))
    shapes = dict(zip(ours.values(), src.values(), strict=True))
    mapping = map_by_name(src, {key: shapes[theirs[key]] for key in keys}, "test")
    assert [key for key, source in mapping.renames.items() if ours[source] != theirs[key]] == []
    assert mapping.missing
    assert all("no clear choice" in mapping.knowledge.reasons[key] for key in mapping.missing)


def test_tables_that_are_too_large_are_stored_by_their_possible_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    src = {f"layers.{i}.{part}.weight": torch.empty(8, device="meta") for i in range(40) for part in ("up", "down")}
    dst = {f"net.{i}.mlp.{part}.weight": torch.empty(8, device="meta") for i in range(40) for part in ("fc1", "fc2")}
    right = dict(zip(dst, src, strict=True))
    assert map_by_name(src, dst, "test").renames == right
    monkeypatch.setattr(groups, "LIMITS", replace(LIMITS, group_cells=10))
    monkeypatch.setattr(choice, "LIMITS", replace(LIMITS, block_cells=10))
    assert map_by_name(src, dst, "test").renames == right
    monkeypatch.setattr(scores, "LIMITS", replace(LIMITS, pairs=1000))
    assert map_by_name(src, dst, "test").renames == right


def test_the_order_of_a_flat_list_is_no_evidence_where_it_is_that_of_chance() -> None:
    """Weights of one shape in a list, and the same ones by module: nothing tells which is which but the order."""
    names = [f"blocks.{i}.{leaf}" for i in range(8) for leaf in ("norm.weight", "up.weight", "down.weight")]
    shapes = {"norm": (8,), "up": (8, 4), "down": (4, 8)}
    src = {name: torch.empty(shapes[name.split(".")[2]], device="meta") for name in names}
    flat = {f"p{number}": src[name] for number, name in enumerate(names)}
    assert map_by_name(src, flat, "test").renames["p4"] == "blocks.1.up.weight"
    order = random.Random(0).sample(list(flat), len(flat))
    assert len(map_by_name(src, {key: flat[key] for key in order}, "test")) == 0
