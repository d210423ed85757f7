"""Between two outcomes: the inputs at which a decision turns, sought by bisection.

Two models that ask `x.std() > 2` and `x.std() > 2.5` agree on whatever is drawn far from both. The inputs that led a
decision one way and those that led it the other way have a path between them: on it the one model turns before the other
does, and where both are run close to the turn, they part. Floats go there in a straight line; integers and masks are
exchanged one after the other. Lengths have a path as well: the lengths between two.

Cost: twenty to sixty runs of both models for each decision that went both ways, on inputs as small as special values.
Source: bisection; Dobslaw, Feldt and de Oliveira Neto, Boundary value exploration for software analysis, ICSTW 2020.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fxmap.prove.code.decision_log import Log
from fxmap.prove.code.decisions import Site
from fxmap.prove.inputs.samples import Both, Sampler

# Steps of one bisection, and how close its ends come, relative to the farther one: closer to a turn, rounding decides.
_STEPS, _CLOSE = 60, 1e-6


def turns(sampler: Sampler, log: Log, run: Callable[[Both], object], limit: int) -> Iterator[None]:
    """Run inputs ever closer to where decisions by values turn; yield after each run.

    Args:
        sampler: makes inputs of both models from values of the source's.
        log: the decisions so far, to which a run adds its own.
        run: runs both models.
        limit: how many places of decisions are looked at.
    """
    for site in [site for site in log.met if site.by_value][:limit]:
        ends = next((found for found in log.met[site].values() if len(found) > 1), None)
        if ends is None:
            continue
        values = [ends[way][0].flat() for way in (False, True)]
        if len(values[0]) != len(sampler.slots):
            continue  # more tensors than the example has
        low, high = 0.0, 1.0  # at `low` the outcome is False
        for _ in range(_STEPS):
            middle = (low + high) / 2
            run(sampler.both_of([_mixed(a, b, middle) for a, b in zip(*values, strict=True)]))
            yield
            outcome = log.outcome(site)
            low, high = (low, middle) if outcome else (middle, high)
            if outcome is None or high - low <= _CLOSE * high:
                break


def _mixed(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Return values on the way from one tensor to another of the same shape."""
    if one.is_floating_point() or one.is_complex():
        return torch.lerp(one, other, share)
    count = round(share * one.numel())
    return torch.cat([other.flatten()[:count], one.flatten()[count:]]).reshape(one.shape)


def gaps(outcomes: dict[int, dict[Site, bool]]) -> Iterator[int]:
    """Yield lengths halfway between two neighbours at which a decision went different ways.

    >>> site = Site("file", 1, 0, 0, by_value=False)
    >>> list(gaps({4: {site: False}, 12: {site: True}, 13: {site: True}}))
    [8]
    """
    for one, other in pairwise(sorted(outcomes)):
        parted = any(outcomes[other].get(site, way) is not way for site, way in outcomes[one].items())
        middle = (one + other) // 2
        if parted and other - one > 1:
            yield middle


def single(found: Sequence[dict[Site, set[bool]]]) -> dict[Site, bool]:
    """Return the decisions by sizes that went one way in a run of both models."""
    sites = {site: set[bool]() for outcomes in found for site in outcomes if not site.by_value}
    for outcomes in found:
        for site in sites:
            sites[site] |= outcomes.get(site, set())
    return {site: next(iter(ways)) for site, ways in sites.items() if len(ways) == 1}
