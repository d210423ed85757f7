"""Networks to test with: what they promise of themselves, without any mapping."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fxmap.testing.planted import planted_pair, randomised
from fxmap.testing.randomise import randomise
from fxmap.testing.renamed import renamed


@pytest.mark.parametrize("seed", range(5))
def test_the_planted_names_load_one_network_into_the_other(seed: int) -> None:
    src, dst, layers = planted_pair(seed)
    values = src.state_dict()
    source_of = layers | {f"{theirs}_norm": f"{ours}_norm" for theirs, ours in layers.items()}
    paths = [key.rpartition(".") for key in dst.state_dict()]
    dst.load_state_dict({f"{path}.{name}": values[f"{source_of[path]}.{name}"] for path, _, name in paths})
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(src(x), dst(x))


def test_a_renamed_model_computes_the_same_under_other_keys() -> None:
    model = randomised(resnet18(num_classes=3).eval(), 0)
    x = torch.randn(1, 3, 64, 64)
    before, keys = model(x), set(model.state_dict())
    renamed(model, seed=1)
    assert torch.equal(model(x), before)
    assert keys.isdisjoint(model.state_dict())


def test_nothing_of_a_randomised_model_is_0_or_1_and_a_seed_gives_it_again() -> None:
    models = [resnet18(num_classes=3, norm_layer=nn.BatchNorm2d) for _ in range(2)]
    x = torch.randn(2, 3, 64, 64)
    for model in models:
        randomise(model, 5, lambda model: model(x))
    one, two = (model.state_dict() for model in models)
    for key, value in one.items():
        assert torch.equal(value, two[key])
        if value.is_floating_point():
            assert not ((value == 0) | (value == 1)).any(), key
    assert models[0](x).isfinite().all()
    assert not torch.equal(models[0](x)[0], models[0](x)[1])
