"""A quantized form: how a model of it is recognised, made float, and filled. One file, and one entry in `registry.py`.

A form contributes to the float twin (`refuse`, `conversions`, `node_rules`, `finish`, `unwrap`, `tidy`, used in this order),
names the stage of a model from its findings (`recognise`), and makes the full state of a destination (`fill`). A twin
is put together from the contributions of all forms, since a model may be of several: torchao's tensors in a float graph.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import fx, nn

from fxmap.expressions.base import Expression
from fxmap.forms.conversion import Conversion, NodeRule, Seen, Within
from fxmap.forms.fill import Filled, FillRequest
from fxmap.forms.sites import KeptReason, RangeRef, Site
from fxmap.forms.stages import Stage
from fxmap.forms.store import Store


@dataclass(frozen=True, slots=True)
class Findings:
    """The evidence for a model's stage: the model, its quantization objects, and the forms that converted parts of it."""

    model: nn.Module
    seen: Seen
    forms: frozenset["Form"]

    def has(self, seen: Seen) -> bool:
        """Whether objects of these kinds were met."""
        return seen in self.seen


@dataclass(frozen=True)
class Form:
    """A quantized form; every step is optional but `recognise`.

    Attributes:
        name: for people.
        recognise: names the stage of a model, or None if it is not of this form.
        packages: modules of this form can only exist if one of these packages was imported; empty if that is not known.
        refuse: raises QuantizationError for a model that can be neither filled nor read.
        conversions: makes the table of its modules, the first row that matches counts. Imports the form's package.
        node_rules: rewrite its nodes in fx graphs to float; the first that matches counts.
        finish: rewrites a graph after all its nodes, in place, and says whether it is one of this form.
        unwrap: puts float tensors in the place of quantized ones of a twin, in place, and returns their paths.
        tidy: takes leftovers out of a twin, in place, and returns the tensors of it that nothing reads.
        fill: makes the full state of a destination from its float twin, mapped weights and calibration batches; the twin may
            be changed, the destination is not.
        convert: makes the int8 model of one that is prepared, in its place, with the ranges that its observers have.
    """

    name: str
    recognise: Callable[[Findings], Stage | None]
    packages: tuple[str, ...] = ()
    refuse: Callable[[nn.Module], None] | None = None
    conversions: Callable[[], tuple[Conversion, ...]] | None = None
    node_rules: tuple[NodeRule, ...] = ()
    finish: Callable[[fx.Graph, Within], bool] | None = None
    unwrap: Callable[[nn.Module], list[str]] | None = None
    tidy: Callable[[nn.Module], set[str]] | None = None
    fill: Callable[["Twin", FillRequest], Filled] | None = None
    convert: Callable[[nn.Module], nn.Module] | None = None

    def is_loaded(self) -> bool:
        """Whether a model can hold something of this form at all."""
        return not self.packages or not sys.modules.keys().isdisjoint(self.packages)


@dataclass(frozen=True, slots=True)
class Twin:
    """The float twin of a model, its form and stage, and how its tensors are stored in the model's own state dict.

    `module` is the twin; `stores` has the contents of every key that holds weights; `kept` says why every other key
    has no float counterpart; `ranges` must come from calibration data; `converted` are the paths of the modules that
    are int8; `inside` the float modules that a graph calls on int8; `sites` the places where activations are quantized, if
    the twin was asked to have them marked.
    """

    module: nn.Module
    form: Form
    stage: Stage
    stores: dict[str, Store]
    kept: dict[str, KeptReason] = field(default_factory=dict)
    ranges: tuple[RangeRef, ...] = ()
    converted: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()

    def decoded(self) -> dict[str, Expression]:
        """Return the expression that makes each tensor of the twin from the model's state dict."""
        return {name: part for key, store in self.stores.items() for name, part in store.decode(key).items()}

    def held(self) -> dict[Expression, Expression]:
        """Return, for every quantized weight, its float expression and the expression of the quantized tensor itself."""
        return {made: part for key, store in self.stores.items() for made, part in store.held_by(key).items()}
