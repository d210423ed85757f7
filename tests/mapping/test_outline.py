"""A mapping on a screen."""

import pytest
import torchvision

import fxmap
from fxmap.expressions.base import Source
from fxmap.mapping.outline import outline


def test_at_most_a_screen_is_shown_and_the_rest_is_counted() -> None:
    letters = [f"{a}{b}" for a in "abcdef" for b in "abcdefgh"]
    made = {f"{name}.weight": Source(f"other_{name}.w") for name in letters}
    lines = outline(made, made)
    assert len(lines) == 25
    assert lines[-1] == f"  and {len(letters) - 24} more keys, which --all and summary(all_keys=True) list"


def test_a_module_with_all_its_tensors_is_a_star_and_one_with_some_names_them() -> None:
    names = ("weight", "bias", "running_mean")
    made = {f"norm.{name}": Source(f"bn.{name}") for name in names}
    assert outline(made, made) == ["  bn.* -> norm.*"]
    assert outline(made, [*made, "norm.num_batches_tracked"]) == [
        "  bn.{weight,bias,running_mean} -> norm.{weight,bias,running_mean}"
    ]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_an_int8_network_is_a_few_lines(name: str) -> None:
    src = getattr(torchvision.models, name)()
    dst = getattr(torchvision.models.quantization, name)(weights=None, quantize=True)
    mapping = fxmap.auto_map(src, dst, verify=False)
    lines = outline(mapping, mapping.knowledge.statuses)
    assert len(lines) <= 25
    assert sum("*" in line for line in lines) >= 4
    assert "more keys" not in lines[-1]
