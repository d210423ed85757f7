"""Models made from other models: every submodule renamed, the registration order shuffled, batch norm folded."""

import random
from collections.abc import Iterator

import torch
from torch import fx, nn

from benchmarks.registry.pair import Build


def renamed(build: Build, *, seed: int, shuffled: bool = False) -> Build:
    """Give every submodule of a model a random name; `shuffled` nests them at random, and registers them in another order.

    The names are those of the truth maps: they depend on the seed and on nothing else.
    """
    return lambda: _renamed(build(), random.Random(seed), shuffled)


def _renamed(model: nn.Module, rng: random.Random, shuffled: bool) -> nn.Module:
    traced = fx.symbolic_trace(model.eval())
    targets = list(dict.fromkeys(str(node.target) for node in traced.graph.nodes if node.op in ("call_module", "get_attr")))
    words = _words(rng)
    names = {target: _nested(words, rng) if shuffled else next(words) for target in targets}
    order = list(targets)
    if shuffled:
        rng.shuffle(order)
    root = nn.Module()
    for target in order:
        _put(root, names[target], _get(traced, target))
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.op in ("call_module", "get_attr"):
            copies[node].target = names[str(node.target)]
    result = fx.GraphModule(root, graph)
    if shuffled:
        _shuffle_children(result, rng)
    return result


def _words(rng: random.Random) -> Iterator[str]:
    used = set()
    while True:
        word = "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(3))
        if word not in used:
            used.add(word)
            yield word


def _nested(words: Iterator[str], rng: random.Random) -> str:
    first = next(words)
    middle = [f"m{rng.randrange(10)}" for _ in range(rng.randrange(1, 4))]
    return ".".join([first, *middle, next(words)])


def _get(root: nn.Module, path: str) -> object:
    value: object = root
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _put(root: nn.Module, path: str, value: object) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    if isinstance(value, nn.Module):
        root.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(name, value)
    else:
        assert isinstance(value, torch.Tensor)
        root.register_buffer(name, value)


def _shuffle_children(module: nn.Module, rng: random.Random) -> None:
    children = list(module._modules.items())
    rng.shuffle(children)
    module._modules.clear()
    module._modules.update(children)
    for _, child in children:
        if type(child) is nn.Module:
            _shuffle_children(child, rng)


def folded(build: Build) -> Build:
    """Take away every 2d batch norm that alone reads a convolution, and give the convolution a bias."""

    def make() -> nn.Module:
        traced = fx.symbolic_trace(build().eval())
        modules = dict(traced.named_modules())
        for node in list(traced.graph.nodes):
            if node.op != "call_module" or type(modules[node.target]) is not nn.BatchNorm2d:
                continue
            before = node.args[0]
            layer = modules.get(before.target) if before.op == "call_module" else None
            if isinstance(layer, nn.Conv2d) and len(before.users) == 1:
                if layer.bias is None:
                    layer.bias = nn.Parameter(torch.randn(layer.out_channels) * 0.1)
                node.replace_all_uses_with(before)
                traced.graph.erase_node(node)
        traced.delete_all_unused_submodules()
        traced.recompile()
        return traced

    return make
