"""A model whose submodules are renamed and registered in another order, in place."""

import random

from torch import nn


def renamed(model: nn.Module, seed: int) -> nn.Module:
    """Rename every submodule of a model that is not torch's own at random, and register them in another order, in place.

    The code of the model still finds its children by their old names.
    """
    rng = random.Random(seed)
    for module in list(model.modules()):
        if type(module).__module__.startswith("torch.") and type(module) is not nn.Sequential:
            continue
        children = list(module._modules.items())
        if not children:
            continue
        aliases = {old: f"r{rng.randrange(10**6)}_{i}" for i, (old, _) in enumerate(children)}
        if not isinstance(module, nn.Sequential):
            rng.shuffle(children)
        module._modules.clear()
        module._modules.update({aliases[old]: child for old, child in children})
        module.__class__ = _aliased(type(module), aliases)
    return model


def _aliased(kind: type[nn.Module], aliases: dict[str, str]) -> type[nn.Module]:
    class Aliased(kind):  # type: ignore[misc, valid-type]
        def __getattr__(self, name: str) -> object:
            return super().__getattr__(aliases.get(name, name))

    return Aliased
