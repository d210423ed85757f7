"""Programs: a few operations of torch as data, so that an expression can hold what a model computes of its weights.

A program is JSON: a list of steps, each `[operation, arguments, keyword arguments]`. `{"value": 2}` stands for the third
value: first come the tensors that the program is given, then the results of its steps. It needs torch alone.

>>> import json
>>> import torch
>>> program = json.dumps([["aten.mul.Tensor", [{"value": 0}, 2.0], {}], ["aten.t.default", [{"value": 1}], {}]])
>>> run_program([torch.ones(1, 2)], program)
tensor([[2.],
        [2.]])

A program may come from a file, so that its operations are those of a list: they compute tensors of tensors, write to none,
and refuse arguments that do not fit. What others do with such arguments is not said: kernels of backward passes and of
packed or nested tensors read beyond their operands. A result may be so many times larger than the program's tensors, and
no more.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

# Operations of a program. What is not listed cannot be written into one, either.
_NAMES = """
    _fft_c2c _fft_c2r _fft_r2c _log_softmax _safe_softmax _softmax _to_copy _unsafe_view _weight_norm abs absolute add
    addbmm addcdiv addcmul addmm addmv addr alias amax amin arange argmax argmin argsort atan atan2 baddbmm bitwise_and
    bitwise_not bitwise_or block_diag bmm broadcast_to cat ceil clamp clamp_max clamp_min clone complex conj
    constant_pad_nd convolution copy cos cosh cumprod cumsum detach diag diag_embed diagonal div divide dot einsum
    embedding eq erf erfc exp exp2 expand expand_copy expm1 eye fft_fft fft_fft2 fft_ifft fft_ifft2 fft_irfft fft_irfft2
    fft_rfft fft_rfft2 fill flatten flip floor floor_divide fmod full full_like gather ge gelu glu gt hardtanh hypot
    index index_add index_put index_select isfinite le leaky_relu lerp lift_fresh lift_fresh_copy linalg_cross linalg_inv
    linalg_inv_ex linalg_matrix_exp linalg_norm linalg_qr linalg_vector_norm linear linspace log log10 log1p log2
    logaddexp logical_and logical_not logical_or logsumexp lt masked_fill matmul matrix_exp max maximum mean min minimum
    mish mm mul multiply mv nan_to_num narrow native_batch_norm native_group_norm native_layer_norm ne neg negative
    new_full new_ones new_zeros norm ones ones_like outer permute polar positive pow prod real reciprocal
    reflection_pad1d reflection_pad2d relu remainder repeat replication_pad1d replication_pad2d reshape roll rot90 round
    rsqrt rsub scalar_tensor scatter scatter_add select select_scatter sgn sigmoid sign silu sin sinh slice slice_scatter
    softmax softplus sort split split_with_sizes sqrt square squeeze stack std sub subtract sum t take tan tanh tile topk
    trace transpose tril triu true_divide trunc unbind unflatten unsqueeze upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d var var_mean view view_as_complex view_as_real view_copy
    where zeros zeros_like
