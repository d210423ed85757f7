"""The inverse: everything that only moves numbers goes there and back; the rest is named."""

import pytest
import torch
from torch import nn

import fxmap
from fxmap.expressions.arithmetic import Shifted
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Columns, Concat, Gather, Permute, Reshape, Slice, Transpose

A, B = Source("a"), Source("b")

CASES: dict[str, dict[str, Expression]] = {
    "slices that cover": {"q": Slice(A, 0, 4), "k": Slice(A, 4, 8), "z": B},
    "slices in another order, one of them twice": {"v": Slice(A, 6, 8), "q": Slice(A, 0, 4), "k": Slice(A, 2, 7), "z": B},
    "interleaved rows": {"q": Gather(A, (0, 2, 4, 6)), "k": Gather(A, (1, 3, 5, 7)), "z": B},
    "a join": {"qk": Concat((A, B))},
    "a join of joins and slices": {"x": Concat((Slice(A, 0, 4), B)), "y": Transpose(Slice(A, 4, 8))},
    "a transpose of a part": {"q": Transpose(Slice(A, 0, 5)), "k": Slice(A, 5, 8), "z": B},
    "permuted axes": {"w": Permute(Reshape(A, (2, 4, 6)), (2, 0, 1)), "z": B},
    "heads permuted": {"w": Reshape(Permute(Reshape(A, (2, 2, 2, 6)), (0, 2, 1, 3)), (8, 6)), "z": B},
    "columns": {"w": Columns(A, (3, 1, 0, 2, 5, 4)), "z": B},
    "a stack": {"w": Concat((Reshape(A, (1, 8, 6)), Reshape(B, (1, 8, 6))))},
    "unstacked in a reshaped tensor": {f"e.{i}": Reshape(Slice(Reshape(A, (4, 2, 6)), i, i + 1), (2, 6)) for i in range(4)}
    | {"z": B},
}


@pytest.mark.parametrize("name", CASES)
def test_what_moves_numbers_comes_back(name: str) -> None:
    state = {"a": torch.randn(8, 6), "b": torch.randn(8, 6)}
    mapping = fxmap.KeyMapping(CASES[name])
    back = mapping.inverse(like=state)
    assert back.knowledge.reasons == {}
    again = back.apply(mapping.apply(state))
    assert all(torch.equal(again[key], value) for key, value in state.items())
    assert all(torch.equal(value, mapping.apply(again)[key]) for key, value in mapping.apply(state).items())


def test_a_gap_is_named_and_not_filled() -> None:
    back = fxmap.KeyMapping({"q": Slice(A, 0, 4), "v": Slice(A, 5, 8)}).inverse(like={"a": torch.zeros(8, 6)})
    assert dict(back) == {}
    assert back.knowledge.reasons["a"] == "row 4 of a is in no key of the destination"
    short = fxmap.KeyMapping({"q": Slice(A, 0, 4)}).inverse(like={"a": torch.zeros(8, 6)})
    assert short.knowledge.reasons["a"] == "row 4 of a is in no key of the destination"


def test_what_computes_is_named() -> None:
    back = fxmap.KeyMapping({"w": Shifted(A, 1.0), "z": B}).inverse(like={"a": torch.zeros(2), "b": torch.zeros(2)})
    assert list(back) == ["b"]
    assert back.knowledge.reasons["a"] == "w = a + 1 cannot be solved for it"
    assert back.missing == ["a"]


def test_a_join_by_hand_needs_the_shapes() -> None:
    back = fxmap.KeyMapping({"qk": Concat((A, B))}).inverse()
    assert "Pass like=src.state_dict()" in back.knowledge.reasons["a"]


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v))


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


@pytest.mark.parametrize(("src", "dst"), [(Joined, Split), (Split, Joined)])
def test_a_mapping_that_was_found_knows_the_shapes_also_after_json(src: type[nn.Module], dst: type[nn.Module]) -> None:
    torch.manual_seed(0)
    one, other = src(), dst()
    mapping = fxmap.auto_map(one, other, example_inputs=torch.randn(2, 5, 8), verify=False)
    back = fxmap.KeyMapping.from_json(mapping.to_json()).inverse()
    again = back.apply(mapping.apply(one.state_dict()))
    assert again.keys() == one.state_dict().keys()
    assert all(torch.equal(again[key], value) for key, value in one.state_dict().items())
