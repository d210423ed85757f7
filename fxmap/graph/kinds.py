"""Kinds of operations: one for all spellings of a function, and the table of the traits of each kind.

Rules and proofs assume of an operation only the traits of its kind. A kind stands in one row of the table; an operation
whose kind is in none has no trait, so that nothing is assumed of it.

>>> has("view", Trait.MOVEMENT), has("view", Trait.SCALING)
(True, False)
>>> sorted(kinds(Trait.AFFINE))
['conv_transpose', 'convolution', 'linear']
"""

from dataclasses import dataclass
from enum import Flag, auto
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

# Spellings of one operation. Dimensions are not part of a kind: the shape of the weight tells them.
SPELLINGS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "convolution"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "conv_transpose"),
    **{
        f"{pool}{n}d": pool for pool in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool") for n in (1, 2, 3)
    },
    **dict.fromkeys(("iadd", "radd", "__iadd__", "__radd__"), "add"),
    **dict.fromkeys(("imul", "rmul"), "mul"),
    **dict.fromkeys(("isub",), "sub"),
    "truediv": "div",
    "relu6": "hardtanh",
    "max_pool2d_with_indices": "max_pool",
    "max_pool3d_with_indices": "max_pool",
    "native_batch_norm": "batch_norm",
    "native_batch_norm_legit_no_training": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "safe_softmax": "softmax",  # they differ where a mask leaves nothing: zeros instead of NaN
    "concat": "cat",
    "concatenate": "cat",
    "swish": "silu",
    **dict.fromkeys(("long", "int", "short"), "to_integer"),
    "bool": "to_bool",
    "clip": "clamp",
    "prelu_kernel": "prelu",
    "multiply": "mul",
    "negative": "neg",
    "sgn": "sign",
    "absolute": "abs",
    "log_sigmoid_forward": "log_sigmoid",  # it also returns what a backward pass reads
    "arcsinh": "asinh",
    "arctan": "atan",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "not_equal": "ne",
}


# Values that are numbers, not tensors: they lay data out, and are not compared.
_TRANSPOSED = ("T", "mT", "H", "mH")


# Attributes of a tensor that are values, and no numbers about it.
_PARTS_OF_TENSORS = {"real": "real", "imag": "imag", "data": "alias", "values": "getitem", "indices": "getitem"}


def kind_of(node: fx.Node) -> str:
    """Return the kind of an operation node, whichever way it was called."""
    if node.op == "call_module":
        return "identity"  # a stub at the border of a quantized region: the tracer's only leaves
    if (mode := node.kwargs.get("rounding_mode")) is not None:
        return f"div_{mode}"
    if isinstance(node.target, OpOverload):
        name = str(node.target.overloadpacket.__name__).strip("_")
        if name == "convolution" and node.args[6]:
            return "conv_transpose"
        return _cast(node) or SPELLINGS.get(name, name)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if name == "getattr" and node.args[1] in _TRANSPOSED:
        return "transpose"
    if name == "getattr" and node.args[1] in _PARTS_OF_TENSORS:
        return _PARTS_OF_TENSORS[str(node.args[1])]
    if (cast := _cast(node)) is not None:
        return cast
    name = name if name.startswith("__") else name.strip("_")
    return SPELLINGS.get(name, name)


def _cast(node: fx.Node) -> str | None:
    """Return the kind of a call that rounds numbers to integers, or makes them true or false; None of others."""
    dtype = next((part for part in (*node.args[1:], *node.kwargs.values()) if isinstance(part, torch.dtype)), None)
    name = getattr(node.target, "overloadpacket", node.target)
    name = name if isinstance(name, str) else getattr(name, "__name__", "")
    if dtype is None or dtype.is_floating_point or dtype.is_complex or name not in _CASTS or not node.all_input_nodes:
        return None
    before = node.all_input_nodes[0].meta.get("dtype")
    if before is dtype or before is torch.bool or (dtype is not torch.bool and before in _INTEGERS):
        return None
    return "to_bool" if dtype is torch.bool else "to_integer"


_CASTS = {"to", "_to_copy", "type", "convert_element_type"}


