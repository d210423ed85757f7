"""Forced decisions: what two models do where a decision by values goes the way that it went in no compared run.

Cost: a run of both models for each such decision, and for each that may be the same in other words.
"""

from collections.abc import Iterator
from dataclasses import replace

from fxmap.prove.audit import Audit, Auditor
from fxmap.prove.decisions import Site


def forced(auditor: Auditor, found: Audit, *, unshown: bool) -> Audit:
    """Turn round the decisions by values that went one way in all runs, or, as `unshown` asks, in all on ordinary inputs."""
    log = auditor.log
    sites = [*log.open(by_value=True), *(site for site, _ in (log.unshown() if unshown else ()))]
    for site in sites:
        others = (frozenset({site}), *(frozenset({site, other}) for other in _elsewhere(auditor, site, sites)))
        if not any(_same(auditor, together, site) for together in others):
            return replace(found, untaken=str(site))
    return found


def _elsewhere(auditor: Auditor, site: Site, sites: list[Site]) -> Iterator[Site]:
    """Yield the decisions of the other model alone, one of which may be the same in other words: with equal numbers."""
    ours, theirs = auditor.log.outcomes
    one, other = auditor.log.compared
    if one == other and (site in ours) != (site in theirs):
        yield from (other for other in sites if (other in ours) == (site in theirs) and (other in theirs) == (site in ours))


def _same(auditor: Auditor, together: frozenset[Site], site: Site) -> bool:
    outcome = auditor.compare(auditor.log.reached[site], forced=together)
    return outcome is None or bool(outcome[1]) or outcome[0] <= auditor.tolerance
