"""Rotary embeddings: layouts permute rows inside each head, and the permutation is found by response."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.api import automap
from fxmap.normalize.split import _Flow
from fxmap.testing.planted import randomised

HEADS, SIZE, LENGTH = 2, 8, 6
WIDTH = HEADS * SIZE
X = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))


def _half(x: Tensor, angle: Tensor) -> Tensor:
    cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
    one, other = x.chunk(2, -1)
    return x * cos + torch.cat((-other, one), -1) * sin


def _pairs(x: Tensor, angle: Tensor) -> Tensor:
    one, other = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((one * cos - other * sin, other * cos + one * sin), -1).flatten(-2)


def _complex(x: Tensor, angle: Tensor) -> Tensor:
    numbers = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(numbers * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def _complex_halves(x: Tensor, angle: Tensor) -> Tensor:
    numbers = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((numbers.real, numbers.imag), -1)


def _exchanged(x: Tensor, angle: Tensor) -> Tensor:
    """Pairs again, with the addends of one sum the other way round."""
    one, other = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((one * angle.cos() - other * angle.sin(), one * angle.sin() + other * angle.cos()), -1).flatten(-2)


LAYOUTS = {
    "half": _half,
    "pairs": _pairs,
    "complex": _complex,
    "complex halves": _complex_halves,
    "exchanged": _exchanged,
}


class Attention(nn.Module):
    """Attention with rotary embedding: separate or joined projections, grouped keys and values, partial rotation."""

    def __init__(self, layout: str, *, joined: bool = False, groups: int = HEADS, rotated: int = SIZE) -> None:
        super().__init__()
        self.layout, self.groups, self.rotated, self.joined = layout, groups, rotated, joined
        sizes = (WIDTH, groups * SIZE, groups * SIZE)
        if joined:
            self.qkv = nn.Linear(WIDTH, sum(sizes))
        else:
            self.q, self.k, self.v = (nn.Linear(WIDTH, size) for size in sizes)
        self.sizes = sizes
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] < 2:
            raise ValueError("too short")
        parts = self.qkv(x).split(self.sizes, -1) if self.joined else (self.q(x), self.k(x), self.v(x))
        q, k, v = (part.unflatten(-1, (-1, SIZE)).transpose(1, 2) for part in parts)
        q, k = self._rotate(q), self._rotate(k)
        k, v = (part.repeat_interleave(HEADS // self.groups, 1) for part in (k, v))
        return self.out(((q @ k.transpose(-2, -1) / 3).softmax(-1) @ v).transpose(1, 2).flatten(2))

    def _rotate(self, x: Tensor) -> Tensor:
        frequencies = 100.0 ** (-torch.arange(self.rotated // 2) / (self.rotated // 2))
        angle = torch.arange(x.shape[-2])[:, None] * frequencies
        turned = LAYOUTS[self.layout](x[..., : self.rotated], angle)
        return torch.cat((turned, x[..., self.rotated :]), -1) if self.rotated < SIZE else turned


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("groups", [HEADS, 1])
@pytest.mark.parametrize("rotated", [SIZE, SIZE // 2])
@pytest.mark.parametrize("layouts", [("half", "pairs"), ("pairs", "half"), ("half", "half")])
def test_layouts_map_to_one_another(ours: bool, theirs: bool, groups: int, rotated: int, layouts: tuple[str, str]) -> None:
    src = randomised(Attention(layouts[0], joined=ours, groups=groups, rotated=rotated), 1).eval()
    dst = randomised(Attention(layouts[1], joined=theirs, groups=groups, rotated=rotated), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert not mapping.missing
    assert mapping.proof.ok, str(mapping)
    mapping.load_into(dst, src.state_dict())
    y = torch.randn(3, 4, WIDTH)
    with torch.no_grad():
        assert torch.allclose(src(y), dst(y), atol=1e-5)
    if layouts[0] == layouts[1] and ours == theirs:
        assert mapping.renames == {key: key for key in dst.state_dict()}


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(
    "layouts", [("complex", "half"), ("half", "complex"), ("complex halves", "pairs"), ("exchanged", "half")]
)
def test_complex_numbers_and_exchanged_addends_are_followed_without_equations(
    joined: bool, layouts: tuple[str, str]
) -> None:
    src = randomised(Attention(layouts[0], joined=joined, groups=1, rotated=SIZE // 2), 1).eval()
    dst = randomised(Attention(layouts[1], groups=1, rotated=SIZE // 2), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert mapping.proof.ok, str(mapping)
    assert "equations" not in str(mapping.trace)


def test_the_wrong_layout_is_never_proven() -> None:
    src, dst = randomised(Attention("half"), 1).eval(), randomised(Attention("pairs"), 2).eval()
    proof = fxmap.verify(src, dst, fxmap.KeyMapping({key: key for key in dst.state_dict()}), example_inputs=X)
    assert not proof.ok
    assert proof.status("q.weight") is not fxmap.Status.PROVEN
    assert proof.status("k.weight") is not fxmap.Status.PROVEN


def test_rows_that_were_put_into_a_wrong_order_are_never_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both sides agree on the values of every layer, by the order itself: only the scores show that it is wrong.
    monkeypatch.setattr(_Flow, "ordered", lambda self, trace, rows, uses: tuple(sorted(rows)))
    monkeypatch.setattr(automap, "_by_equations", lambda problem, plan, mapping: mapping)  # they would find the right one
    src, dst = randomised(Attention("half"), 1).eval(), randomised(Attention("pairs"), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert not mapping.proof.ok
    assert {mapping.proof.status(f"{name}.weight") for name in "qk"} == {fxmap.Status.MATCHED}
