"""Verify: what is proven of a mapping, and where two models differ first.

The source's tensors are randomised, the mapping makes the destination's, and both models run in float64 on two inputs: in
lockstep first, so that every aligned pair of operations is compared on equal inputs, then as the user's own code. A key is
proven if every operation that reads it gives the source's values, has the source's static attributes, and if the output
depends on the key. What the inputs cannot show (a ReLU6 that never saturates, a row of an embedding that no input selects)
the attributes and the tensors themselves must.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fxmap.errors import FxmapError, shorten
from fxmap.forms.store import COPY
from fxmap.graph.opgraph import TENSOR
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import SINGLE_TOLERANCE, TOLERANCE, Proof, Status
from fxmap.matching.align.alignment import Pair
from fxmap.matching.align.symmetry import exchanged_values, rivals, ties
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side
from fxmap.model.inputs import Given, Inputs, as_shared, others, resized
from fxmap.model.kernels import DoubleKernels
from fxmap.model.replica import run_fresh, unchanged
from fxmap.model.tensors import tensors_of
from fxmap.prove.aligned import aligned
from fxmap.prove.diagnosis import Diagnosis, Verdict
from fxmap.run.distance import distance
from fxmap.run.example_inputs import find_inputs
from fxmap.run.interpreter import ValueInterpreter
from fxmap.run.lockstep import Comparison, Watch, compare
from fxmap.run.precision import SinglePrecision, behind_tables
from fxmap.run.randomize import Calibrator, cotangents, finite, random_tensors

# A key whose influence on the outputs is smaller than this, relative to them, is rounding and not influence.
_INERT = 1e-12


# So many exchanges of two layers with equal inputs are run, of those that their readers do not tell apart.
_EXCHANGES = 100


# What a model may raise on inputs or tensors that do not fit it.
_TROUBLE = (RuntimeError, TypeError, ValueError, IndexError, FxmapError)


def prove(mapping: KeyMapping, plan: Plan, given: Given) -> KeyMapping:
    """Return the mapping with its proof, and with the statuses that the proof gives."""
    proof = proof_of(mapping, plan, given)
    return KeyMapping(mapping, replace(mapping.knowledge, statuses=proof.statuses), proof, mapping.trace)


def proof_of(mapping: KeyMapping, plan: Plan, given: Given) -> Proof:
    """Run both models with random weights, and return what that shows of a mapping."""
    if mapping.knowledge.blocked:
        return Proof(statuses=mapping.knowledge.statuses, reason=mapping.knowledge.blocked)
    inputs = Choice.of(plan, given)
    if inputs is None:
        reason = "no inputs were found that both models accept; pass example_inputs=(x,)"
        return Proof(statuses=mapping.knowledge.statuses, reason=reason)
    try:
        with DoubleKernels():
            return Trial(mapping, plan).run(inputs)
    except _TROUBLE as error:
        return Proof(statuses=mapping.knowledge.statuses, reason=f"{type(error).__name__}: {error}")


Both = tuple[Inputs, Inputs]


@dataclass(frozen=True)
class Choice:
    """Inputs for the source and for the destination.

    `first` and `second` are for the captured graphs, `whole` for the user's own code: the first one of these that both
    models accept.
    """

    first: Both
    second: Both
    whole: tuple[Both, ...]

    @classmethod
    def of(cls, plan: Plan, given: Given) -> "Choice | None":
        src, dst = plan.src.main.inputs or given.src, plan.dst.main.inputs or given.dst
        if src is not None and dst is not None:
            drawn = others(src, seed=1)
            same = drawn, as_shared(others(dst, seed=1), dst, drawn, src)
            ours, theirs = resized(same[0]), resized(same[1])
            larger = () if ours is None or theirs is None else ((ours, theirs),)
            return cls((src, dst), same, (*larger, same))
        found = find_inputs(plan.src.main, plan.dst.main)
        if not found:
            return None
        second = found[1] if len(found) > 1 else others(found[0], seed=1)
        return cls((found[0],) * 2, (second,) * 2, ((second,) * 2,))


class Trial:
    """One proof: random source tensors, what the mapping makes of them, and the runs."""

    def __init__(self, mapping: KeyMapping, plan: Plan) -> None:
        self.mapping = mapping
        self.plan, self.src, self.dst = plan, plan.src, plan.dst
        self.generator = torch.Generator().manual_seed(0)
        self.pairs = aligned(plan)
        self.forwards = 0
        # Whatever was loaded, tables stay the models' own.
        self.read = _held(self.src, mapping.sources())
        self.tables = [behind_tables(self.src.main, self.read), behind_tables(self.dst.main, _held(self.dst, mapping))]
        # Of what the captured graphs compute, and of what the user's own code returns.
        self.exact = SINGLE_TOLERANCE if any(self.tables) else TOLERANCE
        self.tolerance = self.exact
        self.trouble = ""

    def run(self, choice: Choice) -> Proof:
        """Run both models on every input, and draw the conclusions."""
        source = random_tensors(self.src.main, self.generator, self.read)
        values, expected = self._source(source, choice.first[0], calibrate=True)
        if not finite(expected):
            return Proof(
                statuses=self.mapping.knowledge.statuses,
                reason="the source's outputs are not finite, or all zero, on random weights",
            )
        tensors = self._destination(source)
        diagnosis = Diagnosis(self.mapping, self.plan, source, tensors)
        first = self._compare(tensors, choice.first[1], values, expected)
        influence, unreached = self._influence(tensors, first, diagnosis.made())
        runs = [first]
        error, ran = self._models(source, tensors, choice, first.returned)
        if first.replaced or first.output_error > self.exact or not error <= self.tolerance:
            # A difference was stepped over to see what lies behind it, or was not shown by the first inputs: that needs the
            # other ones in lockstep as well.
            runs.append(self._compare(tensors, choice.second[1], *self._source(source, choice.second[0], calibrate=False)))

        def agrees(moved: dict[str, str]) -> bool:
            exchanged = tensors | {path: tensors[other] for path, other in moved.items()}
            return self._agrees(exchanged, choice.first[1], expected, first.returned)

        tied, tried = ties(self.dst.main.ops, self.pairs, None if first.replaced else agrees)
        errors = {pair: max(run.errors.get(pair, float("inf")) for run in runs) for run in runs for pair in run.errors}
        # Captured graphs compute in float64 whatever the models do: only the rounding of tables is forgiven.
        forgiven = self._forgive(errors)
        exact = max(run.output_error for run in runs)
        if exact > self.exact and first.replaced:
            # Where values of the source stood in for operations that are no counterparts, the outputs are not the model's.
            exact = min(exact, self._distance(tensors, choice.first[1], expected, first.returned))
        error = max(error, exact)
        agree = error <= self.tolerance and exact <= self.exact
        loose = {pair for run in runs for pair in run.loose}
        verdict = diagnosis.judge(errors, loose, 0.0 if agree else error, first.returned)
        sound = set(verdict.sound)
        if agree and verdict.divergence is None and not first.replaced:
            sound |= self._told_apart(verdict.unclear, tensors, choice.first[1], expected, first.returned)
        statuses = self._statuses(sound, influence, unreached, tied)
        reason = self._reason(verdict, statuses, error if not agree else 0.0, unreached, [choice.first[0], ran[0]])
        sizes = tuple(inputs.size for inputs in (choice.first[0], ran[0]))
        notes = (*self._notes(first, expected, tried), *forgiven)
        return Proof(not reason, statuses, error, verdict.divergence, self.forwards, sizes, reason, notes)

    def _source(
        self, tensors: dict[str, Tensor], inputs: Inputs, *, calibrate: bool
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        watch = {self.src.main.ops.op(pair.src).output for pair in self.pairs}
        values: dict[str, Tensor] = {}

        def hook(node: Any, value: Any) -> Any:
            if node.name in watch and isinstance(value, Tensor):
                # A recorded run may write into a value later on.
                values[node.name] = value.clone() if self.src.main.recorded else value
            return value

        runner = Calibrator(self.src.main, tensors, self.generator, hook)
        if not calibrate:
            runner.done = set(tensors)
        self.forwards += 1
        with torch.no_grad():
            return values, tensors_of(runner.run(*self.src.main.arguments(inputs.double())))

    def _destination(self, source: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make the twin tensors of the destination in float; what the mapping does not make stays the destination's own."""
        state = {self.src.prefix + key: store.joined(source) for key, store in self.src.twin.stores.items()}
        tensors: dict[str, Tensor] = {}
        canonical = self.dst.main.canonical
        for key, store in self.dst.twin.stores.items():
            expression = self.mapping.get(self.dst.prefix + key)
            if expression is None or store.part == COPY:
                continue
            value = expression.evaluate(state, quantized=False)
            for path, part in store.parts(value).items():
                # A tensor with several keys has the value that is loaded last.
                tensors[canonical[path]] = self._fitting(path, part)
        for path, tensor in self.dst.main.tensors.items():
            if canonical[path] not in tensors:
                tensors[canonical[path]] = tensor.detach().double() if tensor.is_floating_point() else tensor.clone()
        return {path: tensors[name] for path, name in canonical.items()}

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
        arguments = self.dst.main.arguments(inputs.double())
        self.forwards += 1
        with torch.enable_grad():
            try:
                return compare(self.dst.main, tensors, arguments, watches, values, expected, self.exact)
            except _TROUBLE:
                # The source's value may have a shape that the destination cannot go on with.
                self.forwards += 1
                return compare(self.dst.main, tensors, arguments, watches, values, expected, self.exact, restart=False)

    def _watch(self, pair: Pair) -> Watch:
        src, dst = self.src.main.ops.op(pair.src), self.dst.main.ops.op(pair.dst)
        axes = src.channel_axis, dst.channel_axis
        return Watch((pair.src, pair.dst), src.output, dst.output, (src.rows, dst.rows), axes, src.kind == dst.kind)

    def _influence(
        self, tensors: dict[str, Tensor], run: Comparison, made: set[str]
    ) -> tuple[dict[str, float], dict[str, int]]:
        """Return how much every destination tensor moves the outputs, relative to them: one backward pass for all.

        Of the tensors that are `made` (folded, gathered, joined), also return how many numbers no input reached: those that
        move neither the outputs nor, by a second backward pass where that is needed, what any aligned operation gives.
        """
        leaves = {path: tensor for path, tensor in tensors.items() if tensor.requires_grad}
        outputs = [output for output in run.outputs if output.requires_grad]
        scale = sum(float(output.detach().abs().sum()) for output in outputs) or 1.0
        gradients = self._gradients(outputs, leaves)
        still = {path: count for path in made & leaves.keys() if (count := _zeros(gradients.get(path), leaves[path]))}
        if still:
            seen = [value for value in run.seen if value.requires_grad]
            local = self._gradients(seen, {path: leaves[path] for path in still})
            still = {path: count for path in still if (count := _zeros(local.get(path), leaves[path]))}
        for leaf in leaves.values():
            leaf.requires_grad_(False)
        influence = {
            path: float(gradient.abs().sum()) * (float(leaves[path].abs().mean()) or 1.0) / scale
            for path, gradient in gradients.items()
        }
        return influence, still

    def _gradients(self, values: list[Tensor], leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        if not values:
            return {}
        self.forwards += 2
        gradients = torch.autograd.grad(
            values, list(leaves.values()), cotangents(values, self.generator), allow_unused=True, retain_graph=True
        )
        return {path: part for path, part in zip(leaves, gradients, strict=True) if part is not None}

    def _models(
        self, source: dict[str, Tensor], tensors: dict[str, Tensor], choice: Choice, returned: list[tuple[int, int]]
    ) -> tuple[float, Both]:
        """Run the user's own code of both models, with the same tensors; return the error of the outputs, and on what."""
        for inputs in choice.whole:
            try:
                error = self._outputs(source, tensors, inputs, returned)
            except Exception as trouble:  # whatever a model raises on inputs or tensors that do not fit it
                self.trouble = f"{type(trouble).__name__}: {trouble}"
                continue
            self.trouble = ""
            if self.tolerance < error <= SINGLE_TOLERANCE:
                # Where one of the models computes in float32 by itself, its own rounding is no difference.
                with SinglePrecision() as seen:
                    self._outputs(source, tensors, inputs, returned)
                self.tolerance = SINGLE_TOLERANCE if seen.found else self.tolerance
            return error, inputs
        return float("inf"), choice.whole[-1]

    def _outputs(
        self, source: dict[str, Tensor], tensors: dict[str, Tensor], inputs: Both, returned: list[tuple[int, int]]
    ) -> float:
        with torch.no_grad():
            expected = _call(self.src, source, inputs[0])
            self.forwards += 1
            actual = _call(self.dst, tensors, inputs[1])
            self.forwards += 1
        if not finite(expected) or not returned:
            return float("inf")
        return max(distance(expected[i], actual[j]) for i, j in returned)

    def _agrees(
        self,
        exchanged: dict[str, Tensor],
        inputs: Inputs,
        expected: list[Tensor],
        returned: list[tuple[int, int]],
    ) -> bool:
        """Whether the destination gives the same outputs with some of its tensors exchanged."""
        return self._distance(exchanged, inputs, expected, returned) <= self.exact

    def _told_apart(
        self,
        unclear: Sequence[str],
        tensors: dict[str, Tensor],
        inputs: Inputs,
        expected: list[Tensor],
        returned: list[tuple[int, int]],
    ) -> set[str]:
        """Return the operations that can be no other of those with equal inputs: with its tensors, the outputs differ.

        One model spells out what another has as one operation (GELU, attention), so that what reads q, k, a gate or its
        values has no counterpart, and cannot tell them apart.
        """
        ops, refuted = self.dst.main.ops, dict[frozenset[str], bool]()
        found = set()
        for name in unclear:
            others = rivals(ops, name)
            for other in others:
                both = frozenset((name, other))
                if both not in refuted and len(refuted) < _EXCHANGES:
                    changed = exchanged_values(ops, name, other, tensors)
                    refuted[both] = changed is not None and not self._agrees(tensors | changed, inputs, expected, returned)
            if others and all(refuted.get(frozenset((name, other))) for other in others):
                found.add(name)
        return found

    def _distance(
        self, tensors: dict[str, Tensor], inputs: Inputs, expected: list[Tensor], returned: list[tuple[int, int]]
    ) -> float:
        """Return the error of the destination's outputs, where nothing of the source stands in for its own values."""
        self.forwards += 1
        with torch.no_grad():
            outputs = tensors_of(ValueInterpreter(self.dst.main, tensors).run(*self.dst.main.arguments(inputs.double())))
        return max((distance(expected[i], outputs[j]) for i, j in returned), default=float("inf"))

    def _forgive(self, errors: dict[tuple[str, str], float]) -> list[str]:
        """Set the errors to 0 that the rounding of a table explains, in place; return what the report says of it."""
        tables: set[str] = set()
        for pair in self.pairs:
            names = self.src.main.ops.op(pair.src).output, self.dst.main.ops.op(pair.dst).output
            found = [behind[name] for behind, name in zip(self.tables, names, strict=True) if name in behind]
            if found and TOLERANCE < errors.get((pair.src, pair.dst), 0.0) <= SINGLE_TOLERANCE:
                errors[pair.src, pair.dst] = 0.0
                tables.update(found)
        if not tables:
            return []
        return [
            f"tables that the models make in single precision differ by rounding ({shorten(sorted(tables))}): "
            f"what is computed from them was compared within {SINGLE_TOLERANCE:g}"
        ]

    def _reason(
        self,
        verdict: Verdict,
        statuses: dict[str, Status],
        error: float,
        unreached: dict[str, int],
        inputs: Sequence[Inputs],
    ) -> str:
        """Say why the proof is not ok; nothing where it is. `error` is 0 where the outputs agree."""
        done = (Status.PROVEN, Status.TIED, Status.INERT, Status.KEPT, Status.CALIBRATED, Status.TAKEN)
        unread = self.mapping.knowledge.unread
        open_keys = [key for key, status in statuses.items() if key not in unread and status not in done]
        if self.mapping.mismatched:
            return f"{shorten(self.mapping.mismatched)}: of another shape in the source"
        if self.trouble:
            return f"the models do not run with these tensors: {self.trouble}"
        if error:
            return (
                f"the outputs differ by {error:.1e}"
                if error < float("inf")
                else "the outputs are of other shapes or not finite"
            )
        if verdict.divergence is not None:
            return "operations differ on the way to equal outputs, so other inputs may give other outputs"
        if open_keys:
            partly = f"; the inputs do not reach all of {shorten(sorted(unreached))}" if unreached else ""
            return f"{shorten(open_keys)} not proven{partly}"
        if not all(choice.roomy for choice in inputs):
            return "the inputs are not larger than every kernel that meets them; pass larger example_inputs"
        return ""

    def _notes(self, run: Comparison, expected: list[Tensor], tried: int) -> list[str]:
        notes = [f"{tried} alternatives were tried, and refuted or found tied"] if tried else []
        if len(expected) != len(run.outputs):
            which = ", ".join(f"{i} is {j}" for i, j in run.returned) or "none corresponds"
            notes.append(f"the source returns {len(expected)} tensors, the destination {len(run.outputs)}: {which}")
        return notes

    def _statuses(
        self, sound: Iterable[str], influence: dict[str, float], unreached: Mapping[str, int], tied: set[str]
    ) -> dict[str, Status]:
        ops = self.dst.main.ops
        readers: dict[str, list[str]] = {}
        for op in ops.ops():
            for key in ops.stored(op) if op.kind == TENSOR else ():
                readers.setdefault(key, []).extend(user for user, _ in ops.users(op.name))
        statuses = dict(self.mapping.knowledge.statuses)
        for key, store in self.dst.twin.stores.items():
            name = self.dst.prefix + key
            if store.part == COPY:
                # Nothing reads it, whatever is in it.
                continue
            parts = self.dst.names(key)
            users = [user for part in parts for user in readers.get(part, [])]
            if not users:
                continue
            if name not in self.mapping:
                if statuses[name] in (Status.MATCHED, Status.PROVEN, Status.TIED):
                    statuses[name] = Status.MISSING
            elif not all(user in sound for user in users) or any(part in unreached for part in parts):
                statuses[name] = Status.MATCHED
            elif all(influence.get(part, 0.0) <= _INERT for part in parts):
                statuses[name] = Status.INERT
            else:
                statuses[name] = Status.TIED if any(user in tied for user in users) else Status.PROVEN
        return statuses


def _held(side: Side, keys: Container[str]) -> set[str]:
    """Return the tensors of a model, by path, that some of its keys hold."""
    return {path for key, store in side.twin.stores.items() if side.prefix + key in keys for path in store.names}


def _zeros(gradient: Tensor | None, leaf: Tensor) -> int:
    """Count the numbers of a tensor that move nothing."""
    return leaf.numel() if gradient is None else int((gradient == 0).sum())


def _call(model: Side, tensors: dict[str, Tensor], inputs: Inputs) -> list[Tensor]:
    """Run the user's own code with other tensors, in float64."""
    module, double = model.main.module, inputs.double()
    # Buffers that are no part of the state dict are each model's own, in the dtype of the rest.
    tables = {path: buffer.double() for path, buffer in module.named_buffers() if buffer.dtype is torch.float32}
    own = {f"module.{path}": tensor for path, tensor in (tables | tensors).items()}
    calling = _Calling(module, double)
    with unchanged(module):
        return run_fresh(module, lambda: tensors_of(functional_call(calling, own, (), tie_weights=False)))


class _Calling(nn.Module):
    """A model with its inputs, and the user's function in the place of forward if there is one."""

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.module, self.inputs = module, inputs

    def forward(self) -> Any:
        """Run the model on the inputs; switched to eval anew, since some compute tables from their parameters then."""
        self.module.eval()
        return self.inputs.call(self.module)
