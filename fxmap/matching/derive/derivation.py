"""Derive: from aligned operations to one expression for each tensor of the destination.

Idea: for a pair of corresponding operations, each tensor that the destination's operation reads is made from the tensors
that the source's operation reads (`layer_pair`): a copy, a reshape, or a batch norm folded into the layer before it. Where
code composes an operand from stored tensors (q, k and v joined into one weight), the expression derived for the operand is
then rewritten as expressions for the stored tensors (`composed`).

>>> from fxmap.graph.opgraph import Op
>>> from fxmap.matching.align.alignment import Evidence, Pair
>>> def layer(name, *shape):
...     graph = OpGraph()
...     graph.add(Op(name, "linear"))
...     graph.add(Op(f"%{name}.weight", "tensor", key=f"{name}.weight", shape=shape))
...     _ = graph.network.add_edge(f"%{name}.weight", name, argument="weight")
...     return graph
>>> pairs = Alignment((Pair("fc", "head", Evidence.SIGNATURE),), 1.0)
>>> print(derive(layer("fc", 3, 2), layer("head", 3, 2), pairs))
1 tensors made, 0 of another shape, 0 without a source
>>> print(derive(layer("fc", 3, 2), layer("head", 5, 2), pairs))
0 tensors made, 1 of another shape, 0 without a source
  head.weight: source fc.weight (3, 2), destination (5, 2)

Cost: linear in the number of pairs, and in the elements of composed operands. A norm is folded as torch.nn.utils.fusion
does; the equations are given with the expressions (`fxmap.expressions.arithmetic`). Source of the folding:
B. Jacob et al., CVPR 2018, section 3.2, doi:10.1109/CVPR.2018.00286.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fxmap.expressions.arithmetic import Shifted, Size, WeightNormed
from fxmap.expressions.base import Expression, Source, substitute
from fxmap.expressions.simplify import simplify
from fxmap.expressions.stored import SpectralNormed, Times
from fxmap.graph.opgraph import OpGraph
from fxmap.mapping.findings import Mismatch
from fxmap.matching.align.alignment import Alignment
from fxmap.matching.derive.channel_orders import in_order, ordered_tensors
from fxmap.matching.derive.composed import composed_expression, corresponding_parts, solve_parts
from fxmap.matching.derive.layer_pair import LayerPair, Piece, assemble

# For destination operations, by name: the source's input channel for each of their own input channels.
Orders = Mapping[str, tuple[int, ...]]

# Up to this number of mismatches and reasons are printed.
_SHOWN = 5


@dataclass(frozen=True)
class Derivation:
    """Expressions that make the destination's tensors from the source's tensors.

    `mismatched` are tensors whose counterpart has another shape; `reasons` say why other tensors cannot be made; `absorbed`
    are running variances into which the difference of two eps (source, destination) was moved.
    """

    expressions: Mapping[str, Expression] = field(default_factory=dict)
    mismatched: Mapping[str, Mismatch] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    absorbed: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{key}: source {m.source} {m.src_shape}, destination {m.dst_shape}" for key, m in self.mismatched.items()]
        lines += [f"{key}: {reason}" for key, reason in self.reasons.items()]
        more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        summary = (
            f"{len(self.expressions)} tensors made, {len(self.mismatched)} of another shape, "
            f"{len(self.reasons)} without a source"
        )
        return "\n".join([summary, *(f"  {line}" for line in lines[:_SHOWN]), *more])


def derive(
    src: OpGraph, dst: OpGraph, alignment: Alignment, columns: Orders | None = None, *, absorb_eps: bool = False
) -> Derivation:
    """Derive an expression for every stored tensor that an aligned operation of the destination reads.

    `columns` has orders of input channels: for destination operations, the source's channel for each of their own. With
    `absorb_eps`, a difference between the eps of two norms is moved into the running variance, and noted in `absorbed`.
    """
    found = derive_operands(src, dst, alignment, absorb_eps=absorb_eps)
    expressions = dict(found.expressions)
    for name, order in (columns or {}).items():
        for key, axis in ordered_tensors(dst, name).items():
            if key in expressions:
                expressions[key] = in_order(expressions[key], order, axis)
    return in_stored_tensors(replace(found, expressions=expressions), src, dst)


def derive_operands(src: OpGraph, dst: OpGraph, alignment: Alignment, *, absorb_eps: bool = False) -> Derivation:
    """Derive an expression for every operand of an aligned destination operation, including operands that code computes."""
    mismatched: dict[str, Mismatch] = {}
    reasons: dict[str, str] = {}
    absorbed: dict[str, tuple[float, float]] = {}
    pieces: dict[str, list[Piece]] = {}
    layers = [LayerPair(src, src.op(pair.src), dst, dst.op(pair.dst), absorb_eps) for pair in alignment.pairs]
    for layer in layers:
        for argument, tensor in layer.dst.items():
            assert tensor.key is not None
            if argument in layer.factors:
                continue
            outcome = layer.make(argument)
            if isinstance(outcome, Mismatch):
                mismatched.setdefault(tensor.key, outcome)
            elif isinstance(outcome, str):
                reasons.setdefault(tensor.key, outcome)
            else:
                pieces.setdefault(tensor.key, []).append(layer.piece(argument, outcome))
                if isinstance(outcome, Shifted):
                    absorbed[tensor.key] = layer.eps
    expressions: dict[str, Expression] = {}
    for key, found in pieces.items():
        expression = assemble(found)
        if isinstance(expression, str):
            reasons.setdefault(key, expression)
        else:
            expressions[key] = expression
    for layer in layers:
        expressions |= layer.of_factors(expressions)
    return Derivation(
        expressions,
        {key: mismatch for key, mismatch in mismatched.items() if key not in expressions},
        {key: reason for key, reason in reasons.items() if key not in expressions},
        absorbed,
    )


def in_stored_tensors(operands: Derivation, src: OpGraph, dst: OpGraph) -> Derivation:
    """Rewrite a derivation for operands in terms of stored tensors, both of the source and of the destination."""
    found = replace(
        operands,
        expressions={key: in_stored_sources(made, src) for key, made in operands.expressions.items()},
        mismatched={key: replace(m, source=src.parts(m.source)[0]) for key, m in operands.mismatched.items()},
    )
    return _for_parts_of_composed(operands, _for_parts_of_computed(found, dst), src, dst)


_NOT_DETERMINED = (
    "the destination computes its weight from several tensors (a mask, singular vectors), which one weight does not "
    "determine: take the mask or the parametrization off the destination, and load that"
)


def _for_parts_of_computed(found: Derivation, dst: OpGraph) -> Derivation:
    """Transfer findings on computed operands to the stored tensors they are made of (a weight norm's direction and size)."""
    expressions, mismatched, reasons = dict(found.expressions), dict(found.mismatched), dict(found.reasons)
    for name, computed in dst.computed.items():
        if name in expressions:
            solved = _solved(computed, expressions.pop(name))
            expressions |= solved
            reasons |= dict.fromkeys(() if solved else computed.sources(), _NOT_DETERMINED)
        if name in reasons:
            reasons |= dict.fromkeys(computed.sources(), reasons.pop(name))
        if name in mismatched:
            mismatch = mismatched.pop(name)
            mismatched |= {part: replace(mismatch, key=part) for part in computed.sources()}
    return replace(found, expressions=expressions, mismatched=mismatched, reasons=reasons)


def _for_parts_of_composed(operands: Derivation, found: Derivation, src: OpGraph, dst: OpGraph) -> Derivation:
    """Transfer findings on composed operands to the stored tensors that they are composed of (q, k, v of a joined weight).

    `operands` is the derivation before the source's operands were rewritten: it shows which are composed alike.
    """
    known = found.expressions.keys() | found.mismatched.keys() | found.reasons.keys()
    names = [name for name in dst.composed if name in known]
    if not names:
        return found
    composed = {name: found.expressions[name] for name in names if name in found.expressions}
    expressions = {key: made for key, made in found.expressions.items() if key not in composed}
    for name in composed:
        for path, source in corresponding_parts(operands.expressions[name], src, dst, dst.composed[name]).items():
            expressions.setdefault(path, source)
    wanted = {path for name in names for path in dst.parts(name)} - expressions.keys()
    made, lacking = solve_parts(composed, dst, wanted)
    expressions |= {path: in_stored_sources(expression, src) for path, expression in made.items()}
    mismatched = {key: mismatch for key, mismatch in found.mismatched.items() if key not in names}
    reasons = {key: reason for key, reason in found.reasons.items() if key not in names}
    for name in names:
        mismatch, reason = found.mismatched.get(name), found.reasons.get(name, "")
        for path in dst.parts(name):
            if path not in expressions and mismatch is not None:
                mismatched.setdefault(path, replace(mismatch, key=path))
            elif path not in expressions:
                reasons.setdefault(path, reason or lacking.get(path, ""))
    return replace(found, expressions=expressions, mismatched=mismatched, reasons=reasons)


def _solved(made: Expression, value: Expression) -> dict[str, Expression]:
    """Solve for the stored tensors from which a weight of a given value is computed; empty where they are not determined.

    A weight norm has the value as its direction, and its norm as its size. A mask or singular vectors are those of the
    source, if that computes the value in the same way.
    """
    match made, value:
        case WeightNormed(Source(direction), Source(size), axis), _:
            return {direction: value, size: Size(value, axis)}
        case Times(Source(one), Source(mask)), Times(of, by):
            return {one: of, mask: by}
        case SpectralNormed(Source(weight), Source(u), Source(v), axis), SpectralNormed(of, left, right, along) if (
            axis == along
        ):
            return {weight: of, u: left, v: right}
    return {}


def in_stored_sources(expression: Expression, src: OpGraph) -> Expression:
    """Rewrite an expression of the source's operands as an expression of the source's stored tensors."""
    expression = substitute(expression, src.computed)
    if src.numbering is None:
        return expression
    names = {name for name in expression.sources() if name in src.composed}
    leaves = {name: composed_expression(src.composed[name], src.numbering) for name in names}
    return simplify(substitute(expression, leaves), src.numbering.shapes)


def siblings(
    expressions: Mapping[str, Expression], src: Mapping[str, tuple[int, ...]], dst: Mapping[str, tuple[int, ...]]
) -> dict[str, Expression]:
    """Map tensors that no operation reads (batch counters, a branch that was not taken) by the modules that they are in.

    If the read tensors of a destination module all come from one source module, its unread tensors come from the tensors of
    the same name and shape there. Where its own module reads none, the nearest module around them that does is asked, and
    there all names have to be the same. `src` and `dst` are the shapes of the unread tensors.

    >>> from fxmap.expressions.base import Source
    >>> read = {"encoder.0.attention.query.weight": Source("layers.0.attention.query.weight")}
    >>> shapes = {"layers.0.attention.query_global.weight": (4, 4)}
    >>> print(siblings(read, shapes, {"encoder.0.attention.query_global.weight": (4, 4)}))
    {'encoder.0.attention.query_global.weight': Source(key='layers.0.attention.query_global.weight')}

    Linear in the keys, times the depth of modules.
    """
    owners: dict[str, set[str]] = {}
    for key, expression in expressions.items():
        owners.setdefault(_owner(key), set()).update(_owner(source) for source in expression.sources())
    around = _modules_around(expressions)
    found: dict[str, Expression] = {}
    for key, shape in dst.items():
        module = _owner(key)
        sources = owners.get(module) or around.get(module, set())
        while module and not sources:
            module = _owner(module)
            sources = around.get(module, set())
        if len(sources) == 1:
            owner, name = next(iter(sources)), key[len(module) + 1 :] if module else key
            candidate = f"{owner}.{name}" if owner else name
            if src.get(candidate) == shape:
                found[key] = Source(candidate)
    return found


def _modules_around(expressions: Mapping[str, Expression]) -> dict[str, set[str]]:
    """Map each destination module to the source modules whose tensors its own are, under the same names.

    A renamed tensor whose name in the module is another there adds a module that no key is in.
    """
    found: dict[str, set[str]] = {}
    for key, expression in expressions.items():
        if not isinstance(expression, Source):
            continue
        names, sources = key.split("."), expression.key.split(".")
        for depth in range(len(names)):
            inside = names[depth:]
            same = sources[-len(inside) :] == inside
            found.setdefault(".".join(names[:depth]), set()).add(".".join(sources[: -len(inside)]) if same else "?")
    return found


def _owner(key: str) -> str:
    return key.rpartition(".")[0]
