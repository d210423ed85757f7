"""Models to export: small ones of torchvision, timm and transformers, built without weights."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Subject:
    """A model to build, and an input of it."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]


_TORCHVISION = {
    "alexnet": 96, "vgg11": 32, "vgg11_bn": 32, "resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64, "densenet121": 64,
    "squeezenet1_1": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mnasnet0_5": 64, "shufflenet_v2_x0_5": 64,
    "googlenet": 96, "regnet_y_400mf": 64, "efficientnet_b0": 64, "convnext_tiny": 64, "swin_t": 64, "vit_b_32": 224,
}  # fmt: skip
_TIMM = {
    "resnet10t": 64, "resnetv2_50": 64, "seresnet50": 64, "ecaresnet50t": 64, "res2net50_26w_4s": 64, "dla34": 64,
    "hardcorenas_a": 64, "mobilenetv4_conv_small": 64, "tf_efficientnet_lite0": 64, "fbnetc_100": 64, "ghostnet_050": 64,
    "lcnet_050": 64, "repvgg_a0": 64, "convmixer_768_32": 64, "convnext_atto": 64, "poolformer_s12": 64, "mobileone_s0": 64,
    "vit_tiny_patch16_224": 224, "deit_tiny_patch16_224": 224, "xcit_nano_12_p16_224": 224, "mixer_s32_224": 224,
    "resmlp_12_224": 224, "gmixer_12_224": 224, "coat_lite_tiny": 224, "efficientformer_l1": 224,
}  # fmt: skip
_SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99,
    "num_labels": 3,
}  # fmt: skip
_TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", _SMALL, False),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 99, "num_labels": 3},
        False,
    ),
    "albert": ("AlbertConfig", "AlbertForSequenceClassification", _SMALL | {"embedding_size": 16}, False),
    "electra": ("ElectraConfig", "ElectraForSequenceClassification", _SMALL | {"embedding_size": 16}, False),
    "squeezebert": ("SqueezeBertConfig", "SqueezeBertForSequenceClassification", _SMALL | {"embedding_size": 32}, False),
    "vit": ("ViTConfig", "ViTForImageClassification", _SMALL | {"image_size": 32, "patch_size": 8}, True),
    "deit": ("DeiTConfig", "DeiTForImageClassification", _SMALL | {"image_size": 32, "patch_size": 8}, True),
    "dinov2": ("Dinov2Config", "Dinov2ForImageClassification", _SMALL | {"image_size": 32, "patch_size": 8}, True),
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic", "num_labels": 3},
        True,
    ),
    "convnext": (
        "ConvNextConfig",
        "ConvNextForImageClassification",
        {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2, "num_labels": 3},
        True,
    ),
    "mobilenet_v1": ("MobileNetV1Config", "MobileNetV1ForImageClassification", {"depth_multiplier": 0.25}, True),
}


def subjects(only: str = "") -> list[Subject]:
    """Return the models whose name contains one of some texts, separated by commas; of the three libraries in turn.

    Those that begin with `small:` have fewer blocks than the models of their kind, and come last.
    """
    turns = [*zip_longest(_of_torchvision(), _of_timm(), _of_transformers()), tuple(_small())]
    return [one for turn in turns for one in turn if one is not None and any(text in one.name for text in only.split(","))]


class Logits(nn.Module):
    """A model of transformers that takes one tensor and returns one: exporters know no dataclasses."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        found: Tensor = self.model(x)[0]
        return found


def _of_transformers() -> list[Subject]:
    def built(config: str, model: str, options: dict[str, Any]) -> nn.Module:
        import transformers

        found = getattr(transformers, model)(getattr(transformers, config)(**options))
        return Logits(found)

    def given(image: bool) -> tuple[Tensor, ...]:
        return (torch.randn(1, 3, 32, 32),) if image else (torch.randint(3, 90, (1, 9)),)

    return [
        Subject(
            f"transformers:{name}",
            lambda one=(config, model, options): built(*one),  # type: ignore[misc]
            lambda image=image: given(image),  # type: ignore[misc]
        )
        for name, (config, model, options, image) in _TRANSFORMERS.items()
    ]


def _of_torchvision() -> list[Subject]:
    def built(name: str) -> nn.Module:
        from torchvision import models

        options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        found: nn.Module = models.get_model(name, weights=None, num_classes=10, **options)
        return found

    return [_of_images("torchvision", name, size, built) for name, size in _TORCHVISION.items()]


def _of_timm() -> list[Subject]:
    def built(name: str) -> nn.Module:
        import timm

        found: nn.Module = timm.create_model(name, pretrained=False, num_classes=10)
        return found

    return [_of_images("timm", name, size, built) for name, size in _TIMM.items()]


def _small() -> list[Subject]:
    """Return models of one or two blocks a stage, whose export and proof take seconds."""

    def of_timm(name: str, size: int, **options: Any) -> Subject:
        def built(_: str) -> nn.Module:
            import timm

            found: nn.Module = timm.create_model(name, pretrained=False, num_classes=10, **options)
            return found

        return _of_images("small", name, size, built)

    def of_torchvision(name: str, size: int, make: Callable[[Any], nn.Module]) -> Subject:
        def built(_: str) -> nn.Module:
            from torchvision import models

            return make(models)

        return _of_images("small", name, size, built)

    once = {"layers": (1, 1, 1, 1)}
    return [
        of_timm("vit_tiny_patch16_224", 96, depth=2, img_size=96),
        of_timm("deit_tiny_patch16_224", 96, depth=2, img_size=96),
        of_timm("xcit_nano_12_p16_224", 96, depth=2, img_size=96),
        of_timm("coat_lite_tiny", 96, serial_depths=(1, 1, 1, 1), img_size=96),
        of_timm("efficientformer_l1", 224, depths=(1, 1, 1, 2)),
        *(of_timm(name, 64, **once) for name in ("resnetv2_50", "seresnet50", "ecaresnet50t", "res2net50_26w_4s")),
        of_torchvision(
            "swin", 64, lambda models: models.SwinTransformer([4, 4], 24, [2] * 4, [2] * 4, [7, 7], num_classes=10)
        ),
        of_torchvision("vit", 32, lambda models: models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)),
    ]


def _of_images(library: str, name: str, size: int, built: Callable[[str], nn.Module]) -> Subject:
    return Subject(f"{library}:{name}", lambda: built(name), lambda: (torch.randn(1, 3, size, size),))