_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def out_of_place(func: Any) -> OpOverload[..., Any] | None:
    """Return the out-of-place counterpart of an in-place aten operation, which takes the same; None where there is none.

    >>> out_of_place(torch.ops.aten.relu_.default)
    <OpOverload(op='aten.relu', overload='default')>
    >>> out_of_place(torch.ops.aten.pow_.Scalar)  # pow.Scalar is the power of a number
    <OpOverload(op='aten.pow', overload='Tensor_Scalar')>
    """
    name = getattr(getattr(func, "overloadpacket", None), "__name__", "")
    packet = getattr(torch.ops.aten, name.rstrip("_"), None) if name.endswith("_") else None
    overload = getattr(func, "_overloadname", "")
    if packet is None or overload not in packet.overloads():
        return None
    named: OpOverload[..., Any] = getattr(packet, overload)
    if _taken(named) == _taken(func):
        return named
    overloads = (getattr(packet, name) for name in packet.overloads())
    return next((one for one in overloads if _taken(one) == _taken(func)), None)


def _taken(func: Any) -> list[tuple[str, str]]:
    """Return names and types of what an operation takes, whether it writes to it or not."""
    return [(one.name, str(one.type)) for one in func._schema.arguments]


# Parts of the names of functions that draw numbers.
_DRAWN = (
    "bernoulli",
    "cauchy",
    "dropout",
    "exponential",
    "geometric",
    "multinomial",
    "normal",
    "poisson",
    "rand",
    "uniform",
)


def draws(name: str) -> bool:
    """Whether a function of that name draws numbers, so that two calls with the same arguments return others.

    >>> draws("normal.float_Tensor"), draws("relu.default")
    (True, False)
    """
    return any(part in name for part in _DRAWN)


