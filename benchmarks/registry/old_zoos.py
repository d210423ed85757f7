"""Collections of image classifiers that are older, or pin old releases of torch (install them into a folder: --packages)."""

from typing import Any

from torch import Tensor, nn

from benchmarks.registry.build import call, pytorchcv, timm, torchvision
from benchmarks.registry.pair import Build, Pair, images


def pretrainedmodels(name: str) -> Build:
    """Build a model of Cadene's pretrained-models."""
    return call(f"pretrainedmodels:{name}", num_classes=1000, pretrained=None)


def torchreid(name: str) -> Build:
    """Build a model of torchreid."""
    return call("torchreid:models.build_model", name, num_classes=17, pretrained=False, use_gpu=False)


def geffnet(name: str) -> Build:
    """Build a model of geffnet, the forerunner of timm's EfficientNets."""
    return call("geffnet:create_model", name, pretrained=False)


def classified(model: nn.Module, image: Tensor) -> Any:
    """Return the logits of a model of torchreid, which returns features in eval mode."""
    head = model.classifier if hasattr(model, "classifier") else model.last_linear
    return head(model(image))  # type: ignore[operator]


PAIRS = (
    Pair(
        "pretrainedmodels:inceptionv4->timm:inception_v4",
        "inception_v4",
        42.68,
        pretrainedmodels("inceptionv4"),
        timm("inception_v4"),
        images(299, batch=1),
    ),
    Pair(
        "pretrainedmodels:xception->timm:legacy_xception",
        "xception",
        22.86,
        pretrainedmodels("xception"),
        timm("legacy_xception"),
        images(96, batch=1),
    ),
    Pair("pretrainedmodels:dpn68->timm:dpn68", "dpn", 12.61, pretrainedmodels("dpn68"), timm("dpn68"), images(224, batch=1)),
    Pair(
        "pretrainedmodels:se_resnet50->timm:legacy_seresnet50",
        "seresnet",
        28.09,
        pretrainedmodels("se_resnet50"),
        timm("legacy_seresnet50"),
        images(224, batch=1),
    ),
    Pair(
        "pretrainedmodels:nasnetamobile->pytorchcv:nasnet_4a1056",
        "nasnet",
        5.29,
        pretrainedmodels("nasnetamobile"),
        pytorchcv("nasnet_4a1056"),
        images(224, batch=1),
    ),
    Pair(
        "pretrainedmodels:xception->pytorchcv:xception",
        "xception",
        22.86,
        pretrainedmodels("xception"),
        pytorchcv("xception"),
        images(299, batch=1),
    ),
    Pair(
        "pretrainedmodels:polynet->pytorchcv:polynet",
        "polynet",
        95.37,
        pretrainedmodels("polynet"),
        pytorchcv("polynet"),
        images(331, batch=1),
    ),
    Pair(
        "pretrainedmodels:dpn68->pytorchcv:dpn68",
        "dpn",
        12.61,
        pretrainedmodels("dpn68"),
        pytorchcv("dpn68"),
        images(224, batch=1),
    ),
    Pair(
        "pretrainedmodels:inceptionv4->pytorchcv:inceptionv4",
        "inception_v4",
        42.68,
        pretrainedmodels("inceptionv4"),
        pytorchcv("inceptionv4"),
        images(299, batch=1),
    ),
    Pair(
        "torchreid:densenet121->torchvision:densenet121",
        "densenet",
        6.97,
        torchreid("densenet121"),
        torchvision("densenet121", num_classes=17),
        images(64),
        src_out=classified,
    ),
    Pair(
        "torchreid:xception->timm:legacy_xception",
        "xception",
        20.84,
        torchreid("xception"),
        timm("legacy_xception", num_classes=17),
        images(96),
        src_out=classified,
    ),
    Pair(
        "torchreid:se_resnet50->timm:legacy_seresnet50",
        "seresnet",
        26.07,
        torchreid("se_resnet50"),
        timm("legacy_seresnet50", num_classes=17),
        images(96),
        src_out=classified,
    ),
    Pair("geffnet:mixnet_m->timm:mixnet_m", "mixnet", 5.01, geffnet("mixnet_m"), timm("mixnet_m"), images(64)),
    Pair("geffnet:fbnetc_100->timm:fbnetc_100", "fbnet", 5.57, geffnet("fbnetc_100"), timm("fbnetc_100"), images(64)),
    Pair(
        "geffnet:spnasnet_100->timm:spnasnet_100",
        "spnasnet",
        4.42,
        geffnet("spnasnet_100"),
        timm("spnasnet_100"),
        images(64),
    ),
    Pair(
        "geffnet:mobilenetv3_rw->timm:mobilenetv3_rw",
        "mobilenet_v3",
        5.48,
        geffnet("mobilenetv3_rw"),
        timm("mobilenetv3_rw", bn_eps=1e-05),
        images(64),
    ),
    Pair(
        "geffnet:semnasnet_100->timm:semnasnet_100",
        "mnasnet",
        3.89,
        geffnet("semnasnet_100"),
        timm("semnasnet_100"),
        images(64),
    ),
    Pair(
        "geffnet:mobilenetv2_100->timm:mobilenetv2_100",
        "mobilenet_v2",
        3.5,
        geffnet("mobilenetv2_100"),
        timm("mobilenetv2_100"),
        images(64),
    ),
    Pair(
        "geffnet:tf_mobilenetv3_large_minimal_100->timm:tf_mobilenetv3_large_minimal_100",
        "mobilenet_v3",
        3.92,
        geffnet("tf_mobilenetv3_large_minimal_100"),
        timm("tf_mobilenetv3_large_minimal_100"),
        images(64),
    ),
    Pair(
        "geffnet:mobilenetv2_100->torchvision:mobilenet_v2",
        "mobilenet_v2",
        3.5,
        geffnet("mobilenetv2_100"),
        torchvision("mobilenet_v2"),
        images(64),
    ),
)
