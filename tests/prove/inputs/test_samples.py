"""Inputs of an audit: drawn by role, in other shapes, the same for both models in their own order and layout."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fxmap.model.inputs import Inputs, as_inputs, names_of
from fxmap.prove.inputs.samples import Role, Sampler
from fxmap.prove.inputs.shapes import EXTENTS, Shape, shapes


def sampler(src: object, dst: object = None, tables: dict[int, int] | None = None) -> Sampler:
    both = as_inputs(src), as_inputs(src if dst is None else dst)
    return Sampler.of(both, (tables or {}, tables or {}))


@pytest.mark.parametrize(
    ("example", "role"),
    [
        (torch.zeros(1, 3, 8, 8), Role.NUMBERS),  # what people give for an image
        (torch.ones(2, 5), Role.NUMBERS),
        (torch.randn(2, 5), Role.NUMBERS),
        (torch.ones(2, 5, dtype=torch.bool), Role.MASK),
        (torch.ones(2, 5, dtype=torch.long), Role.MASK),
        (torch.tensor([[0.0, 1.0], [1.0, 1.0]]), Role.MASK),
        (torch.tensor([0]), Role.INTEGERS),
        (torch.tensor([[7, 3]]), Role.INTEGERS),
        (torch.zeros(2, 3, dtype=torch.cfloat), Role.NUMBERS),
    ],
)
def test_the_role_of_an_input_follows_from_its_values(example: Tensor, role: Role) -> None:
    assert sampler(example).slots[0].role is role


def test_float_ones_beside_another_input_are_a_mask() -> None:
    found = sampler({"ids": torch.tensor([[3, 1]]), "mask": torch.ones(1, 2)}, tables={0: 9})
    assert [slot.role for slot in found.slots] == [Role.INDICES, Role.MASK]


def test_a_mask_has_holes_and_no_row_is_masked_out() -> None:
    for example, usual in ((torch.ones(2, 6, dtype=torch.long), 1), (torch.zeros(2, 6, dtype=torch.bool), 0)):
        (mask,) = sampler(example).draw(Shape(4), seed=0)[0].flat()
        assert mask.shape == (4, 6)
        assert mask.dtype == example.dtype
        assert bool((mask[:, 0] == usual).all())
        assert bool((mask != usual).any())


def test_indices_reach_every_row_of_their_table_and_none_beyond() -> None:
    (ids,) = sampler(torch.tensor([[2, 2]]), tables={0: 5}).draw(Shape(200), seed=0)[0].flat()
    assert sorted(set(ids.flatten().tolist())) == [0, 1, 2, 3, 4]


def test_a_single_timestep_is_drawn_from_many() -> None:
    found = sampler((torch.randn(1, 4), torch.tensor([0])))
    drawn = {int(found.draw(Shape(), seed)[0].flat()[1]) for seed in range(5)}
    assert len(drawn) > 1


def test_samples_of_a_batch_have_their_scales() -> None:
    (x,) = sampler(torch.randn(1, 3, 8, 8)).draw(Shape(4, scales=EXTENTS.scales), seed=0)[0].flat()
    sizes = x.abs().amax((1, 2, 3)).tolist()
    assert sizes[1] < 1e-1 < sizes[0] < sizes[2] < sizes[3]
    assert bool((x[2] >= 0).all())
    assert bool((x[1] == 0).any())


def test_both_models_get_the_same_numbers_in_their_own_order_and_layout() -> None:
    x, ids = torch.randn(2, 3, 8, 8), torch.tensor([[1, 2], [3, 4]])
    found = sampler((x, ids), {"ids": ids, "image": x.permute(0, 2, 3, 1)}, {})
    ours, theirs = found.draw(Shape(3, spatial=(6, 10)), seed=1)
    assert torch.equal(ours.flat()[0].permute(0, 2, 3, 1), theirs.flat()[1])
    assert torch.equal(ours.flat()[1], theirs.flat()[0])
    assert ours.flat()[0].shape == (3, 3, 6, 10)


def test_equal_examples_are_told_apart_by_their_names() -> None:
    ones = torch.ones(1, 4, dtype=torch.long)
    found = sampler({"ids": ones, "mask": ones.clone()}, {"mask": ones.clone(), "ids": ones.clone()}, {})
    ours, theirs = found.draw(Shape(), seed=0)
    assert torch.equal(ours.kwargs["mask"], theirs.kwargs["mask"])
    assert torch.equal(ours.kwargs["ids"], theirs.kwargs["ids"])


def test_an_input_that_the_source_does_not_take_is_named() -> None:
    assert sampler(torch.randn(2, 3), {"x": torch.randn(2, 4)}).unlinked == ["x"]


def test_sizes_change_their_divisibility_and_lengths_go_beyond_limits() -> None:
    spatial = [shape.spatial for title, choices in shapes([torch.randn(1, 3, 64, 64)], ["numbers"], ()) for shape in choices]
    assert any(all(extent % 2 for extent in extents) for extents in spatial if extents)
    assert any(min(extents) < 64 for extents in spatial if extents)
    assert any(max(extents) > 64 for extents in spatial if extents)
    text = torch.tensor([[1, 2, 3, 4, 5]])
    lengths = [shape.sizes for _, choices in shapes([text], ["indices"], (32, 5000)) for shape in choices]
    assert {5: 35} in lengths
    assert {5: 3} in lengths


def test_inputs_are_named_as_a_user_gave_them() -> None:
    inputs = Inputs((torch.zeros(1),), {"mask": torch.ones(1), "pair": (torch.ones(1), torch.ones(1))}, True, "")
    assert names_of(inputs) == ["argument 0", "mask", "pair[0]", "pair[1]"]


def test_axes_of_equal_extents_change_each_alone() -> None:
    queries, keys = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    changed = {
        axis for _, choices in shapes([queries, keys], ["numbers"] * 2, ()) for shape in choices for axis in shape.axes
    }
    assert {(0, 1), (1, 1)} <= changed
    ours, _ = sampler((queries, keys)).draw(Shape(2, axes={(0, 1): 3}), seed=0)
    assert [tuple(value.shape) for value in ours.flat()] == [(2, 3, 8), (2, 6, 8)]


def test_a_text_may_be_padded_on_the_left() -> None:
    (mask,) = sampler(torch.ones(2, 6, dtype=torch.long)).draw(Shape(4, padded=True), seed=0)[0].flat()
    assert mask[1].tolist() == [0, 0, 0, 1, 1, 1]
    assert mask[2].tolist() == [1] * 6


def test_lengths_reach_the_end_of_what_they_count() -> None:
    lengths = replace(sampler({"x": torch.randn(3, 9, 4), "lengths": torch.tensor([9, 5, 2])}), largest=0)
    for seed in range(5):
        numbers, drawn = lengths.draw(Shape(sizes={9: 6}), seed)[0].flat()
        assert numbers.shape[1] == int(drawn.max()) == 6
        assert int(drawn.min()) > 0


def test_an_example_that_was_drawn_with_the_seed_of_a_draw_is_not_drawn_again() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (2, 7))
    ours, _ = sampler(ids, tables={0: 20}).draw(Shape(), 0)
    assert not torch.equal(ours.flat()[0], ids)
