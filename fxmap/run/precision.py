"""Single precision inside a proof in double precision: find values whose float32 rounding is no difference of the models.

Some models compute tables (rotary angles, positions) in float32 when they are built, or switch to float32 inside forward (a
softmax), whatever the dtype of their weights. Two libraries do so in different orders, so their values differ by rounding,
1e-7, which a proof in float64 would take for a difference. Values computed from such tables are compared within 1e-5.

Cost: one pass over the nodes of the graph; the mode adds a Python call to each operation.
"""

from typing import Any

import torch
from torch import Tensor

from fxmap.capture.captured import Captured
from fxmap.graph.constants import Constants
from fxmap.model.dispatch import DispatchMode

_aten = torch.ops.aten
# What computes nothing: a run of the user's code saves and puts back the model's own tensors, which are in float32.
_KEPT = frozenset(
    (_aten.detach.default, _aten.alias.default, _aten.clone.default, _aten.copy_.default, _aten.set_.source_Tensor)
)


class SinglePrecision(DispatchMode):
    """Notes in `found` whether an operation inside its `with` block rounds to float32.

    >>> with SinglePrecision() as seen:
    ...     _ = torch.ones(2, dtype=torch.float64).softmax(0, dtype=torch.float32)
    >>> seen.found
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look for a result in float32: whole numbers and masks, which it holds exactly, and copies do not count."""
        result = func(*args, **(kwargs or {}))
        if not self.found and func not in _KEPT and isinstance(result, Tensor) and result.dtype is torch.float32:
            double = any(isinstance(part, Tensor) and part.dtype is torch.float64 for part in args)
            self.found = double or _is_rounded(result)
        return result


def behind_tables(captured: Captured, mapped: set[str]) -> dict[str, str]:
    """Return the fx nodes that depend on a table in single precision, each with the table's name.

    A table is a constant of the graph, a buffer of the model that is not `mapped`, or what the code computes from constants
    as complex numbers, whose parts are rounded otherwise than cosines and sines. Small integers, powers of two and masks do
    not count: float32 holds them exactly in few digits, so that every library rounds them alike.
    """
    tables = {
        name: value
        for name, value in {**captured.tensors, **captured.constants}.items()
        if name not in mapped and not isinstance(captured.tensors.get(name), torch.nn.Parameter) and _is_rounded(value)
    }
    numbers = [node for node in captured.graph.nodes if node.meta.get("dtype") is torch.complex64]
    known = Constants(captured.graph, captured.tensors, captured.constants, buffers=True).nodes if numbers else {}
    computed = {node for node in numbers if node in known and node.op == "call_function"}
    behind: dict[str, str] = {}
    for node in captured.graph.nodes if tables or computed else ():
        name = str(node.target) if node.op == "get_attr" and str(node.target) in tables else None
        name = name or (node.name if node in computed else None)
        name = name or next((behind[part.name] for part in node.all_input_nodes if part.name in behind), None)
        if name is not None:
            behind[node.name] = name
    return behind


def _is_rounded(value: Tensor) -> bool:
    value = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    if value.is_meta or not value.is_floating_point() or value.numel() < 2:
        return False
    return not torch.equal(value, value.to(torch.bfloat16).to(value.dtype))
