"""The mapping by structure alone: align, derive, and say what is known of every destination key."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from fxmap.capture.captured import capture
from fxmap.errors import CaptureError, shorten
from fxmap.expressions.base import Expression, Source, substitute
from fxmap.forms.domain import floats_inside
from fxmap.forms.stage import Stage
from fxmap.forms.store import COPY
from fxmap.forms.twin import LITERAL
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.knowledge import Knowledge, Mismatch
from fxmap.mapping.proof import Status
from fxmap.matching.align.align import align
from fxmap.matching.align.alignment import Alignment, Pair
from fxmap.matching.derive.derivation import Derivation, Orders, derive, siblings
from fxmap.matching.derive.places import Quantizer
from fxmap.matching.derive.ranges import Taken, take_over
from fxmap.matching.derive.saturation import saturations
from fxmap.matching.sides import Side
from fxmap.normalize.network import Network

logger = logging.getLogger(__name__)


# Below this share of the smaller network, two models are different networks.
SAME_NETWORK = 0.2


@dataclass(frozen=True)
class Plan:
    """What alignment and derivation found between two models: what a proof starts from."""

    src: Side
    dst: Side
    alignment: Alignment
    derivation: Derivation = field(default_factory=Derivation)

    @property
    def certain(self) -> bool:
        """Whether structure left nothing open: every tensor that the destination reads has a source, on strong evidence."""
        made = self.derivation.expressions.keys() | self.derivation.mismatched.keys()
        weak = any(pair.evidence.weak and self.dst.main.ops.tensors(pair.dst) for pair in self.alignment.pairs)
        parted = self.src.main.ops.unsplit or self.dst.main.ops.unsplit
        return not weak and not parted and self.dst.main.read <= made and not self._crossed()

    def _crossed(self) -> bool:
        """Whether an operation reads as one argument what its counterpart reads as another: a join the other way round."""
        src, dst = self.src.main.ops, self.dst.main.ops
        partners = {pair.dst: pair.src for pair in self.alignment.pairs}
        for pair in self.alignment.pairs:
            ours = src.operands(pair.src)
            if len(ours) < 2:
                continue  # nothing to exchange, however it is called
            for argument, producers in dst.operands(pair.dst).items():
                known = {partners[producer] for producer in producers if producer in partners}
                others = {name for use, names in ours.items() if use != argument for name in names}
                if known & others and not known <= set(ours.get(argument, ())):
                    return True
        return False


def map_by_structure(
    src: Side,
    dst: Side,
    anchors: Sequence[tuple[str, str]] = (),
    columns: Orders | None = None,
    *,
    thorough: bool = True,
    absorb_eps: bool = False,
) -> tuple[KeyMapping, Plan]:
    """Align the two graphs, from `anchors` if some pairs are known, and derive the mapping. Runs neither model.

    `columns` are orders of input channels, see `derive`.
    """
    alignment = align(src.main.ops, dst.main.ops, anchors, thorough=thorough)
    if alignment.share < SAME_NETWORK:
        return _different(src, dst, alignment), Plan(src, dst, alignment)
    found = derive(src.main.ops, dst.main.ops, alignment, columns, absorb_eps=absorb_eps)
    found = _with_siblings(src, dst, _with_auxiliary(src, dst, found, absorb_eps))
    mapping = _Draft(src, dst, found, alignment.pairs).mapping()
    bounded = saturations(src.main.ops, dst.main.ops, alignment.pairs, dst.twin.module, dst.twin.converted)
    return mapping.with_knowledge(saturating=bounded), Plan(src, dst, alignment, found)


def _with_auxiliary(src: Side, dst: Side, found: Derivation, absorb_eps: bool) -> Derivation:
    """Add heads that exist in training only, of one model or of both: tensors that its eval graph does not read."""
    floats = [{path for path, tensor in side.main.tensors.items() if tensor.is_floating_point()} for side in (src, dst)]
    wanted = floats[1] - found.expressions.keys() - found.mismatched.keys()
    if not wanted or not (floats[0] - src.main.read or wanted - dst.main.read):
        return found
    try:
        ours, theirs = (Network.of(capture(side.twin.module, auxiliary=True)).ops for side in (src, dst))
    except CaptureError as error:
        logger.info("no graph in training mode: %s", error)
        return found
    heads = derive(ours, theirs, align(ours, theirs), absorb_eps=absorb_eps)
    used = {path for expression in found.expressions.values() for path in expression.sources()}
    made = {key: e for key, e in heads.expressions.items() if key in wanted and used.isdisjoint(e.sources())}
    mismatched = {key: mismatch for key, mismatch in heads.mismatched.items() if key in wanted}
    return replace(found, expressions={**found.expressions, **made}, mismatched={**found.mismatched, **mismatched})


def _with_siblings(src: Side, dst: Side, found: Derivation) -> Derivation:
    """Add what no graph reads, such as batch counters, by the module that owns it."""
    ours, theirs = (_unread(side) for side in (src, dst))
    missing = {path: shape for path, shape in theirs.items() if path not in found.expressions}
    return replace(found, expressions={**found.expressions, **siblings(found.expressions, ours, missing)})


def _unread(side: Side) -> dict[str, tuple[int, ...]]:
    return {path: tuple(tensor.shape) for path, tensor in side.main.tensors.items() if path not in side.main.read}


class _Draft:
    """Collects what is known of every destination key."""

    def __init__(self, src: Side, dst: Side, found: Derivation, pairs: Iterable[Pair]) -> None:
        self.src, self.dst, self.found = src, dst, found
        self.decoded, self.held = src.decoded(), src.held()
        self.tensors = {name: substitute(expression, self.decoded) for name, expression in found.expressions.items()}
        self.expressions: dict[str, Expression] = {}
        self.statuses: dict[str, Status] = {}
        self.reasons: dict[str, str] = {}
        self.mismatched: list[Mismatch] = []
        taken = _taken(src, dst, found, pairs)
        self.taken, self.untaken = (Taken(), taken) if isinstance(taken, str) else (taken, "")
        self.unread: list[str] = []
        # Source keys whose counterpart has another shape.
        self.replaced: set[str] = set()

    def mapping(self) -> KeyMapping:
        """Go through the destination's keys, and put the mapping together."""
        for key in self.dst.model.state_dict():
            self._add(key)
        self.expressions |= self.taken.keys
        self.statuses |= dict.fromkeys(self.taken.keys, Status.TAKEN)
        blocked = _float_inside(self.dst)
        knowledge = Knowledge(
            statuses=self.statuses,
            unexpected=self._unexpected(),
            mismatched=tuple(self.mismatched),
            unread=tuple(self.unread),
            ranges=tuple(key for name in self.dst.twin.ranges if (key := self.dst.prefix + name) not in self.taken.idle),
            reasons={key: reason for key, reason in self.reasons.items() if reason},
            notes=tuple(self._notes(blocked)),
            stages=(self.src.twin.stage, self.dst.twin.stage),
            rungs=(self.src.main.rung, self.dst.main.rung),
            literals=self.taken.literals,
            blocked=blocked,
        )
        return KeyMapping(self.expressions, knowledge)

    def _add(self, key: str) -> None:
        name = self.dst.prefix + key
        if key not in self.dst.twin.stores:
            self.statuses[name] = Status.KEPT
            self.reasons[name] = self.dst.twin.kept[key]
            return
        parts = self.dst.names(key)
        counter = not self.dst.main.tensors[parts[0]].is_floating_point()
        dead = self.dst.twin.stores[key].part == COPY
        if dead or self.dst.main.read.isdisjoint(parts):
            self.unread.append(name)
        made = self._made(key)
        wrong = [self.found.mismatched[part] for part in parts if part in self.found.mismatched]
        if made is not None:
            self.expressions[name] = made
            self.statuses[name] = Status.INERT if dead or (counter and name in self.unread) else Status.MATCHED
        elif wrong:
            self.statuses[name] = Status.MISMATCHED
            sources = [next(self.decoded[mismatch.source].sources()) for mismatch in wrong]
            self.replaced.update(sources)
            self.mismatched.append(replace(wrong[0], key=name, source=sources[0]))
        elif name in self.unread and self.dst.twin.stage is Stage.PT2E_CONVERTED:
            self.statuses[name] = Status.KEPT
            self.reasons[name] = "dead: the graph does not read it"
        elif counter:
            self.statuses[name] = Status.KEPT
            self.reasons[name] = "integers that the model makes itself: a counter, or a table of positions"
        else:
            self.statuses[name] = Status.MISSING
            self.reasons[name] = next((self.found.reasons[part] for part in parts if part in self.found.reasons), "")

    def _made(self, key: str) -> Expression | None:
        store, canonical = self.dst.twin.stores[key], self.dst.main.canonical
        made = {part: self.tensors[canonical[part]] for part in store.names if canonical[part] in self.tensors}
        return store.encode(made, self.held)

    def _unexpected(self) -> tuple[str, ...]:
        used = {source for expression in self.expressions.values() for source in expression.sources()}
        used |= self.replaced
        # A counter is used up with the norm that it counts for, whether that was copied or folded.
        owners = {key.rpartition(".")[0] for key in used}
        result = []
        for key, store in self.src.twin.stores.items():
            name = self.src.prefix + key
            if store.part and self.src.prefix + store.weight in used:
                continue
            counter = not self.src.main.tensors[store.weight].is_floating_point()
            if name not in used and not (counter and name.rpartition(".")[0] in owners):
                result.append(name)
        return tuple(result)

    def _notes(self, blocked: str) -> list[str]:
        notes = []
        if self.src.prefix or self.dst.prefix:
            notes.append(f"wrapped: source keys begin with {self.src.prefix!r}, destination keys with {self.dst.prefix!r}")
        if self.found.absorbed:
            key, (ours, theirs) = next(iter(self.found.absorbed.items()))
            notes.append(
                f"the source's eps of {ours:g} was absorbed in the running variance, since the destination's is {theirs:g}: "
                f"{key} and {len(self.found.absorbed) - 1} more"
            )
        if self.dst.twin.stage is Stage.FUSED:
            notes.append(
                "nothing in the destination is quantized: it is a fused float model. If you built it with torchvision's "
                'quantize=True and backend="x86", that quantizes nothing, silently: use backend="fbgemm" or "qnnpack"'
            )
        dead = [key for key, store in self.dst.twin.stores.items() if store.part == COPY]
        if dead:
            notes.append(
                f"{len(dead)} float weights of the destination are dead: its graph reads integers in their place. They are "
                f"filled too, and prove nothing: {shorten(dead)}"
            )
        wrapped = [key for key, store in self.dst.twin.stores.items() if store.wrapped]
        if wrapped:
            kind = type(self.dst.model.state_dict()[wrapped[0]]).__name__
            notes.append(f"{len(wrapped)} weights are of the class {kind}: they are quantized as the destination's own are")
        if blocked:
            notes.append(blocked)
        elif taken := len(self.taken.keys) // 2 + len(self.taken.literals):
            notes.append(f"{taken} ranges of activations are the int8 source's, which has one wherever the destination does")
            if self.taken.others:
                notes.append(
                    f"{self.taken.others} more ranges of the source have no place in the destination, which rounds less"
                )
        elif self.dst.twin.ranges:
            notes.append(
                f"{len(self.dst.twin.ranges)} activation ranges cannot be made from weights: "
                "load with fxmap.transfer(src, dst, calibration=batches)"
            )
        if self.untaken:
            notes.append(f"ranges of activations of the int8 source are not taken over: {self.untaken}")
        return notes


