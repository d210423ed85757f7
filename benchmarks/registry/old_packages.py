"""Packages for one purpose that are older, or pin old releases of torch (install them into a folder: --packages)."""

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.registry.build import call, timm, torchvision, torchvision_vit, transformers
from benchmarks.registry.pair import Build, Pair, entering, features, images, item
from benchmarks.registry.to_transformers import TIMM_SAMVIT


def smp_encoder(name: str) -> Build:
    """Build an encoder of segmentation_models_pytorch: it returns a list of feature maps."""
    return call("segmentation_models_pytorch.encoders:get_encoder", name, in_channels=3, depth=5, weights=None)


def classy(**config: Any) -> Build:
    """Build a model of ClassyVision from a configuration."""
    return call("classy_vision.models:build_model", config)


def classy_regnet(**params: Any) -> Build:
    """Build a RegNet of ClassyVision."""

    def build() -> nn.Module:
        module = importlib.import_module("classy_vision.models.regnet")
        return module.RegNet(module.RegNetParams(**params))  # type: ignore[no-any-return]

    return build


def pretrained_vit() -> nn.Module:
    """Build a vision transformer of pytorch_pretrained_vit."""
    module: Any = importlib.import_module("pytorch_pretrained_vit.model")
    # The package reads this name and defines it nowhere.
    module.resize_positional_embedding = False
    return module.ViT(  # type: ignore[no-any-return]
        name=None,
        pretrained=False,
        image_size=64,
        patches=16,
        dim=128,
        ff_dim=512,
        num_heads=4,
        num_layers=4,
        num_classes=17,
    )


SAM = call(
    "segment_anything.modeling:ImageEncoderViT",
    img_size=64,
    patch_size=8,
    embed_dim=64,
    depth=4,
    num_heads=4,
    out_chans=32,
    use_rel_pos=True,
    window_size=4,
    global_attn_indexes=(1, 3),
)
OPEN_CLIP_RESNET = call(
    "open_clip.modified_resnet:ModifiedResNet", [3, 4, 6, 3], output_dim=32, heads=32, image_size=64, width=64
)


def feature_maps(model: nn.Module, image: Tensor) -> Any:
    """Return the last feature map of a model of torchvision."""
    return model.features(image)  # type: ignore[operator]


def relu_of_feature_maps(model: nn.Module, image: Tensor) -> Any:
    """Return the last feature map of torchvision's DenseNet, whose last ReLU stands outside its features."""
    return torch.relu(feature_maps(model, image))


def pooled(model: nn.Module, image: Tensor) -> Any:
    """Return the mean over the last feature map."""
    return model(image).mean((2, 3))


def segmentation_before_upsampling(model: Any, image: Tensor) -> Any:
    """Return the logits of a segmenter of segmentation_models_pytorch at the decoder's size."""
    return model.segmentation_head[0](model.decoder(model.encoder(image)))


TIMM_VIT = timm("vit_base_patch16_224", img_size=64, patch_size=16, embed_dim=128, depth=4, num_heads=4, num_classes=17)
TRANSFORMERS_SEGFORMER_ENCODER = transformers(
    "SegformerModel",
    "SegformerConfig",
    num_encoder_blocks=4,
    depths=[2, 2, 2, 2],
    sr_ratios=[8, 4, 2, 1],
    hidden_sizes=[32, 64, 160, 256],
    num_attention_heads=[1, 2, 5, 8],
    mlp_ratios=[4, 4, 4, 4],
)
SMP_SEGFORMER = call(
    "segmentation_models_pytorch:Segformer", "mit_b0", encoder_weights=None, classes=5, decoder_segmentation_channels=64
)
TRANSFORMERS_SEGFORMER = transformers(
    "SegformerForSemanticSegmentation",
    "SegformerConfig",
    decoder_hidden_size=64,
    num_labels=5,
    num_encoder_blocks=4,
    depths=[2, 2, 2, 2],
    sr_ratios=[8, 4, 2, 1],
    hidden_sizes=[32, 64, 160, 256],
    num_attention_heads=[1, 2, 5, 8],
    mlp_ratios=[4, 4, 4, 4],
)

