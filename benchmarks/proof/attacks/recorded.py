"""The same networks in code that no symbolic trace goes through, so that a run is recorded: another graph of them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from benchmarks.proof.attacks.attack import Attack, Build, Conv, Free, Net


def both_ways(attacks: Iterator[Attack]) -> Iterator[Attack]:
    """Yield every attack, and again with code that refuses whatever is no tensor, where its functions are given."""
    for attack in attacks:
        yield attack
        if all(isinstance(build(), Net | Conv | Free) for build in (attack.src, attack.dst)):
            described = None if attack.described is None else strict(attack.described)
            name = f"{attack.name} (recorded)"
            yield replace(attack, name=name, src=strict(attack.src), dst=strict(attack.dst), described=described)


def strict(build: Build) -> Build:
    """Return how a model is built whose function refuses what is neither a tensor nor a module."""

    def built() -> nn.Module:
        model: Any = build()
        function = model.f

        def checked(*inputs: Any) -> Any:
            if not all(isinstance(value, Tensor | nn.Module) for value in inputs):
                raise TypeError(f"tensors are wanted, not {', '.join(type(value).__name__ for value in inputs)}")
            return function(*inputs)

        model.f = checked
        result: nn.Module = model
        return result

    return built
