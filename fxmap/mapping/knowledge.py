"""What is known of a mapping beside its expressions."""

from dataclasses import dataclass, field

from fxmap.expressions.base import Expression
from fxmap.mapping.proof import Status


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A destination tensor whose counterpart has another shape: a replaced head."""

    key: str
    source: str
    src_shape: tuple[int, ...]
    dst_shape: tuple[int, ...]


@dataclass(frozen=True)
class Knowledge:
    """What is known beside the expressions.

    `statuses` covers every destination key; `unread` are those that the destination reads in training mode only, or never;
    `ranges` the activation ranges of a static int8 destination; `reasons` say why a key could not be made; `notes` are
    sentences for the report; `saturating` are relus of an int8 destination whose counterpart saturates, each with the int8
    module whose range bounds it, and where it must end; `literals` are ranges that an int8 source gives a graph which has
    them in its code: scale and zero point, by the name of the node.
    """

    statuses: dict[str, Status] = field(default_factory=dict)
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    unread: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stages: tuple[str, str] = ("", "")
    rungs: tuple[str, str] = ("", "")
    saturating: dict[str, tuple[str, float]] = field(default_factory=dict)
    literals: dict[str, tuple[Expression, Expression]] = field(default_factory=dict)
    different: str = ""
    blocked: str = ""
