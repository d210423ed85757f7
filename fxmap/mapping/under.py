"""Under: the mapping of a part of a destination as a mapping of the whole."""

from collections.abc import Iterable
from dataclasses import replace

from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status


def under(mapping: KeyMapping, prefix: str, keys: Iterable[str]) -> KeyMapping:
    """Put a prefix before every destination key; the other `keys` of the whole are kept.

    >>> moved = under(KeyMapping({"weight": "fc.weight"}), "head.", ["head.weight", "other"])
    >>> dict(moved.renames), moved.status("other")
    ({'head.weight': 'fc.weight'}, <Status.KEPT: 'kept'>)
    """
    known, proof = mapping.knowledge, mapping.proof
    rest = {key: Status.KEPT for key in keys if not key.startswith(prefix)}
    inside = {prefix + key: status for key, status in known.statuses.items()}
    knowledge = replace(
        known,
        statuses=rest | inside,
        mismatched=tuple(replace(found, key=prefix + found.key) for found in known.mismatched),
        unread=tuple(prefix + key for key in known.unread),
        by_order=tuple(prefix + key for key in known.by_order),
        ranges=tuple(prefix + key for key in known.ranges),
        reasons=dict.fromkeys(rest, f"not in {prefix[:-1]}, which was loaded")
        | {prefix + key: reason for key, reason in known.reasons.items()},
        versions={(prefix + path).removesuffix("."): version for path, version in known.versions.items()},
    )
    proof = replace(proof, statuses=rest | {prefix + key: status for key, status in proof.statuses.items()})
    return KeyMapping(
        {prefix + key: part for key, part in mapping.items()},
        knowledge,
        proof,
        mapping.trace,
        mapping.graphs and mapping.graphs.under(prefix),
    )
