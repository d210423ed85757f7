"""What a mapper is asked (two models of one network, and inputs), and how its answer is judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from benchmarks.common.judge import TOLERANCE, Case, count, loaded_error
from benchmarks.forms import measure
from fxmap.testing import compare
from fxmap.testing.recipes import forms, state_dicts

Made = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Keys that are right, wrong (made, with another value) and missing, and whether the function is that of the truth."""

    right: int
    wrong: tuple[str, ...]
    missing: tuple[str, ...]
    equal: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The values that a mapper makes of destination keys, and what it says of them.

    `equal` is its verdict on the function, None where it gives none; `certain` are keys that it calls proven.
    """

    made: Made
    equal: bool | None = None
    certain: frozenset[str] = frozenset()


class Problem(Protocol):
    """Two models, inputs, options of `auto_map` that say what is to be equal; and calibration data for int8."""

    @property
    def src(self) -> nn.Module:
        """The source."""

    @property
    def dst(self) -> nn.Module:
        """The destination."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Arguments of both models."""

    @property
    def options(self) -> dict[str, Any]:
        """Options of `auto_map`."""

    @property
    def calibration(self) -> list[Tensor] | None:
        """Data for int8, None where no range is calibrated."""

    @property
    def size(self) -> int:
        """The number of the destination's keys."""

    def judge(self, made: Made) -> Verdict:
        """Fill the fresh destination, and compare keys and function: once, in a process that ends then."""


@dataclass(frozen=True)
class PairProblem:
    """A pair of the registry, or one that is made in its manner; `fresh` is the destination that is filled."""

    case: Case
    fresh: nn.Module
    options: dict[str, Any] = field(default_factory=dict)
    calibration: list[Tensor] | None = None

    @classmethod
    def of(cls, case: Case) -> "PairProblem":
        """Ask for what the pair says is to be equal: `forward`, or functions of its own."""
        pair = case.pair
        options: dict[str, Any] = {"example_inputs": case.inputs}
        if pair.src_out or pair.dst_out:
            options |= {"src_forward": pair.src_out, "dst_forward": pair.dst_out}
        return cls(case, case.fresh(), options)

    @property
    def src(self) -> nn.Module:
        """The source."""
        return self.case.src

    @property
    def dst(self) -> nn.Module:
        """The destination."""
        return self.case.dst

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Arguments of both models."""
        return self.case.inputs

    @property
    def size(self) -> int:
        return len(nn.Module.state_dict(self.case.dst))

    def judge(self, made: Made) -> Verdict:
        state = nn.Module.state_dict(self.fresh)
        fit = {key: value for key, value in made.items() if key in state and value.shape == state[key].shape}
        equal = loaded_error(self.case, self.fresh, fit) <= TOLERANCE
        found = count(self.case, made, state, equal)
        return Verdict(found.right, found.wrong, found.missing, equal)


class FormProblem:
    """A model of torchvision in one of the forms on the way to int8; the reference is what torch makes of the float weights.

    Keys are those with a float source: activation ranges are no mapping. Values are compared bit by bit.
    """

    def __init__(self, model: str, form: str) -> None:
        self.pair = measure.PAIRS[form]
        subject = measure.subject(model)
        with forms.engine(self.pair.engine):
            self.src = measure.source_of(subject, self.pair)
            self.dst = measure.destination_of(subject, self.pair)
            self._fresh = measure.destination_of(subject, self.pair)
            own = measure.snapshot(self.dst.state_dict())
            # A run of a model with fake-quants moves their ranges: every answer is judged on what there was before.
            self._before = measure.snapshot(self._fresh.state_dict())
            reference = measure.reference_of(subject, self.pair, self.src, own)
            self._expected, self._sourced = measure.expected_state(self.pair, reference, own)
            self._test, self._output = subject.test, compare.output(reference, subject.test)
        self.inputs: tuple[Tensor, ...] = (subject.test,)
        self.options: dict[str, Any] = {}
        self.calibration = subject.data if self.pair.calibrated else None

    @property
    def size(self) -> int:
        return len(self._expected)

    def judge(self, made: Made) -> Verdict:
        with forms.engine(self.pair.engine):
            state = self._fresh.state_dict()
            # In place: without its metadata a state dict of packed weights is read as one of an older version.
            state.update(self._before)
            state.update({key: value for key, value in made.items() if _fits(state.get(key), value)})
            self._fresh.load_state_dict(state)
            actual, expected = self._fresh.state_dict(), self._expected
            if self.pair.src.is_static_int8:
                expected, actual = (state_dicts.with_fold_factors(self._fresh, part) for part in (expected, actual))
            different = {key for key in self._sourced if not compare.same_value(expected[key], actual[key])}
            output = compare.output(self._fresh, self._test)
        error = (output - self._output).abs().max() / self._output.abs().max()
        wrong = tuple(key for key in different if key in made)
        return Verdict(
            len(self._sourced) - len(different), wrong, tuple(different.difference(wrong)), bool(error <= TOLERANCE)
        )


def _fits(own: Any, value: Any) -> bool:
    if not isinstance(own, Tensor) or not isinstance(value, Tensor):
        return type(own) is type(value)
    return own.shape == value.shape and own.is_quantized == value.is_quantized
