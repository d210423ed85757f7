"""The operation graph: what two models are compared by.

Nodes are operations, tensors of the state dict, constants, inputs, and one output. An edge from producer to consumer
carries the consumer's argument ("input", "weight", "tensors.2"); arguments that commute share one name. What matters about
an operation is its kind, not how it was spelled: `nn.ReLU`, `F.relu`, `torch.relu_` and `x.relu()` are one kind.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
from torch import Tensor

from fxmap.expressions.base import Expression
from fxmap.graph.index_maps import Composition, Numbering
from fxmap.graph.kinds import facts

INPUT, TENSOR, CONSTANT, OUTPUT = "input", "tensor", "constant", "output"


@dataclass(frozen=True, slots=True)
class Op:
    """A node: what it computes, with which static attributes, and where in the model.

    `output` names the fx node whose value this operation yields: the last one of those that a normalisation merged.
    `shape` is a tensor's shape, None for everything else; `key` its path in the state dict. `rows` are the output channels
    that are this operation, where a layer is several in one.
    """

    name: str
    kind: str
    attributes: tuple[tuple[str, Any], ...] = ()
    module: str = ""
    output: str = ""
    key: str | None = None
    shape: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None

    @property
    def channel_axis(self) -> int:
        """The axis of the channels in a layer's output."""
        return facts(self.kind).channel_axis

    @property
    def extents(self) -> tuple[int, ...]:
        """The shape without axes of extent 1, which say how a tensor is broadcast."""
        return tuple(extent for extent in self.shape or () if extent > 1)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return a static attribute by name."""
        return dict(self.attributes).get(name, default)

    def __str__(self) -> str:
        return f"{self.kind} {self.module or self.key or self.name}"


@dataclass(frozen=True)
class OpGraph:
    """An operation graph. What builds and normalises it changes it in place; later stages change nothing.

    `composed` are the tensors, by name, that code puts together from stored ones, whose elements `numbering` numbers;
    `weights` names the fx nodes that hold stored tensors and constants alone. `unsplit` are layers whose output is taken
    apart by channels that are not known, since no shapes are. `computed` are the tensors, by name, that are an expression of
    stored ones. `foldable` counts the sums of affine branches, the scales by channel, the norms before linear layers and the
    weight norms, before any was folded.
    """

    network: "nx.MultiDiGraph[str]" = field(default_factory=nx.MultiDiGraph)
    composed: dict[str, Composition] = field(default_factory=dict)
    numbering: Numbering | None = None
    weights: frozenset[str] = frozenset()
    unsplit: set[str] = field(default_factory=set)
    computed: dict[str, Expression] = field(default_factory=dict)
    foldable: list[int] = field(default_factory=list)

    def op(self, name: str) -> Op:
        """Return a node by name."""
        op: Op = self.network.nodes[name]["op"]
        return op

    def ops(self) -> Iterator[Op]:
        """Yield every node, producers before consumers."""
        for name in nx.topological_sort(self.network):
            yield self.op(name)

    def of_kind(self, kinds: Container[str]) -> list[Op]:
        """Return the nodes of some kinds, in the order in which they were added: no sorting, for rules that need none."""
        return [op for _, op in self.network.nodes(data="op") if op.kind in kinds]

    def add(self, op: Op) -> None:
        """Add a node, or replace the one of that name."""
        self.network.add_node(op.name, op=op)

    def operands(self, name: str) -> dict[str, list[str]]:
        """Return the producers of a node by argument; an argument has several where it commutes."""
        operands: dict[str, list[str]] = {}
        for source, _, argument in self.network.in_edges(name, data="argument"):
            operands.setdefault(argument, []).append(source)
        return operands

    def users(self, name: str) -> list[tuple[str, str]]:
        """Return (consumer, argument) of every use of a node."""
        return [(user, argument) for _, user, argument in self.network.out_edges(name, data="argument")]

    def tensors(self, name: str) -> dict[str, Op]:
        """Return the state dict tensors that a node reads, by argument."""
        return {
            argument: op
            for argument, producers in self.operands(name).items()
            for producer in producers
            if (op := self.op(producer)).kind == TENSOR
        }

    def keys(self) -> set[str]:
        """Return the keys of the state dict that some operation reads."""
        return {key for op in self.of_kind({TENSOR}) for key in self.stored(op)}

    def stored(self, tensor: Op) -> tuple[str, ...]:
        """Return the keys of the state dict that a tensor is, or is put together from."""
        assert tensor.key is not None
        return self.parts(tensor.key)

    def parts(self, key: str) -> tuple[str, ...]:
        """Return the keys of the state dict that a tensor is put together from; its own where it is stored."""
        if key in self.computed:
            return tuple(dict.fromkeys(part for source in self.computed[key].sources() for part in self.parts(source)))
        if key not in self.composed or self.numbering is None:
            return (key,)
        return self.numbering.paths(self.composed[key])

    def value(self, tensor: Op, values: Mapping[str, Tensor]) -> Tensor:
        """Return what a tensor is, given the values of the stored ones."""
        assert tensor.key is not None
        if tensor.key in self.computed:
            made = self.computed[tensor.key]
            sources = {key: self._stored_value(key, values) for key in made.sources()}
            value: Tensor = made.evaluate(sources, quantized=False)
            return value
        return self._stored_value(tensor.key, values)

    def _stored_value(self, key: str, values: Mapping[str, Tensor]) -> Tensor:
        if key not in self.composed or self.numbering is None:
            return values[key]
        value: Tensor = self.numbering.value(self.composed[key], values)
        return value

    def is_stored(self, key: str) -> bool:
        """Whether a tensor is one of the state dict, and not put together from these."""
        return key not in self.composed and key not in self.computed

    def bypass(self, name: str, argument: str) -> None:
        """Take a node out: its consumers read what it read as `argument`."""
        (producer,) = self.operands(name)[argument]
        for user, use in self.users(name):
            self.network.add_edge(producer, user, argument=use)
        self.network.remove_node(name)

    def edge(self, producer: str, user: str, argument: str) -> int:
        """Return the key of the edge from a producer to one argument of a user."""
        edges = self.network[producer][user]
        key: int = next(key for key, data in edges.items() if data["argument"] == argument)
        return key


def drop_dead(ops: OpGraph) -> None:
    """Take out what no output depends on, except inputs."""
    outputs = [op.name for op in ops.of_kind({OUTPUT})]
    live = set(outputs).union(*(nx.ancestors(ops.network, output) for output in outputs))
    dead = [name for name in ops.network if name not in live and ops.op(name).kind != INPUT]
    ops.network.remove_nodes_from(dead)
