"""The operation graph, in which two models are compared.

Nodes are operations, tensors of the state dict, constants, inputs, and one output. An edge from producer to consumer
carries the consumer's argument ("input", "weight", "tensors.2"); arguments that commute share one name. Operations are
compared by kind, not by spelling: `nn.ReLU`, `F.relu`, `torch.relu_` and `x.relu()` are one kind.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
from torch import Tensor, fx

from fxmap.errors import InternalError
from fxmap.expressions.base import Expression
from fxmap.graph.index_maps import Composition, Numbering
from fxmap.graph.kinds import Trait, facts, has

INPUT, TENSOR, CONSTANT, OUTPUT = "input", "tensor", "constant", "output"


@dataclass(frozen=True, slots=True)
class Op:
    """A node: its kind of operation, its static attributes, and the FQN of its module.

    `output` names the fx node whose value this operation yields: the last one of those that a normalisation merged.
    `shape` is a tensor's shape, None for everything else; `key` its path in the state dict. `rows` are the output channels
    that are this operation, where a layer is several in one. `written` is the kind that the code has, where an equation gave
    it another one.
    """

    name: str
    kind: str
    attributes: tuple[tuple[str, Any], ...] = ()
    module: str = ""
    output: str = ""
    key: str | None = None
    shape: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    written: str = ""

    @property
    def spelling(self) -> str:
        """The kind as the user's code has it, for a reader."""
        return self.written or self.kind

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


@dataclass(frozen=True, slots=True)
class Piece:
    """An operation that may be piecewise: its operands, as (argument, fx node), and whether it is analytic here."""

    operands: tuple[tuple[str, str], ...]
    analytic: bool = False


