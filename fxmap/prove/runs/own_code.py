"""The user's own code of both models, run with the proof's tensors to check the captured graphs.

Captured graphs are fxmap's reading of the models. A graph that misses something (an operation in C++, a branch that other
inputs take) would make every comparison of graphs agree. So the two `forward`s run as they are, and their outputs are
compared, on other values than those of the graphs.

Cost: one forward pass of each model; two where they differ by no more than single precision rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fxmap.mapping.proof import SINGLE_TOLERANCE
from fxmap.matching.sides import Side
from fxmap.model.faults import said
from fxmap.model.inputs import Inputs
from fxmap.model.places import Places
from fxmap.model.recall import active
from fxmap.model.replica import run_fresh
from fxmap.model.restoring import let_through
from fxmap.model.tensors import outputs_of
from fxmap.prove.runs.choose_inputs import InputPair
from fxmap.prove.runs.lookups import Lookups
from fxmap.prove.runs.passes import Passes
from fxmap.prove.runs.weights import Weights
from fxmap.run.distance import is_telling, output_error
from fxmap.run.precision import SinglePrecision

Watch = AbstractContextManager[object]


class Undecided(Exception):
    """Outputs that say nothing about the weights."""


@dataclass(frozen=True, slots=True)
class OwnCodeRun:
    """The results of running both models' own code.

    `error` is that of the outputs, and `tolerance` the largest that counts as equal; `inputs` are those of the run.
    `trouble` says why the models do not run; empty where they do. `tables` are the rows of the tables that integer inputs
    of each model index, by their position.
    """

    error: float
    tolerance: float
    inputs: InputPair
    trouble: str = ""
    tables: tuple[Mapping[int, int], Mapping[int, int]] = ({}, {})

    @property
    def agrees(self) -> bool:
        """Whether the outputs are equal."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class OwnCode:
    """The two models, and the correspondence of their outputs."""

    src: Side
    dst: Side
    returned: Sequence[tuple[int, int]]
    passes: Passes

    def run(self, weights: Weights, choices: Sequence[InputPair], tolerance: float) -> OwnCodeRun:
        """Run both models on the first of several inputs that both accept."""
        trouble = ""
        for inputs in choices:
            watches = Lookups(inputs.src.flat()), Lookups(inputs.dst.flat())
            try:
                error = self._error(weights, inputs, watches)
            except Undecided as undecided:
                trouble = str(undecided)
                continue
            except Exception as raised:  # whatever a model raises on inputs or tensors that do not fit it
                let_through(raised)
                trouble = f"{type(raised).__name__}: {said(raised)}"
                continue
            if tolerance < error <= SINGLE_TOLERANCE:
                # Where one of the models computes in float32 by itself, its own rounding is no difference.
                with SinglePrecision() as seen:
                    self._error(weights, inputs, watches)
                tolerance = SINGLE_TOLERANCE if seen.found else tolerance
            return OwnCodeRun(error, tolerance, inputs, tables=(watches[0].rows, watches[1].rows))
        return OwnCodeRun(float("inf"), tolerance, choices[-1], trouble)

    def _error(self, weights: Weights, inputs: InputPair, watches: tuple[Lookups, Lookups]) -> float:
        with torch.no_grad():
            with watches[0]:
                expected = outputs_of(call_own(self.src, weights.src, inputs.src))
            self.passes.add()
            with watches[1]:
                actual = outputs_of(call_own(self.dst, weights.dst, inputs.dst))
            self.passes.add()
        if not is_telling(expected):
            raise Undecided("the source's outputs are not finite, or all zero")
        error = output_error(expected, actual, self.returned)
        if error > SINGLE_TOLERANCE and not self._repeats(weights, inputs):
            raise Undecided("two runs of the source on the same inputs differ: its forward draws random numbers")
        return error

    def _repeats(self, weights: Weights, inputs: InputPair) -> bool:
        """Whether the source returns the same on the same inputs, as one with dropout in its forward does not."""
        with torch.no_grad():
            one, other = (outputs_of(call_own(self.src, weights.src, inputs.src)) for _ in range(2))
        self.passes.add(2)
        same = [(index, index) for index in range(len(one))]
        return len(one) == len(other) and output_error(one, other, same) <= SINGLE_TOLERANCE


def call_own(
    side: Side, tensors: Mapping[str, Tensor], inputs: Inputs, watch: Callable[[Mapping[str, Tensor]], Watch] | None = None
) -> Any:
    """Run the user's own code with other tensors, in float64, and return its output.

    Args:
        side: the model.
        tensors: its tensors, by path.
        inputs: of the call.
        watch: returns a context for the run of the code, from the tensors that the code reads, by path.
    """
    module, places = side.main.module, side.places
    calling = _Calling(module, inputs.double())
    with torch._C.DisableTorchFunction():
        own = _own(places, tensors)
    if (recall := active()) is not None:
        recall.next_run()

    def run() -> Any:
        with nullcontext() if watch is None else watch(own):
            return _call(calling, places, own)

    with places.unchanged(module, own):
        return run_fresh(module, run, places.tables)


def _own(places: Places, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one run, by path: code may write to its state, and every run begins with the same."""
    # Buffers that are no part of the state dict are each model's own, in the dtype of the rest.
    tables = {path: buffer.double() for path, buffer in places.buffers if buffer.dtype is torch.float32}
    state = {id(t := tensors.get(path, buffer)): t.clone() for path, buffer in places.buffers}
    own = {path: state.get(id(tensor), tensor) for path, tensor in (tables | dict(tensors)).items()}
    rest = {path: state[id(buffer)] for path, buffer in places.buffers if path not in own and id(buffer) in state}
    return own | rest


def _call(calling: "_Calling", places: Places, tensors: Mapping[str, Tensor]) -> Any:
    # Modules of TorchScript keep their tensor objects, which hold the values.
    if places.scripted or places.take(tensors):
        return calling()
    return functional_call(calling, {f"module.{path}": value for path, value in tensors.items()}, (), tie_weights=False)


class _Calling(nn.Module):
    """A model with its inputs, and the user's function instead of forward if there is one."""

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.module, self.inputs = module, inputs

    def forward(self) -> Any:
        """Run the model on the inputs, set to eval mode again, since some models compute tables from parameters then."""
        self.module.eval()
        return self.inputs.map(_copy).call(self.module)  # code may write to them


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy that lies in memory as the tensor does, which code may ask for."""
    if tensor.layout is not torch.strided or (tensor.storage_offset() == 0 and 0 not in tensor.stride()):
        return tensor.clone()
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.as_strided((count,), (1,), 0).clone().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
