"""Which initializers of an ONNX graph are weights, and which are numbers that its operators take as attributes.

>>> import torch
>>> roles = {"slope": {("PRelu", 1)}, "val_3": {("Mul", 1)}, "scales": {("Resize", 2)}}
>>> [is_weight(name, torch.ones(4 if name == "scales" else 1), roles.get(name, set())) for name in (*roles, "gate")]
[True, False, False, True]
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor

Role = tuple[str, int]

# Inputs that are attributes by another name: torch's functions take them as numbers.
_ATTRIBUTES: Mapping[str, tuple[int, ...]] = {
    "Clip": (1, 2), "Dropout": (1, 2), "OneHot": (2,), "Pad": (2,), "Pow": (1,), "Range": (0, 1, 2), "Resize": (1, 2),
    "Upsample": (1,),
}  # fmt: skip
# Inputs that are weights, of whatever size.
_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2, 3, 4), "Conv": (1, 2), "ConvTranspose": (1, 2), "GRU": (1, 2, 3), "Gemm": (1, 2),
    "GroupNormalization": (1, 2), "InstanceNormalization": (1, 2), "LSTM": (1, 2, 3), "LayerNormalization": (1, 2),
    "PRelu": (1,), "RMSNormalization": (1,), "RNN": (1, 2, 3),
}  # fmt: skip
# What is added to scores of a softmax for positions that do not count.
_AWAY = -1e4
# Inputs that are put to places of another one, or of which places are taken.
_FILLINGS = {("ScatterND", 2), ("ScatterElements", 2), ("Trilu", 0), ("Where", 1), ("Where", 2)}
# Names that exporters give to numbers which they made of constants of the code.
_MADE = re.compile(
    r"(?i)^(_?val_|onnx::|/|ortshared|_?const|scalar|lifted_tensor|c_lifted|_?inlfunc|\d)|(/(x|y|Const\w*)|_const\w*)(:0)?$"
)
_COUNTED = re.compile(r"^[A-Za-z]\w*_\d+$")


def roles_of(nodes: Iterable[Any]) -> dict[str, set[Role]]:
    """Return, for every name, the operators that read it, and as which of their inputs."""
    found: dict[str, set[Role]] = defaultdict(set)
    for node in nodes:
        for place, name in enumerate(node.input):
            found[name].add((node.op_type, place))
    return found


def is_made_up(name: str) -> bool:
    """Whether a name is one that exporters give to a number of the code, not one of the model's."""
    return _MADE.search(name) is not None


def are_counted(names: Collection[str]) -> bool:
    """Whether an exporter made up all names of a file.

    Such names are a word and a running number, as jax2onnx's `const_3`, or operations of torch by which it made the numbers,
    as in Keras' exports: `clone`, `view_2`.

    >>> are_counted(["const_0", "dpa_scale_0"]), are_counted(["clone", "view_2"]), are_counted(["fc.weight", "val_3"])
    (True, True, False)
    """
    return bool(names) and all(_COUNTED.search(name) or hasattr(torch.ops.aten, name) for name in names)


def is_computed(name: str) -> bool:
    """Whether a name is that of an operation's result: an exporter computed the tensor, of weights or of none.

    >>> is_computed("where_1"), is_computed("embedding"), is_computed("val_7"), is_computed("cls_token")
    (True, True, True, False)
    """
    return is_made_up(name) or hasattr(torch.ops.aten, re.sub(r"_\d+$", "", name))


def is_mask(value: Tensor) -> bool:
    """Whether a tensor holds zeros and what takes all weight from a position in a softmax, and both.

    >>> is_mask(torch.tensor([[0.0, float("-inf")], [0.0, 0.0]])), is_mask(torch.zeros(2))
    (True, False)
    """
    away = value <= _AWAY
    return value.is_floating_point() and bool(away.any()) and not bool(value[~away].any())


def reads_weight(kind: str, place: int) -> bool:
    """Whether an operator reads a weight in one of its places, as layers do, or one of a product of matrices.

    >>> reads_weight("Conv", 1), reads_weight("Conv", 0), reads_weight("Div", 1)
    (True, False, False)
    """
    return kind == "MatMul" or place in _WEIGHTS.get(kind, ())


def keeps_all(name: str, value: Tensor, roles: Set[Role]) -> bool:
    """Whether an initializer is a mask of positions that keeps all, `1 n 1`, which an exporter made of ones."""
    is_of_positions = value.dim() == 3 and value.shape[0] == value.shape[-1] == 1 and bool((value == 1).all())
    return is_of_positions and is_computed(name) and bool(roles) and all(kind == "Mul" for kind, _ in roles)


def _fills(value: Tensor, roles: Set[Role]) -> bool:
    """Whether a tensor is one number several times, put to places of another one: code that fills a part of it."""
    return bool(roles) and all(role in _FILLINGS for role in roles) and bool((value == value.flatten()[0]).all())


def is_weight(name: str, value: Tensor, roles: Set[Role], *, counted: bool = False) -> bool:
    """Whether an initializer is a weight: numbers in floating point that an operator reads as an operand.

    A single number is one where its place says so, or where its name is none that an exporter made up for a constant;
    `counted` says that it made up all names of the file.
    """
    if not value.is_floating_point() or (roles and all(place in _ATTRIBUTES.get(kind, ()) for kind, place in roles)):
        return False
    made_up = counted or is_made_up(name)
    if value.numel() != 1:
        if any(reads_weight(kind, place) for kind, place in roles):
            return value.numel() > 0  # without a look at its numbers, which may be gigabytes in a file
        filled = made_up and _fills(value, roles)
        return value.numel() > 0 and not (filled or is_mask(value) or keeps_all(name, value, roles))
    return any(place in _WEIGHTS.get(kind, ()) for kind, place in roles) or not (counted or is_computed(name))
