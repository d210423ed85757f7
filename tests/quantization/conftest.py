"""The engine that the int8 models of these tests are converted for."""

from collections.abc import Iterator

import pytest

from benchmarks.recipes import engine


@pytest.fixture(autouse=True)
def _fbgemm() -> Iterator[None]:
    """Load and run under it too: transposed weights that are packed again for oneDNN give wrong values on some CPUs."""
    with engine("fbgemm"):
        yield
