"""The contributions of a form to a float twin: conversions of modules, rewrites of graph nodes, and their findings."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Any

from torch import Tensor, fx, nn

from fxmap.expressions.scheme import Scheme
from fxmap.forms.sites import Site
from fxmap.forms.store import Store


class Seen(Flag):
    """The quantization objects of torch.ao that were met in a model while its float twin was built."""

    NOTHING = 0
    OBSERVER = auto()
    FAKE_QUANT = auto()
    QAT_LAYER = auto()
    INT8 = auto()
    # The range of an activation, in a module or in a graph.
    RANGE = auto()
    # A module with a float weight beside how it is quantized: all runs in float.
    REFERENCE = auto()


@dataclass(frozen=True, slots=True)
class Part:
    """A module of a model, and its path there; `narrow` says that the model's weights use the integers -127..127 alone."""

    path: str
    module: Any
    narrow: bool = False

    def key(self, name: str) -> str:
        """Return the key of one of its tensors in the model's state dict.

        >>> Part("layer", None).key("weight"), Part("", None).key("weight")
        ('layer.weight', 'weight')
        """
        return f"{self.path}.{name}" if self.path else name

    def scheme(self, weight: Tensor) -> Scheme:
        """Return the quantization scheme of one of its weights."""
        return Scheme.of(weight, narrow=self.narrow)


@dataclass(frozen=True)
class Converted:
    """The float module that replaces a quantized one, with the stores and sites of its quantization.

    `stores` says what its keys hold, `int8` has the paths of the int8 modules that it replaces, and `sites` where these
    quantize what they return, if the state dict has their ranges.
    """

    module: nn.Module
    stores: Mapping[str, Store] = field(default_factory=dict)
    int8: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()
    seen: Seen = Seen.NOTHING


# Returns None for a module that is to stay, with those below it converted one by one.
Converter = Callable[[Part], Converted | None]


@dataclass(frozen=True)
class Conversion:
    """A row in the table of conversions: classes of quantized modules, or a test, and the function that converts them."""

    of: tuple[type[nn.Module], ...] | Callable[[nn.Module], bool]
    convert: Converter

    def matches(self, module: nn.Module) -> bool:
        """Whether this row converts a module."""
        return isinstance(module, self.of) if isinstance(self.of, tuple) else self.of(module)


@dataclass(frozen=True, slots=True)
class Within:
    """The graph module whose graph is being rewritten (its submodules are float already), and its path in the model."""

    module: fx.GraphModule
    path: str


@dataclass(frozen=True)
class NodeRule:
    """A rewrite of quantized graph nodes to float: the test that selects a node, and the function that rewrites it."""

    matches: Callable[[fx.Node, Within], bool]
    rewrite: Callable[[fx.Node, Within], None]


def rewrite_nodes(nodes: Iterable[fx.Node], rules: Iterable[NodeRule], within: Within) -> None:
    """Rewrite each node by the first rule that matches it, in one pass."""
    rules = tuple(rules)
    for node in list(nodes):
        rule = next((rule for rule in rules if rule.matches(node, within)), None)
        if rule is not None:
            rule.rewrite(node, within)
