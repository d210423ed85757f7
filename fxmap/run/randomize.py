"""Random tensors for a proof: nothing is 0 or 1, and activations stay alive through a hundred layers.

Default initialisation proves little: norms of weight 1 and mean 0 hide swaps, and a layer scale of zero hides a block.
Weights are scaled by their fan-in; a batch norm's statistics are those of what enters it, disturbed, and are measured in
the very run that the proof needs anyway.
"""

import math
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxmap.graph.arguments import bind
from fxmap.graph.opgraph import TENSOR
from fxmap.normalize.network import Network
from fxmap.run.interpreter import ValueInterpreter

_GAIN = 1.3


def random_tensors(captured: Network, generator: torch.Generator, read: Container[str] = frozenset()) -> dict[str, Tensor]:
    """Return a float64 value for every floating-point tensor of a captured model; tensors that are shared stay shared.

    Parameters and statistics are random. A buffer that is neither, a table that the model computes for itself, keeps its
    value, unless a mapping reads it: then it is random like everything that is mapped.
    """
    roles = {op.key: _role(captured, op.name) for op in captured.ops.ops() if op.kind == TENSOR}
    values: dict[int, Tensor] = {}
    result: dict[str, Tensor] = {}
    for path, tensor in captured.tensors.items():
        if id(tensor) not in values:
            role = roles.get(path, "")
            table = not isinstance(tensor, nn.Parameter) and not role.startswith("norm ") and path not in read
            fixed = table and tensor.is_floating_point()
            values[id(tensor)] = tensor.detach().double().clone() if fixed else _random(tensor, role, generator)
        result[path] = values[id(tensor)]
    return result


def _role(captured: Network, name: str) -> str:
    user, argument = captured.ops.users(name)[0]
    kind = captured.ops.op(user).kind
    if argument.startswith("norm.") or kind.endswith("_norm"):
        return "norm " + argument.removeprefix("norm.")
    return f"{kind} {argument}"


def _random(tensor: Tensor, role: str, generator: torch.Generator) -> Tensor:
    shape = tensor.shape
    if not tensor.is_floating_point():
        # A counter may be any number; a table of positions may not.
        counter = role == "" and tensor.dim() == 0
        return torch.randint(1, 100, shape, generator=generator).to(tensor.dtype) if counter else tensor.clone()
    # Drawn in single precision, five times as fast.
    normal = torch.randn(shape, generator=generator).double()
    if role in ("norm weight", "norm running_var") or (role == "mul input" and len(shape) == 1):
        return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
    if role == "embedding weight":
        return normal * 0.7
    if len(shape) > 1:
        fan_in = shape[0] * math.prod(shape[2:]) if role == "conv_transpose weight" else math.prod(shape[1:])
        return normal * (_GAIN / math.sqrt(max(fan_in, 1)))
    return normal * 0.3


class Calibrator(ValueInterpreter):
    """Runs a captured model and sets the statistics of every batch norm from what enters it, disturbed."""

    def __init__(self, captured: Network, tensors: dict[str, Tensor], generator: torch.Generator, hook: Any = None) -> None:
        super().__init__(captured, tensors, hook)
        self.generator = generator
        self.values = tensors
        self.done: set[str] = set()

    def before_batch_norm(self, node: fx.Node, value: Tensor) -> None:
        """Measure a norm the first time it is met; one that is used again keeps its statistics."""
        arguments = bind(node)
        paths = [
            str(part.target) for name in ("running_mean", "running_var") if isinstance(part := arguments.get(name), fx.Node)
        ]
        if len(paths) != 2 or paths[0] in self.done:
            return
        dims = [d for d in range(value.dim()) if d != 1]
        var, mean = torch.var_mean(value, dims, unbiased=False)
        noise = torch.rand(var.shape, generator=self.generator, dtype=torch.float64)
        shift = torch.randn(var.shape, generator=self.generator, dtype=torch.float64)
        _set(self.values, paths[1], (var * (0.6 + 0.8 * noise) + 0.05 * var.mean() + 0.02).to(value.dtype))
        _set(self.values, paths[0], (mean + 0.2 * shift * var.sqrt()).to(value.dtype))
        self.done.add(paths[0])


def _set(values: dict[str, Tensor], path: str, value: Tensor) -> None:
    old = values[path]
    for name, tensor in values.items():
        if tensor is old:
            values[name] = value


def cotangents(outputs: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Return a random cotangent for every output."""
    return [torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype) for output in outputs]


def finite(values: list[Tensor]) -> bool:
    """Whether all values are finite, and not all are zero."""
    return all(bool(torch.isfinite(t).all()) for t in values) and any(bool((t != 0).any()) for t in values)
