"""Rows of forms that replace modules or weights: a model without torchvision in it, and torchao's quantize_.

As in `benchmarks.measure`: a destination is built from other weights and other data, filled with fxmap, and compared with a
reference that had the float weights before it was quantized.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fxmap
from benchmarks.forms.measure import Row, counted, subject, timed
from fxmap.testing import compare
from fxmap.testing.recipes import forms, layers, models
from fxmap.testing.recipes.forms import Form

LAYERS = "layers"

EAGER = {
    "quantizable": Form.QUANTIZABLE,
    "fused": Form.FUSED,
    "fused-qat": Form.FUSED_QAT,
    "prepared-calibrated": Form.PREPARED,
    "qat": Form.QAT,
    "int8-channel": Form.INT8_CHANNEL,
    "dynamic": Form.DYNAMIC,
}
# How torchao is told; the package is optional.
TORCHAO: dict[str, Callable[[Any], Any]] = {
    "torchao-int8": lambda q: q.Int8WeightOnlyConfig(),
    "torchao-int8-dynamic": lambda q: q.Int8DynamicActivationInt8WeightConfig(),
    "torchao-int4": lambda q: q.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=q.PerAxis(0)),  # type: ignore[attr-defined]
    "torchao-float8": lambda q: q.Float8WeightOnlyConfig(),
}
CLAMP = "int8-clamp"
FORMS = (*TORCHAO, "torchao-qat", CLAMP)


@dataclass(frozen=True)
class Case:
    """What to fill, and what it must be equal to; without a reference the row is about the loss alone."""

    src: nn.Module
    dst: nn.Module
    reference: nn.Module
    test: tuple[Tensor, ...]
    calibration: Any = None
    relu6: Any = "reference"


def applies(name: str, form: str) -> bool:
    """Whether there is a row of a form for a model."""
    if form == CLAMP:
        return name == "mobilenet_v2"
    return form in FORMS or (name == LAYERS and form in EAGER)


def measure(name: str, form: str) -> Row:
    """Measure one form of a model; an error is a result, and ends in the row."""
    row = Row(name, form)
    with forms.engine("fbgemm"):
        try:
            _measure(_case(name, form), row)
        except Exception as error:  # a benchmark of many models must survive whatever one of them raises
            row.error = f"{type(error).__name__}: {error}"
    return row


def _case(name: str, form: str) -> Case:
    if form == CLAMP:
        model = subject(name)
        dst, reference = (
            forms.build_form(name, Form.INT8_CHANNEL, weights, model.data)
            for weights in (model.other, model.source.state_dict())
        )
        return Case(model.source, dst, reference, (model.test,), model.data, "clamp")
    if name == LAYERS and form in EAGER:
        kind, data = EAGER[form], layers.batches(11)
        weights = [layers.randomised(seed) for seed in (1, 2)]
        static = kind in (Form.PREPARED, Form.INT8_CHANNEL)
        reference = layers.build_form(kind, weights[0].state_dict(), data if static else ())
        dst = layers.build_form(kind, weights[1].state_dict(), layers.batches(12) if static else ())
        test = layers.batches(13)[0]
        return Case(weights[0], dst, reference, test, data if static else None)
    return _torchao_case(name, form)


def _torchao_case(name: str, form: str) -> Case:
    from torchao import quantization
    from torchao.quantization.qat import QATConfig

    if name == LAYERS:
        src, other = layers.randomised(1), layers.randomised(2)
        test: tuple[Tensor, ...] = layers.batches(13)[0]
    else:
        model = subject(name)
        src, other, test = model.source, models.float_model(name), (model.test,)
        other.load_state_dict(model.other)
    if form == "torchao-qat":
        base = quantization.Int8DynamicActivationIntxWeightConfig(weight_granularity=quantization.PerAxis(0))
        config = QATConfig(base, step="prepare")
    else:
        config = TORCHAO[form](quantization)
    reference = deepcopy(src)
    for target in (other, reference):
        quantization.quantize_(target, config)
    return Case(src, other, reference, test)


def _measure(case: Case, row: Row) -> None:
    mapping, row.seconds_map = timed(lambda: fxmap.auto_map(case.src, case.dst, example_inputs=case.test, verify=False))
    proven, row.seconds_proof = timed(lambda: fxmap.auto_map(case.src, case.dst, example_inputs=case.test))
    row.statuses = counted(proven, proven.knowledge.statuses)
    row.proof_ok = proven.proof.ok
    if not row.proof_ok:
        row.proof_error = str(proven.proof and (proven.proof.divergence or proven.proof))
    options = {"calibration": case.calibration, "relu6": case.relu6, "example_inputs": case.test, "verify": False}
    mapping, row.seconds_fill = timed(lambda: fxmap.transfer(case.src, case.dst, **options))
    _compare(case, mapping, row)
    with torch.no_grad():
        exact, expected, actual = (model.eval()(*case.test) for model in (case.src, case.reference, case.dst))
    row.output_equal = torch.equal(expected, actual)
    row.sqnr, row.sqnr_reference = compare.sqnr(exact, actual), compare.sqnr(exact, expected)
    if case.relu6 == "clamp":
        # Another function than the reference's, on purpose: what is asked is that it is nearer to the float model.
        row.output_equal = row.sqnr > row.sqnr_reference


def _compare(case: Case, mapping: fxmap.KeyMapping, row: Row) -> None:
    expected, actual = case.reference.state_dict(), case.dst.state_dict()
    if expected.keys() != actual.keys():
        raise ValueError(f"the reference has other keys than the destination: {sorted(expected.keys() ^ actual.keys())[:3]}")
    different = {key for key in expected if not same_value(expected[key], actual[key])}
    sourced = set(mapping) | set(mapping.missing) | set(mapping.mismatched)
    rest = expected.keys() - sourced
    # Attention that was taken apart keeps the joined projection of its base class, which nothing reads.
    calibrated = rest.intersection(mapping.knowledge.ranges) if case.relu6 != "clamp" else set()
    row.keys, row.sourced = len(expected), len(sourced)
    row.missing = len(mapping.missing) + len(mapping.mismatched)
    row.wrong = len(different & set(mapping))
    row.right = row.sourced - row.wrong - row.missing
    row.sourceless, row.sourceless_wrong = counted(mapping, rest), len(different & calibrated)
    row.unexpected = len(mapping.unexpected)
    row.examples = sorted(different & (set(mapping) | calibrated))[:5]


def same_value(a: Any, b: Any) -> bool:
    """Tell whether two values are equal bit for bit, also where they are packed in an object or in a tensor subclass."""
    if isinstance(a, torch.ScriptObject):
        return same_value(_unpacked(a), _unpacked(b))
    if isinstance(a, Tensor) and hasattr(a, "qdata"):
        return type(a) is type(b) and all(
            same_value(getattr(a, name, None), getattr(b, name, None)) for name in ("qdata", "scale", "zero_point")
        )
    if isinstance(a, nn.Parameter):
        a, b = a.detach(), b.detach()
    return compare.same_value(a, b)


def _unpacked(value: Any) -> Any:
    """Open the script objects of a dynamic recurrent layer as far as they go."""
    if isinstance(value, torch.ScriptObject):
        state: Any = value.__getstate__()
        return _unpacked(state[0])
    return [_unpacked(part) for part in value] if isinstance(value, tuple | list) else value
