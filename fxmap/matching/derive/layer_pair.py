"""One pair of aligned operations: expressions for the destination's tensors in terms of the source's tensors.

Two affine layers that correspond may have a separate or a folded batch norm, and a bias or none. All combinations follow
from one view of them: weight, bias, and an optional norm of gamma, beta, mean, var and eps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from fxmap.expressions.arithmetic import Difference, FoldedBias, FoldedWeight, Full, NeutralVariance, Shifted
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Gather, Reshape, Transpose, take
from fxmap.graph.affine import affine_shape
from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import Op, OpGraph
from fxmap.mapping.findings import Mismatch
from fxmap.normalize.rules.affine import unfolded

_LAYERS = {"convolution": "conv", "conv_transpose": "conv_transpose", "linear": "linear"}


@dataclass(frozen=True, slots=True)
class Piece:
    """The expression of some of the `total` rows of a destination tensor; of all rows if `rows` is None.

    `transposed` says that the rows of the tensor are along its last axis, as in an `i o` weight.
    """

    rows: tuple[int, ...] | None
    expression: Expression
    total: int
    transposed: bool


def assemble(pieces: list[Piece]) -> Expression | str:
    """Return the expression of a tensor from those of its rows, or a message that rows are missing."""
    for piece in pieces:
        if piece.rows is None:
            return piece.expression
    parts = {piece.rows: piece for piece in pieces if piece.rows is not None}
    order = sorted(parts.values(), key=lambda piece: min(piece.rows or ()))
    rows = [row for piece in order for row in piece.rows or ()]
    total = order[0].total
    if sorted(rows) != list(range(total)):
        return f"a source was found for {len(set(rows))} of its {total} rows alone"
    joined: Expression = Concat(tuple(piece.expression for piece in order)) if len(order) > 1 else order[0].expression
    if rows != list(range(total)):
        joined = Gather(joined, tuple(sorted(range(total), key=rows.__getitem__)))
    return Transpose(joined) if order[0].transposed else joined


class LayerPair:
    """One pair of aligned operations; makes the expressions for the tensors of the destination's operation."""

    def __init__(self, src_graph: OpGraph, src: Op, dst_graph: OpGraph, dst: Op, absorb_eps: bool) -> None:
        self.src, self.dst = src_graph.tensors(src.name), dst_graph.tensors(dst.name)
        self.src_op, self.dst_op = src, dst
        self.kind = src.kind
        affine = has(src.kind, Trait.AFFINE), has(dst.kind, Trait.AFFINE)
        self.affine = all(affine) and "weight" in self.src and "weight" in self.dst
        self.factors = _factors(src_graph, src, dst_graph, dst)
        self.absorb_eps = absorb_eps
        self.eps: tuple[float, float] = (_eps(src), _eps(dst))
        self.has_norm = _has_norm(src), _has_norm(dst)
        # The reason why the two layers are not the same operation, although they correspond.
        self.obstacle = unfolded(src_graph, src.name) if affine[0] and not unfolded(dst_graph, dst.name) else ""

    def piece(self, argument: str, expression: Expression) -> Piece:
        """Return the piece of a destination tensor that this pair makes: all of it, or the rows of its operation."""
        transposed = argument == "weight" and self.dst_op.attribute("axes") == "i o"
        total = _shape(self.dst[argument])[-1 if transposed else 0] if self.affine else 0
        rows = self.dst_op.rows if self.affine else None
        return Piece(None if rows is None else tuple(sorted(rows)), expression, total, transposed)

    def make(self, argument: str) -> Expression | Mismatch | str:
        """Return the expression of an argument of the destination's operation, or the mismatch or reason instead of it."""
        target = self.dst[argument]
        if not self.affine:
            return self._same(argument, target)
        weight = self.src["weight"]
        shapes = affine_shape(self.src_op, weight), affine_shape(self.dst_op, self.dst["weight"])
        # A layer with another number of inputs, such as a stem for four channels, differs; the norm behind it does not.
        norm = argument.startswith("norm.") and all(self.has_norm) and shapes[0][0] == shapes[1][0]
        if shapes[0] != shapes[1] and not norm:
            return _mismatch(target, self.src.get(argument, weight))
        if self.obstacle:
            return self.obstacle
        if argument.startswith("norm."):
            made = self._norm(argument.removeprefix("norm."), target)
        else:
            made = self._weight() if argument == "weight" else self._bias(target)
        return self._laid_out(made, argument, target) if isinstance(made, Expression) else made

    def of_factors(self, known: Mapping[str, Expression]) -> dict[str, Expression]:
        """Return the expressions of the destination's factors of a product of tensors, but for those that are known.

        Either order is the same function, unless a tensor is read elsewhere as well, which tells which one it is.
        """
        made: dict[str, Expression] = {}
        for ours, theirs in self.factors.values():
            used = {known[op.key] for op in theirs if op.key is not None and op.key in known}
            left = [op for op in ours if _source(op) not in used]
            for target in (op for op in theirs if op.key not in known):
                source = next((op for op in left if op.extents == target.extents), None)
                if source is not None:
                    left.remove(source)
                    value = _source(source)
                    made[target.key or ""] = value if source.shape == target.shape else Reshape(value, _shape(target))
        return made

    def _laid_out(self, made: Expression, argument: str, target: Op) -> Expression:
        """Select the source's rows, in the order of the destination's, and give the weight the destination's axes."""
        if isinstance(made, Full | NeutralVariance):
            return made
        shape = _shape(self.src["weight"])
        inputs_first = self.src_op.attribute("axes") == "i o"
        total = shape[-1] if inputs_first else shape[0]
        weight = argument == "weight"
        if weight and inputs_first:
            made = Transpose(made)
        elif weight and self.dst_op.attribute("axes") == "i o":
            made = made if len(shape) == 2 else Reshape(made, (total, prod(shape[1:])))
        elif weight and len(shape) != len(_shape(target)):
            made = Reshape(made, (total, *_shape(target)[1:]))
        made = take(made, self._rows(total), total)
        # A tensor that is assembled from rows is transposed after that.
        whole = self.dst_op.rows is None
        return Transpose(made) if weight and whole and self.dst_op.attribute("axes") == "i o" else made

    def _rows(self, total: int) -> tuple[int, ...]:
        """Return the source's rows that the destination's operation has, in the order of the destination's tensor."""
        rows, order = self.src_op.rows or tuple(range(total)), self.dst_op.rows
        return rows if order is None else tuple(rows[i] for i in sorted(range(len(order)), key=order.__getitem__))

    def _channels(self) -> int:
        return affine_shape(self.dst_op, self.dst["weight"])[0]

    def _same(self, argument: str, target: Op) -> Expression | Mismatch | str:
        source = self.src.get(argument)
        if source is None:
            if argument == "weight" and has(self.kind, Trait.AFFINE):
                return f"{self.src_op} computes its weight from other tensors, in a way that no expression has"
            neutral = {"weight": 1.0, "bias": 0.0}.get(argument)
            if neutral is None or not self.src:
                return f"{self.src_op} reads no {argument}"
            return self._full(target, neutral)
        if self.affine:
            # One number for each channel; the channels are selected by the rows.
            if _rank_one(source) != _rank_one(target):
                return _mismatch(target, source)
        elif source.extents != target.extents:
            return _mismatch(target, source)
        value: Expression = _source(source)
        if source.shape != target.shape and not self.affine:
            value = Reshape(value, _shape(target))
        if argument in ("running_var", "norm.running_var") and self.absorb_eps and self.eps[0] != self.eps[1]:
            return Shifted(value, self.eps[0] - self.eps[1])
        return value

    def _weight(self) -> Expression:
        weight = _source(self.src["weight"])
        if not self.has_norm[0] or self.has_norm[1]:
            return weight
        return FoldedWeight(
            _LAYERS[self.kind], weight, self._stat("running_var"), self.eps[0], self._optional("norm.weight")
        )

    def _bias(self, target: Op) -> Expression | Mismatch | str:
        if self.has_norm[0] and not self.has_norm[1]:
            return self._folded_bias()
        if "bias" in self.src:
            return self._same("bias", target)
        return self._full(target, 0.0)

    def _folded_bias(self) -> Expression:
        return FoldedBias(
            _LAYERS[self.kind],
            self._stat("running_mean"),
            self._stat("running_var"),
            self.eps[0],
            self._optional("bias"),
            self._optional("norm.weight"),
            self._optional("norm.bias"),
        )

    def _norm(self, argument: str, target: Op) -> Expression | Mismatch | str:
        if self.has_norm[0]:
            same = self._same(f"norm.{argument}", target)
            if argument == "running_mean" and "bias" in self.src and "bias" not in self.dst and isinstance(same, Expression):
                return Difference(same, _source(self.src["bias"]))
            return same
        # The source has the norm folded: the norm becomes neutral, but takes the bias if the layer has none.
        if argument == "running_var":
            return NeutralVariance((self._channels(),), self.eps[1], _source(self.src["weight"]))
        if argument == "bias" and "bias" in self.src and "bias" not in self.dst:
            return _source(self.src["bias"])
        return self._full(target, 1.0 if argument == "weight" else 0.0)

    def _full(self, target: Op, value: float) -> Expression:
        like = next(iter(self.src.values()))
        shape = (self._channels(),) if self.affine else _shape(target)
        return Full(shape, value, _source(self.src.get("weight", like)))

    def _stat(self, name: str) -> Expression:
        return _source(self.src[f"norm.{name}"])

    def _optional(self, argument: str) -> Expression | None:
        return _source(self.src[argument]) if argument in self.src else None


