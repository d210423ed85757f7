"""Part: the part of a destination that is to be filled, such as the backbone of a detector."""

from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

from fxmap.errors import LoadError
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.under import under
from fxmap.model.wrappers import unwrap


@dataclass(frozen=True)
class Part:
    """A model, what stands before its keys in the state dict of the `whole`, and that."""

    model: nn.Module
    prefix: str
    whole: nn.Module

    def outside(self, mapping: KeyMapping) -> KeyMapping:
        """Return a mapping of the part's keys as one of the whole's, which keeps all others."""
        return under(mapping, self.prefix, self.whole.state_dict()) if self.prefix else mapping


def part_of(dst: nn.Module, into: str | None) -> Part:
    """Return the part of a destination that a dotted path names.

    Raises:
        LoadError: there is none.

    >>> part_of(nn.Sequential(nn.Linear(2, 2)), "0").prefix
    '0.'
    """
    if into is None:
        return Part(dst, "", dst)
    inner, prefix = unwrap(dst)
    try:
        return Part(inner.get_submodule(into), f"{prefix}{into}.", dst)
    except AttributeError:
        names = [name for name, _ in inner.named_modules() if name]
        close = get_close_matches(into, names, n=3) or names[:3]
        raise LoadError(
            f"into={into!r}: {type(inner).__name__} has no such part; the closest are {', '.join(close) or 'none'}. Nothing "
            "was written"
        ) from None
