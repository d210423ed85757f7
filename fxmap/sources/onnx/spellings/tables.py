"""Tables of the code in an ONNX graph: coordinates and frequencies, of which it makes positions before a layer reads them.

Exporters give them names of their own, as they do to weights that they have turned. They are told by what is made of them:
numbers by arithmetic with nothing else than such tables and numbers, and not a value that an input or a weight is a part of.

>>> import onnx.helper as oh
>>> rows = (("Div", "gf", "a"), ("Sin", "a", "b"), ("MatMul", "bw", "c"), ("Add", "xc", "d"), ("Add", "dt", "y"))
>>> nodes = [oh.make_node(kind, list(inputs), [output]) for kind, inputs, output in rows]
>>> sorted(tables_of_code(nodes, {"g", "f", "t"}, {"x", "w"}))
['f', 'g']
"""

from collections.abc import Collection, Iterable
from typing import Any

from fxmap.sources.onnx.spellings.partial import EXTENTS

_ARITHMETIC = {"Add", "Cos", "Div", "Exp", "Mul", "Pow", "Sin", "Sub"}


def tables_of_code(nodes: Iterable[Any], tables: Collection[str], given: Iterable[str]) -> set[str]:
    """Return those of some tables of which arithmetic makes others, with no input and no weight.

    Args:
        nodes: onnx.NodeProtos in their order.
        tables: names of tensors that may be such tables.
        given: names of inputs and of other weights.
    """
    live = set(given)
    parts: dict[str, set[str]] = {name: {name} for name in tables}
    made, joined = set[str](), set[str]()
    for node in nodes:
        if node.op_type not in EXTENTS and any(name in live for name in node.input):
            live |= set(node.output)
            joined |= {name for name in node.input if name in tables}
            continue
        read = set[str]().union(*(parts.get(name, set()) for name in node.input))
        parts |= dict.fromkeys(node.output, read)
        made |= read if node.op_type in _ARITHMETIC else set()
    return made - joined
