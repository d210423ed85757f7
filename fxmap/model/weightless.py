"""Models without weights: their parameters are on the meta device, and everything else has its numbers.

`with torch.device("meta"):` builds a model in which nothing has numbers: neither weights, which a checkpoint brings, nor
what the code computes for itself when it is built (rotary frequencies, masks, relative positions), which no checkpoint has.

>>> class Rotary(nn.Module):
...     def __init__(self, width: int) -> None:
...         super().__init__()
...         self.width, self.scale = width, nn.Parameter(torch.ones(width))
...         self.register_buffer("angles", 1 / 10 ** torch.arange(0, width, 2), persistent=False)
>>> with without_weights():
...     model = Rotary(4)
>>> model.scale.is_meta, model.angles
(True, tensor([1.0000, 0.0100]))

What was built on the meta device is built anew, module by module, where a module keeps what it was built with:

>>> with torch.device("meta"):
...     model = Rotary(4)
>>> rebuilt_buffers(model)
{'angles': tensor([1.0000, 0.0100])}

Cost: that of building the model; a parameter is in memory until it is registered.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fxmap.model.restoring import let_through


@contextmanager
def without_weights() -> Iterator[None]:
    """Build models inside the `with` block whose parameters have shapes and no numbers; buffers have theirs.

    Such models are mapped, converted, and proven (`fxmap.auto_map`), whatever their size; `fxmap.load(..., assign=True)`
    gives one its weights. Models of other threads that are built meanwhile are without weights as well.

    Cost: that of building the models, and the memory of one parameter at a time.

    >>> with without_weights():
    ...     layer = nn.Linear(10_000, 10_000)
    >>> layer.weight.device, tuple(layer.weight.shape)
    (device(type='meta'), (10000, 10000))
    """

    def bare(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None
        twin = made.get(id(parameter))
        if twin is None:
            twin = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            vars(twin).update(vars(parameter))
            made[id(twin)] = twin
        return twin

    made: dict[int, nn.Parameter] = {}
    handle = register_module_parameter_registration_hook(bare)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def rebuilt_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the numbers of buffers on the meta device, by path, as far as their modules can be built anew.

    A module can where it keeps every argument of its `__init__` as an attribute, and where what is built has the same
    attributes and buffers of the same shapes.
    """
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        bare = {name: value for name, value in module._buffers.items() if value is not None and value.is_meta}
        again = _again(module) if bare else None
        if again is not None and all(_fits(again._buffers.get(name), value) for name, value in bare.items()):
            for name in bare:
                buffer = again._buffers[name]
                assert buffer is not None
                found[f"{path}.{name}" if path else name] = buffer
    return found


def _again(module: nn.Module) -> nn.Module | None:
    try:
        signature = inspect.signature(type(module).__init__)
    except (TypeError, ValueError):
        return None
    arguments: dict[str, Any] = {}
    for name, parameter in list(signature.parameters.items())[1:]:
        if name in ("device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in module._parameters and isinstance(parameter.default, bool):
            arguments[name] = module._parameters[name] is not None
        elif name in vars(module):
            arguments[name] = vars(module)[name]
        else:
            return None  # a default that is not kept may have been another value
    try:
        with without_weights(), torch.device("cpu"):
            made = type(module)(**arguments).train(module.training)
    except Exception as error:  # whatever a constructor raises
        let_through(error)
        return None
    return made if _plain(made) == _plain(module) else None


def _plain(module: nn.Module) -> dict[str, object]:
    """Return the attributes of a module that are plain values."""
    kinds = (bool, int, float, str, tuple, type(None), torch.dtype)
    return {name: value for name, value in vars(module).items() if isinstance(value, kinds)}


def _fits(made: Tensor | None, bare: Tensor) -> bool:
    return made is not None and not made.is_meta and made.shape == bare.shape and made.dtype == bare.dtype
