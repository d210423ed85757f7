"""Apply a mapping to a state dict, and raise an error where that would be wrong or incomplete."""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import DifferentNetworks, LoadError, MissingCalibration, QuantizationError, shorten
from fxmap.expressions.base import Expression
from fxmap.expressions.layout import Placed
from fxmap.expressions.values import evaluated
from fxmap.expressions.wrapped import fitted
from fxmap.forms.stages import PREPARED, PT2E_PREPARED, PT2E_QAT, QAT
from fxmap.mapping.findings import Findings, Mismatch
from fxmap.mapping.proof import Status
from fxmap.model.wrappers import match_prefix


def evaluate(
    expressions: Mapping[str, Expression], state_dict: Mapping[str, Any], like: Mapping[str, Any] | None
) -> "OrderedDict[str, Any]":
    """Evaluate every expression on a source state dict; with `like`, return all its keys in its order.

    Raises:
        MappingError: the state dict lacks a source key, or has values of which none can be made.
    """
    state, _ = match_prefix(state_dict, sources_of(expressions))
    made: OrderedDict[str, Any] = OrderedDict()
    for key, expression in expressions.items():
        made[key] = evaluated(key, expression, state)
    if like is None:
        return made
    for key, expression in expressions.items():
        made[key] = with_own_rows(made[key], expression, like.get(key))
    full = OrderedDict((key, fitted(made[key], value) if key in made else value) for key, value in like.items())
    if hasattr(like, "_metadata"):
        full._metadata = like._metadata  # type: ignore[attr-defined]
    return full


def whole_ones(expressions: Mapping[str, Expression]) -> dict[str, Expression]:
    """Return the expressions that make all of a tensor: the destination's own rows of the others may not be at hand."""
    return {key: made for key, made in expressions.items() if not isinstance(made, Placed)}


def with_own_rows(value: Any, expression: Expression, own: Any) -> Any:
    """Return a value with the destination's own rows where it is a table of which the source has some alone."""
    return expression.filled(value, own) if isinstance(expression, Placed) and isinstance(own, Tensor) else value


def sources_of(expressions: Mapping[str, Expression]) -> set[str]:
    """Return the source keys that some expression reads."""
    return {source for expression in expressions.values() for source in expression.sources()}


def refuse_unusable(findings: Findings) -> None:
    """Raise an error if the two models are not the same network, or the destination cannot be filled.

    Raises:
        DifferentNetworks, QuantizationError: with the reason.
    """
    if findings.blocked:
        raise QuantizationError(findings.blocked)
    if findings.different:
        raise DifferentNetworks(findings.different)


# Stages of a source whose ranges are in its observers, which `transfer` and `load` convert first.
_OBSERVED = {stage.name for stage in (PREPARED, QAT, PT2E_PREPARED, PT2E_QAT)}


def refuse_lacking_ranges(made: Collection[str], findings: Findings) -> None:
    """Raise an error if the destination is static int8, and the source gives no activation ranges to its state dict.

    Raises:
        MissingCalibration: the source has none of these ranges.
        QuantizationError: it has, and the destination keeps them in its code, where no state dict reaches.
    """
    if findings.literals:
        raise QuantizationError(
            f"{shorten(list(findings.literals))}: these ranges of activations stand in the destination, and "
            "no state dict holds them: load with fxmap.transfer(src, dst), which writes them"
        )
    lacking = [name for name in findings.ranges if name not in made]
    if lacking:
        raise MissingCalibration(lacking[0], lacking, findings.stages[0] in _OBSERVED)


