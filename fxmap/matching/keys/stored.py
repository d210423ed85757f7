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

from fxmap.expressions.arithmetic import Size
from fxmap.expressions.base import Expression, substitute
from fxmap.files.computed import Computed
from fxmap.files.computed.lora import is_adapter
from fxmap.files.computed.parametrized import PRUNING, SPECTRAL_NORM, WEIGHT_NORM, axis_of_size, names_of_weight_norm
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status

_FRESH = "a fresh adapter (LoRA), which changes nothing"
_TRAINED = (
    "an adapter (LoRA) of the destination, which the source does not have, and which a merged weight does not determine: "
    'on_mismatch="keep" keeps it'
)
_SPLIT = (
    "the destination computes this weight from several tensors ({name}), which the weight does not determine: remove the "
    "parametrization from the destination, and load the weight into that"
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
        normed: by the key of a plain weight, the keys of direction and size, and the axis of the size.
        kept, missing: keys that are left out, each with the reason.
    """

    own: Mapping[str, Any]
    seen: Mapping[str, Any]
    normed: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, own: Mapping[str, Any], source: Collection[str]) -> "Stored":
        """Look at a destination for a source with the given keys, which may store its weights in the same way.

        >>> own = {"fc.weight_g": torch.ones(2, 1), "fc.weight_v": torch.ones(2, 3)}
        >>> list(Stored.of(own, ["fc.weight"]).seen), list(Stored.of(own, own).seen)
        (['fc.weight'], ['fc.weight_g', 'fc.weight_v'])
        """
        normed: dict[str, tuple[str, str, int]] = {}
        for stem in WEIGHT_NORM.stems(own) if not WEIGHT_NORM.stems(source) else ():
            size, direction, key = names_of_weight_norm(stem)
            normed[key] = direction, size, axis_of_size(tuple(own[size].shape), tuple(own[direction].shape))
        missing, kept = _adapters(own, source)
        for kind in (PRUNING, SPECTRAL_NORM):
            for stem in kind.stems(own) if not kind.stems(source) else ():
                reason = _SPLIT.format(name=kind.name)
                missing |= {key: reason for key in own if key.startswith((f"{stem}_", f"{stem}.")) and key not in normed}
        gone = {part for direction, size, _ in normed.values() for part in (direction, size)}
        by_direction = {direction: key for key, (direction, _, _) in normed.items()}
        seen: OrderedDict[str, Any] = OrderedDict()
        for key, value in own.items():
            if key in by_direction:
                seen[by_direction[key]] = value
            elif key not in gone and key not in missing and key not in kept:
                seen[key] = value
        return cls(own, seen if gone or missing or kept else own, normed, kept, missing)

    def over_destination(self, mapping: KeyMapping) -> KeyMapping:
        """Return a mapping of the destination's own keys, of one of the keys that were seen."""
        if self.seen is self.own:
            return mapping
        known = mapping.knowledge
        made: dict[str, Expression] = {}
        names: dict[str, str] = {key: key for key in known.statuses}
        for key, (direction, size, axis) in self.normed.items():
            names |= {direction: key, size: key}
            if key in mapping:
                made |= {direction: mapping[key], size: Size(mapping[key], axis)}
        made |= {key: part for key, part in mapping.items() if key not in self.normed}
        statuses = {key: known.statuses[names[key]] for key in self.own if key in names}
        statuses |= dict.fromkeys(self.kept, Status.KEPT) | dict.fromkeys(self.missing, Status.MISSING)
        reasons = {key: known.reasons[name] for key, name in names.items() if name in known.reasons}
        findings = replace(
            known,
            statuses={key: statuses[key] for key in self.own if key in statuses},
            reasons=reasons | self.kept | self.missing,
            mismatched=tuple(
                replace(one, key=self.normed[one.key][0]) if one.key in self.normed else one for one in known.mismatched
            ),
        )
        ordered = {key: made[key] for key in self.own if key in made}
        return KeyMapping(ordered, findings, replace(mapping.proof, statuses=findings.statuses), mapping.trace)


def _adapters(own: Mapping[str, Any], source: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the keys of the destination's adapters, if the source has none: those that matter, and those that do not."""
    adapters = [key for key in own if is_adapter(key)]
    if not adapters or any(map(is_adapter, source)):
        return {}, {}
    ups = [own[key] for key in adapters if "lora_B" in key or "lora_embedding_B" in key or "lora_up" in key]
    fresh = bool(ups) and all(isinstance(up, Tensor) and not up.is_meta and not bool(torch.any(up != 0)) for up in ups)
    return ({}, dict.fromkeys(adapters, _FRESH)) if fresh else (dict.fromkeys(adapters, _TRAINED), {})
