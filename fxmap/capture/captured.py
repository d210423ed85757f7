"""A captured model: what every source of graphs gives, and every stage after it reads."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from fxmap.model.inputs import Inputs


@dataclass(frozen=True)
class Captured:
    """A model as a graph.

    `module` is a replica in eval mode, `graph` its fx graph, `tensors` its parameters and buffers by path, and `rung` the
    name of the source that the graph came from. `constants` are the other tensors that the graph reads, and `returned` the
    nodes that the calls of every module returned, by its path; a recorded run also has the `inputs` whose shapes it holds
    for. `mutations` are writes in place that the graph does not explain: each operation, and the module that it is in.
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
        """Whether the graph is that of one run: of aten operations, with the inputs at hand, and for their shapes alone."""
        return self.inputs is not None

    def arguments(self, inputs: Inputs) -> list[Any]:
        """Return inputs in the order of the graph's placeholders."""
        if self.recorded:
            return list(inputs.flat())
        names = [str(node.target) for node in self.graph.nodes if node.op == "placeholder"]
        named = dict(zip(names, inputs.args, strict=False)) | dict(inputs.kwargs)
        return [named[name] for name in names if name in named]

    @cached_property
    def canonical(self) -> dict[str, str]:
        """For every path of a tensor, the path under which the graph reads it: the first one where it is shared."""
        first: dict[int, str] = {}
        return {path: first.setdefault(id(tensor), path) for path, tensor in self.tensors.items()}
