"""Programs: a few operations of torch as data, so that an expression can hold what a model computes of its weights.

A program is JSON: a list of steps, each `[operation, arguments, keyword arguments]`. `{"value": 2}` stands for the third
value: first come the tensors that the program is given, then the results of its steps. It needs torch alone.

>>> import json
>>> import torch
>>> program = json.dumps([["aten.mul.Tensor", [{"value": 0}, 2.0], {}], ["aten.t.default", [{"value": 1}], {}]])
>>> run_program([torch.ones(1, 2)], program)
tensor([[2.],
        [2.]])
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def run_program(tensors: Sequence[Tensor], program: str) -> Tensor:
    """Run a program on tensors, and return the result of its last step.

    Raises:
        ValueError: the program has an operation that is not one of aten.
    """
    values: list[Any] = list(tensors)
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
    for name, arguments, keywords in json.loads(program):
        given = {key: decode(value, values, dtype) for key, value in keywords.items()}
        values.append(_call(name, decode(arguments, values, dtype), given))
    result: Tensor = values[-1]
    return result


def _call(name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    if name == "getitem":
        return arguments[0][arguments[1]]
    if not name.startswith("aten.") or "file" in name:
        raise ValueError(f"{name}: a program has operations of aten alone, which compute tensors of tensors")
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    return found(*arguments, **keywords)


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


def linear_map(
    tensors: Sequence[Tensor], program: str, shapes: Sequence[Sequence[int]], probes: Sequence[int], read: Sequence[int]
) -> Tensor:
    """Return the matrix of a stretch of operations that is affine in its inputs, `(probes + 1) read`.

    The program's values are its inputs, of the given shapes, and then the tensors. Each row is how the elements `read` of
    its result change with one of the inputs' elements, the `probes`; the last row is the result where all inputs are 0.

    >>> program = '[["aten.mm.default", [{"value": 0}, {"value": 1}], {}]]'
    >>> linear_map([torch.tensor([[2.0], [3.0]])], program, [[1, 2]], [0, 1], [0])
    tensor([[2.],
            [3.],
            [0.]])
    """
    like = next(tensor for tensor in tensors if tensor.is_floating_point())
    sizes = [int(torch.Size(shape).numel()) for shape in shapes]
    rows = []
    for probe in (*probes, -1):
        flat = torch.zeros(sum(sizes), dtype=like.dtype, device=like.device)
        if probe >= 0:
            flat[probe] = 1.0
        inputs = [part.reshape(tuple(shape)) for part, shape in zip(torch.split(flat, sizes), shapes, strict=True)]
        rows.append(run_program([*inputs, *tensors], program).reshape(-1)[list(read)])
    table = torch.stack(rows)
    return torch.cat([table[:-1] - table[-1:], table[-1:]])
