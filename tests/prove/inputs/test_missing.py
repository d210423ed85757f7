"""Missing values, masks of floats, long lists and more: what code takes beside the usual is run, and labels hold there."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap

Forward = Callable[..., Any]
ROWS, TEXT = torch.randn(2, 8), torch.randn(2, 6, 8)


def model_of(forward: Forward) -> nn.Module:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)
            self.w, self.e = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(8, 4))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    Layers.forward = forward
    return Layers().eval()


def mapping_of(one: Forward, other: Forward, example: Any) -> fxmap.KeyMapping:
    return fxmap.auto_map(model_of(one), model_of(other), example_inputs=example)


def is_proven(one: Forward, other: Forward, example: Any) -> bool:
    proof = mapping_of(one, other, example).proof
    assert proof is not None
    return proof.ok


def grouped(m: Any, maps: list[Tensor], sizes: list[list[int]]) -> Tensor:
    return torch.cat([m.a(torch.cat([maps[place] for place in places]).mean(1)) for places in sizes])


def neighbours(m: Any, maps: list[Tensor]) -> Tensor:
    places: list[list[int]] = []
    for place, item in enumerate(maps):
        if place and maps[place - 1].shape == item.shape:
            places[-1].append(place)
        else:
            places.append([place])
    return grouped(m, maps, places)


def all_of_a_size(m: Any, maps: list[Tensor]) -> Tensor:
    places: dict[Any, list[int]] = {}
    for place, item in enumerate(maps):
        places.setdefault(item.shape, []).append(place)
    return grouped(m, maps, list(places.values()))


LISTS: dict[str, tuple[Forward, Forward, Any]] = {
    "the first six": (lambda m, xs: sum(map(m.a, xs)), lambda m, xs: sum(map(m.a, xs[:6])), ([ROWS, ROWS + 1],)),
    "weights for eight": (
        lambda m, xs: sum(w.mean() * m.a(x) for w, x in zip(m.w, xs, strict=False)),
        lambda m, xs: sum(m.w[i % 8].mean() * m.a(x) for i, x in enumerate(xs)),
        ([ROWS, ROWS + 1],),
    ),
    "neighbours of one size": (neighbours, all_of_a_size, ([torch.randn(1, 6, 8), torch.randn(1, 6, 8)],)),
}
OPTIONS: dict[str, tuple[Forward, Forward, Any]] = {
    "in falling order": (
        lambda m, x, out=(1,): [(m.a(x), m.b(x))[i] for i in out],
        lambda m, x, out=(1,): [(m.a(x), m.b(x))[i] for i in sorted(out)],
        ROWS,
    ),
    "edges that differ": (
        lambda m, x, size=None: m.a(x) if size is None else m.a(x).mean() * torch.ones(size),
        lambda m, x, size=None: m.a(x) if size is None else m.a(x).mean() * torch.ones(size[::-1]),
        ROWS,
    ),
    "a number below a bound": (lambda m, x, g=1.0: m.a(x) * g, lambda m, x, g=1.0: m.a(x) * max(-3.7, g), ROWS),
}
HOLES = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]]).bool()


def attended(read: Callable[[Tensor], Tensor]) -> Forward:
    return lambda m, x, mask: m.a(m.attention(x, x, x, key_padding_mask=read(mask), need_weights=False)[0])


MASKS = (attended(lambda mask: mask), attended(lambda mask: mask if mask.dtype is torch.bool else mask > 0), (TEXT, HOLES))


@pytest.mark.parametrize("name", [*LISTS, *OPTIONS])
def test_lists_and_options_beyond_the_given_ones_are_run(name: str) -> None:
    one, other, example = {**LISTS, **OPTIONS}[name]
    assert not is_proven(one, other, example)
    assert is_proven(one, one, example)


def test_a_mask_of_bool_is_given_as_floats_where_the_source_takes_them() -> None:
    assert not is_proven(*MASKS)
    assert is_proven(MASKS[0], MASKS[0], MASKS[2])


EMBEDDED: dict[str, Forward] = {
    "isnan": lambda m, x: torch.where(x.isnan()[..., None], m.e, x.nan_to_num()[..., None] * m.w),
    "unlike itself": lambda m, x: torch.where(x.ne(x)[..., None], m.e, torch.where(x.eq(x), x, 0.0)[..., None] * m.w),
    "isinf": lambda m, x: torch.where(x.isinf()[..., None], m.e, x.clamp(-9, 9)[..., None] * m.w),
}


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedding_of_what_is_missing_is_not_inert(name: str) -> None:
    statuses = mapping_of(EMBEDDED[name], EMBEDDED[name], ROWS).proof.statuses
    assert str(statuses["e"]) != "inert"


def test_what_code_puts_for_missing_numbers_is_compared() -> None:
    forward = lambda sign: lambda m, x: m.a(torch.where(x.isnan(), sign * m.e[:, 0], x.nan_to_num()))  # noqa: E731
    assert not is_proven(forward(1), forward(-1), ROWS)


def test_a_key_that_moves_only_long_texts_in_large_batches_is_not_inert() -> None:
    forward = lambda m, x: m.a(x) + m.e[0] * ((x.shape[1] // 41) * (x.shape[0] // 10))  # noqa: E731
    statuses = mapping_of(forward, forward, TEXT).proof.statuses
    assert str(statuses["e"]) != "inert"


def yielding(factor: float) -> Forward:
    def forward(m: Any, x: Tensor) -> Iterator[Tensor]:
        yield m.a(x)
        yield m.b(x) * factor

    return forward


def test_the_outputs_of_a_generator_are_compared() -> None:
    assert is_proven(yielding(2), yielding(2), ROWS)
    assert not is_proven(yielding(2), yielding(3), ROWS)
