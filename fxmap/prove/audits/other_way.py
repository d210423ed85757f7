"""Other ways: what two models do where their code goes a way that no compared run went.

A run in which something was turned round shows that the models are the same there, or that they differ. It may also show
nothing: where both fail alike, where no replica runs the code that was turned, or where there are no numbers.

Cost: one run of both models, and one more of the other model where one of them fails.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from enum import Enum
from functools import partial
from typing import Protocol

import torch
from torch import nn

from fxmap.model.restoring import let_through
from fxmap.prove.audits.audit import Auditor
from fxmap.prove.code.decisions import Site
from fxmap.prove.code.jumps import Jump
from fxmap.prove.inputs.samples import Both

Models = tuple[nn.Module, nn.Module]
Ran = Callable[[Auditor], bool]
# A run in which code was turned is noted nowhere.
TURNED = frozenset({Site("", 0, 0, 0, by_value=True)})


class Outcome(Enum):
    """What a run of two models shows: `ALONE` that one of them fails there, `UNSHOWN` nothing, as where both fail."""

    SAME = "same"
    DIFFERENT = "different"
    ALONE = "alone"
    UNSHOWN = "unshown"


class OtherWay(Protocol):
    """A way that no compared run went: where the code chooses, and which of the models have that code."""

    @property
    def jump(self) -> Jump:
        """The place, and what the choice there reads."""

    @property
    def models(self) -> tuple[int, ...]:
        """Which of the models have the code."""

    @property
    def never(self) -> object:
        """What no run made of it."""

    def inputs(self, auditor: Auditor) -> Both | None:
        """Return inputs that lead to the place."""

    def taken(self, models: Models) -> AbstractContextManager[Ran | None]:
        """Go this way inside of the `with` block; return what says whether it was gone, or None if nothing could go it."""


def outcome_of(auditor: Auditor, models: Models, *ways: OtherWay) -> Outcome:
    """Run two models where some ways are gone, on inputs that lead to the first one."""
    inputs = ways[0].inputs(auditor)
    if inputs is None:
        return Outcome.UNSHOWN
    with ExitStack() as stack:
        ran = [stack.enter_context(way.taken(models)) for way in ways]
        if None in ran:
            return Outcome.UNSHOWN
        found = auditor.compare(inputs, forced=TURNED)
        if found is None:
            return failing(auditor, inputs)
        if found[1]:
            return Outcome.UNSHOWN
        if not found[0] <= auditor.tolerance:
            return Outcome.DIFFERENT
        return Outcome.SAME if all(went is not None and went(auditor) for went in ran) else Outcome.UNSHOWN


def failing(auditor: Auditor, inputs: Both, forced: frozenset[Site] = TURNED) -> Outcome:
    """Return what it shows that there were no numbers: something if one of the models failed, and the other one runs."""
    which = auditor.log.refused
    if which is None:
        return Outcome.UNSHOWN
    other = 1 - which
    try:
        with torch.no_grad():
            auditor.log.watched(other, partial((auditor.src, auditor.dst)[other], inputs[other]), forced)
    except Exception as error:  # whatever a model raises where its code went a way that the inputs did not ask for
        let_through(error)
        return Outcome.UNSHOWN
    return Outcome.ALONE
