"""Guesses: weights that no value is affine in, such as variances, are tried as tensors of the source."""

from collections.abc import Iterator
from itertools import permutations
from math import prod

import torch
from torch import Tensor, fx

from fxmap.graph.index_maps import distinct
from fxmap.matching.solve.choices import Choice
from fxmap.matching.solve.readers import readers
from fxmap.matching.solve.source import SourceValues
from fxmap.matching.solve.unknowns import Weights


class Guesses:
    """The source's tensors that a weight of the destination may be, the most likely first."""

    LIMIT = 24

    def __init__(self, source: SourceValues) -> None:
        self.source = source
        self.table = source.numbers
        self._readers: dict[str, frozenset[tuple[str, int]]] = {}
        for node in source.nodes:
            if node.op == "get_attr" and str(node.target) in source.tensors:
                path = source.captured.canonical[str(node.target)]
                self._readers[path] = self._readers.get(path, frozenset()) | readers(node)
            elif f"%{node.name}" in self.table.shapes:
                self._readers[f"%{node.name}"] = readers(node)

    def all(self, path: str, node: fx.Node, weights: Weights, near: frozenset[str]) -> Iterator[Choice]:
        """Yield choices of one tensor; `near` are the source's tensors that are read beside the same values."""
        layout = weights.layout
        shape, place = layout.shapes[path], layout.place(path)
        claimed = {self.table.owner(found) for found in distinct(weights.places[weights.places >= 0])}
        own = readers(node)

        def likely(name: str) -> tuple[bool, ...]:
            theirs = self._readers.get(name, frozenset())
            return (name not in near, not own & theirs, name in claimed, name.startswith("%"), not _alike(path, name))

        names = sorted(self.table.names, key=likely)
        entries = torch.arange(place.start, place.stop)
        taken = weights.places[weights.places >= 0]
        choices = list(self._places(shape, names))[: 2 * self.LIMIT]
        choices.sort(key=lambda places: bool(torch.isin(places, taken).any()))
        for places in choices[: self.LIMIT]:
            flat = places.flatten()
            yield Choice(entries, self._numbers(flat), flat, (), (), True, path)

    def _numbers(self, places: Tensor) -> Tensor:
        result = torch.empty(len(places), dtype=torch.float64)
        result[:] = self.table.numbers[places]
        return result

    def _places(self, shape: tuple[int, ...], names: list[str]) -> Iterator[Tensor]:
        """Yield the places of whole tensors, of tensors one after the other, and of parts of one."""
        size = prod(shape)
        sizes = {name: prod(self.table.shapes[name]) for name in names}
        for name in names:
            if sizes[name] == size:
                yield from self._layouts(self._all(name), shape)
        for name in names:
            if 0 < sizes[name] < size and size % sizes[name] == 0 and size // sizes[name] <= 4:
                alike = [other for other in names if self.table.shapes[other] == self.table.shapes[name]]
                alike.sort(key=self.table.names.index)
                count = size // sizes[name]
                similar = [other for other in alike if self._readers.get(other) == self._readers.get(name)]
                for picked in [*_windows(similar, count), *permutations(similar[:4], count)]:
                    if name == picked[0] or name in picked:
                        yield torch.cat([self._all(part).flatten() for part in picked]).reshape(shape)
        for name in names:
            if sizes[name] > size and sizes[name] % size == 0 and sizes[name] // size <= 16:
                for part in self._all(name).flatten().view(-1, size):
                    yield part.reshape(shape)

    def _all(self, name: str) -> Tensor:
        begin = int(self.table.begins[self.table.names.index(name)])
        return torch.arange(begin, begin + prod(self.table.shapes[name])).reshape(self.table.shapes[name])

    @staticmethod
    def _layouts(places: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
        """Yield the places in a shape: as they are, and with axes in another order."""
        if tuple(places.shape) == shape:
            yield places
        for axes in permutations(range(places.dim())) if 1 < places.dim() < 5 else ():
            if axes != tuple(range(places.dim())) and tuple(places.permute(axes).shape) == shape:
                yield places.permute(axes)
        if tuple(places.shape) != shape:
            yield places.reshape(shape)


def _windows(names: list[str], count: int) -> list[tuple[str, ...]]:
    return [tuple(names[begin : begin + count]) for begin in range(0, len(names) - count + 1)]


def _alike(path: str, name: str) -> bool:
    one, other = path.rpartition(".")[2].split("_"), name.rpartition(".")[2].split("_")
    return bool(set(one) & set(other))
