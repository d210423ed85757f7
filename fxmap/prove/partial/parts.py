"""Parts: a destination that returns what the source computes on the way, such as a backbone without its head.

Idea: the source that returns this value instead is a model like any other, and the whole proof applies to it. Its code is
the user's own: it runs as always, and a hook takes the value where it passes from one module to the next.

A value that the source goes on to change by what another layer could hold (a low-rank update that is added, a scale) is no
part: the destination may be the two merged. Neither is one that stands for an output of the source, by its name or shape.

Cost: one run of the destination's graph, and one of the source's graph and of its own code, where outputs do not correspond.
"""

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxmap.capture.captured import Captured
from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.graph.opgraph import TENSOR, OpGraph
from fxmap.mapping.proof import SINGLE_TOLERANCE
from fxmap.matching.align.alignment import Evidence
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side
from fxmap.matching.structure import plan_by_structure
from fxmap.model.inputs import Inputs
from fxmap.model.tensors import named_outputs, tensors_of
from fxmap.normalize.network import Network
from fxmap.prove.partial.agreement import data_operands
from fxmap.prove.runs.choose_inputs import ChosenInputs, InputPair
from fxmap.prove.runs.own_code import call_own
from fxmap.prove.runs.passes import Passes
from fxmap.prove.runs.weights import Weights
from fxmap.run.distance import distance
from fxmap.run.interpreter import ValueInterpreter


@dataclass(frozen=True, slots=True)
class Tap:
    """A value of a model where it passes between modules: the path of one, and whether the value enters or leaves it.

    `call` counts the calls of the module, and `index` the tensors that it takes or returns.

    >>> print(Tap("layer4", entering=False))
    what layer4 returns
    """

    path: str
    entering: bool
    call: int = 0
    index: int = 0

    def __str__(self) -> str:
        return f"what {self.path or 'the model'} {'is given' if self.entering else 'returns'}"


