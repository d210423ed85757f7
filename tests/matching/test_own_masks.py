"""Masks in a state dict: a model's own constants, unless the other state dict has one of the shape."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxmap


class Attention(nn.Module):
    """Causal attention, with its mask in the state dict or by `is_causal`; `window` keeps fewer positions."""

    bias: Tensor

    def __init__(self, stored: bool, window: int = 64) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 5)
        self.stored = stored
        if stored:
            ones = torch.ones(16, 16)
            self.register_buffer("bias", (ones.tril() * ones.triu(1 - window)).view(1, 1, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (part.view(batch, length, 2, 4).transpose(1, 2) for part in self.qkv(x).split(width, 2))
        if self.stored:
            scores = (q @ k.mT) / math.sqrt(4)
            scores = scores.masked_fill(self.bias[:, :, :length, :length] == 0, -math.inf)
            y = F.softmax(scores, -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        made: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, width))
        return made


X = torch.randn(2, 9, 8)


def test_a_causal_mask_of_the_destination_is_kept_and_the_rest_is_proven_and_loaded() -> None:
    src, dst = Attention(stored=False), Attention(stored=True)
    mapping = fxmap.load(dst, src.state_dict(), src=src, example_inputs=X)
    assert mapping.proof.ok, mapping.proof
    assert mapping.status("bias") is fxmap.Status.KEPT
    assert not mapping.missing
    assert torch.allclose(src(X), dst(X), atol=1e-6)


def test_a_causal_mask_of_the_source_alone_is_no_obstacle() -> None:
    assert fxmap.auto_map(Attention(stored=True), Attention(stored=False), example_inputs=X).proof.ok


def test_masks_that_both_have_are_mapped() -> None:
    mapping = fxmap.auto_map(Attention(stored=True), Attention(stored=True), example_inputs=X)
    assert mapping.proof.ok
    assert str(mapping["bias"]) == "bias"


@pytest.mark.parametrize("stored", [(False, True), (True, False)])
def test_a_mask_that_keeps_fewer_positions_is_refused(stored: tuple[bool, bool]) -> None:
    src, dst = (Attention(one, window=4) for one in stored)
    assert not fxmap.auto_map(src, dst, example_inputs=X).proof.ok


def test_a_file_with_another_mask_than_its_model_is_refused() -> None:
    src, dst = Attention(stored=True), Attention(stored=False)
    state = Attention(stored=True, window=4).state_dict()
    with pytest.raises(fxmap.LoadError, match="bias"):
        fxmap.load(dst, state, src=src, example_inputs=X)
