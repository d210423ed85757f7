"""A destination that returns what the source computes on the way is proven as a part; what only looks like one is not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter

import fxmap
from fxmap.errors import ProofError
from fxmap.mapping.proof import Status
from fxmap.prove.partial.parts import Tap, Tapped


class Block(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv, self.bn, self.short, self.act = (
            nn.Conv2d(i, o, 3, 2, 1),
            nn.BatchNorm2d(o),
            nn.Conv2d(i, o, 1, 2),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.bn(self.conv(x)) + self.short(x))
        return result


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three, self.fc = Block(3, 6), Block(6, 8), Block(8, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(self.three(self.two(self.one(x))).mean((2, 3)))
        return result


def trunk() -> nn.Module:
    return nn.Sequential(*list(Classifier().children())[:-1])


def test_a_backbone_is_ok_for_the_part_that_it_has_and_says_so() -> None:
    torch.manual_seed(0)
    src, dst = Classifier().eval(), trunk().eval()
    mapping = fxmap.auto_map(src, dst, verify="required")
    assert mapping.proof.ok
    assert mapping.proof.scope.part == "what three.act returns"
    assert "the destination is a part of the source, and returns what three.act returns" in str(mapping)
    assert set(mapping.unexpected) == {"fc.weight", "fc.bias"}
    mapping.load_into(dst, src.state_dict())
    seen: list[Tensor] = []
    src.three.register_forward_hook(lambda _, __, output: seen.append(output))
    x = torch.randn(2, 3, 65, 64)
    with torch.no_grad():
        src(x)
        assert torch.allclose(dst(x), seen[0], atol=1e-5)


def test_several_values_on_the_way_are_a_part() -> None:
    dst = IntermediateLayerGetter(Classifier(), {"one": "low", "three": "high"})
    assert fxmap.auto_map(Classifier(), dst).proof.ok


class Net(nn.Module):
    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def layers(**more: nn.Module) -> dict[str, nn.Module]:
    return {"a": nn.Linear(6, 8), "b": nn.Linear(8, 8), **more}


def middle(m: Any, x: Tensor) -> Tensor:
    result: Tensor = m.b(torch.tanh(m.a(x)))
    return result


def head(h: Tensor, m: Any) -> Tensor:
    result: Tensor = m.h(F.gelu(h))
    return result


PARTS: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[Any, Tensor], Any], bool]] = {
    "without the head": (lambda m, x: head(middle(m, x), m), middle, True),
    "with another activation at its end": (
        lambda m, x: head(middle(m, x).relu(), m),
        lambda m, x: F.relu6(middle(m, x)),
        False,
    ),
    "before what another layer adds": (lambda m, x: head(middle(m, x) + m.c(torch.tanh(m.a(x))), m), middle, False),
    "before a scale that could be merged": (lambda m, x: head(middle(m, x) * m.g.weight[:, 0], m), middle, False),
    "before a layer that could be merged": (lambda m, x: head(m.c(middle(m, x)), m), middle, False),
    "before a residual": (lambda m, x: head(middle(m, x) + m.d(x).exp(), m), middle, True),
    "under the name of an output": (lambda m, x: {"y": head(middle(m, x), m)}, lambda m, x: {"y": middle(m, x)}, False),
    "under another name": (lambda m, x: {"y": head(middle(m, x), m)}, lambda m, x: {"h": middle(m, x)}, True),
    "in the shape of an output": (lambda m, x: m.c(F.gelu(middle(m, x))), middle, False),
}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_what_the_source_computes_on_the_way_is_a_part(name: str, recorded: bool) -> None:
    torch.manual_seed(0)
    whole, part, expected = PARTS[name]
    more = {"c": nn.Linear(8, 8), "d": nn.Linear(6, 8), "g": nn.Linear(2, 8), "h": nn.Linear(8, 3)}
    src, dst = Net(whole, **layers(**more)).eval(), Net(part, **layers()).eval()
    if recorded:
        for net in (src, dst):
            net.function = _not_traced(net.function)
    proof = fxmap.auto_map(src, dst, example_inputs=torch.randn(4, 6)).proof
    assert proof.ok is expected, str(proof)
    assert bool(proof.scope.part) is expected


def _not_traced(forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda m, x: forward(m, x) if x.shape[0] else x


def test_a_replaced_head_that_is_not_run_stands_against_nothing() -> None:
    torch.manual_seed(0)
    src, dst = Classifier().eval(), Classifier().eval()
    dst.fc = nn.Linear(10, 3)
    example = torch.randn(2, 3, 33, 33)

    def features(model: Any, x: Tensor) -> Tensor:
        result: Tensor = model.three(model.two(model.one(x)))
        return result

    mapping = fxmap.auto_map(src, dst, example_inputs=example, src_forward=features, dst_forward=features)
    assert mapping.proof.ok, mapping.proof
    assert mapping.mismatched == ["fc.weight", "fc.bias"]
    assert not fxmap.auto_map(src, dst, example_inputs=example).proof.ok
    other = fxmap.auto_map(
        src, dst, example_inputs=example, src_forward=features, dst_forward=lambda m, x: m.fc(features(m, x).mean((2, 3)))
    )
    assert not other.proof.ok


def test_a_part_with_a_layer_of_its_own_is_none() -> None:
    src, dst = (
        Net(lambda m, x: head(middle(m, x), m), **layers(h=nn.Linear(8, 3))),
        Net(lambda m, x: m.z(middle(m, x)), **layers(z=nn.Linear(8, 7))),
    )
    with pytest.raises(ProofError):
        fxmap.auto_map(src, dst, example_inputs=torch.randn(4, 6), verify="required")


def test_a_model_that_takes_no_hooks_is_no_part_and_raises_nothing() -> None:
    class Bare(nn.Linear):
        def register_forward_hook(self, *_: Any, **__: Any) -> Any:
            raise KeyError("no hooks")

    src = Net(lambda m, x: head(middle(m, x), m), **layers(h=Bare(8, 3)))
    proof = fxmap.auto_map(src, Net(middle, **layers()), example_inputs=torch.randn(4, 6)).proof
    assert not proof.ok


def test_a_wrong_mapping_of_a_part_is_refuted() -> None:
    src, dst = Classifier().eval(), trunk().eval()
    names = dict(fxmap.auto_map(src, dst, verify=False))
    assert fxmap.verify(src, dst, names).ok
    one, other = "1.bn.weight", "1.bn.bias"
    proof = fxmap.verify(src, dst, {**names, one: names[other], other: names[one]})
    assert not proof.ok
    assert proof.status(one) is Status.MATCHED


def test_values_are_taken_where_they_pass_between_modules() -> None:
    model, x = nn.Sequential(nn.ReLU(), nn.Linear(2, 1)), torch.tensor([[-1.0, 2.0]])
    entering, leaving = Tapped((Tap("1", entering=True),)), Tapped((Tap("0", entering=False),))
    assert torch.equal(entering(model, x)[0], leaving(model, x)[0])
    with pytest.raises(ValueError, match="the run does not pass what 0 returns"):
        Tapped((Tap("0", entering=False, call=1),))(model, x)
    assert not model[0]._forward_hooks
