"""Pairs without a truth map, at first sight: convolutional networks of torchvision, timm and pytorchcv."""

from benchmarks.registry.build import pytorchcv, timm, torchvision
from benchmarks.registry.pair import Pair, images

_NAMES = (
    # Family, millions of parameters, source and destination, image size: pytorchcv pools over maps of one size.
    ("resnet", 11.7, "torchvision:resnet18", "timm:resnet18", 64),
    ("resnet", 25.6, "pytorchcv:resnet50b", "torchvision:resnet50", 224),
    ("resnet", 25.6, "timm:resnet50", "pytorchcv:resnet50b", 224),
    ("resnet", 21.8, "pytorchcv:resnet34", "timm:resnet34", 224),
    ("squeezenet", 1.2, "pytorchcv:squeezenet_v1_0", "torchvision:squeezenet1_0", 224),
    ("squeezenet", 1.2, "torchvision:squeezenet1_1", "pytorchcv:squeezenet_v1_1", 224),
    ("densenet", 20.0, "torchvision:densenet201", "pytorchcv:densenet201", 224),
    ("densenet", 20.0, "timm:densenet201", "torchvision:densenet201", 64),
    ("efficientnet", 5.3, "pytorchcv:efficientnet_b0", "timm:efficientnet_b0", 64),
    ("efficientnet", 5.3, "torchvision:efficientnet_b0", "timm:efficientnet_b0", 64),
    ("efficientnet", 7.8, "pytorchcv:efficientnet_b1", "torchvision:efficientnet_b1", 64),
    ("efficientnet", 5.3, "pytorchcv:efficientnet_b0b", "timm:tf_efficientnet_b0", 64),
    ("mixnet", 7.3, "pytorchcv:mixnet_l", "timm:mixnet_l", 224),
    ("dla", 15.7, "pytorchcv:dla34", "timm:dla34", 224),
    ("dla", 1.3, "timm:dla46_c", "pytorchcv:dla46c", 224),
    ("dla", 1.1, "pytorchcv:dla46xc", "timm:dla46x_c", 224),
    ("selecsls", 32.5, "pytorchcv:selecsls42b", "timm:selecsls42b", 224),
    ("hrnet", 13.2, "pytorchcv:hrnet_w18_small_v1", "timm:hrnet_w18_small", 224),
    ("hrnet", 15.6, "timm:hrnet_w18_small_v2", "pytorchcv:hrnet_w18_small_v2", 224),
    ("resnest", 10.6, "pytorchcv:resnestabc14", "timm:resnest14d", 224),
    ("inception_resnet_v2", 55.8, "pytorchcv:inceptionresnetv2", "timm:inception_resnet_v2", 299),
    ("seresnext", 27.6, "pytorchcv:seresnext50_32x4d", "timm:seresnext50_32x4d", 224),
    ("regnet", 9.2, "pytorchcv:regnetx016", "timm:regnetx_016", 224),
    ("regnet", 11.2, "pytorchcv:regnety016", "torchvision:regnet_y_1_6gf", 224),
    ("regnet", 9.2, "torchvision:regnet_x_1_6gf", "timm:regnetx_016", 64),
    ("spnasnet", 4.4, "timm:spnasnet_100", "pytorchcv:spnasnet", 224),
    ("mnasnet", 3.9, "timm:semnasnet_100", "pytorchcv:mnasnet_a1", 224),
)

_LIBRARIES = {"torchvision": torchvision, "timm": timm, "pytorchcv": pytorchcv}


def _pair(family: str, params: float, src: str, dst: str, size: int) -> Pair:
    ours, theirs = (_LIBRARIES[library](name) for library, name in (full.split(":") for full in (src, dst)))
    return Pair(f"{src}->{dst}", family, params, ours, theirs, images(size, batch=1 if size > 200 else 2))


PAIRS = (
    *(_pair(*names) for names in _NAMES),
    Pair(
        "timm:fbnetc_100->pytorchcv:fbnet_cb",
        "fbnet",
        5.6,
        timm("fbnetc_100", bn_eps=0.001),
        pytorchcv("fbnet_cb"),
        images(224, batch=1),
    ),
)
