"""The source in a solution: its values for many inputs, element by element, and its numbers."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, fx

from fxmap.capture.captured import Captured
from fxmap.matching.solve.known.numbers import NumberTable
from fxmap.matching.solve.known.prints import Prints
from fxmap.matching.solve.runs.stacked import StackedInterpreter, Value, Values
from fxmap.matching.solve.runs.uses import Uses


class TooLarge(Exception):
    """The values of a network do not fit into the memory that a solution may take."""


@dataclass(frozen=True)
class Block:
    """The elements of one node's value: columns `begin` to `stop` of the source's values."""

    node: fx.Node
    part: int
    shape: tuple[int, ...]
    begin: int
    stop: int


def elements(value: Value) -> list[Tensor]:
    """Return the real tensors of a stacked value, `samples ...`, complex ones with their two parts as a last axis."""
    found = []
    for tensor in value.tensors():
        if tensor.is_complex():
            found.append(torch.view_as_real(tensor.resolve_conj()))
        elif tensor.is_floating_point():
            found.append(tensor)
    return found


class SourceValues:
    """The run of the source: every element of every value that depends on the inputs, as a vector over the samples."""

    LIMIT = 40_000_000

    def __init__(self, captured: Captured, tensors: Mapping[str, Tensor], inputs: list[Tensor]) -> None:
        self.captured, self.tensors, self.inputs = captured, tensors, inputs
        self.values = run(captured, tensors, inputs)
        self.nodes = list(captured.graph.nodes)
        self.blocks: list[Block] = []
        columns: list[Tensor] = []
        begin = total = 0
        for node in self.nodes:
            value = self.values.get(node)
            if value is None or not value.stacked or node.op == "output" or not isinstance(value.data, Tensor):
                continue  # the parts of several values are nodes of their own
            for part, tensor in enumerate(elements(value)):
                flat = tensor.reshape(len(tensor), -1)
                total += flat.numel()
                if total > self.LIMIT:
                    raise TooLarge(f"the source's values for {len(flat)} samples have more than {self.LIMIT} numbers")
                if not bool(torch.isfinite(flat).all()):
                    flat = torch.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0)
                self.blocks.append(Block(node, part, tuple(tensor.shape[1:]), begin, begin + flat.shape[1]))
                columns.append(flat)
                begin += flat.shape[1]
        self.columns = torch.cat(columns, 1).double() if columns else torch.zeros(len(inputs[0]), 0).double()
        self._begins = [block.begin for block in self.blocks]
        del columns
        self._share()
        self.norms = self.columns.norm(dim=0)
        self.varies = self.columns.std(dim=0) * len(self.columns) ** 0.5 > 1e-10 * self.norms.clamp_min(1e-30)
        self.prints = Prints(self.columns)
        self.numbers = NumberTable(self._numbers())

    def _share(self) -> None:
        """Let the values that are blocks read their numbers there, so that they are held once."""
        for block in self.blocks:
            data = self.values[block.node].data
            if data.dtype == self.columns.dtype:
                own = self.columns[:, block.begin : block.stop]
                self.values[block.node] = Value(own.view(len(own), *block.shape), stacked=True)

    def _numbers(self) -> dict[str, Tensor]:
        """Return the stored tensors that are read, and then the values that are computed of them alone."""
        canonical = self.captured.canonical
        own = {path: tensor for path, tensor in self.tensors.items() if canonical.get(path, path) == path and isreal(tensor)}
        found = {path: real(tensor) for path, tensor in own.items()}
        for node in self.nodes:
            value = self.values.get(node)
            data = value.data if value is not None and not value.stacked and node.op == "call_function" else None
            if isinstance(data, Tensor) and isreal(data) and reads_weights(node):
                found[f"%{node.name}"] = real(data)
        return found

    def block(self, element: int) -> Block:
        """Return the value that an element is of."""
        return self.blocks[bisect_right(self._begins, element) - 1]

    def spread(self, found: Tensor) -> dict[int, Tensor]:
        """Return which of some elements, in ascending order, are of each value that has any, by its number."""
        if not len(found):
            return {}
        owners = torch.searchsorted(torch.tensor(self._begins), found, right=True) - 1
        begins = [0, *((owners[1:] != owners[:-1]).nonzero().flatten() + 1).tolist(), len(found)]
        return {int(owners[begin]): found[begin:stop] for begin, stop in pairwise(begins)}

    def find(self, columns: Tensor) -> list[int] | None:
        """Return the element that each column is equal to, the first one, or -1 for 1; None if one is none."""
        found = []
        for column in columns.T:
            if bool(((column - 1).abs() < 1e-9).all()):
                found.append(-1)
                continue
            place = self.prints.find(column)
            if place is None:
                return None
            found.append(place)
        return found

    @cached_property
    def different(self) -> Tensor:
        """Its different values: one copy, since large ones between small ones that stay fragment memory."""
        return self.columns[:, self.prints.firsts]

    @cached_property
    def uses(self) -> Uses:
        """By which operations the elements of its values are read."""
        first = {node: value.first(1) for node, value in self.values.items()}
        return Uses(StackedInterpreter(self.captured), first)

    @property
    def outputs(self) -> list[fx.Node]:
        """The nodes that the source returns."""
        return [part for part in self.nodes[-1].all_input_nodes if part in self.values]


def isreal(tensor: Tensor) -> bool:
    """Whether a tensor has real or complex numbers."""
    return tensor.is_floating_point() or tensor.is_complex()


def real(tensor: Tensor) -> Tensor:
    """Return a tensor of real numbers: of complex ones, both parts as a last axis."""
    return torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()


def reads_weights(node: fx.Node) -> bool:
    """Whether a node is computed of stored tensors and constants alone, and of at least one stored tensor."""
    waiting, seen, found = [node], set(), False
    while waiting:
        for part in waiting.pop().all_input_nodes:
            if part.op == "placeholder":
                return False
            found |= part.op == "get_attr"
            if part not in seen:
                seen.add(part)
                waiting.append(part)
    return found


def run(captured: Captured, tensors: Mapping[str, Tensor], inputs: list[Tensor]) -> Values:
    """Run a captured graph on stacked inputs, and return the value of every node."""
    interpreter = StackedInterpreter(captured)
    values: Values = {}
    rest = iter(inputs)
    with torch.no_grad():
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                values[node] = Value(next(rest, None), stacked=True)
            elif node.op == "get_attr" and str(node.target) in tensors:
                values[node] = Value(tensors[str(node.target)], stacked=False)
            elif node.op != "output":
                values[node] = interpreter.node(node, values)
    return values