"""
_OPERATIONS = frozenset(_NAMES.split())
# Results may have this many elements, or so many times those of the largest tensor of the program.
_ELEMENTS = 2**26
_TIMES = 1000
_ANY = float("inf")
# Kinds of arguments that torch takes as bare numbers, too, and does not look at.
_NAMED = {"ScalarType": torch.dtype, "Layout": torch.layout, "Device": torch.device, "MemoryFormat": torch.memory_format}


def run_program(tensors: Sequence[Tensor], program: str, bounded: bool = True) -> Tensor:
    """Run a program on tensors, and return the result of its last step; `bounded` says that sizes are looked at.

    Raises:
        ValueError: the program has an operation that is not of the list, an argument of another kind, or a result that
            dwarfs its tensors.
    """
    values: list[Any] = list(tensors)
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
    most = max(_ELEMENTS, _TIMES * max((tensor.numel() for tensor in tensors), default=0)) if bounded else _ANY
    for name, arguments, keywords in json.loads(program):
        given = {key: decode(value, values, dtype) for key, value in keywords.items()}
        values.append(_call(name, decode(arguments, values, dtype), given, most))
    result: Tensor = values[-1]
    return result


def _call(name: str, arguments: list[Any], keywords: dict[str, Any], most: float) -> Any:
    if name == "getitem":
        return arguments[0][arguments[1]]
    found = operation(name)
    for place, taken in enumerate(found._schema.arguments):
        value = keywords.get(taken.name, arguments[place] if place < len(arguments) else None)
        if taken.name == "training" and value:
            raise ValueError(f"{name}: in training it writes to its operands, which operations of a program do not")
        kind = str(taken.real_type).removeprefix("Optional[").removesuffix("]")
        if value is not None and kind in _NAMED and not isinstance(value, _NAMED[kind]):
            raise ValueError(f"{name}: {taken.name} is {value!r}, not a {_NAMED[kind].__name__}")
    _refuse_unchecked(name, arguments)
    if most < _ANY and not found.is_view:
        _refuse_growth(found, arguments, keywords, most)
    return found(*arguments, **keywords)


def _refuse_unchecked(name: str, arguments: list[Any]) -> None:
    """Raise a ValueError for what the kernels of some operations do not look at, and read beyond their operands by."""
    if name.startswith("aten._fft"):
        source, axes = arguments[:2]
        if not all(-source.dim() <= axis < source.dim() for axis in axes):
            raise ValueError(f"{name}: axes {axes} of {source.dim()}")
    elif name.startswith("aten.native_batch_norm"):
        source, weight, bias, mean, var = arguments[:5]
        if source.dim() < 2 or any(
            part.shape != source.shape[1:2] for part in (weight, bias, mean, var) if part is not None
        ):
            raise ValueError(f"{name}: operands of other sizes than the channels of {list(source.shape)}")
        if mean is None or var is None:
            raise ValueError(f"{name}: no running mean or variance")


def operation(name: str) -> Any:
    """Return an operation by its name, as `aten.add.Tensor`.

    Raises:
        ValueError: it is not one of those that a program may have.
    """
    room, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    if room != "aten" or packet not in _OPERATIONS:
        raise ValueError(f"{name}: a program has operations of aten alone, which compute tensors of tensors")
    found = getattr(getattr(torch.ops.aten, packet), overload)
    if any(taken.alias_info is not None and taken.alias_info.is_write for taken in found._schema.arguments):
        raise ValueError(f"{name}: writes to an operand, which operations of a program do not")
    if not all(str(made.type) in ("Tensor", "List[Tensor]") for made in found._schema.returns):
        raise ValueError(f"{name}: makes no tensor")
    return found


def _refuse_growth(found: Any, arguments: list[Any], keywords: dict[str, Any], most: float) -> None:
    """Raise a ValueError where a result has more elements, worked out on the meta device, which has no memory."""
    bare = {key: _bare(value) for key, value in keywords.items()}
    if any(taken.name == "device" for taken in found._schema.arguments):
        bare["device"] = torch.device("meta")
    try:
        results = found(*[_bare(value) for value in arguments], **bare)
    except Exception:  # shapes that depend on numbers are at most those of the operands; what does not fit fails anew
        return
    if sum(part.numel() for part in _tensors(results)) > most:
        raise ValueError(f"{found}: a result of more than {most} elements")


def _bare(value: Any) -> Any:
    if isinstance(value, list):
        return [_bare(part) for part in value]
    return value.to("meta") if isinstance(value, Tensor) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def decode(data: Any, values: Sequence[Any], dtype: torch.dtype) -> Any:
    """Return the arguments that JSON data stands for; single precision is replaced by `dtype`."""
    if isinstance(data, list):
        return [decode(part, values, dtype) for part in data]
    if not isinstance(data, dict):
        return data
    if "value" in data:
        return values[data["value"]]
    if "dtype" in data:
        named: torch.dtype = getattr(torch, data["dtype"])
        return dtype if named in (torch.float32, torch.float64) else named
    if "memory_format" in data:
        return getattr(torch, data["memory_format"])
    if "tensor" in data:
        kind: torch.dtype = getattr(torch, data["of"])
        return torch.tensor(data["tensor"], dtype=dtype if kind in (torch.float32, torch.float64) else kind)
    raise ValueError(f"{data}: no argument of a program")


def check_program(program: str, count: int) -> None:
    """Refuse text that is no program of so many tensors.

    Raises:
        TypeError, ValueError: a step is none, has an operation that is not of the list, or reads a value that is not there
            yet.
    """
    steps = json.loads(program)
    if not isinstance(steps, list) or not steps:
        raise ValueError("no steps")
    for done, step in enumerate(steps):
        name, arguments, keywords = step
        if not (isinstance(name, str) and isinstance(arguments, list) and isinstance(keywords, dict)):
            raise TypeError(f"{step}: no name, list of arguments, and keywords")
        if name != "getitem":
            operation(name)
        if not all(0 <= place < count + done for place in _places([arguments, list(keywords.values())])):
            raise ValueError(f"{name}: reads a value that is not there")


def _places(data: Any) -> Iterator[int]:
    if isinstance(data, dict) and "value" in data:
        yield data["value"]
    elif isinstance(data, list):
        for part in data:
            yield from _places(part)


def linear_map(
    tensors: Sequence[Tensor], program: str, shapes: Sequence[Sequence[int]], probes: Sequence[int], read: Sequence[int]
) -> Tensor:
    """Return the matrix of a stretch of operations that is affine in its inputs, `(probes + 1) read`.

    The program's values are its inputs, of the given shapes, and then the tensors. Each row is how the elements `read` of
    its result change with one of the inputs' elements, the `probes`; the last row is the result where all inputs are 0.

    Raises:
        ValueError: as `run_program`, or the inputs dwarf the tensors.

    >>> program = '[["aten.mm.default", [{"value": 0}, {"value": 1}], {}]]'
    >>> linear_map([torch.tensor([[2.0], [3.0]])], program, [[1, 2]], [0, 1], [0])
    tensor([[2.],
            [3.],
            [0.]])
    """
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    if like is None:
        raise ValueError("no tensor of floating point, which says in what a program computes")
    sizes = [torch.zeros(()).expand(tuple(shape)).numel() for shape in shapes]
    if not all(0 <= size <= max(_ELEMENTS, _TIMES * like.numel()) for size in sizes):
        raise ValueError(f"inputs of the shapes {[list(shape) for shape in shapes]}")
    rows: list[Tensor] = []
    for probe in (*probes, -1):
        flat = torch.zeros(sum(sizes), dtype=like.dtype, device=like.device)
        if probe >= 0:
            flat[probe] = 1.0
        inputs = [part.reshape(tuple(shape)) for part, shape in zip(torch.split(flat, sizes), shapes, strict=True)]
        rows.append(run_program([*inputs, *tensors], program, not rows).reshape(-1)[list(read)])
    table = torch.stack(rows)
    return torch.cat([table[:-1] - table[-1:], table[-1:]])
