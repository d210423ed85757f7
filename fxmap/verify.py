"""Verify: what is proven of a mapping, and where two models differ first.

The source's tensors are randomised, the mapping makes the destination's, and both models run in float64 on two inputs: in
lockstep first, so that every aligned pair of operations is compared on equal inputs, then as the user's own code. A key is
proven if every operation that reads it gives the source's values, has the source's static attributes, and if the output
depends on the key. What the inputs cannot show (a ReLU6 that never saturates) the attributes must.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fxmap.align import Pair
from fxmap.align.signatures import own_attributes
from fxmap.errors import FxmapError, shorten
from fxmap.expressions import Expression
from fxmap.graph import INPUT, OUTPUT, TENSOR, Op
from fxmap.inputs import Given, Inputs, find_inputs, others
from fxmap.lockstep import Comparison, DepthwiseByUnfold, SinglePrecision, Watch, compare, distance
from fxmap.mapping import KeyMapping
from fxmap.normalize.affine import AFFINE, affine_shape, pointwise
from fxmap.proof import SINGLE_TOLERANCE, TOLERANCE, Divergence, Proof, Status
from fxmap.randomize import Calibrator, cotangents, finite, random_tensors
from fxmap.side import Side, sides
from fxmap.structure import Plan, map_by_structure
from fxmap.values import tensors_of

# A key whose influence on the outputs is smaller than this, relative to them, is rounding and not influence.
_INERT = 1e-12


def verify(
    src: nn.Module, dst: nn.Module, mapping: Mapping[str, Expression], example_inputs: Any = None, dst_inputs: Any = None
) -> Proof:
    """Prove any mapping between two models, also one written by hand or read from JSON. Neither model is changed.

    Args:
        src, dst: the two models.
        mapping: a KeyMapping, or what one can be made of.
        example_inputs: what both models accept, a tensor, a tuple or a dict of keyword arguments; inferred where it is left
            out. With `dst_inputs`, what the source accepts.

    Returns:
        The proof. `ok` is false where a key that the output depends on is absent or wrong.

    Raises:
        CaptureError: a model has no graph.
    """
    by_hand = mapping if isinstance(mapping, KeyMapping) else KeyMapping(mapping)
    given = Given.of(example_inputs, dst_inputs)
    own, plan = map_by_structure(*sides(src, dst, given))
    return _prove(KeyMapping(by_hand, own.knowledge), plan, given)


def prove(mapping: KeyMapping, plan: Plan, given: Given) -> KeyMapping:
    """Return the mapping with its proof, and with the statuses that the proof gives."""
    proof = _prove(mapping, plan, given)
    return KeyMapping(mapping, replace(mapping.knowledge, statuses=proof.statuses), proof)


def _prove(mapping: KeyMapping, plan: Plan, given: Given) -> Proof:
    if mapping.knowledge.blocked:
        return Proof(statuses=mapping.knowledge.statuses, reason=mapping.knowledge.blocked)
    inputs = _inputs(plan, given)
    if not inputs:
        reason = "no inputs were found that both models accept; pass example_inputs=(x,)"
        return Proof(statuses=mapping.knowledge.statuses, reason=reason)
    try:
        with DepthwiseByUnfold():
            return _Trial(mapping, plan).run(inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, FxmapError) as error:
        return Proof(statuses=mapping.knowledge.statuses, reason=f"{type(error).__name__}: {error}")


def _inputs(plan: Plan, given: Given) -> list[tuple[Inputs, Inputs]]:
    """Return two choices of inputs for both models."""
    src, dst = plan.src.main.inputs or given.src, plan.dst.main.inputs or given.dst
    if src is None or dst is None:
        return [(inputs, inputs) for inputs in find_inputs(plan.src.main, plan.dst.main)]
    return [(src, dst), (others(src, seed=1), others(dst, seed=1))]


class _Trial:
    """One proof: random source tensors, what the mapping makes of them, and the runs."""

    def __init__(self, mapping: KeyMapping, plan: Plan) -> None:
        self.mapping = mapping
        self.src, self.dst, self.alignment, self.derivation = plan.src, plan.dst, plan.alignment, plan.derivation
        self.generator = torch.Generator().manual_seed(0)
        self.pairs = [pair for pair in self.alignment.pairs if self.src.main.ops.op(pair.src).kind not in (INPUT, OUTPUT)]
        self.partners = {pair.dst: pair.src for pair in self.alignment.pairs}
        self.forwards = 0
        self.tolerance = TOLERANCE

    def run(self, inputs: list[tuple[Inputs, Inputs]]) -> Proof:
        """Run both models on every input, and draw the conclusions."""
        source = random_tensors(self.src.main, self.generator)
        values, expected = self._source(source, inputs[0][0], calibrate=True)
        if not finite(expected):
            return Proof(
                statuses=self.mapping.knowledge.statuses,
                reason="the source's outputs are not finite, or all zero, on random weights",
            )
        tensors = self._destination(source)
        first = self._compare(tensors, inputs[0][1], values, expected)
        influence = self._influence(tensors, first)
        errors = dict(first.errors)
        if first.replaced or first.output_error > TOLERANCE:
            # A difference was stepped over to see what lies behind it: that needs the other input in lockstep as well.
            second = self._compare(tensors, inputs[-1][1], *self._source(source, inputs[-1][0], calibrate=False))
            errors = {names: max(size, second.errors.get(names, size)) for names, size in errors.items()}
        error = max(first.output_error, self._models(source, tensors, *inputs[-1]))
        if TOLERANCE < error <= SINGLE_TOLERANCE:
            self._watch_precision(source, tensors, *inputs[-1])
        if error > self.tolerance:
            # Equal numbers in another layout, or times a constant, are evidence only as far as the outputs agree.
            errors |= {names: float("inf") for names in first.loose if errors[names] <= TOLERANCE}
        return self._conclude(errors, influence, error, [pair[0] for pair in inputs])

    def _source(
        self, tensors: dict[str, Tensor], inputs: Inputs, *, calibrate: bool
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        watch = {self.src.main.ops.op(pair.src).output for pair in self.pairs}
        values: dict[str, Tensor] = {}

        def hook(node: Any, value: Any) -> Any:
            if node.name in watch and isinstance(value, Tensor):
                # A recorded run may write into a value later on.
                values[node.name] = value if self.src.main.inputs is None else value.clone()
            return value

        runner = Calibrator(self.src.main, tensors, self.generator, hook)
        if not calibrate:
            runner.done = set(tensors)
        self.forwards += 1
        with torch.no_grad():
            return values, tensors_of(runner.run(*self.src.main.arguments(inputs.double())))

    def _destination(self, source: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make the twin tensors of the destination in float; what the mapping does not make stays the destination's own."""
        state: dict[str, Any] = {}
        for key, store in self.src.twin.stores.items():
            weight, bias = source[store.weight], None if store.bias is None else source[store.bias]
            state[self.src.prefix + key] = (weight, bias) if store.packed else weight
        tensors: dict[str, Tensor] = {}
        for key, store in self.dst.twin.stores.items():
            expression = self.mapping.get(self.dst.prefix + key)
            if expression is None:
                continue
            value = expression.evaluate(state, quantized=False)
            for path, part in (
                ((store.weight, value[0]), (store.bias, value[1])) if store.packed else ((store.weight, value),)
            ):
                if path is not None:
                    tensors[path] = self._fitting(path, part)
        for path, tensor in self.dst.main.tensors.items():
            if path not in tensors:
                tensors[path] = tensor.detach().double() if tensor.is_floating_point() else tensor
        return tensors

    def _fitting(self, path: str, value: Tensor) -> Tensor:
        shape = self.dst.main.tensors[path].shape
        if value.shape != shape:
            raise ValueError(f"{path}: the mapping makes {list(value.shape)}, the destination has {list(shape)}")
        # Detached: the storage is the source's, the gradient is the destination's own.
        return value.detach()

    def _compare(
        self, tensors: dict[str, Tensor], inputs: Inputs, values: dict[str, Tensor], expected: list[Tensor]
    ) -> Comparison:
        watches = [self._watch(pair) for pair in self.pairs]
        for tensor in tensors.values():
            if tensor.is_floating_point():
                tensor.requires_grad_(True)
        self.forwards += 1
        with torch.enable_grad():
            return compare(
                self.dst.main, tensors, self.dst.main.arguments(inputs.double()), watches, values, expected, TOLERANCE
            )

    def _watch(self, pair: Pair) -> Watch:
        src, dst = self.src.main.ops.op(pair.src), self.dst.main.ops.op(pair.dst)
        axes = 1 if src.kind == "convolution" else -1, 1 if dst.kind == "convolution" else -1
        return Watch((pair.src, pair.dst), src.output, dst.output, (src.rows, dst.rows), axes)

    def _influence(self, tensors: dict[str, Tensor], run: Comparison) -> dict[str, float]:
        """Return how much every destination tensor moves the outputs, relative to them: one backward pass for all."""
        leaves = {path: tensor for path, tensor in tensors.items() if tensor.requires_grad}
        outputs = [output for output in run.outputs if output.requires_grad]
        scale = sum(float(output.detach().abs().sum()) for output in outputs) or 1.0
        self.forwards += 2
        gradients = torch.autograd.grad(
            outputs, list(leaves.values()), cotangents(outputs, self.generator), allow_unused=True
        )
        influence = dict.fromkeys(leaves, 0.0)
        for (path, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            leaf.requires_grad_(False)
            if gradient is not None:
                influence[path] = float((gradient * leaf.detach()).abs().sum()) / scale
        return influence

    def _models(self, source: dict[str, Tensor], tensors: dict[str, Tensor], ours: Inputs, theirs: Inputs) -> float:
        """Run the user's own code of both models, with the same tensors, and return the error of the outputs."""
        self.forwards += 2
        with torch.no_grad():
            expected = _call(self.src, source, ours)
            actual = _call(self.dst, tensors, theirs)
        if len(expected) != len(actual) or not finite(expected):
            return float("inf")
        return max(distance(a, b) for a, b in zip(expected, actual, strict=True))

    def _watch_precision(self, source: dict[str, Tensor], tensors: dict[str, Tensor], ours: Inputs, theirs: Inputs) -> None:
        """Look whether one of the models computes in float32 by itself; if so, its own rounding is no difference."""
        with SinglePrecision() as seen:
            self._models(source, tensors, ours, theirs)
        if seen.found:
            self.tolerance = SINGLE_TOLERANCE

    def _conclude(
        self, errors: dict[tuple[str, str], float], influence: dict[str, float], error: float, inputs: list[Inputs]
    ) -> Proof:
        divergence, sound = self._divergence(errors)
        statuses = self._statuses(sound, influence)
        open_keys = [
            key
            for key, status in statuses.items()
            if key not in self.mapping.knowledge.unread
            and status not in (Status.PROVEN, Status.TIED, Status.INERT, Status.KEPT, Status.CALIBRATED)
        ]
        reason = ""
        if self.mapping.mismatched:
            reason = f"{shorten(self.mapping.mismatched)}: of another shape in the source"
        elif error > self.tolerance:
            reason = f"the outputs differ by {error:.1e}"
        elif divergence is not None:
            reason = "operations differ on the way to equal outputs, so other inputs may give other outputs"
        elif open_keys:
            reason = f"{shorten(open_keys)} not proven"
        elif not all(choice.roomy for choice in inputs):
            reason = "the inputs are not larger than every kernel that meets them; pass larger example_inputs"
        return Proof(not reason, statuses, error, divergence, self.forwards, tuple(choice.size for choice in inputs), reason)

    def _divergence(self, errors: dict[tuple[str, str], float]) -> tuple[Divergence | None, set[str]]:
        """Return the first divergence, and the destination operations that are the same as their source."""
        first: Divergence | None = None
        sound: set[str] = set()
        for pair in self.pairs:
            error = errors.get((pair.src, pair.dst), float("inf"))
            attribute, remedy = self._attribute(pair)
            if error <= TOLERANCE and not attribute:
                sound.add(pair.dst)
            elif first is None:
                first = Divergence(
                    self._place_of(self.src, pair.src), self._place_of(self.dst, pair.dst), error, attribute, remedy
                )
        return first, {pair.dst for pair in self.pairs if pair.dst in sound and self._consistent(pair)}

    def _consistent(self, pair: Pair) -> bool:
        """Whether what reads the one operation corresponds to what reads the other.

        Operations with equal inputs (q, k and v) give equal values with one another's weights: what tells them apart is
        who reads them, and as which argument.
        """
        src, dst = self.src.main.ops, self.dst.main.ops
        for user, argument in dst.users(pair.dst):
            if user in self.partners:
                if (self.partners[user], argument) not in src.users(pair.src):
                    return False
            elif self._has_rival(pair.dst):
                return False
        return True

    def _has_rival(self, name: str) -> bool:
        """Whether another operation of the destination computes from the same values with tensors of the same shapes."""
        ops = self.dst.main.ops
        own = {argument: tensor.shape for argument, tensor in ops.tensors(name).items()}
        data = [
            producer
            for producers in ops.operands(name).values()
            for producer in producers
            if ops.op(producer).kind != TENSOR
        ]
        for producer in data:
            for user, _ in ops.users(producer):
                shapes = {argument: tensor.shape for argument, tensor in ops.tensors(user).items()}
                if user != name and ops.op(user).kind == ops.op(name).kind and shapes == own:
                    return True
        return False

    def _attribute(self, pair: Pair) -> tuple[str, str]:
        """Say which static attribute of a pair differs, and what can be done about it."""
        src, dst = self.src.main.ops.op(pair.src), self.dst.main.ops.op(pair.dst)
        weights = self.src.main.ops.tensors(pair.src).get("weight"), self.dst.main.ops.tensors(pair.dst).get("weight")
        if weights[0] and weights[1] and src.kind in AFFINE and dst.kind in AFFINE:
            shapes = affine_shape(src, weights[0]), affine_shape(dst, weights[1])
            if shapes[0] != shapes[1]:
                return f"weight {list(shapes[1])} against {list(shapes[0])}", ""
            linear = [op.kind == "linear" or pointwise(op, weight) for op, weight in ((src, weights[0]), (dst, weights[1]))]
            if all(linear):
                return self._eps(pair, src, dst)
        if src.kind != dst.kind:
            return f"{dst.kind} against {src.kind}", ""
        ours, theirs = dict(own_attributes(src)), dict(own_attributes(dst))
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                return f"{name} {theirs.get(name, 'default')} against {ours.get(name, 'default')}", ""
        return self._eps(pair, src, dst)

    def _eps(self, pair: Pair, src: Op, dst: Op) -> tuple[str, str]:
        eps = src.attribute("norm.eps"), dst.attribute("norm.eps")
        if None not in eps and eps[0] != eps[1] and not self._absorbed(pair):
            return f"eps {eps[1]:g} against {eps[0]:g}", "It can be absorbed in the running variance: pass absorb_eps=True"
        return "", ""

    def _absorbed(self, pair: Pair) -> bool:
        return any(tensor.key in self.derivation.absorbed for tensor in self.dst.main.ops.tensors(pair.dst).values())

    @staticmethod
    def _place_of(model: Side, name: str) -> str:
        op = model.main.ops.op(name)
        return f"{model.prefix}{op.module or op.name} ({op.kind})"

    def _statuses(self, sound: set[str], influence: dict[str, float]) -> dict[str, Status]:
        ops = self.dst.main.ops
        readers: dict[str, list[str]] = {}
        for op in ops.ops():
            if op.key is not None:
                readers[op.key] = [user for user, _ in ops.users(op.name)]
        evidence = {pair.dst: pair.evidence for pair in self.alignment.pairs}
        statuses = dict(self.mapping.knowledge.statuses)
        for key in self.dst.twin.stores:
            name = self.dst.prefix + key
            parts = self.dst.names(key)
            users = [user for part in parts for user in readers.get(part, [])]
            if name not in self.mapping or not users:
                continue
            if not all(user in sound for user in users):
                statuses[name] = Status.MATCHED
            elif all(influence.get(part, 0.0) <= _INERT for part in parts):
                statuses[name] = Status.INERT
            else:
                tied = any(evidence.get(user) == "tied" for user in users)
                statuses[name] = Status.TIED if tied else Status.PROVEN
        return statuses


def _call(model: Side, tensors: dict[str, Tensor], inputs: Inputs) -> list[Tensor]:
    """Run the user's own code with other tensors, in float64."""
    module = model.main.module
    if inputs.forward is None:
        double = inputs.double()
        return tensors_of(functional_call(module, tensors, double.args, dict(double.kwargs), tie_weights=False))
    own = {f"module.{path}": tensor for path, tensor in tensors.items()}
    return tensors_of(functional_call(_Calling(module, inputs.double()), own, (), tie_weights=False))


class _Calling(nn.Module):
    """A model whose forward is a function of the user's."""

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.module, self.inputs = module, inputs

    def forward(self) -> Any:
        """Call the user's function."""
        return self.inputs.call(self.module)
