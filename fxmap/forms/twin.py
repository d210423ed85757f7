"""The float twin: an ordinary float model that computes the same network as a quantized one, without the rounding.

A converted, prepared or QAT-prepared model is a float network with additions: integers for weights, observers, fake
quantizers, ranges. The twin leaves the additions out. It has the same structure, runs in any dtype, and can be traced and
aligned like any other model, so that no later stage knows about quantization. What the twin leaves out is kept beside
it: where every twin tensor is stored in the model's own state dict, and which keys of that have no float counterpart.

>>> from torch import nn
>>> twin = float_twin(nn.Sequential(nn.Linear(2, 3)))
>>> twin.stage.name, twin.stores["0.weight"].weight, twin.kept
('float', '0.weight', {})
"""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, nn

from fxmap.expressions.scheme import is_narrow
from fxmap.forms.conversion import Conversion, Converted, Part, Seen
from fxmap.forms.domain import floats_inside_graph
from fxmap.forms.float_graph import FloatGraph, float_graph
from fxmap.forms.form import Findings, Form, Twin
from fxmap.forms.registry import FORMS
from fxmap.forms.sites import KeptReason, RangeRef, Site
from fxmap.forms.stages import Stage
from fxmap.forms.store import Store
from fxmap.model.replica import Replace, named_tensors, replicate


def float_twin(model: nn.Module, *, marked: bool = False) -> Twin:
    """Build the float twin of a model; the model is not changed, and shares its float tensors with the twin.

    A `marked` twin says where activations are quantized: that of a graph has an identity for every node that does.

    Raises:
        QuantizationError: the model has quantized modules of a kind that has no float counterpart here.
    """
    for form in FORMS:
        if form.refuse is not None:
            form.refuse(model)
    forms = [form for form in FORMS if form.is_loaded()]
    left = _LeftOut()
    rows = [(form, row) for form in forms if form.conversions is not None for row in form.conversions()]
    twin = replicate(model, _converter(rows, left, narrow=is_narrow(_quantized_weights(model))))
    state = model.state_dict()
    twin = _with_float_graphs(twin, forms, left, state, marked=marked)
    unread = {path for form in forms if form.tidy is not None for path in form.tidy(twin)}
    own = {path for path, _, _ in named_tensors(twin)} - unread
    stores = {key: left.stores.get(key, Store(key)) for key in state if key in left.stores or key in own}
    kept = {key: left.reason(key) for key in state if key not in stores}
    kept |= dict.fromkeys(kept.keys() & unread, KeptReason.NEVER_READ)
    for form in forms:
        if form.unwrap is not None and (wrapped := set(form.unwrap(twin))):
            left.forms.add(form)
            stores = {key: replace(s, wrapped=True) if s.weight in wrapped else s for key, s in stores.items()}
    form, stage = _recognised(Findings(model, left.seen, frozenset(left.forms)), forms)
    return Twin(
        twin,
        form,
        stage,
        stores,
        kept,
        ranges=left.ranges(kept),
        converted=tuple(left.int8),
        inside=_floats_inside(model, left),
        sites=left.sites(kept) if marked else (),
    )


