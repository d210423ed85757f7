"""Part: the submodule of a destination that is to be filled, such as the backbone of a detector."""

from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

from fxmap.errors import LoadError
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.under import under
from fxmap.model.arguments import refuse_other_kind
from fxmap.model.wrappers import unwrap


@dataclass(frozen=True)
class Part:
    """A model to fill, the `prefix` of its keys in the state dict of the `whole` model, and that model."""

    model: nn.Module
    prefix: str
    whole: nn.Module

    def outside(self, mapping: KeyMapping) -> KeyMapping:
        """Return a mapping of the part's keys as a mapping of the whole model, whose other keys keep their values."""
        return under(mapping, self.prefix, self.whole.state_dict()) if self.prefix else mapping


def part_of(dst: nn.Module, into: str | None) -> Part:
    """Return the submodule of a destination at a dotted path, as a `Part`.

    Raises:
        LoadError: there is no such submodule.

    >>> part_of(nn.Sequential(nn.Linear(2, 2)), "0").prefix
    '0.'
    """
    if into is None:
        return Part(dst, "", dst)
    refuse_other_kind("into", into, str, "the dotted path of a submodule, as 'backbone.body'")
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
