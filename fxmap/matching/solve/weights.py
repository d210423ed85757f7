"""Solve for the weights of one network so that it computes what another does."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fxmap.expressions.base import Expression
from fxmap.graph.index_maps import distinct
from fxmap.graph.kinds import Trait, has
from fxmap.matching.solve.choosing.positions import HELD, Bounds
from fxmap.matching.solve.choosing.readers import readers
from fxmap.matching.solve.expressing.express import Expressions, agree
from fxmap.matching.solve.known.source import SourceValues, TooLarge, run
from fxmap.matching.solve.runs.effort import Effort, OutOfEffort
from fxmap.matching.solve.runs.samples import Samples
from fxmap.matching.solve.runs.stacked import Unstackable
from fxmap.matching.solve.runs.static import static
from fxmap.matching.solve.search import Search
from fxmap.matching.solve.unknown.unknowns import Layout, Weights
from fxmap.model.inputs import Inputs
from fxmap.normalize.network import Network
from fxmap.run.calibrator import run_calibrated
from fxmap.run.randomize import in_double, random_tensors

logger = logging.getLogger(__name__)

# Networks with more weights are not tried.
LARGEST = 3_000_000


@dataclass(frozen=True)
class Checked:
    """Other weights of the source, and inputs of both networks, as they were run, on which a solution was checked."""

    networks: tuple[Network, Network]
    tensors: Mapping[str, Tensor]
    inputs: tuple[list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Solution:
    """The weights that were found, or why there are none."""

    found: Weights | None
    source: SourceValues | None
    why: str = ""
    expressions: Mapping[str, Expression] = field(default_factory=dict)
    equal: bool = False
    unknown: frozenset[str] = frozenset()
    checked: "Checked | None" = None

    def summary(self) -> dict[str, float]:
        """Return the share of the numbers of each weight that are numbers of the source."""
        if self.found is None:
            return {}
        return {
            path: round(float((self.found.places[self.found.layout.place(path)] != -1).double().mean()), 2)
            for path in self.found.layout.shapes
        }


def solve_weights(src: Network, dst: Network, known: Sequence[Mapping[str, Expression]] = ()) -> Solution:
    """Find weights of `dst` that make it compute what `src` computes, on random weights of `src`.

    `known` are expressions of some of the destination's tensors, by path, which may be right: with each of these in turn,
    the other tensors alone are solved for first. As what is known may be wrong, or be all that the others stand behind,
    every search has a short turn before one has all of its effort.
    """
    assert src.inputs is not None
    assert dst.inputs is not None
    src, dst = static(src), static(dst)
    samples = _samples(src, dst)
    unknown = unknown_tensors(dst, tables=True)
    size = sum(tensor.numel() for tensor in unknown.values())
    if size > LARGEST:
        return Solution(None, None, f"the destination has more than {LARGEST} weights, too many to solve for")
    outputs, numbers = zip(*map(_sizes, (src, dst)), strict=True)
    if None in outputs or outputs[0] != outputs[1]:
        return Solution(None, None, "the models return tensors of other sizes")
    runs = _Runs(src, samples, max(SourceValues.LIMIT // max(numbers), _FEWEST))
    most = min(3.0 + 2e-2 * len(dst.graph.nodes) + 2e-5 * size, MOST)
    given = [one for index, one in enumerate(known) if one and unknown.keys() - one.keys() and one not in known[:index]]
    searches = [_Searches((src, dst), runs, one, Effort(_SHARE * most)) for one in given]
    searches.append(_Searches((src, dst), runs, {}, Effort(most)))
    helpful = [sum(unknown[path].numel() for path in one if path in unknown) > size / _HELPS for one in given]
    first = sorted(range(len(searches)), key=lambda index: index < len(given) and not helpful[index])
    return _solution(searches, [searches[index] for index in first] if given else [])


def drawn_beside(src: Network, dst: Network) -> Checked:
    """Return random weights of the source, and some inputs of both networks that it was not solved on."""
    src, dst = static(src), static(dst)
    tensors = source_tensors(src, frozenset(loose_buffers(src, tables=False)), seed=1)
    return Checked((src, dst), tensors, _samples(src, dst).stacked(3, seed=2))


def _solution(searches: "list[_Searches]", first: "list[_Searches]") -> Solution:
    """Return the first solution that a search finds, in its turn if it has one; else why the last one finds none."""
    for search in first:
        found = search.turn()
        if found is not None and found.equal:
            return found
    for search in searches:
        last = search.all()
        if last.equal:
            break
    return last


class _Searches:
    """The searches with some of the destination's tensors known, within wider and wider bounds, and what they may cost."""

    def __init__(
        self, networks: tuple[Network, Network], runs: "_Runs", known: Mapping[str, Expression], effort: Effort
    ) -> None:
        self.networks, self.runs, self.known, self.effort = networks, runs, known, effort
        same = unknown_tensors(networks[1], tables=False).keys() == unknown_tensors(networks[1], tables=True).keys()
        self._tables = (False,) if same else (False, True)
        self._tries: list[_Try] = []

    def turn(self) -> Solution | None:
        """Search within the narrowest bounds, for a short time unless it goes straight on; None if nothing is found yet."""
        found, _ = self._within(_BOUNDS[0], 0, _FIRST)
        if sum(one.walk.holding.size() for one in self._tries) > HELD // 4:
            self._tries = []  # several of these would take much memory
        return found

    def all(self) -> Solution:
        """Search within all bounds."""
        why = ""
        for bounds in _BOUNDS:
            for index in range(len(self._tables)):
                found, why = self._within(bounds, index, _SHARE)
                if found is not None:
                    return found
        self._tries = []
        return Solution(None, None, why)

    def _within(self, bounds: Bounds, index: int, share: float) -> tuple[Solution | None, str]:
        """Search once; return a solution, or one that says why there can be none, or None and why nothing was found."""
        try:
            while len(self._tries) <= index:
                tables = self._tables[len(self._tries)]
                self._tries.append(_Try(self.networks, self.runs, self.known, tables=tables))
            return self._tries[index].search(bounds, self.effort, share)
        except OutOfEffort as error:
            return None, str(error)
        except TooLarge as error:
            return Solution(None, None, f"too much memory would be needed to solve for the weights: {error}"), ""
        except (Unstackable, RuntimeError) as error:
            return Solution(None, None, f"{type(error).__name__}: {error}"), ""


