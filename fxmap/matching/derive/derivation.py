"""Derive: from aligned operations to one expression for each tensor of the destination.

Two affine layers that correspond may carry their batch norm apart or folded, and a bias or not. All combinations follow
from one view of them: weight, bias, and an optional norm of gamma, beta, mean, var and eps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fxmap.expressions.arithmetic import Shifted, Size, WeightNormed
from fxmap.expressions.base import Expression, Source, substitute
from fxmap.expressions.layout import Columns
from fxmap.expressions.simplify import simplify
from fxmap.graph.opgraph import OpGraph
from fxmap.mapping.findings import Mismatch
from fxmap.matching.align.alignment import Alignment
from fxmap.matching.derive.layer import LayerPair, Piece, assemble
from fxmap.matching.derive.layout import composed_expression, counterparts, store

Orders = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Derivation:
    """What the destination's tensors are made of, in terms of the source's tensors.

    `reasons` say why a tensor that has a counterpart cannot be made from it.
    """

    expressions: dict[str, Expression] = field(default_factory=dict)
    mismatched: dict[str, Mismatch] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    absorbed: dict[str, tuple[float, float]] = field(default_factory=dict)


def derive(
    src: OpGraph, dst: OpGraph, alignment: Alignment, columns: Orders | None = None, *, absorb_eps: bool = False
) -> Derivation:
    """Derive an expression for every destination tensor that an aligned operation reads. Linear time.

    `columns` say for destination operations in which order of the source's input channels they read theirs. With
    `absorb_eps` a different eps of two norms is moved into the running variance, and noted in `absorbed`.
    """
    found = derive_operands(src, dst, alignment, absorb_eps=absorb_eps)
    for name, order in (columns or {}).items():
        weight = dst.tensors(name)["weight"].key
        if weight in found.expressions:
            found.expressions[weight] = Columns(found.expressions[weight], order)
    return in_stored_tensors(found, src, dst)


def derive_operands(src: OpGraph, dst: OpGraph, alignment: Alignment, *, absorb_eps: bool = False) -> Derivation:
    """Derive an expression for every operand that an aligned operation reads, also those that are put together by code."""
    result = Derivation()
    pieces: dict[str, list[Piece]] = {}
    for pair in alignment.pairs:
        layer = LayerPair(src, src.op(pair.src), dst, dst.op(pair.dst), absorb_eps)
        for argument, tensor in dst.tensors(pair.dst).items():
            assert tensor.key is not None
            outcome = layer.make(argument)
            if isinstance(outcome, Mismatch):
                result.mismatched.setdefault(tensor.key, outcome)
            elif isinstance(outcome, str):
                result.reasons.setdefault(tensor.key, outcome)
            else:
                pieces.setdefault(tensor.key, []).append(layer.piece(argument, outcome))
                if isinstance(outcome, Shifted):
                    result.absorbed[tensor.key] = layer.eps
    for key, found in pieces.items():
        expression = assemble(found)
        if isinstance(expression, str):
            result.reasons.setdefault(key, expression)
            continue
        result.expressions[key] = expression
        result.mismatched.pop(key, None)
        result.reasons.pop(key, None)
    return result


def in_stored_tensors(found: Derivation, src: OpGraph, dst: OpGraph) -> Derivation:
    """Rewrite what was derived for composed operands, of either side, in terms of the tensors that are stored."""
    own = {key: in_stored_sources(made, src) for key, made in found.expressions.items()}
    mismatched = {key: replace(m, source=src.parts(m.source)[0]) for key, m in found.mismatched.items()}
    result = replace(found, expressions=own, mismatched=mismatched, reasons=dict(found.reasons))
    for name, computed in dst.computed.items():
        if name in own:
            own |= _solved(computed, own.pop(name))
        if name in result.reasons:
            reason = result.reasons.pop(name)
            result.reasons.update(dict.fromkeys(computed.sources(), reason))
        if name in mismatched:
            mismatch = mismatched.pop(name)
            mismatched.update({part: replace(mismatch, key=part) for part in computed.sources()})
    names = [name for name in dst.composed if name in own or name in mismatched or name in result.reasons]
    if not names:
        return result
    composed = {name: own.pop(name) for name in names if name in own}
    for name in composed:
        for path, source in counterparts(found.expressions[name], src, dst, dst.composed[name]).items():
            own.setdefault(path, source)
    wanted = {path for name in names for path in dst.parts(name)} - own.keys()
    made, reasons = store(composed, dst, wanted)
    own |= {path: in_stored_sources(expression, src) for path, expression in made.items()}
    for name in names:
        wrong, reason = mismatched.pop(name, None), result.reasons.pop(name, "")
        for path in dst.parts(name):
            if path not in own and wrong is not None:
                mismatched.setdefault(path, replace(wrong, key=path))
            elif path not in own:
                result.reasons.setdefault(path, reason or reasons.get(path, ""))
    return result


def _solved(made: Expression, value: Expression) -> dict[str, Expression]:
    """Return what stored tensors are, of which a computed one is to have a value: a direction and a size."""
    if isinstance(made, WeightNormed) and isinstance(made.of, Source) and isinstance(made.scale, Source):
        return {made.of.key: value, made.scale.key: Size(value, made.axis)}
    return {}


def in_stored_sources(expression: Expression, src: OpGraph) -> Expression:
    """Rewrite an expression of the source's operands in terms of the tensors that are stored."""
    expression = substitute(expression, src.computed)
    if src.numbering is None:
        return expression
    names = {name for name in expression.sources() if name in src.composed}
    leaves = {name: composed_expression(src.composed[name], src.numbering) for name in names}
    return simplify(substitute(expression, leaves), src.numbering.shapes)


def siblings(
    expressions: Mapping[str, Expression], src: Mapping[str, tuple[int, ...]], dst: Mapping[str, tuple[int, ...]]
) -> dict[str, Expression]:
    """Map tensors that no operation reads (batch counters) by the module that owns them.

    Where the read tensors of a destination module all come from one source module, its unread tensors come from those of
    the same name and shape there. `src` and `dst` are the shapes of the unread tensors.
    """
    owners: dict[str, set[str]] = {}
    for key, expression in expressions.items():
        owners.setdefault(_owner(key), set()).update(_owner(source) for source in expression.sources())
    found: dict[str, Expression] = {}
    for key, shape in dst.items():
        sources = owners.get(_owner(key), set())
        if len(sources) == 1:
            owner, name = next(iter(sources)), key.rpartition(".")[2]
            candidate = f"{owner}.{name}" if owner else name
            if src.get(candidate) == shape:
                found[key] = Source(candidate)
    return found


def _owner(key: str) -> str:
    return key.rpartition(".")[0]
