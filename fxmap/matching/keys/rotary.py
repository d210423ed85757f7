"""Whether a model may have rotary embeddings: they leave no trace in keys, but one in its modules, attributes and code."""

from collections.abc import Iterator
from types import FunctionType

import torch
from torch import nn

from fxmap.matching.keys.vocabulary import says_rotary

# What turns channels computes a cosine, or a product of complex numbers, whatever it is called.
_TURNING = frozenset({"cos", "polar", "view_as_complex"})


def may_turn(model: nn.Module) -> bool:
    """Whether a module, a buffer, an attribute or the code of a model speaks of rotary embeddings; yes for a scripted model.

    Cost: linear in the number of modules and their attributes.

    >>> may_turn(nn.MultiheadAttention(4, 2))
    False
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return True
    return any(says_rotary(name) or name in _TURNING for name in _names(model))


def _names(model: nn.Module) -> Iterator[str]:
    for kind in {base for module in model.modules() for base in type(module).__mro__}:
        if not kind.__module__.startswith(("torch.", "builtins")):
            yield kind.__name__
            for value in vars(kind).values():
                yield from (*value.__code__.co_names, *value.__code__.co_freevars) if isinstance(value, FunctionType) else ()
    for module in model.modules():
        yield from (*module.__dict__, *module._buffers, *module._modules, *module._parameters)
