"""Inputs with other values, and inputs that two models share."""

import torch

from fxmap.model.inputs import as_inputs, as_shared, others


def test_integers_stay_in_their_columns() -> None:
    columns = torch.tensor([[0, 50], [1, 60], [2, 70]])
    (drawn,) = others(as_inputs(columns), seed=1).flat()
    assert not torch.equal(drawn, columns)
    assert torch.equal(drawn.sort(0).values, columns)


def test_integers_of_one_sample_change_places() -> None:
    row = torch.arange(9)[None]
    (drawn,) = others(as_inputs(row), seed=1).flat()
    assert not torch.equal(drawn, row)
    assert torch.equal(drawn.sort(1).values, row)


def test_inputs_in_another_layout_are_drawn_alike() -> None:
    image = torch.randn(2, 3, 4, 5)
    ours, theirs = as_inputs(image), as_inputs(image.permute(0, 2, 3, 1))
    drawn = others(ours, seed=1)
    (shared,) = as_shared(others(theirs, seed=2), theirs, drawn, ours).flat()
    assert torch.equal(shared, drawn.flat()[0].permute(0, 2, 3, 1))
