"""Inputs that were guessed take no more than a budget of memory and time."""

import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.errors import CaptureError
from fxmap.model.budget import Budget, budget


@pytest.mark.parametrize(
    "run",
    [
        lambda: torch.zeros(40_000, 40_000),
        lambda: torch.arange(2**30),
        lambda: torch.randn(70_000, 1) @ torch.randn(1, 70_000),
        lambda: torch.randn(70_000, 1) + torch.randn(70_000),
        lambda: torch.randn(2**17).repeat(2**14),
        lambda: torch.nn.functional.conv3d(torch.randn(1, 1, 64, 64, 64), torch.randn(4_000, 1, 1, 1, 1)),
        lambda: [torch.ones(2**20) for _ in range(2_000)],
    ],
)
def test_what_would_not_fit_is_not_made(run: Callable[[], Any]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CaptureError, match="a guess: a run takes more than 1 GB"), budget("a guess", Budget(size=1e9)):
        run()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 1.2e6


def test_what_fits_runs_and_gives_the_same() -> None:
    x = torch.eye(300)
    with budget("a guess"):
        value = torch.softmax(x @ x, 0).nonzero().sum() + torch.ones(300).expand(10_000_000, 300)[0, 0]
    assert value == torch.softmax(x @ x, 0).nonzero().sum() + 1


def test_a_loop_that_never_ends_is_stopped() -> None:
    def loop() -> None:
        x = torch.ones(1)
        while True:
            try:
                x = x + 0
            except Exception:
                continue

    with pytest.raises(CaptureError, match=r"more than 0\.1 s"), budget("a guess", Budget(seconds=0.1)):
        loop()


class Pixels(nn.Module):
    """Attention over every pixel, whose scores for a map of 128 take 1 GB."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Conv2d(3, 4, 1))
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:  # keeps symbolic tracing out
            return x
        y = self.get_submodule(self.name)(x)
        flat = y.flatten(2)
        scores = (flat.transpose(1, 2) @ flat).softmax(-1)
        out: Tensor = self.last((flat @ scores).reshape(y.shape))
        return out


def test_a_smaller_guess_is_taken_where_the_first_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxmap.matching.sides.budget", partial(budget, most=Budget(size=2e7)))
    mapping = fxmap.auto_map(Pixels("a"), Pixels("b"))
    assert mapping.proof.ok
    assert "32x32" in str(mapping.proof)


def test_volumes_are_guessed_small() -> None:
    src, dst = (nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Conv3d(2, 2, 1)) for _ in range(2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fxmap.auto_map(src, dst).proof.ok
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 1.5e6


def test_a_trace_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(10**9 if hasattr(x, "tracer") else 1):
                x = self.fc(x)
            return x

    monkeypatch.setattr("fxmap.capture.tracer._MOST_NODES", 2_000)
    mapping = fxmap.auto_map(Endless(), Endless(), example_inputs=torch.randn(3, 2))
    assert mapping.proof.ok


@pytest.mark.parametrize(
    "slow",
    [
        lambda: torch.linalg.svd(torch.empty(4000, 4000)),
        lambda: torch.linalg.inv(torch.empty(4, 4000, 4000)),
        lambda: torch.linalg.eigvals(torch.empty(4000, 4000)),
        lambda: torch.matrix_exp(torch.empty(4000, 4000)),
        lambda: torch.empty(12000, 12000) @ torch.empty(12000, 12000),
    ],
    ids=["svd", "inverse", "eigenvalues", "exponential", "product"],
)
def test_one_operation_that_would_outlast_the_time_is_not_begun(slow: Callable[[], object]) -> None:
    with pytest.raises(CaptureError, match="a guess: a run takes more than 30 s"), budget("a guess", Budget(size=1e12)):
        slow()


def test_decompositions_and_products_of_usual_sizes_are_run() -> None:
    with budget("a guess"):
        assert torch.linalg.svd(torch.eye(300))[1].sum() == 300
        assert (torch.ones(300, 300) @ torch.ones(300, 300)).sum() == 300**3
        assert torch.linalg.vector_norm(torch.ones(10**6)) == 1000


def test_a_forward_with_a_decomposition_that_takes_minutes_falls_back_in_seconds() -> None:
    class Decomposing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.register_buffer("large", torch.zeros(1).expand(4000, 4000), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) if x.sum() > 1e9 else self.fc(x) + torch.linalg.svdvals(self.large)[:4]

    begin = time.monotonic()
    mapping = fxmap.auto_map(Decomposing(), Decomposing())
    assert mapping.renames == {"fc.weight": "fc.weight", "fc.bias": "fc.bias"}
    assert time.monotonic() - begin < 20
