"""Keys of one memory that a mapping makes differently are refused before anything is written."""

import pytest
import torch
from torch import nn

import fxmap


class Tied(nn.Module):
    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.e, self.h = nn.Embedding(3, 2, device=device), nn.Linear(2, 3, bias=False, device=device)
        self.h.weight = self.e.weight


class Overlapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        memory = torch.randn(6, 2)
        self.a, self.b = nn.Parameter(memory), nn.Parameter(memory[:3])


TIED = fxmap.KeyMapping({"e.weight": "a", "h.weight": "b"})


def test_different_values_of_tied_keys_are_refused() -> None:
    zeros, ones, dst = torch.zeros(3, 2), torch.ones(3, 2), Tied()
    before = dst.e.weight.detach().clone()
    with pytest.raises(fxmap.LoadError, match=r"e\.weight and h\.weight share one memory"):
        TIED.load_into(dst, {"a": zeros, "b": ones})
    assert torch.equal(dst.e.weight, before)
    with pytest.raises(fxmap.LoadError, match="share one memory"):
        TIED.load_into(Tied("meta"), {"a": zeros, "b": ones}, assign=True)
    spoiled = torch.full((3, 2), float("nan"))
    for value in (ones, spoiled):
        TIED.load_into(dst, {"a": value, "b": value.clone()})
        assert torch.allclose(dst.h.weight, value, equal_nan=True)


def test_different_values_of_overlapping_parameters_are_refused() -> None:
    dst, mapping = Overlapping(), fxmap.KeyMapping({"a": "p", "b": "q"})
    before = dst.a.detach().clone()
    with pytest.raises(fxmap.LoadError, match="a and b share one memory"):
        mapping.load_into(dst, {"p": torch.zeros(6, 2), "q": torch.ones(3, 2)})
    assert torch.equal(dst.a, before)
    value = torch.randn(6, 2)
    mapping.load_into(dst, {"p": value, "q": value[:3].clone()})
    assert torch.equal(dst.a, value)


def test_views_of_one_memory_that_do_not_overlap_are_written() -> None:
    dst, memory = nn.Module(), torch.randn(4, 2)
    dst.a, dst.b = nn.Parameter(memory[:, 0]), nn.Parameter(memory[:, 1])
    dst.c, dst.d = nn.Parameter(memory[:2].clone()), nn.Parameter(memory[2:].clone())
    state = {"p": torch.zeros(4), "q": torch.ones(4)}
    with pytest.warns(fxmap.ProofWarning, match="2 keys of the destination keep .* c, d"):
        fxmap.KeyMapping({"a": "p", "b": "q"}).load_into(dst, state, on_mismatch="keep")
    assert torch.equal(memory, torch.tensor([[0.0, 1.0]]).expand(4, 2))
