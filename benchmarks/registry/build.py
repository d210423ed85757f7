"""Builders of models from the public libraries: each returns a function that builds, so that nothing is imported early."""

import importlib
import pkgutil
from typing import Any

from torch import nn

from benchmarks.registry.pair import Build


def torchvision(name: str, **options: Any) -> Build:
    """Build a model of torchvision by name, without its backbone's weights."""

    def build() -> nn.Module:
        models = importlib.import_module("torchvision.models")
        if name in ("inception_v3", "googlenet"):
            options.setdefault("init_weights", False)
        return models.get_model(name, weights=None, **options)  # type: ignore[no-any-return]

    return build


def timm(name: str, **options: Any) -> Build:
    """Build a model of timm by name."""
    return lambda: importlib.import_module("timm").create_model(name, pretrained=False, **options)


def pytorchcv(name: str, **options: Any) -> Build:
    """Build a model of pytorchcv by name."""
    return lambda: importlib.import_module("pytorchcv.model_provider").get_model(name, pretrained=False, **options)


def transformers(model: str, config: str, part: str = "", **options: Any) -> Build:
    """Build a model of transformers, or a part of it, from a configuration; with the attention that is written out."""

    def build() -> nn.Module:
        library = importlib.import_module("transformers")
        configuration = getattr(library, config)(**options)
        configuration._attn_implementation = "eager"
        built: nn.Module = getattr(library, model)(configuration)
        return built.get_submodule(part)

    return build


def call(path: str, *args: Any, **options: Any) -> Build:
    """Build by a function or class of any package, such as "monai.networks.nets:DenseNet121"."""
    return lambda: pkgutil.resolve_name(path)(*args, **options)


def torchvision_vit(**options: Any) -> Build:
    """Build a small vision transformer of torchvision, by its class: its builders have one size each."""
    size: dict[str, Any] = {
        "image_size": 64,
        "patch_size": 16,
        "num_layers": 6,
        "num_heads": 4,
        "hidden_dim": 128,
        "mlp_dim": 512,
        "num_classes": 17,
    }
    return call("torchvision.models.vision_transformer:VisionTransformer", **(size | options))


def fused(name: str, **options: Any) -> Build:
    """Build a model of timm by name, with its branches summed and its norms folded by timm's own function."""

    def build() -> nn.Module:
        model = timm(name, **options)().eval()
        return importlib.import_module("timm.utils.model").reparameterize_model(model)  # type: ignore[no-any-return]

    return build
