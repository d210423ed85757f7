"""The two sides of a mapping, source and destination: from a user's model to the normalised graph that is aligned."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

from torch import fx, nn

from fxmap.capture.captured import Captured
from fxmap.capture.recorded import RECORDED
from fxmap.capture.rewrites.norms import scaling_norms, take_apart
from fxmap.capture.source import GraphSource
from fxmap.capture.symbolic import SYMBOLIC
from fxmap.errors import CaptureError
from fxmap.expressions.base import Expression, Source, substitute
from fxmap.forms.form import Twin
from fxmap.forms.twin import float_twin
from fxmap.graph.kinds import Trait, kinds
from fxmap.matching.own_masks import as_constants, own_masks
from fxmap.model.budget import BUDGET, budget
from fxmap.model.inputs import Given, Inputs
from fxmap.model.places import Places
from fxmap.model.wrappers import unwrap
from fxmap.normalize.fold import Fold
from fxmap.normalize.network import Network
from fxmap.run.guessed import guess_inputs
from fxmap.run.shapes import note_masks, note_pooled


@dataclass(frozen=True)
class Side:
    """One of the two models, source or destination, with everything that matching reads of it.

    `model` is the user's model without wrappers such as DataParallel or torch.compile, and `prefix` the prefix that those
    add to every key of its state dict. `twin` is the float model that computes the same as a quantized one (for a float
    model, a replica of itself), and `main` the normalised graph of the twin in eval mode.
    """

    model: nn.Module
    twin: Twin
    main: Network
    prefix: str = ""

    @cached_property
    def places(self) -> Places:
        """Where the twin keeps its tensors."""
        return Places.of(self.main.module, self.main.tensors)

    def decoded(self) -> dict[str, Expression]:
        """Map every tensor of the twin to the expression that reads it from the state dict of the user's model."""
        return {name: self._prefixed(part) for name, part in self.twin.decoded().items()}

    def held(self) -> dict[Expression, Expression]:
        """Map the float expression of every weight that the model holds quantized to the expression of the stored weight."""
        return {self._prefixed(made): self._prefixed(part) for made, part in self.twin.held().items()}

    def _prefixed(self, expression: Expression) -> Expression:
        if not self.prefix:
            return expression
        return substitute(expression, {key: Source(self.prefix + key) for key in expression.sources()})

    def names(self, key: str) -> list[str]:
        """Return the paths, as the graph uses them, of the twin's tensors that a key of the model holds."""
        return [self.main.canonical[part] for part in self.twin.stores[key].names]


@dataclass(frozen=True)
class _Unnormalised:
    """A model without its wrappers, its float twin, and the fx graph of the twin: a side before its graph is normalised."""

    model: nn.Module
    twin: Twin
    captured: Captured
    prefix: str

    @classmethod
    def of(
        cls, model: nn.Module, source: GraphSource, inputs: Inputs | None, other: nn.Module | None = None
    ) -> "_Unnormalised":
        inner, prefix = unwrap(model)
        twin = float_twin(inner, marked=True)
        if other is not None:
            twin = as_constants(twin, own_masks(inner, unwrap(other)[0]))
        return cls(inner, twin, source.capture(twin.module, inputs), prefix)

    def side(self) -> Side:
        return Side(self.model, self.twin, Network.of(self.captured), self.prefix)


def side(model: nn.Module, inputs: Inputs | None = None) -> Side:
    """Unwrap a model, build its float twin, capture it (symbolically, or by a run on inputs), and normalise its graph.

    Raises:
        CaptureError: the model cannot be captured.
        QuantizationError: the model has a quantized module without a float counterpart.
    """
    return _Unnormalised.of(model, SYMBOLIC if inputs is None else RECORDED, inputs).side()


