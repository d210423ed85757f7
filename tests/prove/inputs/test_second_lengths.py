"""Second inputs have lengths of their own, and what stands for a whole batch may be one for each sample."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.prove.inputs.second_lengths import second_lengths

Forward = Callable[..., Tensor]


def _ok(src: Forward, dst: Forward, *example: Tensor) -> bool:
    class Model(nn.Module):
        def __init__(self, function: Forward) -> None:
            super().__init__()
            self.function, self.linear, self.table = function, nn.Linear(8, 8), nn.Embedding(64, 8)

        def forward(self, *inputs: Tensor) -> Tensor:
            return self.function(self, *inputs)

    return fxmap.auto_map(Model(src), Model(dst), example_inputs=example).proof.ok


def _attend(cut: slice) -> Forward:
    def forward(model: nn.Module, x: Tensor, memory: Tensor) -> Tensor:
        kept = model.linear(memory)[:, cut]
        return (x @ kept.mT).softmax(-1) @ kept

    return forward


def _read(cut: slice) -> Forward:
    def forward(model: nn.Module, image: Tensor, ids: Tensor) -> Tensor:
        return model.linear(image.mean((2, 3))) + model.table(ids[:, cut]).mean(1)

    return forward


IMAGE, IDS = torch.randn(2, 8, 8, 8), torch.randint(0, 64, (2, 5))


@pytest.mark.parametrize(
    ("make", "one", "other", "example"),
    [
        (_attend, slice(-24, None), slice(-64, None), (torch.randn(2, 6, 8), torch.randn(2, 5, 8))),
        (_attend, slice(6), slice(None), (torch.randn(2, 6, 8), torch.randn(2, 1, 8))),
        (_read, slice(16), slice(None), (IMAGE, IDS)),
    ],
)
def test_a_second_input_that_one_model_cuts_is_not_proven(
    make: Callable[[slice], Forward], one: slice, other: slice, example: tuple[Tensor, ...]
) -> None:
    assert _ok(make(one), make(one), *example)
    assert not _ok(make(one), make(other), *example)


def _placed(rows: slice) -> Forward:
    return lambda model, x, positions: model.linear(x) + model.table(positions[rows])


def test_positions_for_all_samples_may_be_some_for_each() -> None:
    example = torch.randn(2, 6, 8), torch.arange(6)[None]

    assert _ok(_placed(slice(None)), _placed(slice(None)), *example)
    assert not _ok(_placed(slice(None)), _placed(slice(1)), *example)


def test_a_timestep_for_all_samples_may_be_one_for_each() -> None:
    def each(model: nn.Module, x: Tensor, time: Tensor) -> Tensor:
        return model.linear(x) * time.expand(len(x))[:, None]

    def first(model: nn.Module, x: Tensor, time: Tensor) -> Tensor:
        return model.linear(x) * time.flatten()[0]

    example = torch.randn(2, 8), torch.tensor(2.0)
    assert _ok(each, each, *example)
    assert not _ok(each, first, *example)


def test_a_context_keeps_its_axes_where_a_map_changes_its_size() -> None:
    def forward(model: nn.Module, image: Tensor, context: Tensor) -> Tensor:
        return image + model.linear(context).mean(1)[:, :, None, None]

    def small(model: nn.Module, image: Tensor, context: Tensor) -> Tensor:
        return image[..., :48] + model.linear(context).mean(1)[:, :, None, None]

    example = torch.randn(2, 8, 8, 8), torch.randn(2, 5, 8)
    assert _ok(forward, forward, *example)
    assert not _ok(forward, small, *example)


def test_masks_change_with_what_they_hide() -> None:
    ids, mask = torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool)
    plan = second_lengths([IMAGE, ids, mask], ["numbers", "indices", "mask"], [])

    assert [dict(choices[0].axes) for _, choices in plan] == [{(1, 1): 3, (2, 1): 3}, {(1, 1): 14, (2, 1): 14}]


def test_a_large_model_runs_one_more_length_alone() -> None:
    plan = second_lengths([IMAGE, IDS, torch.zeros(1, 3)], ["numbers", "indices", "numbers"], [16], few=True)

    assert [dict(choices[0].axes) for _, choices in plan] == [{(1, 1): 19}, {(2, 1): 19}]


CHANNELS_LAST = torch.randn(2, 6, 6, 8)


def test_edges_of_maps_with_the_channels_last_are_varied() -> None:
    def cut(edge: int | None) -> Forward:
        return lambda model, x: model.linear(x[:, :edge].mean((1, 2)))

    assert _ok(cut(None), cut(None), CHANNELS_LAST)
    assert not _ok(cut(None), cut(14), CHANNELS_LAST)


def test_a_key_that_matters_where_both_edges_are_long_is_not_inert() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(8, 8), nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            _, height, width, _ = x.shape
            y: Tensor = self.linear(x)
            return y + self.scale * ((height // 13) * (width // 13))

    mapping = fxmap.auto_map(Long(), Long(), example_inputs=CHANNELS_LAST)
    assert mapping.proof.statuses["scale"] is fxmap.Status.PROVEN
