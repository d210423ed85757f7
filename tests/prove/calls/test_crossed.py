"""Sizes, values, options and manners together: what two of them decide is met."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.prove.calls.covering import covering

ROWS, TEXT = torch.randn(2, 8), torch.randn(2, 6, 8)
Forward = Callable[..., Tensor]


def model_of(forward: Forward) -> nn.Module:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.q = nn.Linear(8, 4), nn.Linear(8, 8)

    Layers.forward = forward
    return Layers().eval()


def is_proven(one: Forward, other: Forward, example: Any) -> bool:
    proof = fxmap.auto_map(model_of(one), model_of(other), example_inputs=example).proof
    assert proof is not None
    return proof.ok


def clamped_if(condition: Callable[[Tensor], bool]) -> tuple[Forward, Forward]:
    def build(bound: float) -> Forward:
        return lambda m, x: m.a(m.q(x)).clamp(-bound, bound) if condition(x) else m.a(m.q(x))

    return build(30.0), build(60.0)


def windowed(width: int) -> Forward:
    def forward(m: Any, x: Tensor, local: bool = False) -> Tensor:
        scores, places = m.q(x) @ x.mT, torch.arange(x.shape[1])
        far = (places[:, None] - places).abs() > width
        return m.a((scores.masked_fill(far, -torch.inf) if local else scores).softmax(-1) @ x)

    return forward


def with_memory(change: Callable[[Tensor], Tensor]) -> Forward:
    def forward(m: Any, x: Tensor, memory: Tensor | None = None) -> Tensor:
        return m.a(m.q(x) if memory is None else m.q(x) + change(memory))

    return forward


def with_context(cut: Callable[[Tensor, int], Tensor]) -> Forward:
    def forward(m: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
        held = x if context is None else cut(context, x.shape[1])
        return m.a((m.q(x) @ held.mT).softmax(-1) @ held)

    return forward


def capped(bound: float) -> Forward:
    def forward(m: Any, x: Tensor, cap: bool = False) -> Tensor:
        return m.a(m.q(x).clamp(-bound, bound) if cap else m.q(x))

    return forward


def positioned(last: int) -> Forward:
    def forward(m: Any, x: Tensor, pos: Tensor | None = None) -> Tensor:
        places = torch.arange(x.shape[1]) if pos is None else pos.clamp(max=last)
        return m.a(m.q(x) * places.to(x)[..., None].sin())

    return forward


def scaled_by(factor: Callable[[Tensor], int]) -> Forward:
    return lambda m, x: m.a(m.q(x)) * (1 + factor(x))


TOGETHER: dict[str, tuple[Forward, Forward, Tensor]] = {
    "a length and large values": (*clamped_if(lambda x: x.shape[1] > 6), TEXT),
    "a batch and large values": (*clamped_if(lambda x: len(x) > 6), ROWS),
    "a length and a batch": (scaled_by(lambda x: 0), scaled_by(lambda x: x.shape[1] // 41 * (len(x) // 4)), TEXT),
    "an option and a length": (windowed(20), windowed(30), TEXT),
    "an option and large values": (capped(30.0), capped(60.0), ROWS),
    "what was left out, with large values": (with_memory(F.relu6), with_memory(F.relu), ROWS),
    "what was left out, longer": (with_context(lambda c, _: c), with_context(lambda c, n: c[:, : 2 * n]), TEXT),
    "what was left out, with integers that the code names": (positioned(511), positioned(512), TEXT),
}  # fmt: skip


@pytest.mark.parametrize("name", TOGETHER)
def test_what_two_things_decide_together_is_met(name: str) -> None:
    one, other, example = TOGETHER[name]
    assert not is_proven(one, other, example)
    assert is_proven(one, one, example)


def test_the_scope_says_how_many_pairs_were_run() -> None:
    proof = fxmap.auto_map(model_of(capped(30.0)), model_of(capped(30.0)), example_inputs=ROWS).proof
    assert proof is not None
    assert "pairs of sizes, values and options" in proof.explain()


def test_a_value_that_is_refused_by_itself_is_in_no_other_row() -> None:
    rows: list[tuple[int, ...]] = []

    def accepts(row: tuple[int, ...]) -> bool:
        rows.append(row)
        return row[0] != 2

    *_, (met, left) = covering([2, 3, 3], accepts, singles=True)
    assert [row for row in rows if row[0] == 2] == [(2, 0, 0)]
    assert (met, left) == (3 + 3 + 9, 0)
