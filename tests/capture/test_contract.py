"""Einsum with weights is a linear layer: the value stays the same, and attention written by einsum is attention."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.graph.opgraph import OpGraph
from fxmap.matching.sides import side
from fxmap.model.inputs import as_inputs
from fxmap.run.interpreter import ValueInterpreter
from fxmap.testing.planted import randomised

X = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Multi-head attention by torch's own layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        out: Tensor = self.head(x + self.attention(z, z, z)[0])
        return out


class Einsum(nn.Module):
    """The same with a weight for each head, as code that comes from JAX has it."""

    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(32)
        for name in "qkv":
            self.register_parameter(f"w{name}", nn.Parameter(torch.randn(4, 32, 8)))
            self.register_parameter(f"b{name}", nn.Parameter(torch.randn(4, 8)))
        self.wo, self.bo = nn.Parameter(torch.randn(4, 8, 32)), nn.Parameter(torch.randn(32))
        self.last = nn.Linear(32, 5)

    def project(self, x: Tensor, name: str) -> Tensor:
        bias = getattr(self, f"b{name}")[None, :, None]
        return torch.einsum("bnd,hdk->bhnk", x, getattr(self, f"w{name}")) + bias

    def forward(self, x: Tensor) -> Tensor:
        z = self.ln(x)
        q, k, v = (self.project(z, name) for name in "qkv")
        mixed = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
        out: Tensor = self.last(x + torch.einsum("bhnk,hkd->bnd", mixed, self.wo) + self.bo)
        return out


@pytest.mark.parametrize(("src", "dst"), [(Attention, Einsum), (Einsum, Attention), (Einsum, Einsum)])
def test_attention_by_einsum_is_attention(src: type[nn.Module], dst: type[nn.Module]) -> None:
    ours, theirs = randomised(src(), 1).eval(), randomised(dst(), 2).eval()
    mapping = fxmap.auto_map(ours, theirs, example_inputs=X)
    assert not mapping.missing
    assert mapping.proof.ok
    mapping.load_into(theirs, ours.state_dict())
    assert torch.allclose(ours(X), theirs(X), atol=1e-5)


class Product(nn.Module):
    """A batched product with a weight on one of its sides, and a bias behind a permutation."""

    def __init__(self, *, left: bool) -> None:
        super().__init__()
        self.left = left
        self.weight, self.bias = nn.Parameter(torch.randn(2, 3, 6)), nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] != 1:  # keeps symbolic tracing out
            raise ValueError("one at a time")
        weight, bias = self.weight.reshape(1, 6, 6), self.bias.reshape(6, 1)
        if self.left:
            return (torch.bmm(weight, x) + bias).tanh()
        return (torch.bmm(x, weight).transpose(1, 2) + bias).tanh()


@pytest.mark.parametrize("left", [True, False])
def test_a_product_with_a_weight_is_a_linear_layer_with_its_bias(left: bool) -> None:
    model, x = Product(left=left), torch.randn(1, 6, 6)
    captured = side(model, as_inputs(x)).main
    graph: OpGraph = captured.ops
    assert [op.kind for op in graph.ops() if op.kind in ("linear", "add", "bmm", "mm")] == ["linear"]
    assert "bias" in graph.tensors(next(op.name for op in graph.ops() if op.kind == "linear"))
    tensors = {path: value.detach() for path, value in captured.tensors.items()}
    (value,) = ValueInterpreter(captured, tensors).run(x)
    assert torch.allclose(value, model(x), atol=1e-6)
