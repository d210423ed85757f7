"""The mapping: what a user holds, applies, loads, saves and reads.

A plan apart from its execution: expressions and what is known of every key, but no values of either model.

>>> import torch
>>> mapping = KeyMapping({"head.weight": "fc.weight"})
>>> list(mapping.apply({"fc.weight": torch.zeros(2, 3)}))
['head.weight']
>>> KeyMapping.from_json(mapping.to_json()) == mapping
True
"""

import json
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import nn

from fxmap.errors import DifferentNetworks, LoadError, MappingError, MissingCalibration, QuantizationError, shorten
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.serial import parse
from fxmap.expressions.wrapped import fitted
from fxmap.forms.qat_norms import divisors
from fxmap.mapping.knowledge import Knowledge, Mismatch
from fxmap.mapping.proof import Proof, Status
from fxmap.mapping.python_source import HELPERS
from fxmap.mapping.report import describe
from fxmap.mapping.writing import check_fits, load_state, refuse_zero_divisors, snapshot
from fxmap.model.wrappers import match_prefix

logger = logging.getLogger(__name__)


_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `KeyMapping.load_into` did, in the words of load_state_dict, and how many tensors it wrote."""

    missing_keys: list[str]
    unexpected_keys: list[str]
    written: int


class KeyMapping(Mapping[str, Expression]):
    """How every destination key is made from source keys.

    As a mapping it goes from destination key to expression, over the keys that the source makes; keys that the
    destination keeps, or that have no source, have a `status` and no expression. Immutable.

    Args:
        expressions: for each destination key an expression, or a source key for a rename.
        knowledge: what is known beside that; by hand it may be left out.
        proof: the result of running both models, if they were run.
    """

    def __init__(
        self,
        expressions: Mapping[str, Expression | str],
        knowledge: Knowledge | None = None,
        proof: Proof | None = None,
    ) -> None:
        self._expressions = {
            key: Source(value) if isinstance(value, str) else _checked(key, value) for key, value in expressions.items()
        }
        self.knowledge = knowledge or Knowledge(dict.fromkeys(self._expressions, Status.MATCHED))
        self.proof = proof

    def __getitem__(self, key: str) -> Expression:
        if key not in self._expressions:
            known = self.knowledge.statuses.get(key)
            why = (
                f"{known}: {self.knowledge.reasons.get(key, 'the source does not make it')}"
                if known
                else "not a key of the destination"
            )
            raise KeyError(f"{key}: {why}")
        return self._expressions[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._expressions)

    def __len__(self) -> int:
        return len(self._expressions)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, KeyMapping):
            return self._expressions == other._expressions and self.knowledge == other.knowledge
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def status(self, key: str) -> Status:
        """Return what is known of a destination key.

        Raises:
            KeyError: the destination has no such key.
        """
        return self.knowledge.statuses[key]

    def _with(self, status: Status) -> list[str]:
        return [key for key, found in self.knowledge.statuses.items() if found is status]

    @property
    def missing(self) -> list[str]:
        """Destination keys that need a source and have none."""
        return self._with(Status.MISSING)

    @property
    def unexpected(self) -> list[str]:
        """Source keys that no destination key needs."""
        return list(self.knowledge.unexpected)

    @property
    def mismatched(self) -> list[str]:
        """Destination keys whose counterpart has another shape; `knowledge.mismatched` has both shapes."""
        return self._with(Status.MISMATCHED)

    @property
    def renames(self) -> dict[str, str]:
        """Destination key to source key, where the value is taken as it is."""
        return {key: expression.key for key, expression in self.items() if isinstance(expression, Source)}

    def sources(self) -> set[str]:
        """Return the source keys that some expression reads."""
        return {source for expression in self.values() for source in expression.sources()}

    def apply(self, state_dict: Mapping[str, Any], like: Mapping[str, Any] | None = None) -> "OrderedDict[str, Any]":
        """Make the destination's keys from a source state dict; the arguments are not changed.

        Args:
            state_dict: the source's keys, with or without a wrapper's prefix such as `module.`.
            like: a state dict of the destination; the result then has all its keys, in its order, with its values where
                the source makes none, and its `_metadata`. Weights that are tensor subclasses (torchao) are quantized as
                its own are; without it they are float.

        Returns:
            The keys that the source makes, or all of them with `like`. Renamed tensors are the source's own, not copies.

        Raises:
            MissingCalibration: the destination is static int8, and its ranges are not those of an int8 source.
            QuantizationError: they are, and stand in the destination's code, which no state dict holds.
            MappingError: the state dict lacks a source key.
            DifferentNetworks: the two models are not the same network.
        """
        self._refuse_different()
        if self.knowledge.literals:
            raise QuantizationError(
                f"{shorten(list(self.knowledge.literals))}: these ranges of activations stand in the destination, and "
                "no state dict holds them: load with fxmap.transfer(src, dst), which writes them"
            )
        lacking = [name for name in self.knowledge.ranges if name not in self]
        if lacking:
            raise MissingCalibration(lacking[0], lacking)
        return self.evaluate(state_dict, like)

    def without_ranges(self) -> "KeyMapping":
        """Return the mapping without the ranges of activations that an int8 source gives: the destination keeps its own.

        >>> KeyMapping({"fc.scale": "scale"}, Knowledge({"fc.scale": Status.TAKEN})).without_ranges().status("fc.scale")
        <Status.KEPT: 'kept'>
        """
        taken = self._with(Status.TAKEN)
        expressions = {key: part for key, part in self.items() if key not in taken}
        statuses = self.knowledge.statuses | dict.fromkeys(taken, Status.KEPT)
        return KeyMapping(expressions, replace(self.knowledge, statuses=statuses, literals={}), self.proof)

    def evaluate(self, state_dict: Mapping[str, Any], like: Mapping[str, Any] | None = None) -> "OrderedDict[str, Any]":
        """Do what `apply` does, without refusing static int8: its ranges, where `like` is given, are those of `like`."""
        state, _ = match_prefix(state_dict, self.sources())
        made: OrderedDict[str, Any] = OrderedDict()
        for key, expression in self.items():
            try:
                made[key] = expression.evaluate(state)
            except MappingError as error:
                raise MappingError(f"{key} = {expression}: {error}") from error
        if like is None:
            return made
        full = OrderedDict((key, fitted(made[key], value) if key in made else value) for key, value in like.items())
        if hasattr(like, "_metadata"):
            full._metadata = like._metadata  # type: ignore[attr-defined]
        return full

    def load_into(
        self, dst: nn.Module, state_dict: Mapping[str, Any], on_mismatch: Literal["raise", "keep"] = "raise"
    ) -> Loaded:
        """Load a source state dict into the destination: all of it, or nothing.

        Everything is checked before the first tensor changes; should loading fail all the same, the destination gets its
        old values back.

        Args:
            on_mismatch: "raise" if a key that the output depends on has no source, or one of another shape; "keep" to
                let the destination keep its own values there.

        Raises:
            LoadError: a key does not fit, or nothing would be written.
            MissingCalibration, MappingError, DifferentNetworks: as `apply`.
        """
        if on_mismatch not in ("raise", "keep"):
            raise ValueError(f'on_mismatch is "raise" or "keep", not {on_mismatch!r}')
        if on_mismatch == "raise":
            self.require_complete()
        own = dst.state_dict()
        return self.write(dst, self.apply(state_dict, like=own))

    def require_complete(self) -> None:
        """Refuse a mapping that leaves keys without a source which the destination's output depends on.

        Raises:
            LoadError: there are such keys; the message names them, why, and the ways out.
            DifferentNetworks: the two models are not the same network.
        """
        self._refuse_different()
        count = f"{len(self)} of {len(self.knowledge.statuses)} keys are mapped"
        if self.knowledge.mismatched:
            first = self.knowledge.mismatched[0]
            absent = f"Without a source: {shorten(self.missing)}, {self._how_read()}. " if self.missing else ""
            raise LoadError(
                f"{first.key}: source {first.source} is {list(first.src_shape)}, destination {list(first.dst_shape)}: "
                f"this part was replaced ({shorten(self.mismatched)}). {absent}{count}; nothing "
                'was written. Pass on_mismatch="keep" to keep the destination\'s own values there, or build the destination '
                "with the source's sizes and heads (for a classifier: num_classes, aux_logits)."
            )
        needed = [key for key in self.missing if key not in self.knowledge.unread]
        if needed:
            reason = self.knowledge.reasons.get(needed[0], "no operation of the source corresponds to the one that reads it")
            raise LoadError(
                f"{shorten(needed)}: {reason}. {count}; nothing was written. "
                'Pass on_mismatch="keep" to keep the destination\'s own values there.'
            )

    def _how_read(self) -> str:
        unread = set(self.missing) <= set(self.knowledge.unread)
        return "which the destination reads in training mode only, or never" if unread else "which the output depends on"

    def write(self, dst: nn.Module, full: Mapping[str, Any]) -> Loaded:
        """Write a full destination state dict, of which the mapping made its own keys; all or nothing.

        Raises:
            LoadError: keys, shapes or dtypes do not fit, or the model refused; the destination is as it was.
            QuantizationError: the destination was prepared for QAT, and would divide by 0.
        """
        own = dst.state_dict()
        if not len(self):
            raise LoadError(f"0 of {len(own)} tensors would be written: the mapping is empty. Nothing was changed")
        strangers = [key for key in self if key not in own]
        if strangers:
            raise LoadError(
                f"{shorten(strangers)}: not in the destination, which has {len(own)} keys: this is another model's mapping. "
                "Nothing was written; make it anew with fxmap.auto_map"
            )
        for key in self:
            check_fits(key, full[key], own[key])
        refuse_zero_divisors({key: full[key] for key in divisors(dst) if key in self})
        before = {key: snapshot(value) for key, value in own.items()}
        metadata = getattr(own, "_metadata", None)
        try:
            load_state(dst, full, metadata)
        except BaseException as error:
            load_state(dst, before, metadata)
            if isinstance(error, Exception):
                raise LoadError(
                    f"{type(dst).__name__} refused the state dict; its old values were put back: {error}"
                ) from error
            raise
        return Loaded([*self.missing, *self.mismatched], self.unexpected, len(self))

    def _refuse_different(self) -> None:
        if self.knowledge.blocked:
            raise QuantizationError(self.knowledge.blocked)
        if self.knowledge.different:
            raise DifferentNetworks(self.knowledge.different)

    def inverse(self) -> "KeyMapping":
        """Return the mapping from destination to source, over the keys that can be made back.

        A rename can be turned round. A folded batch norm or a quantized weight cannot: map the other way with
        `auto_map(dst, src)`, which gives a neutral norm and dequantized weights. `knowledge.reasons` names each such key.
        """
        back: dict[str, Expression | str] = {}
        reasons: dict[str, str] = {}
        for key, expression in self.items():
            if isinstance(expression, Source):
                back.setdefault(expression.key, key)
            else:
                for source in expression.sources():
                    reasons.setdefault(source, f"{key} = {expression} cannot be solved for it")
        reasons = {key: why for key, why in reasons.items() if key not in back}
        statuses = dict.fromkeys(back, Status.MATCHED) | dict.fromkeys((*reasons, *self.unexpected), Status.MISSING)
        lost = tuple(key for key in self.knowledge.statuses if key not in back.values())
        return KeyMapping(back, Knowledge(statuses, unexpected=lost, reasons=reasons))

    def to_json(self) -> str:
        """Write the mapping as JSON: expressions and statuses, no values, no proof."""
        literals = {name: [part.to_json() for part in pair] for name, pair in self.knowledge.literals.items()}
        knowledge = asdict(replace(self.knowledge, literals={})) | {"literals": literals}
        expressions = {key: expression.to_json() for key, expression in self.items()}
        return json.dumps({"fxmap": _FORMAT, "expressions": expressions, "knowledge": knowledge}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "KeyMapping":
        """Read what `to_json` wrote.

        Raises:
            MappingError: the text is not such JSON; the message says where.
        """
        try:
            data = json.loads(text)
            if data["fxmap"] != _FORMAT:
                raise MappingError(f"a mapping of format {data['fxmap']!r}; this fxmap reads format {_FORMAT}")
            known = dict(data["knowledge"])
            known["statuses"] = {str(key): Status(value) for key, value in known["statuses"].items()}
            known["mismatched"] = tuple(
                Mismatch(m["key"], m["source"], tuple(m["src_shape"]), tuple(m["dst_shape"])) for m in known["mismatched"]
            )
            for name in ("unexpected", "unread", "ranges", "notes", "stages", "rungs"):
                known[name] = tuple(known[name])
            known["saturating"] = {
                str(path): (str(owner), float(bound)) for path, (owner, bound) in known.get("saturating", {}).items()
            }
            known["literals"] = {
                str(name): (parse(scale), parse(zero_point))
                for name, (scale, zero_point) in known.get("literals", {}).items()
            }
            return cls({str(key): parse(value) for key, value in data["expressions"].items()}, Knowledge(**known))
        except MappingError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise MappingError(f"not a mapping that fxmap wrote: {type(error).__name__}: {error}") from error

    def to_python(self) -> str:
        """Write a function `convert(state)` that needs torch alone."""
        lines = [f"        {key!r}: {expression.python()}," for key, expression in self.items()]
        body = "\n".join(lines)
        helpers = "".join(text for name, text in HELPERS.items() if f"{name}(" in body)
        return f"import torch\n\n{helpers}\ndef convert(state):\n    return {{\n{body}\n    }}\n"

    def with_knowledge(self, **changes: Any) -> "KeyMapping":
        """Return the same mapping with other knowledge."""
        return KeyMapping(self._expressions, replace(self.knowledge, **changes), self.proof)

    def __str__(self) -> str:
        return describe(self._expressions, self.knowledge, self.proof)

    def __repr__(self) -> str:
        return f"<KeyMapping of {len(self)} keys; {len(self.missing)} missing, {len(self.mismatched)} mismatched>"


def _checked(key: str, value: object) -> Expression:
    if not isinstance(value, Expression):
        raise MappingError(f"{key}: neither an expression nor a source key: {value!r}")
    return value
