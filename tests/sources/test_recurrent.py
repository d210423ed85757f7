"""Recurrent layers back from what torch exports of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.testing.planted import randomised

pytest.importorskip("onnx")
pytestmark = pytest.mark.filterwarnings("ignore")


class Tagger(nn.Module):
    def __init__(self, layer: Callable[..., nn.Module], bidirectional: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.rnn = layer(6, 5, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(5 * (1 + bidirectional), 3)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(self.words(ids))[0])
        return out


@pytest.mark.parametrize(("layer", "bidirectional"), [(nn.RNN, False), (nn.GRU, True), (nn.LSTM, False)])
def test_a_recurrent_operator_that_starts_with_zeros_is_mapped_and_proven(
    layer: Callable[..., nn.Module], bidirectional: bool, tmp_path: Path
) -> None:
    src, dst = (randomised(Tagger(layer, bidirectional), seed).eval() for seed in (1, 2))
    ids = torch.randint(0, 20, (2, 4), generator=torch.Generator().manual_seed(0))
    torch.onnx.export(src, (ids,), str(tmp_path / "a.onnx"), dynamo=False)
    mapping = fxmap.load(dst, tmp_path / "a.onnx")
    assert mapping.ok, mapping.proof.reason
    assert torch.allclose(src(ids), dst(ids), atol=1e-6)


def test_a_recurrent_layer_that_the_exporter_unrolled_from_zeros_is_mapped_and_proven(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    src, dst = (randomised(Tagger(nn.RNN, False), seed).eval() for seed in (1, 2))
    ids = torch.randint(0, 20, (2, 4), generator=torch.Generator().manual_seed(0))
    torch.onnx.export(src, (ids,), str(tmp_path / "a.onnx"), dynamo=True, verbose=False)
    mapping = fxmap.load(dst, tmp_path / "a.onnx")
    assert mapping.ok, mapping.proof.reason
    assert torch.allclose(src(ids), dst(ids), atol=1e-6)
