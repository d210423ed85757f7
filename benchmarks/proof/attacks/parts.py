"""Destinations that look like a part of the source, and compute what no place in the source does."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build, Free, normal
from benchmarks.proof.attacks.behind import Stack, _Block

LAYERS: Mapping[str, Build] = {
    "a": lambda: nn.Linear(8, 8),
    "n": lambda: nn.LayerNorm(8),
    "b": lambda: nn.Linear(8, 8),
    "h": lambda: nn.Linear(8, 4),
}
Part = Callable[[Any, Any], Any]


def attacks() -> Iterator[Attack]:
    """Yield parts that end in something else; `computes` is what the source computes at that place."""
    for name, computes, dst, used in (
        (
            "ends in a relu where the source goes on with relu6",
            lambda m, x: F.relu6(m.a(x)),
            lambda m, x: F.relu(m.a(x)),
            "a",
        ),
        ("ends before a clamp, and calls it features", _features, lambda m, x: {"features": m.a(x)}, "a"),
        (
            "pools the middle with the largest, not the mean",
            lambda m, x: m.n(m.a(x)).mean(1),
            lambda m, x: m.n(m.a(x)).amax(1),
            "an",
        ),
        ("skips a norm that is the identity at first", _second, lambda m, x: {"features": m.b(m.a(x))}, "anb"),
        ("returns the middle under the name of the end", _named, lambda m, x: {"logits": m.b(m.n(m.a(x)))}, "anb"),
        (
            "without the clamp that no example reaches",
            lambda m, x: m.b(m.a(x).clamp(-50, 50)),
            lambda m, x: m.b(m.a(x)),
            "ab",
        ),
        ("the first tokens alone", lambda m, x: m.n(m.a(x)), lambda m, x: m.n(m.a(x[:, :6])), "an"),
        (
            "normed over the batch",
            lambda m, x: m.a(x) - m.a(x).mean(1, keepdim=True),
            lambda m, x: m.a(x) - m.a(x).mean((0, 1), keepdim=True),
            "a",
        ),
        (
            "rounded at the end",
            lambda m, x: m.b(m.a(x)),
            lambda m, x: m.b(m.a(x)) + (m.b(m.a(x)) / 1e3).to(torch.int64),
            "ab",
        ),
    ):
        yield _part(name, computes, dst, used)
    yield Attack(
        "the last blocks of a stack", lambda: Stack(_Block, 3), lambda: _tail(2), normal(2, 5, 8), normal(2, 5, 8, seed=1)
    )


def _features(m: Any, x: Any) -> Any:
    return {"features": m.a(x).clamp(-40, 40)}


def _second(m: Any, x: Any) -> Any:
    return {"features": m.b(m.n(m.a(x)))}


def _named(m: Any, x: Any) -> Any:
    return {"features": m.b(m.n(m.a(x))), "logits": m.b(F.gelu(m.b(m.n(m.a(x)))))}


def _part(name: str, computes: Part, dst: Part, used: str) -> Attack:
    def whole(m: Any, x: Any) -> Any:
        out = computes(m, x)
        if isinstance(out, dict):
            return {**out, "end": m.h(F.gelu(out["features"]))}
        return m.h(F.gelu(out))

    layers = {key: build for key, build in LAYERS.items() if key in used}
    return Attack(
        name, lambda: Free(whole, layers | {"h": LAYERS["h"]}), lambda: Free(dst, layers), normal(1, 6, 8),
        normal(2, 9, 8, scale=1000 if "round" in name else 100, seed=1), computes=lambda m, inputs: computes(m, *inputs),
    )  # fmt: skip


def _tail(depth: int) -> nn.Module:
    model = Stack(_Block, 3)
    model.layers[0] = nn.Identity()
    assert depth == len(model.layers) - 1
    return model
