"""The recorder: a dispatch mode that adds every operation that runs to an fx graph of aten operations.

Tensors are known by identity: those of the state dict are nodes with their paths, and other tensors from outside the run are
constants of the graph. An in-place operation is replaced by its out-of-place variant where no other tensor shares the memory
that is written to; other in-place writes stay as they are, and are noted.

Cost: that of the run, and one node for each operation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from fxmap.capture.attention import fused_kernels
from fxmap.capture.functional import unwrapped
from fxmap.graph.kinds import out_of_place
from fxmap.model.dispatch import DispatchMode
from fxmap.model.kernels import can_part, grouped_mm
from fxmap.model.memory import written
from fxmap.model.tensors import as_nested, tensors_of


@dataclass
class Recording:
    """An fx graph of aten operations, with the constants that it reads, by name.

    `returned` maps the path of every module to the names of the nodes that its calls returned. `mutations` are the
    operations in the graph that write in place, each with the module that it ran in, and `outputs` the tensors that the run
    returned. `functional` says that writes were recorded as operations that make new values.
    """

    graph: fx.Graph = field(default_factory=fx.Graph)
    constants: dict[str, Tensor] = field(default_factory=dict)
    returned: dict[str, list[str]] = field(default_factory=dict)
    mutations: list[str] = field(default_factory=list)
    outputs: tuple[Tensor, ...] = ()
    functional: bool = False


class Recorder(DispatchMode):
    """Records the operations that are dispatched inside the `with` block in an fx graph."""

    def __init__(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.recording = Recording()
        self.paths: dict[int, str] = {}
        for path, tensor in tensors.items():
            self.paths.setdefault(id(tensor), path)
        self.module = ""
        self.writing_out = 0
        self.nodes: dict[int, fx.Node] = {}
        # Tensors are known by identity, so none may be freed while others are made.
        self.alive: list[Tensor] = []
        self.storages: dict[int, int] = {}
        for tensor in {id(tensor): tensor for tensor in tensors.values()}.values():
            self._count(tensor)
        # Memory of tensors that the run did not create; and those of them that were written to, with their former values.
        self.outside: set[int] = set(self.storages)
        self.before: list[tuple[Tensor, Tensor]] = []
        # Nodes whose number of rows depends on the data, as behind `nonzero`: another run has another number.
        self.counted: set[fx.Node] = set()
        for index, tensor in enumerate(inputs):
            self._remember(tensor, self.recording.graph.placeholder(f"input_{index}"))
            self.outside.add(_memory(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and record it as a node."""
        kwargs = kwargs or {}
        # Scripted code hands functional tensors in lists on as they are, and torch crashes where it meets them here.
        args = tuple(list(map(unwrapped, part)) if isinstance(part, list) else part for part in args)
        written_out = _WRITTEN_OUT.get(func)
        if written_out is not None and written_out[0](*args, **kwargs):
            self.writing_out += 1
            try:
                with self:
                    return written_out[1](*args, **kwargs)
            finally:
                self.writing_out -= 1
        if self.writing_out and _is_composite(func):
            # What is called from here comes whole; other calls come as their parts.
            with self:
                return func.decompose(*args, **kwargs)
        recorded_args, recorded_kwargs = tree_map(self.node, args), tree_map(self.node, kwargs)
        target = self._out_of_place(func, args)
        self._keep_what_is_written_to(func, args, kwargs)
        result = func(*args, **kwargs)
        if _is_as_large_as_before(func, args, result):
            target, recorded_args, recorded_kwargs = torch.ops.aten.alias.default, recorded_args[:1], {}
        if func in _VIEWS and recorded_args[0] in self.counted:
            recorded_args = (recorded_args[0], [-1, *result.shape[1:]])
        node = self.recording.graph.call_function(target, recorded_args, recorded_kwargs)
        self._note_count(node, func)
        node.meta["nn_module_stack"] = {self.module: None}
        if isinstance(result, Tensor):
            self._remember(result, node)
        elif isinstance(result, list | tuple):
            for index, part in enumerate(result):
                if isinstance(part, Tensor):
                    item = self.recording.graph.call_function(getitem, (node, index))
                    self._remember(part, item)
                    self.counted.update({item} if node in self.counted else ())
        return result

    def node(self, value: Any) -> Any:
        """Return the node of a tensor; other values are returned unchanged."""
        if not isinstance(value, Tensor):
            return value
        if id(value) in self.nodes:
            return self.nodes[id(value)]
        if id(value) in self.paths:
            node = self.recording.graph.create_node("get_attr", self.paths[id(value)], (), {})
            node.meta |= {"shape": tuple(value.shape), "dtype": value.dtype}
            return node
        name = f"constant_{len(self.recording.constants)}"
        self.recording.constants[name] = value.detach().clone()
        self.outside.add(_memory(value))
        self._remember(value, self.recording.graph.create_node("get_attr", name, (), {}))
        return self.nodes[id(value)]

    def note(self, path: str, value: Any) -> None:
        """Note the node of a module's return value, if that is a tensor."""
        returned = self.recording.returned.setdefault(path, [])
        if isinstance(value, Tensor) and id(value) in self.nodes:
            returned.append(self.nodes[id(value)].name)

    def finish(self, output: Any) -> None:
        """End the graph with an output node for what the run returned, with the names of its parts."""
        self.recording.graph.output(as_nested(output, self.node))
        # Tensors that were written to get their former values back, and outputs may be views of them.
        outputs = tensors_of(output)
        self.recording.outputs = tuple(output.clone() if self.recording.mutations else output for output in outputs)

    def undo(self) -> None:
        """Restore the former values of the tensors from outside the run that it wrote to."""
        with torch.no_grad():
            for tensor, value in reversed(self.before):
                tensor.copy_(value)

    def _keep_what_is_written_to(self, func: Any, args: Any, kwargs: Any) -> None:
        if not func._schema.is_mutable:
            return
        for tensor in written(func, args, kwargs):
            if _memory(tensor) in self.outside:
                self.before.append((tensor, tensor.detach().clone()))

    def _note_count(self, node: fx.Node, func: Any) -> None:
        name = func.overloadpacket.__name__
        parts = node.all_input_nodes
        read = parts[:1] if name.startswith(_INTO) else parts
        if name in _COUNTING or any(part in self.counted for part in read):
            self.counted.add(node)

    def _remember(self, tensor: Tensor, node: fx.Node) -> None:
        if id(tensor) not in self.nodes:
            self.alive.append(tensor)
            if id(tensor) not in self.paths:
                self._count(tensor)
        self.nodes[id(tensor)] = node
        node.meta |= {"shape": tuple(tensor.shape), "dtype": tensor.dtype}

    def _count(self, tensor: Tensor) -> None:
        """Count a tensor as one more that uses its storage."""
        storage = _memory(tensor)
        self.storages[storage] = self.storages.get(storage, 0) + 1

    def _out_of_place(self, func: Any, args: Any) -> Any:
        """Return the out-of-place variant of an operation where no other tensor shares the memory that it writes to."""
        if not func._schema.is_mutable:
            return func
        alone = bool(args) and isinstance(args[0], Tensor) and self.storages.get(_memory(args[0]), 0) <= 1
        pure = out_of_place(func) if alone else None
        if pure is None:
            self.recording.mutations.append(f"{func.overloadpacket.__name__} in {self.module or 'the model itself'}")
        return pure or func


