"""What shapes leave open, names decide or leave open with a reason: orders of q, k and v, layouts of kernels, statistics."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.findings import NoteKind
from fxmap.matching.keys.mapper import map_by_name
from fxmap.matching.keys.rotary import may_turn


def linears(**sizes: tuple[int, int]) -> dict[str, Tensor]:
    return dict(_tensors(sizes))


def _tensors(sizes: dict[str, tuple[int, int]]) -> Iterator[tuple[str, Tensor]]:
    for name, (rows, columns) in sizes.items():
        yield f"{name}.weight", torch.zeros(rows, columns)
        yield f"{name}.bias", torch.zeros(rows)


PARTS = linears(q=(8, 8), k=(8, 8), v=(8, 8), o=(8, 8))


@pytest.mark.parametrize("name", ["qkv", "kqv", "qvk", "vkq"])
def test_a_joined_projection_is_split_in_the_order_of_its_name_and_with_a_warning(name: str) -> None:
    mapping = map_by_name(linears(**{name: (24, 8), "o": (8, 8)}), PARTS, "no graph")
    wanted = {part: f"{name}.weight[{8 * place}:{8 * place + 8}]" for place, part in enumerate(name)}
    assert {part: str(mapping[f"{part}.weight"]) for part in name} == wanted
    assert any("joined head by head" in note for note in mapping.knowledge.notes_of(NoteKind.LAYOUT))


def test_a_joined_projection_is_put_together_in_the_order_of_its_name() -> None:
    mapping = map_by_name(PARTS, linears(kqv=(24, 8), o=(8, 8)), "no graph")
    assert str(mapping["kqv.weight"]) == "concat(k.weight, q.weight, v.weight)"


def test_the_wide_part_of_a_joined_projection_is_q_wherever_its_name_puts_it() -> None:
    parts = linears(q=(8, 8), k=(2, 8), v=(2, 8), o=(8, 8))
    mapping = map_by_name(linears(kqv=(12, 8), o=(8, 8)), parts, "no graph")
    assert [str(mapping[f"{part}.weight"]) for part in "kqv"] == ["kqv.weight[0:2]", "kqv.weight[2:10]", "kqv.weight[10:12]"]


def test_two_names_of_different_orders_leave_the_joined_projection_open() -> None:
    mapping = map_by_name(linears(kqv=(24, 8), o=(8, 8)), linears(qkv=(24, 8), o=(8, 8)), "no graph")
    assert set(mapping.missing) == {"qkv.weight", "qkv.bias"}
    assert "different orders" in mapping.knowledge.reasons["qkv.weight"]


@pytest.mark.parametrize(
    ("layer", "name", "shape", "made"),
    [
        (nn.Conv2d(3, 3, 3), "kernel", (3, 3, 3, 3), "permute(0/kernel, [3, 2, 0, 1])"),
        (nn.Conv2d(3, 3, 3), "w", (3, 3, 3, 3), "permute(0/w, [3, 2, 0, 1])"),
        (nn.ConvTranspose2d(4, 4, 4), "kernel", (4, 4, 4, 4), "permute(0/kernel, [3, 2, 0, 1])"),
        (nn.Conv2d(3, 3, 3, groups=3), "depthwise_kernel", (3, 3, 3, 1), "permute(0/depthwise_kernel, [2, 3, 0, 1])"),
        (nn.Linear(6, 6), "w", (6, 6), "transpose(0/w)"),
        (nn.Linear(6, 6), "kernel", (6, 6), "transpose(0/kernel)"),
    ],
)
def test_a_kernel_of_equal_extents_is_turned_as_its_name_says(
    layer: nn.Module, name: str, shape: tuple[int, ...], made: str
) -> None:
    file = {f"0/{name}": torch.zeros(shape), f"0/{'b' if name == 'w' else 'bias'}": torch.zeros(shape[0])}
    mapping = map_by_name(file, nn.Sequential(layer).state_dict(), "no graph")
    assert str(mapping["0.weight"]) == made
    assert not mapping.missing
    assert bool(mapping.knowledge.notes_of(NoteKind.KERNELS)) == (len(shape) > 2)


@pytest.mark.parametrize("name", ["inv_std", "running_std", "running_inv_var"])
def test_a_statistic_of_another_kind_is_not_taken_for_a_variance(name: str) -> None:
    leaves = ("weight", "bias", "running_mean", name)
    mapping = map_by_name({f"0.{leaf}": torch.ones(6) for leaf in leaves}, nn.Sequential(nn.BatchNorm1d(6)).state_dict(), "")
    assert "0.running_var" in mapping.missing
    assert "standard deviation" in mapping.knowledge.reasons["0.running_var"]


class Attention(nn.Module):
    """Attention without positions, or with rotary embeddings."""

    def __init__(self, names: str, *, rotary: bool = False) -> None:
        super().__init__()
        self.names = names.split()
        for name in self.names:
            self.add_module(name, nn.Linear(4, 4))
        if rotary:
            self.register_buffer("inv_freq", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.get_submodule(name)(x) for name in self.names)
        result: Tensor = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return result


class Turned(Attention):
    """Attention whose code turns q and k, and whose modules say nothing of it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.cos(x))


@pytest.mark.parametrize("rotary", [True, False])
def test_rotary_embeddings_are_warned_of_where_the_destination_has_them(rotary: bool) -> None:
    file = Attention("q_proj k_proj v_proj").state_dict()
    mapping = fxmap.auto_map(dict(file), Attention("to_q to_k to_v", rotary=rotary))
    assert any("rotary" in note for note in mapping.knowledge.notes_of(NoteKind.LAYOUT)) == rotary


def test_code_that_computes_a_cosine_may_turn_channels() -> None:
    assert may_turn(Turned("q k v"))
    assert not may_turn(Attention("q k v"))
