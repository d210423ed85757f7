"""Inputs: the arguments that a model is called with, and others like them, with other values or of another size.

>>> inputs = as_inputs((torch.zeros(1, 3, 8, 8), True))
>>> inputs.size, others(inputs, seed=1).size, len(inputs.flat())
('1x3x8x8', '1x3x8x8 (other values)', 1)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from inspect import signature
from itertools import islice, permutations
from types import GeneratorType
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.errors import CaptureError
from fxmap.model.modes import kept_modes
from fxmap.model.nested import Path, changed, leaves

Forward = Callable[..., Any]
# Outputs that are computed as they are taken: of these no more than so many are taken.
_LAZY = (GeneratorType, map, zip)
_YIELDED = 1000


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call of a model.

    `roomy` says that every map is larger than the kernels that meet it; `forward`, if given, is called as
    `forward(model, *args, **kwargs)` in the place of the model.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    roomy: bool
    size: str
    forward: Forward | None = None

    def call(self, model: nn.Module) -> Any:
        """Run a model on the inputs; what a generator yields is returned as a tuple.

        Raises:
            CaptureError: a generator yields more than a thousand outputs, and may have no end.
        """
        with kept_modes():
            forward = self.forward
            output = model(*self.args, **self.kwargs) if forward is None else forward(model, *self.args, **self.kwargs)
            return _yielded(output, model) if isinstance(output, _LAZY) else output

    def flat(self) -> list[Tensor]:
        """Return all tensors, in the order of the arguments; those inside of objects as well."""
        return _tensors((self.args, dict(self.kwargs)))

    def double(self) -> "Inputs":
        """Return the inputs with floating-point tensors in float64."""
        return self.map(lambda t: t.double() if t.is_floating_point() else t)

    def copied(self) -> "Inputs":
        """Return the inputs with tensors of their own, so that code may write to them; one given twice stays one."""
        args, kwargs = copied((self.args, dict(self.kwargs)))
        return replace(self, args=args, kwargs=kwargs)

    def map(self, change: Callable[[Tensor], Tensor], **fields: Any) -> "Inputs":
        """Return the inputs with every tensor changed; what holds them is copied."""
        args, kwargs = changed(
            (self.args, dict(self.kwargs)), lambda _, value: change(value) if isinstance(value, Tensor) else value
        )
        return replace(self, args=args, kwargs=kwargs, **fields)


def copied(values: Any) -> Any:
    """Return nested values with tensors of their own, so that code may write to them; one that occurs twice stays one."""
    copies: dict[int, Tensor] = {}

    def copy(_: Path, value: Any) -> Any:
        return copies.setdefault(id(value), value.detach().clone()) if isinstance(value, Tensor) else value

    return changed(values, copy)


def _tensors(values: Any) -> list[Tensor]:
    return [value for _, value in leaves(values) if isinstance(value, Tensor)]


@dataclass(frozen=True, slots=True)
class Given:
    """The example inputs that the user gave for the source and for the destination; None where there are none.

    `forward` says that a function was given to run in the place of a model's forward.
    """

    src: Inputs | None = None
    dst: Inputs | None = None
    forward: bool = False

    @property
    def in_objects(self) -> bool:
        """Whether an argument is an object with attributes, or holds one."""
        given = [(inputs.args, dict(inputs.kwargs)) for inputs in (self.src, self.dst) if inputs is not None]
        return any(step.startswith(".") for path, _ in leaves(given) for step in path)

    @classmethod
    def of(
        cls,
        example: Any,
        dst_inputs: Any = None,
        src_forward: Forward | None = None,
        dst_forward: Forward | None = None,
        *,
        models: tuple[Any, Any] = (None, None),
    ) -> "Given":
        """Read the arguments of `auto_map`; `models` are the source, which may be a checkpoint, and the destination."""
        theirs = example if dst_inputs is None else dst_inputs
        return cls(
            None if example is None else as_inputs(_as_one(example, models[0]), src_forward),
            None if theirs is None else as_inputs(_as_one(theirs, models[1]), dst_forward),
            src_forward is not None or dst_forward is not None,
        )


def _yielded(output: Any, model: nn.Module) -> tuple[Any, ...]:
    """Return what a generator yields.

    >>> _yielded((i for i in (1, 2)), nn.Identity())
    (1, 2)
    """
    found = tuple(islice(output, _YIELDED + 1))
    if len(found) > _YIELDED:
        raise CaptureError(
            f"the output of {type(model).__name__} is a {type(output).__name__} that yields more than {_YIELDED} outputs, "
            "and may have no end; return a tuple of them, or give a forward function that takes as many as are wanted"
        )
    return found


def as_inputs(example: Any, forward: Forward | None = None) -> Inputs:
    """Read example inputs: a tensor, a tuple of arguments, or a dict of keyword arguments."""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    if isinstance(example, Mapping):
        kwargs = example
    else:
        args = tuple(example) if isinstance(example, tuple | list) else (example,)
    tensors = _tensors((args, dict(kwargs)))
    return Inputs(args, kwargs, True, size_of(tensors[0]) if tensors else "given", forward)


def _as_one(example: Any, model: Any) -> Any:
    """Return a dict that a model's forward takes as one argument as that argument, and any other example as it is."""
    if not isinstance(example, Mapping) or not isinstance(model, nn.Module):
        return example
    try:
        parameters = signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return example
    names = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    required = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_POSITIONAL]
    if any(one.kind is one.VAR_KEYWORD for one in parameters) or not names.isdisjoint(example) or len(required) != 1:
        return example
    return (example,)


