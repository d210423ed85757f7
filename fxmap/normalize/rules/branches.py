"""conv(x, w1) + norm(x) + x = conv(x, w): affine branches of one value, added up, are one layer.

A smaller kernel is a larger one with zeros around it, a batch norm is a 1x1 kernel that scales each channel, and x itself is
the identity kernel, so that every sum of them, scaled by channel or not, is one kernel:

    gamma * (w1 * x + b1) + (w2 * x + b2) = (gamma w1 + w2) * x + (gamma b1 + b2)

Holds for every input in eval mode, for windows of odd size that are centred at the same positions: equal strides, and
kernel - 2 padding the same. RepVGG, MobileOne and their like train the branches and ship the sum. A scale by channel behind
one layer (LayerScale) is the same equation with one term, and so is a batch norm before a linear layer. The weight that
results is a tensor computed from stored ones: `OpGraph.computed`. A term may be two layers of low rank, one behind the other
(LoRA): w x + s (b a) x = (w + s b a) x.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import prod

from fxmap.expressions.arithmetic import Centred, FoldedBias, FoldedWeight, Product, RowScaled, Scaled, Sum
from fxmap.expressions.base import Expression, Source, substitute
from fxmap.expressions.layout import Reshape, Transpose
from fxmap.graph.kinds import Trait, has, kinds
from fxmap.graph.opgraph import TENSOR, Op, OpGraph
from fxmap.normalize.rule import Context, Outcome, Rule
from fxmap.normalize.rules.affine_map import LAYERS, Form, Kernel, Layer, source_of

_SHAPES = kinds(Trait.VIEW | Trait.RESHAPE)

_VIEWS = _SHAPES | {"unsqueeze"}


# A sum has at least so many terms; a scale and a norm have one.
_SUM_TERMS = 2


# The maps of values that were looked at already, while the graph stays as it is: else a chain is followed from each link.
_Known = dict[str, "Form | None"]


def _whole(graph: OpGraph, name: str, terms: int, known: _Known) -> Form | None:
    """Return the affine map that ends with an operation, if it is more than a single layer."""
    try:
        form = _ending(graph, name, known)
    except RecursionError:
        return None  # hundreds of terms, one added to the other
    if form is None or not form.layers or len(form.kernels) < terms or not _agree(form.layers):
        return None
    if form.inner & graph.row_views and not form.low_rank:
        return None
    return form if graph.op(name).kind != "linear" or form.merged else None


def _agree(layers: tuple[Layer, ...]) -> bool:
    """Whether the windows of all layers are centred at the same positions."""
    places = set()
    for layer in layers:
        op = layer.op
        padding, dilation = op.attribute("padding", 0), op.attribute("dilation", 1)
        kernel = layer.kernel or (1,)
        if not isinstance(padding, int | tuple) or dilation != 1 or any(extent % 2 == 0 for extent in kernel):
            return False
        paddings = padding if isinstance(padding, tuple) else (padding,) * len(kernel)
        margins = tuple(extent - 2 * pad for extent, pad in zip(kernel, paddings, strict=True))
        places.add((op.kind, op.attribute("stride", 1), op.attribute("groups", 1), layer.shape[:2], margins))
    return len(places) == 1


def _form(graph: OpGraph, name: str, known: _Known) -> Form | None:
    """Return the map of the affine operations behind a value that one operation reads; None where there is none."""
    return _ending(graph, name, known) if len(graph.users(name)) == 1 else None


def _ending(graph: OpGraph, name: str, known: _Known) -> Form | None:
    """Return the map of the affine operations behind a value, whoever reads it."""
    if name not in known:
        known[name] = _affine(graph, name, known)
    return known[name]


def _affine(graph: OpGraph, name: str, known: _Known) -> Form | None:
    op, tensors = graph.op(name), graph.tensors(name)
    if name in graph.row_views:
        form = _form(graph, graph.operands(name)["input"][0], known)
        return None if form is None else replace(form, inner=form.inner | {name})
    known_input = "input" in graph.operands(name)  # a layer may read what is no operation: an attribute of an argument
    if op.kind in LAYERS and "weight" in tensors and op.rows is None and not op.attribute("axes") and known_input:
        return _of_layer(graph, op, tensors)
    if op.kind == "batch_norm" and {"running_mean", "running_var"} <= tensors.keys():
        return _of_norm(graph, op, tensors)
    if has(op.kind, Trait.PRODUCT) and (number := _number(graph, name)) is not None:
        return _of_number(graph, name, number, known)
    if op.kind == "mul":
        return _of_scale(graph, name, known)
    return _of_sum(graph, name, known) if has(op.kind, Trait.SUM) and not op.attributes else None


def _of_layer(graph: OpGraph, op: Op, tensors: Mapping[str, Op]) -> Form:
    entry, between = _through_views(graph, op.name)
    layer = Layer(op, tensors["weight"])
    low = _low_rank(graph, op, layer)
    if low is not None:
        return low
    weight: Expression = source_of(tensors["weight"])
    bias: Expression | None = _optional(tensors, "bias")
    if "norm.running_var" in tensors:
        mean, var = source_of(tensors["norm.running_mean"]), source_of(tensors["norm.running_var"])
        gamma, beta, eps = _optional(tensors, "norm.weight"), _optional(tensors, "norm.bias"), op.attribute("norm.eps")
        weight, bias = (
            FoldedWeight(layer.kind, weight, var, eps, gamma),
            FoldedBias(layer.kind, mean, var, eps, bias, gamma, beta),
        )

    def kernel(largest: Layer) -> Expression:
        return weight if layer.kernel == largest.kernel else Centred(weight, largest.kernel)

    return _behind_norm(graph, Form(entry, (kernel,), between | {op.name}, (layer,), () if bias is None else (bias,)))


def _low_rank(graph: OpGraph, op: Op, layer: Layer) -> Form | None:
    """Return two layers, one behind the other, with fewer channels between them than before: w2 w1 x.

    The update of an adapter (LoRA) is of this kind; of two convolutions the second one looks at single positions. Else they
    are two layers, and None is returned.
    """
    name, between, factor = _through_numbers(graph, op.name)
    before, up = graph.op(name), layer.shape
    down, tensors = graph.tensors(name).get("weight"), graph.tensors(op.name)
    plain = {"weight"} == graph.tensors(name).keys() == tensors.keys() and len(graph.users(name)) == 1
    plain = plain and "input" in graph.operands(name)
    if op.kind != before.kind or op.kind not in LAYERS or not plain or down is None or before.rows is not None:
        return None
    inner = down.shape or ()
    apart = before.attribute("axes") or len(inner) != len(up) or not _looks_at_positions(op, up)
    if apart or before.attribute("groups", 1) != 1 or not inner[0] < inner[1]:
        return None
    shape = (up[0], *inner[1:])
    flat: list[Expression] = [source_of(layer.weight), source_of(down)]
    if op.kind == "convolution":
        flat = [Reshape(flat[0], up[:2]), Reshape(flat[1], (inner[0], prod(inner[1:])))]
    made: Expression = Product(*flat)
    made = made if op.kind == "linear" else Reshape(made, shape)
    made = made if factor == 1.0 else Scaled(made, factor)
    entry, first = _through_views(graph, name)
    whole = Layer(before, replace(layer.weight, shape=shape))
    return Form(entry, (lambda _: made,), between | first | {op.name, name}, (whole,), low_rank=True)


def _through_numbers(graph: OpGraph, name: str) -> tuple[str, frozenset[str], float]:
    """Return the value that a layer reads, without views of its rows and products with numbers, these, and their factor."""
    entry, passed = _through_views(graph, name)
    factor = 1.0
    while has(graph.op(entry).kind, Trait.PRODUCT) and (number := _number(graph, entry)) is not None:
        if len(graph.users(entry)) != 1:
            break
        factor *= number
        scaled = entry
        entry, views = _through_views(graph, entry)
        passed |= views | {scaled}
    return entry, passed, factor


def _looks_at_positions(op: Op, shape: tuple[int, ...]) -> bool:
    """Whether a layer is linear, or a convolution of single positions: 1x1, not strided, not padded, in one group."""
    usual = {"stride": 1, "padding": 0, "groups": 1}
    as_usual = all(op.attribute(name, value) in (value, (value,) * len(shape[2:])) for name, value in usual.items())
    return op.kind == "linear" or (set(shape[2:]) == {1} and as_usual)


def _through_views(graph: OpGraph, name: str) -> tuple[str, frozenset[str]]:
    """Return the value that a layer reads, without views of its rows, and those of the views that only the layer reads."""
    (entry,) = graph.operands(name)["input"]
    passed: set[str] = set()
    alone = True
    while entry in graph.row_views:
        alone = alone and len(graph.users(entry)) == 1
        passed |= {entry} if alone else set()
        (entry,) = graph.operands(entry)["input"]
    return entry, frozenset(passed)


def _behind_norm(graph: OpGraph, form: Form) -> Form:
    """Merge the batch norm that a linear layer alone reads into the layer: w (s x + t) + b = (w s) x + (w t + b)."""
    op, (layer,), (kernel,) = graph.op(form.entry), form.layers, form.kernels
    tensors = graph.tensors(form.entry)
    read = {"running_mean", "running_var"} <= tensors.keys() and len(graph.users(form.entry)) == 1
    if op.kind != "batch_norm" or layer.op.kind != "linear" or not read:
        return form
    (entry,) = graph.operands(form.entry)["input"]
    mean, var, eps = source_of(tensors["running_mean"]), source_of(tensors["running_var"]), op.attribute("eps", 1e-5)
    gamma, beta = _optional(tensors, "weight"), _optional(tensors, "bias")
    weight = kernel(layer)

    def scaled(_: Layer) -> Expression:
        return Transpose(FoldedWeight("linear", Transpose(weight), var, eps, gamma))

    shift = Product(weight, FoldedBias("linear", mean, var, eps, None, gamma, beta))
    return replace(
        form, entry=entry, kernels=(scaled,), inner=form.inner | {form.entry}, biases=(*form.biases, shift), merged=True
    )


def _of_norm(graph: OpGraph, op: Op, tensors: Mapping[str, Op]) -> Form:
    """Return a batch norm as an affine map: the norm folded into an identity layer."""
    (entry,) = graph.operands(op.name)["input"]
    mean, var, eps = source_of(tensors["running_mean"]), source_of(tensors["running_var"]), op.attribute("eps", 1e-5)
    gamma, beta = _optional(tensors, "weight"), _optional(tensors, "bias")

    def kernel(largest: Layer) -> Expression:
        return FoldedWeight(largest.kind, largest.identity(), var, eps, gamma)

    return Form(entry, (kernel,), frozenset({op.name}), (), (FoldedBias("conv", mean, var, eps, None, gamma, beta),))


def _of_scale(graph: OpGraph, name: str, known: _Known) -> Form | None:
    """Scale a map by a tensor with one number for each output channel."""
    factor = _factor(graph, name)
    form = None if factor is None else _form(graph, factor[0], known)
    if factor is None or form is None or not form.layers or not _by_channel(graph, form.layers[0], name, factor[1]):
        return None
    _, scale, between = factor
    gamma = source_of(graph.op(scale))
    kernels = tuple(partial(_scaled, kernel, gamma) for kernel in form.kernels)
    biases = tuple(RowScaled(bias, gamma) for bias in form.biases)
    return replace(form, kernels=kernels, biases=biases, inner=form.inner | {name, *between})


def _number(graph: OpGraph, name: str) -> float | None:
    """Return the constant factor of a product with one number; None for other operations."""
    op, operands = graph.op(name), graph.operands(name)
    values = [value for _, value in op.attributes]
    if list(operands) != ["input"] or len(operands["input"]) != 1 or len(values) != 1 or isinstance(values[0], str | tuple):
        return None
    if op.kind == "mul":
        return float(values[0])
    return 1.0 / values[0] if values[0] else None


def _of_number(graph: OpGraph, name: str, number: float, known: _Known) -> Form | None:
    form = _form(graph, graph.operands(name)["input"][0], known)
    if form is None or not form.layers:
        return None
    kernels = tuple(partial(_times, kernel, number) for kernel in form.kernels)
    return replace(form, kernels=kernels, biases=tuple(Scaled(b, number) for b in form.biases), inner=form.inner | {name})


def _scaled(kernel: Kernel, gamma: Expression, largest: Layer) -> Expression:
    return RowScaled(kernel(largest), gamma)


def _times(kernel: Kernel, number: float, largest: Layer) -> Expression:
    return Scaled(kernel(largest), number)


def _of_sum(graph: OpGraph, name: str, known: _Known) -> Form | None:
    """Add up the affine maps of the terms of a sum; one term may be the entry itself (a skip connection)."""
    op, operands = graph.op(name), graph.operands(name)
    terms = [(term, True) for term in operands.get("input", [])]
    if op.kind == "sub":
        terms += [(term, False) for term in operands.get("other", [])]
    if len(terms) < 2 or any(graph.op(term).kind == TENSOR for term, _ in terms):
        return None
    forms = [(term, _form(graph, term, known), positive) for term, positive in terms]
    entries = {form.entry for _, form, _ in forms if form is not None}
    if len(entries) != 1:
        return None
    (entry,) = entries
    parts = []
    for term, form, positive in forms:
        part = Form(entry, (Layer.identity,)) if term == entry else form
        if part is None:
            return None
        if not positive:
            kernels = tuple(partial(_times, kernel, -1.0) for kernel in part.kernels)
            part = replace(part, kernels=kernels, biases=tuple(Scaled(bias, -1.0) for bias in part.biases))
        parts.append(part)
    return Form(
        entry,
        tuple(kernel for part in parts for kernel in part.kernels),
        frozenset({name}).union(*(part.inner for part in parts)),
        tuple(layer for part in parts for layer in part.layers),
        tuple(bias for part in parts for bias in part.biases),
        any(part.merged for part in parts),
        any(part.low_rank for part in parts),
    )


def _factor(graph: OpGraph, name: str) -> tuple[str, str, list[str]] | None:
    """Return the value that a product scales, the scaling tensor, and the views between tensor and product."""
    factors = graph.operands(name).get("input", [])
    if len(factors) != 2 or graph.op(name).attributes:
        return None
    for value, factor in (factors, factors[::-1]):
        scale, through = factor, []
        while graph.op(scale).kind in _VIEWS and len(graph.users(scale)) == 1:
            through.append(scale)
            (scale,) = graph.operands(scale)["input"]
        if graph.op(scale).kind == TENSOR and graph.op(value).kind != TENSOR:
            return value, scale, through
    return None


def _by_channel(graph: OpGraph, layer: Layer, product: str, scale: str) -> bool:
    """Whether a tensor has one number for each output channel, and is broadcast along the channel axis."""
    tensor = graph.op(scale)
    if tensor.extents != (layer.shape[0],):
        return False
    viewed = scale not in graph.operands(product)["input"]
    shape = tensor.shape or ()
    return (viewed or shape[-1] == 1) if layer.kernel else not viewed and shape[-1] == layer.shape[0]


def _replace(graph: OpGraph, end: Op, form: Form) -> tuple[str, ...]:
    """Replace all operations of an affine map by one layer; return the names near it."""
    largest = max(form.layers, key=lambda layer: layer.kernel)
    name, users = largest.op.name, graph.users(end.name)
    kernels = tuple(kernel(largest) for kernel in form.kernels)
    made = {"weight": (kernels, largest.shape), "bias": (form.biases, largest.shape[:1])}
    attributes = tuple((key, value) for key, value in largest.op.attributes if not key.startswith("norm."))
    read = [part for inner in form.inner for part in graph.network.predecessors(inner) if graph.op(part).kind == TENSOR]
    graph.network.remove_nodes_from(form.inner)
    graph.add(Op(name, largest.op.kind, attributes, largest.op.module, end.output))
    graph.network.add_edge(form.entry, name, argument="input")
    for argument, (parts, shape) in made.items():
        if parts:
            key = f"{name}.{argument}"
            graph.computed[key] = substitute(parts[0] if len(parts) == 1 else Sum(parts), graph.computed)
            graph.add(Op(f"%{key}", TENSOR, key=key, shape=shape))
            graph.network.add_edge(f"%{key}", name, argument=argument)
    for user, argument in users:
        graph.network.add_edge(name, user, argument=argument)
    graph.drop_unread(read)
    return (form.entry, name, *(user for user, _ in users))


def _optional(tensors: Mapping[str, Op], argument: str) -> Source | None:
    return source_of(tensors[argument]) if argument in tensors else None


def _folding(name: str, ends: frozenset[str], terms: int) -> Rule:
    """Return the rule that folds affine maps of at least `terms` terms that end with an operation of kinds `ends`."""

    def apply(context: Context, op: Op) -> Outcome:
        form = _whole(context.ops, op.name, terms, {})
        return "it ends no sum of affine branches" if form is None else _replace(context.ops, op, form)

    return Rule(name, ends, apply, backwards=True)


FOLD_SUM = _folding("fold sums of branches", kinds(Trait.SCALING), _SUM_TERMS)


FOLD_SCALE = _folding("fold scales by channel", frozenset({"mul"}), 1)


FOLD_NORM_BEFORE = _folding("fold norms before linear layers", frozenset({"linear"}), 1)


def count_branches(graph: OpGraph) -> tuple[int, int, int]:
    """Count the foldable sums of branches, scales by channel, and norms before linear layers."""
    known: _Known = {}
    sums, scales, norms = (
        sum(_whole(graph, op.name, terms, known) is not None for op in graph.of_kind(rule.kinds))
        for rule, terms in ((FOLD_SUM, _SUM_TERMS), (FOLD_SCALE, 1), (FOLD_NORM_BEFORE, 1))
    )
    return sums, scales, norms
