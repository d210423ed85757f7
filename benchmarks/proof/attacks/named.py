"""Names of outputs: what a user reads under a name is what the source computes under it."""

from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.proof.attacks.attack import Attack, Build, Free, normal

_MODULES: dict[str, Build] = {
    "a": lambda: nn.Linear(8, 4),
    "b": lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)),
    "c": lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)),
}
Pack = Callable[[tuple[str, ...], tuple[Any, ...]], Any]


def attacks() -> Iterator[Attack]:
    """Yield the ways to return names, each with two names exchanged, then other confusions of names."""
    for name, pack in (("dict", _dict), ("named tuple", _tuple), ("dataclass", _record), ("nested dict", _nested),
                       ("pairs of a model output", _output)):  # fmt: skip
        yield _heads(f"mu and logvar exchanged in a {name}", ("mu", "logvar"), ("logvar", "mu"), pack)
    yield _heads("three names, each moved on", ("boxes", "scores", "masks"), ("scores", "masks", "boxes"), _dict)
    yield _heads("an output of another name in the middle", ("x", "y", "z"), ("x", "z", "y"), _dict)
    yield Attack(
        "one of two names, with the other's value", lambda: _head(("mu", "logvar"), _dict),
        lambda: Free(lambda m, x: {"logvar": m.a(x)}, {"a": _MODULES["a"]}), normal(2, 8), normal(3, 8, seed=1),
        names=("mu", "logvar"),
    )  # fmt: skip


def _heads(name: str, one: tuple[str, ...], other: tuple[str, ...], pack: Pack) -> Attack:
    return Attack(name, lambda: _head(one, pack), lambda: _head(other, pack), normal(2, 8), normal(3, 8, seed=1), names=one)


def _head(names: tuple[str, ...], pack: Pack) -> Free:
    modules = dict(list(_MODULES.items())[: len(names)])
    return Free(lambda m, x: pack(names, tuple(getattr(m, module)(x) for module in modules)), modules)


def _dict(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return dict(zip(names, values, strict=True))


def _tuple(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return namedtuple("Outputs", names)(*values)


@dataclass
class _Latent:
    """Two tensors by name."""

    mu: Any
    logvar: Any


torch.utils._pytree.register_dataclass(_Latent)


def _record(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _Latent(**_dict(names, values))


def _nested(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return {"latent": _dict(names, values)}


def _output(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    from transformers.utils import ModelOutput

    return ModelOutput(_dict(names, values))
