"""OpenMMLab's mmpretrain (--packages) against torchvision and timm."""

import importlib
from typing import Any

from torch import Tensor, nn

from benchmarks.registry.build import timm, torchvision
from benchmarks.registry.old_packages import feature_maps, relu_of_feature_maps
from benchmarks.registry.pair import Build, Pair, entering, features, images, item


def mmpretrain(**config: Any) -> Build:
    """Build a backbone of mmpretrain; it returns a tuple of feature maps."""

    def build() -> nn.Module:
        importlib.import_module("mmpretrain.models")
        return importlib.import_module("mmpretrain.registry").MODELS.build(config)  # type: ignore[no-any-return]

    return build


def normed_features(model: Any, image: Tensor) -> Any:
    """Return the features of timm's PoolFormer with the norm of its head."""
    return model.head.norm(model.forward_features(image))


MMPRETRAIN_LEVIT = mmpretrain(type="LeViT", arch="128s", img_size=224, patch_size=16, drop_path_rate=0, out_indices=(2,))

PAIRS = (
    Pair(
        "mmpretrain:resnext->torchvision:resnext50",
        "resnext",
        25.03,
        mmpretrain(type="ResNeXt", depth=50, groups=32, width_per_group=4),
        torchvision("resnext50_32x4d"),
        images(64),
        src_out=item(-1),
        dst_out=entering("avgpool"),
    ),
    Pair(
        "mmpretrain:seresnet->timm:seresnet50",
        "seresnet",
        26.04,
        mmpretrain(type="SEResNet", depth=50),
        timm("seresnet50", num_classes=0),
        images(64),
        src_out=item(-1),
        dst_out=features,
    ),
    Pair(
        "mmpretrain:mobilenetv2->torchvision:mobilenet_v2",
        "mobilenet_v2",
        3.5,
        mmpretrain(type="MobileNetV2"),
        torchvision("mobilenet_v2"),
        images(64),
        src_out=item(-1),
        dst_out=feature_maps,
    ),
    Pair(
        "mmpretrain:mobilenetv3->torchvision:mobilenet_v3_small",
        "mobilenet_v3",
        2.54,
        mmpretrain(type="MobileNetV3", arch="small"),
        torchvision("mobilenet_v3_small"),
        images(64),
        src_out=item(-1),
        dst_out=feature_maps,
    ),
    Pair(
        "mmpretrain:densenet->torchvision:densenet121",
        "densenet",
        7.98,
        mmpretrain(type="DenseNet", arch="121"),
        torchvision("densenet121"),
        images(64),
        src_out=item(-1),
        dst_out=relu_of_feature_maps,
        hard=True,
    ),
    Pair(
        "mmpretrain:visiontransformer->timm:vit",
        "vit",
        0.89,
        mmpretrain(
            type="VisionTransformer",
            arch={"embed_dims": 128, "num_layers": 4, "num_heads": 4, "feedforward_channels": 512},
            img_size=64,
            patch_size=16,
        ),
        timm("vit_base_patch16_224", img_size=64, patch_size=16, embed_dim=128, depth=4, num_heads=4, num_classes=0),
        images(64),
        src_out=item(-1),
    ),
    Pair(
        "mmpretrain:beitvit->timm:beit",
        "beit",
        0.89,
        mmpretrain(
            type="BEiTViT",
            arch={"embed_dims": 128, "num_layers": 4, "num_heads": 4, "feedforward_channels": 512},
            img_size=64,
            patch_size=16,
            out_type="avg_featmap",
            layer_scale_init_value=0.1,
            use_abs_pos_emb=False,
            use_rel_pos_bias=True,
            use_shared_rel_pos_bias=False,
            final_norm=False,
        ),
        timm("beit_base_patch16_224", img_size=64, patch_size=16, embed_dim=128, depth=4, num_heads=4, num_classes=0),
        images(64),
        src_out=item(-1),
    ),
    Pair(
        "mmpretrain:poolformer->timm:poolformer_s12",
        "poolformer",
        11.4,
        mmpretrain(type="PoolFormer", arch="s12"),
        timm("poolformer_s12", num_classes=0),
        images(64),
        src_out=item(-1),
        dst_out=normed_features,
        same_function=False,
        note="timm normalises after pooling (LayerNorm2d), mmpretrain per feature map (GroupNorm)",
    ),
    Pair(
        "mmpretrain:repvgg->timm:repvgg_a0",
        "repvgg",
        7.83,
        mmpretrain(type="RepVGG", arch="A0", out_indices=(3,)),
        timm("repvgg_a0", num_classes=0),
        images(64),
        src_out=item(-1),
        dst_out=features,
    ),
    Pair(
        "mmpretrain:edgenext->timm:edgenext_xx_small",
        "edgenext",
        1.16,
        mmpretrain(type="EdgeNeXt", arch="xxsmall", gap_before_final_norm=True),
        timm("edgenext_xx_small", num_classes=0),
        images(64),
        src_out=item(-1),
        hard=True,
    ),
    Pair(
        "mmpretrain:levit->timm:levit_conv_128s",
        "levit",
        7.01,
        MMPRETRAIN_LEVIT,
        timm("levit_conv_128s", num_classes=0),
        images(224, batch=1),
        src_out=item(-1),
        dst_out=features,
        hard=True,
    ),
    Pair(
        "mmpretrain:xcit->timm:xcit_nano_12_p16_224",
        "xcit",
        2.92,
        mmpretrain(
            type="XCiT",
            img_size=224,
            patch_size=16,
            embed_dims=128,
            depth=12,
            num_heads=4,
            mlp_ratio=4,
            qkv_bias=True,
            layer_scale_init_value=1.0,
            tokens_norm=False,
            out_type="cls_token",
        ),
        timm("xcit_nano_12_p16_224", num_classes=0),
        images(64),
        src_out=item(-1),
    ),
    Pair(
        "mmpretrain:convmixer->timm:convmixer_768_32",
        "convmixer",
        20.34,
        mmpretrain(type="ConvMixer", arch="768/32", act_cfg={"type": "ReLU"}),
        timm("convmixer_768_32", num_classes=0),
        images(56, batch=1),
        src_out=item(-1),
        dst_out=features,
    ),
    Pair(
        "mmpretrain:inceptionv3->torchvision:inception_v3",
        "inception_v3",
        21.82,
        mmpretrain(type="InceptionV3", num_classes=17, aux_logits=False),
        torchvision("inception_v3", num_classes=17, aux_logits=False),
        images(107),
        src_out=item(-1),
    ),
    Pair(
        "mmpretrain:tinyvit->timm:tiny_vit_5m",
        "tinyvit",
        5.07,
        mmpretrain(
            type="TinyViT",
            arch="5m",
            img_size=(224, 224),
            window_size=[7, 7, 14, 7],
            drop_path_rate=0,
            gap_before_final_norm=True,
            out_indices=(3,),
        ),
        timm("tiny_vit_5m_224", num_classes=0),
        images(224, batch=1),
        src_out=item(-1),
    ),
    Pair(
        "mmpretrain:cspdarknet->timm:cspdarknet53",
        "cspdarknet",
        26.62,
        mmpretrain(type="CSPDarkNet", depth=53),
        timm("cspdarknet53", num_classes=0),
        images(64),
        src_out=item(-1),
        dst_out=features,
    ),
    Pair(
        "timm:levit_conv_128s->mmpretrain:levit",
        "levit",
        7.01,
        timm("levit_conv_128s", num_classes=0),
        MMPRETRAIN_LEVIT,
        images(224, batch=1),
        src_out=features,
        dst_out=item(-1),
        hard=True,
    ),
)