def _is_composite(func: Any) -> bool:
    """Whether torch computes an operation by others."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


_VIEWS = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.reshape.default}


# Operations whose number of result rows depends on the data; and writes into a tensor, which do not change its shape.
_COUNTING = {"nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive"}


_INTO = ("index_put", "index_add", "index_copy", "scatter")


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    """Return the first half of the channels, with the second half as gates."""
    value, gate = x.chunk(2, dim)
    return value * gate.sigmoid()


# Operations that are recorded as several simpler ones: whether a call can be, and the function that computes it so.
_WRITTEN_OUT: dict[Any, tuple[Callable[..., bool], Callable[..., Any]]] = {
    **{kernel: (lambda *_, **__: True, compute) for kernel, compute in fused_kernels().items()},
    torch.ops.aten.addcmul.default: (lambda *_, value=1: value == 1, lambda a, b, c, value=1: a + b * c),
    torch.ops.aten.glu.default: (lambda *_: True, _glu),
    # Absent from older releases.
    getattr(getattr(torch.ops.aten, "_grouped_mm", None), "default", None): (can_part, grouped_mm),
}


def _is_as_large_as_before(func: Any, args: Any, result: Any) -> bool:
    """Whether a feature map is padded by 0, or interpolated to its own size: both return it unchanged."""
    name = func.overloadpacket.__name__.lstrip("_")
    resizes = name.startswith("upsample_") or (name == "constant_pad_nd" and not any(args[1]))
    return resizes and isinstance(result, Tensor) and result.shape == args[0].shape


def getitem(values: Any, index: int) -> Any:
    """Return one of the results of an operation that has several."""
    return values[index]
