"""Before a difference, a key is proven only if what reads it shows that it is the right one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxmap
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status

Forward = Callable[..., Tensor]


class Net(nn.Module):
    """Layers by name, and a forward of them."""

    def __init__(self, forward: Forward, **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def mapped(src: nn.Module, dst: nn.Module, *inputs: Tensor) -> KeyMapping:
    torch.manual_seed(0)
    return fxmap.auto_map(src.eval(), dst.eval(), example_inputs=inputs)


def proven(mapping: KeyMapping) -> list[str]:
    return [key for key in mapping if mapping.status(key) in (Status.PROVEN, Status.TIED)]


def linear(i: int = 6, o: int = 6) -> nn.Linear:
    return nn.Linear(i, o)


def test_a_layer_into_which_another_one_is_merged_is_proven_merged_alone() -> None:
    low = {"p": nn.Linear(6, 2, bias=False), "q": nn.Linear(2, 6, bias=False)}
    src = Net(lambda m, x: m.b(F.gelu(m.a(x) + m.q(m.p(x)))), a=linear(), b=linear(6, 3), **low)
    dst = Net(lambda m, x: m.b(F.gelu(m.a(x))), a=linear(), b=linear(6, 3))
    x = torch.randn(4, 6)
    mapping = mapped(src, dst, x)
    assert mapping.proof.ok
    assert set(mapping["a.weight"].sources()) == {"a.weight", "p.weight", "q.weight"}
    mapping.load_into(dst, src.state_dict())
    assert torch.allclose(src(x), dst(x), atol=1e-5)


def test_a_branch_that_the_source_adds_behind_a_sum_is_merged_into_a_summand() -> None:
    def forward(m: Any, x: Tensor, added: bool) -> Tensor:
        x = m.s(x)
        h = F.gelu(m.a(m.n(x)))
        x = x + m.b(h)
        result: Tensor = m.h(torch.tanh(x + m.q(h) if added else x))
        return result

    layers = {"s": linear(), "n": nn.LayerNorm(6), "a": linear(), "b": linear(), "h": linear(6, 3)}
    src = Net(lambda m, x: forward(m, x, True), **layers, q=linear())
    dst = Net(lambda m, x: forward(m, x, False), **{name: type(m)(*_sizes(m)) for name, m in layers.items()})
    mapping = mapped(src, dst, torch.randn(4, 6))
    assert mapping.proof.ok
    assert str(mapping["b.weight"]) == "b.weight + q.weight"


def _sizes(layer: nn.Module) -> tuple[int, ...]:
    return (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (6,)


@pytest.mark.parametrize("groups", [1, 8])
def test_rows_before_an_order_that_differs_are_not_proven_unless_their_order_is_known(groups: int) -> None:
    def depth(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)

    def net(up: Callable[[Tensor], Tensor]) -> Net:
        layers = {"a": nn.Conv2d(3, 8, 1), "g": nn.Conv2d(8, 8, 3, padding=1, groups=groups), "b": nn.Conv2d(2, 3, 1)}
        return Net(lambda m, x: m.b(up(F.relu(m.g(torch.tanh(m.a(x)))))), **layers)

    mapping = mapped(net(lambda h: F.pixel_shuffle(h, 2)), net(depth), torch.randn(2, 3, 5, 6))
    # A convolution of one group mixes the channels that it reads, so that their order is known, and its own is solved for.
    assert mapping.proof.ok == (groups == 1)
    assert groups == 1 or proven(mapping) == []


def test_layers_that_only_unknown_readers_tell_apart_are_not_proven() -> None:
    def net(mix: Callable[[Tensor, Tensor], Tensor]) -> Net:
        layers = {"a": linear(), "b": linear(), "c": linear(), "d": linear(), "h": linear(6, 3)}
        return Net(lambda m, x: m.h(mix(m.b(torch.tanh(m.a(x))), m.d(torch.tanh(m.c(x)))).exp()), **layers)

    mapping = mapped(net(lambda p, q: p.sin() * q), net(lambda p, q: p.cos() - q), torch.randn(4, 6))
    assert not mapping.proof.ok
    assert proven(mapping) == []


def test_layers_that_known_readers_tell_apart_are_proven_before_a_replaced_head() -> None:
    def net(classes: int) -> Net:
        def forward(m: Any, x: Tensor) -> Tensor:
            weights = (m.q(x) @ m.k(x).transpose(1, 2)).softmax(-1)
            result: Tensor = m.h(F.gelu(m.o(x + weights @ m.v(x))))
            return result

        return Net(forward, q=linear(), k=linear(), v=linear(), o=linear(), h=linear(6, classes))

    mapping = mapped(net(4), net(3), torch.randn(2, 5, 6))
    assert mapping.mismatched == ["h.weight", "h.bias"]
    found = set(proven(mapping)) | {key for key in mapping if mapping.status(key) is Status.INERT}
    assert found == {f"{name}.{end}" for name in "qkvo" for end in ("weight", "bias")}


def test_the_layers_of_a_shorter_stack_are_proven_up_to_its_norm() -> None:
    def net(count: int) -> Net:
        def forward(m: Any, x: Tensor) -> Tensor:
            for i in range(count):
                x = x + getattr(m, f"b{i}")(F.gelu(getattr(m, f"a{i}")(x)))
            result: Tensor = m.h(m.n(x))
            return result

        layers = {f"{name}{i}": linear() for i in range(count) for name in "ab"}
        return Net(forward, **layers, n=nn.LayerNorm(6), h=linear(6, 3))

    mapping = mapped(net(4), net(2), torch.randn(4, 6))
    assert proven(mapping) == [f"{name}{i}.{end}" for i in (0, 1) for name in "ab" for end in ("weight", "bias")]


def test_a_body_is_proven_before_layers_that_the_source_lacks() -> None:
    body = lambda: {"a": nn.Conv2d(3, 8, 3, padding=1), "b": nn.Conv2d(8, 8, 3, padding=1)}  # noqa: E731
    src = Net(lambda m, x: m.h(F.relu(m.b(F.relu(m.a(x)))).mean((2, 3))), **body(), h=linear(8, 5))
    dst = Net(lambda m, x: m.box(F.relu(m.b(F.relu(m.a(x))))), **body(), box=nn.Conv2d(8, 4, 3))
    mapping = mapped(src, dst, torch.randn(1, 3, 12, 13))
    assert proven(mapping) == ["a.weight", "a.bias", "b.weight", "b.bias"]
