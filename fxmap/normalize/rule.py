"""The interface of rewrite rules: `Rule`, its `Context`, its `Outcome`, and the record of all outcomes.

A rule is an equation between operations that holds for every input, one a file. It is asked at one operation of the graph,
where the left side of the equation may end, and writes the right side in its place, or says why it cannot.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, fx

from fxmap.graph.constants import Constants
from fxmap.graph.opgraph import Op, OpGraph


@dataclass(frozen=True)
class Context:
    """The operation graph that rules rewrite in place, and the fx graph that it was built from, which they only read.

    `constants` are the values of the constants that the fx graph reads, by the name of their node.
    """

    ops: OpGraph
    graph: fx.Graph
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """The nodes of the fx graph by name."""
        return {node.name: node for node in self.graph.nodes}

    @cached_property
    def _folded(self) -> Constants:
        return Constants(
            self.graph,
            {},
            {str(node.target): self.constants[node.name] for node in self.graph.nodes if node.name in self.constants},
            buffers=False,
        )

    def folded(self, name: str) -> Tensor | None:
        """Return the value of a node that depends on constants alone; None where that is not known."""
        node = self.nodes.get(name)
        if node is None or node not in self._folded.nodes:
            return None
        try:
            value = self._folded.value(node)
        except (RuntimeError, NotImplementedError):
            return None
        return value if isinstance(value, Tensor) and not value.is_meta else None


# The names of the operations near a change, or why there is none: a sentence that ends "not applied: ...".
Outcome = tuple[str, ...] | str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rewrite rule: its name, the kinds of operation that may end its pattern, and the function that matches and rewrites.

    An application must take an operation out of the graph or give one another kind for good: so it ends. A rule that looks
    back from the end of a pattern goes `backwards`, consumers first, so that the largest pattern is found before its parts.
    """

    name: str
    kinds: frozenset[str]
    apply: Callable[[Context, Op], Outcome]
    backwards: bool = False


@dataclass
class Rewrites:
    """The number of applications of each rule, and each reason for a refusal with the operation that had it last.

    >>> rewrites = Rewrites()
    >>> rewrites.applied["merge batch norms"] = 2
    >>> rewrites.refused["merge batch norms"] = {"the layer's weight is shared": Op("n", "batch_norm", module="bn3")}
    >>> print(rewrites)
    merge batch norms: applied 2 times; not at batch_norm bn3: the layer's weight is shared
    """

    applied: dict[str, int] = field(default_factory=dict)
    refused: dict[str, dict[str, Op]] = field(default_factory=dict)

    def note(self, rule: Rule, op: Op, outcome: Outcome) -> None:
        """Record the outcome of a rule at an operation."""
        if isinstance(outcome, str):
            self.refused.setdefault(rule.name, {})[outcome] = op
        else:
            self.applied[rule.name] = self.applied.get(rule.name, 0) + 1

    def __str__(self) -> str:
        lines = []
        for name in dict.fromkeys((*self.applied, *self.refused)):
            reasons = [f"; not at {op}: {reason}" for reason, op in self.refused.get(name, {}).items()]
            lines.append(f"{name}: applied {self.applied.get(name, 0)} times{''.join(reasons)}")
        return "\n".join(lines)
