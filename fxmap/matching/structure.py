"""Matching by structure: from two normalised graphs to a plan, without running either model.

`align` finds the pairs of corresponding operations, `derive` an expression for each of the destination's tensors. Two kinds
of tensors need more than the graphs of eval mode: those of heads that exist in training only, and those that no operation
reads.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from fxmap.capture.symbolic import capture_symbolic
from fxmap.errors import CaptureError
from fxmap.graph.opgraph import OpGraph
from fxmap.matching.align.align import align
from fxmap.matching.align.alignment import Alignment
from fxmap.matching.derive.derivation import Derivation, Orders, derive, siblings
from fxmap.matching.integer_tables import with_integer_tables
from fxmap.matching.plan import Plan
from fxmap.matching.sides import Side
from fxmap.normalize.network import Network
from fxmap.trace import stage

logger = logging.getLogger(__name__)


def plan_by_structure(
    src: Side,
    dst: Side,
    anchors: Sequence[tuple[str, str]] = (),
    columns: Orders | None = None,
    *,
    thorough: bool = True,
    absorb_eps: bool = False,
) -> Plan:
    """Align two graphs, and derive an expression for every tensor of the destination, without running either model.

    `anchors` are pairs of operations that are known to correspond, `columns` orders of input channels (see `derive`). Unless
    `thorough`, only strong evidence counts (see `align`).
    """
    alignment = aligned(src.main.ops, dst.main.ops, anchors, thorough=thorough)
    plan = Plan(src, dst, alignment)
    if plan.different:
        return plan
    found = _derived(src.main.ops, dst.main.ops, alignment, columns, absorb_eps=absorb_eps)
    found = _with_training_heads(src, dst, found, absorb_eps=absorb_eps)
    return replace(plan, derivation=with_integer_tables(src, dst, with_siblings(src, dst, found)))


def aligned(src: OpGraph, dst: OpGraph, anchors: Sequence[tuple[str, str]] = (), *, thorough: bool = True) -> Alignment:
    """Align two graphs, and note the number of pairs in the trace."""
    with stage("align") as note:
        alignment = align(src, dst, anchors, thorough=thorough)
        known = f" from {len(anchors)} known ones" if anchors else ""
        note(f"{len(alignment.pairs)} pairs{known}, {alignment.share:.0%} of the smaller network")
    return alignment


def _derived(
    src: OpGraph, dst: OpGraph, alignment: Alignment, columns: Orders | None = None, *, absorb_eps: bool
) -> Derivation:
    with stage("derive") as note:
        found = derive(src, dst, alignment, columns, absorb_eps=absorb_eps)
        note(f"{len(found.expressions)} tensors, {len(found.mismatched)} of another shape")
    return found


def _with_training_heads(src: Side, dst: Side, found: Derivation, *, absorb_eps: bool) -> Derivation:
    """Add tensors of heads that exist only in training mode in one model or both, which an eval graph does not read."""
    floats = [{path for path, tensor in side.main.tensors.items() if tensor.is_floating_point()} for side in (src, dst)]
    wanted = floats[1] - found.expressions.keys() - found.mismatched.keys()
    if not wanted or not (floats[0] - src.main.read or wanted - dst.main.read):
        return found
    try:
        ours, theirs = (_training_graph(side) for side in (src, dst))
    except CaptureError as error:
        logger.info("no graph in training mode: %s", error)
        return found
    heads = _derived(ours, theirs, aligned(ours, theirs), absorb_eps=absorb_eps)
    used = {path for expression in found.expressions.values() for path in expression.sources()}
    made = {
        key: heads.expressions[key]
        for key in wanted & heads.expressions.keys()
        if used.isdisjoint(heads.expressions[key].sources())
    }
    wrong = {key: heads.mismatched[key] for key in wanted & heads.mismatched.keys()}
    return replace(found, expressions={**found.expressions, **made}, mismatched={**found.mismatched, **wrong})


def _training_graph(side: Side) -> OpGraph:
    with stage("capture") as note:
        captured = capture_symbolic(side.twin.module, training_heads=True)
        note(f"{type(side.twin.module).__name__} with the heads of training mode, {len(captured.graph.nodes)} nodes")
    return Network.of(captured).ops


def with_siblings(src: Side, dst: Side, found: Derivation) -> Derivation:
    """Add tensors that no graph reads, such as batch counters, matched by the module that owns them."""
    ours, theirs = (_unread(side) for side in (src, dst))
    missing = {path: shape for path, shape in theirs.items() if path not in found.expressions}
    return replace(found, expressions={**found.expressions, **siblings(found.expressions, ours, missing)})


def _unread(side: Side) -> dict[str, tuple[int, ...]]:
    return {path: tuple(tensor.shape) for path, tensor in side.main.tensors.items() if path not in side.main.read}