@dataclass(frozen=True)
class OpGraph:
    """An operation graph. Building and normalising change it in place; later stages only read it.

    `composed` are the tensors, by name, that code puts together from stored ones, whose elements `numbering` numbers;
    `weights` names the fx nodes that hold stored tensors and constants alone. `unsplit` are layers whose output is taken
    apart by channels that are not known, since no shapes are. `computed` are the tensors, by name, that are an expression of
    stored ones. `numbers` are what operations that are not analytic read beside values: numbers about one, as a size, as
    (argument, fx node). `pieces` are the operations, by name, that are not known to be analytic: see `graph/pieces.py`.
    `row_views` are the views, by name, that leave the last axis as it is.
    """

    network: "nx.MultiDiGraph[str]" = field(default_factory=nx.MultiDiGraph)
    composed: dict[str, Composition] = field(default_factory=dict)
    numbering: Numbering | None = None
    weights: set[str] = field(default_factory=set)
    unsplit: set[str] = field(default_factory=set)
    computed: dict[str, Expression] = field(default_factory=dict)
    numbers: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    pieces: dict[str, Piece] = field(default_factory=dict)
    row_views: set[str] = field(default_factory=set)

    def op(self, name: str) -> Op:
        """Return a node by name."""
        op: Op = self.network.nodes[name]["op"]
        return op

    def ops(self) -> Iterator[Op]:
        """Yield every node, producers before consumers."""
        for name in nx.topological_sort(self.network):
            yield self.op(name)

    def of_kind(self, kinds: Container[str]) -> list[Op]:
        """Return the nodes of some kinds in the order in which they were added, which is cheaper than `ops`."""
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

    def tensors_of(self, name: str, argument: str) -> list[Op]:
        """Return the state dict tensors that a node reads as one argument: several where it commutes."""
        return [op for part in self.operands(name).get(argument, ()) if (op := self.op(part)).kind == TENSOR]

    def keys(self) -> set[str]:
        """Return the keys of the state dict that some operation reads."""
        return {key for op in self.of_kind({TENSOR}) for key in self.stored(op)}

    def stored(self, tensor: Op) -> tuple[str, ...]:
        """Return the state dict keys of a tensor node: its own, or those that it is composed of."""
        assert tensor.key is not None
        return self.parts(tensor.key)

    def parts(self, key: str) -> tuple[str, ...]:
        """Return the state dict keys that a tensor is composed of; its own key where it is stored."""
        if key in self.computed:
            return tuple(dict.fromkeys(part for source in self.computed[key].sources() for part in self.parts(source)))
        if key not in self.composed or self.numbering is None:
            return (key,)
        return self.numbering.paths(self.composed[key])

    def value(self, tensor: Op, values: Mapping[str, Tensor]) -> Tensor:
        """Compute the value of a tensor node from the values of the stored tensors."""
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
        """Whether a tensor stands in the state dict itself, and is not composed of others."""
        return key not in self.composed and key not in self.computed

    def bypass(self, name: str, argument: str) -> tuple[str, ...]:
        """Remove a node and connect its consumers to its operand `argument`; return this operand and the consumers."""
        producer = self.operands(name)[argument][0]
        return (producer, *self.substitute(name, producer))

    def substitute(self, name: str, other: str) -> tuple[str, ...]:
        """Remove a node and connect its consumers to another node; return the consumers."""
        users = self.users(name)
        for user, use in users:
            self.network.add_edge(other, user, argument=use)
        self.network.remove_node(name)
        return tuple(user for user, _ in users)

    def drop_unread(self, names: Iterable[str]) -> tuple[str, ...]:
        """Remove nodes without consumers, then their operands likewise, except inputs; return those that lost a consumer."""
        queue, left = [*names], dict[str, None]()
        while queue:
            name = queue.pop()
            if name not in self.network or self.network.out_degree(name) or self.op(name).kind in (INPUT, OUTPUT):
                continue
            producers = list(self.network.predecessors(name))
            self.network.remove_node(name)
            left |= dict.fromkeys(producers)
            queue += producers
        return tuple(name for name in left if name in self.network)

    def check(self, graph: fx.Graph | None = None) -> None:
        """Check the invariants of the graph, and, given its fx graph, that every operation names a node of that.

        Raises:
            InternalError: one does not hold; the message names the node.
        """
        for problem in problems(self, graph):
            raise InternalError(problem)

    def __str__(self) -> str:
        return "\n".join(line(self, op) for op in self.ops() if op.kind != TENSOR)

    def edge(self, producer: str, user: str, argument: str) -> int:
        """Return the key of the edge from a producer to one argument of a user."""
        edges = self.network[producer][user]
        key: int = next(key for key, data in edges.items() if data["argument"] == argument)
        return key


def drop_dead(ops: OpGraph) -> None:
    """Remove the nodes that no output depends on, except inputs."""
    outputs = [op.name for op in ops.of_kind({OUTPUT})]
    live = set(outputs).union(*(nx.ancestors(ops.network, output) for output in outputs))
    dead = [name for name in ops.network if name not in live and ops.op(name).kind != INPUT]
    ops.network.remove_nodes_from(dead)


def problems(ops: OpGraph, graph: fx.Graph | None) -> Iterator[str]:
    """Yield a message for every invariant that an operation graph breaks."""
    if not nx.is_directed_acyclic_graph(ops.network):
        yield f"the operation graph has a cycle: {' -> '.join(edge[0] for edge in nx.find_cycle(ops.network))}"
    outputs = [op.name for op in ops.of_kind({OUTPUT})]
    if len(outputs) != 1:
        yield f"the operation graph has {len(outputs)} outputs: {outputs}"
    for source, name, argument in ops.network.edges(data="argument"):
        if argument is None:
            yield f"{name}: the edge from {source} names no argument"
    nodes = None if graph is None else {node.name for node in graph.nodes}
    for name, op in ops.network.nodes(data="op"):
        if op is None or op.name != name:
            yield f"{name}: the node holds {op}"
        elif op.kind == TENSOR:
            yield from _problems_of_tensor(ops, op)
        else:
            yield from _problems_of_operation(ops, op, nodes)


