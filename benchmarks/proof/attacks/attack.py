"""What an attack is, and the small networks that most of them are made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

Build = Callable[[], nn.Module]
Draw = Callable[[], Any]
Function = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Attack:
    """Two models, what a user gives fxmap, and an input on which the two differ.

    `example` is what the user passes, None where it is to be inferred; `probe` are inputs of the judge, which both models
    accept: tuples of arguments or dicts of keyword arguments. Floats of `example` are float32, of `probe` float64.

    Attributes:
        name: what differs, in words.
        src, dst: build the two models.
        example: what the user gives as example inputs.
        probe: inputs on which the two differ; for an equal pair, on which they must agree.
        train: what training leaves in the source, beyond random floats: integer buffers, statistics, a state of its own.
        keys: a mapping by hand, which is verified in the place of auto_map's; wrong keys are named in `wrong`.
        wrong: destination keys that must not be called proven or tied.
        moves: destination keys that move the output, and must not be called inert.
        behind: destination keys of operations that see other values than their counterparts, and must not be called proven.
        file: "" for two models; "load" for a state dict of the source that is loaded with `load(dst, state, src=...)`.
        described: the model that `load` is given as `src`, where that is not the one that the file was made with.
        computes: what the source computes of the destination's outputs, where the destination is a part of it.
        names: words of which a good report names one.
        truth: the destination's tensors from the source's, for an equal pair: keys that are wrong must not be called proven.
    """

    name: str
    src: Build
    dst: Build
    example: Draw | None
    probe: Draw
    train: Callable[[Any], None] | None = None
    keys: Mapping[str, str] | None = None
    wrong: tuple[str, ...] = ()
    moves: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    file: str = ""
    described: Build | None = None
    computes: Callable[[Any, Any], Any] | None = None
    names: tuple[str, ...] = ()
    truth: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Draw:
    """Draw one float tensor: of default precision, so that an example is float32."""
    return lambda: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale,)


def numbers(high: int, *shape: int, seed: int = 0) -> Tensor:
    """Draw integers below `high`."""
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Two layers with a function between them: f(h, module), which finds buffers and layers in the module."""

    def __init__(self, f: Function, layers: Mapping[str, Build] | None = None, /, **buffers: Tensor) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(8, 8), nn.Linear(8, 4)
        self.f = f
        for name, build in (layers or {}).items():
            self.add_module(name, build())
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor.clone())

    def forward(self, x: Tensor) -> Any:
        """Compute (b, ..., 4) of (b, ..., 8), where f keeps shapes."""
        return self.h(self.f(self.a(x), self))


class Conv(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, f: Function, channels: int = 3, /, **buffers: Tensor) -> None:
        super().__init__()
        self.a, self.h = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.f = f
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor.clone())

    def forward(self, x: Tensor) -> Any:
        """Compute (b, 4, h, w) of (b, 3, h, w), where f keeps shapes."""
        return self.h(self.f(self.a(x), self))


class Free(nn.Module):
    """Layers by name, and a forward that is given: f(module, *inputs), with as many inputs as f takes.

    >>> Free(lambda m, x, y: m.a(x) + y, {"a": lambda: nn.Linear(2, 2)}).forward.__code__.co_varnames
    ('self', 'x', 'y')
    """

    def __new__(cls, f: Callable[..., Any] | None = None, *_: Any, **__: Any) -> "Free":
        """Choose the class whose forward names its inputs, so that code which reads signatures finds them."""
        # A copy is made without arguments, of its own class.
        return super().__new__(cls if f is None else (_One, _Two, _Three)[_inputs_of(f) - 1])

    def __init__(self, f: Callable[..., Any], layers: Mapping[str, Build], /, **tensors: Tensor) -> None:
        super().__init__()
        self.f = f
        for name, build in layers.items():
            self.add_module(name, build())
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, nn.Parameter(tensor.detach().clone()))
            else:
                self.register_buffer(name, tensor.clone())


def _inputs_of(f: Callable[..., Any]) -> int:
    taken = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    parameters = signature(f).parameters.values()
    return sum(p.kind in taken and p.default is Parameter.empty for p in parameters) - 1


class _One(Free):
    def forward(self, x: Any) -> Any:
        return self.f(self, x)


class _Two(Free):
    def forward(self, x: Any, y: Any) -> Any:
        return self.f(self, x, y)


class _Three(Free):
    def forward(self, x: Any, y: Any, z: Any) -> Any:
        return self.f(self, x, y, z)


def net(
    name: str, one: Function, other: Function, *, scale: float = 100.0, shape: tuple[int, ...] = (3, 8), example: int = 2,
    **options: Any,
) -> Attack:  # fmt: skip
    """Return an attack by two functions between the same two layers; the probe is `scale` times as large as the example."""
    return Attack(
        name,
        lambda: Net(one),
        lambda: Net(other),
        normal(example, *shape[1:]),
        options.pop("probe", normal(*shape, scale=scale, seed=1)),
        **options,
    )


def conv(
    name: str, one: Function, other: Function, *, example: tuple[int, ...] = (1, 3, 64, 64),
    probe: tuple[int, ...] = (1, 3, 67, 67), scale: float = 1.0, **options: Any,
) -> Attack:  # fmt: skip
    """Return an attack by two functions between the same two convolutions, which differ on images of another size."""
    return Attack(
        name, lambda: Conv(one), lambda: Conv(other), normal(*example), normal(*probe, scale=scale, seed=1), **options
    )


def free(
    name: str, one: Callable[..., Any], other: Callable[..., Any], layers: Mapping[str, Build], example: Draw, probe: Draw,
    tensors: Mapping[str, Tensor] = MappingProxyType({}), **options: Any,
) -> Attack:  # fmt: skip
    """Return an attack by two forwards over the same layers and tensors."""
    return Attack(
        name, lambda: Free(one, layers, **tensors), lambda: Free(other, layers, **tensors), example, probe, **options
    )