def sides(source: GraphSource, src: nn.Module, dst: nn.Module, given: Given, reason: str = "") -> tuple[Side, Side]:
    """Capture both models by one source of graphs, so that their graphs have the same operations, and normalise the graphs.

    A source that needs inputs gets the given ones, or the first guessed ones that both models accept.

    Raises:
        CaptureError: this source cannot capture a model; the message says why, after the `reason` why no better source
            can.
        QuantizationError: a model has a quantized module without a float counterpart.
    """
    if not source.needs_inputs:
        return _folded(_traced(src, source, given.src, dst), _traced(dst, source, given.dst, src))
    tried, end = "", time.monotonic() + BUDGET.seconds
    for ours, theirs in _choices(src, dst, given):
        # A forward that loops would spend the time of one guess on each of them.
        if tried and time.monotonic() > end and given.src is None:
            break
        try:
            with nullcontext() if given.src is not None else budget(f"inputs of {ours.size}, which were guessed"):
                found = _Unnormalised.of(src, source, ours, dst), _Unnormalised.of(dst, source, theirs, src)
        except CaptureError as error:
            tried = str(error)
            continue
        _level_norms(found[0].captured.graph, found[1].captured.graph)
        return _folded(*(one.side() for one in found))
    if given.src is not None and given.dst is not None:
        raise CaptureError(
            f"{tried}; correct example_inputs, or give them where the inputs came with the source (dst_inputs= where the "
            "destination takes others, src_forward= and dst_forward= where forward is not what is meant)"
            + (f"; without inputs, {reason}" if reason else "")
        )
    raise CaptureError(f"{reason}; {tried or 'no inputs were found to record a run on'}; pass example_inputs=(x,)")


def _traced(model: nn.Module, source: GraphSource, inputs: Inputs | None, other: nn.Module) -> Side:
    """Capture a model by a source that needs no inputs; if there are inputs, note masks and pooled shapes."""
    one = _Unnormalised.of(model, source, None, other)
    if inputs is not None:
        note_masks(one.captured, inputs)
        note_pooled(one.captured, inputs)
    return one.side()


def _choices(src: nn.Module, dst: nn.Module, given: Given) -> Iterator[tuple[Inputs, Inputs]]:
    """Yield inputs for both models: the given ones, or else guesses, each for both models."""
    if given.src is not None and given.dst is not None:
        yield given.src, given.dst
        return
    for inputs in guess_inputs(unwrap(dst)[0], unwrap(src)[0]):
        yield inputs, inputs


def _folded(src: Side, dst: Side) -> tuple[Side, Side]:
    """Fold structures that only one model has: summed branches, norms before layers, channel scales, weight norms.

    Weights that are computed by a mask or a singular value are folded in both: where both have them, they correspond.

    Branches are folded only if the source has more layers: with as many layers, the destination has the branches too, and
    may return each of two heads beside their sum.
    """
    ours, theirs = src.main.foldable, dst.main.foldable
    layers = [len(one.main.ops.of_kind(kinds(Trait.AFFINE) | {"batch_norm"})) for one in (src, dst)]
    more = layers[0] > layers[1]
    fold = Fold(
        sums=more and ours.sums > 0 and theirs.sums == 0,
        scales=ours.scales > 0 and theirs.scales == 0,
        norms_before=more and ours.norms_before > 0 and theirs.norms_before == 0,
        weight_norms=ours.weight_norms > 0 and theirs.weight_norms == 0,
        stored_weights=ours.stored_weights > 0,
    )
    theirs_alone = Fold(
        weight_norms=theirs.weight_norms > 0 and ours.weight_norms == 0, stored_weights=theirs.stored_weights > 0
    )
    return _with(src, fold), _with(dst, theirs_alone)


def _with(one: Side, fold: Fold) -> Side:
    return one if fold == Fold() else replace(one, main=Network.of(one.main, fold))


def _level_norms(src: fx.Graph, dst: fx.Graph) -> None:
    """Split norms in both graphs into norm, scale and shift if one graph spells out norms that are native in the other."""
    if len(scaling_norms(src)) != len(scaling_norms(dst)):
        take_apart(src)
        take_apart(dst)
