"""Torchvision and timm to transformers, and back: vision, but for plain vision transformers."""

from torch import nn

from benchmarks.registry.build import timm, torchvision, transformers
from benchmarks.registry.pair import Pair, features, images


def torchvision_swin_v2() -> nn.Module:
    """Build a small Swin v2 of torchvision, by its classes: its builders have one size each."""
    from torchvision.models import swin_transformer

    return swin_transformer.SwinTransformer(  # type: ignore[no-any-return]
        patch_size=[2, 2],
        embed_dim=32,
        depths=[2, 2, 2],
        num_heads=[2, 4, 8],
        window_size=[4, 4],
        num_classes=17,
        block=swin_transformer.SwinTransformerBlockV2,
        downsample_layer=swin_transformer.PatchMergingV2,
    )


TIMM_SAMVIT = timm(
    "samvit_base_patch16",
    img_size=64,
    patch_size=8,
    embed_dim=64,
    depth=4,
    num_heads=4,
    window_size=4,
    global_attn_indexes=(1, 3),
    neck_chans=32,
)
TIMM_SWINV2_SMALL = timm(
    "swinv2_tiny_window8_256",
    img_size=64,
    patch_size=2,
    embed_dim=32,
    depths=(2, 2, 2),
    num_heads=(2, 4, 8),
    window_size=4,
    num_classes=17,
)
TRANSFORMERS_SWINV2 = transformers(
    "Swinv2ForImageClassification",
    "Swinv2Config",
    image_size=64,
    patch_size=2,
    embed_dim=32,
    depths=[2, 2, 2],
    num_heads=[2, 4, 8],
    window_size=4,
    num_labels=17,
)
TRANSFORMERS_LEVIT_128S = transformers(
    "LevitForImageClassificationWithTeacher",
    "LevitConfig",
    hidden_sizes=[128, 256, 384],
    num_attention_heads=[4, 6, 8],
    depths=[2, 3, 4],
    key_dim=[16, 16, 16],
    drop_path_rate=0,
    num_labels=17,
)

PAIRS = (
    Pair(
        "torchvision:regnet_y_400mf->transformers:regnet_y_400",
        "regnet",
        3.91,
        torchvision("regnet_y_400mf", num_classes=17),
        transformers(
            "RegNetForImageClassification",
            "RegNetConfig",
            depths=[1, 3, 6, 6],
            hidden_sizes=[48, 104, 208, 440],
            groups_width=8,
            layer_type="y",
            num_labels=17,
        ),
        images(64),
    ),
    Pair(
        "timm:regnetx_002->transformers:regnet_x_200",
        "regnet",
        2.32,
        timm("regnetx_002", num_classes=17),
        transformers(
            "RegNetForImageClassification",
            "RegNetConfig",
            depths=[1, 1, 4, 7],
            hidden_sizes=[24, 56, 152, 368],
            groups_width=8,
            layer_type="x",
            num_labels=17,
        ),
        images(64),
        hard=True,
    ),
    Pair(
        "timm:swinv2_small->transformers:swinv2",
        "swin_v2",
        0.59,
        TIMM_SWINV2_SMALL,
        TRANSFORMERS_SWINV2,
        images(64),
        hard=True,
    ),
    Pair(
        "torchvision:swin_v2_custom->transformers:swinv2",
        "swin_v2",
        0.59,
        torchvision_swin_v2,
        TRANSFORMERS_SWINV2,
        images(64),
        hard=True,
    ),
    Pair(
        "timm:poolformer_s12->transformers:poolformer",
        "poolformer",
        11.4,
        timm("poolformer_s12", num_classes=0),
        transformers("PoolFormerModel", "PoolFormerConfig", depths=[2, 2, 6, 2], hidden_sizes=[64, 128, 320, 512]),
        images(64),
        src_out=features,
        hard=True,
    ),
    Pair(
        "timm:poolformer_s12-cls->transformers:poolformer-cls",
        "poolformer",
        11.41,
        timm("poolformer_s12", num_classes=17),
        transformers(
            "PoolFormerForImageClassification",
            "PoolFormerConfig",
            depths=[2, 2, 6, 2],
            hidden_sizes=[64, 128, 320, 512],
            num_labels=17,
        ),
        images(64),
        same_function=False,
        note="timm normalises after pooling, HF before",
    ),
    Pair(
        "timm:levit_128s->transformers:levit_128s",
        "levit",
        7.02,
        timm("levit_128s", num_classes=17),
        TRANSFORMERS_LEVIT_128S,
        images(224),
    ),
    Pair(
        "timm:levit_128s->transformers:levit_128s-fromconv",
        "levit",
        7.02,
        timm("levit_conv_128s", num_classes=17),
        TRANSFORMERS_LEVIT_128S,
        images(224),
        hard=True,
    ),
    Pair(
        "timm:mobilenetv1_100->transformers:mobilenet_v1",
        "mobilenet_v1",
        3.22,
        timm("mobilenetv1_100", num_classes=17, bn_eps=0.001),
        transformers("MobileNetV1ForImageClassification", "MobileNetV1Config", tf_padding=False, num_labels=17),
        images(64),
    ),
    Pair(
        "torchvision:mobilenet_v2->transformers:mobilenet_v2",
        "mobilenet_v2",
        2.25,
        torchvision("mobilenet_v2", num_classes=17),
        transformers(
            "MobileNetV2ForImageClassification", "MobileNetV2Config", tf_padding=False, num_labels=17, layer_norm_eps=1e-05
        ),
        images(64),
    ),
    Pair(
        "timm:mobilenetv2_100->transformers:mobilenet_v2",
        "mobilenet_v2",
        2.25,
        timm("mobilenetv2_100", num_classes=17, bn_eps=0.001),
        transformers("MobileNetV2ForImageClassification", "MobileNetV2Config", tf_padding=False, num_labels=17),
        images(64),
    ),
    Pair(
        "timm:resnetv2_50x1_bit->transformers:bit_50",
        "bit",
        23.54,
        timm("resnetv2_50x1_bit", num_classes=17),
        transformers("BitForImageClassification", "BitConfig", layer_type="preactivation", num_groups=32, num_labels=17),
        images(65),
        hard=True,
    ),
    Pair(
        "timm:focalnet->transformers:focalnet",
        "focalnet",
        27.67,
        timm("focalnet_tiny_srf", num_classes=17),
        transformers(
            "FocalNetForImageClassification",
            "FocalNetConfig",
            embed_dim=96,
            depths=[2, 2, 6, 2],
            focal_levels=[2, 2, 2, 2],
            focal_windows=[3, 3, 3, 3],
            num_labels=17,
            image_size=64,
        ),
        images(64),
    ),
    Pair(
        "transformers:sam-vision->timm:samvit",
        "sam",
        0.23,
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
        TIMM_SAMVIT,
        images(64),
        dst_out=features,
    ),
    Pair(
        "transformers:swinv2->timm:swinv2_small",
        "swin_v2",
        0.59,
        TRANSFORMERS_SWINV2,
        TIMM_SWINV2_SMALL,
        images(64),
        hard=True,
    ),
    Pair(
        "transformers:levit_128s-fromconv->timm:levit_128s",
        "levit",
        7.02,
        TRANSFORMERS_LEVIT_128S,
        timm("levit_conv_128s", num_classes=17),
        images(224),
        hard=True,
    ),
)