# So many samples are taken at least.
_FEWEST = 32

# Up to so many weights, a layer that reads many numbers is given as many samples.
_SMALL = 20_000

# One search may take this share of the effort that is left, its first turn that one, and no network is given more than this.
_SHARE, _FIRST, MOST = 0.4, 0.15, 20.0

# Of what is known, one number of so many spares a search much; with less, the search without it has its turn before.
_HELPS = 3
_BOUNDS = (
    *(Bounds(0), Bounds(0, strict=False), Bounds(1), Bounds(0, unusual=True)),
    *(Bounds(2, unusual=True), Bounds(1000, unusual=True), Bounds(1000, strict=False, unusual=True)),
)


class _Runs:
    """The runs of the source, by which of its buffers are random and how many samples there are: one serves all searches."""

    def __init__(self, src: Network, samples: Samples, most: int) -> None:
        """Take `most` samples at most."""
        self.src, self.samples, self.most = src, samples, most
        self._found: dict[tuple[frozenset[str], int], tuple[SourceValues, list[Tensor]]] = {}

    def of(self, random: frozenset[str], count: int) -> tuple[SourceValues, list[Tensor]]:
        """Return the source's values, and the destination's inputs."""
        count = min(count, self.most)
        if (random, count) not in self._found:
            ours, theirs = self.samples.stacked(count)
            if not ours:
                raise Unstackable("no tensor is given to the source, so that there are no samples")
            self._found[random, count] = SourceValues(self.src, source_tensors(self.src, random), ours), theirs
        return self._found[random, count]


