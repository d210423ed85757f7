"""Drawing: the graphs of a plan as the plain records that a mapping keeps for its report.

Cost: linear in the number of operations.
"""

from torch import Tensor

from fxmap.graph.opgraph import CONSTANT, INPUT, OUTPUT, TENSOR
from fxmap.mapping.graphs import Drawn, Graphs, Operation
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side


def drawn(plan: Plan) -> Graphs:
    """Return both graphs of a plan, with the pairs of operations that correspond.

    >>> from torch import nn
    >>> from fxmap.matching.align.align import align
    >>> from fxmap.matching.sides import side
    >>> src, dst = side(nn.Sequential(nn.Linear(3, 2))), side(nn.Sequential(nn.Identity(), nn.Linear(3, 2)))
    >>> graphs = drawn(Plan(src, dst, align(src.main.ops, dst.main.ops)))
    >>> [(op.kind, op.keys) for op in graphs.dst.operations]
    [('input', ()), ('linear', ('1.weight', '1.bias')), ('output', ())]
    >>> [(src, dst) for src, dst, _ in graphs.pairs]
    [(0, 0), (1, 1), (2, 2)]
    """
    ours, theirs = _drawn(plan.src), _drawn(plan.dst)
    places = tuple({op.name: place for place, op in enumerate(graph.operations)} for graph in (ours, theirs))
    pairs = tuple(
        (places[0][pair.src], places[1][pair.dst], str(pair.evidence))
        for pair in plan.alignment.pairs
        if pair.src in places[0] and pair.dst in places[1]
    )
    return Graphs(ours, theirs, pairs)


def _drawn(side: Side) -> Drawn:
    ops = side.main.ops
    keys: dict[str, list[str]] = {}
    for key, store in side.twin.stores.items():
        for path in store.names:
            keys.setdefault(side.main.canonical.get(path, path), []).append(side.prefix + key)
    shown = [op for op in ops.ops() if op.kind not in (TENSOR, CONSTANT)]
    places = {op.name: place for place, op in enumerate(shown)}
    operations = []
    for op in shown:
        producers = [name for names in ops.operands(op.name).values() for name in names]
        paths = [path for tensor in ops.tensors(op.name).values() for path in ops.stored(tensor)]
        read = tuple(dict.fromkeys(key for path in paths for key in keys.get(path, ())))
        text = ", ".join(f"{name}={value}" for name, value in op.attributes)
        reads = tuple(dict.fromkeys(places[name] for name in producers if name in places))
        module = "" if op.kind in (INPUT, OUTPUT) else op.module
        operations.append(Operation(op.name, op.spelling, module, reads, read, text))
    shapes = {
        side.prefix + key: tuple(value.shape) for key, value in side.model.state_dict().items() if isinstance(value, Tensor)
    }
    return Drawn(tuple(operations), shapes)
