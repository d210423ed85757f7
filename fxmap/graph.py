"""The operation graph: what two models are compared by.

Nodes are operations, tensors of the state dict, constants, inputs, and one output. An edge from producer to consumer
carries the consumer's argument ("input", "weight", "tensors.2"); arguments that commute share one name. What matters about
an operation is its kind, not how it was spelled: `nn.ReLU`, `F.relu`, `torch.relu_` and `x.relu()` are one kind.
"""

import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import networkx as nx
import torch
from torch import Tensor, fx
from torch._jit_internal import boolean_dispatched
from torch._ops import OpOverload
from torch.fx.operator_schemas import get_signature_for_torch_op

if TYPE_CHECKING:
    from fxmap.expressions import Expression
    from fxmap.operands import Composition, Numbering

INPUT, TENSOR, CONSTANT, OUTPUT = "input", "tensor", "constant", "output"

# Spellings of one operation. Dimensions are not part of a kind: the shape of the weight tells them.
_KINDS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "convolution"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "conv_transpose"),
    **{
        f"{pool}{n}d": pool for pool in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool") for n in (1, 2, 3)
    },
    **dict.fromkeys(("iadd", "radd", "__iadd__", "__radd__"), "add"),
    **dict.fromkeys(("imul", "rmul"), "mul"),
    **dict.fromkeys(("isub",), "sub"),
    "truediv": "div",
    "relu6": "hardtanh",
    "max_pool2d_with_indices": "max_pool",
    "max_pool3d_with_indices": "max_pool",
    "native_batch_norm": "batch_norm",
    "native_batch_norm_legit_no_training": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "safe_softmax": "softmax",  # they differ where a mask leaves nothing: zeros instead of NaN
    "concat": "cat",
    "concatenate": "cat",
    "swish": "silu",
}
_COMMUTATIVE = {"add", "mul", "maximum", "minimum"}
# Arguments that change nothing about the value that an operation computes in eval mode.
_IRRELEVANT = {"inplace", "training", "momentum", "out", "return_indices", "cudnn_enabled", "dtype", "use_input_stats"}
# Arguments that lay data out: every input shows a difference, so they are left to values.
_LAYOUT = {"dim", "dims", "keepdim", "size", "shape", "N", "C", "HxW", "half_to_float", "implicit", "memory_format"} | {
    *("scale_factor", "recompute_scale_factor", "scale_factors", "scales", "scales_h", "scales_w", "scales_d")
}
_NOT_COMPARED = _IRRELEVANT | _LAYOUT
# Names of the arguments of operations whose signature calls them something else.
_ARGUMENTS = {"addmm": ("bias", "input", "mat2"), "mm": ("input", "mat2"), "embedding": ("weight", "input")}
# Values that are numbers, not tensors: they lay data out, and are not compared.
_TRANSPOSED = ("T", "mT", "H", "mH")
# Attributes of a tensor that are values, and no numbers about it.
_PARTS_OF_TENSORS = {"real": "real", "imag": "imag", "data": "alias"}
_NUMBERS = {"size", "dim", "numel", "getattr", "ndim", "len"}


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
        return 1 if self.kind == "convolution" else -1

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
    composed: "dict[str, Composition]" = field(default_factory=dict)
    numbering: "Numbering | None" = None
    weights: frozenset[str] = frozenset()
    unsplit: set[str] = field(default_factory=set)
    computed: "dict[str, Expression]" = field(default_factory=dict)
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


def build(graph: fx.Graph, tensors: dict[str, Tensor]) -> OpGraph:
    """Build the operation graph of an fx graph of functions whose tensors are `get_attr` nodes. Linear time.

    `tensors` are the parameters and buffers by the path that the fx graph uses.
    """
    ops = OpGraph()
    numbers: set[fx.Node] = set()
    names: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if _is_number(node, numbers):
            numbers.add(node)
            continue
        if _is_first_result(node):
            # What an operation with several results computes is the first of them; the others are its statistics.
            names[node] = names[node.args[0]]
            ops.add(replace(ops.op(names[node]), output=node.name))
            continue
        op = _op(node, tensors)
        names[node] = op.name
        ops.add(op)
        for argument, producer in _operands(node):
            if producer not in numbers:
                ops.network.add_edge(names[producer], op.name, argument=argument)
    drop_dead(ops)
    return ops


