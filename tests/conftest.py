"""One thread for each test process, since two of them share two cores; and the engine of int8 models."""

from collections.abc import Iterator

import pytest
import torch

from fxmap.testing.recipes.forms import engine


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def fbgemm() -> Iterator[None]:
    """Load and run under it too: transposed weights that are packed again for oneDNN give wrong values on some CPUs."""
    with engine("fbgemm"):
        yield
