"""A captured model: the result of every source of graphs, and the input of every later stage."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from fxmap.graph.build import nodes_in
from fxmap.model.inputs import Inputs


@dataclass(frozen=True)
class Captured:
    """A model as a graph.

    `module` is a replica in eval mode, `graph` its fx graph, `tensors` its parameters and buffers by path, and `rung` the
    name of the source that the graph came from. `constants` are the other tensors that the graph reads. `returned` maps the
    path of every module to the names of the nodes that its calls returned. A recorded run also has the `inputs` for whose
    shapes it is valid. `mutations` are in-place writes that remain in the graph: each operation, with its module.
    """

    module: nn.Module
    graph: fx.Graph
    tensors: dict[str, Tensor]
    rung: str
    constants: dict[str, Tensor] = field(default_factory=dict)
    inputs: Inputs | None = None
    returned: dict[str, list[str]] = field(default_factory=dict)
    mutations: tuple[str, ...] = ()

    @property
    def recorded(self) -> bool:
        """Whether the graph was recorded in a run: it has aten operations, and is valid for the shapes of `inputs` alone."""
        return self.inputs is not None

    def arguments(self, inputs: Inputs) -> list[Any]:
        """Return inputs in the order of the graph's placeholders."""
        if self.recorded:
            return list(inputs.flat())
        names = [str(node.target) for node in self.graph.nodes if node.op == "placeholder"]
        named = dict(zip(names, inputs.args, strict=False)) | dict(inputs.kwargs)
        return [named[name] for name in names if name in named]

    @cached_property
    def places(self) -> list[str]:
        """The place of each output in what the graph returns, in order: ".mu" in a dict, ".1" in a tuple, "" by itself."""
        node = next(node for node in self.graph.nodes if node.op == "output")
        return [place for place, _ in nodes_in(node.args[0])]

    @cached_property
    def canonical(self) -> dict[str, str]:
        """Map the path of every tensor to the path under which the graph reads it: the first path of a shared tensor."""
        first: dict[int, str] = {}
        return {path: first.setdefault(id(tensor), path) for path, tensor in self.tensors.items()}
