"""Complex arithmetic on pairs of real numbers is real arithmetic, of the same values; a Fourier transform stays as it is."""

import pytest
import torch
from torch import Tensor, fx, nn

from fxmap.capture.recorded import capture_run
from fxmap.model.inputs import as_inputs
from fxmap.run.interpreter import ValueInterpreter

X = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
TABLE = torch.randn(3, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))


class Code(nn.Module):
    """A table of complex numbers, a complex parameter, and some code on them and a complex input."""

    table: Tensor

    def __init__(self, code: str) -> None:
        super().__init__()
        self.register_buffer("table", TABLE)
        self.weight = nn.Parameter(TABLE.clone())
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        names = {"torch": torch, "z": torch.view_as_complex(x), "f": self.table, "w": self.weight}
        return torch.view_as_real(eval(self.code, names))


def _graph(code: str) -> tuple[fx.Graph, Tensor, Tensor]:
    model = Code(code).eval()
    captured = capture_run(model, as_inputs(X))
    return captured.graph, ValueInterpreter(captured, captured.tensors).run(2 * X), model(2 * X)


def _is_complex(graph: fx.Graph) -> bool:
    return any("view_as_complex" in str(node.target) or "complex.default" in str(node.target) for node in graph.nodes)


@pytest.mark.parametrize(
    "code",
    [
        "z * f",
        "f * z",
        "z * f + z",
        "z - f",
        "f - z",
        "z.transpose(0, 1)[0] * f[0]",
        "z * z",
        "(z * f).reshape(2, -1)",
        "z * f.real",
        "z + f.real",
        "f.real - z",
        "torch.complex(z.real, z.imag * 2) * f",
    ],
)
def test_products_sums_and_movements_become_real(code: str) -> None:
    graph, value, expected = _graph(code)
    assert not _is_complex(graph)
    assert torch.allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("code", ["torch.fft.ifft(torch.fft.fft(z) * f)", "z * w", "z / f"])
def test_what_holds_more_stays_complex(code: str) -> None:
    graph, value, expected = _graph(code)
    assert _is_complex(graph)
    assert torch.allclose(value, expected, atol=1e-6)
