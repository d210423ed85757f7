"""op(f(w1, w2, ...)) = op(w): an operand that is put together from stored tensors is one tensor.

Holds where f only moves, joins, scales and adds tensors of the state dict and constants: `graph/operands.py` follows it. A
slice that is the whole tensor is that tensor.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from fxmap.graph.index_maps import Composition
from fxmap.graph.operands import Operands
from fxmap.graph.opgraph import TENSOR, Op, OpGraph, drop_dead


def compose_operands(graph: OpGraph, operands: Operands) -> OpGraph:
    """Put one tensor in the place of every composed operand."""
    graph = replace(graph, weights={node.name for node in operands.nodes}, numbering=operands.numbering)
    for node, composition in operands.composed.items():
        if node.name not in graph.network:
            continue
        whole = _whole(composition, operands)
        op = _tensor(node, composition) if whole is None else graph.op(f"%{whole}")
        if whole is None:
            graph.composed[node.name] = composition
            graph.add(op)
        for user, argument in graph.users(node.name):
            graph.network.add_edge(op.name, user, argument=argument)
        graph.network.remove_node(node.name)
    drop_dead(graph)
    for name in [name for name in graph.composed if f"%{name}" not in graph.network]:
        del graph.composed[name]
    return graph


def _tensor(node: fx.Node, composition: Composition) -> Op:
    return Op(f"%{node.name}", TENSOR, output=node.name, key=node.name, shape=composition.shape)


def _whole(composition: Composition, operands: Operands) -> str | None:
    """Return the stored tensor that an operand equals as a whole, unflattened; None where it is composed."""
    numbers = composition.terms[0].numbers
    path = operands.numbering.sole(numbers) if composition.plain else None
    if path is None or not torch.equal(numbers.flatten(), operands.numbering.numbers(path).flatten()):
        return None
    if _extents(numbers.shape) != _extents(operands.numbering.shapes[path]):
        return None
    return path


def _extents(shape: Sequence[int]) -> list[int]:
    return [extent for extent in shape if extent > 1]
