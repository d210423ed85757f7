"""The two sides of a mapping, source and destination: from a user's model to the normalised graph that is aligned."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

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
from fxmap.model.inputs import Given, Inputs
from fxmap.model.wrappers import unwrap
from fxmap.normalize.fold import Fold
from fxmap.normalize.network import Network
from fxmap.run.example_inputs import guess_inputs
from fxmap.run.shapes import note_pooled


@dataclass(frozen=True)
class Side:
    """One of the two models, source or destination, with everything that matching reads of it.

    `model` is the user's model without wrappers such as DataParallel or torch.compile, and `prefix` what those put before
    every key of its state dict. `twin` is the float model that computes the same as a quantized one (for a float model, a
    replica of itself), and `main` the normalised graph of the twin in eval mode.
    """

    model: nn.Module
    twin: Twin
    main: Network
    prefix: str = ""

    def decoded(self) -> dict[str, Expression]:
        """Return for every tensor of the twin the expression that reads it from the state dict of the user's model."""
        return {name: self._prefixed(part) for name, part in self.twin.decoded().items()}

    def held(self) -> dict[Expression, Expression]:
        """Return for every weight that the model holds quantized: its float expression, and that of what is stored."""
        return {self._prefixed(made): self._prefixed(part) for made, part in self.twin.held().items()}

    def _prefixed(self, expression: Expression) -> Expression:
        if not self.prefix:
            return expression
        return substitute(expression, {key: Source(self.prefix + key) for key in expression.sources()})

    def names(self, key: str) -> list[str]:
        """Return the twin tensors that a key holds, by the names that the graph uses for them."""
        return [self.main.canonical[part] for part in self.twin.stores[key].names]


@dataclass(frozen=True)
class _Unnormalised:
    """A model without its wrappers, its float twin, and the fx graph of that: a side before its graph is normalised."""

    model: nn.Module
    twin: Twin
    captured: Captured
    prefix: str

    @classmethod
    def of(cls, model: nn.Module, source: GraphSource, inputs: Inputs | None) -> "_Unnormalised":
        inner, prefix = unwrap(model)
        twin = float_twin(inner, marked=True)
        return cls(inner, twin, source.capture(twin.module, inputs), prefix)

    def side(self) -> Side:
        return Side(self.model, self.twin, Network.of(self.captured), self.prefix)


def side(model: nn.Module, inputs: Inputs | None = None) -> Side:
    """Unwrap a model, build its float twin, capture it (symbolically, or by a run on inputs), and normalise its graph.

    Raises:
        CaptureError: it has no graph.
        QuantizationError: it has a quantized module without a float counterpart.
    """
    return _Unnormalised.of(model, SYMBOLIC if inputs is None else RECORDED, inputs).side()


def sides(source: GraphSource, src: nn.Module, dst: nn.Module, given: Given, reason: str = "") -> tuple[Side, Side]:
    """Capture both models by one source of graphs, so that their graphs speak of the same operations, and normalise them.

    A source that needs inputs gets those that were given, or the first ones guessed that both models accept.

    Raises:
        CaptureError: a model has no graph by this source; the message says why, after the `reason` why no better source
            serves.
        QuantizationError: a model has a quantized module without a float counterpart.
    """
    if not source.needs_inputs:
        return _folded(*(_traced(model, source, own) for model, own in ((src, given.src), (dst, given.dst))))
    tried = ""
    for ours, theirs in _choices(src, dst, given):
        try:
            found = _Unnormalised.of(src, source, ours), _Unnormalised.of(dst, source, theirs)
        except CaptureError as error:
            tried = str(error)
            continue
        _level_norms(found[0].captured.graph, found[1].captured.graph)
        return _folded(*(one.side() for one in found))
    if given.src is not None and given.dst is not None:
        raise CaptureError(
            f"{reason}; {tried}; the inputs are those that were given: correct them (dst_inputs= where the "
            "destination takes others, src_forward= and dst_forward= where forward is not what is meant)"
        )
    raise CaptureError(f"{reason}; {tried or 'no inputs were found to record a run on'}; pass example_inputs=(x,)")


def _traced(model: nn.Module, source: GraphSource, inputs: Inputs | None) -> Side:
    """Capture a model by a source that needs no inputs; where there are some, note the sizes that its pooling meets."""
    one = _Unnormalised.of(model, source, None)
    if inputs is not None:
        note_pooled(one.captured, inputs)
    return one.side()


def _choices(src: nn.Module, dst: nn.Module, given: Given) -> Iterator[tuple[Inputs, Inputs]]:
    """Yield inputs for both models: those that were given, else guesses that are the same for both."""
    if given.src is not None and given.dst is not None:
        yield given.src, given.dst
        return
    for inputs in guess_inputs(unwrap(dst)[0], unwrap(src)[0]):
        yield inputs, inputs


def _folded(src: Side, dst: Side) -> tuple[Side, Side]:
    """Fold what one model has and the other has nothing of: summed branches, scales by channel, weight norms.

    A destination with as many layers has the branches too: it may return each of two heads beside their sum.
    """
    ours, theirs = src.main.foldable, dst.main.foldable
    layers = [len(one.main.ops.of_kind(kinds(Trait.AFFINE) | {"batch_norm"})) for one in (src, dst)]
    more = layers[0] > layers[1]
    fold = Fold(
        sums=more and ours.sums > 0 and theirs.sums == 0,
        scales=ours.scales > 0 and theirs.scales == 0,
        norms_before=more and ours.norms_before > 0 and theirs.norms_before == 0,
        weight_norms=ours.weight_norms > 0 and theirs.weight_norms == 0,
    )
    return _with(src, fold), _with(dst, Fold(weight_norms=theirs.weight_norms > 0 and ours.weight_norms == 0))


def _with(one: Side, fold: Fold) -> Side:
    return one if fold == Fold() else replace(one, main=Network.of(one.main, fold))


def _level_norms(src: fx.Graph, dst: fx.Graph) -> None:
    """Take the norms of both apart where one spells out norms that are one operation of the other."""
    if len(scaling_norms(src)) != len(scaling_norms(dst)):
        take_apart(src)
        take_apart(dst)
