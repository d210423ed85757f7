"""One row of the table: fill one destination with fxmap, and compare it with its independent reference."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import fxmap
from fxmap.testing import compare
from fxmap.testing.recipes import forms, models, state_dicts
from fxmap.testing.recipes.forms import Form


@dataclass(frozen=True, slots=True)
class Pair:
    """From which form to which, and whether activation ranges are made from calibration data on the way."""

    src: Form
    dst: Form
    calibrated: bool = False

    @property
    def engine(self) -> str:
        """The engine that the quantized side needs."""
        return (self.src if self.dst is Form.FLOAT else self.dst).engine

    @property
    def is_lossy(self) -> bool:
        """Whether the destination's function is not the source's, because weights or activations are int8."""
        return any(form.is_static_int8 or form is Form.DYNAMIC for form in (self.src, self.dst))


PAIRS: dict[str, Pair] = {
    "quantizable": Pair(Form.FLOAT, Form.QUANTIZABLE),
    "fused": Pair(Form.FLOAT, Form.FUSED),
    "fused-qat": Pair(Form.FLOAT, Form.FUSED_QAT),
    "prepared": Pair(Form.FLOAT, Form.PREPARED),
    "prepared-calibrated": Pair(Form.FLOAT, Form.PREPARED, calibrated=True),
    "qat": Pair(Form.FLOAT, Form.QAT),
    "int8-channel": Pair(Form.FLOAT, Form.INT8_CHANNEL, calibrated=True),
    "int8-channel-default": Pair(Form.FLOAT, Form.INT8_CHANNEL_DEFAULT, calibrated=True),
    "int8-tensor": Pair(Form.FLOAT, Form.INT8_TENSOR, calibrated=True),
    "int8-tensor-default": Pair(Form.FLOAT, Form.INT8_TENSOR_DEFAULT, calibrated=True),
    "dynamic": Pair(Form.FLOAT, Form.DYNAMIC),
    "qat-to-float": Pair(Form.QAT, Form.FLOAT),
    "int8-to-float": Pair(Form.INT8_CHANNEL, Form.FLOAT),
    "fx-fused": Pair(Form.FLOAT, Form.FX_FUSED),
    "fx-prepared": Pair(Form.FLOAT, Form.FX_PREPARED, calibrated=True),
    "fx-qat": Pair(Form.FLOAT, Form.FX_QAT),
    "fx-int8": Pair(Form.FLOAT, Form.FX_INT8, calibrated=True),
    "fx-reference": Pair(Form.FLOAT, Form.FX_REFERENCE, calibrated=True),
    "fx-qat-to-float": Pair(Form.FX_QAT, Form.FLOAT),
    "fx-int8-to-float": Pair(Form.FX_INT8, Form.FLOAT),
    "pt2e-x86-prepared": Pair(Form.FLOAT, Form.PT2E_X86_PREPARED, calibrated=True),
    "pt2e-x86-qat": Pair(Form.FLOAT, Form.PT2E_X86_QAT),
    "pt2e-x86-int8": Pair(Form.FLOAT, Form.PT2E_X86_INT8, calibrated=True),
    "pt2e-xnnpack-prepared": Pair(Form.FLOAT, Form.PT2E_XNNPACK_PREPARED, calibrated=True),
    "pt2e-xnnpack-qat": Pair(Form.FLOAT, Form.PT2E_XNNPACK_QAT),
    "pt2e-xnnpack-int8": Pair(Form.FLOAT, Form.PT2E_XNNPACK_INT8, calibrated=True),
    "pt2e-x86-int8-to-float": Pair(Form.PT2E_X86_INT8, Form.FLOAT),
}


@dataclass(frozen=True)
class Subject:
    """A float source with its data, and the other weights and data that destinations are built from."""

    name: str
    source: nn.Module
    other: dict[str, Any]
    data: list[Tensor]
    other_data: list[Tensor]
    test: Tensor


def subject(name: str) -> Subject:
    """Draw a model's source, destination weights and data."""
    return Subject(
        name,
        models.randomised_float(name, seed=1),
        models.randomised_float(name, seed=2).state_dict(),
        models.images(11),
        models.images(12),
        models.images(13, batches=1)[0],
    )


