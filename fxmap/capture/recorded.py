"""A recorded run: the rung of the ladder that captures everything that runs.

The model is run once on example inputs under a dispatch mode that writes every aten operation into an fx graph. Parameters
and buffers are known by identity, so that each is a node with its path; what else comes from outside is a constant of the
graph. A recording holds for the shapes that it was made with.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fxmap.capture.captured import Captured
from fxmap.capture.recurrent import Unrolled
from fxmap.capture.rewrites.contract import CONTRACT
from fxmap.capture.rewrites.driver import sweep
from fxmap.capture.rewrites.regroup import REGROUP
from fxmap.capture.source import GraphSource
from fxmap.errors import CaptureError
from fxmap.graph.kinds import out_of_place
from fxmap.model.inputs import Inputs, described
from fxmap.model.kernels import can_part, grouped_mm
from fxmap.model.replica import run_fresh, tensors_by_path, unchanged
from fxmap.model.tensors import tensors_of


@dataclass
class Recording:
    """An fx graph of aten operations, the constants that it reads by name, and what calls of modules `returned`, by path."""

    graph: fx.Graph = field(default_factory=fx.Graph)
    constants: dict[str, Tensor] = field(default_factory=dict)
    returned: dict[str, list[str]] = field(default_factory=dict)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes what is dispatched inside the `with` block into a graph."""

    def __init__(self, inputs: Sequence[Tensor], paths: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = Recording()
        self.paths = paths
        self.module = ""
        self.nodes: dict[int, fx.Node] = {}
        # Tensors are known by identity, so none may be freed while others are made.
        self.alive: list[Tensor] = []
        self.storages: dict[int, int] = {}
        # Values with as many rows as something was counted: another run has others.
        self.counted: set[fx.Node] = set()
        for index, tensor in enumerate(inputs):
            self._remember(tensor, self.recording.graph.placeholder(f"input_{index}"))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and write it down."""
        kwargs = kwargs or {}
        written_out = _WRITTEN_OUT.get(func)
        if written_out is not None and written_out[0](*args, **kwargs):
            with self:
                return written_out[1](*args, **kwargs)
        recorded_args, recorded_kwargs = tree_map(self.node, args), tree_map(self.node, kwargs)
        target = self._out_of_place(func, args)
        result = func(*args, **kwargs)
        if _is_as_large_as_before(func, args, result):
            target, recorded_args, recorded_kwargs = torch.ops.aten.alias.default, recorded_args[:1], {}
        if func in _VIEWS and recorded_args[0] in self.counted:
            recorded_args = (recorded_args[0], [-1, *recorded_args[1][1:]])
        node = self.recording.graph.call_function(target, recorded_args, recorded_kwargs)
        self._note_count(node, func)
        node.meta["nn_module_stack"] = {self.module: None}
        if isinstance(result, Tensor):
            self._remember(result, node)
        elif isinstance(result, list | tuple):
            for index, part in enumerate(result):
                if isinstance(part, Tensor):
                    item = self.recording.graph.call_function(_getitem, (node, index))
                    self._remember(part, item)
                    self.counted.update({item} if node in self.counted else ())
        return result

    def node(self, value: Any) -> Any:
        """Return the node of a tensor; other values are as they are."""
        if not isinstance(value, Tensor):
            return value
        if id(value) in self.nodes:
            return self.nodes[id(value)]
        if id(value) in self.paths:
            node = self.recording.graph.create_node("get_attr", self.paths[id(value)], (), {})
            node.meta["shape"] = tuple(value.shape)
            return node
        name = f"constant_{len(self.recording.constants)}"
        self.recording.constants[name] = value.detach().clone()
        self._remember(value, self.recording.graph.create_node("get_attr", name, (), {}))
        return self.nodes[id(value)]

    def note(self, path: str, value: Any) -> None:
        """Note what a module returned: a node, if that is a tensor."""
        returned = self.recording.returned.setdefault(path, [])
        if isinstance(value, Tensor) and id(value) in self.nodes:
            returned.append(self.nodes[id(value)].name)

    def _note_count(self, node: fx.Node, func: Any) -> None:
        name = func.overloadpacket.__name__
        parts = node.all_input_nodes
        read = parts[:1] if name.startswith(_INTO) else parts
        if name in _COUNTING or any(part in self.counted for part in read):
            self.counted.add(node)

    def _remember(self, tensor: Tensor, node: fx.Node) -> None:
        if id(tensor) not in self.nodes:
            self.alive.append(tensor)
            storage = tensor.untyped_storage()._cdata
            self.storages[storage] = self.storages.get(storage, 0) + 1
        self.nodes[id(tensor)] = node
        node.meta["shape"] = tuple(tensor.shape)

    def _out_of_place(self, func: Any, args: Any) -> Any:
        """Return the function that computes the same without writing, where nothing else sees what is written."""
        if not func._schema.is_mutable or not args or not isinstance(args[0], Tensor):
            return func
        if self.storages.get(args[0].untyped_storage()._cdata, 0) > 1:
            return func
        return out_of_place(func) or func


_VIEWS = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.reshape.default}


# What gives as many rows as it finds; and what writes into a value whose shape does not depend on what is written.
_COUNTING = {"nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive"}


_INTO = ("index_put", "index_add", "index_copy", "scatter")


# Operations that are several in one: whether a call can be written out, and what as.
_WRITTEN_OUT: dict[Any, tuple[Callable[..., bool], Callable[..., Tensor]]] = {
    torch.ops.aten.addcmul.default: (lambda *_, value=1: value == 1, lambda a, b, c, value=1: a + b * c),
    # Absent from older releases.
    getattr(getattr(torch.ops.aten, "_grouped_mm", None), "default", None): (can_part, grouped_mm),
}


def _is_as_large_as_before(func: Any, args: Any, result: Any) -> bool:
    """Whether a map is padded by nothing, or interpolated to the size that it has: both give the map itself."""
    name = func.overloadpacket.__name__.lstrip("_")
    resizes = name.startswith("upsample_") or (name == "constant_pad_nd" and not any(args[1]))
    return resizes and isinstance(result, Tensor) and result.shape == args[0].shape


def _getitem(values: Any, index: int) -> Any:
    return values[index]


_getitem.__name__ = "getitem"


def capture_run(replica: nn.Module, inputs: Inputs | None) -> Captured:
    """Capture a replica by recording a run on inputs; it is switched to eval mode.

    Raises:
        CaptureError: it does not run on them.
    """
    assert inputs is not None
    replica.eval()
    tensors = tensors_by_path(replica)
    with unchanged(replica):
        recording = record(replica, tensors, inputs)
    return Captured(replica, recording.graph, tensors, RECORDED.name, recording.constants, inputs, recording.returned)


RECORDED = GraphSource("recorded run", capture_run, needs_inputs=True)


def record(replica: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs) -> Recording:
    """Run a replica once on its inputs and return the graph.

    Args:
        replica: a replica in eval mode; only it gets hooks, and loses them again.
        tensors: its parameters and buffers by path.
        inputs: what to call it with, see `fxmap.model.inputs.Inputs`.

    Raises:
        CaptureError: the model does not run on these inputs.
    """
    paths: dict[int, str] = {}
    for path, tensor in tensors.items():
        paths.setdefault(id(tensor), path)

    def run() -> Recording:
        recorder = Recorder(inputs.flat(), paths)
        with _modules(replica, recorder), _plain_kernels(), torch.no_grad(), Unrolled(), recorder:
            # Some models compute tables from their parameters when they are switched to eval.
            replica.eval()
            outputs = tensors_of(inputs.call(replica))
        recorder.recording.graph.output(tuple(recorder.node(output) for output in outputs))
        return recorder.recording

    try:
        recording = run_fresh(replica, run)
    except Exception as error:  # whatever a model raises on inputs that do not fit it
        raise CaptureError(
            f"{type(replica).__name__} does not run on {described(inputs)}: {type(error).__name__}: {error}{_where(error)}"
        ) from error
    for rules in (CONTRACT, REGROUP):
        sweep(recording.graph, tensors, rules)
    return recording


def _where(error: BaseException) -> str:
    """Name the line of the user's own code at which a run failed: the last that is of no library."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in _LIBRARIES)]
    return f" (in {own[-1].filename}:{own[-1].lineno}: {own[-1].line})" if own and own[-1].line else ""


_LIBRARIES = (f"{Path(torch.__file__).parent}", f"{Path(__file__).parents[1]}")


@contextmanager
def _modules(replica: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Tell the recorder which module is running."""
    stack: list[str] = []
    handles = []

    def enter(path: str) -> Any:
        def hook(*_: Any) -> None:
            stack.append(path)
            recorder.module = path

        return hook

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        recorder.note(stack.pop(), output)
        recorder.module = stack[-1] if stack else ""

    for path, module in replica.named_modules():
        handles += [module.register_forward_pre_hook(enter(path)), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Record attention, and recurrent layers, as their own operations: fused kernels would hide them, or approximate."""
    fast = torch.backends.mha.get_fastpath_enabled()
    onednn: Any = torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = onednn
