"""One of the two models on its way through the stages."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import fx, nn

from fxmap.capture.captured import Captured, capture, capture_run
from fxmap.capture.rewrites.norms import scaling_norms, take_apart
from fxmap.errors import CaptureError
from fxmap.expressions.base import Expression, Source, substitute
from fxmap.forms.form import Twin
from fxmap.forms.twin import float_twin
from fxmap.graph.affine import AFFINE
from fxmap.model.inputs import Given, Inputs
from fxmap.model.wrappers import unwrap
from fxmap.normalize.driver import Fold
from fxmap.normalize.network import Network
from fxmap.run.example_inputs import guess_inputs


@dataclass(frozen=True)
class Side:
    """A model without its wrappers, its float twin, and the graph of that in eval mode.

    `prefix` is what the wrappers put before every key of the user's model.
    """

    model: nn.Module
    twin: Twin
    main: Network
    prefix: str = ""

    def decoded(self) -> dict[str, Expression]:
        """Return how every tensor of the twin is read from the state dict of the user's model."""
        return {name: self._prefixed(part) for name, part in self.twin.decoded().items()}

    def held(self) -> dict[Expression, Expression]:
        """Return for the weights that the user's model holds quantized what makes each in float, and as it is."""
        return {self._prefixed(made): self._prefixed(part) for made, part in self.twin.held().items()}

    def _prefixed(self, expression: Expression) -> Expression:
        if not self.prefix:
            return expression
        return substitute(expression, {key: Source(self.prefix + key) for key in expression.sources()})

    def names(self, key: str) -> list[str]:
        """Return the twin tensors that a key holds, by the names that the graph uses for them."""
        return [self.main.canonical[part] for part in self.twin.stores[key].names]


@dataclass(frozen=True)
class _Seen:
    """A model without its wrappers, its float twin, and the fx graph of that: a side before its graph is normalised."""

    model: nn.Module
    twin: Twin
    captured: Captured
    prefix: str

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs | None = None) -> "_Seen":
        inner, prefix = unwrap(model)
        twin = float_twin(inner, marked=True)
        captured = capture(twin.module) if inputs is None else capture_run(twin.module, inputs)
        return cls(inner, twin, captured, prefix)

    def side(self) -> Side:
        return Side(self.model, self.twin, Network.of(self.captured), self.prefix)


def side(model: nn.Module, inputs: Inputs | None = None) -> Side:
    """Unwrap a model, build its float twin, capture it (symbolically, or by a run on inputs), and normalise its graph.

    Raises:
        CaptureError: it has no graph.
        QuantizationError: it has a quantized module without a float counterpart.
    """
    return _Seen.of(model, inputs).side()


def sides(src: nn.Module, dst: nn.Module, given: Given) -> tuple[Side, Side]:
    """Capture both models by the highest rung that works for both, so that their graphs speak of the same operations.

    Raises:
        CaptureError: there is none; the message says why, for each.
    """
    if given.forward:
        return recorded_sides(src, dst, given, "a function was given to run in the place of forward")
    try:
        return _folded(side(src), side(dst))
    except CaptureError as error:
        return recorded_sides(src, dst, given, str(error))


def recorded_sides(src: nn.Module, dst: nn.Module, given: Given, reason: str) -> tuple[Side, Side]:
    """Capture both models by recording a run, on the inputs that were given or on the first that both accept.

    Raises:
        CaptureError: there are none; the message says why, after the `reason` why no higher rung serves.
    """
    tried = ""
    if given.src is not None and given.dst is not None:
        choices: Iterable[tuple[Inputs, Inputs]] = [(given.src, given.dst)]
    else:
        choices = ((inputs, inputs) for inputs in guess_inputs(unwrap(dst)[0], unwrap(src)[0]))
    for ours, theirs in choices:
        try:
            found = _Seen.of(src, ours), _Seen.of(dst, theirs)
        except CaptureError as error:
            tried = str(error)
            continue
        _level_norms(found[0].captured.graph, found[1].captured.graph)
        return _folded(*(seen.side() for seen in found))
    raise CaptureError(f"{reason}; {tried or 'no inputs were found to record a run on'}; pass example_inputs=(x,)")


def _folded(src: Side, dst: Side) -> tuple[Side, Side]:
    """Fold what one model has and the other has nothing of: summed branches, scales by channel, weight norms.

    A destination with as many layers has the branches too: it may return each of two heads beside their sum.
    """
    counts = list(zip(Fold._fields, src.main.ops.foldable, dst.main.ops.foldable, strict=True))
    layers = [len(one.main.ops.of_kind(AFFINE | {"batch_norm"})) for one in (src, dst)]
    surplus = {"sums": layers[0] > layers[1], "norms_before": layers[0] > layers[1]}
    ours = Fold(**{name: one > 0 and other == 0 and surplus.get(name, True) for name, one, other in counts})
    theirs = Fold(weight_norms=any(name == "weight_norms" and other > 0 and one == 0 for name, one, other in counts))
    return _with(src, ours), _with(dst, theirs)


def _with(one: Side, fold: Fold) -> Side:
    return one if fold == Fold() else replace(one, main=Network.of(one.main, fold))


def _level_norms(src: fx.Graph, dst: fx.Graph) -> None:
    """Take the norms of both apart where one spells out norms that are one operation of the other."""
    if len(scaling_norms(src)) != len(scaling_norms(dst)):
        take_apart(src)
        take_apart(dst)
