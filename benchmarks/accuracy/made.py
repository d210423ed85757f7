"""Pairs that are made: a part of a model in another one, renamed and shuffled, and networks drawn at random."""

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.accuracy.problems import PairProblem
from benchmarks.common.judge import Case, built, loaded_error, output
from benchmarks.registry.build import timm, torchvision, torchvision_vit
from benchmarks.registry.made import renamed
from benchmarks.registry.pair import Build, Inputs, Pair, images, normal, tokens
from fxmap.testing import planted, planted_tokens
from fxmap.testing.generated import Residual, Shuffled
from fxmap.testing.randomise import randomise

Make = Callable[[Any], nn.Module]


def made_problem(name: str, build: Build, make: Make, inputs: Inputs, dst_inputs: Inputs | None = None) -> PairProblem:
    """Make the destination from the source's own kind of model; what is not new in it has a source.

    The function is right if it is that of the destination which holds the truth and, for the rest, its own values.
    """
    pair = Pair(name, "made", 0.0, build, lambda: make(build()), inputs)
    src = built(build, seed=1)
    torch.manual_seed(3)
    x = inputs()
    randomise(src, 5, lambda model: output(model, x, None))
    if dst_inputs is None:
        return _problem(pair, src, _kept(src, make), x)
    y = dst_inputs()
    problem = _problem(pair, src, _kept(src, make), y)
    return replace(problem, options={"example_inputs": x, "dst_inputs": y})


def _kept(src: nn.Module, make: Make) -> dict[str, Tensor]:
    twin = copy.deepcopy(src)
    # The tensors themselves, so that no new one gets the memory of one that was replaced.
    old = {value.data_ptr(): value for value in twin.state_dict().values()}
    made = make(twin).state_dict()
    return {k: v.clone() for k, v in made.items() if v.data_ptr() in old and v.is_floating_point()}


