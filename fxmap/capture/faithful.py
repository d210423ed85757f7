"""Faithful traces: find in-place operations that a symbolic trace, which computes out of place, gets wrong.

The two agree where nothing reads a tensor after it was written to: an in-place ReLU behind a norm. Where something does
read it (the tensor itself, a view of it, or its base), the code continues with the new value, and the trace with the old
one. Such a trace is rejected, with the reason.

Tensors that may share memory are assumed to share it: a trace does not know whether `reshape` copies.

Cost: linear in the edges of the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from fxmap.graph.arguments import bind
from fxmap.graph.build import module_of
from fxmap.graph.kinds import Trait, has, kind_of, kinds

_COPIES = {"channel_shuffle", "clone", "flip", "lift_fresh_copy", "repeat", "repeat_interleave", "roll", "to_copy"}


_MORE_VIEWS = {
    *("adjoint", "as_strided", "atleast_1d", "atleast_2d", "broadcast_to", "cpu", "cuda", "diagonal", "double", "dsplit"),
    *("expand_as", "half", "hsplit", "mT", "numpy_T", "real", "imag", "reshape_as", "resolve_conj", "swapaxes", "swapdims"),
    *("tensor_split", "type_as", "unfold", "view_as", "view_as_complex", "view_as_real", "vsplit"),
}


_SHARING = (kinds(Trait.MOVEMENT | Trait.IDENTITY) | _MORE_VIEWS) - _COPIES


def unfaithful(graph: fx.Graph, augmented: Mapping[fx.Node, fx.Node]) -> str:
    """Return the reason why a symbolic trace differs from the traced code; empty where the two compute the same.

    `augmented` maps the result of every augmented assignment to the value that was assigned to: `x += y` is traced as
    `x + y`.
    """
    memory = _Memory()
    for node in graph.nodes:
        called = node.op in ("call_function", "call_method", "call_module")
        kind = kind_of(node) if called else ""
        if _is_number(node, kind, memory):
            memory.numbers.add(node)
            continue
        for part in node.all_input_nodes:
            writer = memory.writer_behind(part)
            if writer is not None:
                return (
                    f"{writer} in {module_of(writer) or 'the model itself'} writes in place to memory that {node} reads "
                    f"afterwards as {part}, whose value in a trace is the one before"
                )
        target = augmented.get(node) or (_written(node) if called and not has(kind, Trait.IDENTITY) else None)
        if target is not None and target not in memory.numbers:
            if node.op == "call_method" and not hasattr(Tensor, str(node.target).rstrip("_")):
                return f"{node} in {module_of(node) or 'the model itself'} writes in place ({node.target})"
            memory.write(node, target)
        elif kind in _SHARING and node.all_input_nodes:
            memory.share(node, node.all_input_nodes[0])
    return ""


@dataclass
class _Memory:
    """Which values share memory, which node wrote to that memory last, and which values are up to date with it."""

    roots: dict[fx.Node, Any] = field(default_factory=dict)
    writers: dict[Any, fx.Node] = field(default_factory=dict)
    current: dict[Any, set[fx.Node]] = field(default_factory=dict)
    numbers: set[fx.Node] = field(default_factory=set)

    def root(self, node: fx.Node) -> Any:
        """Return a key for the memory of a value: a node, or the path of a model's tensor, which several nodes may read."""
        return self.roots.get(node, str(node.target) if node.op == "get_attr" else node)

    def writer_behind(self, node: fx.Node) -> fx.Node | None:
        """Return the node that wrote to the memory of a value after the value was computed, or None."""
        root = self.root(node)
        return self.writers[root] if root in self.writers and node not in self.current[root] else None

    def write(self, writer: fx.Node, target: fx.Node) -> None:
        """Note that a node writes to the memory of a value: from then on, the memory holds that node's value."""
        root = self.root(target)
        self.roots[writer], self.writers[root], self.current[root] = root, writer, {writer}

    def share(self, view: fx.Node, base: fx.Node) -> None:
        """Note that a value lies, or may lie, in the memory of another one."""
        root = self.root(base)
        self.roots[view] = root
        self.current.setdefault(root, set()).add(view)


def _is_number(node: fx.Node, kind: str, memory: _Memory) -> bool:
    """Whether a node is a number that describes a tensor, such as a size, or is computed from such numbers by Python."""
    if kind and has(kind, Trait.NUMBER):
        return True
    parts = node.all_input_nodes
    plain = node.op == "call_function" and getattr(node.target, "__module__", "") in ("_operator", "math", "builtins")
    return plain and bool(parts) and all(part in memory.numbers for part in parts)


def _written(node: fx.Node) -> fx.Node | None:
    """Return the node that a call writes to in place, or None."""
    target: Any = node.kwargs.get("out")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        target = node.args[0]
    elif any(value is True for value in (*node.args, *node.kwargs.values())):
        arguments = bind(node)
        target = arguments.get("input", node.args[0] if node.args else None) if arguments.get("inplace") is True else target
    return target if isinstance(target, fx.Node) else None