@dataclass(frozen=True)
class Tapped:
    """A forward function that runs a model and returns the values at some taps.

    >>> model = nn.Sequential(nn.ReLU(), nn.Linear(2, 1))
    >>> Tapped((Tap("0", entering=False),))(model, torch.tensor([[-1.0, 2.0]]))
    [tensor([[0., 2.]])]
    """

    taps: tuple[Tap, ...]
    forward: Callable[..., Any] | None = None

    def __call__(self, model: nn.Module, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Run the model on its inputs.

        Raises:
            ValueError: the run does not pass a tap.
        """
        found: dict[Tap, Tensor] = {}

        def see(tap: Tap, value: Tensor) -> None:
            if tap in self.taps:
                found[tap] = value

        _watched(model, lambda: (self.forward or nn.Module.__call__)(model, *args, **kwargs), see)
        if len(found) < len(set(self.taps)):
            raise ValueError(f"the run does not pass {next(tap for tap in self.taps if tap not in found)}")
        return [found[tap] for tap in self.taps]


def _watched(model: nn.Module, run: Callable[[], Any], see: Callable[[Tap, Tensor], None]) -> None:
    """Run a model, and call `see` with every tensor that a module of it takes or returns."""
    calls: dict[str, int] = {}
    handles = []

    def enter(path: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            calls[path] = calls.get(path, -1) + 1
            for index, value in enumerate(tensors_of([args, dict(kwargs)])):
                see(Tap(path, True, calls[path], index), value)

        return hook

    def leave(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            for index, value in enumerate(tensors_of(output)):
                see(Tap(path, False, calls.get(path, 0), index), value)

        return hook

    try:
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
            handles.append(module.register_forward_hook(leave(path)))
        run()
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Part:
    """The source as a model that returns what the destination does: the plan and inputs of its proof.

    `taps` are the places of the values, in the order of the destination's outputs.
    """

    plan: Plan
    chosen: ChosenInputs
    taps: tuple[Tap, ...] = field(default=())

    def __str__(self) -> str:
        return ", ".join(map(str, dict.fromkeys(self.taps)))


def part_of_source(plan: Plan, weights: Weights, chosen: ChosenInputs, passes: Passes) -> Part | None:
    """Return the source as one that returns the destination's outputs; None if the destination is no part of it."""
    first = chosen.first
    passes.add(2)
    with torch.no_grad():
        wanted = named_outputs(call_own(plan.dst, weights.dst, first.dst))
        returned = named_outputs(call_own(plan.src, weights.src, first.src))
    values = [value for _, value in wanted]
    if not values or any(_stands_for(one, returned) for one in wanted):
        return None
    passes.add(2)
    taps = _taps(plan.src, weights.src, first.src, values)
    nodes = _nodes(plan.src, weights.src, first.src, values)
    if taps is None or nodes is None or any(_may_be_merged(plan.src, node, prints) for node, prints in nodes):
        return None
    source = _returning(plan.src, [node for node, _ in nodes])
    if any(_has_rivals(plan.src.main.ops, source.main.ops, node.name) for node, _ in nodes):
        return None
    forward = Tapped(taps, first.src.forward)
    known = [
        (pair.src, pair.dst)
        for pair in plan.alignment.pairs
        if pair.evidence is Evidence.VALUES and pair.src in source.main.ops.network
    ]
    new = plan_by_structure(source, plan.dst, known)
    return Part(replace(plan, src=source, alignment=new.alignment), _tapped(chosen, forward), taps)


def _has_rivals(whole: OpGraph, part: OpGraph, node: str) -> bool:
    """Whether the layer that makes an output may be another one: a stack that is cut short ends with a layer of the source.

    The last norm of four layers out of six is the norm behind all of them, or the first one of the fifth layer: equal values
    are no answer. So it is where what is left out has layers like it, and all kinds of layers that occur twice in the part.
    """
    last = next((_look(whole, op.name) for op in whole.ops() if op.output == node and whole.tensors(op.name)), None)
    inside = Counter(_look(part, op.name) for op in part.ops() if part.tensors(op.name))
    outside = {_look(whole, op.name) for op in whole.ops() if op.name not in part.network and whole.tensors(op.name)}
    repeated = {look for look, count in inside.items() if count > 1}
    return last in outside and bool(repeated) and repeated <= outside


def _look(ops: OpGraph, name: str) -> tuple[str, tuple[tuple[int, ...] | None, ...]]:
    return ops.op(name).kind, tuple(tensor.shape for _, tensor in sorted(ops.tensors(name).items()))


def _stands_for(wanted: tuple[str, Tensor], returned: Sequence[tuple[str, Tensor]]) -> bool:
    """Whether an output of the destination has the name or the shape of an output of the source.

    Then it has to be that output, whatever else the source computes: one that is equal on some inputs is no part.
    """
    name, value = wanted
    return any((name and other_name == name) or other.shape == value.shape for other_name, other in returned)


def _taps(src: Side, tensors: Mapping[str, Tensor], inputs: Inputs, values: list[Tensor]) -> tuple[Tap, ...] | None:
    """Return where the source's own code has some values; None if one of them passes between no two modules."""
    found: dict[int, Tap] = {}

    def see(tap: Tap, value: Tensor) -> None:
        for index, wanted in enumerate(values):
            if index not in found and distance(value, wanted) <= SINGLE_TOLERANCE:
                found[index] = tap

    def forward(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        _watched(model, lambda: (inputs.forward or nn.Module.__call__)(model, *args, **kwargs), see)

    with torch.no_grad():
        call_own(src, tensors, replace(inputs, forward=forward))
    return tuple(found[index] for index in range(len(values))) if len(found) == len(values) else None


# The shape of a node's value, its sum and the sum of its squares: two nodes with the same have the same value.
Print = tuple[tuple[int, ...], float, float]
Prints = Mapping[str, Print]


def _nodes(
    src: Side, tensors: Mapping[str, Tensor], inputs: Inputs, values: list[Tensor]
) -> list[tuple[fx.Node, Prints]] | None:
    """Return the nodes of the source's graph that have some values, with the prints of all; None if a value has no node."""
    found: dict[int, fx.Node] = {}
    prints: dict[str, Print] = {}

    def hook(node: fx.Node, value: Any) -> Any:
        if isinstance(value, Tensor):
            numbers = value.abs() if value.is_complex() else value.double()
            prints[node.name] = tuple(value.shape), float(numbers.sum()), float(numbers.square().sum())
            for index, wanted in enumerate(values):
                if index not in found and distance(value, wanted) <= SINGLE_TOLERANCE:
                    found[index] = node
        return value

    with torch.no_grad():
        ValueInterpreter(src.main, tensors, hook).run(*src.main.arguments(inputs.double()))
    return [(found[index], prints) for index in range(len(values))] if len(found) == len(values) else None


def _returning(src: Side, nodes: Sequence[fx.Node]) -> Side:
    """Return the source with other nodes of its graph as its outputs."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(src.main.graph, copies)
    graph.output([copies[node] for node in nodes])
    graph.eliminate_dead_code()
    captured = {name: getattr(src.main, name) for name in Captured.__dataclass_fields__}
    return replace(src, main=Network.of(Captured(**(captured | {"graph": graph}))))


def _tapped(chosen: ChosenInputs, forward: Tapped) -> ChosenInputs:
    def changed(pair: InputPair) -> InputPair:
        return replace(pair, src=replace(pair.src, forward=forward))

    return ChosenInputs(
        changed(chosen.first), tuple(map(changed, chosen.further)), tuple(changed(pair) for pair in chosen.own_code)
    )


# Operations of the source that another one may hold as well: a sum, a scale, a layer, a norm of fixed statistics.
_MERGED = Trait.AFFINE | Trait.SCALING | Trait.MOVEMENT | Trait.IDENTITY | Trait.ARRANGE


def _may_be_merged(src: Side, node: fx.Node, prints: Prints) -> bool:
    """Whether the source goes on to change a value by what the layer that makes it could hold as well."""
    ops, made = src.main.ops, node
    outputs = {op.output: op.name for op in ops.ops() if op.kind != TENSOR}
    while made.name not in outputs:
        if not made.all_input_nodes or not has(kind_of(made), Trait.MOVEMENT | Trait.IDENTITY):
            return True  # inside of what was merged, as between a convolution and its norm
        made = made.all_input_nodes[0]
    op = outputs[made.name]
    layers = _last_layers(ops, op)
    if not layers:
        return False
    given = {prints.get(ops.op(producer).output) for layer in layers for producer, _ in data_operands(ops, layer)}
    held = _Held(ops, prints, given)
    return any(
        prints.get(ops.op(user).output, ((),))[0] == prints[node.name][0] and held.holds(op, user)
        for user, _ in ops.users(op)
    )


def _last_layers(ops: OpGraph, name: str) -> list[str]:
    """Return the operations with tensors that an operation is linear in, going back from it; itself if it has tensors."""
    found, queue = [], [name]
    while queue:
        current = queue.pop()
        if ops.tensors(current):
            found.append(current)
        elif has(ops.op(current).kind, _MERGED | Trait.RESIZE):
            queue += [producer for producer, _ in data_operands(ops, current)]
    return found


@dataclass(frozen=True)
class _Held:
    """What layers that read some given values could hold as well."""

    ops: OpGraph
    prints: Prints
    given: Container[Print | None]

    def holds(self, name: str, user: str) -> bool:
        """Whether an operation that reads a value is one that the layers which make the value could hold as well."""
        kind = self.ops.op(user).kind
        if kind == "batch_norm" or has(kind, Trait.AFFINE):
            return True
        others = (producer for names in self.ops.operands(user).values() for producer in names if producer != name)
        return has(kind, Trait.SCALING) and all(map(self._is_linear, others))

    def _is_linear(self, name: str) -> bool:
        """Whether a value is a linear function of the given ones, or of tensors alone."""
        queue = [name]
        while queue:
            current = queue.pop()
            op = self.ops.op(current)
            if op.kind == TENSOR or (op.output in self.prints and self.prints[op.output] in self.given):
                continue
            if not has(op.kind, _MERGED) or not data_operands(self.ops, current):
                return False
            queue += [producer for producer, _ in data_operands(self.ops, current)]
        return True
