"""A kind of computed weight: the names that show it, and the expression that computes it.

A new kind is one function that makes the weights of one stem, and one entry in `KINDS` of this package.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fxmap.expressions.base import Expression, Source

Shape = tuple[int, ...]


class CannotCompute(ValueError):
    """A weight cannot be computed from the tensors that show it; the message says why, and the way out."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is known of a file beside its tensors.

    Attributes:
        lora_alpha: the strength of adapters, as the user gave it.
        adapter: the adapter_config.json beside the file; empty where there is none.
        packing: the `quantization_config` beside the file; empty where there is none.
    """

    lora_alpha: float | None = None
    adapter: Mapping[str, Any] = field(default_factory=dict)
    packing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Weight:
    """A computed tensor: its key, its expression over the file, its shape, and the keys of the file that it stands for."""

    key: str
    expression: Expression
    shape: Shape
    parts: tuple[str, ...]


@dataclass
class View:
    """The tensors of a file, with those that were computed so far in the place of their parts."""

    file: Mapping[str, Any]
    settings: Settings
    made: dict[str, Weight] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def keys(self) -> list[str]:
        """Return the keys that there are, computed ones last."""
        return [*(key for key in self.file if key not in self.gone and key not in self.made), *self.made]

    def __contains__(self, key: object) -> bool:
        return key in self.made or (key in self.file and key not in self.gone)

    def shape(self, key: str) -> Shape:
        """Return the shape of a tensor, computed or of the file.

        Raises:
            CannotCompute: there is no such tensor.
        """
        return self.made[key].shape if key in self.made else tuple(self.tensor(key).shape)

    def read(self, key: str) -> Expression:
        """Return the expression of a tensor over the file.

        Raises:
            CannotCompute: there is no such tensor.
        """
        if key not in self:
            raise CannotCompute(f"{key} is not in the file")
        return self.made[key].expression if key in self.made else Source(key)

    def tensor(self, key: str) -> Tensor:
        """Return a tensor of the file.

        Raises:
            CannotCompute: there is none.
        """
        value = self.file.get(key)
        if not isinstance(value, Tensor) or key in self.gone:
            raise CannotCompute(f"{key} is not in the file" if value is None else f"{key} is no plain tensor of the file")
        return value

    def add(self, weight: Weight) -> None:
        """Put a computed tensor in the place of its parts, which may have been computed in turn."""
        before = [self.made.pop(part) for part in weight.parts if part in self.made]
        self.gone.update(weight.parts)
        parts = (*weight.parts, *(part for other in before for part in other.parts))
        self.made[weight.key] = replace(weight, parts=parts)


Stems = Callable[[Collection[str]], list[str]]


def with_suffixes(*alternatives: tuple[str, ...]) -> Stems:
    """Return a function of keys that lists the stems which have all suffixes of one of the alternatives.

    >>> with_suffixes(("_g", "_v"))(["conv.weight_g", "conv.weight_v", "other_g"])
    ['conv.weight']
    """

    def stems(keys: Collection[str]) -> list[str]:
        known = keys if isinstance(keys, Mapping | set) else set(keys)
        found: dict[str, None] = {}
        for first, *others in alternatives:
            for key in keys:
                stem = key.removesuffix(first)
                if stem and len(stem) + len(first) == len(key) and all(stem + other in known for other in others):
                    found[stem] = None
        return list(found)

    return stems


@dataclass(frozen=True, slots=True)
class Kind:
    """A way in which weights are stored as several tensors.

    Attributes:
        name: for the report.
        stems: lists the stems of keys that show it: each is the key of a weight, or the path of a module.
        make: makes the computed tensors of one stem, or raises CannotCompute; none where the stem is something else.
        stored_so: whether a model stores its own weights in this way, by its state dict: then they are left as they are.
    """

    name: str
    stems: Stems
    make: Callable[[View, str], Iterable[Weight]]
    stored_so: Callable[[Mapping[str, Any]], bool] | None = None

    def is_in(self, wanted: Mapping[str, Any]) -> bool:
        """Whether a model stores its weights in this way; by default, whether any of its keys shows it."""
        return bool(self.stems(wanted)) if self.stored_so is None else self.stored_so(wanted)