def _problems_of_tensor(ops: OpGraph, op: Op) -> Iterator[str]:
    if op.key is None or op.shape is None:
        yield f"{op.name}: a tensor without a key or a shape"
        return
    if ops.network.in_degree(op.name):
        yield f"{op.name}: a tensor that reads {list(ops.network.predecessors(op.name))}"
    stored = ops.numbering.places.keys() if ops.numbering is not None else set()
    lost = [part for part in ops.parts(op.key) if not ops.is_stored(op.key) and part not in stored]
    if lost:
        yield f"{op.name}: it is put together from {lost}, which the state dict does not hold"
    if op.key in ops.composed and ops.composed[op.key].shape != op.shape:
        yield f"{op.name}: of shape {op.shape}, put together as {ops.composed[op.key].shape}"


def _problems_of_operation(ops: OpGraph, op: Op, nodes: Container[str] | None) -> Iterator[str]:
    if op.key is not None or op.shape is not None:
        yield f"{op.name}: a key or a shape, and no tensor"
    if op.kind in (INPUT, CONSTANT) and ops.network.in_degree(op.name):
        yield f"{op.name}: it reads {list(ops.network.predecessors(op.name))}"
    if nodes is not None and op.output not in nodes:
        yield f"{op.name}: its value is that of {op.output!r}, which is no node of the fx graph"
    weight = ops.tensors(op.name).get("weight")
    if op.rows is not None and (weight is None or weight.shape is None):
        yield f"{op.name}: rows of no weight"
    elif op.rows is not None and weight is not None and weight.shape is not None:
        count = weight.shape[-1 if op.attribute("axes") == "i o" else 0]
        if len(set(op.rows)) < len(op.rows) or not all(0 <= row < count for row in op.rows):
            yield f"{op.name}: its rows are not different ones of the {count} of {weight.name}"


def line(ops: OpGraph, op: Op) -> str:
    """Format an operation as one line: name, kind, module, operands by argument, attributes.

    A tensor is its key and its axes, as in `weight=fc.weight (o=10 i=4)`: those of a layer's weight by name.
    """
    operands = [(argument, name) for argument, names in ops.operands(op.name).items() for name in names]
    read = [(f"{argument}=" if argument else "") + _written(ops, op, argument, name) for argument, name in operands]
    attributes = [f"{name}={value}" for name, value in op.attributes]
    rows = [] if op.rows is None else [f"rows={len(op.rows)} from {op.rows[0]}"]
    where = f" [{op.module}]" if op.module else ""
    return f"{op.name}: {op.kind}{where}({', '.join([*read, *attributes, *rows])})"


def _written(ops: OpGraph, reader: Op, argument: str, name: str) -> str:
    op = ops.op(name)
    if op.kind != TENSOR:
        return name
    shape = op.shape or ()
    axes = weight_axes(reader, len(shape)) if argument == "weight" else ()
    extents = [f"{axis}={extent}" for axis, extent in zip(axes, shape, strict=True)] if axes else map(str, shape)
    return f"{op.key} ({' '.join(extents)})"


# The axes of a layer's weight, and those of its kernel: one, two or three of them.
_KERNEL = {1: ("k",), 2: ("kh", "kw"), 3: ("kd", "kh", "kw")}


def weight_axes(op: Op, rank: int) -> tuple[str, ...]:
    """Return the axis names of an affine layer's weight; none for other operations.

    >>> weight_axes(Op("conv", "convolution"), 4)
    ('o', 'i', 'kh', 'kw')
    """
    if not has(op.kind, Trait.AFFINE) or rank - 2 not in (0, *_KERNEL):
        return ()
    outer = ("o", "i") if has(op.kind, Trait.OUTPUT_FIRST) and op.attribute("axes") != "i o" else ("i", "o")
    return (*outer, *_KERNEL.get(rank - 2, ()))
