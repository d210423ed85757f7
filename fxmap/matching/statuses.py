"""Statuses: the status and the expression of every destination key, from the derived tensors of its float twin."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fxmap.expressions.base import Expression, substitute
from fxmap.expressions.layout import Placed
from fxmap.forms.store import COPY
from fxmap.mapping.findings import Mismatch, said_of_rows
from fxmap.mapping.proof import Status
from fxmap.matching.plan import Plan
from fxmap.model.tensors import is_whole


@dataclass(frozen=True)
class KeyFinding:
    """The status of one destination key.

    `expression` makes its value, if it can be made; otherwise `reason` says why not. `mismatch` is its counterpart of
    another shape, and `replaced` the source keys of that. `unread` says that the graph in eval mode does not read the key.
    """

    key: str
    status: Status
    expression: Expression | None = None
    reason: str = ""
    mismatch: Mismatch | None = None
    replaced: tuple[str, ...] = ()
    unread: bool = False


def findings(plan: Plan) -> Iterator[KeyFinding]:
    """Yield a finding for every key of the destination's state dict, in its order."""
    keys = _Keys.of(plan)
    for key in plan.dst.model.state_dict():
        yield keys.finding(key)


@dataclass(frozen=True)
class _Keys:
    """A plan, with its expressions in terms of the source's keys instead of the tensors of the source's twin.

    `decoded` gives the expression that reads each of those tensors from the source's state dict; `held` maps the float
    expression of every weight that the source holds quantized to the expression of the stored weight.
    """

    plan: Plan
    decoded: dict[str, Expression]
    held: dict[Expression, Expression]
    tensors: dict[str, Expression]

    @classmethod
    def of(cls, plan: Plan) -> "_Keys":
        decoded = plan.src.decoded()
        made = plan.derivation.expressions
        return cls(plan, decoded, plan.src.held(), {name: substitute(made[name], decoded) for name in made})

    def finding(self, key: str) -> KeyFinding:
        dst, found = self.plan.dst, self.plan.derivation
        name = dst.prefix + key
        if key not in dst.twin.stores:
            return KeyFinding(name, Status.KEPT, reason=dst.twin.kept[key])
        parts = dst.names(key)
        counter = is_whole(dst.main.tensors[parts[0]])
        dead = dst.twin.stores[key].part == COPY
        unread = dead or dst.main.read.isdisjoint(parts)
        made = self._made(key)
        if isinstance(made, Placed):
            return self._in_part(name, made, tuple(dst.main.tensors[parts[0]].shape))
        if made is not None:
            inert = dead or (counter and unread)
            return KeyFinding(name, Status.INERT if inert else Status.MATCHED, made, unread=unread)
        wrong = [found.mismatched[part] for part in parts if part in found.mismatched]
        if wrong:
            sources = tuple(next(self.decoded[mismatch.source].sources()) for mismatch in wrong)
            mismatch = replace(wrong[0], key=name, source=sources[0])
            return KeyFinding(name, Status.MISMATCHED, mismatch=mismatch, replaced=sources, unread=unread)
        if unread and dst.twin.stage.ranges_in_graph:
            return KeyFinding(name, Status.KEPT, reason="dead: the graph does not read it", unread=unread)
        if counter:
            reason = "integers that the model makes itself: a counter, or a table of positions"
            return KeyFinding(name, Status.KEPT, reason=reason, unread=unread)
        reason = next((found.reasons[part] for part in parts if part in found.reasons), "")
        return KeyFinding(name, Status.MISSING, reason=reason, unread=unread)

    def _in_part(self, name: str, made: Placed, shape: tuple[int, ...]) -> KeyFinding:
        """Return the finding of a table of which the source has some rows alone."""
        sources = tuple(made.sources())
        mismatch = Mismatch(name, sources[0], (len(made.rows), *shape[1:]), shape)
        return KeyFinding(name, Status.MISMATCHED, made, said_of_rows(name, made, sources[0]), mismatch, sources)

    def _made(self, key: str) -> Expression | None:
        store, canonical = self.plan.dst.twin.stores[key], self.plan.dst.main.canonical
        made = {part: self.tensors[canonical[part]] for part in store.names if canonical[part] in self.tensors}
        return store.encode(made, self.held)
