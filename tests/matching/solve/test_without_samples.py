"""Where there is nothing to solve with, a search says so, and is no fault."""

import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.findings import NoteKind


class OfIds(nn.Module):
    def __init__(self, most: int) -> None:
        super().__init__()
        self.e, self.h, self.most = nn.Embedding(9, 4), nn.Linear(4, 3), most

    def forward(self, ids: list[int]) -> Tensor:
        y: Tensor = self.h(self.e(torch.tensor([min(i, self.most) for i in ids])))
        return y


class Part(nn.Module):
    """A body, and a head if it is not `cut`: then the first columns of the body."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = None if cut else nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.b(torch.tanh(self.a(x)))
        y: Tensor = h[..., :3] if self.head is None else self.head(h)
        return y


def test_models_that_take_no_tensor_are_no_fault() -> None:
    mapping = fxmap.auto_map(OfIds(9), OfIds(2), example_inputs=([1, 3, 2],))
    assert not mapping.knowledge.notes_of(NoteKind.FAULT)


def test_a_weight_that_a_stretch_of_layers_makes_is_no_fault() -> None:
    mapping = fxmap.auto_map(Part(cut=False), Part(cut=True), example_inputs=torch.randn(2, 6, 8))
    assert not mapping.knowledge.notes_of(NoteKind.FAULT)
    assert not mapping.proof.ok
