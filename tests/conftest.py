"""One thread for each test process, since two of them share two cores; the engine of int8 models, and no warnings."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from fxmap.testing.recipes.forms import engine


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_engine() -> Iterator[None]:
    """Put the engine back: quantized models of torchvision choose one for the whole process, and so for other tests."""
    with engine(torch.backends.quantized.engine):
        yield


@pytest.fixture
def fbgemm() -> Iterator[None]:
    """Load and run under it too: transposed weights that are packed again for oneDNN give wrong values on some CPUs."""
    with engine("fbgemm"):
        yield


@pytest.fixture
def little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search for weights end soon, in a test of how a difference is named: in vain, it takes all of its effort."""
    monkeypatch.setattr("fxmap.matching.solve.weights.MOST", 0.5)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Say nothing of what torch is to give up: its ways to quantize warn at every step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
