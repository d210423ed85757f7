"""Invert a mapping, as far as its expressions can be solved for their sources."""

from collections.abc import Mapping

from fxmap.expressions.base import Expression, Source
from fxmap.mapping.findings import Findings
from fxmap.mapping.proof import Status


def invert(expressions: Mapping[str, Expression], findings: Findings) -> tuple[dict[str, Expression], Findings]:
    """Return the expressions that make source keys from destination keys, with their findings.

    A rename is turned round. Any other expression is not, and `reasons` names each source key that it leaves without one.

    >>> back, found = invert({"head.weight": Source("fc.weight")}, Findings())
    >>> back["fc.weight"].key
    'head.weight'
    """
    back: dict[str, Expression] = {}
    reasons: dict[str, str] = {}
    for key, expression in expressions.items():
        if isinstance(expression, Source):
            back.setdefault(expression.key, Source(key))
        else:
            for source in expression.sources():
                reasons.setdefault(source, f"{key} = {expression} cannot be solved for it")
    reasons = {key: why for key, why in reasons.items() if key not in back}
    statuses = dict.fromkeys(back, Status.MATCHED) | dict.fromkeys((*reasons, *findings.unexpected), Status.MISSING)
    used = {source.key for source in back.values() if isinstance(source, Source)}
    lost = tuple(key for key in findings.statuses if key not in used)
    return back, Findings(statuses, unexpected=lost, reasons=reasons)