@dataclass
class _LeftOut:
    """The quantization that is removed from a model, collected while its modules and graphs are converted."""

    stores: dict[str, Store] = field(default_factory=dict)
    seen: Seen = Seen.NOTHING
    forms: set[Form] = field(default_factory=set)
    # Paths of int8 modules, in their order, and those of them that quantize what they return.
    int8: dict[str, None] = field(default_factory=dict)
    static: set[str] = field(default_factory=set)
    module_sites: list[Site] = field(default_factory=list)
    graph_sites: list[Site] = field(default_factory=list)
    # Keys that only quantizing nodes of a graph read, and nodes that have literals instead.
    graph_ranges: set[str] = field(default_factory=set)
    literals: list[RangeRef] = field(default_factory=list)

    def add_module(self, form: Form, found: Converted) -> None:
        """Collect the quantization of a converted module."""
        self.forms.add(form)
        self.stores |= found.stores
        self.seen |= found.seen
        self.int8 |= dict.fromkeys(found.int8)
        self.module_sites += found.sites
        if Seen.RANGE in found.seen:
            self.static |= set(found.int8)

    def add_graph(self, found: FloatGraph, prefix: str, state: dict[str, Any]) -> None:
        """Collect the quantization of a rewritten graph, whose keys in the model have a prefix."""
        self.stores |= found.stores(prefix, state)
        self.literals += [RangeRef(prefix + name, literal=True) for name in found.literals]
        self.graph_sites += [site.below(prefix) for site in found.sites]
        self.graph_ranges |= {prefix + target for target in found.ranges}
        self.forms |= found.forms
        if self.graph_ranges or self.literals:
            self.seen |= Seen.RANGE

    def reason(self, key: str) -> KeptReason:
        """Return why a key has no float counterpart."""
        owner, _, attribute = key.rpartition(".")
        if key in self.graph_ranges or (attribute in ("scale", "zero_point") and owner in self.static):
            return KeptReason.RANGE
        return KeptReason.CONSTANT if owner.removesuffix("._packed_params") in self.int8 else KeptReason.OBSERVER

    def ranges(self, kept: dict[str, KeptReason]) -> tuple[RangeRef, ...]:
        """Return references to the scales and zero points that must come from calibration data."""
        keys = [key for key, reason in kept.items() if reason is KeptReason.RANGE] if Seen.RANGE in self.seen else []
        return (*map(RangeRef, keys), *self.literals)

    def sites(self, kept: dict[str, KeptReason]) -> tuple[Site, ...]:
        """Return the sites that quantize activations: those of graphs, and of modules with a range in the state dict."""
        ranged = {key for key, reason in kept.items() if reason is KeptReason.RANGE}
        return (*self.graph_sites, *(site for site in self.module_sites if {site.scale, site.zero_point} <= ranged))


def _converter(rows: list[tuple[Form, Conversion]], left: _LeftOut, *, narrow: bool) -> Replace:
    """Return the function that converts a module to float by the first matching row, and collects its quantization."""

    def convert(path: str, module: nn.Module) -> nn.Module | None:
        form, row = next(((form, row) for form, row in rows if row.matches(module)), (None, None))
        found = None if row is None else row.convert(Part(path, module, narrow))
        if form is None or found is None:
            return None
        left.add_module(form, found)
        return found.module

    return convert


def _with_float_graphs(
    twin: nn.Module, forms: list[Form], left: _LeftOut, state: dict[str, Any], *, marked: bool
) -> nn.Module:
    """Replace the graph modules of a twin by their float versions."""
    for path, module in list(twin.named_modules()):
        if not isinstance(module, fx.GraphModule):
            continue
        stays = marked and bool(left.int8) and Seen.REFERENCE not in left.seen
        found = float_graph(module, path, forms, marked=marked, stays=stays)
        left.add_graph(found, f"{path}." if path else "", state)
        if path:
            owner, _, name = path.rpartition(".")
            twin.get_submodule(owner)._modules[name] = found.module
        else:
            twin = found.module
    return twin


def _recognised(found: Findings, forms: list[Form]) -> tuple[Form, Stage]:
    """Return the first form that recognises a model, and its stage; a plain float model is recognised last."""
    return next((form, stage) for form in forms if (stage := form.recognise(found)) is not None)


def _floats_inside(model: nn.Module, left: _LeftOut) -> tuple[str, ...]:
    """Return the float modules that a converted graph calls on int8 activations, which can't run."""
    if not isinstance(model, fx.GraphModule) or Seen.REFERENCE in left.seen:
        return ()
    floats = {path for path, module in model.named_modules() if any(True for _ in module.parameters())} - left.static
    return tuple(floats_inside_graph(model.graph, left.static, floats))


def _quantized_weights(model: nn.Module) -> list[Tensor]:
    # By their classes: a module of the user may answer to every name.
    layers: list[Any] = [module for module in model.modules() if hasattr(type(module), "_weight_bias")]
    held = [layer._weight_bias() for layer in layers]
    # Recurrent layers have several, by name.
    weights = [weight for value in held for weight in (value["weight"].values() if isinstance(value, dict) else value[:1])]
    references: list[Any] = [module for module in model.modules() if hasattr(type(module), "get_quantized_weight")]
    weights += [layer.get_quantized_weight() for layer in references]
    return [weight for weight in weights if isinstance(weight, Tensor) and weight.is_quantized]