def _is_first_result(node: fx.Node) -> bool:
    if node.op != "call_function" or kind_of(node) != "getitem" or node.args[1] != 0:
        return False
    producer = node.args[0]
    return (
        isinstance(producer, fx.Node)
        and isinstance(producer.target, OpOverload)
        and len(producer.target._schema.returns) > 1
    )


def drop_dead(ops: OpGraph) -> None:
    """Take out what no output depends on, except inputs."""
    outputs = [op.name for op in ops.of_kind({OUTPUT})]
    live = set(outputs).union(*(nx.ancestors(ops.network, output) for output in outputs))
    dead = [name for name in ops.network if name not in live and ops.op(name).kind != INPUT]
    ops.network.remove_nodes_from(dead)


def _op(node: fx.Node, tensors: dict[str, Tensor]) -> Op:
    if node.op == "placeholder":
        return Op(node.name, INPUT, output=node.name)
    if node.op == "output":
        return Op(node.name, OUTPUT, output=node.name)
    if node.op == "get_attr":
        path = str(node.target)
        if path in tensors:
            # One node for a tensor, however often it is read: "%" keeps its name apart from those of operations.
            return Op(f"%{path}", TENSOR, output=node.name, key=path, shape=tuple(tensors[path].shape))
        return Op(node.name, CONSTANT, output=node.name)
    return Op(node.name, kind_of(node), _attributes(node), module_of(node), node.name)


def _attributes(node: fx.Node) -> tuple[tuple[str, Any], ...]:
    """Return the static arguments that matter and are not the default, so that spellings of one call agree."""
    arguments = bind(node)
    kind = kind_of(node)
    if kind in ("max_pool", "avg_pool") and not arguments.get("stride"):
        arguments["stride"] = arguments.get("kernel_size")
    if kind == "avg_pool" and not any(_each(arguments.get("padding", 0))):
        arguments.pop("count_include_pad", None)  # there is none to count
    if kind == "embedding":
        arguments.pop("padding_idx", None)  # it stops gradients alone
    if getattr(node.target, "__name__", "") in ("relu6", "relu6_"):
        arguments |= {"min_val": 0.0, "max_val": 6.0}
    defaults = _defaults(node)
    return tuple(
        sorted(
            (name, _plain(value))
            for name, value in arguments.items()
            if name not in _NOT_COMPARED and value is not None and not _nodes(value) and _plain(value) != defaults.get(name)
        )
    )


def kind_of(node: fx.Node) -> str:
    """Return the kind of an operation node, whichever way it was called."""
    if node.op == "call_module":
        return "identity"  # a stub at the border of a quantized region: the tracer's only leaves
    if isinstance(node.target, OpOverload):
        name = str(node.target.overloadpacket.__name__).strip("_")
        if name == "convolution" and node.args[6]:
            return "conv_transpose"
        return _KINDS.get(name, name)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if name == "getattr" and node.args[1] in _TRANSPOSED:
        return "transpose"
    if name == "getattr" and node.args[1] in _PARTS_OF_TENSORS:
        return _PARTS_OF_TENSORS[str(node.args[1])]
    name = name if name.startswith("__") else name.strip("_")
    return _KINDS.get(name, name)


def out_of_place(func: Any) -> OpOverload[..., Any] | None:
    """Return the aten operation that computes what another writes into its first argument; None if none is known.

    >>> out_of_place(torch.ops.aten.relu_.default)
    <OpOverload(op='aten.relu', overload='default')>
    """
    name = getattr(getattr(func, "overloadpacket", None), "__name__", "")
    packet = getattr(torch.ops.aten, name.rstrip("_"), None) if name.endswith("_") else None
    overload = getattr(func, "_overloadname", "")
    return getattr(packet, overload) if packet is not None and overload in packet.overloads() else None


