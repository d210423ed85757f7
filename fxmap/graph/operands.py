"""Composed operands: tensors that code computes from the state dict (slices, joins, sums) before an operation reads them.

Code may put an operand together before it uses it: a bias of q, zeros and v; a slice of the position embedding; a norm's
weight stored as w - 1; a class token with its position added. Such an operand is followed by number: a tensor of the numbers
of all stored elements goes through the same slices, joins and views, and comes out as the map of the operand's elements into
stored ones. To the operation it is one tensor, a composed one; the expressions of stored tensors follow from the maps.

Cost: the size of the operands that are composed; those that are only moved as a whole are not followed.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.graph.constants import Constants, call
from fxmap.graph.index_maps import Composition, Numbering, Term
from fxmap.graph.kinds import Trait, has, kind_of, kinds

# Kinds that move a tensor as a whole, and kinds that make another tensor of it; a lookup takes rows by constant numbers.
_WHOLE = (kinds(Trait.MOVEMENT) - kinds(Trait.PART)) | kinds(Trait.IDENTITY)


# A part of a tensor is replaced by another one, or by zeros.
_WRITES = frozenset({"select_scatter", "slice_scatter"})


_COMPOSING = kinds(Trait.PART | Trait.ARRANGE | Trait.LOOKUP | Trait.SCALING) | _WRITES


_LAYERS = kinds(Trait.AFFINE | Trait.MATRIX_PRODUCT)


# An operand of more elements than this is left as it is.
_LIMIT = 50_000_000


class NotComposed(Exception):
    """An operand is computed by an operation that index maps do not cover."""


def _narrowed(composition: Composition) -> Composition:
    """Reduce every axis along which all elements are equal to extent 1: such an axis only broadcasts over a batch."""
    terms = composition.terms
    for axis, extent in enumerate(composition.shape):
        if extent > 1 and all(bool((t.numbers == t.numbers.narrow(axis, 0, 1)).all()) for t in terms):
            terms = tuple(Term(t.numbers.narrow(axis, 0, 1), t.factor) for t in terms)
    return Composition(terms, composition.shift)


class Operands:
    """The nodes of a graph that are computed from the state dict and constants alone, with their compositions.

    `nodes` are all of them; `composed` maps those that an operation reads and that are not one stored tensor, moved as a
    whole, to their composition.
    """

    def __init__(self, graph: fx.Graph, tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> None:
        self.numbering = Numbering({path: tuple(t.shape) for path, t in tensors.items() if t.is_floating_point()})
        self._constants = Constants(graph, tensors, constants, buffers=False)
        self._memo: dict[fx.Node, Any] = {}
        self.nodes: set[fx.Node] = set()
        for node in graph.nodes:
            if (node.op == "get_attr" and str(node.target) in self.numbering.places) or self._is_operand(node):
                self.nodes.add(node)
        self.composed = dict(self._composed())

    def _is_operand(self, node: fx.Node) -> bool:
        if node.op != "call_function" or kind_of(node) not in _WHOLE | _COMPOSING:
            return False
        own = [part for part in node.all_input_nodes if part in self.nodes]
        rest = [part for part in node.all_input_nodes if part not in self.nodes]
        return bool(own) and all(part in self._constants.nodes for part in rest)

    def _composed(self) -> Iterator[tuple[fx.Node, Composition]]:
        read: set[fx.Node] = set()
        for node in self.nodes:
            composing = self._composing(node)
            if composing is None and self._is_flattened(node):
                read.add(node)
            elif composing is not None:
                readers = {kind_of(user) for user in node.users if user not in self.nodes}
                # A layer reads its weight through a transposition or not, which tells how the weight is stored.
                read |= ({composing} if readers & _LAYERS else set()) | ({node} if readers - _LAYERS else set())
        for node in sorted(read, key=str):
            try:
                value = self._follow(node)
            except (NotComposed, RuntimeError, NotImplementedError):
                continue  # computed in another way; or on the meta device, where constants have no values
            if isinstance(value, Composition):
                yield node, _narrowed(value)

    def _is_flattened(self, node: fx.Node) -> bool:
        """Whether a product reads a tensor of more axes as a matrix, or a sum reads one as a list: einsum's weights."""
        readers = {kind_of(user) for user in node.users if user not in self.nodes}
        rank = 2 if readers & kinds(Trait.MATRIX_PRODUCT) else 1 if "add" in readers else 0
        if len(node.meta.get("shape", ())) != rank or node.op == "get_attr" or not rank:
            return False
        while node.op != "get_attr":
            node = next(part for part in node.all_input_nodes if part in self.nodes)
        return sum(extent > 1 for extent in self.numbering.places[str(node.target)].shape) > rank

    def _composing(self, node: fx.Node) -> fx.Node | None:
        """Return the nearest node, going back from this one, that makes another tensor; None if it is only moved whole."""
        while node.op != "get_attr":
            if kind_of(node) in _COMPOSING:
                return node
            node = next(part for part in node.all_input_nodes if part in self.nodes)
        return None

    def _follow(self, node: fx.Node) -> Any:
        # Not by recursion: a sum of hundreds of terms is as deep.
        waiting = [node]
        while waiting:
            lacking = [part for part in waiting[-1].all_input_nodes if part in self.nodes and part not in self._memo]
            if waiting[-1] in self._memo:
                waiting.pop()
            elif lacking:
                waiting += lacking
            else:
                last = waiting.pop()
                self._memo[last] = self._step(last)
        return self._memo[node]

    def _step(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            place = self.numbering.places[str(node.target)]
            if place.size > _LIMIT:
                raise NotComposed
            return Composition((Term(self.numbering.numbers(str(node.target))),))
        kind = kind_of(node)
        if has(kind, Trait.PRODUCT):
            return self._times(node)
        if has(kind, Trait.SUM):
            return self._plus(node)
        return self._moved(node)

    def _times(self, node: fx.Node) -> Composition:
        value, other = node.args[:2]
        if kind_of(node) == "mul" and not isinstance(value, fx.Node):
            value, other = other, value
        if not isinstance(value, fx.Node) or value not in self.nodes:
            value, other = other, value
        number = self._number(other)
        if (
            not isinstance(value, fx.Node)
            or value not in self.nodes
            or (kind_of(node) == "div" and value is not node.args[0])
        ):
            raise NotComposed
        if kind_of(node) == "div":
            number = 1 / number
        of = self._follow(value)
        return Composition(tuple(Term(term.numbers, term.factor * number) for term in of.terms), of.shift * number)

    def _plus(self, node: fx.Node) -> Composition:
        sign = 1.0 if kind_of(node) == "add" else -1.0
        if len(node.args) > 2 or node.kwargs:
            raise NotComposed
        terms: list[Term] = []
        shift = 0.0
        for part, factor in zip(node.args, (1.0, sign), strict=True):
            if isinstance(part, fx.Node) and part in self.nodes:
                of = self._follow(part)
                terms += [Term(term.numbers, term.factor * factor) for term in of.terms]
                shift += of.shift * factor
            else:
                shift += self._number(part) * factor
        fitted = torch.broadcast_tensors(*(term.numbers for term in terms))  # type: ignore[no-untyped-call]
        return Composition(tuple(Term(n, term.factor) for n, term in zip(fitted, terms, strict=True)), shift)

    def _number(self, value: Any) -> float:
        if isinstance(value, fx.Node) and value in self._constants.nodes:
            value = self._constants.value(value)
            if isinstance(value, Tensor) and value.numel() == 1:
                return float(value)
        if not isinstance(value, int | float):
            raise NotComposed
        return float(value)

    def _moved(self, node: fx.Node) -> Any:
        """Apply a node that moves data to every term; operands that it joins must have equal factors and shifts."""
        parts = [self._follow(part) for part in node.all_input_nodes if part in self.nodes]
        known = [part for value in parts for part in (value if isinstance(value, list) else [value])]
        count = max(len(part.terms) for part in known)
        joined = len(parts) > 1 or has(kind_of(node), Trait.ARRANGE) or kind_of(node) in _WRITES
        if joined and any(part.shift or any(term.factor != 1.0 for term in part.terms) for part in known):
            raise NotComposed
        moved = [call(node, partial(self._raised, index)) for index in range(count)]
        factors = [term.factor for term in known[0].terms]
        if isinstance(moved[0], list | tuple):
            pieces = zip(*moved, strict=True)
            return [self._lowered(piece, known[0], factors) for piece in pieces]
        return self._lowered(moved, known[0], factors)

    def _raised(self, index: int, part: fx.Node) -> Any:
        """Return element numbers plus one, so that the zeros of padding stay apart from element 0."""
        if part not in self.nodes:
            value = self._constants.value(part)
            if not value.is_floating_point():
                return value
            if bool(value.any()):
                raise NotComposed
            return torch.zeros(value.shape, dtype=torch.int64)

        def raised(of: Composition) -> Tensor:
            if index < len(of.terms):
                return of.terms[index].numbers + 1
            return torch.zeros(of.shape, dtype=torch.int64)

        value = self._follow(part)
        return [raised(piece) for piece in value] if isinstance(value, list) else raised(value)

    @staticmethod
    def _lowered(moved: Sequence[Tensor], like: Composition, factors: list[float]) -> Composition:
        factors = factors + [1.0] * (len(moved) - len(factors))
        terms = tuple(Term(numbers - 1, factor) for numbers, factor in zip(moved, factors, strict=True))
        return Composition(terms, like.shift)
