"""Random tensors for a run: no tensor is all 0 or 1, and activations stay alive through a hundred layers.

Default initialisation shows little: norms of weight 1 and mean 0 hide an exchange of two norms, and a layer scale of zero
hides a whole block. Weights are drawn from a normal distribution and scaled by their fan-in (He et al. 2015,
doi:10.1109/ICCV.2015.123), so that a layer's output is about as large as its input. The statistics of batch norms are
measured in a run (`calibrator.py`).

Cost: one random number for every number of the model, or, in large tensors, one multiplication.
"""

import math
from collections.abc import Container
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxmap.graph.opgraph import TENSOR
from fxmap.normalize.network import Network
from fxmap.run.deferred import Deferred, numbers
from fxmap.run.drawn import drawn, generator_of


@dataclass(frozen=True, slots=True)
class Scales:
    """The scales of the random numbers.

    They are not tuned on a benchmark. Activations of deep models should neither vanish nor overflow, and every tensor
    should have an influence far above the rounding of float64.
    """

    # Standard deviation of a weight, times the root of its fan-in. Activations keep their size with 1 where layers are
    # linear, and with the root of 2 behind ReLU: 1.3 is in between, since models have both.
    weight: float = 1.3
    # Rows of an embedding are the first values in a model: about as large as the values behind a norm.
    embedding: float = 0.7
    # Biases and other vectors: seen beside activations of about 1, without drowning them.
    vector: float = 0.3
    # Factors by channel and variances are uniform from here to 1 more: never near 0, never negative, 1 on average.
    least_factor: float = 0.5


SCALES = Scales()
# How many numbers are drawn at once; tensors of more than `_LARGE` are windows of one pool of numbers.
_BLOCK, _LARGE = 2**18, 2**20

_VARIANCE = "norm running_var"


def random_tensors(captured: Network, generator: torch.Generator, read: Container[str] = frozenset()) -> dict[str, Tensor]:
    """Return a value for every tensor of a captured model, float64 for floating-point tensors; shared ones stay shared.

    Parameters, statistics of norms and every tensor in `read` (those that a mapping reads) are random. Other buffers are
    tables that the model computes for itself, and keep their values.

    >>> from fxmap.capture.symbolic import capture_symbolic
    >>> tensors = random_tensors(Network.of(capture_symbolic(nn.Linear(2, 3))), torch.Generator().manual_seed(0))
    >>> [(path, tuple(tensor.shape), tensor.dtype) for path, tensor in tensors.items()]
    [('weight', (3, 2), torch.float64), ('bias', (3,), torch.float64)]
    """
    read_as = {op: _role(captured, op.name) for op in captured.ops.ops() if op.kind == TENSOR}
    roles = {op.key: role for op, role in read_as.items()}
    # An eps is added to a variance before its root is taken.
    roles |= {key: role for op, role in read_as.items() if role == _VARIANCE for key in captured.ops.stored(op)}
    values: dict[int, Tensor] = {}
    result: dict[str, Tensor] = {}
    for path, tensor in captured.tensors.items():
        if id(tensor) not in values:
            role = roles.get(path, "")
            table = not isinstance(tensor, nn.Parameter) and not role.startswith("norm ") and path not in read
            fixed = table and (tensor.is_floating_point() or tensor.is_complex())
            if not fixed and (isinstance(tensor, Deferred) or _is_large(tensor)):
                made = _deferred(path, tensor, role, generator.initial_seed())
                values[id(tensor)] = made if isinstance(tensor, Deferred) else numbers(made)
            else:
                values[id(tensor)] = in_double(tensor.detach()).clone() if fixed else _random(tensor, role, generator)
        result[path] = values[id(tensor)]
    return result


def _role(captured: Network, name: str) -> str:
    """Return the kind and the argument of the first operation that reads a tensor: `norm weight`, `linear bias`; else ""."""
    users = captured.ops.users(name)
    if not users:
        return ""
    user, argument = users[0]
    kind = captured.ops.op(user).kind
    if argument.startswith("norm.") or kind.endswith("_norm"):
        return "norm " + argument.removeprefix("norm.")
    # No negative number has a root.
    return _VARIANCE if kind in ("sqrt", "rsqrt") else f"{kind} {argument}"


def _random(tensor: Tensor, role: str, generator: torch.Generator) -> Tensor:
    shape = tensor.shape
    if tensor.is_complex():
        parts = [_random(tensor.detach().real, role, generator) for _ in range(2)]
        return torch.complex(*parts)
    if not tensor.is_floating_point():
        # A counter may be any number; a table of positions may not.
        counter = role == "" and tensor.dim() == 0
        return torch.randint(1, 100, shape, generator=generator).to(tensor.dtype) if counter else tensor.clone()
    normal = _normal(shape, generator)
    if role in ("norm weight", _VARIANCE) or (role == "mul input" and len(shape) == 1):
        return torch.rand(shape, generator=generator, dtype=torch.float64) + SCALES.least_factor
    return normal.mul_(SCALES.embedding if role == "embedding weight" else _scale(tensor, role))


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw normal numbers in single precision, five times as fast as in double; in blocks, which stay in the cache."""
    if shape.numel() <= _BLOCK:
        return torch.randn(shape, generator=generator, dtype=torch.float32).double()
    numbers, block = torch.empty(shape.numel(), dtype=torch.float64), torch.empty(_BLOCK, dtype=torch.float32)
    for start in range(0, len(numbers), _BLOCK):
        part = numbers[start : start + _BLOCK]
        part.copy_(block[: len(part)].normal_(generator=generator))
    return numbers.view(shape)


def _scale(tensor: Tensor, role: str) -> float:
    """Return the standard deviation of the numbers of a weight or a vector."""
    shape = tensor.shape
    if len(shape) < 2:
        return SCALES.vector
    fan_in = shape[0] * math.prod(shape[2:]) if role == "conv_transpose weight" else math.prod(shape[1:])
    return SCALES.weight / math.sqrt(max(fan_in, 1))


def _is_large(tensor: Tensor) -> bool:
    """Whether drawing each number of a tensor by itself takes as long as several runs of the model."""
    return tensor.numel() >= _LARGE and tensor.is_floating_point() and tensor.dim() > 1


def _deferred(path: str, tensor: Tensor, role: str, seed: int) -> Tensor:
    """Return the recipe of random numbers of a tensor that is deferred itself; few of them are drawn at once."""
    by_itself = role in ("norm weight", "norm running_var") or (role == "mul input" and tensor.dim() == 1)
    if by_itself or not tensor.is_floating_point():
        return _random(torch.empty(tensor.shape, dtype=tensor.dtype), role, generator_of(path, seed))
    scale = SCALES.embedding if role == "embedding weight" else _scale(tensor, role)
    return Deferred(drawn(path, tensor.shape, scale, seed))


def in_double(tensor: Tensor) -> Tensor:
    """Return a real or complex tensor in double precision; integers are returned unchanged."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def cotangents(outputs: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Return a random cotangent for every output: the vector that a backward pass multiplies the Jacobian by."""
    return [torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype) for output in outputs]
