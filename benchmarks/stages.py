"""Time the stages of auto_map apart, from outside: the functions that do them are wrapped while something is measured."""

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from fxmap.graph.opgraph import INPUT, OUTPUT, TENSOR

_NO_OPERATIONS = (INPUT, OUTPUT, TENSOR)

# Where auto_map finds the function of each stage. A name that is gone raises: a stage that is not timed would be a lie.
STAGES: dict[str, tuple[str, ...]] = {
    "capture": ("fxmap.capture.captured.trace", "fxmap.capture.captured.record", "fxmap.normalize.network.build"),
    "normalise": ("fxmap.normalize.network.normalize",),
    "align": ("fxmap.matching.structure.align", "fxmap.matching.plan.align"),
    "search": ("fxmap.matching.plan.search",),
    "derive": ("fxmap.matching.structure.derive",),
    "verify": ("fxmap.api.automap.prove",),
}


@dataclass
class Stopwatch:
    """What each stage took, and how many operations the largest graph has.

    Seconds are those of this process on the CPU, which neighbours disturb less than the clock; what an inner stage took is
    not counted twice.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    operations: int = 0
    _inner: list[float] = field(default_factory=lambda: [0.0])

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.process_time()
            try:
                result = function(*args, **kwargs)
            finally:
                took = time.process_time() - start
                self.seconds[stage] += took - self._inner.pop()
                self._inner[-1] += took
            if stage == "normalise":
                self.operations = max(self.operations, sum(op.kind not in _NO_OPERATIONS for op in result.ops()))
            return result

        return timed


@contextmanager
def timed_stages() -> Iterator[Stopwatch]:
    """Time the stages of every auto_map inside.

    >>> import fxmap
    >>> from torch import nn
    >>> with timed_stages() as watch:
    ...     mapping = fxmap.auto_map(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    >>> watch.seconds["capture"] > 0
    True
    """
    watch = Stopwatch()
    with ExitStack() as stack:
        for stage, names in STAGES.items():
            for path in names:
                module, _, name = path.rpartition(".")
                owner = importlib.import_module(module)
                stack.enter_context(patch.object(owner, name, watch.wrap(stage, getattr(owner, name))))
        yield watch
