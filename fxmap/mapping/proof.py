"""The status of a destination key, and the proof: the result of running both models with the mapped weights."""

from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Literal, Self

from fxmap.errors import ArgumentError, shorten
from fxmap.mapping.given import found_in
from fxmap.trace import Trace

# The names of statuses, for editors to complete where one is written out.
StatusName = Literal[
    "proven", "tied", "inert", "claimed", "matched", "guessed", "calibrated", "taken", "kept", "missing", "mismatched"
]

# Of a proof, relative to the largest absolute value; the second where a model computes in float32 by itself.
TOLERANCE, SINGLE_TOLERANCE = 1e-9, 1e-5


class Status(StrEnum):
    """How a destination key is made, and how far that is proven; `meaning` is the text that reports print.

    >>> Status("tied") is Status.TIED, Status.TIED.is_proven, Status.KEPT.is_proven, Status.KEPT.is_done
    (True, True, False, True)
    """

    meaning: str

    PROVEN = "proven", "proven: both models were run, and no other choice gives the same function"
    TIED = "tied", "tied: the network is symmetric there, and every choice gives the same function"
    INERT = "inert", "inert: the output does not depend on them"
    CLAIMED = "claimed", "claimed by a file or by parts to be proven, not verified here"
    MATCHED = "matched", "matched by structure, not proven"
    GUESSED = "guessed", "guessed by shapes, names and order"
    CALIBRATED = "calibrated", "from calibration data"
    TAKEN = "taken", "ranges of activations, taken over from the int8 source"
    KEPT = "kept", "kept: the destination's own (ranges, observers, counters)"
    MISSING = "missing", "missing: no source"
    MISMATCHED = "mismatched", "mismatched: the source's counterpart has another shape"

    def __new__(cls, value: str, meaning: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = member.__doc__ = meaning
        return member

    @classmethod
    def _missing_(cls, value: object) -> "Status":
        names = [str(status) for status in cls]
        close = get_close_matches(str(value), names, n=1)
        raise ArgumentError(
            f"{value!r}: no status{f', the closest is {close[0]!r}' if close else ''}; they are {', '.join(names)}"
        )

    @property
    def unverified(self) -> "Status":
        """The status that is left of this one where it is read from a file: what was proven elsewhere is a claim here.

        >>> Status.PROVEN.unverified, Status.KEPT.unverified
        (<Status.CLAIMED: 'claimed'>, <Status.KEPT: 'kept'>)
        """
        return Status.CLAIMED if self.is_proven else self

    @property
    def is_proven(self) -> bool:
        """Whether running both models showed that the key is right: proven, tied or inert."""
        return self in (Status.PROVEN, Status.TIED, Status.INERT)

    @property
    def is_done(self) -> bool:
        """Whether a proof leaves nothing open: the key is proven, or its value does not come from the source's weights."""
        return self.is_proven or self in (Status.KEPT, Status.CALIBRATED, Status.TAKEN)


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first place where two models part: aligned operations whose inputs agree, and whose outputs or attributes differ.

    Attributes:
        src, dst: the two operations, as a person finds them in the code.
        error: how far their outputs differ, relative to the largest; infinite where they cannot be compared.
        attribute: the difference in words, as in `eps 1e-05 against 0.001`.
        remedy: what to do about it.
    """

    src: str
    dst: str
    error: float
    attribute: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        what = f": {self.attribute}" if self.attribute else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"first divergence: {self.dst} against {self.src}{what}{self._size()}{remedy}"

    def _size(self) -> str:
        if self.error == float("inf"):
            return ""
        return " (equal on these inputs)" if self.error <= TOLERANCE else f" (relative error {self.error:.1e})"


@dataclass(frozen=True)
class Scope:
    """The inputs on which the user's own code of both models was run and agrees: a proof covers no others.

    Attributes:
        ran: the inputs, in words: sizes, lengths, scales.
        varied: the inputs that took different values.
        fixed: the inputs that did not, so that nothing is known of other values.
        part: of a destination that is a part of the source, what it returns of it, in words; empty for all others.
        avoided: ways of the models' code that no run went, and that inputs choose, in words.
    """

    ran: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    part: str = ""
    avoided: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ran)

    def __str__(self) -> str:
        return self._line(self.ran)

    @property
    def short(self) -> str:
        """The scope on a line, with the first inputs alone, of which `Proof.explain` lists all.

        >>> Scope(ran=("4x6 (drawn values)", "2x3 (another length)", "2x15 (another length)")).short
        "scope: the models' own code agrees on 4x6 (drawn values) and 2 more kinds of inputs"
        """
        if len(self.ran) < 3:
            return str(self)
        return self._line((f"{self.ran[0]} and {len(self.ran) - 1} more kinds of inputs",))

    def _line(self, ran: tuple[str, ...]) -> str:
        part = f"the destination is a part of the source, and returns {self.part}; " if self.part else ""
        fixed = f"; {', '.join(self.fixed)} had one value alone" if self.fixed else ""
        avoided = f"; branches not taken: {shorten(self.avoided)}" if self.avoided else ""
        return f"scope: {part}the models' own code agrees on {'; '.join(ran) or 'nothing'}{fixed}{avoided}"


@dataclass(frozen=True, repr=False)
class Proof:
    """The result of running both models with the mapped weights on the same random inputs, in float64.

    A quantized destination is proven on its float twin. It prints on a few lines; `explain` says all of it.

    Attributes:
        ok: the outputs agree, and every key that the output depends on is proven or tied.
        statuses: of every destination key.
        error: the largest difference of the outputs, relative to the largest output.
        divergence: where the models part first, if they do.
        forwards: the number of forward passes; a backward pass counts as two.
        inputs: the shapes of the inputs.
        reason: why `ok` is false; empty where it is true.
        notes: further sentences for the report.
        differs: the outputs are not equal on the example inputs.
        explained: something that is named accounts for that: an attribute, a constant or an operation of one model, or a key
            that the mapping leaves to the destination.
        asked: whether a proof was asked for.
        own_state: state of the source, by key, that moves its outputs and that no key is made of, where nothing else stands
            against the proof: for a checkpoint that holds the source's own values of it, the mapping is proven.
        sqnr: of an int8 destination that holds what the mapping makes, its signal to quantization noise ratio against the
            float source, in dB.
        trace: the stages that `fxmap.verify` ran.
        scope: on what inputs the models' own code was compared.
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
    differs: bool = False
    explained: bool = False
    asked: bool = True
    trace: Trace = field(default_factory=Trace, compare=False, repr=False)
    own_state: tuple[str, ...] = ()
    scope: Scope = field(default_factory=Scope)

    @classmethod
    def not_asked(cls, statuses: dict[str, Status], reason: str = "") -> Self:
        """Return the proof of a mapping that nobody asked to prove.

        >>> print(Proof.not_asked({}))
        proof: not asked for: run both models with fxmap.verify(src, dst, mapping)
        """
        return cls(statuses=statuses, reason=reason or "run both models with fxmap.verify(src, dst, mapping)", asked=False)

    @property
    def refuted(self) -> bool:
        """Whether a run showed that the mapping is wrong.

        Both models were run, their outputs differ by more than single precision rounds, and nothing that is named explains
        it: neither a difference of the two models themselves (an activation, an eps), nor a key that the mapping leaves to
        the destination (a replaced head).

        >>> Proof(forwards=6, error=0.4, differs=True).refuted
        True
        >>> Proof(forwards=6, error=0.4, differs=True, explained=True).refuted
        False
        """
        return bool(self.forwards) and self.differs and not self.explained and self.error > SINGLE_TOLERANCE

    @property
    def verdict(self) -> str:
        """The result in a few words.

        >>> Proof(ok=True, forwards=6).verdict, Proof().verdict, Proof.not_asked({}).verdict
        ('proven', 'not proven', 'no proof asked for')
        """
        if self.ok:
            return "proven"
        if not self.asked:
            return "no proof asked for"
        if self.refuted:
            return "refuted"
        return "outputs differ" if self.differs else "not proven"

    def status(self, key: str) -> Status:
        """Return the status of a destination key after the proof.

        Raises:
            KeyError: the destination has no such key.
        """
        return found_in(self.statuses, key)

    def __repr__(self) -> str:
        ran = f", {self.forwards} forward passes, relative error {self.error:.1e}" if self.forwards else ""
        return f"<Proof: {self.verdict}{ran}>"

    def __str__(self) -> str:
        return "\n".join([self._head(), *([self.scope.short] if self.scope and self.forwards else []), *self._rest()])

    def explain(self) -> str:
        """Return all that the proof says: what was run, on which inputs, what is known of the keys, what it leaves out.

        >>> scope = Scope(ran=("4x6 (drawn values)", "2x3 (another length)", "1x35 (another length)"))
        >>> print(Proof(True, {"a": Status.PROVEN}, 1e-12, None, 6, ("4x6",), scope=scope).explain())
        proof: ok; run in float64 on 4x6, 6 forward passes, relative error 1.0e-12
        scope: the models' own code agrees on
          4x6 (drawn values)
          2x3 (another length)
          1x35 (another length)
        keys:
              1  proven: both models were run, and no other choice gives the same function
        not covered: training mode, gradients, rounding in lower precision, and inputs of kinds that were not run
        """
        lines = [self._head()]
        if self.scope and self.forwards:
            head, _, _ = str(self.scope).partition(" on " + self.scope.ran[0])
            fixed = [f"  {name} had one value alone" for name in self.scope.fixed]
            lines += [f"{head} on", *(f"  {one}" for one in self.scope.ran), *fixed]
        counts = Counter(self.statuses.values())
        lines += self._rest()
        lines += ["keys:"] * bool(counts) + [f"  {counts[one]:5d}  {one.meaning}" for one in Status if counts[one]]
        if self.forwards:
            lines.append(f"not covered: {_NOT_COVERED}")
        return "\n".join(lines)

    def _head(self) -> str:
        if not self.asked:
            return f"proof: not asked for: {self.reason}"
        if not self.forwards:
            return f"proof: nothing could be run: {self.reason}"
        head = "proof: ok" if self.ok else f"proof: not ok: {self.reason}"
        error = "outputs of other shapes" if self.error == float("inf") else f"relative error {self.error:.1e}"
        return f"{head}; run in float64 on {' and '.join(self.inputs)}, {self.forwards} forward passes, {error}"

    def _rest(self) -> list[str]:
        """Return the divergence, the notes and the loss; nothing where nothing was run."""
        if not self.forwards or not self.asked:
            return []
        divergence = [] if self.divergence is None else [str(self.divergence)]
        loss = [] if self.sqnr is None else [f"as int8, {self.sqnr:.1f} dB signal to noise against the float source"]
        return [*divergence, *self.notes, *loss]


_NOT_COVERED = "training mode, gradients, rounding in lower precision, and inputs of kinds that were not run"