@dataclass
class Row:
    """What was measured of one model in one form.

    Of the destination's `keys`, `sourced` have a float source: these are right (bit-equal to the reference), wrong, or
    missing (fxmap says that it found no source). The others are counted by fxmap's status in `sourceless`; they must be
    equal to the reference where ranges are calibrated, and unchanged elsewhere: `sourceless_wrong` are not.
    `seconds_map` is auto_map with verify=False, `cpu_seconds_map` the same in seconds of this process, which neighbours
    disturb less; `seconds_proof` is auto_map with verify=True, `seconds_fill` transfer where ranges are calibrated (the
    mapping included) and load_into elsewhere. `sqnr` and `sqnr_reference` are in dB, against the float source.
    """

    model: str
    form: str
    keys: int = 0
    sourced: int = 0
    right: int = 0
    wrong: int = 0
    missing: int = 0
    sourceless: dict[str, int] = field(default_factory=dict)
    sourceless_wrong: int = 0
    unexpected: int = 0
    examples: list[str] = field(default_factory=list)
    output_equal: bool | None = None
    refolded: bool | None = None
    sqnr: float | None = None
    sqnr_reference: float | None = None
    statuses: dict[str, int] = field(default_factory=dict)
    proof_ok: bool | None = None
    proof_error: str = ""
    seconds_map: float | None = None
    cpu_seconds_map: float | None = None
    seconds_proof: float | None = None
    seconds_fill: float | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether every key is right, or classified and as it should be, and so is the output."""
        keys = self.right == self.sourced and self.sourceless_wrong == 0
        return not self.error and keys and self.output_equal is True and self.refolded is not False


def measure(subject: Subject, form: str, *, proof: bool) -> Row:
    """Measure one form of a model; an error of fxmap's, or of torch's, is a result and ends in the row."""
    row = Row(subject.name, form)
    pair = PAIRS[form]
    with forms.engine(pair.engine):
        try:
            _measure(subject, pair, row, proof)
        except Exception as error:  # a benchmark of many models must survive whatever one of them raises
            row.error = f"{type(error).__name__}: {error}"
    return row


def _measure(subject: Subject, pair: Pair, row: Row, proof: bool) -> None:
    src = source_of(subject, pair)
    dst = destination_of(subject, pair)
    own = snapshot(dst.state_dict())
    reference = reference_of(subject, pair, src, own)
    cpu = time.process_time()
    mapping, row.seconds_map = timed(lambda: fxmap.auto_map(src, dst, example_inputs=_inputs(subject, pair), verify=False))
    row.cpu_seconds_map = time.process_time() - cpu
    if proof:
        _prove(src, dst, _inputs(subject, pair), row)
    mapping, row.seconds_fill = timed(lambda: _fill(subject, pair, src, dst, mapping))
    row.unexpected = len(mapping.unexpected)
    expected, sourced = expected_state(pair, reference, own)
    actual = dst.state_dict()
    if pair.src.is_static_int8:
        sourced -= state_dicts.lost_keys(subject.name, src, sourced)
        expected, actual = (state_dicts.with_fold_factors(dst, state) for state in (expected, actual))
    _compare(expected, actual, sourced, mapping, row)
    if pair.src.is_static_int8:
        row.refolded = state_dicts.refolds(subject.name, dst, src)
    _run(subject, pair, reference, dst, row)


def _inputs(subject: Subject, pair: Pair) -> Tensor | None:
    """Return inputs where the models do not take any size: an exported graph is made for one."""
    exported = any(form.startswith("pt2e-") for form in (pair.src, pair.dst))
    return subject.test if exported else None


def source_of(subject: Subject, pair: Pair) -> nn.Module:
    """Return the source in its form."""
    if pair.src is Form.FLOAT:
        return subject.source
    return forms.build_form(subject.name, pair.src, subject.source.state_dict(), subject.data)


def destination_of(subject: Subject, pair: Pair) -> nn.Module:
    """Build the destination's form from other weights and other data."""
    # Fake-quants act on the output and are kept: they stay fresh, as the reference's, so that outputs can be compared.
    data = () if pair.dst.is_qat else subject.other_data
    return forms.build_form(subject.name, pair.dst, subject.other, data)


