"""Affine maps of one value that several operations compute, in the terms of one layer: what `branches` folds."""

from collections.abc import Callable
from dataclasses import dataclass

from fxmap.expressions.arithmetic import IdentityKernel
from fxmap.expressions.base import Expression, Source
from fxmap.graph.opgraph import Op

LAYERS = {"convolution": "conv", "linear": "linear"}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer among the branches: its kernel, which that of the largest one holds."""

    op: Op
    weight: Op

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.weight.shape or ()

    @property
    def kernel(self) -> tuple[int, ...]:
        """The extents of the window; none for a linear layer."""
        return self.shape[2:]

    @property
    def kind(self) -> str:
        """The layer's kind in the words of expressions."""
        return LAYERS[self.op.kind]

    def identity(self) -> Expression:
        """Return the identity kernel of the layer's shape."""
        return IdentityKernel(self.shape, self.op.attribute("groups", 1), source_of(self.weight))


Kernel = Callable[[Layer], Expression]


@dataclass(frozen=True, slots=True)
class Form:
    """A value as an affine map of `entry`, computed by operations `inner` that have no other consumers.

    Each of `kernels` writes a term of the weight in the shape of the largest layer; `biases` are the terms of the bias.
    `merged` says that a norm before a layer is one of them, and `low_rank` that one is two layers of low rank.
    """

    entry: str
    kernels: tuple[Kernel, ...]
    inner: frozenset[str] = frozenset()
    layers: tuple[Layer, ...] = ()
    biases: tuple[Expression, ...] = ()
    merged: bool = False
    low_rank: bool = False


def source_of(op: Op) -> Source:
    """Return the stored tensor of a node, as an expression."""
    assert op.key is not None
    return Source(op.key)