PAIRS = (
    Pair(
        "torchxrayvision:densenet->torchvision:densenet121",
        "densenet",
        6.97,
        call("torchxrayvision.models:DenseNet", num_classes=18, in_channels=3, weights=None),
        torchvision("densenet121", num_classes=18),
        images(64),
    ),
    Pair(
        "monai:densenet121->torchvision:densenet121",
        "densenet",
        6.97,
        call("monai.networks.nets:DenseNet121", spatial_dims=2, in_channels=3, out_channels=17),
        torchvision("densenet121", num_classes=17),
        images(64),
    ),
    Pair(
        "monai:seresnet50->timm:legacy_seresnet50",
        "seresnet",
        26.07,
        call("monai.networks.nets:SEResNet50", spatial_dims=2, in_channels=3, num_classes=17),
        timm("legacy_seresnet50", num_classes=17),
        images(96),
    ),
    Pair("pytorch_pretrained_vit:vit->timm:vit", "vit", 0.9, pretrained_vit, TIMM_VIT, images(64), hard=True),
    Pair(
        "pytorch_pretrained_vit:vit->transformers:vit",
        "vit",
        0.9,
        pretrained_vit,
        transformers(
            "ViTForImageClassification",
            "ViTConfig",
            image_size=64,
            patch_size=16,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            num_labels=17,
            layer_norm_eps=1e-06,
        ),
        images(64),
        hard=True,
    ),
    Pair(
        "pytorch_pretrained_vit:vit->torchvision:vit",
        "vit",
        0.9,
        pretrained_vit,
        torchvision_vit(num_layers=4),
        images(64),
        hard=True,
    ),
    Pair(
        "smp:se_resnet50->timm:legacy_seresnet50",
        "seresnet",
        26.04,
        smp_encoder("se_resnet50"),
        timm("legacy_seresnet50", num_classes=0, global_pool=""),
        images(96),
        src_out=item(-1),
    ),
    Pair(
        "smp:xception->timm:legacy_xception",
        "xception",
        20.81,
        smp_encoder("xception"),
        timm("legacy_xception", num_classes=0, global_pool=""),
        images(96),
        src_out=item(-1),
        same_function=False,
        note="smp pads the stem convs (padding=1), timm does not",
    ),
    Pair(
        "smp:densenet121->torchvision:densenet121",
        "densenet",
        7.98,
        smp_encoder("densenet121"),
        torchvision("densenet121"),
        images(64),
        src_out=item(-1),
        dst_out=feature_maps,
    ),
    Pair(
        "smp:mobilenet_v2->torchvision:mobilenet_v2",
        "mobilenet_v2",
        3.5,
        smp_encoder("mobilenet_v2"),
        torchvision("mobilenet_v2"),
        images(64),
        src_out=item(-1),
        dst_out=feature_maps,
    ),
    Pair(
        "smp:inceptionv4->timm:inception_v4",
        "inception_v4",
        41.14,
        smp_encoder("inceptionv4"),
        timm("inception_v4", num_classes=0, global_pool=""),
        images(139, batch=1),
        src_out=item(-1),
        same_function=False,
        note="smp pads the stem/reduction convs, timm does not",
    ),
    Pair(
        "smp:dpn68->timm:dpn68",
        "dpn",
        11.78,
        smp_encoder("dpn68"),
        timm("dpn68", num_classes=0, global_pool=""),
        images(64),
        src_out=item(-1),
    ),
    Pair(
        "smp:mit_b0->transformers:segformer-encoder",
        "segformer",
        3.32,
        smp_encoder("mit_b0"),
        TRANSFORMERS_SEGFORMER_ENCODER,
        images(64),
        src_out=item(-1),
        hard=True,
    ),
    Pair(
        "transformers:segformer-encoder->smp:mit_b0",
        "segformer",
        3.32,
        TRANSFORMERS_SEGFORMER_ENCODER,
        smp_encoder("mit_b0"),
        images(64),
        dst_out=item(-1),
        hard=True,
    ),
    Pair(
        "smp:segformer->transformers:segformer",
        "segformer",
        3.37,
        SMP_SEGFORMER,
        TRANSFORMERS_SEGFORMER,
        images(64),
        src_out=segmentation_before_upsampling,
        hard=True,
    ),
    Pair(
        "segment_anything:vit->transformers:sam-vision",
        "sam",
        0.23,
        SAM,
        transformers(
            "SamVisionModel",
            "SamVisionConfig",
            hidden_size=64,
            output_channels=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
            mlp_dim=256,
            window_size=4,
            global_attn_indexes=[1, 3],
        ),
        images(64),
    ),
    Pair(
        "segment_anything:vit->timm:samvit",
        "sam",
        0.23,
        SAM,
        TIMM_SAMVIT,
        images(64),
        dst_out=features,
    ),
    Pair(
        "classy_vision:regnet_y_400mf->torchvision:regnet_y_400mf",
        "regnet",
        4.34,
        classy_regnet(depth=16, w_0=48, w_a=27.89, w_m=2.09, group_width=8),
        torchvision("regnet_y_400mf"),
        images(64),
        src_out=pooled,
        dst_out=entering("fc"),
    ),
    Pair(
        "classy_vision:densenet121->torchvision:densenet121",
        "densenet",
        6.97,
        classy(
            name="densenet",
            num_blocks=[6, 12, 24, 16],
            num_classes=17,
            init_planes=64,
            growth_rate=32,
            expansion=4,
            small_input=False,
            heads=[],
        ),
        torchvision("densenet121", num_classes=17),
        images(64),
        dst_out=relu_of_feature_maps,
    ),
    Pair(
        "classy_vision:resnext50->torchvision:resnext50",
        "resnext",
        25.03,
        classy(name="resnext", num_blocks=[3, 4, 6, 3], base_width_and_cardinality=[4, 32], small_input=False, heads=[]),
        torchvision("resnext50_32x4d"),
        images(64),
        dst_out=entering("avgpool"),
    ),
    Pair(
        "open_clip:modified_resnet50->timm:resnet50_clip",
        "clip_resnet",
        36.19,
        OPEN_CLIP_RESNET,
        timm("resnet50_clip", img_size=64, num_classes=32),
        images(64),
    ),
    Pair("timm:vit->pytorch_pretrained_vit:vit", "vit", 0.9, TIMM_VIT, pretrained_vit, images(64), hard=True),
    Pair(
        "torchvision:vit->pytorch_pretrained_vit:vit",
        "vit",
        0.9,
        torchvision_vit(num_layers=4),
        pretrained_vit,
        images(64),
        hard=True,
    ),
    Pair(
        "transformers:segformer->smp:segformer",
        "segformer",
        3.37,
        TRANSFORMERS_SEGFORMER,
        SMP_SEGFORMER,
        images(64),
        dst_out=segmentation_before_upsampling,
        hard=True,
    ),
)
