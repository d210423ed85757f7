"""Sources that carry their graph: options of `load` that mean nothing for them, and layers of which a part is left."""

from collections.abc import Mapping
from typing import Any

from fxmap.errors import LoadError, shorten
from fxmap.files.left_over import left_over
from fxmap.mapping.key_mapping import KeyMapping


def refuse_choices(where: str, **options: object) -> None:
    """Refuse options that choose among the weights of a checkpoint: a graph has one set of them.

    Raises:
        LoadError: one is given.
    """
    given = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    if given:
        raise LoadError(f"{', '.join(given)}: {where} carries its graph, which has one set of weights. Leave it out")


def refuse_parts(mapping: KeyMapping, state: Mapping[str, Any], where: str) -> None:
    """Refuse a source with layers of which some tensors are read and others are not, unless a proof shows them idle.

    Raises:
        LoadError: there are such layers.
    """
    grave = [] if mapping.proof.ok else [one.key for one in left_over(state, mapping.sources()) if one.grave]
    if grave:
        raise LoadError(
            f"{where} holds more than the destination reads: {shorten(grave)}. Nothing was written. Pass strict=False to "
            "leave these in the file"
        )
