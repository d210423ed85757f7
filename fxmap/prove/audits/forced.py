"""Forced decisions: what two models do where a decision by values goes the way that it went in no compared run.

Cost: a run of both models for each such decision, and for each that may be the same in other words.
"""

from collections.abc import Iterator
from dataclasses import replace

from fxmap.prove.audits.audit import Audit, Auditor
from fxmap.prove.audits.other_way import Outcome, failing
from fxmap.prove.code.decisions import Site


def forced(auditor: Auditor, found: Audit, *, unshown: bool) -> Audit:
    """Turn round the decisions by values that went one way in all runs, or, as `unshown` asks, in all on ordinary inputs.

    Where both models fail then, or one that has the decision alone, nothing is shown, and the decision is named.
    """
    log = auditor.log
    sites, nothing = [*log.open(by_value=True), *(site for site, _ in (log.unshown() if unshown else ()))], list[str]()
    for site in sites:
        others = (frozenset({site}), *(frozenset({site, other}) for other in _elsewhere(auditor, site, sites)))
        for together in others:
            outcome = _outcome(auditor, together, site)
            if outcome in (Outcome.SAME, Outcome.UNSHOWN):
                nothing += [f"{site} (where nothing ran)"] if outcome is Outcome.UNSHOWN else []
                break
        else:
            return replace(found, untaken=str(site))
    return replace(found, avoided=(*found.avoided, *dict.fromkeys(nothing)))


def _elsewhere(auditor: Auditor, site: Site, sites: list[Site]) -> Iterator[Site]:
    """Yield the decisions of the other model alone, one of which may be the same in other words: with equal numbers."""
    ours, theirs = auditor.log.outcomes
    one, other = auditor.log.compared
    if one == other and (site in ours) != (site in theirs):
        yield from (other for other in sites if (other in ours) == (site in theirs) and (other in theirs) == (site in ours))


def _outcome(auditor: Auditor, together: frozenset[Site], site: Site) -> Outcome:
    inputs, log = auditor.log.reached[site], auditor.log
    outcome = auditor.compare(inputs, forced=together)
    if outcome is None:
        shown = failing(auditor, inputs, together)
        return shown if all(site in one for one in log.outcomes) else Outcome.UNSHOWN
    if outcome[1]:
        return Outcome.UNSHOWN
    return Outcome.SAME if outcome[0] <= auditor.tolerance else Outcome.DIFFERENT
