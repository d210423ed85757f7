"""Uses: by which operations each element of a value is read, and at which place of what these read.

No table tells which operations move elements. A node is run on labels that are all different, twice: where its result
holds labels alone, at the same places both times, it moves them; where each element depends on its own element alone,
it is pointwise, and its own readers count as further ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map

from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.matching.solve.runs.stacked import StackedInterpreter, Value

# Labels of elements that are none of the value's.
NONE = -1


@dataclass(frozen=True)
class Use:
    """One reader of a value: its kind, the operand that it reads as, and the element at each place of that operand.

    `direct` says that only moved elements are read, and not functions of them.
    """

    kind: str
    operand: int
    index: Tensor
    direct: bool
    reader: fx.Node


class Uses:
    """The uses of the values of one graph, of which one sample was run."""

    LIMIT = 400

    def __init__(self, interpreter: StackedInterpreter, values: Mapping[fx.Node, Value]) -> None:
        self.interpreter, self.values = interpreter, values
        self._found: dict[fx.Node, list[Use]] = {}
        self._direct: dict[fx.Node, dict[tuple[str, int], Tensor]] = {}

    def of(self, node: fx.Node) -> list[Use]:
        """Return the uses of a value's first tensor."""
        if node not in self._found:
            found: list[Use] = []
            value = self.values.get(node)
            tensors = [] if value is None or not value.stacked else value.tensors()
            if len(tensors) == 1 and isinstance(value and value.data, Tensor):
                size = tensors[0].numel()
                self._trace(node, torch.arange(size).reshape(tensors[0].shape[1:]), True, found)
            self._found[node] = found
        return self._found[node]

    def direct(self, node: fx.Node) -> dict[tuple[str, int], Tensor]:
        """Return which elements are read as they are, by kinds of operations and operands."""
        if node not in self._direct:
            found = self._direct[node] = {}
            value = self.values[node]
            for use in self.of(node):
                if use.direct:
                    key = (use.kind, use.operand)
                    read = found.setdefault(key, torch.zeros(value.tensors()[0].numel(), dtype=torch.bool))
                    read[use.index[use.index != NONE]] = True
        return self._direct[node]

    def _trace(self, node: fx.Node, index: Any, direct: bool, found: list[Use]) -> None:
        for user in node.users:
            if len(found) > self.LIMIT:
                return
            if user.op == "output":
                found.append(Use("output", user.all_input_nodes.index(node), _first(index), direct, user))
                continue
            moved = self._moved(user, node, index)
            if moved is not None:
                self._trace(user, moved, direct, found)
                continue
            if not isinstance(index, Tensor):
                continue
            kind = kind_of(user)
            operand = 0 if has(kind, Trait.COMMUTATIVE) else user.all_input_nodes.index(node)
            found.append(Use(kind, operand, index, direct, user))
            if self._pointwise(user, node):
                self._trace(user, index, False, found)

    def _run(self, user: fx.Node, given: Mapping[fx.Node, Value]) -> Any:
        read = {part: given.get(part, self.values[part]) for part in user.all_input_nodes}
        try:
            return tree_map(lambda t: t[0] if isinstance(t, Tensor) else t, self.interpreter.node(user, read).data)
        except Exception:  # whatever an operation raises on other values than it was made for
            return None

    def _moved(self, user: fx.Node, node: fx.Node, index: Any) -> Any:
        """Return the elements at each place of a user's result; None if it does more than to move them."""
        results = []
        for seed in (0, 1):
            given, labels = self._labelled(user, node, index, seed)
            if given is None:
                return None
            result = self._run(user, given)
            parts = [part for part in tree_flatten(result)[0] if isinstance(part, Tensor)]
            if not parts or any(part.dtype != torch.float64 for part in parts):
                return None
            places = [_places(part, labels) for part in parts]
            if any(place is None for place in places):
                return None
            rest = iter(places)
            results.append(tree_map(lambda t, rest=rest: next(rest) if isinstance(t, Tensor) else t, result))
        one, other = (tree_flatten(result)[0] for result in results)
        same = all(torch.equal(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, Tensor))
        return results[0] if same else None

    def _labelled(
        self, user: fx.Node, node: fx.Node, index: Any, seed: int
    ) -> tuple[dict[fx.Node, Value] | None, tuple[Tensor, Tensor]]:
        """Return the operands of a user with labels in the place of numbers; and the labels, sorted, with their elements."""
        generator = torch.Generator().manual_seed(seed)
        given: dict[fx.Node, Value] = {}
        labels, owners = [], []
        for part in user.all_input_nodes:
            value = self.values.get(part)
            if value is None:
                return None, (torch.zeros(0), torch.zeros(0))
            if not value.stacked and part is not node:
                continue
            leaves = iter(tree_flatten(index)[0]) if part is node else None

            def label(t: Any, leaves: Any = leaves) -> Any:
                own = None if leaves is None else next(leaves)
                if not isinstance(t, Tensor) or t.dtype != torch.float64:
                    return t
                drawn = torch.randn(t.shape, generator=generator, dtype=torch.float64) * 10
                labels.append(drawn.flatten())
                owners.append(torch.full((t.numel(),), NONE) if own is None else own.flatten())
                return drawn

            given[part] = Value(tree_map(label, value.data), stacked=value.stacked)
        if not labels:
            return None, (torch.zeros(0), torch.zeros(0))
        every, of = torch.cat(labels), torch.cat(owners)
        order = every.argsort()
        return given, (every[order], of[order])

    def _pointwise(self, user: fx.Node, node: fx.Node) -> bool:
        """Whether each element of a result depends on its own element of one operand alone."""
        value = self.values[node]
        if not isinstance(value.data, Tensor) or sum(self.values[part].stacked for part in user.all_input_nodes) != 1:
            return False
        generator = torch.Generator().manual_seed(2)
        shape = value.data.shape
        a, b = (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2))
        mask = torch.rand(shape, generator=generator) < 0.5
        one = self._run(user, {node: Value(a, stacked=True)})
        other = self._run(user, {node: Value(torch.where(mask, a, b), stacked=True)})
        if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != shape[1:]:
            return False
        return torch.equal(one[mask[0]], other[mask[0]])


def _first(index: Any) -> Tensor:
    found = tree_flatten(index)[0][0]
    assert isinstance(found, Tensor)
    return found


def _places(result: Tensor, labels: tuple[Tensor, Tensor]) -> Tensor | None:
    """Return the elements whose labels a result holds, and NONE where it holds 0; None if it holds other numbers."""
    every, owners = labels
    place = torch.searchsorted(every, result.contiguous()).clamp_max(len(every) - 1)
    own = every[place] == result
    if not bool((own | (result == 0)).all()):
        return None
    return torch.where(own, owners[place], NONE)
