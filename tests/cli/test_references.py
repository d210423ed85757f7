"""Names of models and files on the command line: what is understood, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fxmap.cli.references import FactoryError, UsageError, parse, resolve
from fxmap.errors import CheckpointError
from fxmap.files.checkpoint import Checkpoint


def test_a_name_is_taken_apart() -> None:
    reference = parse("package.module:Class.method(1, 'a', flag=True, sizes=[1, 2])")
    assert (reference.origin, reference.name) == ("package.module", "Class.method")
    assert reference.args == (1, "a")
    assert reference.kwargs == {"flag": True, "sizes": [1, 2]}
    assert parse("timm:resnet50.a1_in1k").name == "resnet50.a1_in1k"


@pytest.mark.parametrize("arguments", ["__import__('os').getcwd()", "x", "1 if True else 2", "lambda: 1", "open('a')"])
def test_nothing_but_literals_is_evaluated(arguments: str) -> None:
    with pytest.raises(UsageError, match="arguments are literals"):
        parse(f"torch.nn:Linear({arguments})")


@pytest.mark.parametrize("text", ["torch.nn:Linear(", "torch.nn:", "torch nn:Linear", "torch.nn:a+b", "torch.nn:f()()"])
def test_what_is_not_understood_shows_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"the forms are torchvision:NAME\(arguments\)"):
        parse(text)


def test_double_stars_are_not_understood() -> None:
    with pytest.raises(UsageError, match=r"\*\* is not understood"):
        parse("torch.nn:Linear(**{'in_features': 1})")


def test_models_are_built() -> None:
    model = resolve("torchvision:resnet18(num_classes=5)")
    assert isinstance(model, nn.Module)
    assert model.fc.out_features == 5
    assert not model.training
    assert isinstance(resolve("torch.nn:Linear(2, 3)"), nn.Linear)


def test_a_configuration_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    file = tmp_path / "config.json"
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 11}
    file.write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"], **small}))
    assert type(resolve(f"transformers:{file}")).__name__ == "BertModel"
    file.write_text("{}")
    with pytest.raises(UsageError, match="not a configuration of transformers"):
        resolve(f"transformers:{file}")


def test_a_checkpoint_is_read(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    found = resolve(str(tmp_path / "a.pth"))
    assert isinstance(found, Checkpoint)
    assert list(found.state) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("torchvision:resnet81", UsageError, "torchvision has no 'resnet81'; the closest is 'resnet18'"),
        ("nowhere_at_all:f", UsageError, "nowhere_at_all cannot be imported"),
        ("torch.nn:Liner(2)", UsageError, "torch.nn has no 'Liner'; the closest is 'Linear'"),
        ("torch:__version__", UsageError, "cannot be called"),
        ("torch.nn:Linear(2)", FactoryError, "building it raised TypeError"),
        ("torch:zeros(2)", FactoryError, "returned a Tensor, not a model"),
        ("nowhere.pth", CheckpointError, "no such file"),
    ],
)
def test_what_is_refused(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        resolve(text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(text)
