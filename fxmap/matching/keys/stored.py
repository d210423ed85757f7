"""Weights that one side stores as several tensors, while keys are matched: seen as plain weights, and put back afterwards.

Of the source, these are the computed weights of a file. Of the destination, weight norm can be made of a plain weight (its
direction is the weight, its size the norm); a mask, singular vectors or an adapter cannot: one weight is made by many of
them, and these keys stay without a source, with the reason.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fxmap.expressions.arithmetic import Full, NeutralVariance, Size
from fxmap.expressions.base import Expression, Source, substitute
from fxmap.expressions.packing import is_object, kind_of_object, unpack
from fxmap.expressions.quantized import Packed, PackedObject, Unpacked
from fxmap.files.computed import Computed
from fxmap.files.computed.int8 import PACKED, is_int8, packed_layers, ranges, under
from fxmap.files.computed.lora import is_adapter
from fxmap.files.computed.parametrized import PRUNING, SPECTRAL_NORM, WEIGHT_NORM, axis_of_size, names_of_weight_norm
from fxmap.files.left_over import CONSTANTS, inert
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.matching.keys.destination import Norm

_FRESH = "a fresh adapter (LoRA), which changes nothing"
_TRAINED = (
    "an adapter (LoRA) of the destination, which the source does not have, and which a merged weight does not determine: "
    'on_mismatch="keep" keeps it'
)
_SPLIT = (
    "the destination computes this weight from several tensors ({name}), which the weight does not determine: remove the "
    "parametrization from the destination, and load the weight into that"
)

_OWN_DTYPE = "the dtype of the destination's integers"

_RANGE = (
    "a range of activations of an int8 destination, which a float file does not have: give the model that the file was "
    "saved from and batches of inputs (src=, calibration=)"
)


def over_file(mapping: KeyMapping, computed: Computed, file: Collection[str]) -> KeyMapping:
    """Return a mapping over the keys of a file, of one over the weights that are computed from them."""
    if not computed.weights:
        return mapping
    made = {key: substitute(part, computed.expressions) for key, part in mapping.items()}
    used = {key for part in made.values() for key in part.sources()} | computed.read.keys()
    unused = {key for key, weight in computed.read.items() if weight in mapping.knowledge.unexpected}
    replaced = {one.source for one in mapping.knowledge.mismatched}
    left = tuple(key for key in file if key in unused or key not in used | replaced)
    return KeyMapping(made, replace(mapping.knowledge, unexpected=left), mapping.proof, mapping.trace)


@dataclass(frozen=True)
class Stored:
    """A destination whose weights are stored as several tensors, as it is seen while keys are matched.

    Attributes:
        own: its state dict.
        seen: the same, with a plain weight in the place of those tensors, and without those that cannot be made.
        made: how keys of the destination are made from keys that are seen.
        kept, missing: keys that are left out, each with the reason.
    """

    own: Mapping[str, Any]
    seen: Mapping[str, Any]
    made: dict[str, Expression] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        own: Mapping[str, Any],
        source: Mapping[str, Any],
        norms: Collection[Norm] = (),
        buffers: Collection[str] = (),
    ) -> "Stored":
        """Look at a destination for a source with the given keys, which may store its weights in the same way.

        `buffers` are those of its keys that are no parameters: masks and frequencies among them are the destination's own.

        >>> own = {"fc.weight_g": torch.ones(2, 1), "fc.weight_v": torch.ones(2, 3)}
        >>> list(Stored.of(own, {"fc.weight": own["fc.weight_v"]}).seen), list(Stored.of(own, own).seen)
        (['fc.weight'], ['fc.weight_g', 'fc.weight_v'])
        """
        places: dict[str, dict[str, Any]] = {}
        made: dict[str, Expression] = {}
        for part in (_normed(own, source), _packed(own), _objects(own), _neutral(own, source, norms)):
            places |= part.places
            made |= part.made
        missing, kept = _adapters(own, source)
        missing |= _split(own, source)
        kept |= {key: _OWN_DTYPE for key, value in own.items() if isinstance(value, torch.dtype)}
        kept |= _constants({key: own[key] for key in buffers}, source)
        seen: OrderedDict[str, Any] = OrderedDict()
        for key, value in own.items():
            seen.update(places.get(key, {}))
            if key not in made and key not in missing and key not in kept:
                seen[key] = value
        return cls(own, seen if made or missing or kept else own, made, kept, missing)

    def over_destination(self, mapping: KeyMapping) -> KeyMapping:
        """Return a mapping of the destination's own keys, of one of the keys that were seen."""
        if self.seen is self.own:
            return mapping
        known, leaves = mapping.knowledge, dict(mapping)
        by_order = {*known.by_order}
        made, statuses, reasons, mismatched = dict(leaves), dict(known.statuses), dict(known.reasons), list(known.mismatched)
        for key, expression in self.made.items():
            open_ones = [source for source in expression.sources() if source not in leaves]
            if not by_order.isdisjoint(expression.sources()):
                by_order.add(key)
            if not open_ones:
                made[key], statuses[key] = _tidy(substitute(expression, leaves)), Status.GUESSED
                continue
            statuses[key] = known.statuses[open_ones[0]]
            reasons[key] = known.reasons.get(open_ones[0], "nothing is known of what it is made of")
            mismatched += [replace(one, key=key) for one in known.mismatched if one.key == open_ones[0]]
        statuses |= dict.fromkeys(self.kept, Status.KEPT) | dict.fromkeys(self.missing, Status.MISSING)
        findings = replace(
            known,
            statuses={key: statuses[key] for key in self.own if key in statuses},
            reasons=reasons | self.kept | self.missing,
            mismatched=tuple(one for one in mismatched if one.key in self.own),
            by_order=tuple(key for key in self.own if key in by_order),
        )
        ordered = {key: made[key] for key in self.own if key in made}
        return KeyMapping(ordered, findings, replace(mapping.proof, statuses=findings.statuses), mapping.trace)


