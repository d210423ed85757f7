"""The runs of the two captured graphs: the source, the destination beside it in lockstep, and the destination alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.errors import FxmapError
from fxmap.graph.kinds import Trait, has
from fxmap.matching.align.alignment import Pair
from fxmap.matching.plan import Plan
from fxmap.model.inputs import Inputs
from fxmap.model.tensors import named_outputs, outputs_of, plain
from fxmap.prove.runs.passes import Passes
from fxmap.run.calibrator import run_calibrated
from fxmap.run.distance import output_error
from fxmap.run.interpreter import Hook, ValueInterpreter
from fxmap.run.lockstep import Comparison, Reference, Watch, compare
from fxmap.run.operands import PieceWatch, as_tensor
from fxmap.run.rerun import Rerun

# What a model may raise on inputs or tensors that do not fit it.
TROUBLE = (RuntimeError, TypeError, ValueError, IndexError, AssertionError, FxmapError)


@dataclass(frozen=True)
class GraphRuns:
    """Runs the captured graphs of both models in float64, and counts the passes.

    `pairs` are the aligned operations to compare, and `exact` is the relative error from which on two values differ.
    """

    plan: Plan
    pairs: Sequence[Pair]
    exact: float
    passes: Passes

    @cached_property
    def pieces(self) -> list[PieceWatch]:
        """The pairs whose operands are compared as well: piecewise operations, whose inputs may not reach every piece."""
        return [watch for pair in self.pairs if (watch := self._piece(pair)) is not None]

    def _piece(self, pair: Pair) -> PieceWatch | None:
        graphs = self.plan.src.main.ops, self.plan.dst.main.ops
        src, dst = graphs[0].op(pair.src), graphs[1].op(pair.dst)
        ours, theirs = graphs[0].pieces.get(pair.src), graphs[1].pieces.get(pair.dst)
        if ours is None or theirs is None or (ours.analytic and theirs.analytic) or src.kind != dst.kind:
            return None
        if has(src.kind, Trait.ANALYTIC):  # a sum with numbers that a softmax hides, and its own values show
            return None
        # A number that is chosen in the place of a value is not scaled with it.
        scaled = src.kind == "where" and any(value not in (0, math.inf, -math.inf) for _, value in src.attributes)
        homogeneous = has(src.kind, Trait.HOMOGENEOUS) and not scaled
        return PieceWatch((pair.src, pair.dst), homogeneous, src.output, dst.output, ours.operands, theirs.operands)

    def calibrated_source(
        self, tensors: Mapping[str, Tensor], inputs: Inputs, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Reference]:
        """Run the source, and set the statistics of its batch norms on the way.

        Returns:
            The tensors with these statistics, and the run.
        """
        main, values = self.plan.src.main, dict[str, Tensor]()
        self.passes.add()
        with torch.no_grad():
            arguments = main.arguments(inputs.double())
            calibrated, output = run_calibrated(main, tensors, arguments, generator, self._keep(values))
        return calibrated, Reference(values, named_outputs(output))

    def source(self, tensors: Mapping[str, Tensor], inputs: Inputs) -> Reference:
        """Run the source, and keep the values of the aligned operations."""
        main, values = self.plan.src.main, dict[str, Tensor]()
        self.passes.add()
        with torch.no_grad():
            output = ValueInterpreter(main, tensors, self._keep(values)).run(*main.arguments(inputs.double()))
        return Reference(values, named_outputs(output))

    def _keep(self, values: dict[str, Tensor]) -> Hook:
        """Return a hook that writes the values of the aligned operations into a dict."""
        main = self.plan.src.main
        watched = {main.ops.op(pair.src).output for pair in self.pairs}
        watched |= {node for piece in self.pieces for _, node in piece.ours}

        def hook(node: fx.Node, value: Any) -> Any:
            if node.name in watched and isinstance(value, Tensor):
                # A recorded run may write into a value later on.
                values[node.name] = plain(value.clone() if main.recorded else value)
            elif node.name in watched and isinstance(value, int | float):
                values[node.name] = as_tensor(value)
            return value

        return hook

    def lockstep(self, tensors: Mapping[str, Tensor], inputs: Inputs, reference: Reference) -> Comparison:
        """Run the destination beside a run of the source."""
        main = self.plan.dst.main
        watches = [self._watch(pair) for pair in self.pairs]
        arguments = main.arguments(inputs.double())
        self.passes.add()
        try:
            return compare(main, tensors, arguments, watches, reference, self.exact, pieces=self.pieces)
        except TROUBLE:
            # The source's value may have a shape that the destination cannot go on with.
            self.passes.add()
            return compare(main, tensors, arguments, watches, reference, self.exact, restart=False, pieces=self.pieces)

    def _watch(self, pair: Pair) -> Watch:
        src, dst = self.plan.src.main.ops.op(pair.src), self.plan.dst.main.ops.op(pair.dst)
        axes = src.channel_axis, dst.channel_axis
        return Watch((pair.src, pair.dst), src.output, dst.output, (src.rows, dst.rows), axes, src.kind == dst.kind)

    def error_alone(
        self,
        tensors: Mapping[str, Tensor],
        inputs: Inputs,
        expected: Sequence[Tensor],
        returned: Sequence[tuple[int, int]],
        before: Rerun | None = None,
    ) -> float:
        """Return the error of the destination's outputs where no value of the source stands in for its own.

        `before` is a run with other tensors, of which what stays the same is taken.
        """
        main = self.plan.dst.main
        self.passes.add()
        with torch.no_grad():
            if before is not None:
                return output_error(expected, outputs_of(before(tensors)), returned)
            outputs = outputs_of(ValueInterpreter(main, tensors).run(*main.arguments(inputs.double())))
        return output_error(expected, outputs, returned)

    def alone(self, tensors: Mapping[str, Tensor], inputs: Inputs) -> Rerun | None:
        """Run the destination alone, and hold its values for `error_alone`, if they are few enough."""
        main = self.plan.dst.main
        self.passes.add()
        with torch.no_grad():
            return Rerun.of(main, tensors, main.arguments(inputs.double()))