def _taken(src: Side, dst: Side, found: Derivation, pairs: Iterable[Pair]) -> Taken | str:
    """Find the ranges of an int8 source for an int8 destination; or say why they do not correspond one to one."""
    sites = {name for site in dst.twin.sites for name in (site.scale, site.zero_point) if isinstance(name, str)}
    literals = {site.node for site in dst.twin.sites if site.node}
    named = {name.removesuffix(LITERAL) for name in dst.twin.ranges}
    if not named or not src.twin.sites:
        return Taken()
    if named != sites | literals:
        return f"{shorten(sorted(named ^ (sites | literals)))}: it is not known where this is read"
    ours, theirs = (
        Quantizer(side.twin.sites, side.main, side.model.state_dict(), side.prefix, side.twin.stage is Stage.CONVERTED)
        for side in (src, dst)
    )
    ops = dst.main.ops
    # What an operation gives whose tensors the source does not make is not in the source's range.
    made = (
        p for p in pairs if all(t.key in found.expressions or t.key in ops.composed for t in ops.tensors(p.dst).values())
    )
    return take_over(ours, theirs, made, _owners(found))


def _owners(found: Derivation) -> dict[str, str]:
    """Return for every module of the destination the one whose tensors it has, under their names; none if there are more."""
    owners: dict[str, set[str]] = {}
    for path, expression in found.expressions.items():
        owner, _, name = path.rpartition(".")
        source, _, other = expression.key.rpartition(".") if isinstance(expression, Source) else ("", "", "")
        owners.setdefault(owner, set()).add(source if name == other else "")
    return {owner: next(iter(sources)) for owner, sources in owners.items() if len(sources) == 1}


