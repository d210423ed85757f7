"""Functions made of pieces: what differs where no input reaches is refused, and equal spellings are proven."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap

Function = Callable[[Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.function(self.a(x)))
        return y


def _proof(one: nn.Module, other: nn.Module, x: Tensor) -> fxmap.Proof:
    return fxmap.auto_map(one, other, example_inputs=x).proof


def _rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


DIFFERENT: dict[str, tuple[Function, Function]] = {
    "what a relu reads": (lambda x: x + F.relu(x - 100), lambda x: x + F.relu(3 * x - 100)),
    "a multiple of what a relu reads": (lambda x: x + F.relu(x - 100), lambda x: x + F.relu(3 * x - 300)),
    "the order of what a relu reads": (lambda x: x + F.relu(x - 100), lambda x: x + F.relu((x - 100).flip(-1))),
    "a bound that is a tensor": (
        lambda x: x.clamp(max=torch.log(torch.tensor(1e6))),
        lambda x: x.clamp(max=torch.log(torch.tensor(1e9))),
    ),
    "a condition": (lambda x: torch.where(x > 1000, x * 2, x), lambda x: torch.where(x * 3 > 1000, x * 2, x)),
    "what a condition chooses": (lambda x: torch.where(x > 1000, x * 2, x), lambda x: torch.where(x > 1000, x * 3, x)),
    "a number in the place of a value that was scaled": (
        lambda x: torch.where(torch.isnan(x), -1.0, x),
        lambda x: torch.where(torch.isnan(x), -1.0, 2 * x) / 2,
    ),
    "the root of a square": (lambda x: x + 500, lambda x: ((x + 500) ** 2).sqrt()),
    "a power that is not whole": (lambda x: x + 500, lambda x: ((x + 500) ** 4) ** 0.25),
    "the norm of one number": (lambda x: x + 500, lambda x: (x[..., None] + 500).norm(dim=-1)),
    "a deviation of two numbers": (
        lambda x: x + 500,
        lambda x: torch.stack([x + 500, -x - 500], -1).std(-1) / 2**0.5,
    ),
    "a softsign": (lambda x: F.softsign(x + 500), lambda x: (x + 500) / (1 + x + 500)),
    "an inverse sine": (lambda x: x * 1e-3, lambda x: torch.asin(torch.sin(x * 1e-3))),
    "eps of logit": (lambda x: torch.logit(x.sigmoid()), lambda x: torch.logit(x.sigmoid(), eps=1e-9)),
    "eps of normalize": (lambda x: F.normalize(x, dim=-1), lambda x: F.normalize(x, dim=-1, eps=1e-3)),
    "a threshold of softplus": (F.softplus, lambda x: F.softplus(x, threshold=50)),
    "a cast to integers": (lambda x: x, lambda x: x + (x / 1000).to(torch.int64)),
    "a division that rounds": (lambda x: x, lambda x: x + torch.div(x + 500, 1e5, rounding_mode="floor")),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_a_difference_on_a_piece_that_no_input_reaches_is_refused(one: Function, other: Function) -> None:
    assert not _proof(Net(one), Net(other), torch.randn(3, 8)).ok


EQUAL: dict[str, tuple[Function, Function]] = {
    "scaled before": (lambda x: F.relu(x / 8), lambda x: F.relu(x) / 8),
    "rms norm by a root": (_rms, lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()),
    "rms norm by a power": (_rms, lambda x: x / ((x * x).mean(-1, keepdim=True) + 1e-6).pow(0.5)),
    "rms norm": (_rms, lambda x: F.rms_norm(x, (8,), eps=1e-6)),
    "layer norm": (
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt(),
        lambda x: F.layer_norm(x, (8,)),
    ),
    "softplus": (F.softplus, lambda x: torch.log1p(x.exp())),
    "normalised": (lambda x: F.normalize(x, dim=-1), lambda x: F.normalize(x, dim=-1)),
    "relu before a transposition": (
        lambda x: F.relu(x.view(-1, 2, 4).transpose(1, 2)).reshape(-1, 8),
        lambda x: F.relu(x).view(-1, 2, 4).transpose(1, 2).reshape(-1, 8),
    ),
}


@pytest.mark.parametrize(("one", "other"), EQUAL.values(), ids=EQUAL.keys())
def test_equal_spellings_are_proven(one: Function, other: Function) -> None:
    assert _proof(Net(one), Net(other), torch.randn(3, 8)).ok


class Resized(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.conv, self.options = nn.Conv2d(3, 4, 3, padding=1), options

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), mode="bilinear", **self.options)  # type: ignore[arg-type]


def test_a_factor_counts_where_the_sizes_do_not_tell_it() -> None:
    x = torch.randn(1, 3, 64, 64)
    half, anew = Resized(scale_factor=0.5), Resized(scale_factor=0.5, recompute_scale_factor=True)
    assert not _proof(half, anew, x).ok
    assert _proof(half, Resized(scale_factor=0.5), x).ok
    assert _proof(Resized(scale_factor=2), Resized(scale_factor=2, recompute_scale_factor=True), x).ok


def _pooled(pool: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, 4))


def test_an_average_over_the_whole_map_is_a_mean_for_inputs_of_this_size() -> None:
    x = torch.randn(2, 3, 32, 32)
    proof = _proof(_pooled(nn.AvgPool2d(8)), _pooled(nn.AdaptiveAvgPool2d(1)), x)
    assert proof.ok
    assert any("for inputs of this size alone" in note for note in proof.notes)
    assert not _proof(_pooled(nn.AvgPool2d(7)), _pooled(nn.AdaptiveAvgPool2d(1)), x).ok


class Attention(nn.Module):
    """Attention in two windows of four positions, with a table of positions and a mask of -100 between the halves."""

    def __init__(self, add: Callable[[Tensor, Tensor, Tensor], Tensor], fill: float = -100.0) -> None:
        super().__init__()
        self.q, self.k, self.v, self.table = (
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Parameter(torch.randn(4, 4)),
        )
        half = torch.arange(4) < 2
        self.mask = torch.stack([torch.zeros(4, 4), torch.where(half[:, None] == half, 0.0, fill)])
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 4, 8)
        scores = self.add(self.q(x) @ self.k(x).transpose(1, 2), self.table, self.mask.to(x.dtype))
        y: Tensor = scores.softmax(-1) @ self.v(x)
        return y.view(-1, 8, 8)


def _one_by_one(scores: Tensor, table: Tensor, mask: Tensor) -> Tensor:
    return ((scores + table).view(-1, 2, 4, 4) + mask).view(-1, 4, 4)


def _together(scores: Tensor, table: Tensor, mask: Tensor) -> Tensor:
    return scores + (table + mask[None].expand(len(scores) // 2, 2, 4, 4).reshape(-1, 4, 4))


def test_a_table_and_a_mask_of_windows_are_added_to_scores_in_any_order() -> None:
    x = torch.randn(3, 8, 8)
    assert _proof(Attention(_one_by_one), Attention(_together), x).ok
    assert _proof(Attention(_together), Attention(_one_by_one), x).ok
    assert not _proof(Attention(_one_by_one), Attention(_together, fill=-200.0), x).ok
    assert not _proof(Attention(_together, fill=-50.0), Attention(_one_by_one), x).ok
