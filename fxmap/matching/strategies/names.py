"""By names: without graphs, keys are matched by shapes, names and order, with facts from the destination's own graph."""

import logging
from collections import OrderedDict

from torch import nn

from fxmap.files.checkpoint import Checkpoint
from fxmap.mapping.findings import Note, NoteKind, checkpoint_notes
from fxmap.matching.keys.destination import ask, run_with
from fxmap.matching.keys.mapper import map_by_name
from fxmap.matching.keys.rotary import may_turn
from fxmap.matching.keys.stored import Stored, over_file
from fxmap.matching.strategies.problem import Outcome, Problem, Strategy, first_plan, no_graph
from fxmap.trace import stage

logger = logging.getLogger(__name__)


def _attempt(problem: Problem, earlier: tuple[Outcome, ...]) -> Outcome:
    if first_plan(earlier) is not None:
        return Outcome(left="the models have graphs")
    if not problem.names:
        return Outcome(left="graphs are asked for")
    src, why = problem.src, no_graph(earlier)
    if isinstance(src, nn.Module):
        logger.warning("no graph, keys are mapped by name and shape: %s", why)
    found = Checkpoint(OrderedDict(src.state_dict()), "the source") if isinstance(src, nn.Module) else src
    state = found.state
    told = ask(problem.dst)
    with stage("keys") as note:
        seen = found.computed.seen(state)
        own = problem.dst.state_dict()
        stored = Stored.of(own, seen, told.norms, [key for key, _ in problem.dst.named_buffers() if key in own])
        exchanges = [pair for pair in told.exchanges if stored.seen.keys() >= {*pair, *pair.values()}]
        mapping = map_by_name(
            seen,
            stored.seen,
            why,
            notes=checkpoint_notes(found),
            unread=told.unread,
            exchanges=exchanges,
            calls=told.calls,
            turns=may_turn(problem.dst),
        )
        mapping = stored.over_destination(over_file(mapping, found.computed, state))
        note(f"{len(mapping)} of {len(mapping.knowledge.statuses)} keys")
    ran = run_with(mapping, state, problem.dst, problem.given.dst) if problem.run else ""
    mapping = mapping.with_notes(Note(ran, NoteKind.TRIAL_RUN)) if ran else mapping
    return Outcome(mapping, certain=True)


NAMES = Strategy("names", _attempt)