def _factors(src: OpGraph, ours: Op, dst: OpGraph, theirs: Op) -> dict[str, tuple[list[Op], list[Op]]]:
    """Return the tensors of both operations, by argument, where both read as many, and several, as one that commutes."""
    both = ((name, src.tensors_of(ours.name, name), dst.tensors_of(theirs.name, name)) for name in dst.tensors(theirs.name))
    return {name: (one, other) for name, one, other in both if len(one) == len(other) > 1}


def _rank_one(op: Op) -> bool:
    return len(_shape(op)) == 1


def _eps(op: Op) -> float:
    """Return the number of a norm behind a layer, or of one by itself, that keeps it from dividing by zero."""
    found: float = op.attribute("norm.eps", op.attribute("eps", 1e-5 if op.kind == "batch_norm" else 0.0))
    return found


def _has_norm(op: Op) -> bool:
    return any(name == "norm.eps" for name, _ in op.attributes)


def _source(op: Op) -> Source:
    assert op.key is not None
    return Source(op.key)


def _shape(op: Op) -> tuple[int, ...]:
    assert op.shape is not None
    return op.shape


def _mismatch(target: Op, source: Op) -> Mismatch:
    assert target.key is not None
    assert source.key is not None
    return Mismatch(target.key, source.key, _shape(source), _shape(target))