def _float_inside(dst: Side) -> str:
    inside = list(dst.twin.inside)
    if dst.twin.stage is Stage.CONVERTED and not inside:
        inside = floats_inside(dst.main.graph, set(dst.twin.converted))
    if not inside:
        return ""
    return (
        f"{', '.join(inside[:3])}: a float layer stands inside the quantized part of the destination, so its forward can't "
        "run: the layer would get int8 activations beside float weights. This happens when a head is replaced after "
        "conversion. Build the destination with the right head instead (for torchvision: num_classes=2 beside "
        "quantize=True), or replace the head before prepare and convert"
    )


def _different(src: Side, dst: Side, alignment: Alignment) -> KeyMapping:
    text = (
        f"these two are different networks: {alignment.share:.0%} of the operations of the smaller one align; nothing was "
        "mapped. Give two models of the same architecture and size"
    )
    statuses = {
        dst.prefix + key: Status.MISSING if key in dst.twin.stores else Status.KEPT for key in dst.model.state_dict()
    }
    knowledge = Knowledge(
        statuses=statuses,
        unexpected=tuple(src.prefix + key for key in src.twin.stores),
        notes=(text,),
        stages=(src.twin.stage, dst.twin.stage),
        rungs=(src.main.rung, dst.main.rung),
        different=text,
    )
    return KeyMapping({}, knowledge)