@dataclass(frozen=True, slots=True)
class _Part:
    """Keys that are seen, with their values, in the place of a key of the destination; and how its keys are made of them."""

    places: dict[str, dict[str, Any]]
    made: dict[str, Expression]


def _normed(own: Mapping[str, Any], source: Mapping[str, Any]) -> _Part:
    """See the weight of weight norm as a plain one, where the source has it so."""
    part = _Part({}, {})
    for stem in WEIGHT_NORM.stems(own) if not WEIGHT_NORM.stems(source) else ():
        size, direction, key = names_of_weight_norm(stem)
        axis = axis_of_size(tuple(own[size].shape), tuple(own[direction].shape))
        part.places[direction] = {key: own[direction]}
        part.made.update({direction: Source(key), size: Size(Source(key), axis)})
    return part


def _packed(own: Mapping[str, Any]) -> _Part:
    """See the weight and the bias that an int8 layer packs in one entry."""
    part = _Part({}, {})
    for path in packed_layers(own):
        key, weight, bias = under(path, PACKED), under(path, "weight"), under(path, "bias")
        has_bias = own[key][1] is not None
        part.places[key] = {weight: own[key][0]} | ({bias: own[key][1]} if has_bias else {})
        part.made[key] = Packed(Source(weight), Source(bias) if has_bias else None)
    return part


def _objects(own: Mapping[str, Any]) -> _Part:
    """See the tensors that a dynamic recurrent layer packs in an object."""
    part = _Part({}, {})
    for key, value in own.items():
        if is_object(value):
            held = unpack(value)
            names = {f"{key}.{index}": tensor for index, tensor in enumerate(held)}
            part.places[key] = names
            part.made[key] = PackedObject(kind_of_object(held), tuple(map(Source, names)))
    return part


def _neutral(own: Mapping[str, Any], source: Mapping[str, Any], norms: Collection[Norm]) -> _Part:
    """See layers without their norms, where the source has no norms at all, and make these so that they change nothing.

    The source's norms were folded, or there never were any: its function is that of the layers alone.
    """
    part = _Part({}, {})
    if any(key.rpartition(".")[2] in ("running_var", "moving_variance") for key in source):
        return part
    for norm in norms:
        like, channels = Source(norm.weight), tuple(own[norm.parts["running_var"]].shape)
        bias: Expression = Full(channels, 0.0, like)
        if norm.bias is None and "bias" in norm.parts:
            seen = f"{norm.weight.rpartition('.')[0]}.bias".lstrip(".")
            part.places[norm.weight] = {seen: own[norm.parts["bias"]]}
            bias = Source(seen)
        made = {
            "weight": Full(channels, 1.0, like),
            "bias": bias,
            "running_mean": Full(channels, 0.0, like),
            "running_var": NeutralVariance(channels, norm.eps, like),
        }
        part.made.update({key: made[name] for name, key in norm.parts.items()})
    return part


def _tidy(expression: Expression) -> Expression:
    """Return an entry that is taken apart and packed again as what it is."""
    match expression:
        case Packed(Unpacked(Source(key), 0), Unpacked(Source(other), 1)) if key == other:
            return Source(key)
        case PackedObject(_, parts):
            whole = [part.of for index, part in enumerate(parts) if isinstance(part, Unpacked) and part.index == index]
            return whole[0] if len(whole) == len(parts) and len(set(whole)) == 1 else expression
    return expression


def _split(own: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys that a plain weight does not determine, and the ranges that a float source does not have."""
    missing: dict[str, str] = {}
    for kind in (PRUNING, SPECTRAL_NORM):
        for stem in kind.stems(own) if not kind.stems(source) else ():
            reason = _SPLIT.format(name=kind.name)
            missing |= {key: reason for key in own if key.startswith((f"{stem}_", f"{stem}."))}
    if is_int8(own) and not ranges(source):
        missing |= dict.fromkeys(ranges(own), _RANGE)
    return missing


def _constants(buffers: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, str]:
    """Return the buffers that a model makes itself (masks, frequencies), if no tensor of the source has their shape."""
    shapes = {tuple(value.shape) for value in source.values() if isinstance(value, Tensor)}
    found = {key: inert(key, value) for key, value in buffers.items() if tuple(value.shape) not in shapes}
    return {key: f"{what}, which the destination makes itself" for key, what in found.items() if what in CONSTANTS}


def _adapters(own: Mapping[str, Any], source: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the keys of the destination's adapters, if the source has none: those that matter, and those that do not."""
    adapters = [key for key in own if is_adapter(key)]
    if not adapters or any(map(is_adapter, source)):
        return {}, {}
    ups = [own[key] for key in adapters if "lora_B" in key or "lora_embedding_B" in key or "lora_up" in key]
    fresh = bool(ups) and all(isinstance(up, Tensor) and not up.is_meta and not bool(torch.any(up != 0)) for up in ups)
    return ({}, dict.fromkeys(adapters, _FRESH)) if fresh else (dict.fromkeys(adapters, _TRAINED), {})
