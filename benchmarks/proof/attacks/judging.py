"""The judge of attacks: runs both models in float64 with the mapped weights, and shares no code with fxmap."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.proof.attacks.attack import Attack
from benchmarks.proof.judge import SAME, Float64

DRAWS = 2  # of the weights


class Pair:
    """Both models with drawn weights: the source as training would leave it, the destination with weights of its own."""

    def __init__(self, attack: Attack, src: nn.Module, dst: nn.Module, seed: int) -> None:
        self.attack = attack
        self.src, self.dst = drawn(src, 2 * seed), drawn(dst, 2 * seed + 1)
        if attack.train is not None:
            with torch.no_grad():
                attack.train(self.src)
        torch.manual_seed(seed)
        self.probe = attack.probe()
        self.own = {key: value.clone() for key, value in tensors(self.dst).items()}

    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Write tensors into the destination, those of its own where there is none."""
        for key, value in tensors(self.dst).items():
            value.copy_(values.get(key, self.own[key]))

    def expected(self) -> dict[str, Tensor]:
        """Return what the source computes of the probe."""
        computes = self.attack.computes or called
        return outputs(lambda inputs: computes(self.src, inputs), self.probe)

    def actual(self) -> dict[str, Tensor]:
        """Return what the destination computes of the probe."""
        return outputs(lambda inputs: called(self.dst, inputs), self.probe)

    def moved_by(self, key: str) -> bool:
        """Tell whether other values of a destination key give other outputs."""
        before, value = self.actual(), tensors(self.dst)[key]
        kept = value.clone()
        try:
            for factor in (1.0, -30.0):
                value.copy_(other_values(kept) * (factor if value.is_floating_point() or value.is_complex() else 1))
                if distance(before, self.actual()) > SAME:
                    return True
        except (RuntimeError, IndexError):
            return True  # with an index outside the table, the key is read
        finally:
            value.copy_(kept)
        return False

    def inputs_differ(self, path: str) -> bool:
        """Tell whether the module at a path sees other values in the destination than its namesake in the source."""
        seen = [_inputs_of(model, path, self.probe) for model in (self.src, self.dst)]
        return distance(*seen) > SAME


def _inputs_of(model: nn.Module, path: str, probe: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    hook = model.get_submodule(path).register_forward_pre_hook(lambda _, args: found.setdefault("0", args[0].clone()))
    try:
        outputs(lambda inputs: called(model, inputs), probe)
    finally:
        hook.remove()
    return found


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a state dict (a state of its own that a module has is none)."""
    return {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def drawn(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy in float64 whose floats and complex numbers are drawn; in eval mode."""
    twin = copy.deepcopy(model).double().eval()
    for module in twin.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.is_complex():
                    wide = tensor.detach().to(torch.complex128)
                    held[name] = nn.Parameter(wide) if isinstance(tensor, nn.Parameter) else wide  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in tensors(twin).items():
            if tensor.is_floating_point():
                _draw(name, tensor, generator)
            elif tensor.is_complex():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
    return twin


def _draw(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    normal = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    uniform = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
    last = name.rpartition(".")[2]
    if tensor.dim() > 1:
        tensor.copy_(normal * (1.2 / math.sqrt(tensor[0].numel())))
    elif last in ("running_var", "weight", "std", "temperature", "gamma", "scale"):
        tensor.copy_(0.5 + uniform)
    else:
        tensor.copy_(0.3 * normal)


def other_values(tensor: Tensor) -> Tensor:
    """Return values of the same shape that differ from a tensor's everywhere, or nearly so."""
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel()), dtype=tensor.dtype)
    return ~tensor if tensor.dtype is torch.bool else tensor.roll(1) if tensor.numel() > 1 else tensor + 1


def called(model: Any, inputs: Any) -> Any:
    """Call a model with a tuple of arguments, or a dict of keyword arguments."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def outputs(run: Callable[[Any], Any], probe: Any) -> dict[str, Tensor]:
    """Run in float64 and return the tensors of the output by name, or by place where they have no names."""
    with torch.no_grad(), Float64():
        return dict(_named(run(_wide(probe)), ""))


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value.clone()
    if isinstance(value, dict):
        return {key: _wide(part) for key, part in value.items()}
    return type(value)(_wide(part) for part in value) if isinstance(value, list | tuple) else value


def _named(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or "0", torch.view_as_real(value) if value.is_complex() else value.double()
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, dict | type):
        value = vars(value)
    if hasattr(value, "_asdict"):
        value = value._asdict()
    parts: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in parts:
        yield from _named(part, f"{name}.{key}" if name else str(key))


def distance(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> float:
    """Return the largest distance of outputs of a name, relative to the largest number; infinite where shapes differ.

    Outputs of one model alone do not count, unless no name is common: then they are taken in order.

    >>> one, two = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])
    >>> distance({"a": one, "b": one}, {"a": two}), distance({"0": one}, {"logits": one})
    (0.25, 0.0)
    """
    names = [name for name in expected if name in actual]
    pairs = [(expected[name], actual[name]) for name in names] or list(zip(expected.values(), actual.values(), strict=False))
    return max((_relative(a, b) for a, b in pairs), default=math.inf)


def _relative(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    there = a.isfinite()
    if not torch.equal(there, b.isfinite()):
        return math.inf
    difference, largest = (a - b)[there].abs(), a[there].abs()
    return float(difference.max() / largest.max().clamp_min(1e-30)) if difference.numel() else 0.0