def bind(node: fx.Node) -> dict[str, Any]:
    """Return all arguments of a call by the names of the function's signature, defaults filled in."""
    if node.op == "call_module":
        return {"input": node.args[0]}
    bound = _bound(node)
    if bound is None:
        return {f"arg{i}" if i else "input": value for i, value in enumerate(node.args)} | node.kwargs
    bound.apply_defaults()
    arguments = _flat(bound)
    names = _ARGUMENTS.get(kind_of(node)) if isinstance(node.target, OpOverload) else None
    if names is None:
        return arguments
    values = list(arguments.items())
    return dict(zip(names, (value for _, value in values), strict=False)) | dict(values[len(names) :])


def _bound(node: fx.Node) -> inspect.BoundArguments | None:
    for signature in _signatures(node.target):
        try:
            return signature.bind(*node.args, **node.kwargs)
        except TypeError:
            continue
    return None


def _defaults(node: fx.Node) -> dict[str, Any]:
    bound = None if node.op == "call_module" else _bound(node)
    parameters = {} if bound is None else bound.signature.parameters
    return {name: _plain(p.default) for name, p in parameters.items() if p.default is not p.empty}


def _flat(bound: inspect.BoundArguments) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        variadic = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        arguments.update(value if variadic else {"input" if name == "self" else name: value})
    return arguments


_OPERATOR = inspect.Signature(
    [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("input", "other")]
)
_CACHE: dict[Any, list[inspect.Signature]] = {}


def _signatures(target: Callable[..., Any] | str) -> list[inspect.Signature]:
    function = getattr(torch, target, None) if isinstance(target, str) else target
    if not callable(function) or (isinstance(target, str) and target in _KINDS):
        return []  # torch.float is a dtype, not the method
    # max_pool2d and its like are two functions behind one name, which has no signature of its own.
    function = boolean_dispatched.get(function, {"if_false": function})["if_false"]
    if function not in _CACHE:
        if getattr(function, "__module__", None) == "_operator":
            _CACHE[function] = [_OPERATOR]
        else:
            found = (
                [_schema_signature(function)] if isinstance(function, OpOverload) else get_signature_for_torch_op(function)
            )
            try:
                _CACHE[function] = list(found) if found else [inspect.signature(function)]
            except (TypeError, ValueError):
                _CACHE[function] = []
    return _CACHE[function]


def _schema_signature(op: OpOverload) -> inspect.Signature:
    kinds = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(
                argument.name,
                kinds[not argument.kwarg_only],
                default=argument.default_value if argument.has_default_value() else inspect.Parameter.empty,
            )
            for argument in op._schema.arguments
        ]
    )


def _operands(node: fx.Node) -> Iterator[tuple[str, fx.Node]]:
    if node.op in ("placeholder", "get_attr"):
        return
    arguments = {"": node.args[0]} if node.op == "output" else bind(node)
    commutative = kind_of(node) in _COMMUTATIVE
    for name, value in arguments.items():
        for place, operand in _nodes(value):
            yield ("input" if commutative else f"{name}{place}"), operand


def _nodes(value: Any, place: str = "") -> list[tuple[str, fx.Node]]:
    if isinstance(value, fx.Node):
        return [(place, value)]
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif isinstance(value, slice):
        items = enumerate((value.start, value.stop, value.step))
    else:
        return []
    return [found for key, part in items for found in _nodes(part, f"{place}.{key}")]


def _is_number(node: fx.Node, numbers: set[fx.Node]) -> bool:
    if node.op in ("call_function", "call_method") and kind_of(node) in _NUMBERS:
        return True
    producers = node.all_input_nodes
    return node.op != "output" and bool(producers) and all(producer in numbers for producer in producers)


def _each(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _plain(value: Any) -> Any:
    """Make a static argument comparable: (3, 3) and 3 are one kernel size."""
    if isinstance(value, list | tuple):
        parts = tuple(_plain(part) for part in value)
        return parts[0] if parts and all(part == parts[0] for part in parts) else parts
    if isinstance(value, slice):
        return ("slice", value.start, value.stop, value.step)
    return value if isinstance(value, int | float | str | bool) else str(value)


def module_of(node: fx.Node) -> str:
    """Return the path of the innermost module that a node was made in."""
    stack = node.meta.get("nn_module_stack")
    return next(reversed(stack)) if stack else ""