def others(inputs: Inputs, seed: int) -> Inputs:
    """Return inputs of the same shapes with other values: random numbers, and the same integers in another order.

    Columns of integers may index tables of different sizes, so that a number stays in its column where samples differ there.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
        samples = tensor.reshape(tensor.shape[0], -1) if tensor.dim() > 1 and tensor.numel() else tensor.reshape(-1, 1)
        order = torch.rand(samples.shape, generator=generator).argsort(0)
        mixed = samples.gather(0, order).reshape(tensor.shape)
        if not torch.equal(mixed, tensor):
            return mixed
        return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)

    return inputs.map(draw, size=f"{inputs.size} (other values)")


def names_of(inputs: Inputs) -> list[str]:
    """Return a name for every tensor of inputs: that of its argument, with its place in what the argument holds.

    >>> names_of(as_inputs((torch.zeros(1), {"ids": torch.zeros(1), "mask": torch.zeros(1)})))
    ['argument 0', "argument 1['ids']", "argument 1['mask']"]
    """
    names: list[str] = []
    for name, value in _arguments(inputs):
        paths = [path for path, leaf in leaves(value) if isinstance(leaf, Tensor)]
        alone = len(paths) == 1 and not any(step.startswith(".") for step in paths[0])
        names += [name if alone else f"{name}{''.join(path)}" for path in paths]
    return names


def _arguments(inputs: Inputs) -> list[tuple[str, Any]]:
    """Return the arguments with their names: places for those without a keyword."""
    named = [(str(name), value) for name, value in inputs.kwargs.items()]
    return [*((f"argument {i}", value) for i, value in enumerate(inputs.args)), *named]


def counterparts(ours: Inputs, theirs: Inputs) -> list[int | None]:
    """Return, for each tensor of one model's inputs, the place of the other model's tensor that it is.

    Two models may take the same tensors in another order, or under other names. Two tensors may be equal by chance, as ids
    and a mask of ones: then their names tell, or the objects, or their places.

    >>> ids, mask = torch.ones(1, 2), torch.ones(1, 2)
    >>> counterparts(as_inputs({"mask": mask, "ids": ids}), as_inputs({"ids": ids, "mask": mask}))
    [1, 0]
    """
    names, others_names = names_of(ours), names_of(theirs)
    tensors = theirs.flat()

    def find(place: int, tensor: Tensor) -> int | None:
        equal = [i for i, other in enumerate(tensors) if other is tensor or _equal(other, tensor)]
        for found in (
            [i for i in equal if others_names[i] == names[place]],
            [i for i in equal if tensors[i] is tensor and i == place],
            [i for i in equal if tensors[i] is tensor],
            [i for i in equal if i == place],
            equal,
        ):
            if found:
                return found[0]
        return None

    return [find(place, tensor) for place, tensor in enumerate(ours.flat())]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one.to(other.dtype), other))


def permuted(tensors: Sequence[Tensor], tensor: Tensor) -> tuple[int, tuple[int, ...]] | None:
    """Return the first of some tensors that a tensor is with its axes in another order, and this order.

    >>> x = torch.randn(1, 3, 4, 4)
    >>> permuted([x], x.permute(0, 2, 3, 1))
    (0, (0, 2, 3, 1))
    """
    for i, other in enumerate(tensors):
        if other.dim() == tensor.dim() <= 5 and other.numel() == tensor.numel():
            for order in permutations(range(tensor.dim())):
                if _equal(other.permute(order), tensor):
                    return i, order
    return None


def as_shared(changed: Inputs, before: Inputs, other: Inputs, other_before: Inputs) -> Inputs:
    """Return one model's changed inputs, with every tensor that both models share replaced by the other model's new one.

    One that has the axes of the other model's in another order has them in this order then.

    Args:
        changed, before: the inputs of this model, after and before the change.
        other, other_before: those of the other model.
    """
    own, drawn, theirs = before.flat(), other.flat(), other_before.flat()
    places = iter(enumerate(counterparts(before, other_before)))

    def change(tensor: Tensor) -> Tensor:
        place, shared = next(places)
        link = permuted(theirs, own[place]) if shared is None else None
        value = drawn[shared] if shared is not None else None if link is None else drawn[link[0]].permute(link[1])
        return tensor if value is None or value.dtype != own[place].dtype else value

    return changed.map(change)


def size_of(tensor: Tensor) -> str:
    """Write a shape as in `1x3x32x32`."""
    return "x".join(map(str, tensor.shape))


def described(inputs: Inputs) -> str:
    """Name every argument and its shape.

    >>> described(as_inputs({"ids": torch.zeros(1, 8), "causal": True}))
    'ids=1x8, causal=True'
    """
    named = [*enumerate(inputs.args), *inputs.kwargs.items()]
    values = [(name, size_of(value) if isinstance(value, Tensor) else _short(value)) for name, value in named]
    return ", ".join(value if isinstance(name, int) else f"{name}={value}" for name, value in values) or "no arguments"


def settings_of(inputs: Inputs) -> list[tuple[str, str]]:
    """Return what the arguments hold that is no tensor, as numbers, switches and words: names, and words for it.

    >>> settings_of(as_inputs({"ids": torch.zeros(1, 8), "causal": True, "mask": None, "more": {"sizes": [3, 4]}}))
    [('causal', 'True'), ("more['sizes']", '[3, 4]')]
    """
    held = ((name, value) for name, _, value in placed(inputs) if value is not None and not isinstance(value, Tensor))
    return [(name, _short(value)) for name, value in held]


def placed(inputs: Inputs) -> Iterator[tuple[str, Path, Any]]:
    """Yield all that the arguments hold, lists of numbers and words as one: name, place for `replaced`, and itself."""
    for place, value in enumerate(inputs.args):
        for path, leaf in leaves(value, whole=_whole):
            yield f"argument {place}{''.join(path)}", ("[0]", f"[{place}]", *path), leaf
    for name, value in inputs.kwargs.items():
        for path, leaf in leaves(value, whole=_whole):
            yield f"{name}{''.join(path)}", ("[1]", f"[{name!r}]", *path), leaf


def replaced(inputs: Inputs, place: Path, value: Any) -> Inputs:
    """Return inputs with another value at one place.

    >>> replaced(as_inputs((torch.zeros(1), {"n": [3]})), ("[0]", "[1]", "['n']"), [4]).args[1]
    {'n': [4]}
    """
    given = inputs.args, dict(inputs.kwargs)
    args, kwargs = changed(given, lambda path, leaf: value if path == place else leaf, whole=lambda path, _: path == place)
    return replace(inputs, args=args, kwargs=kwargs)


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a switch or a word, or several of them in a list, a tuple or a set.

    >>> is_plain([3, 4]), is_plain((1, [2])), is_plain([]), is_plain(None)
    (True, True, False, False)
    """
    if type(value) in (list, tuple, set, frozenset):
        return bool(value) and all(is_plain(part) for part in value)
    return isinstance(value, bool | int | float | str) and not isinstance(value, Enum)


def _whole(_: Path, value: Any) -> bool:
    return is_plain(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else type(value).__name__
