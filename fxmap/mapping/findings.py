"""Findings: status, reason and notes for the keys of a mapping, as enums and records instead of prose.

>>> found = Findings(
...     {"fc.weight": Status.PROVEN, "fc.scale": Status.KEPT},
...     notes=(Note("1 activation range cannot be made from weights", NoteKind.RANGES_NEEDED),),
... )
>>> print(found)
      1  proven: both models were run, and no other choice gives the same function
      1  kept: the destination's own (ranges, observers, counters)
note: 1 activation range cannot be made from weights
>>> found.notes_of(NoteKind.RANGES_NEEDED) == found.notes
True
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from fxmap.errors import shorten
from fxmap.expressions.base import Expression
from fxmap.expressions.layout import Placed
from fxmap.files.checkpoint import Checkpoint
from fxmap.mapping.proof import Status, StatusName

# Keys, pairs of shapes and reasons that are printed; the fields have them all.
_MANY = 6


# The value of `Findings.rungs` where there are no graphs: keys are matched by names, shapes and order.
NAMES_ALONE = "names"


class NoteKind(StrEnum):
    """The subject of a note in the report."""

    OTHER = "other"
    NO_GRAPH = "no graph"
    DIFFERENT_NETWORKS = "different networks"
    WRAPPERS = "wrappers"
    CHECKPOINT = "checkpoint"
    EPS_ABSORBED = "eps absorbed"
    NOT_QUANTIZED = "not quantized"
    UNREAD_COPIES = "unread copies"
    TENSOR_SUBCLASS = "tensor subclass"
    FLOAT_LAYER_INSIDE = "float layer inside int8"
    RANGES_TAKEN = "ranges taken"
    RANGES_NOT_TAKEN = "ranges not taken"
    RANGES_NEEDED = "ranges needed"
    CALIBRATED = "calibrated"
    SATURATION = "saturation"
    DISTILLED = "distilled"
    OPEN_KEYS = "open keys"
    TIED_KEYS = "tied keys"
    LAYOUT = "layout"
    KERNELS = "kernels"
    BY_ORDER = "by order"
    NUMBERING = "numbering"
    TRIAL_RUN = "trial run"
    SCALED_INPUT = "scaled input"
    FAULT = "fault"


class Note(str):
    """A sentence of the report and its kind, so that code asks for the kind and never reads the sentence.

    >>> note = Note("nothing in the destination is quantized", NoteKind.NOT_QUANTIZED)
    >>> print(note, note.kind, sep="; ")
    nothing in the destination is quantized; not quantized
    """

    __slots__ = ("kind",)
    kind: NoteKind

    def __new__(cls, text: str, kind: NoteKind = NoteKind.OTHER) -> Self:
        note = super().__new__(cls, text)
        note.kind = kind
        return note

    def __getnewargs__(self) -> tuple[str, NoteKind]:  # type: ignore[override]
        return str(self), self.kind


def checkpoint_notes(checkpoint: Checkpoint) -> tuple[Note, ...]:
    """Return a note on the other weights in a checkpoint file, if it holds several."""
    return tuple(Note(text, NoteKind.CHECKPOINT) for text in checkpoint.notes)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A destination tensor whose counterpart has another shape: a replaced head."""

    key: str
    source: str
    src_shape: tuple[int, ...]
    dst_shape: tuple[int, ...]


def said_of_rows(key: str, made: Placed, source: str) -> str:
    """Return the sentence on the rows of a table that the source does not have.

    >>> from fxmap.expressions.base import Source
    >>> said_of_rows("positions.weight", Placed(Source("embedding_2"), tuple(range(9)), 512), "embedding_2")
    'rows 9:512 of positions.weight are not in the source: embedding_2 has rows 0:9 alone'
    """
    return f"rows {made.absent} of {key} are not in the source: {source} has rows {made.present} alone"


