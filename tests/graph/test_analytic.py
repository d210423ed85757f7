"""Every kind that is called analytic is: along lines through its domain, a function is resolved by polynomials.

A function that is analytic around an interval is approximated there by polynomials with an error that falls geometrically in
their degree; one with a kink, or with a jump of any derivative, is not (Trefethen, Approximation Theory and Approximation
Practice, 2019, theorems 7.2 and 8.2, doi:10.1137/1.9781611975949). So each function is sampled at Chebyshev points of
intervals that cover the line from -300 to 300, finely around 0, and the last coefficients must be rounding errors. Lines go
through 0, through points with equal elements, and through random ones, since kinks hide there.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxmap.graph.kinds import Trait, kinds

GENERATOR = torch.Generator().manual_seed(0)


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


A, B, KERNEL, ROWS = _draw(4, 6), _draw(6, 5), _draw(6, 6, 3, 3), torch.tensor([2, 0, 3, 3])
ATEN = torch.ops.aten
Function = Callable[[Tensor], Any]


def _map(x: Tensor) -> Tensor:
    """Return x as a map, `b c h w`."""
    return x.reshape(1, 1, 4, 6)


def _maps(x: Tensor, channels: int = 6) -> Tensor:
    return (x.reshape(1, 1, 4, 6) * torch.arange(1.0, channels + 1, dtype=x.dtype).reshape(1, -1, 1, 1)).contiguous()


def _set(x: Tensor) -> Tensor:
    y = x.clone()
    y[1] = x[0] * 2
    return y


def _recurrent(kind: str) -> Function:
    layer: Any = (
        {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn_tanh": torch.nn.RNN}[kind](6, 5).double().requires_grad_(False)
    )
    return lambda x: layer(x * 0.2)[0]


def _cell(kind: str) -> Function:
    cell: Any = (
        {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell, "rnn_tanh": torch.nn.RNNCell}[kind](6, 5)
        .double()
        .requires_grad_(False)
    )
    return lambda x: cell(x * 0.2)[0] if kind == "lstm" else cell(x * 0.2)


ATTENTION = torch.nn.MultiheadAttention(6, 2).double().eval().requires_grad_(False)


def _attention(x: Tensor) -> Any:
    q = x.reshape(1, 2, 4, 3)
    return F.scaled_dot_product_attention(q, q * 0.5, q + 1)


def _resized(name: str) -> Function:
    dims = int(name.partition("d")[0][-1])
    size = [9, 5, 3][:dims]
    shape = {1: (1, 4, 6), 2: (1, 1, 4, 6), 3: (1, 1, 2, 2, 6)}[dims]
    call = getattr(ATEN, name, None) or getattr(ATEN, f"_{name}")
    corners = () if "nearest" in name else (False,)
    return lambda x: call.default(x.reshape(shape), size, *corners)


MOVED: dict[str, Function] = {
    "__setitem__": _set,
    "setitem": _set,
    "adjoint": torch.adjoint,
    "as_strided": lambda x: x.as_strided((3, 2), (5, 1)),
    "broadcast_to": lambda x: x.broadcast_to(2, 4, 6),
    "cat": lambda x: torch.cat((x, x * 2)),
    "cartesian_prod": lambda x: torch.cartesian_prod(x[0], x[1]),
    "channel_shuffle": lambda x: F.channel_shuffle(_maps(x), 2),
    "chunk": lambda x: x.chunk(2)[1],
    "col2im": lambda x: F.fold(x.reshape(1, 4, 6), (3, 4), 2),
    "fold": lambda x: F.fold(x.reshape(1, 4, 6), (3, 4), 2),
    "complex": lambda x: torch.complex(x, x * 2),
    "constant_pad_nd": lambda x: torch.constant_pad_nd(x, (1, 2), 3.0),
    "copy": lambda x: ATEN.copy.default(A, x),
    "dsplit": lambda x: torch.dsplit(x.reshape(2, 2, 6), 2)[0],
    "dstack": lambda x: torch.dstack((x, x)),
    "embedding": lambda x: F.embedding(ROWS, x),
    "expand": lambda x: x.expand(2, 4, 6),
    "expand_as": lambda x: x.expand_as(torch.zeros(2, 4, 6)),
    "expand_copy": lambda x: ATEN.expand_copy.default(x, [2, 4, 6]),
    "fft_fftshift": torch.fft.fftshift,
    "fft_ifftshift": torch.fft.ifftshift,
    "flip": lambda x: x.flip(0),
    "gather": lambda x: x.gather(0, ROWS[:, None]),
    "getitem": lambda x: x[1:, 2],
    "hsplit": lambda x: torch.hsplit(x, 2)[0],
    "hstack": lambda x: torch.hstack((x, x)),
    "im2col": lambda x: F.unfold(_map(x), 2),
    "unfold": lambda x: x.unfold(1, 2, 1),
    "unfold_copy": lambda x: ATEN.unfold_copy.default(x, 1, 2, 1),
    "imag": lambda x: torch.complex(x, x * 2).imag,
    "index": lambda x: x[ROWS],
    "index_select": lambda x: x.index_select(0, ROWS),
    "meshgrid": lambda x: torch.meshgrid(x[0], x[1], indexing="ij")[1],
    "movedim": lambda x: x.movedim(0, 1),
    "narrow": lambda x: x.narrow(0, 1, 2),
    "permute": lambda x: x.permute(1, 0),
    "pixel_shuffle": lambda x: F.pixel_shuffle(_maps(x, 4), 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(_map(x), 2),
    "reflection_pad1d": lambda x: F.pad(x, (1, 2), "reflect"),
    "reflection_pad2d": lambda x: F.pad(_map(x), (1, 2, 1, 1), "reflect"),
    "replication_pad1d": lambda x: F.pad(x, (1, 2), "replicate"),
    "replication_pad2d": lambda x: F.pad(_map(x), (1, 2, 1, 1), "replicate"),
    "pad": lambda x: (F.pad(x, (1, 2), "constant", 1.0), F.pad(x, (1, 2), "circular"), F.pad(x, (1, 2), "reflect")),
    "repeat": lambda x: x.repeat(2, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "reshape": lambda x: x.reshape(-1),
    "reshape_as": lambda x: x.reshape_as(B[:4].new_zeros(8, 3)),
    "roll": lambda x: x.roll(1, 0),
    "select": lambda x: x.select(0, 1),
    "select_scatter": lambda x: x.select_scatter(x[0] * 2, 0, 1),
    "slice": lambda x: ATEN.slice.Tensor(x, 0, 1, 3),
    "slice_scatter": lambda x: x.slice_scatter(x[:1] * 2, 0, 1, 2),
    "split": lambda x: x.split(2)[1],
    "split_with_sizes": lambda x: x.split([1, 3])[1],
    "stack": lambda x: torch.stack((x, x)),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "swapdims": lambda x: x.swapdims(0, 1),
    "take": lambda x: x.take(ROWS),
    "take_along_dim": lambda x: x.take_along_dim(ROWS[:, None], 0),
    "tensor_split": lambda x: x.tensor_split(2)[1],
    "tile": lambda x: x.tile(2),
    "transpose": lambda x: x.transpose(0, 1),
    "type_as": lambda x: x.type_as(A),
    "unflatten": lambda x: x.unflatten(1, (2, 3)),
    "unsafe_chunk": lambda x: ATEN.unsafe_chunk.default(x, 2)[1],
    "unsafe_split": lambda x: ATEN.unsafe_split.Tensor(x, 2)[1],
    "unsafe_view": lambda x: ATEN._unsafe_view.default(x, [6, 4]),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "view": lambda x: x.view(6, 4),
    "view_as": lambda x: x.view_as(torch.zeros(6, 4)),
    "view_as_complex": lambda x: torch.view_as_complex(x.reshape(4, 3, 2)),
    "view_as_real": lambda x: torch.view_as_real(torch.complex(x, x * 2)),
    "view_copy": lambda x: ATEN.view_copy.default(x, [6, 4]),
    "vsplit": lambda x: torch.vsplit(x, 2)[0],
    "vstack": lambda x: torch.vstack((x, x)),
}


ARITHMETIC: dict[str, Function] = {
    "add": lambda x: torch.add(x, x * 2, alpha=3),
    "addcdiv": lambda x: torch.addcdiv(x, x, A + 10),
    "addcmul": lambda x: torch.addcmul(x, x, x),
    "cumprod": lambda x: x.cumprod(1)[:, :3],
    "cumsum": lambda x: x.cumsum(1),
    "div": lambda x: x / (A + 10),
    "divide": lambda x: torch.divide(x, A + 10),
    "expit": torch.special.expit,
    "lerp": lambda x: torch.lerp(x, A, x),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "logaddexp": lambda x: torch.logaddexp(x, A),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "logsumexp": lambda x: x.logsumexp(1),
    "mul": lambda x: x * x,
    "multiply": lambda x: torch.multiply(x, x),
    "polar": lambda x: torch.polar(x, x * 0.1),
    "prod": lambda x: x[:, :3].prod(1),
    "rsub": lambda x: torch.rsub(x, 2.0),
    "rtruediv": lambda x: x / 7,
    "softmax": lambda x: F.softmax(x, -1),
    "softmin": lambda x: F.softmin(x, -1),
    "sub": lambda x: torch.sub(x, A, alpha=2),
    "subtract": lambda x: torch.subtract(x, A),
    "sum_to_size": lambda x: x.sum_to_size(1, 6),
    "gelu": lambda x: (F.gelu(x), F.gelu(x, approximate="tanh")),
    "var": lambda x: (x.var(), x.var(1, correction=0), x[:, :2].var(1)),
    "var_mean": lambda x: torch.var_mean(x, 1),
}


LINEAR: dict[str, Function] = {
    "as_strided_scatter": lambda x: torch.as_strided_scatter(x, x[:2, :3] * 2, (2, 3), (6, 2)),
    "diagonal_scatter": lambda x: torch.diagonal_scatter(x, x[0, :4] * 3),
    "index_add": lambda x: torch.index_add(x, 0, ROWS, x * 2),
    "scatter_add": lambda x: torch.scatter_add(x, 0, ROWS[:, None].expand(4, 6), x * 2),
    "adaptive_avg_pool": lambda x: F.adaptive_avg_pool2d(_map(x), (3, 4)),
    "avg_pool": lambda x: (
        F.avg_pool2d(_map(x), 2, padding=1, count_include_pad=False),
        F.avg_pool2d(_map(x), 3, ceil_mode=True, divisor_override=2),
    ),
    "addbmm": lambda x: torch.addbmm(A.new_zeros(4, 5), x[None], B[None]),
    "addmm": lambda x: torch.addmm(B[0], x, B),
    "addmv": lambda x: torch.addmv(x[:, 0], x, B[:, 0]),
    "addr": lambda x: torch.addr(x, x[:, 0], x[0]),
    "affine_grid": lambda x: F.affine_grid(x[:2, :3][None], [1, 1, 3, 3], align_corners=False),
    "affine_grid_generator": lambda x: F.affine_grid(x[:2, :3][None], [1, 1, 3, 3], align_corners=True),
    "baddbmm": lambda x: torch.baddbmm(A.new_zeros(1, 4, 5), x[None], B[None]),
    "trilinear": lambda x: torch._trilinear(x, x, x.flip(0), [], [], [], [1]),
    "bilinear": lambda x: F.bilinear(x, x, KERNEL[:2, :, :, 0].repeat(1, 1, 2)),
    "bmm": lambda x: torch.bmm(x[None], x.t()[None]),
    "chain_matmul": lambda x: torch.linalg.multi_dot((x, B)),
    "conv_tbc": lambda x: torch.conv_tbc(x[:, None], KERNEL[:3, :, :2, 0], B[0][:2]),
    "convolution": lambda x: F.conv2d(_maps(x), KERNEL, padding=1, stride=2),
    "conv_transpose": lambda x: F.conv_transpose2d(_maps(x), KERNEL, stride=2),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 3:]),
    "det": lambda x: torch.det(x[:3, :3]),
    "dot": lambda x: torch.dot(x[0], x[1]),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "fft_c2c": lambda x: torch.fft.fft(torch.complex(x, x)),
    "fft_c2r": lambda x: torch.fft.irfft(torch.complex(x, x)),
    "fft_r2c": torch.fft.rfft,
    **{f"fft_{name}": getattr(torch.fft, name) for name in ("fft", "fft2", "fftn", "ifft", "ifft2", "ifftn")},
    **{f"fft_{name}": getattr(torch.fft, name) for name in ("irfft", "irfft2", "irfftn", "rfft", "rfft2", "rfftn")},
    "grouped_mm": lambda x: torch.stack([x[:2] @ B, x[2:] @ B]),
    "inner": lambda x: torch.inner(x, x),
    "interpolate": lambda x: tuple(
        F.interpolate(_map(x), size=(7, 3), mode=mode) for mode in ("nearest", "bilinear", "bicubic", "area")
    ),
    "inverse": lambda x: torch.inverse(x[:2, :2] * 1e-3 + 5 * torch.eye(2, dtype=x.dtype)),
    "istft": lambda x: torch.istft(torch.complex(x[:, :5], x[:, 1:])[:3], 4, window=x.new_ones(4)),
    "kron": lambda x: torch.kron(x, x),
    "linalg_det": lambda x: torch.linalg.det(x[:3, :3]),
    "linalg_inv": lambda x: torch.linalg.inv(x[:2, :2] * 1e-3 + 5 * torch.eye(2, dtype=x.dtype)),
    "linalg_inv_ex": lambda x: torch.linalg.inv_ex(x[:2, :2] * 1e-3 + 5 * torch.eye(2, dtype=x.dtype))[0],
    "linalg_multi_dot": lambda x: torch.linalg.multi_dot((x, B)),
    "linear": lambda x: F.linear(x, B.t(), B[0]),
    "matmul": lambda x: x @ x.t(),
    "matrix_exp": lambda x: torch.matrix_exp(x[:3, :3] * 1e-3),
    "mm": lambda x: x.mm(B),
    "multi_dot": lambda x: torch.linalg.multi_dot((x, B)),
    "mv": lambda x: torch.mv(x, x[0]),
    "outer": lambda x: torch.outer(x[0], x[1]),
    "rmatmul": lambda x: x @ B,
    "stft": lambda x: torch.stft(x.flatten(), 4, window=x.new_ones(4), return_complex=True),
    "tensordot": lambda x: torch.tensordot(x, x.t(), 1),
    "upsample": lambda x: F.interpolate(_map(x), scale_factor=1.5, mode="bilinear", align_corners=True),
    "vdot": lambda x: torch.vdot(x[0], x[1]),
    **{name: _resized(name) for name in kinds(Trait.ANALYTIC) if name.startswith("upsample_")},
}


COMPOSED: dict[str, Function] = {
    **{kind: _recurrent(kind) for kind in ("lstm", "gru", "rnn_tanh")},
    **{f"{kind}_cell": _cell(kind) for kind in ("lstm", "gru", "rnn_tanh")},
    "multi_head_attention_forward": lambda x: ATTENTION(x, x, x)[0],
    "native_multi_head_attention": lambda x: ATTENTION(x, x, x)[0],
    "scaled_dot_product_attention": _attention,
}


# Identities in eval mode; numbers about tensors; what depends on shapes alone; devices; other precisions of a number.
NOTHING_TO_COMPUTE = kinds(Trait.IDENTITY | Trait.FILLED | Trait.NUMBER) | {
    "bfloat16",
    "cpu",
    "cuda",
    "double",
    "empty_like",
    "feature_alpha_dropout",
    "float",
    "half",
    "new_empty",
    "shape",
    "to",
}


# Functions with poles, which are meromorphic, on lines without one; and steep ones on parts of the line.
SMALL = {
    "cos": (-60.0, 60.0),
    "digamma": (2.0, 60.0),
    "exp": (-30.0, 30.0),
    "reciprocal": (2.0, 300.0),
    "sin": (-60.0, 60.0),
    "sinc": (-20.0, 20.0),
    "tan": (-1.4, 1.4),
}


FUNCTIONS = MOVED | ARITHMETIC | LINEAR | COMPOSED


def _function(kind: str) -> Function:
    if kind in FUNCTIONS:
        return FUNCTIONS[kind]
    if kind.startswith("scaled_dot_product_"):
        return _attention
    found: Function = next(
        getattr(space, kind) for space in (torch, F, torch.Tensor, ATEN) if callable(getattr(space, kind, None))
    )
    return found


# Pieces of the line, finer around 0; their ends are at no number that a function may be cut at.
ENDS = [-300.0, -61.3, -37.9, -18.7, -4.43, 7.3, 19.1, 38.3, 58.9, 300.0]


def _flat(value: Any) -> Tensor:
    parts = value if isinstance(value, list | tuple) else (value,)
    real = [torch.view_as_real(part.resolve_conj()) if part.is_complex() else part for part in parts]
    return torch.cat([part.resolve_conj().double().flatten() for part in real])


def _unresolved(function: Function, point: Tensor, direction: Tensor, interval: tuple[float, float], count: int) -> float:
    """Return the last Chebyshev coefficients of a function along a line, relative to its largest value."""
    middle, half = sum(interval) / 2, (interval[1] - interval[0]) / 2
    angles = (torch.arange(count, dtype=torch.float64) + 0.5) * torch.pi / count
    inputs = [point + (middle + half * float(t)) * direction for t in angles.cos()]
    values = torch.stack([_flat(function(x)) for x in inputs])
    cosines = torch.cos(torch.arange(count, dtype=torch.float64)[:, None] * angles[None])
    coefficients = cosines @ values / count
    return float(coefficients[count // 2 :].abs().max() / (1 + values.abs().max()))


ALL_ONES, SIGNS = torch.ones_like(A), A.sign()


def _worst(function: Function, low: float = -300.0, high: float = 300.0) -> float:
    lines = [(A * 0, ALL_ONES), (SIGNS * 0.3, SIGNS * 0.7)] if low <= 0 else [(A * 0, ALL_ONES)]
    ends = [low, *(end for end in ENDS if low < end < high), high]
    return max(_unresolved(function, *line, interval, 256) for line in lines for interval in pairwise(ends))


RESOLVED = 1e-10


@pytest.mark.parametrize("kind", sorted(kinds(Trait.ANALYTIC) - NOTHING_TO_COMPUTE - MOVED.keys() - LINEAR.keys()))
def test_what_is_called_analytic_is_resolved_by_polynomials(kind: str) -> None:
    assert _worst(_function(kind), *SMALL.get(kind, (-300.0, 300.0))) < RESOLVED


@pytest.mark.parametrize("kind", sorted([*MOVED, *LINEAR]))
def test_what_moves_numbers_or_adds_up_products_is_a_polynomial(kind: str) -> None:
    for point, direction in ((A * 0, ALL_ONES), (SIGNS * 0.3, A)):
        assert _unresolved(FUNCTIONS[kind], point, direction, (-300.0, 310.0), 32) < RESOLVED


PIECES: dict[str, Function] = {
    "abs": torch.abs,
    "celu": F.celu,
    "elu": F.elu,
    "hardswish": F.hardswish,
    "hypot": lambda x: torch.hypot(x, x * 2),
    "leaky_relu": F.leaky_relu,
    "linalg_vector_norm": lambda x: torch.linalg.vector_norm(x[:, :1], dim=1),
    "norm": lambda x: x.norm(p=3, dim=1),
    "normalize": lambda x: F.normalize(x, dim=-1, eps=0.5),
    "pow": lambda x: x.abs() ** 2.5,
    "relu": torch.relu,
    "selu": F.selu,
    "softplus": lambda x: F.softplus(x, threshold=5),
    "softsign": F.softsign,
    "sqrt": lambda x: (x * x).sqrt(),
    "std": lambda x: x[:, :2].std(1),
    "logit": lambda x: torch.logit(x.sigmoid(), eps=1e-2),
    "to_integer": lambda x: x.to(torch.int64),
    "asin": lambda x: torch.asin(torch.sin(x)),
    "log": lambda x: torch.log(x * x + (x * x).sqrt() + 1),
}


@pytest.mark.parametrize("kind", PIECES)
def test_what_is_made_of_pieces_is_not_resolved_and_not_called_analytic(kind: str) -> None:
    assert _worst(PIECES[kind]) > RESOLVED
    assert kind not in kinds(Trait.ANALYTIC)
