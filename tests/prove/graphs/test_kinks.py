"""Pieces by their values: one function in other words is proven, and what differs beyond the values that are seen is not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap

_CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "the larger by a relu": (torch.maximum, lambda a, b: a + F.relu(b - a)),
    "the larger by a distance": (torch.maximum, lambda a, b: (a + b + (a - b).abs()) / 2),
    "the larger by signs": (torch.maximum, lambda a, b: -torch.minimum(-a, -b)),
    "the largest of three": (
        lambda a, b: torch.maximum(torch.maximum(a, b), a + b),
        lambda a, b: torch.stack([a + b, a, b]).amax(0),
    ),
    "the smallest": (lambda a, b: (a + b).amin(-1), lambda a, b: -(-a - b).amax(-1)),
    "a relu of parts": (
        lambda a, b: F.relu(torch.cat([a, b], -1)),
        lambda a, b: torch.cat([F.relu(a), F.relu(b)], -1),
    ),
    "a pool by windows": (lambda a, b: F.max_pool1d(a * b, 3, 1), lambda a, b: (a * b).unfold(-1, 3, 1).amax(-1)),
    "a pool by shifts": (
        lambda a, b: F.max_pool1d(a + b, 2, 1),
        lambda a, b: torch.maximum((a + b)[..., 1:], (a + b)[..., :-1]),
    ),
    "sorted numbers": (lambda a, b: (a + b).sort(-1, descending=True)[0], lambda a, b: -(-a - b).sort(-1)[0]),
    "one of three": (lambda a, b: (a * b)[..., :3].median(-1)[0], lambda a, b: (a * b)[..., :3].sort(-1)[0][..., 1]),
    "where the largest is": (
        lambda a, b: a * F.one_hot(b.argmax(-1), 6).to(a.dtype),
        lambda a, b: a * torch.zeros_like(b).scatter(-1, b.max(-1, keepdim=True)[1], 1.0),
    ),
    "a length": (torch.hypot, lambda a, b: (a * a + b * b).sqrt()),
}

_UNLIKE: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "beyond a break that is far": (
        lambda a, b: a * b + F.relu(torch.cat([a, b], -1) - 1e7).sum(),
        lambda a, b: a * b + (F.relu(a - 1e7) + 2 * F.relu(b - 1e7)).sum(),
    ),
    "one of three by another": (
        lambda a, b: (a * b)[..., :3].median(-1)[0],
        lambda a, b: (a * b)[..., :3].sort(-1)[0][..., 2],
    ),
    "another set of which one is the largest": (
        lambda a, b: torch.stack([a, b, a + b + 1e7]).amax(0) - 1e7,
        lambda a, b: torch.stack([a, a + b + 1e7]).amax(0) - 1e7,
    ),
}


class _Pair(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(6, 6), nn.Linear(6, 6), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.a(x), self.b(x))


def _ok(functions: tuple[Callable[..., Tensor], Callable[..., Tensor]]) -> bool:
    src, dst = (_Pair(function) for function in functions)
    return fxmap.auto_map(src, dst, example_inputs=torch.randn(3, 5, 6)).proof.ok


@pytest.mark.parametrize("case", _CASES)
def test_pieces_in_other_words_are_proven(case: str) -> None:
    assert _ok(_CASES[case])


@pytest.mark.parametrize("case", _UNLIKE)
def test_pieces_that_differ_where_no_value_was_are_not_proven(case: str) -> None:
    assert not _ok(_UNLIKE[case])


def test_an_attribute_that_no_input_met_is_no_other_spelling() -> None:
    one, other = (nn.Sequential(nn.Embedding(40, 4, max_norm=norm), nn.Linear(4, 3)) for norm in (None, 50.0))
    assert not fxmap.auto_map(one, other, example_inputs=torch.randint(0, 40, (2, 6))).proof.ok
