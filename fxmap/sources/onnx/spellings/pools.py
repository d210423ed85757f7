"""Maps that a file pads with zeros before it takes the largest of windows, where none of their numbers is below zero.

There, a zero at the border is never the largest of a window alone, so that the pool pads by itself, as torch's does: Keras
writes ResNet's and DenseNet's first pool in two steps.

>>> import onnx.helper as oh
>>> import torch
>>> rows = (("Relu", "x", "a"), ("Pad", "ap", "b"), ("MaxPool", "b", "y"))
>>> nodes = [oh.make_node(kind, list(inputs), [output]) for kind, inputs, output in rows]
>>> padded_pools(nodes, {"p": torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])})
{'y': PaddedPool(value='a', pads=(1, 1, 1, 1), is_last=False)}
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxmap.sources.onnx.records.values import integers
from fxmap.sources.onnx.spellings.turned import TO_FIRST, perm_of

# Operators whose results are zero or more.
_NOT_BELOW = {"Abs", "Relu", "ReduceL1", "ReduceL2", "Sigmoid", "Softmax", "Softplus"}


@dataclass(frozen=True)
class PaddedPool:
    """A pool of a value that was padded before: its padding before and after each axis; `is_last`: the value is turned."""

    value: str
    pads: tuple[int, ...]
    is_last: bool


def padded_pools(nodes: Iterable[Any], constants: Mapping[str, Tensor]) -> dict[str, PaddedPool]:
    """Return the pools whose input was padded with zeros and has no number below them, by the names of their results."""
    nodes = list(nodes)
    made = {output: node for node in nodes for output in node.output}
    pools = (node for node in nodes if node.op_type == "MaxPool" and len(node.output) == 1 and not _pads_itself(node))
    found = {pool.output[0]: _padded(pool, made, constants) for pool in pools}
    return {name: pool for name, pool in found.items() if pool is not None}


def _padded(pool: Any, made: Mapping[str, Any], constants: Mapping[str, Tensor]) -> PaddedPool | None:
    pad: Any = made.get(pool.input[0])
    is_last = pad is not None and perm_of(pad) == TO_FIRST
    pad = made.get(pad.input[0]) if is_last else pad
    amounts = _zeros_put_around(pad, constants)
    value = made.get(pad.input[0]) if amounts else None
    if value is None or value.op_type not in _NOT_BELOW:
        return None
    rank = len(amounts) // 2
    sides = [amounts[:rank], amounts[rank:]]
    if is_last:
        sides = [[side[axis] for axis in TO_FIRST] for side in sides]
    if any(side[:2] != [0, 0] or min(side) < 0 for side in sides):
        return None
    return PaddedPool(pad.input[0], tuple(amount for side in sides for amount in side[2:]), is_last)


def _pads_itself(pool: Any) -> bool:
    options = {one.name: one for one in pool.attribute}
    return ("auto_pad" in options and options["auto_pad"].s != b"NOTSET") or (
        "pads" in options and any(options["pads"].ints)
    )


def _zeros_put_around(pad: Any, constants: Mapping[str, Tensor]) -> list[int]:
    """Return how many zeros a node puts before and after each axis; nothing where it does something else."""
    if pad is None or pad.op_type != "Pad" or any(one.name == "mode" and one.s != b"constant" for one in pad.attribute):
        return []
    given = list(pad.input)[1:]
    if not given or given[0] not in constants or any(given[2:]):
        return []
    filled = constants.get(given[1]) if len(given) > 1 and given[1] else torch.zeros(1)
    return [] if filled is None or filled.any() else integers(constants[given[0]])