class _Try:
    """One way to tell weights from tables; see `unknown_tensors`."""

    def __init__(
        self, networks: tuple[Network, Network], runs: _Runs, known: Mapping[str, Expression], *, tables: bool
    ) -> None:
        src, dst = networks
        self.networks, self.samples, self.known = networks, runs.samples, known
        self.unknown = {path: one for path, one in unknown_tensors(dst, tables=tables).items() if path not in known}
        self.random = frozenset(loose_buffers(src, tables=tables))
        self.source, theirs = runs.of(self.random, _count(self.unknown))
        if known:
            values = {path: made.evaluate(self.source.tensors, quantized=False) for path, made in known.items()}
            dst = replace(dst, tensors={path: values.get(dst.canonical[path], own) for path, own in dst.tensors.items()})
        self.last: Solution | None = None
        self.begin = Weights.none(Layout.of(dst, self.unknown))
        self.walk = Search(self.source, dst, theirs, self._accept)

    @cached_property
    def other(self) -> "Checked":
        """Other weights of the source and other inputs, on which all solutions are checked."""
        return Checked(self.networks, source_tensors(self.networks[0], self.random, seed=1), self.samples.stacked(3, seed=2))

    def search(self, bounds: Bounds, effort: Effort, share: float) -> tuple[Solution | None, str]:
        """Search for weights whose expressions hold for other weights of the source, too."""
        own = effort.share(share)
        try:
            found = self.walk.run(self.begin, bounds, own)
        finally:
            effort.spent += own.spent
            logger.info("%s: %d steps, %.2f spent, %s", bounds, self.walk.steps, own.spent, self.walk.why)
        return (None if found is None else self.last), self.walk.why if self.last is None else self.last.why

    def _accept(self, found: Weights) -> bool:
        self.last = self._solution(found)
        return self.last.equal

    def _solution(self, found: Weights) -> Solution:
        made = {**self.known, **Expressions(self.source, found).all()}
        other = self.other
        equal = agree(made, self.networks, other.tensors, other.inputs)
        why = "" if equal else "the expressions do not hold for other weights"
        return Solution(found, self.source, why, made, equal, frozenset(self.unknown), other)


def _sizes(network: Network) -> tuple[list[int] | None, int]:
    """Return the sizes of the tensors that a network returns, which no weights change, and how many numbers its values have.

    None where it does not run on stacked inputs.
    """
    assert network.inputs is not None
    tensors = {path: in_double(tensor.detach()) for path, tensor in network.tensors.items()}
    try:
        values = run(network, tensors, [tensor[None] for tensor in network.inputs.double().flat()])
    except (RuntimeError, ValueError, IndexError, Unstackable):
        return None, 1
    returned = next(node for node in network.graph.nodes if node.op == "output").all_input_nodes
    numbers = sum(tensor.numel() for value in values.values() if value.stacked for tensor in value.tensors())
    return [tensor.numel() for node in returned for tensor in values[node].tensors()], max(numbers, 1)


