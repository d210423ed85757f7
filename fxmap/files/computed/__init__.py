"""Computed weights: a file may hold a weight as several tensors, from which it is computed by the formula of its format.

Idea: the names of a format's tensors are its own, whatever the network is called: `weight_g` beside `weight_v`, `SCB` beside
`weight`, `qweight` beside `qzeros`. A model that stores its weights in the same way takes them as they are; for any other,
the tensors are replaced by an expression over them, so that the rest of fxmap sees a plain weight. Kinds follow one another:
an adapter may stand beside a weight of four bits.

>>> import torch
>>> file = {"fc.weight_orig": torch.ones(2, 3), "fc.weight_mask": torch.zeros(2, 3), "fc.bias": torch.ones(2)}
>>> found = compute(file, {"fc.weight": torch.ones(2, 3)})
>>> {key: str(weight.expression) for key, weight in found.weights.items()}
{'fc.weight': 'fc.weight_orig * fc.weight_mask'}

Cost: linear in the number of keys; values are read only where names and shapes leave the formula open.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fxmap.expressions.base import Expression
from fxmap.files.computed.int8 import is_int8, ranges, weights_of_int8
from fxmap.files.computed.kind import CannotCompute, Kind, Settings, View, Weight
from fxmap.files.computed.lone import lone
from fxmap.files.computed.lora import ADAPTERS, SAVED, WRAPPED
from fxmap.files.computed.packed_bits import CODES, WORDS
from fxmap.files.computed.parametrized import PRUNING, SPECTRAL_NORM, WEIGHT_NORM
from fxmap.files.computed.scaled import BY_ROWS, SCALED
from fxmap.model.wrappers import plain

__all__ = ["KINDS", "Computed", "Settings", "compute"]

# In the order in which they are computed: a later one may read what an earlier one made.
KINDS: tuple[Kind, ...] = (
    CODES,
    BY_ROWS,
    WORDS,
    SCALED,
    PRUNING,
    SPECTRAL_NORM,
    WEIGHT_NORM,
    SAVED,
    ADAPTERS,
    WRAPPED,
)

# How far two forms of one weight may be apart: what was stored in half precision, or rounded when it was computed.
_ALIKE = 1e-2
# What reading a file of other contents than its names say may raise.
_MALFORMED = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)


@dataclass(frozen=True)
class Computed:
    """The weights that are computed from tensors of a file.

    Attributes:
        weights: by their key, which need not be one of the file.
        read: the keys of the file that they stand for, each with the key of its weight; empty for the ranges of activations
            of an int8 file, of which a float model makes nothing.
        kinds: the names of the kinds, with the number of weights of each.
        refused: stems of weights that could not be computed, each with the reason.
    """

    weights: dict[str, Weight] = field(default_factory=dict)
    read: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def expressions(self) -> dict[str, Expression]:
        """The expression of every computed weight."""
        return {key: weight.expression for key, weight in self.weights.items()}

    def seen(self, state: Mapping[str, Any]) -> "OrderedDict[str, Any]":
        """Return a state dict with computed weights in the place of their parts, without values: on the meta device.

        The tensors of weights that could not be computed are left out: what they hold is no weight.
        """
        if not self.read and not self.refused:
            return OrderedDict(state)
        result: OrderedDict[str, Any] = OrderedDict()
        withheld = set(self.withheld(state))
        made: dict[str, list[Weight]] = {}
        for weight in self.weights.values():
            made.setdefault(next(key for key in weight.parts if key in self.read), []).append(weight)
        for key, value in state.items():
            result.update((weight.key, torch.empty(weight.shape, device="meta")) for weight in made.get(key, ()))
            if key not in self.read and key not in withheld:
                result[key] = value
        return result

    def withheld(self, state: Iterable[str]) -> list[str]:
        """List the tensors of weights that could not be computed."""
        stems = tuple(end for stem in self.refused for end in (f"{stem}.", f"{stem}_"))
        return [key for key in state if key not in self.read and (key in self.refused or key.startswith(stems))]

    def evaluated(self, state: Mapping[str, Any]) -> "OrderedDict[str, Any]":
        """Return a state dict with computed weights in the place of their parts, with values."""
        made = {key: weight.expression.evaluate(state) for key, weight in self.weights.items()}
        return OrderedDict((key, made.get(key, value)) for key, value in self.seen(state).items())


def compute(state: Mapping[str, Any], wanted: Mapping[str, Any], settings: Settings | None = None) -> Computed:
    """Find the weights of a file that are computed, for a model with the state dict `wanted`."""
    view = View(state, settings or Settings())
    kinds: dict[str, int] = {}
    refused: dict[str, str] = {}
    same: set[str] = set()
    int8 = is_int8(state), is_int8(wanted)
    if int8[0]:
        for weight in weights_of_int8(view, as_float=not int8[1]):
            view.add(weight)
        kinds["int8, dequantized"] = 0 if int8[1] else len(view.made)
    for kind in KINDS:
        stems = kind.stems(view.keys())
        if kind.is_in(wanted):
            left = _stored_so_too(kind, stems, wanted)
            same.update(left)
            stems = [stem for stem in stems if stem not in left]
        for stem in stems:
            if stem in refused:
                continue
            try:
                made = list(kind.make(view, stem))
                for weight in made:
                    _refuse_two(view, weight, kind.name)
            except (CannotCompute, *_MALFORMED) as error:
                refused[stem] = str(error)
                continue
            for weight in made:
                view.add(weight)
            kinds[kind.name] = kinds.get(kind.name, 0) + len(made)
    if not any(map(_parametrized, wanted)):
        left = {stem for stem in map(_parametrized, view.keys()) if stem and stem not in same}
        refused = dict.fromkeys(sorted(left), "a parametrization that is not known here") | refused
    refused |= {stem: why for stem, why in lone(view, wanted).items() if stem not in same}
    read = {part: weight.key for weight in view.made.values() for part in weight.parts if part in state}
    # A float model has no ranges of activations.
    read |= dict.fromkeys(ranges(state) if int8 == (True, False) else (), "")
    return Computed(view.made, read, {name: count for name, count in kinds.items() if count}, refused)


def _refuse_two(view: View, weight: Weight, kind: str) -> None:
    """Refuse a weight that the file has in another form as well, with other numbers.

    Raises:
        CannotCompute: nothing says which of the two was the model's.
    """
    if weight.key not in view or weight.key in weight.parts:
        return
    one, other = (expression.evaluate(view.file) for expression in (weight.expression, view.read(weight.key)))
    alike = isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and not one.is_meta
    if not alike or not torch.allclose(one.double(), other.to(one.device).double(), rtol=_ALIKE, atol=_ALIKE):
        raise CannotCompute(
            f"{weight.key} stands beside {' and '.join(weight.parts)} ({kind}), which make other numbers: drop those that "
            "the model did not use from the file"
        )


def _stored_so_too(kind: Kind, stems: list[str], wanted: Mapping[str, Any]) -> set[str]:
    """Return the stems of a file that a model stores in the same way: those of its own names, or all if it has others.

    A model may have removed a parametrization from some of its layers.
    """
    theirs = {_named(stem) for stem in kind.stems(wanted)}
    if not theirs <= {_named(stem) for stem in stems}:
        return set(stems)
    return {stem for stem in stems if _named(stem) in theirs}


def _named(stem: str) -> str:
    """Return the name of a weight without wrappers and parametrizations."""
    return plain(stem.replace("parametrizations.", ""))


def _parametrized(key: str) -> str:
    """Return the path of a parametrized tensor, `fc.parametrizations.weight`, that a key belongs to; else nothing."""
    owner, mark, rest = key.rpartition("parametrizations.")
    return f"{owner}{mark}{rest.partition('.')[0]}" if mark and "." in rest else ""
