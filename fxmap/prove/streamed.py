"""What a proof says of models whose weights were drawn when they were read: how it was run, and what it does not know."""

from dataclasses import replace

from fxmap.errors import shorten
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Proof
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side
from fxmap.prove.inputs.budget import Budget
from fxmap.run.deferred import Deferred
from fxmap.run.streamed import unknown_buffers


def as_streamed(proof: Proof, mapping: KeyMapping, plan: Plan) -> Proof:
    """Return the proof of streamed models with a note of that; it is not ok where numbers of theirs are made up.

    A proof of other models is returned unchanged.
    """
    numbers = sum(tensor.numel() for tensor in plan.src.main.tensors.values())
    sides = (plan.src, mapping.sources()), (plan.dst, set(mapping))
    if any(isinstance(tensor, Deferred) for side, _ in sides for tensor in side.main.tensors.values()):
        few = ", on few inputs, and short ones" if Budget.of(numbers) == Budget.least() else ""
        note = f"streamed: each weight was drawn whenever an operation read it, and dropped; {numbers:.1e} numbers{few}"
        proof = replace(proof, notes=(*proof.notes, note))
    made_up = [name for side, read in sides for name in _made_up(side, read)]
    if not made_up or not proof.ok:
        return proof
    reason = (
        f"{shorten(made_up)}: a buffer on the meta device, whose numbers the model's code computes when it is built, and "
        "whose module cannot be built anew; build both models in `with fxmap.without_weights():`"
    )
    return replace(proof, ok=False, reason=reason)


def _made_up(side: Side, mapped: set[str]) -> list[str]:
    """Return the buffers without numbers of one model that the mapping neither reads nor makes, or that are no weights."""
    tensors = side.main.tensors

    def is_drawn(name: str) -> bool:
        return side.prefix + name in mapped and (name not in tensors or tensors[name].is_floating_point())

    return [name for name in unknown_buffers(side.model) if not is_drawn(name)]