def source_tensors(src: Network, random: frozenset[str], seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of the source, and of the buffers in `random`: all different numbers, which float32 has not."""
    generator = torch.Generator().manual_seed(seed)
    assert src.inputs is not None
    drawn, cut = random_tensors(src, generator), _cut(src)
    made: dict[int, Tensor] = {}
    for path, tensor in drawn.items():
        own = src.tensors[path]
        if id(tensor) in made or not (tensor.is_floating_point() or tensor.is_complex()):
            made.setdefault(id(tensor), tensor)
        elif path in random:
            made[id(tensor)] = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
        elif isinstance(own, nn.Parameter):
            made[id(tensor)] = tensor * (1 + 1e-5 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
            if path in cut:
                made[id(tensor)] = made[id(tensor)].abs()
    tensors = {path: made.get(id(tensor), tensor) for path, tensor in drawn.items()}
    calibrated, _ = run_calibrated(src, tensors, src.arguments(src.inputs.double()), generator)
    return {path: tensor.detach() for path, tensor in calibrated.items()}


def _cut(network: Network) -> set[str]:
    """Return the real weights that a function of pieces reads itself: the negative numbers of relu(w) would be nothing."""
    nodes = [node for node in network.graph.nodes if node.op == "get_attr"]
    found = {str(node.target) for node in nodes if any(not has(kind, Trait.ANALYTIC) for kind, _ in readers(node))}
    return {
        path for path, tensor in network.tensors.items() if network.canonical[path] in found and tensor.is_floating_point()
    }


def loose_buffers(network: Network, *, tables: bool) -> set[str]:
    """Return the floating-point buffers that are weights: statistics of norms, and those that hold one number throughout.

    Other buffers may be `tables` that the model makes itself, or weights all the same.
    """
    found = set()
    for path, tensor in network.tensors.items():
        if isinstance(tensor, nn.Parameter) or not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
            continue
        constant = bool((tensor == tensor.flatten()[0]).all())
        if constant or _is_statistic(network, path) or not (tables or _is_table(tensor)):
            found.add(path)
    return found


def _is_statistic(network: Network, path: str) -> bool:
    nodes = [node for node in network.graph.nodes if node.op == "get_attr" and str(node.target) == network.canonical[path]]
    return any(kind.endswith("_norm") for node in nodes for kind, _ in readers(node))


def _is_table(tensor: Tensor) -> bool:
    """Whether the numbers look like those that code computes: few different ones, sorted ones, or some that are infinite."""
    flat = tensor.detach().flatten()
    steps = flat[1:] - flat[:-1]
    few = len(flat) > 8 and len(distinct(flat)) <= len(flat) // 4
    return few or not bool(torch.isfinite(flat).all()) or (len(flat) > 2 and bool((steps >= 0).all() | (steps <= 0).all()))


def unknown_tensors(network: Network, *, tables: bool) -> dict[str, Tensor]:
    """Return the tensors to solve for, by canonical path: parameters, and buffers that are weights (see `loose_buffers`)."""
    loose = loose_buffers(network, tables=tables)
    read = {str(node.target) for node in network.graph.nodes if node.op == "get_attr"}
    return {
        path: tensor
        for path, tensor in network.tensors.items()
        if network.canonical[path] == path
        and (isinstance(tensor, nn.Parameter) or path in loose)
        and (tensor.is_floating_point() or tensor.is_complex())
        and path in read
    }


def _count(unknown: dict[str, Tensor]) -> int:
    """Return the number of samples: more than a layer's output reads of any weight."""
    fans = [
        max(tensor.numel() // max(min(extent, tensor.numel()), 1) for extent in tensor.shape if extent > 1)
        for tensor in unknown.values()
        if any(extent > 1 for extent in tensor.shape)
    ]
    few = sum(tensor.numel() for tensor in unknown.values()) <= _SMALL
    return min(max([_FEWEST, *(int(1.5 * fan) + 16 for fan in fans)]), 1000 if few else 320)


def _samples(src: Network, dst: Network) -> Samples:
    assert src.inputs is not None
    assert dst.inputs is not None

    def accepts(ours: Inputs, theirs: Inputs) -> bool:
        return runs(([tensor[None] for tensor in ours.flat()], [tensor[None] for tensor in theirs.flat()]))

    def runs(stacked: tuple[list[Tensor], list[Tensor]]) -> bool:
        try:
            for network, inputs in zip((src, dst), stacked, strict=True):
                tensors = {path: in_double(tensor.detach()) for path, tensor in network.tensors.items()}
                run(network, tensors, inputs)
        except (RuntimeError, IndexError, Unstackable):
            return False
        return True

    sizes = {extent for network in (src, dst) for tensor in network.tensors.values() for extent in tensor.shape}
    offsets = {size - step for size in sizes for step in range(0, 1)}
    samples = Samples(src.inputs, dst.inputs, accepts, tuple(offsets))
    if any(not tensor.is_floating_point() for tensor in src.inputs.flat()):
        samples.held = not runs(samples.stacked(3))
    return samples
