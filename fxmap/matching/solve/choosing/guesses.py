"""Guesses: weights that no value is affine in, such as variances, are tried as tensors of the source."""

from collections.abc import Iterator
from itertools import permutations
from math import prod

import torch
from torch import Tensor, fx

from fxmap.graph.index_maps import distinct
from fxmap.graph.kinds import Trait, kind_of, kinds
from fxmap.matching.solve.choosing.fitting import Choice
from fxmap.matching.solve.choosing.readers import readers
from fxmap.matching.solve.known.source import SourceValues
from fxmap.matching.solve.unknown.unknowns import Weights


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
        self._bent = self._bent_names()

    def _bent_names(self) -> set[str]:
        """Return the tensors in which an operation is not affine that reads them, or what is computed of them affinely."""
        found: set[str] = set()
        made: dict[fx.Node, set[str]] = {}
        for node in self.source.nodes:
            own = {self.source.captured.canonical.get(str(node.target), "")} if node.op == "get_attr" else set()
            read = [(part, made[part]) for part in node.all_input_nodes if made.get(part)]
            found |= {name for part, names in read for name in names if _bends(node, part)}
            if node.op == "get_attr" or (read and len(read) == len(node.all_input_nodes)):
                name = {f"%{node.name}"} if f"%{node.name}" in self.table.shapes else set()
                made[node] = own.union(name, *(names for part, names in read if not _bends(node, part)))
        return found & set(self._readers)

    def all(self, path: str, node: fx.Node, weights: Weights, near: frozenset[str], *, bent: bool) -> Iterator[Choice]:
        """Yield choices of one tensor; `near` are the source's tensors that are read beside the same values.

        `bent` says that no value is affine in it, as in a variance; nor is one of the source in its counterpart.
        """
        layout = weights.layout
        shape, place = layout.shapes[path], layout.place(path)
        claimed = {self.table.owner(found) for found in distinct(weights.places[weights.places >= 0])}
        own = readers(node)

        def likely(name: str) -> tuple[bool, ...]:
            theirs = self._readers.get(name, frozenset())
            other = bent != (name in self._bent)
            return (other, name not in near, not own & theirs, name in claimed, name.startswith("%"), not _alike(path, name))

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


_PRODUCTS = ("baddbmm", "bmm", "einsum", "matmul", "mul")
_AFFINE = kinds(
    Trait.MOVEMENT | Trait.IDENTITY | Trait.ARRANGE | Trait.LOOKUP | Trait.SUM | Trait.AFFINE | Trait.MATRIX_PRODUCT
) | {*_PRODUCTS, "group_norm", "layer_norm", "mean", "neg", "rsub", "sum", "view_as_complex"}


def _bends(node: fx.Node, part: fx.Node) -> bool:
    """Whether an operation is not known to be affine in something that it reads: a variance, or a divisor."""
    kind = kind_of(node) if node.op == "call_function" else "output"
    if kind == "div":
        return part is not node.args[0]
    return part is node.all_input_nodes[-1] if kind == "batch_norm" else kind not in _AFFINE and kind != "output"


def _windows(names: list[str], count: int) -> list[tuple[str, ...]]:
    return [tuple(names[begin : begin + count]) for begin in range(0, len(names) - count + 1)]


def _alike(path: str, name: str) -> bool:
    one, other = path.rpartition(".")[2].split("_"), name.rpartition(".")[2].split("_")
    return bool(set(one) & set(other))
