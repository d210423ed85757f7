"""Anchors: whether the operations behind a value show that it is the right one, in the right order of channels.

Idea: a layer that gives the source's values may still be wrong where the two models part behind it. Its channels may have to
stand in another order (rows before a pixel shuffle), or it may have to hold more than its counterpart does (a low-rank
update merged into it). Activations, norms and sums pass such an error on, and so show nothing. What shows it is

- an affine layer that reads the value and agrees with its counterpart: it mixes the channels;
- an output that is equal;
- a layer that stands at the same place and differs by itself (a replaced head), or that one of the models alone has;
- a sum with a value that is shown to be right already: a permuted summand gives no permuted sum.

A value is anchored if one of its readers shows it, or passes it on to an anchored value.

Cost: linear in the edges of the graph for each pass, of which there are as many as there are sums in a row, at most.
"""

from collections.abc import Container
from dataclasses import dataclass

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import INPUT, OUTPUT, TENSOR
from fxmap.prove.graphs.explained import NO_WEIGHTS_MAKE_UP
from fxmap.prove.partial.agreement import Agreement, Reader, data_operands


def anchored(agreement: Agreement) -> set[str]:
    """Return the operations of the destination whose values are shown to be right by what reads them."""
    search = _Anchors(agreement)
    found: set[str] = set()
    order = [pair.dst for pair in reversed(agreement.context.pairs) if pair.dst in agreement.agreeing]
    while True:
        before = len(found)
        for name in order:
            if name not in found and (search.is_shown(name, found) or search.is_anchored_sum(name, found)):
                found.add(name)
        if len(found) == before:
            return found


@dataclass(frozen=True)
class _Anchors:
    agreement: Agreement

    def is_shown(self, name: str, anchors: Container[str]) -> bool:
        """Whether a reader of an operation shows that its value is right."""
        return any(self._shows(name, reader, anchors) for reader in self.agreement.readers(name))

    def _shows(self, name: str, reader: Reader, anchors: Container[str]) -> bool:
        found, ops = self.agreement, self.agreement.context.dst.main.ops
        kind = ops.op(reader.name).kind
        if kind == OUTPUT:
            return reader.argument in found.arguments[1]
        if reader.name in found.agreeing:
            return reader.name in anchors or (has(kind, Trait.AFFINE) and ops.op(reader.name).attribute("groups", 1) == 1)
        if not reader.direct:
            return False
        if found.differs_itself(name, reader.name, reader.argument):
            # The source's value went on behind an activation: what reads that shows something, it alone does not.
            return has(kind, Trait.AFFINE) or self.is_shown(reader.name, anchors)
        return found.is_new(name, reader.name) or self._is_further_on(name, reader)

    def _is_further_on(self, name: str, reader: Reader) -> bool:
        """Whether the source alone has layers and activations between a value and its reader, as a deeper stack has."""
        pair, src = self.agreement.pairs.get(reader.name), self.agreement.context.src.main.ops
        partner = self.agreement.context.partners.get(name)
        if pair is None or partner is None:
            return False
        between, queue = set[str](), [pair.src]
        reached = False
        while queue:
            for producer, _ in data_operands(src, queue.pop()):
                reached |= producer == partner
                if producer not in self.agreement.context.images and producer not in between:
                    between.add(producer)
                    queue.append(producer)
        kinds = {src.op(other).kind for other in between}
        layers = any(has(kind, Trait.AFFINE) for kind in kinds)
        return reached and layers and bool(kinds & NO_WEIGHTS_MAKE_UP)

    def is_anchored_sum(self, name: str, anchors: Container[str]) -> bool:
        """Whether an operation is a sum with a value that is anchored, and the source adds nothing that is linear to it."""
        found, ops = self.agreement, self.agreement.context.dst.main.ops
        if not has(ops.op(name).kind, Trait.SUM):
            return False
        shape = self._shape(name)
        whole = [one for one, _ in data_operands(ops, name) if one in anchors and self._shape(one) == shape]
        return bool(whole) and not self._is_added_to(found.context.partners[name])

    def _shape(self, name: str) -> tuple[int, ...] | None:
        return self.agreement.shapes.get(self.agreement.context.partners.get(name, ""))

    def _is_added_to(self, name: str) -> bool:
        """Whether the source adds a linear function of known values to a value: another layer may have it merged in."""
        src = self.agreement.context.src.main.ops
        for user, _ in src.users(name):
            if user in self.agreement.images or not has(src.op(user).kind, Trait.SUM):
                continue
            others = {producer for producers in src.operands(user).values() for producer in producers} - {name}
            if all(self._is_linear(other) for other in others):
                return True
        return False

    def _is_linear(self, name: str) -> bool:
        """Whether an operation of the source is a linear function of values that agree, inputs and tensors."""
        src, queue = self.agreement.context.src.main.ops, [name]
        while queue:
            current = queue.pop()
            kind = src.op(current).kind
            if current in self.agreement.images or kind in (INPUT, TENSOR):
                continue
            if not has(kind, Trait.AFFINE | Trait.SCALING | Trait.MOVEMENT | Trait.ARRANGE):
                return False
            queue += [producer for producer, _ in data_operands(src, current)]
        return True
