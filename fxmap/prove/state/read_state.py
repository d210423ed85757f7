"""State that code reads: integers, switches, and what no graph shows, changed in both models alike.

`h[..., order.tolist()]`, `h[int(w[0]):int(w[1])]` and `queue[int(pointer)]` leave nothing of the tensor in a graph, and a
gradient knows no integers. So the tensors that either model's own code touches are given other values in the source, and
those that the mapping makes of them in the destination: permuted, one more, one less, numbers that the code names. Where
both models move alike, the mapping is right; where they do not, it is refuted.

>>> reads = Reads()
>>> own = {"order": torch.tensor([1, 0]), "count": torch.tensor(3)}
>>> with reads.among(own):
...     _ = torch.ones(2)[own["order"].tolist()]
>>> reads.paths
{'order'}

Cost: one run of each model, and about ten more of both where one of them reads such a tensor, times the logarithm of their
number for each that matters.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fxmap.forms.store import COPY
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.matching.plan import Plan
from fxmap.model.restoring import let_through
from fxmap.model.tensors import is_whole, named_outputs
from fxmap.prove.inputs.samples import Both
from fxmap.prove.runs.weights import Weights, held, mapped_weights
from fxmap.prove.state.changed import Changed, by_halves, changed_values, is_moved
from fxmap.prove.state.other_integers import apart, integers_like

# How often tensors are changed apart from each other.
_APART = 10


class Reads(TorchFunctionMode):
    """Notes which of some tensors are handed to a function of torch, inside a `with` block of `among`.

    Attributes:
        paths: the names of those that were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paths: set[str] = set()
        self._names: dict[int, list[str]] = {}

    def among(self, own: Mapping[str, Tensor]) -> "Reads":
        """Say which tensors to look for, by name."""
        self._names = {}
        for path, tensor in own.items():
            self._names.setdefault(id(tensor), []).append(path)
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the tensors of a call."""
        for value in (*args, *(kwargs or {}).values()):
            for part in value if isinstance(value, list | tuple) else (value,):
                self.paths.update(self._names.get(id(part), ()))
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class ReadState:
    """A test of the state that code reads, by changing it in both models.

    Attributes:
        mapping, plan, weights, sample: the models, and what they run on.
        call: runs a model, 0 or 1, with tensors, and notes what it reads.
        differ: how far an output of the source and one of the destination are apart.
        tolerance: how far equal ones may be apart.
        still: how far an output moves by rounding.
        numbers: those that the code of the models names.
        limit: how many values of each tensor are tried.
    """

    mapping: KeyMapping
    plan: Plan
    weights: Weights
    sample: Both
    call: Callable[[int, Mapping[str, Tensor], Reads | None], Any]
    differ: Callable[[Any, Any], float]
    tolerance: float
    still: float
    numbers: Sequence[float] = ()
    limit: int = 100
    reads: tuple[Reads, Reads] = field(default_factory=lambda: (Reads(), Reads()))

    def run(self) -> tuple[list[str], list[str]]:
        """Return the destination's tensors, by path, that move both models alike, and those that do not."""
        found: tuple[list[str], list[str]] = [], []
        keys = [key for key in self.mapping if self._is_asked_for(key)]
        before = self._watched() if keys or self._has_integers() else None
        if before is None:
            return found
        keys = [key for key in keys if self._is_read(key)]
        for group in ([key for key in keys if self._is_whole(key)], [key for key in keys if not self._is_whole(key)]):
            for key in by_halves(group, lambda some: self._shows(some, before)):
                unlike = any(self._is_unlike(changed, before) for changed in self._changes([key]))
                found[unlike].extend(self._parts(key))
        whole = [key for key in keys if self._is_whole(key) and not set(self._parts(key)) & set(found[1])]
        for key in self._unlike_apart(whole, before):
            found[1].extend(self._parts(key))
        return [path for path in found[0] if path not in found[1]], found[1]

    def ignored(self, kept: set[str]) -> set[str]:
        """Return the names of tables that the destination keeps in its state dict, and that its code does not read."""
        if not self.reads[1].paths:
            return set()  # it was not run
        names = {key.removeprefix(self.plan.dst.prefix) for key in kept}
        return {name for name in names if self.reads[1].paths.isdisjoint(self.plan.dst.names(name))}

    def _has_integers(self) -> bool:
        return any(is_whole(tensor) for tensor in self.weights.src.values())

    def _parts(self, key: str) -> list[str]:
        return list(self.plan.dst.names(key.removeprefix(self.plan.dst.prefix)))

    def _sources(self, key: str) -> set[str]:
        return held(self.plan.src, set(self.mapping[key].sources()))

    def _is_whole(self, key: str) -> bool:
        return all(is_whole(self.weights.src[path]) for path in self._sources(key))

    def _is_asked_for(self, key: str) -> bool:
        """Whether a key holds integers, or numbers that the destination's graph does not read."""
        dst = self.plan.dst
        store = dst.twin.stores.get(key.removeprefix(dst.prefix))
        if store is None or store.part == COPY or not self._sources(key):
            return False
        whole = [is_whole(self.weights.src[path]) for path in self._sources(key)]
        return all(whole) or (not any(whole) and dst.main.read.isdisjoint(self._parts(key)))

    def _is_read(self, key: str) -> bool:
        """Whether a model's code touches a key: one of numbers in the source, which is where its effect would be missing."""
        ours = not self.reads[0].paths.isdisjoint(self._sources(key))
        return ours or (self._is_whole(key) and not self.reads[1].paths.isdisjoint(self._parts(key)))

    def _watched(self) -> tuple[Any, Any] | None:
        try:
            tensors = self.weights.src, self.weights.dst
            return self.call(0, tensors[0], self.reads[0]), self.call(1, tensors[1], self.reads[1])
        except Exception as error:  # whatever a model raises
            let_through(error)
            return None

    def _changes(self, keys: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
        """Yield other values of the source's tensors that keys are made of, by path."""
        own = self.weights.src
        paths = sorted(set().union(*(self._sources(key) for key in keys)))
        if not all(is_whole(own[path]) for path in paths):
            yield from (changed.tensors for changed in islice(changed_values(own, paths), self.limit))
            return
        lists = {path: integers_like(own[path], self.numbers)[: self.limit] for path in paths}
        for place in range(max(map(len, lists.values()), default=0)):
            yield {path: values[min(place, len(values) - 1)] for path, values in lists.items() if values}

    def _shows(self, keys: list[str], before: tuple[Any, Any]) -> bool:
        """Whether changed keys move an output, or cannot be changed together."""
        for changed in self._changes(keys):
            after = self._after(changed)
            if (len(keys) > 1) if after is None else self._moves_alike(after, before) is not None:
                return True
        return False

    def _unlike_apart(self, keys: list[str], before: tuple[Any, Any]) -> list[str]:
        """Return the fewest keys whose integers, changed apart from each other, move one model otherwise than the other.

        Two permutations commute where both are the same, and where one is the identity.
        """
        paths = {path: self.weights.src[path] for key in keys for path in sorted(self._sources(key))}
        for changed in apart(paths, self.numbers, min(_APART, self.limit // 2)) if len(paths) > 1 else ():
            if self._is_unlike(changed, before):
                needed = dict(changed)
                for path in changed:
                    fewer = {other: value for other, value in needed.items() if other != path}
                    needed = fewer if fewer and self._is_unlike(fewer, before) else needed
                return [key for key in keys if not needed.keys().isdisjoint(self._sources(key))]
        return []

    def _is_unlike(self, changed: Mapping[str, Tensor], before: tuple[Any, Any]) -> bool:
        """Whether other values move one model otherwise than the other; not where one of them does not take the values."""
        after = self._after(changed)
        return after is not None and self._moves_alike(after, before) is False

    def _moves_alike(self, after: tuple[Any, Any], before: tuple[Any, Any]) -> bool | None:
        """Return whether both models have moved alike; None where none has."""
        if self.differ(*after) > self.tolerance:
            return False
        return True if is_moved(named_outputs(before[1]), named_outputs(after[1]), Changed({}, self.still)) else None

    @torch.no_grad()
    def _after(self, changed: Mapping[str, Tensor]) -> tuple[Any, Any] | None:
        """Return what both models make of other values; None where one of them does not take these."""
        source = {**self.weights.src, **changed}
        try:
            ours = self.call(0, source, None)
            theirs = self.call(1, mapped_weights(self.mapping, self.plan.src, self.plan.dst, source).dst, None)
        except Exception as error:  # whatever a model raises on values that it does not take
            let_through(error)
            return None
        numbers = [value for _, value in named_outputs(ours) if value.is_floating_point()]
        return (ours, theirs) if all(bool(torch.isfinite(value).all()) for value in numbers) else None