def _problem(pair: Pair, src: nn.Module, truth: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> PairProblem:
    case = Case(pair, src, built(pair.dst, seed=2), 0.0, inputs, torch.ones(1), truth, frozenset())
    reference = case.fresh()
    loaded_error(case, reference, truth)
    return PairProblem.of(replace(case, expected=output(reference, inputs, None)))


# --- partial matches


def _replaced(path: str, make: Callable[[Any], nn.Module]) -> Make:
    """Put another module in the place of one."""

    def change(model: nn.Module) -> nn.Module:
        model.set_submodule(path, make(model.get_submodule(path)))
        return model

    return change


def _head(path: str, classes: int = 7) -> Make:
    return _replaced(path, lambda linear: nn.Linear(linear.in_features, classes))


def _stem(path: str, channels: int) -> Make:
    def make(conv: Any) -> nn.Module:
        return nn.Conv2d(
            channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=conv.bias is not None
        )

    return _replaced(path, make)


def _first(path: str, count: int) -> Make:
    """Keep the first of several layers."""
    return _replaced(path, lambda layers: layers[:count])


class _Body(nn.Module):
    """A backbone without its head, in a model with two heads of its own."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.boxes, self.body, self.scores = nn.Linear(width, 4), body, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return torch.cat([self.boxes(x), self.scores(x)], 1)


def _backbone(path: str, width: int) -> Make:
    return lambda model: _Body(_replaced(path, lambda head: nn.Identity())(model), width)


def _then(first: Make, *, seed: int, shuffled: bool) -> Make:
    return lambda model: renamed(lambda: first(model), seed=seed, shuffled=shuffled)()


_RESNET, _MOBILENET = torchvision("resnet18"), torchvision("mobilenet_v3_small")
_CONVNEXT, _VIT = timm("convnext_atto"), torchvision_vit()
_IMAGES = images(64)

# How a destination differs from a source: the model, what is changed, the inputs.
_PARTS: dict[str, tuple[Build, Make, Inputs]] = {
    "resnet18, other classes": (_RESNET, _head("fc"), _IMAGES),
    "mobilenet_v3_small, other classes": (_MOBILENET, _head("classifier.3"), _IMAGES),
    "convnext_atto, other classes": (_CONVNEXT, _head("head.fc"), _IMAGES),
    "vit, other classes": (_VIT, _head("heads.head"), _IMAGES),
    "resnet18, backbone alone": (_RESNET, _replaced("fc", lambda head: nn.Identity()), _IMAGES),
    "resnet18, backbone in a detector": (_RESNET, _backbone("fc", 512), _IMAGES),
    "mobilenet_v3_small, backbone in a detector": (_MOBILENET, _backbone("classifier", 576), _IMAGES),
    "convnext_atto, backbone in a detector": (_CONVNEXT, _backbone("head.fc", 320), _IMAGES),
    "vit, backbone in a detector": (_VIT, _backbone("heads", 128), _IMAGES),
    "vit, first 4 of 6 layers": (_VIT, _first("encoder.layers", 4), _IMAGES),
    "convnext_atto, first 4 of 6 blocks of a stage": (_CONVNEXT, _first("stages.2.blocks", 4), _IMAGES),
}


def partial_problems() -> Iterator[tuple[str, Callable[[], PairProblem]]]:
    """Yield partial matches, with the source's names and with others."""
    for name, (build, make, inputs) in _PARTS.items():
        yield from _both(name, build, make, inputs)
    name, stem = "resnet18, 4 input channels", _stem("conv1", 4)
    yield from _both(name, _RESNET, stem, _IMAGES, normal(2, 4, 64, 64))


def _both(name: str, build: Build, make: Make, *inputs: Inputs) -> Iterator[tuple[str, Callable[[], PairProblem]]]:
    other = _then(make, seed=len(name), shuffled=False)
    yield name, lambda: made_problem(name, build, make, *inputs)
    yield f"{name}, renamed", lambda: made_problem(f"{name}, renamed", build, other, *inputs)


def shuffled_problem(name: str, build: Build, inputs: Inputs, seed: int) -> PairProblem:
    """Rename every submodule of a model and register them in another order."""
    return made_problem(name, build, _then(lambda model: model, seed=seed, shuffled=True), inputs)


# --- random networks


def planted_problem(seed: int, length: int) -> PairProblem:
    """Draw a network of convolutions, and build it twice under other names and in another order."""
    src, dst, layers = planted.planted_pair(seed, length=length)
    truth = {
        key: src.state_dict()[_source_key(key, layers)].clone()
        for key, value in dst.state_dict().items()
        if value.is_floating_point()
    }
    pair = Pair(
        f"convolutions, {length} layers, seed {seed}",
        "random",
        0.0,
        lambda: planted.planted_pair(seed, length=length)[0],
        lambda: planted.planted_pair(seed, length=length)[1],
        images(16),
    )
    torch.manual_seed(seed)
    return _problem(pair, src, truth, pair.inputs())


def _source_key(key: str, layers: dict[str, str]) -> str:
    path, _, leaf = key.rpartition(".")
    name = path.removesuffix("_norm")
    return f"{layers[name]}{path.removeprefix(name)}.{leaf}"


def tokens_problem(seed: int) -> PairProblem:
    """Draw a network over tokens, and write its weights down in two ways: joined or not, transposed or not."""
    kinds = planted_tokens.specification(seed)
    values, others = planted_tokens.weights(kinds, seed), planted_tokens.weights(kinds, seed + 1)
    ours, theirs = planted_tokens.Style(2 * seed), planted_tokens.Style(2 * seed + 1)
    pair = Pair(
        f"tokens, seed {seed}",
        "random",
        0.0,
        lambda: planted_tokens.Tokens(kinds, ours, values),
        lambda: planted_tokens.Tokens(kinds, theirs, others),
        tokens(planted_tokens.VALUES, 6),
    )
    truth = {key: value.clone() for key, value in planted_tokens.Tokens(kinds, theirs, values).state_dict().items()}
    torch.manual_seed(seed)
    return _problem(pair, built(pair.src, seed=seed), truth, pair.inputs())


def residual_problem(blocks: int, seed: int) -> PairProblem:
    """Draw a gated residual network, and write it again with every tensor at a random place."""
    pair = Pair(
        f"residual, {blocks} blocks, seed {seed}",
        "random",
        0.0,
        lambda: Residual(blocks, seed),
        lambda: Shuffled(blocks, seed),
        normal(4, 8),
    )
    src = built(pair.src, seed=seed)
    torch.manual_seed(seed)
    x = pair.inputs()
    randomise(src, seed, lambda model: output(model, x, None))
    state = src.state_dict()
    leaves = ("norm.weight", "norm.bias", "up.weight", "up.bias", "down.weight", "down.bias", "gate")
    letters = dict(zip("abcdefg", leaves, strict=True))
    truth = {f"{c}{i}": state[f"blocks.{i}.{leaf}"].clone() for i in range(blocks) for c, leaf in letters.items()}
    return _problem(pair, src, truth, x)


def random_problems(count: int) -> Iterator[tuple[str, Callable[[], PairProblem]]]:
    """Yield so many problems of each kind."""
    rng = random.Random(0)
    for seed in range(count):
        length = rng.randrange(6, 40)
        yield f"convolutions {seed}", lambda seed=seed, length=length: planted_problem(seed, length)  # type: ignore[misc]
        yield f"tokens {seed}", lambda seed=seed: tokens_problem(seed)  # type: ignore[misc]
        blocks = rng.randrange(4, 24)
        yield f"residual {seed}", lambda seed=seed, blocks=blocks: residual_problem(blocks, seed)  # type: ignore[misc]
