"""What torch's exporter by TorchScript writes of a model is mapped back into the model, and proven."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import fxmap
from fxmap.testing.planted import randomised

pytest.importorskip("onnx")


class Inverse(nn.Module):
    """A norm by the inverse of a root, which the exporter writes as a quotient."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.weight = nn.Linear(4, 6), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Plus(nn.Module):
    """A norm whose code adds one to its weight in single precision, which the exporter does beforehand; and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.ids, self.fc, self.weight = nn.Embedding(9, 4), nn.Linear(4, 6), nn.Parameter(torch.zeros(6))
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.ids(x) * self.get_buffer("scale"))
        return (1.0 + self.weight.float()) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Masked(nn.Module):
    """Attention with a mask, whose softmax the exporter guards against rows of which nothing is left."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        return scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), attn_mask=mask)


class Counted(nn.Module):
    """An embedding whose labels are taken of a buffer by positions."""

    def __init__(self) -> None:
        super().__init__()
        self.ids, self.types, self.head = nn.Embedding(9, 4), nn.Embedding(2, 4), nn.Linear(4, 3)
        self.register_buffer("labels", torch.arange(12).view(1, -1) % 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        labels = self.get_buffer("labels").expand(len(x), -1).gather(1, (x != 1).int().cumsum(1).long())
        return torch.tanh(self.head(self.ids(x) + self.types(labels)))


class Turned(nn.Module):
    """Attention whose queries and keys are turned by angles, whose cosines and sines the exporter computes beforehand."""

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.q, self.k, self.v, self.power = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), power

    def turned(self, x: Tensor) -> Tensor:
        angles = torch.arange(5.0)[:, None] * self.power ** -torch.arange(4.0)
        angles = torch.cat([angles, angles], -1)
        return x * angles.cos() + torch.cat([-x[..., 4:], x[..., :4]], -1) * angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        return scaled_dot_product_attention(self.turned(self.q(x)), self.turned(self.k(x)), self.v(x))


@pytest.mark.filterwarnings("ignore")
def test_tables_that_no_key_is_made_of_are_numbers_of_the_code(tmp_path: Path) -> None:
    src, x = randomised(Turned(), 1), torch.randn(2, 5, 8)
    torch.onnx.export(src, (x,), str(path := tmp_path / "a.onnx"), dynamo=False)
    mapping = fxmap.load(dst := randomised(Turned(), 2), path)
    assert mapping.ok, mapping.proof
    assert "numbers of the code" in str(mapping)
    torch.testing.assert_close(dst(x), src(x))
    assert not fxmap.verify(path, Turned(3.0), mapping).ok


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "x"),
    [
        (Inverse, torch.randn(2, 4)),
        (Plus, torch.randint(0, 9, (2, 7))),
        (Masked, torch.randn(2, 5, 4)),
        (Counted, torch.randint(0, 9, (2, 7))),
    ],
)
def test_a_model_is_proven(kind: type[nn.Module], x: Tensor, tmp_path: Path) -> None:
    src, dst = randomised(kind(), 1), randomised(kind(), 2)
    torch.onnx.export(src, (x,), str(tmp_path / "a.onnx"), dynamo=False)
    mapping = fxmap.load(dst, tmp_path / "a.onnx")
    assert mapping.ok, mapping.proof
    torch.testing.assert_close(dst(x), src(x))
