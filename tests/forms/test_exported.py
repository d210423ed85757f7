"""Rewrites of exported graphs: both sides of every equation compute the same."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxmap.forms.conversion import Within
from fxmap.forms.exported import evaluate, is_exported

aten = torch.ops.aten


Call = Callable[..., fx.Node]


Read = Callable[[str], fx.Node]


class Buffers(nn.Module):
    """The tensors that the graphs of these tests read."""

    def __init__(self) -> None:
        super().__init__()
        values = {"weight": torch.randn(4, 3, 3, 3), "bias": torch.randn(4), "scale": torch.rand(4) + 0.5}
        values |= {"zeros": torch.zeros(4), "mean": torch.randn(4), "var": torch.rand(4) + 0.5, "count": torch.tensor(0)}
        for name, value in values.items():
            self.register_buffer(name, value)


def _module(build: Callable[[fx.Node, Call, Read], fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")

    def call(function: Any, *args: Any) -> fx.Node:
        return graph.call_function(function, args)

    graph.output(build(x, call, graph.get_attr))
    return fx.GraphModule(Buffers(), graph)


def _evaluated(module: fx.GraphModule) -> fx.GraphModule:
    evaluate(module.graph, Within(module, ""))
    module.graph.lint()
    module.recompile()
    return module


def _targets(module: fx.GraphModule) -> list[Any]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


def _input() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def test_a_scale_of_qat_is_taken_back() -> None:
    def build(x: fx.Node, call: Call, read: Read) -> fx.Node:
        scale = read("scale")
        weight = call(aten.mul.Tensor, read("weight"), call(aten.reshape.default, scale, [-1, 1, 1, 1]))
        layer = call(aten.conv2d.default, x, weight)
        return call(aten.div.Tensor, layer, call(aten.reshape.default, scale, [1, -1, 1, 1]))

    module, x = _module(build), _input()
    assert is_exported(module.graph)
    before = module(x)
    after = _evaluated(module)(x)
    assert _targets(module) == [aten.conv2d.default]
    assert torch.allclose(before, after, atol=1e-5)


def test_a_bias_behind_a_scaled_layer_goes_back_into_it() -> None:
    def build(x: fx.Node, call: Call, read: Read) -> fx.Node:
        scale, bias = read("scale"), read("bias")
        weight = call(aten.mul.Tensor, read("weight"), call(aten.reshape.default, scale, [-1, 1, 1, 1]))
        layer = call(aten.conv2d.default, x, weight, call(aten.zeros_like.default, bias))
        divided = call(aten.div.Tensor, layer, call(aten.reshape.default, scale, [1, -1, 1, 1]))
        return call(aten.add.Tensor, divided, call(aten.reshape.default, bias, [1, -1, 1, 1]))

    module, x = _module(build), _input()
    before = module(x)
    after = _evaluated(module)(x)
    assert _targets(module) == [aten.conv2d.default]
    assert torch.allclose(before, after, atol=1e-5)


def test_a_layer_that_is_divided_by_another_scale_stays() -> None:
    def build(x: fx.Node, call: Call, read: Read) -> fx.Node:
        scaled = call(aten.reshape.default, read("scale"), [-1, 1, 1, 1])
        layer = call(aten.conv2d.default, x, call(aten.mul.Tensor, read("weight"), scaled))
        return call(aten.div.Tensor, layer, call(aten.reshape.default, read("var"), [1, -1, 1, 1]))

    module, x = _module(build), _input()
    before = module(x)
    assert torch.equal(_evaluated(module)(x), before)
    assert aten.div.Tensor in _targets(module)


def test_batch_norm_and_dropout_are_those_of_eval_mode_and_nothing_is_counted() -> None:
    def build(x: fx.Node, call: Call, read: Read) -> fx.Node:
        call(aten.add_.Tensor, read("count"), 1)
        layer = call(aten.conv2d.default, x, read("weight"))
        norm = (read("scale"), read("bias"), read("mean"), read("var"), True, 0.1, 1e-5, True)
        return call(aten.dropout.default, call(aten.batch_norm.default, layer, *norm), 0.5, True)

    module, x = _evaluated(_module(build)), _input()
    own: Any = module
    mean = own.mean.clone()
    expected = nn.functional.batch_norm(
        nn.functional.conv2d(x, own.weight), own.mean, own.var, own.scale, own.bias, training=False
    )
    assert torch.allclose(module(x), expected, atol=1e-5)
    assert torch.equal(own.mean, mean)
    assert int(own.count) == 0


def test_what_was_written_in_place_is_returned() -> None:
    def build(x: fx.Node, call: Call, read: Read) -> fx.Node:
        call(aten.relu_.default, x)
        return call(aten.add.Tensor, x, 1)

    module, x = _evaluated(_module(build)), _input()
    own = x.clone()
    assert torch.equal(module(x), own.relu() + 1)
    assert torch.equal(x, own)
