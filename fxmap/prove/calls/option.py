"""An option: one argument of both models that is another one, as a change that can follow other changes.

>>> import torch
>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs({"x": torch.zeros(2)}),) * 2
>>> causal = Option("with causal=True", in_both(lambda inputs: with_keyword(inputs, "causal", True)), given="causal")
>>> sorted(causal.change(both)[0].kwargs)
['causal', 'x']

Cost: linear in what the arguments hold.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fxmap.model.inputs import Inputs
from fxmap.model.restoring import let_through
from fxmap.prove.inputs.samples import Both

Change = Callable[[Both], Both]


@dataclass(frozen=True, slots=True)
class Option:
    """A change of the inputs of both models, and words for it.

    `left_out` is the name of an argument of both models that the example has not, where a tensor is given for it; `given`
    is that name whatever is given, or the name of a value of the example's that is another one. Of the options of one
    `factor` one alone can be taken; those without one stand by themselves. `value` is what is given, where that is one.
    """

    text: str
    change: Change
    left_out: str = ""
    given: str = ""
    factor: str = ""
    value: Any = None

    @property
    def kind(self) -> Hashable:
        """What tells the options of one factor apart: of tensors the shape, and whether they are numbers with a point."""
        if isinstance(self.value, Tensor):
            return self.value.is_floating_point(), tuple(self.value.shape)
        return self.text

    def applied(self, both: Both) -> Both | None:
        """Return the changed inputs; None where what holds them refuses the change, as a batch may refuse a new key."""
        try:
            return self.change(both)
        except Exception as error:  # whatever a class of the user raises
            let_through(error)
            return None


def in_both(change: Callable[[Inputs], Inputs]) -> Change:
    """Return the change of both models' inputs by one function."""
    return lambda both: (change(both[0]), change(both[1]))


def with_keyword(inputs: Inputs, name: str, value: Any) -> Inputs:
    """Return inputs with one more keyword argument, or another one."""
    return replace(inputs, kwargs={**inputs.kwargs, name: value})


def shown(name: str, value: Any) -> str:
    """Write what is given for an argument: itself where that is short, and its name alone where it has tensors."""
    # To write a tensor takes longer than a small run.
    text = "" if _has_tensors(value) else repr(value)
    return f"with {name}={text}" if 0 < len(text) < _LONG else f"with {name}"


_LONG = 60


def _has_tensors(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, Tensor) or any(map(_has_tensors, parts))
