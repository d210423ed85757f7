"""Norms taken apart: the value stays the same, and a norm that is spelled out maps to the native one."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.capture.rewrites.norms import scaling_norms, take_apart
from fxmap.matching.sides import side
from fxmap.model.inputs import as_inputs
from fxmap.run.interpreter import ValueInterpreter
from fxmap.testing.planted import randomised

X = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolutions with norms over channels or groups between them."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.norm = norm
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.scale = nn.GroupNorm(2, 4, eps=1e-6) if norm == "group" else nn.LayerNorm(4, eps=1e-6)
        self.plain = nn.GroupNorm(2, 4, affine=False) if norm == "group" else nn.LayerNorm(4, elementwise_affine=False)

    def _native(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.norm == "group" else norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:  # keeps symbolic tracing out
            raise ValueError("not an image")
        x = self._native(self.scale, self.one(x)).relu()
        return self._native(self.plain, self.two(x))


class Spelled(Net):
    def _native(self, norm: nn.Module, x: Tensor) -> Tensor:
        if norm is self.plain:
            return super()._native(norm, x)
        parts = x.unflatten(1, (2 if self.norm == "group" else 1, -1))
        centred = parts - parts.mean((2, 3, 4) if self.norm == "group" else 2, keepdim=True)
        variance = centred.pow(2).mean((2, 3, 4) if self.norm == "group" else 2, keepdim=True)
        value = (centred / torch.sqrt(variance + 1e-6)).flatten(1, 2)
        return self.scale.weight[:, None, None] * value + self.scale.bias[:, None, None]


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_a_norm_taken_apart_gives_the_same_value(norm: str) -> None:
    captured = side(randomised(Net(norm), 1).eval(), as_inputs(X)).main
    before = ValueInterpreter(captured, captured.tensors).run(X)
    assert len(scaling_norms(captured.graph)) == 1
    take_apart(captured.graph)
    captured.graph.lint()
    assert scaling_norms(captured.graph) == []
    assert torch.allclose(ValueInterpreter(captured, captured.tensors).run(X)[0], before[0], atol=1e-6)


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("ours", [Net, Spelled])
def test_spelled_and_native_norms_map_to_one_another(norm: str, ours: type[Net]) -> None:
    src, dst = randomised(ours(norm), 1).eval(), randomised((Spelled if ours is Net else Net)(norm), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert mapping.renames == {key: key for key in dst.state_dict()}
    assert set(mapping.proof.statuses.values()) == {fxmap.Status.PROVEN}
    assert mapping.proof.error < 1e-9
