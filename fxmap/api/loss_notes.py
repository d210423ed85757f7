"""Notes on what a calibrated destination loses: it is filled in a copy, and run, before the destination is written.

After the first write nothing may fail, and a run of the user's code may. A run that fails is a note that says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from fxmap.expressions.base import Expression
from fxmap.forms.eager import fill_twin
from fxmap.forms.fill import Filled, arguments
from fxmap.forms.saturation import FULL_RANGE
from fxmap.forms.twin import float_twin
from fxmap.mapping.findings import Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.model.inputs import copied
from fxmap.model.memory import own_memory
from fxmap.model.replica import replicate
from fxmap.model.restoring import let_through
from fxmap.model.wrappers import unwrap
from fxmap.run.noise import loss


@dataclass(frozen=True)
class FilledCopy:
    """A destination, and what it will be filled with."""

    dst: nn.Module
    expressions: Mapping[str, Expression]
    made: Filled

    def model(self) -> nn.Module:
        """Return a filled replica."""
        return self.made.copy_of(self.dst)

    def twin(self, state: Mapping[str, Any]) -> nn.Module:
        """Return the destination's float twin with the mapped weights."""
        twin = float_twin(self.dst)
        fill_twin(twin, self.expressions, state)
        return twin.module


def noted(
    mapping: KeyMapping,
    src: nn.Module | None,
    state: Mapping[str, Any],
    filled: FilledCopy,
    batch: Any,
    bounded: Mapping[str, Any],
) -> KeyMapping:
    """Return a mapping with notes on what the filled destination loses on a batch."""
    notes = list(mapping.knowledge.notes_but(NoteKind.RANGES_NEEDED))
    if src is not None and mapping.knowledge.ranges:
        notes.append(Note(f"{_FIRST}: {_against(src, state, filled.model, batch)}", NoteKind.CALIBRATED))
    if mapping.knowledge.saturating:
        text = (
            f"{len(bounded)} relus end at the bound of their counterpart, by the saturation of their integers; {FULL_RANGE}"
            if bounded
            else _cost_of_relu(mapping, src, state, lambda: filled.twin(state), batch)
        )
        notes.append(Note(text, NoteKind.SATURATION))
    return mapping.with_knowledge(notes=tuple(notes))


_FIRST = "against the float source on the first calibration batch"


def _cost_of_relu(
    mapping: KeyMapping, src: nn.Module | None, state: Mapping[str, Any], twin: Callable[[], nn.Module], batch: Any
) -> str:
    """Describe the error caused by destination relus that do not saturate: its float twin is compared with the source."""
    bounds = mapping.knowledge.saturating
    bound = next(iter(bounds.values()))[1]
    cost = "" if src is None else f"; without any rounding, {_against(src, state, twin, batch)}"
    return (
        f"the source clamps at {bound:g} where the destination has {len(bounds)} relus that do not saturate{cost}. "
        f'relu6="clamp" lets their int8 ranges end at {bound:g}, which computes the source\'s function'
    )


def _against(src: nn.Module, state: Mapping[str, Any], filled: Callable[[], nn.Module], batch: Any) -> str:
    """Describe the signal-to-noise ratio of a filled destination against the float source on one batch."""
    try:
        reference, result = replicate(unwrap(src)[0], own=True).eval(), filled().eval()
        plain = {key: value.clone() for key, value in _inner(src, state).items() if isinstance(value, Tensor)}
        args, kwargs = arguments(reference, batch)
        ours, theirs = copied((args, kwargs)), copied((args, kwargs))
        own_memory(result)
        ratio = loss(lambda: functional_call(reference, plain, *ours), lambda: result(*theirs[0], **theirs[1]))
    except Exception as error:  # whatever a model raises: it is a note, and no reason to write nothing
        let_through(error)
        return f"not known, {error}"
    return f"{ratio:.1f} dB signal to noise"


def _inner(src: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    prefix = unwrap(src)[1]
    return {key.removeprefix(prefix): value for key, value in state.items()}