class Trait(Flag):
    """A property that all operations of a kind share.

    ANALYTIC: what agrees at a random point agrees everywhere, with probability one. Sums, products, powers, softmax, GELU
    and compositions of them are analytic in their inputs and tensors, and the zeros of such a function have measure zero
    unless it is zero everywhere (Krantz and Parks, A Primer of Real Analytic Functions, 2002, doi
    10.1007/978-0-8176-8134-0). Quotients are as well, away from their poles: f1 / g1 = f2 / g2 where f1 g2 = f2 g1, which
    has no poles. Functions made of pieces are not: an input may not reach every piece. Only what is known to be analytic
    has the trait, whatever its operands and attributes are, so that an operation that is not known stands against a proof,
    not for it; what is analytic under conditions alone (sqrt of what is positive) is in `graph/pieces.py`. What copies by
    an index that was computed has it too: it is as the index is, and what computes that, sorting or comparing, is made of
    pieces.

    HOMOGENEOUS: f(c x) = c f(x) for every c > 0, where all operands that are scaled are scaled by the same c.
    """

    NONE = 0
    MOVEMENT = auto()  # the result holds elements of the input and no others
    PART = auto()  # it takes a part of a value, or several
    VIEW = auto()  # a new shape for the same memory
    RESHAPE = auto()  # a new shape, for a copy where memory does not allow a view
    FLATTEN = auto()  # axes become one, or one becomes several
    PERMUTE = auto()  # axes change places
    TRANSPOSE = auto()  # the two axes of a matrix change places
    ARRANGE = auto()  # elements are put in other places, beside others or beside zeros
    JOIN = auto()  # several values become one
    INDEX = auto()  # it takes elements by numbers that are a tensor
    LOOKUP = auto()  # it takes rows of a table by number
    IDENTITY = auto()  # in eval mode the result is the input
    FILLED = auto()  # of the input it reads shape and dtype alone
    NUMBER = auto()  # the result is no tensor, but a number about one
    SUM = auto()
    PRODUCT = auto()
    COMMUTATIVE = auto()  # its operands may change places
    AFFINE = auto()  # a layer with a weight and a bias
    OUTPUT_FIRST = auto()  # an affine layer whose weight is stored by output channel: one row for each
    MATRIX_PRODUCT = auto()  # a product of matrices, as aten writes a linear layer
    RESIZE = auto()  # the spatial size of the result is another one, which attributes alone do not tell
    ANALYTIC = auto()  # see above
    HOMOGENEOUS = auto()  # see above

    SCALING = SUM | PRODUCT


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table: the traits of a kind, and facts that only some kinds have.

    `channel_axis` is the axis of the channels in a layer's output. `filled` is the kind of an operation that fills the same
    shape without an input to take it from. `exchanged` is the kind that quantization may put in its place: the two may be
    aligned, and whether they compute the same is for the proof to say.
    """

    traits: Trait = Trait.NONE
    channel_axis: int = -1
    filled: str = ""
    exchanged: str = ""


_COPY = Trait.MOVEMENT | Trait.ANALYTIC


# Kinds that have the same traits share a row.
_ROWS: tuple[tuple[str, Kind], ...] = (
    (
        """
        chunk getitem narrow select slice split split_with_sizes unbind unsafe_chunk unsafe_split
        """,
        Kind(_COPY | Trait.PART),
    ),
    ("unsafe_view view", Kind(_COPY | Trait.VIEW)),
    ("reshape", Kind(_COPY | Trait.RESHAPE)),
    ("flatten unflatten", Kind(_COPY | Trait.FLATTEN)),
    ("permute transpose", Kind(_COPY | Trait.PERMUTE)),
    ("t", Kind(_COPY | Trait.TRANSPOSE)),
    ("flip roll", Kind(_COPY | Trait.ARRANGE)),
    (
        """
        channel_shuffle expand float movedim repeat repeat_interleave squeeze to unsqueeze
        """,
        Kind(_COPY),
    ),
    ("cat stack", Kind(Trait.ARRANGE | Trait.JOIN | Trait.ANALYTIC)),
    ("constant_pad_nd", Kind(Trait.ARRANGE | Trait.ANALYTIC)),
    ("index index_select", Kind(Trait.INDEX | Trait.LOOKUP | Trait.ANALYTIC)),
    ("embedding", Kind(Trait.LOOKUP | Trait.ANALYTIC)),
    (
        """
        alias alpha_dropout clone contiguous detach dropout dropout1d dropout2d dropout3d feature_dropout identity
        lift_fresh lift_fresh_copy stochastic_depth to_copy
        """,
        Kind(Trait.IDENTITY | Trait.ANALYTIC),
    ),
    ("new_zeros zeros_like", Kind(Trait.FILLED | Trait.ANALYTIC, filled="zeros")),
    ("new_ones ones_like", Kind(Trait.FILLED | Trait.ANALYTIC, filled="ones")),
    ("full_like new_full", Kind(Trait.FILLED | Trait.ANALYTIC, filled="full")),
    ("dim len ndim numel", Kind(Trait.NUMBER)),
    ("getattr size", Kind(Trait.NUMBER | Trait.ANALYTIC)),
    ("add", Kind(Trait.SUM | Trait.COMMUTATIVE | Trait.ANALYTIC)),
    ("sub", Kind(Trait.SUM | Trait.ANALYTIC)),
    ("mul", Kind(Trait.PRODUCT | Trait.COMMUTATIVE | Trait.ANALYTIC)),
    ("div", Kind(Trait.PRODUCT | Trait.ANALYTIC)),
    ("absolute_difference maximum minimum", Kind(Trait.COMMUTATIVE | Trait.HOMOGENEOUS)),
    ("convolution", Kind(Trait.AFFINE | Trait.OUTPUT_FIRST | Trait.ANALYTIC, channel_axis=1)),
    ("linear", Kind(Trait.AFFINE | Trait.OUTPUT_FIRST | Trait.RESIZE | Trait.ANALYTIC)),
    ("conv_transpose", Kind(Trait.AFFINE | Trait.RESIZE | Trait.ANALYTIC)),
    ("addmm mm", Kind(Trait.MATRIX_PRODUCT | Trait.ANALYTIC)),
    ("adaptive_avg_pool interpolate matmul mean pad", Kind(Trait.RESIZE | Trait.ANALYTIC)),
    ("adaptive_max_pool", Kind(Trait.RESIZE | Trait.HOMOGENEOUS)),
    ("clamp clamp_min hardtanh threshold", Kind(exchanged="relu")),
    ("avg_pool", Kind(Trait.ANALYTIC)),
    (
        """
        abs amax amin frobenius_norm hypot leaky_relu max max_pool min norm prelu relu sort std topk vector_norm
        linalg_vector_norm where
        """,
        Kind(Trait.HOMOGENEOUS),
    ),
    (  # copies of elements, by an index that was computed too
        """
        __setitem__ adjoint as_strided atleast_1d atleast_2d bfloat16 block_diag broadcast_to cartesian_prod col2im
        complex conj copy cpu cuda diag diag_embed diagonal double dsplit dstack empty_like expand_as expand_copy
        feature_alpha_dropout fold gather half hsplit hstack im2col imag mT meshgrid new_empty numpy_T pixel_shuffle
        pixel_unshuffle real reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d reshape_as
        resolve_conj rot90 select_scatter setitem shape slice_scatter swapaxes swapdims take take_along_dim
        tensor_split tile tril triu type_as unfold unfold_copy view_as view_as_complex view_as_real view_copy vsplit
        vstack
        """,
        Kind(Trait.ANALYTIC),
    ),
    # Writes whose place is fixed, or that add up. By an index, what is behind a write may be hidden.
    ("as_strided_scatter diagonal_scatter index_add scatter_add", Kind(Trait.ANALYTIC)),
    (  # arithmetic
        """
        addcdiv addcmul asinh atan cos cosh cumprod cumsum diff digamma divide erf erfc exp exp2 expit expm1 gelu glu lerp
        log_sigmoid log_softmax logaddexp logcumsumexp logsigmoid logsumexp mish neg polar positive
        prod reciprocal rsub rtruediv sigmoid silu sin sinc sinh softmax softmin square subtract sum sum_to_size tan
        tanh tanhshrink trace var var_mean
        """,
        Kind(Trait.ANALYTIC),
    ),
    (  # linear algebra, and maps that are linear
        """
        addbmm addmv addr affine_grid affine_grid_generator baddbmm bilinear bmm chain_matmul conv_tbc cross det dot
        einsum fft_c2c fft_c2r fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift
        fft_irfft fft_irfft2 fft_irfftn fft_r2c fft_rfft fft_rfft2 fft_rfftn grouped_mm inner inverse istft kron
        linalg_det linalg_inv linalg_inv_ex linalg_multi_dot matrix_exp multi_dot mv outer rmatmul stft tensordot
        trilinear upsample upsample_bicubic2d upsample_bicubic2d_aa upsample_bilinear2d upsample_bilinear2d_aa
        upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_nearest_exact1d
        upsample_nearest_exact2d upsample_trilinear3d vdot
        """,
        Kind(Trait.ANALYTIC),
    ),
    (  # compositions of these
        """
        gru gru_cell lstm lstm_cell multi_head_attention_forward native_multi_head_attention rnn_tanh rnn_tanh_cell
        scaled_dot_product_attention scaled_dot_product_attention_math scaled_dot_product_efficient_attention
        scaled_dot_product_flash_attention scaled_dot_product_flash_attention_for_cpu
        """,
        Kind(Trait.ANALYTIC),
    ),
)


KINDS: dict[str, Kind] = {name: kind for names, kind in _ROWS for name in names.split()}


assert len(KINDS) == sum(len(names.split()) for names, _ in _ROWS), "a kind stands in two rows of the table"


_UNKNOWN = Kind()


def facts(kind: str) -> Kind:
    """Return the row of a kind in the table; a row without traits where the table has none."""
    return KINDS.get(kind, _UNKNOWN)


@cache
def kinds(trait: Trait) -> frozenset[str]:
    """Return all kinds that have a trait; given several, those that have one of them."""
    return frozenset(name for name, kind in KINDS.items() if kind.traits & trait)


def has(kind: str, trait: Trait) -> bool:
    """Whether a kind has a trait; given several, whether it has one of them."""
    return bool(facts(kind).traits._value_ & trait._value_)  # of plain integers: flags are slow to combine