def reference_of(subject: Subject, pair: Pair, src: nn.Module, own: Mapping[str, Any]) -> nn.Module:
    """Build what the destination must become; `own` is what it held before."""
    if not pair.src.is_static_int8:
        data = subject.data if pair.calibrated else ()
        return forms.reference_form(subject.source, subject.name, pair.dst, data)
    return forms.build_form(subject.name, pair.dst, state_dicts.float_reference(subject.name, src, own))


def _fill(subject: Subject, pair: Pair, src: nn.Module, dst: nn.Module, mapping: fxmap.KeyMapping) -> fxmap.KeyMapping:
    """Fill the destination, and return the mapping that did it."""
    if not pair.calibrated:
        mapping.load_into(dst, src.state_dict())
        return mapping
    # Without qconfig fxmap must find out by itself that torchvision's own was used.
    given = pair.dst in (Form.INT8_CHANNEL_DEFAULT, Form.INT8_TENSOR_DEFAULT)
    qconfig = pair.dst.qconfig if given else None
    return fxmap.transfer(src, dst, calibration=subject.data, qconfig=qconfig, verify=False)


def _prove(src: nn.Module, dst: nn.Module, inputs: Tensor | None, row: Row) -> None:
    try:
        mapping, row.seconds_proof = timed(lambda: fxmap.auto_map(src, dst, example_inputs=inputs, verify=True))
    except Exception as error:  # a proof that fails is no reason to lose the rest of the row
        row.proof_error = f"{type(error).__name__}: {error}"
        return
    row.statuses = counted(mapping, mapping.knowledge.statuses)
    row.proof_ok = mapping.proof.ok
    if not row.proof_ok:
        row.proof_error = str(mapping.proof.divergence or mapping.proof)


def expected_state(pair: Pair, reference: nn.Module, own: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Return what the destination must hold, and which keys of it have a float source; `own` is what it held before."""
    expected = dict(reference.state_dict())
    sourced = state_dicts.sourced_keys(reference, pair.dst)
    if pair.src.is_static_int8:
        # Folding lost the counters.
        sourced -= {key for key in sourced if key.endswith(".num_batches_tracked")}
    if not pair.calibrated:
        expected |= {key: value for key, value in own.items() if key not in sourced}
    return expected, sourced


def _compare(
    expected: Mapping[str, Any], actual: Mapping[str, Any], sourced: set[str], mapping: fxmap.KeyMapping, row: Row
) -> None:
    if expected.keys() != actual.keys():
        raise ValueError(f"the reference has other keys than the destination: {sorted(expected.keys() ^ actual.keys())[:3]}")
    different = [key for key in expected if not compare.same_value(expected[key], actual[key])]
    lost = {*mapping.missing, *mapping.mismatched}
    rest = expected.keys() - sourced
    row.keys, row.sourced = len(expected), len(sourced)
    row.missing = len(lost & sourced)
    row.wrong = len(sourced.intersection(different) - lost)
    row.right = row.sourced - row.wrong - row.missing
    row.sourceless = counted(mapping, rest)
    row.sourceless_wrong = len(rest & set(different))
    row.examples = (different or sorted(lost))[:5]


def _run(subject: Subject, pair: Pair, reference: nn.Module, dst: nn.Module, row: Row) -> None:
    expected, actual = (compare.output(model, subject.test) for model in (reference, dst))
    if not expected.isfinite().all() or torch.equal(expected[0], expected[1]):
        raise ValueError("the reference's output is not finite, or does not depend on the image: equality would say nothing")
    row.output_equal = compare.same_value(expected, actual)
    if pair.is_lossy:
        exact = compare.output(subject.source, subject.test)
        row.sqnr, row.sqnr_reference = compare.sqnr(exact, actual), compare.sqnr(exact, expected)


def counted(mapping: fxmap.KeyMapping, keys: Any) -> dict[str, int]:
    """Count keys by their status."""
    return dict(Counter(str(mapping.status(key)) for key in keys).most_common())


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and the seconds that it took."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def snapshot(value: Any) -> Any:
    """Copy a state dict, packed weights too."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: snapshot(part) for key, part in value.items()}
    return tuple(snapshot(part) for part in value) if isinstance(value, tuple) else value
