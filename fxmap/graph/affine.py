"""Affine layers: convolutions and linear layers, and the shapes of their weights."""

from math import prod

from fxmap.graph.opgraph import Op


def affine_shape(op: Op, weight: Op) -> tuple[int, ...]:
    """Return the shape of an affine operation's weight as `o i kh kw`, for its rows alone, however its axes are stored.

    A kernel of 1 is no axis: a 1x1 convolution is a linear layer over channels. One as large as its input is a linear layer
    over channels and positions.
    """
    shape = weight.shape or ()
    if op.attribute("axes") == "i o":
        shape = shape[::-1]
    if op.attribute("axes") == "o i kh kw":
        shape = (shape[0], prod(shape[1:]))
    if all(extent == 1 for extent in shape[2:]):
        shape = shape[:2]
    return shape if op.rows is None else (len(op.rows), *shape[1:])


def pointwise(op: Op, weight: Op) -> bool:
    """Whether a convolution is a linear layer over channels: a kernel of 1, one group, no stride and no padding.

    conv1x1(x)[b, :, p] = linear(x[b, :, p]) for every position p.
    """
    names = {name for name, _ in op.attributes if not name.startswith("norm.")}
    trivial = all(op.attribute(name) in (0, 1, False) for name in names)
    ones = {op.attribute(name, 1) for name in ("stride", "dilation", "groups")} == {1} and op.attribute("padding", 0) == 0
    return op.kind == "convolution" and trivial and ones and all(extent == 1 for extent in (weight.shape or ())[2:])
