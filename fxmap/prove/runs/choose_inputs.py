"""The choice of the inputs that a proof runs on."""

from dataclasses import dataclass

from fxmap.matching.plan import Plan
from fxmap.model.inputs import Given, Inputs, as_shared, others
from fxmap.run.example_inputs import find_inputs


@dataclass(frozen=True, slots=True)
class InputPair:
    """Corresponding inputs of the two models, which may take the same tensors in a different order."""

    src: Inputs
    dst: Inputs

    @classmethod
    def same(cls, inputs: Inputs) -> "InputPair":
        """Return the pair with the same inputs for both models."""
        return cls(inputs, inputs)

    @property
    def roomy(self) -> bool:
        """Whether every map is larger than the kernels applied to it."""
        return self.src.roomy


@dataclass(frozen=True, slots=True)
class ChosenInputs:
    """The inputs of one proof.

    The captured graphs run on `first` in lockstep, and on all `further` ones where that leaves something open. The user's
    own code runs on the first of `own_code` that both models accept.
    """

    first: InputPair
    further: tuple[InputPair, ...]
    own_code: tuple[InputPair, ...]


def choose_inputs(plan: Plan, given: Given) -> ChosenInputs | None:
    """Choose the inputs of a proof: those given or recorded, or else some that both models accept; None if there are none.

    A recorded graph holds for the shapes that it was recorded on. So its further inputs have these shapes and other values;
    other sizes are for the audit of the user's own code.
    """
    src, dst = plan.src.main.inputs or given.src, plan.dst.main.inputs or given.dst
    if src is not None and dst is not None:
        return _like(src, dst)
    found = find_inputs(plan.src.main, plan.dst.main)
    if not found:
        return None
    second = InputPair.same(found[1] if len(found) > 1 else others(found[0], seed=1))
    return ChosenInputs(InputPair.same(found[0]), (second,), (second,))


def windows_of_one(plan: Plan) -> tuple[str, ...]:
    """Return the average pools whose window is as large as the map in one model, where the other model has a mean.

    The two are equal on maps of this size, to which the proof is then limited.
    """
    ours, theirs = plan.src.main.covering, plan.dst.main.covering
    return max(ours, theirs, key=len) if len(ours) != len(theirs) else ()


def _like(src: Inputs, dst: Inputs) -> ChosenInputs:
    drawn = others(src, seed=1)
    second = InputPair(drawn, as_shared(others(dst, seed=1), dst, drawn, src))
    return ChosenInputs(InputPair(src, dst), (second,), (second,))
