"""Example inputs: tensors that both models accept, guessed from the first operations that read the models' inputs.

Small sizes are best, but for a proof, feature maps must stay larger than every kernel that is applied to them: on a 32x32
image the last stage of a ResNet has one position, and a wrong stride there changes nothing.
"""

import logging
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import INPUT, TENSOR
from fxmap.model.inputs import Inputs, size_of
from fxmap.model.restoring import let_through
from fxmap.normalize.network import Network
from fxmap.run.guessed import draw
from fxmap.run.interpreter import ValueInterpreter

logger = logging.getLogger(__name__)


_SIZES = (32, 48, 64, 96, 128, 144, 160, 176, 192, 208, 224, 256, 299, 320, 384)


_LENGTHS = (12, 7, 16, 32)


def find_inputs(src: Network, dst: Network, *, count: int = 2) -> list[Inputs]:
    """Return up to `count` inputs of different sizes that both models accept: first the smallest that suffices for a proof.

    The second input has at least two images in its batch: with one, an operation across the batch would go unnoticed.

    Whether feature maps stay larger than every kernel is estimated from the attributes of convolutions and pools; whether a
    model accepts a size is tried on the meta device, where a run costs no arithmetic. The random values come from a
    generator of their own: the global one is not touched.
    """
    choices = list(_candidates(dst if _inputs(dst) else src))
    rooms = [min(_room(src, choice.step), _room(dst, choice.step)) for choice in choices]
    order = sorted(range(len(choices)), key=lambda i: (not rooms[i], i if rooms[i] else -i))
    found: list[Inputs] = []
    for i in order:
        tensors = _random(choices[i] if not found else choices[i].doubled(), seed=i)
        if all(_accepts(captured, tensors) for captured in (src, dst)):
            found.append(Inputs(tensors, {}, rooms[i], size_of(tensors[0])))
        if len(found) == count:
            break
    return found


def _inputs(captured: Network) -> list[str]:
    return [op.name for op in captured.ops.ops() if op.kind == INPUT and captured.ops.users(op.name)]


@dataclass(frozen=True, slots=True)
class _Choice:
    """Shapes of all inputs for one spatial size or sequence length, and the number of embeddings of integer inputs."""

    step: int
    shapes: tuple[tuple[int, ...], ...]
    high: tuple[int | None, ...]

    def doubled(self) -> "_Choice":
        """Return the choice with a batch of at least two."""
        return replace(self, shapes=tuple((max(2, shape[0]), *shape[1:]) for shape in self.shapes))


def _candidates(captured: Network) -> Iterator[_Choice]:
    found = [_entry(captured, name) for name in _inputs(captured)]
    entries = [entry for entry in found if entry is not None]
    if not entries or len(entries) != len(found):
        return
    high = tuple(top for _, _, top in entries)
    for step in _SIZES if any(dims for _, dims, _ in entries) else _LENGTHS:
        shapes = tuple(
            (2, step) if top is not None else (1, channels, *[step] * dims) if dims else (step, channels)
            for channels, dims, top in entries
        )
        yield _Choice(step, shapes, high)


def _entry(captured: Network, name: str) -> tuple[int, int, int | None] | None:
    """Return the channels, the spatial dimensions and the number of embeddings that the first layer of an input expects."""
    queue, seen = deque([name]), {name}
    while queue:
        for user, argument in captured.ops.users(queue.popleft()):
            op, weight = captured.ops.op(user), captured.ops.tensors(user).get("weight")
            if weight is not None and weight.shape is not None:
                shape = weight.shape
                if op.kind == "convolution":
                    return shape[1] * int(op.attribute("groups", 1)), len(shape) - 2, None
                if op.kind == "conv_transpose":
                    return shape[0], len(shape) - 2, None
                if op.kind == "linear":
                    return shape[1], 0, None
                if op.kind == "embedding" and argument != "weight":
                    return 1, 0, shape[0]
            if user not in seen:
                seen.add(user)
                queue.append(user)
    return None


def _random(choice: _Choice, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(draw(shape, high, generator) for shape, high in zip(choice.shapes, choice.high, strict=True))


def _room(captured: Network, size: int) -> bool:
    """Estimate whether, for a square input, every feature map is larger than the kernels that are applied to it.

    Follows the spatial size along the operation graph. Behind any other operation that changes it than convolutions and
    pools, the size is unknown, and kernels there are not checked.
    """
    sizes: dict[str, tuple[int, ...] | None] = {}
    for op in captured.ops.ops():
        weight = captured.ops.tensors(op.name).get("weight")
        if op.kind == INPUT:
            sizes[op.name] = (size, size, size)
            continue
        if op.kind == TENSOR:
            continue
        before = [sizes.get(name) for names in captured.ops.operands(op.name).values() for name in names if name in sizes]
        known = next((found for found in before if found is not None), None)
        sizes[op.name] = known
        if known is None or op.kind not in ("convolution", "max_pool", "avg_pool"):
            sizes[op.name] = None if has(op.kind, Trait.RESIZE) else known
            continue
        dims = len(weight.shape) - 2 if weight is not None and weight.shape is not None else 2
        kernel = (
            weight.shape[2:] if weight is not None and weight.shape is not None else _each(op.attribute("kernel_size"), dims)
        )
        if any(k > 1 and extent <= k for k, extent in zip(kernel, known, strict=False)):
            return False
        stride, padding, dilation = (
            _each(op.attribute(name, d), dims) for name, d in (("stride", 1), ("padding", 0), ("dilation", 1))
        )
        sizes[op.name] = tuple(
            (extent + 2 * p - d * (k - 1) - 1) // s + 1
            for extent, k, s, p, d in zip(known[:dims], kernel, stride, padding, dilation, strict=True)
        )
    return True


def _each(value: Any, dims: int) -> tuple[int, ...]:
    if isinstance(value, tuple):
        return value
    return (value if isinstance(value, int) else 0,) * dims


def _accepts(captured: Network, tensors: tuple[Tensor, ...]) -> bool:
    """Whether a model runs on inputs, within the budget of numbers and of products."""
    meta = {
        # A model in another precision accepts the same shapes.
        path: tensor.to("meta", torch.float32 if tensor.is_floating_point() else tensor.dtype)
        for path, tensor in captured.tensors.items()
    }
    numbers, products = 0, 0

    def count(node: fx.Node, value: Any) -> Any:
        nonlocal numbers, products
        if isinstance(value, Tensor) and node.op.startswith("call"):
            numbers += value.numel()
            products += value.numel() * _products(node, meta)
        return value

    try:
        with torch.no_grad():
            ValueInterpreter(captured, meta, count).run(*(tensor.to("meta") for tensor in tensors))
    except Exception as error:  # whatever a model raises on inputs that do not fit it
        let_through(error)
        return False
    if numbers > _NUMBERS or products > _PRODUCTS:
        logger.info("inputs of %s are too large: %.1e numbers, %.1e products", size_of(tensors[0]), numbers, products)
        return False
    return True


# In float64, a pass of so many numbers takes 4 GB, and one of so many products a minute on one core.
_NUMBERS, _PRODUCTS = 5e8, 3e11


def _products(node: fx.Node, tensors: dict[str, Tensor]) -> int:
    """Return the products that make one number of an affine layer's result, as its weight says; 1 for other operations."""
    weights = [tensors[str(part.target)] for part in node.all_input_nodes if str(part.target) in tensors]
    return max((math.prod(weight.shape[1:]) for weight in weights), default=1)
