"""What a pair with a truth is made of: one function in two spellings, of which fxmap may not understand one.

Before the place where the spellings part, layers agree with whichever counterpart the mapping gives them: gates of a cell,
layers of several blocks on one context, rows before a pixel shuffle, a layer into which another one was merged. No key that
is wrong may be called proven.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import Tensor, nn

from benchmarks.proof.attacks.attack import Attack, Build, Draw, Free, normal

State = Mapping[str, Tensor]
Layers = Mapping[str, Build]
Forward = Callable[..., Any]
Truth = Callable[[State], dict[str, Tensor]]


def linear(i: int, o: int, *, bias: bool = True) -> Build:
    """Return how a linear layer is built."""
    return lambda: nn.Linear(i, o, bias=bias)


def conv(i: int, o: int, kernel: int = 1, groups: int = 1) -> Build:
    """Return how a convolution that keeps sizes is built."""
    return lambda: nn.Conv2d(i, o, kernel, padding=kernel // 2, groups=groups)


def renamed(state: State, **names: str) -> dict[str, Tensor]:
    """Return the tensors of layers under other names."""
    return {
        f"{name}.{key.rpartition('.')[2]}": value
        for name, layer in names.items()
        for key, value in state.items()
        if key.rpartition(".")[0] == layer
    }


def pair(
    name: str,
    one: tuple[Layers, Forward],
    other: tuple[Layers, Forward],
    truth: Truth,
    *shapes: tuple[int, ...],
) -> Attack:
    """Return a pair of two spellings, each of layers and a forward; inputs are floats of some shapes.

    The destination's layers get names that say nothing, in the order in which they are given.
    """
    names = {layer: f"z{i}" for i, layer in enumerate(other[0])}

    @wraps(other[1])
    def forward(m: Any, *inputs: Tensor) -> Any:
        return other[1](_Renamed(m, names), *inputs)

    def renamed_truth(state: State) -> dict[str, Tensor]:
        split = ((key.partition("."), value) for key, value in truth(state).items())
        return {f"{names[layer]}.{rest}": value for (layer, _, rest), value in split}

    return Attack(
        name,
        lambda: Free(one[1], one[0]),
        lambda: Free(forward, {names[layer]: build for layer, build in other[0].items()}),
        _floats(shapes, 0),
        _floats(shapes, 1),
        truth=renamed_truth,
    )


class _Renamed:
    """A module whose layers are found under other names."""

    def __init__(self, module: nn.Module, names: Mapping[str, str]) -> None:
        self._module, self._names = module, names

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, self._names[name])


def _floats(shapes: tuple[tuple[int, ...], ...], seed: int) -> Draw:
    return lambda: tuple(normal(*shape, seed=seed + 2 * i)()[0] for i, shape in enumerate(shapes))
