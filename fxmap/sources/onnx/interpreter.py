"""Run the nodes of an ONNX graph by torch, one by one; several that are one operation of torch are read as that one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxmap.sources.onnx.ops.operators import OPERATORS
from fxmap.sources.onnx.ops.quantized import BORDERS, left_out
from fxmap.sources.onnx.ops.reductions import OF_OPSET
from fxmap.sources.onnx.ops.shapes import OF_OUTPUTS
from fxmap.sources.onnx.records.protos import attribute_of, constant_of, exact_tensor, tensor_of
from fxmap.sources.onnx.records.values import plain
from fxmap.sources.onnx.spellings.groups import GroupNorm
from fxmap.sources.onnx.spellings.idioms import safe_softmax, without
from fxmap.sources.onnx.spellings.norms import Norm
from fxmap.sources.onnx.spellings.numbers import with_number
from fxmap.sources.onnx.spellings.pools import PaddedPool
from fxmap.sources.onnx.spellings.turned import TO_FIRST, TO_LAST, on_maps, perm_of
from fxmap.sources.onnx.spellings.twins import Twin
from fxmap.sources.onnx.spellings.unrolled import unrecorded

# Numbers of onnx.TensorProto.DataType.
_SINGLE, _DOUBLE = 1, 11


@dataclass
class Reading:
    """What the nodes of a graph are read as, beyond what their operators say; names are those of values in the graph.

    Args:
        opset: the version of the standard.
        masks: masks of zeros, which add nothing.
        zero_points: zero points, with their element types in the file.
        at_once: results that are weights, dequantized when the file is read, and the names of these.
        cut: results of nodes whose inputs are cut at zero.
        fixed: what no input and no weight changes.
        guarded: results of choices that guard a softmax against NaN, with the node of the softmax.
        numbers: single numbers of the code.
        variances: results of maxima of a variance and zero, and the names of the variances.
        gates: results of products of a value and its sigmoid, and the names of the values.
        pools: pools of values that were padded with zeros before, by the names of their results.
        is_turned: the graph turns maps to channels first and back.
        norms: norms that are written out, by the names of their results.
        kernels: kernels that are held as layers read them: the names of what is made of them, and theirs.
        moved: results of the nodes that move these kernels.
        entries: inputs whose scaling is left out: the names of what it makes, and theirs.
        left_out: results of the nodes that scale them.
        repeated: tables that were made of fewer numbers, with the first place of each number.
        twins: matrices that are others, or their transposes.
        groups: group norms that are written as instance norms, by the names of their results.
    """

    opset: int
    masks: set[str] = field(default_factory=set)
    zero_points: dict[str, int] = field(default_factory=dict)
    at_once: dict[str, str] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    fixed: frozenset[str] = frozenset()
    guarded: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, Tensor] = field(default_factory=dict)
    variances: dict[str, str] = field(default_factory=dict)
    gates: dict[str, str] = field(default_factory=dict)
    pools: dict[str, PaddedPool] = field(default_factory=dict)
    is_turned: bool = False
    norms: dict[str, Norm] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    entries: dict[str, str] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    repeated: dict[str, Tensor] = field(default_factory=dict)
    twins: dict[str, Twin] = field(default_factory=dict)
    groups: dict[str, GroupNorm] = field(default_factory=dict)

    @property
    def biases(self) -> dict[str, str]:
        """The biases that stand behind their layers, by the results of these."""
        return {norm.entry: norm.shift for norm in self.norms.values() if not norm.factor}


class Interpreter:
    """One run of a graph, in a precision: that of single numbers of the code."""

    def __init__(self, reading: Reading, dtype: torch.dtype) -> None:
        self._reading, self._dtype = reading, dtype
        self._biases = reading.biases
        self._inner = reading.moved.union(reading.left_out, *(norm.inner for norm in reading.norms.values()))

    def run(self, nodes: Iterable[Any], values: dict[str, Any], given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Run nodes in their order, on values by their names, which the results are put to.

        `given` are those of the values that are turned maps, with channels first.
        """
        values |= {name: twin.read(values[twin.of]) for name, twin in self._reading.twins.items() if twin.of in values}
        values |= {end: values[name] for end, name in self._reading.kernels.items()}
        values |= {name: values[name].reshape(-1)[places] for name, places in self._reading.repeated.items()}
        maps: dict[str, Tensor] = dict(given or {})
        for end, name in self._reading.entries.items():
            values[end] = values[name]
            maps |= {end: maps[name]} if name in maps else {}
        for node in nodes:
            if not self._inner.isdisjoint(node.output):
                continue
            with unrecorded(not self._reading.fixed.isdisjoint(node.output)):
                found = self._pooled(node, values, maps)
                if found is None and self._reading.is_turned:
                    found = self._turned_result(node, values, maps)
                for name, value in zip(node.output, found or self.results(node, values), strict=False):
                    values.setdefault(name, value)
        return values

    def in_place(self, value: Tensor) -> Tensor:
        """Return a single number in the precision of the run."""
        return value.to(self._dtype) if value.dtype is torch.float64 and value.numel() == 1 else value

    def results(self, node: Any, values: Mapping[str, Any], attributes: dict[str, Any] | None = None) -> Sequence[Any]:
        """Return the results of one node, whose attributes are its own where no others are given."""
        attributes = {one.name: attribute_of(one) for one in node.attribute} if attributes is None else attributes
        if (special := self._special(node, values)) is not None:
            return (special,)
        inputs: list[Any] = [values[name] if name else None for name in node.input]
        if node.output and node.output[0] in self._biases:
            inputs[2:] = [values[self._biases[node.output[0]]]]
        if node.op_type in BORDERS:
            inputs[2:] = [values[left_out(node) or node.input[2]]]
            if not left_out(node):
                attributes["output_dtype"] = self._reading.zero_points.get(node.input[2], 0)
        if node.op_type == "Cast" and attributes.get("to") == _SINGLE and self._dtype is torch.float64:
            attributes["to"] = _DOUBLE  # extents, of which scales are made
        if node.output[0] in self._reading.cut:
            inputs[0] = torch.relu(inputs[0])
        if node.op_type == "Constant":
            return (self.in_place(exact_tensor(constant_of(attributes))),)
        if node.op_type == "If":
            branch = attributes["then_branch"] if bool(plain(inputs[0])) else attributes["else_branch"]
            inner = self.run(branch.node, dict(values) | {one.name: tensor_of(one) for one in branch.initializer})
            return tuple(inner[one.name] for one in branch.output)
        if node.op_type in OF_OPSET:
            found = OF_OPSET[node.op_type](*inputs, self._reading.opset, **attributes)
        elif node.op_type in OF_OUTPUTS:
            found = OF_OUTPUTS[node.op_type](*inputs, outputs=len(node.output), **attributes)
        else:
            found = OPERATORS[node.op_type](*inputs, **attributes)
        return found if isinstance(found, tuple) else (found,)

    def _pooled(self, node: Any, values: Mapping[str, Any], maps: Mapping[str, Tensor]) -> Sequence[Any] | None:
        """Return the result of a pool that pads by itself what was padded before; None for other nodes."""
        pool = self._reading.pools.get(node.output[0]) if node.output else None
        if pool is None:
            return None
        x = values[pool.value]
        if pool.is_last:
            x = maps[pool.value] if pool.value in maps else x.permute(TO_FIRST)
        attributes = {one.name: attribute_of(one) for one in node.attribute}
        return (OPERATORS["MaxPool"](x, **attributes | {"pads": list(pool.pads)}),)

    def _turned_result(self, node: Any, values: Mapping[str, Any], maps: dict[str, Tensor]) -> Sequence[Any] | None:
        """Return the results of a node that turns maps, or that computes on turned ones; None for others."""
        perm = perm_of(node)
        if perm == TO_FIRST and node.input[0] in maps:
            return (maps[node.input[0]],)
        made: Any = None
        if perm == TO_LAST:
            made = values[node.input[0]]
        elif (norm := self._reading.norms.get(node.output[0] if node.output else "")) is not None and norm.is_last:
            entry = maps[norm.entry] if norm.starts_last and norm.entry in maps else None
            made = self._normed(norm, values, entry)
        elif any(name in maps for name in node.input):
            attributes = {one.name: attribute_of(one) for one in node.attribute}
            made = on_maps(node, values, maps, attributes, lambda given, other: self.results(node, given, other)[0])
        if made is None:
            return None
        maps[node.output[0]] = made
        return (made.permute(TO_LAST),)

    def _normed(self, norm: Norm, values: Mapping[str, Any], entry: Tensor | None = None) -> Tensor:
        """Return the result of a norm with channels first; `entry` is what it normalises, where that is known so."""
        if entry is None:
            entry = values[norm.entry].permute(TO_FIRST) if norm.starts_last else values[norm.entry]
        return norm(entry, [values[name] for name in norm.names()])

    def _special(self, node: Any, values: Mapping[str, Any]) -> Tensor | None:
        """Return the result of a node that ends several which are read as one, or that is read at once; None for others."""
        output, reading = node.output[0] if node.output else "", self._reading
        if output in reading.at_once:
            found: Tensor = values[reading.at_once[output]]
            return found
        if (norm := reading.norms.get(output)) is not None:
            made = self._normed(norm, values)
            return made.permute(TO_LAST) if norm.is_last and made.dim() == 4 else made
        if (groups := reading.groups.get(output)) is not None:
            return groups(values[groups.value], plain(values[node.input[1]]))
        if (softmax := reading.guarded.get(output)) is not None:
            axis = next((one.i for one in softmax.attribute if one.name == "axis"), -1)
            return safe_softmax(values[softmax.input[0]], axis)
        if output in reading.variances:
            same: Tensor = values[reading.variances[output]]
            return same
        if output in reading.gates:
            return F.silu(values[reading.gates[output]])
        if node.op_type == "Add" and not reading.masks.isdisjoint(node.input):
            mask, other = node.input if node.input[0] in reading.masks else reversed(node.input)
            return without(values[mask], values[other])
        return with_number(node, [values.get(name) for name in node.input], reading.numbers)
