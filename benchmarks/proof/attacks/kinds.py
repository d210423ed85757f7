"""The kinds of attacks, in the order of the table."""

from collections.abc import Callable, Iterator
from itertools import chain

from benchmarks.proof.attacks import (
    analytic,
    arguments,
    batch,
    behind,
    branches,
    calls,
    coincidences,
    combined,
    decisions,
    families,
    inputs,
    integers,
    labels,
    named,
    near_spellings,
    operands,
    parts,
    second,
    sizes,
    state,
    turns,
    views,
)
from benchmarks.proof.attacks.attack import Attack
from benchmarks.proof.attacks.recorded import both_ways

KINDS: dict[str, Callable[[], Iterator[Attack]]] = {
    "attack: constant inputs": lambda: chain(both_ways(inputs.attacks()), families.attacks()),
    "attack: writes through views": lambda: both_ways(views.attacks()),
    "attack: state not mapped": lambda: both_ways(state.attacks()),
    "attack: batch of one": lambda: both_ways(batch.attacks()),
    "attack: sizes and lengths": lambda: chain(both_ways(sizes.attacks()), families.sizes()),
    "attack: operands and attributes": lambda: both_ways(operands.attacks()),
    "attack: near spellings": lambda: both_ways(near_spellings.attacks()),
    "attack: not analytic": lambda: both_ways(analytic.attacks()),
    "attack: integers and complex": lambda: both_ways(integers.attacks()),
    "attack: names of outputs": lambda: both_ways(named.attacks()),
    "attack: false labels": lambda: both_ways(labels.attacks()),
    "attack: behind a difference": lambda: chain(both_ways(behind.attacks()), families.depths()),
    "attack: decisions by values": lambda: both_ways(decisions.values()),
    "attack: decisions by sizes": lambda: both_ways(decisions.sizes()),
    "attack: manners of calling": lambda: both_ways(decisions.calls()),
    "attack: arguments": lambda: both_ways(arguments.attacks()),
    "attack: options together": calls.attacks,
    "attack: two things together": combined.attacks,
    "attack: code that no run reached": branches.attacks,
    "attack: second inputs": lambda: both_ways(second.attacks()),
    "attack: turns between draws": lambda: both_ways(turns.attacks()),
    "attack: coincidences": lambda: both_ways(coincidences.attacks()),
    "attack: parts that are none": lambda: both_ways(parts.attacks()),
}
