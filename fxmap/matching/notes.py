"""Notes: all sentences that a plan adds to the report."""

from collections.abc import Iterator

from fxmap.errors import shorten
from fxmap.forms import stages
from fxmap.forms.domain import floats_inside
from fxmap.forms.store import COPY
from fxmap.mapping.findings import Note, NoteKind
from fxmap.matching.derive.ranges import Taken
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side


def notes_on(plan: Plan, taken: Taken, untaken: str, blocked: str) -> Iterator[Note]:
    """Yield the notes of the report on a plan: facts about the models that the keys do not show.

    `taken` are the activation ranges that come from the source, `untaken` says why there are none, and `blocked` why the
    destination cannot be run at all.
    """
    src, dst, absorbed = plan.src, plan.dst, plan.derivation.absorbed
    if src.prefix or dst.prefix:
        prefixes = f"source keys begin with {src.prefix!r}, destination keys with {dst.prefix!r}"
        yield Note(f"wrapped: {prefixes}", NoteKind.WRAPPERS)
    if absorbed:
        key, (ours, theirs) = next(iter(absorbed.items()))
        yield Note(
            f"the source's eps of {ours:g} was absorbed in the running variance, since the destination's is {theirs:g}: "
            f"{key} and {len(absorbed) - 1} more",
            NoteKind.EPS_ABSORBED,
        )
    if dst.twin.stage == stages.FUSED:
        yield Note(
            "nothing in the destination is quantized: it is a fused float model. If you built it with torchvision's "
            'quantize=True and backend="x86", that quantizes nothing, silently: use backend="fbgemm" or "qnnpack"',
            NoteKind.NOT_QUANTIZED,
        )
    dead = [key for key, store in dst.twin.stores.items() if store.part == COPY]
    if dead:
        yield Note(
            f"{len(dead)} float weights of the destination are dead: its graph reads integers in their place. They are "
            f"filled too, and prove nothing: {shorten(dead)}",
            NoteKind.UNREAD_COPIES,
        )
    wrapped = [key for key, store in dst.twin.stores.items() if store.wrapped]
    if wrapped:
        kind = type(dst.model.state_dict()[wrapped[0]]).__name__
        yield Note(
            f"{len(wrapped)} weights are of the class {kind}: they are quantized as the destination's own are",
            NoteKind.TENSOR_SUBCLASS,
        )
    yield from _notes_on_ranges(plan, taken, untaken, blocked)


def _notes_on_ranges(plan: Plan, taken: Taken, untaken: str, blocked: str) -> Iterator[Note]:
    """Yield the notes on the activation ranges of an int8 destination."""
    if blocked:
        yield Note(blocked, NoteKind.FLOAT_LAYER_INSIDE)
    elif count := len(taken.keys) // 2 + len(taken.literals):
        yield Note(
            f"{count} ranges of activations are the int8 source's, which has one wherever the destination does",
            NoteKind.RANGES_TAKEN,
        )
        if taken.others:
            yield Note(
                f"{taken.others} more ranges of the source have no place in the destination, which rounds less there, or, "
                "behind a pool, with the range before it",
                NoteKind.RANGES_TAKEN,
            )
    elif plan.dst.twin.ranges:
        yield Note(
            f"{len(plan.dst.twin.ranges)} activation ranges cannot be made from weights: "
            "load with fxmap.transfer(src, dst, calibration=batches)",
            NoteKind.RANGES_NEEDED,
        )
    if untaken:
        text = f"ranges of activations of the int8 source are not taken over: {untaken}"
        yield Note(text, NoteKind.RANGES_NOT_TAKEN)


def float_inside(dst: Side) -> str:
    """Return the message that a float layer inside the quantized part keeps the destination from running; else empty."""
    inside = list(dst.twin.inside)
    if dst.twin.stage.runs_int8 and not inside:
        inside = floats_inside(dst.main.graph, set(dst.twin.converted))
    if not inside:
        return ""
    return (
        f"{', '.join(inside[:3])}: a float layer stands inside the quantized part of the destination, so its forward can't "
        "run: the layer would get int8 activations beside float weights. This happens when a head is replaced after "
        "conversion. Build the destination with the right head instead (for torchvision: num_classes=2 beside "
        "quantize=True), or replace the head before prepare and convert"
    )


def different_networks(plan: Plan) -> str:
    """Return the message that the two models are different networks."""
    return (
        f"these two are different networks: {plan.alignment.share:.0%} of the operations of the smaller one align; nothing "
        "was mapped. Give two models of the same architecture and size"
    )
