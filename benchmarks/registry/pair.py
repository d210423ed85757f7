"""What a pair is: two ways to build one network, inputs that both accept, and which tensors of the two are the same."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

Build = Callable[[], nn.Module]
Inputs = Callable[[], tuple[Tensor, ...]]
Output = Callable[..., Any]


@dataclass(frozen=True)
class Pair:
    """Two models that compute one network.

    `src_out` and `dst_out` return the tensors that are the same, called as f(model, *inputs); None is the model's own
    forward. `params` is in millions, of the larger of the two. `hard` says that none of the three controls is right.
    `same_function` is False where the keys correspond and the functions differ: `note` says why.
    """

    id: str
    family: str
    params: float
    src: Build
    dst: Build
    inputs: Inputs
    _: KW_ONLY
    src_out: Output | None = None
    dst_out: Output | None = None
    hard: bool = False
    same_function: bool = True
    note: str = ""


def images(size: int | tuple[int, int], batch: int = 2) -> Inputs:
    """Draw normal images, b 3 h w."""
    height, width = size if isinstance(size, tuple) else (size, size)
    return normal(batch, 3, height, width)


def normal(*shape: int) -> Inputs:
    """Draw one normal tensor."""
    return lambda: (torch.randn(*shape),)


def tokens(vocabulary: int, length: int, batch: int = 2) -> Inputs:
    """Draw token numbers, b n, without 0, which pads."""
    return lambda: (torch.randint(1, vocabulary, (batch, length)),)


def item(index: int | str) -> Output:
    """Return one item of what the model returns."""
    return lambda model, *inputs: model(*inputs)[index]


def features(model: nn.Module, *inputs: Tensor) -> Any:
    """Return what timm calls the features of a model, before pooling and head."""
    return model.forward_features(*inputs)  # type: ignore[operator]


def entering(name: str) -> Output:
    """Return what enters a submodule, such as the classifier."""

    def run(model: nn.Module, *inputs: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            model(*inputs)
        finally:
            hook.remove()
        return seen[0]

    return run


def main_tensor(output: Any) -> Tensor:
    """Return the tensor of an output that counts: the logits, the last hidden state, else the first one."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "last_hidden_state"):
        if isinstance(getattr(output, name, None), Tensor):
            return getattr(output, name)  # type: ignore[no-any-return]
    if isinstance(output, Mapping):
        named = [output[name] for name in ("out", "logits", "x") if name in output]
        return main_tensor(named[0] if named else next(iter(output.values())))
    if isinstance(output, tuple | list):
        return main_tensor(output[0])
    raise TypeError(f"no tensor in an output of type {type(output).__name__}")