@dataclass(frozen=True)
class Findings:
    """The facts about two models and their keys that a mapping holds beside its expressions.

    Attributes:
        statuses: of every destination key, how it is made and how far that is proven.
        unexpected: source keys that no destination key needs.
        mismatched: destination tensors whose counterpart has another shape.
        unread: destination keys that the destination reads in training mode only, or never.
        ranges: keys of the activation ranges of a static int8 destination.
        reasons: why a key could not be made, or is kept.
        notes: sentences for the report, each with its kind.
        stages: how far source and destination are quantized, in words; empty where that was not looked at.
        rungs: the sources of both models' graphs, such as "symbolic trace", or NAMES_ALONE.
        saturating: relus of an int8 destination whose counterpart saturates (ReLU6): by path, the int8 module whose range
            bounds the relu, and where that range must end.
        literals: ranges that an int8 source gives to a graph which has them in its code: scale and zero point, by the name
            of the node.
        left: keys of a file that nothing was made of, each with what it would have been.
        src_shapes: of the source's tensors that are not only renamed, by which a mapping can be inverted.
        different: why the two models are not the same network; empty where they are.
        by_order: guessed keys of which nothing but the order of the file says which is which; a note names them.
        blocked: why the destination cannot be filled or run as it was built; empty where it can.
        versions: of the destination's modules, by path, as its state dict has them; no part of equality.
        carried: how Python names a source and a destination that carry their graph, as `'model.onnx'`; no part of equality.
    """

    statuses: dict[str, Status] = field(default_factory=dict)
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    unread: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    stages: tuple[str, str] = ("", "")
    rungs: tuple[str, str] = ("", "")
    saturating: dict[str, tuple[str, float]] = field(default_factory=dict)
    literals: dict[str, tuple[Expression, Expression]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    src_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    different: str = ""
    blocked: str = ""
    by_order: tuple[str, ...] = ()
    versions: dict[str, int] = field(default_factory=dict, compare=False)
    carried: tuple[str, str] = field(default=("", ""), compare=False)

    def __post_init__(self) -> None:
        # By hand, a note may be a plain sentence.
        notes = tuple(note if isinstance(note, Note) else Note(note) for note in self.notes)
        object.__setattr__(self, "notes", notes)

    def keys_with(self, status: Status | StatusName) -> list[str]:
        """Return the destination keys of a status, in the destination's order."""
        wanted = Status(status)
        return [key for key, found in self.statuses.items() if found is wanted]

    def why_absent(self, key: str) -> str:
        """Say why the mapping does not make a key."""
        if key not in self.statuses:
            return f"not a key of the destination, which has {len(self.statuses)}"
        return f"{self.statuses[key]}: {self.reasons.get(key, 'the source does not make it')}"

    def notes_of(self, *kinds: NoteKind) -> tuple[Note, ...]:
        """Return the notes of the given kinds."""
        return tuple(note for note in self.notes if note.kind in kinds)

    def notes_but(self, *kinds: NoteKind) -> tuple[Note, ...]:
        """Return the notes of all kinds but the given ones."""
        return tuple(note for note in self.notes if note.kind not in kinds)

    def lines(self) -> Iterator[str]:
        """Yield the findings as the lines of a report."""
        yield from (f"warning: {note}" for note in self.notes_of(NoteKind.BY_ORDER))
        if self.stages[0] or self.stages[1]:
            captured = f"captured by {self.rungs[1] or 'nothing'}"
            yield f"source: {self.stages[0]}; destination: {self.stages[1]}; {captured}"
        counts = Counter(self.statuses.values())
        yield from (f"  {counts[status]:5d}  {status.meaning}{self._which(status)}" for status in Status if counts[status])
        if self.mismatched:
            yield "mismatched:"
            for m in self.mismatched[:_MANY]:
                shapes = f"{m.key} {list(m.dst_shape)}: source {m.source} {list(m.src_shape)}"
                yield f"  {self.reasons.get(m.key) or shapes}"
        yield from self._lines_of_missing()
        if self.left:
            yield from self._lines_of_left()
        elif self.unexpected:
            yield f"unexpected (in the source alone): {shorten(self.unexpected, _MANY)}"
        yield from (f"note: {note}" for note in self.notes_but(NoteKind.BY_ORDER))

    def _which(self, status: Status) -> str:
        """Return what the keys without effect are, where they are batch counters."""
        keys = self.keys_with(status) if status is Status.INERT else []
        counters = sum(key.endswith("num_batches_tracked") for key in keys)
        if not counters:
            return ""
        return " (batch counters)" if counters == len(keys) else f" ({counters} are batch counters)"

    def _lines_of_left(self) -> Iterator[str]:
        yield f"left in the file: {len(self.left)} keys"
        by_what: dict[str, list[str]] = {}
        for key, what in self.left.items():
            by_what.setdefault(what, []).append(key)
        for what, keys in list(by_what.items())[:_MANY]:
            yield f"  {shorten(keys)}: {what}"
        if len(by_what) > _MANY:
            yield f"  and {sum(map(len, list(by_what.values())[_MANY:]))} more, see left_in_file"

    def _lines_of_missing(self) -> Iterator[str]:
        missing = self.keys_with(Status.MISSING)
        if not missing:
            return
        yield f"missing: {shorten(missing, _MANY)}"
        reasons = {self.reasons[key] for key in missing if key in self.reasons}
        if len(reasons) <= _MANY:
            yield from (f"  because {reason}" for reason in sorted(reasons))
        else:
            yield from (f"  {key}: {self.reasons[key]}" for key in missing[:_MANY] if key in self.reasons)

    def __str__(self) -> str:
        return "\n".join(self.lines()) or "nothing is known beside the expressions"