def refuse_incomplete(made: Collection[str], findings: Findings) -> None:
    """Raise an error if a key that the destination's output depends on has no source.

    Raises:
        LoadError: there are such keys; the message names them, why, and the ways out.
    """
    count = f"{len(made)} of {len(findings.statuses)} keys are mapped"
    missing = findings.keys_with(Status.MISSING)
    in_part = [one.key for one in findings.mismatched if one.key in made]
    if in_part and len(in_part) == len(findings.mismatched):
        told = "; ".join(findings.reasons.get(key, f"{key}: some of its rows alone are in the source") for key in in_part)
        raise LoadError(
            f'{told}. {count}; nothing was written. Pass on_mismatch="keep" to fill the rows that are there and keep the '
            "destination's own for the others, or export the source anew with an example that reads all of them"
        )
    if findings.mismatched:
        first = findings.mismatched[0]
        if parts := _tensor_parallel(findings.mismatched):
            raise LoadError(
                f"{first.key}: source {first.source} is {list(first.src_shape)}, destination {list(first.dst_shape)}: "
                f"{len(findings.mismatched)} tensors of the source are a {_nth(parts)} of the destination's, cut along an "
                f"axis: this is one of {parts} parts of a tensor parallel checkpoint, whose others hold the rest. {count}; "
                "nothing was written. Join the parts with the tools of the library that wrote them, and load the whole"
            )
        absent = f"Without a source: {shorten(missing)}, {_how_read(missing, findings)}. " if missing else ""
        raise LoadError(
            f"{first.key}: source {first.source} is {list(first.src_shape)}, destination {list(first.dst_shape)}: "
            f"this part was replaced ({shorten(findings.keys_with(Status.MISMATCHED))}). {absent}{count}; nothing "
            'was written. Pass on_mismatch="keep" to keep the destination\'s own values there, or build the destination '
            "with the source's sizes and heads (for a classifier: num_classes, aux_logits)."
        )
    needed = [key for key in missing if key not in findings.unread]
    if needed:
        reason = findings.reasons.get(needed[0], "no operation of the source corresponds to the one that reads it")
        raise LoadError(
            f"{shorten(needed)}: {reason}. {count}; nothing was written. "
            'Pass on_mismatch="keep" to keep the destination\'s own values there.'
        )


# So many tensors must be cut alike before a checkpoint is taken for a part of one: a head may be replaced by half of it.
_CUT_ALIKE = 4


def _tensor_parallel(mismatched: Sequence[Mismatch]) -> int:
    """Return into how many parts all of these tensors were cut along one axis each; 0 where they were not."""
    found = set()
    for one in mismatched:
        if len(one.src_shape) != len(one.dst_shape):
            return 0
        ratios = [(a, b) for a, b in zip(one.src_shape, one.dst_shape, strict=True) if a != b]
        found |= {b // a if len(ratios) == 1 and a and b % a == 0 else 0 for a, b in ratios}
    cut_matrices = sum(len(one.dst_shape) > 1 for one in mismatched)
    return found.pop() if len(found) == 1 and cut_matrices >= _CUT_ALIKE else 0


def _nth(parts: int) -> str:
    return {2: "half", 4: "quarter"}.get(parts, f"{parts}th part")


def unknown_in(made: Collection[str], findings: Findings, own: Mapping[str, Any]) -> list[str]:
    """Return the destination's weights of which a mapping by hand says nothing.

    Keys of one tensor are the same weight, and integers are counters or tables that a model makes itself.
    """
    if not made or not own.keys() >= set(made):
        return []  # refused for that when it is written
    places = {_place(own[key]) for key in made}
    return [
        key
        for key, value in own.items()
        if key not in made and key not in findings.statuses and _is_weight(value) and _place(value) not in places
    ]


def refuse_unknown(made: Collection[str], findings: Findings, own: Mapping[str, Any]) -> None:
    """Refuse a mapping by hand that says nothing of some of the destination's weights.

    Raises:
        LoadError: there are such keys.
    """
    unknown = unknown_in(made, findings, own)
    if unknown:
        raise LoadError(
            f"{shorten(unknown)}: the mapping does not say how this is made. {len(made)} of {len(own)} keys are mapped; "
            'nothing was written. Map the others too, or pass on_mismatch="keep" to keep the destination\'s own values.'
        )


def _is_weight(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.is_floating_point() or value.is_quantized or value.is_complex()


def _place(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.is_meta or value.is_quantized or value.layout != torch.strided:
        return id(value)
    return value.data_ptr(), value.shape, value.stride()


def _how_read(missing: Collection[str], findings: Findings) -> str:
    unread = set(missing) <= set(findings.unread)
    return "which the destination reads in training mode only, or never" if unread else "which the output depends on"
