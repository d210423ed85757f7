"""What is known of a destination key, and what running both models showed."""

from dataclasses import dataclass, field
from enum import StrEnum

from fxmap.trace import Trace

# Of a proof, relative to the largest absolute value; the second where a model computes in float32 by itself.
TOLERANCE, SINGLE_TOLERANCE = 1e-9, 1e-5


class Status(StrEnum):
    """What is known of a destination key."""

    PROVEN = "proven"
    TIED = "tied"
    INERT = "inert"
    MATCHED = "matched"
    GUESSED = "guessed"
    CALIBRATED = "calibrated"
    TAKEN = "taken"
    KEPT = "kept"
    MISSING = "missing"
    MISMATCHED = "mismatched"


@dataclass(frozen=True, slots=True)
class Divergence:
    """The earliest aligned pair of operations whose inputs agree and whose outputs, or static attributes, do not."""

    src: str
    dst: str
    error: float
    attribute: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        what = f": {self.attribute}" if self.attribute else ""
        size = " (equal on these inputs)" if self.error <= TOLERANCE else f" (relative error {self.error:.1e})"
        size = "" if self.error == float("inf") else size
        return f"first divergence: {self.dst} against {self.src}{what}{size}{'. ' + self.remedy if self.remedy else ''}"


@dataclass(frozen=True)
class Proof:
    """What running both models showed.

    `ok`: the outputs agree, and every key that the output depends on is proven or tied. `error` is the largest relative
    error of the outputs in float64; `inputs` are their shapes; `forwards` counts forward passes, a backward pass as two.
    `reason` says why `ok` is false; `notes` are what else is to be known. A quantized destination is proven on its float
    twin; `sqnr` is its own signal-to-noise ratio in dB against the float source, if it holds what the mapping makes. `trace`
    has the stages that `fxmap.verify` ran.
    """

    ok: bool = False
    statuses: dict[str, Status] = field(default_factory=dict)
    error: float = float("nan")
    divergence: Divergence | None = None
    forwards: int = 0
    inputs: tuple[str, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()
    sqnr: float | None = None
    trace: Trace = field(default_factory=Trace, compare=False, repr=False)

    def status(self, key: str) -> Status:
        """Return what was shown of a destination key.

        Raises:
            KeyError: the destination has no such key.
        """
        return self.statuses[key]

    def __str__(self) -> str:
        if not self.forwards:
            return f"proof: nothing could be run: {self.reason}"
        head = "proof: ok" if self.ok else f"proof: not ok: {self.reason}"
        error = "outputs of other shapes" if self.error == float("inf") else f"relative error {self.error:.1e}"
        ran = f"run in float64 on {' and '.join(self.inputs)}, {self.forwards} forward passes, {error}"
        divergence = [] if self.divergence is None else [str(self.divergence)]
        loss = [] if self.sqnr is None else [f"as int8, {self.sqnr:.1f} dB signal to noise against the float source"]
        return "\n".join([f"{head}; {ran}", *divergence, *self.notes, *loss])
