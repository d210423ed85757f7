"""Weight norm on one side alone: taken off, or put on, in both of torch's styles."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.expressions.serial import parse
from fxmap.testing.planted import randomised

Norm = Callable[[nn.Module], nn.Module]


def hooked(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it, and checkpoints have it
        return nn.utils.weight_norm(module)


def over_all(module: nn.Module) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(module, dim=None)  # type: ignore[arg-type]


def plain(module: nn.Module) -> nn.Module:
    return module


def build(norm: Norm) -> nn.Module:
    up = nn.ConvTranspose1d(8, 4, 4, stride=2)
    return nn.Sequential(norm(nn.Conv1d(4, 8, 3)), nn.LeakyReLU(0.1), norm(up), nn.Tanh(), nn.Conv1d(4, 2, 1))


X = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))
STYLES: list[Norm] = [nn.utils.parametrizations.weight_norm, hooked, over_all]


@pytest.mark.parametrize("norm", STYLES)
@pytest.mark.parametrize("off", [True, False])
def test_it_is_taken_off_and_put_on(norm: Norm, off: bool) -> None:
    src, dst = (randomised(build(style), seed).eval() for style, seed in ((norm, 1), (plain, 2))[:: 1 if off else -1])
    before = {key: value.clone() for key, value in src.state_dict().items()}
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert mapping.proof.ok
    assert not mapping.missing
    assert not mapping.unexpected
    mapping.load_into(dst, src.state_dict())
    assert torch.allclose(src(X), dst(X), atol=1e-6)
    assert all(torch.equal(value, src.state_dict()[key]) for key, value in before.items())


def test_it_is_written_and_read() -> None:
    src, dst = randomised(build(STYLES[0]), 1), build(plain)
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    text = "weight_norm(0.parametrizations.weight.original1, 0.parametrizations.weight.original0)"
    assert str(mapping["0.weight"]) == text
    assert all(parse(expression.to_json()) == expression for expression in mapping.values())
    scope: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {}
    exec(mapping.to_python(), scope)
    made, state = mapping.apply(src.state_dict()), scope["convert"](src.state_dict())
    assert all(torch.equal(made[key], state[key]) for key in made)


def test_where_both_have_it_both_parts_are_renamed() -> None:
    src, dst = randomised(build(STYLES[0]), 1), randomised(build(hooked), 2)
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert mapping.renames["0.weight_g"] == "0.parametrizations.weight.original0"
    assert mapping.renames["2.weight_v"] == "2.parametrizations.weight.original1"


def test_a_weight_that_is_computed_in_another_way_is_computed_so() -> None:
    first = nn.Linear(4, 8)
    nn.utils.parametrize.register_parametrization(first, "weight", nn.Tanh())
    src = randomised(nn.Sequential(first, nn.ReLU(), nn.Linear(8, 3)), 1)
    mapping = fxmap.auto_map(src, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    assert mapping.missing == []
    made = mapping.apply(src.state_dict())["0.weight"]
    assert torch.allclose(made, torch.tanh(src.state_dict()["0.parametrizations.weight.original"]))
