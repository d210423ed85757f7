"""Tensors in nested values: the arguments and the outputs of models.

Cost: linear in the number of nested values.
"""

import ctypes
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import CaptureError

Named = list[tuple[str, Tensor]]


def is_whole(tensor: Tensor) -> bool:
    """Whether a tensor has integers or booleans, as counters, tables of positions and masks do.

    >>> is_whole(torch.tensor(3)), is_whole(torch.tensor(3.0)), is_whole(torch.tensor(3j))
    (True, False, False)
    """
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized)


def is_integer(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor are integers; those of masks are none."""
    return is_whole(tensor) and tensor.dtype is not torch.bool


def tensors_of(value: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists, mappings (the outputs of transformers are mappings) and dataclasses.

    >>> import torch
    >>> [t.item() for t in tensors_of({"b": torch.tensor(1), "a": [torch.tensor(2)]})]
    [1, 2]
    """
    if isinstance(value, Tensor):
        return [value]
    return [tensor for _, part in _parts(value) for tensor in tensors_of(part)]


def named_outputs(value: Any, name: str = "") -> Named:
    """Return the tensors of an output with their names: keys of dicts, fields of named tuples; empty where there are none.

    They are numbers that can be compared (`outputs_of`).

    >>> import torch
    >>> [name for name, _ in named_outputs({"mu": torch.zeros(1), "rest": (torch.zeros(2), torch.zeros(3))})]
    ['mu', 'rest.0', 'rest.1']
    >>> [name for name, _ in named_outputs([{"box": torch.zeros(4)}, {"box": torch.zeros(4)}])]
    ['0.box', '1.box']
    """
    if isinstance(value, Tensor):
        return [] if value.is_meta else [(name, plain(value))]
    parts = [*_parts(value)]
    found: Named = []
    for key, part in parts:
        # A tensor in a tuple has no name, and a tuple of one says nothing.
        numbered = isinstance(key, int) and not name and (isinstance(part, Tensor) or len(parts) == 1)
        found += named_outputs(part, f"{name}.{key}" if name else "" if numbered else str(key))
    return found


def as_nested(value: Any, leaf: Callable[[Tensor], Any]) -> Any:
    """Return an output with something else in place of its tensors, as dicts where its parts have names, and as tuples.

    >>> import torch
    >>> as_nested(({"mu": torch.zeros(1), "steps": 7}, torch.zeros(2)), lambda tensor: tensor.numel())
    ({'mu': 1, 'steps': None}, 2)
    """
    if isinstance(value, Tensor):
        return leaf(value)
    parts = [(key, as_nested(part, leaf)) for key, part in _parts(value)]
    if not parts:
        return None
    return tuple(part for _, part in parts) if isinstance(parts[0][0], int) else dict(parts)


def _parts(value: Any) -> Iterable[tuple[str | int, Any]]:
    """Return the parts of an output, with their names or their numbers."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if is_dataclass(value) and not isinstance(value, type):
        return [(part.name, getattr(value, part.name)) for part in fields(value) if hasattr(value, part.name)]
    if isinstance(value, SimpleNamespace):
        return list(vars(value).items())
    return list(enumerate(value)) if isinstance(value, list | tuple) else []


def outputs_of(value: Any) -> list[Tensor]:
    """Return all tensors in the output of a model as numbers that can be compared: dense, of a dtype that torch computes in.

    Those on the meta device have no numbers, and are left out.

    >>> import torch
    >>> [t.tolist() for t in outputs_of((torch.eye(2).to_sparse(), torch.ones(1).to(torch.float8_e4m3fn)))]
    [[[1.0, 0.0], [0.0, 1.0]], [1.0]]
    """
    return [plain(tensor) for tensor in tensors_of(value) if not tensor.is_meta]


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor itself, or, where torch cannot compare those of its kind, one of the same numbers: dense, and wide.

    Raises:
        CaptureError: it repeats its numbers so often that they would not fit into memory, which they must to be compared.

    >>> import torch
    >>> plain(torch.ones(2, dtype=torch.uint16)).dtype, plain(torch.ones(2)).dtype
    (torch.int64, torch.float32)
    """
    if type(tensor) is Tensor:
        with torch._C.DisableTorchFunction():  # what watches the operations of a model need not see these
            return _plain(tensor)
    return _plain(tensor)


def _plain(tensor: Tensor) -> Tensor:
    if tensor.numel() > _MANY and tensor.layout is torch.strided and _is_repeated(tensor):
        raise CaptureError(
            f"a value of shape {list(tensor.shape)} repeats few numbers in memory (expand), and is too large to be "
            "compared. Map the models without that output: src_forward= and dst_forward= say what is run instead"
        )
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense() if tensor.numel() <= _DENSE else _entries(tensor)
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    # Views that are conjugated or negated when they are read: some operations refuse them.
    tensor = tensor.resolve_conj().resolve_neg()
    return tensor.to(_WIDE[tensor.dtype]) if tensor.dtype in _WIDE else tensor


# Numbers of a value above which it is not made to hold each of them where far fewer are in memory: 1 GB in double precision.
_MANY = 1 << 27


def _is_repeated(tensor: Tensor) -> bool:
    """Whether a tensor has more than a hundred times the numbers that it holds in memory."""
    return has_place(tensor) and tensor.numel() * tensor.element_size() > 100 * tensor.untyped_storage().nbytes()


# Numbers of a sparse tensor up to which it is made dense; others may be made by a few lines, and fill no memory.
_DENSE = 1 << 24


def _entries(tensor: Tensor) -> Tensor:
    """Return the numbers of a sparse tensor that are not 0, each in a row with its place.

    >>> import torch
    >>> _entries((0.5 * torch.eye(2)).to_sparse()).tolist()
    [[0.0, 0.0, 0.5], [1.0, 1.0, 0.5]]
    """
    held: Tensor = tensor.to_sparse(layout=torch.sparse_coo).coalesce()
    values = plain(held.values()).flatten(1) if held.dense_dim() else plain(held.values())[:, None]
    wide = torch.promote_types(values.dtype, torch.float64)
    rows = torch.cat([held.indices().T.to(wide), values.to(wide)], 1)
    return rows[(values != 0).any(1)]


# Dtypes in which values are stored, and next to nothing is computed.
_WIDE = {
    **dict.fromkeys((torch.uint16, torch.uint32, torch.uint64), torch.int64),
    **{
        dtype: torch.float32
        for name, dtype in vars(torch).items()
        if name.startswith("float8_") or name.startswith("float4_")
    },
}


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape, dtype and numbers; torch compares those of some kinds not at all.

    >>> import torch
    >>> equal(torch.eye(2).to_sparse(), torch.eye(2).to_sparse()), equal(torch.ones(1), torch.ones(1).half())
    (True, False)
    """
    if one is other:
        return True
    alike = one.shape == other.shape and one.dtype == other.dtype and not one.is_meta and not other.is_meta
    return alike and torch.equal(plain(one), plain(other))


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor of the CPU, and of any other a copy; it is alive as long as the view is.

    `tensor.numpy()` would be the same memory, and forbid the tensor's storage to be resized from then on, which observers of
    quantization do.

    >>> import torch
    >>> bytes(bytes_of(torch.tensor([1, 258], dtype=torch.int16))), bytes_of(torch.zeros(0)).nbytes
    (b'\\x01\\x00\\x02\\x01', 0)
    """
    flat = tensor.detach().cpu().contiguous()
    if not flat.numel():
        return memoryview(bytearray())
    memory = (ctypes.c_char * (flat.numel() * flat.element_size())).from_address(flat.data_ptr())
    memory._owner = flat  # type: ignore[attr-defined]
    return memoryview(memory).cast("B")


def has_place(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie at a place in memory that `data_ptr` tells, as not those of sparse tensors do."""
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized and tensor.numel() > 0
