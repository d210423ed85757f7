"""Pairs without a truth map, at first sight: transformers against torchvision and timm, and against itself."""

from typing import Any

from torch import Tensor, nn

from benchmarks.registry.build import call, timm, torchvision, transformers
from benchmarks.registry.pair import Pair, features, images, tokens

_VIT: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
_TIMM_VIT: dict[str, Any] = {"img_size": 64, "embed_dim": 128, "depth": 4, "num_heads": 4}
_LANGUAGE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _resnet(layer_type: str, depths: list[int], sizes: list[int]) -> Any:
    return transformers(
        "ResNetForImageClassification",
        "ResNetConfig",
        layer_type=layer_type,
        depths=depths,
        hidden_sizes=sizes,
        num_labels=17,
    )


RESNET18 = _resnet("basic", [2, 2, 2, 2], [64, 128, 256, 512])
RESNET50 = _resnet("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048])
TIMM_CONVNEXT = timm("convnext_atto", num_classes=17, conv_mlp=False, norm_eps=1e-6)
TIMM_SWIN = timm(
    "swin_tiny_patch4_window7_224",
    img_size=64,
    patch_size=2,
    embed_dim=32,
    depths=(2, 2, 2),
    num_heads=(2, 4, 8),
    window_size=4,
    num_classes=17,
)
SWIN = transformers(
    "SwinForImageClassification",
    "SwinConfig",
    image_size=64,
    patch_size=2,
    embed_dim=32,
    depths=[2, 2, 2],
    num_heads=[2, 4, 8],
    window_size=4,
    num_labels=17,
)
TORCHVISION_SWIN = call(
    "torchvision.models.swin_transformer:SwinTransformer",
    patch_size=[2, 2],
    embed_dim=32,
    depths=[2, 2, 2],
    num_heads=[2, 4, 8],
    window_size=[4, 4],
    num_classes=17,
)
TIMM_CLIP = timm("vit_base_patch16_clip_224", num_classes=0, act_layer="gelu", **_TIMM_VIT)
CLIP = transformers("CLIPVisionModel", "CLIPVisionConfig", image_size=64, patch_size=16, hidden_act="gelu", **_VIT)
TIMM_SIGLIP = timm("vit_base_patch16_siglip_gap_224", num_classes=0, **_TIMM_VIT)
SIGLIP = transformers(
    "SiglipVisionModel", "SiglipVisionConfig", image_size=64, patch_size=16, hidden_act="gelu", vision_use_head=False, **_VIT
)
MOBILEVIT = transformers(
    "MobileViTForImageClassification",
    "MobileViTConfig",
    hidden_sizes=[64, 80, 96],
    neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
    expand_ratio=2.0,
    image_size=128,
    num_labels=17,
)
MOBILEVITV2 = transformers(
    "MobileViTV2ForImageClassification", "MobileViTV2Config", width_multiplier=0.5, image_size=128, num_labels=17
)
PVT_V2 = transformers("PvtV2ForImageClassification", "PvtV2Config", num_labels=17)
HIERA = transformers("HieraForImageClassification", "HieraConfig", depths=[1, 2, 7, 2], num_labels=17)
HGNET_V2 = transformers(
    "HGNetV2Backbone",
    "HGNetV2Config",
    stem_channels=[3, 16, 16],
    stage_in_channels=[16, 64, 256, 512],
    stage_mid_channels=[16, 32, 64, 128],
    stage_out_channels=[64, 256, 512, 1024],
    stage_num_blocks=[1, 1, 2, 1],
    stage_numb_of_layers=[3, 3, 3, 3],
    use_learnable_affine_block=True,
)
CONVNEXT = transformers(
    "ConvNextForImageClassification",
    "ConvNextConfig",
    hidden_sizes=[40, 80, 160, 320],
    depths=[2, 2, 6, 2],
    layer_norm_eps=1e-6,
    num_labels=17,
)
CONVNEXTV2 = transformers(
    "ConvNextV2ForImageClassification",
    "ConvNextV2Config",
    hidden_sizes=[40, 80, 160, 320],
    depths=[2, 2, 6, 2],
    layer_norm_eps=1e-6,
    num_labels=17,
)
EFFICIENTNET = transformers(
    "EfficientNetForImageClassification",
    "EfficientNetConfig",
    width_coefficient=1.0,
    depth_coefficient=1.0,
    hidden_dim=1280,
    depthwise_padding=[],
    image_size=64,
    num_labels=17,
)
LLAMA = transformers("LlamaForCausalLM", "LlamaConfig", **_LANGUAGE)
MISTRAL = transformers("MistralForCausalLM", "MistralConfig", sliding_window=None, **_LANGUAGE)
PHI3 = transformers("Phi3ForCausalLM", "Phi3Config", sliding_window=None, rms_norm_eps=1e-6, **_LANGUAGE)
BERT = transformers("BertModel", "BertConfig", vocab_size=100, max_position_embeddings=64, **_VIT)
ELECTRA = transformers(
    "ElectraModel", "ElectraConfig", vocab_size=100, max_position_embeddings=64, embedding_size=128, **_VIT
)


def class_token(model: nn.Module, image: Tensor) -> Any:
    """Return the class token behind the last norm, of a model of timm."""
    return features(model, image)[:, 0]


def pooled(model: nn.Module, image: Tensor) -> Any:
    """Return the pooled output of a model of transformers."""
    return model(image).pooler_output


def hidden_states(model: nn.Module, image: Tensor) -> Any:
    """Return the last hidden state."""
    return model(image).last_hidden_state


def last_feature_map(model: nn.Module, image: Tensor) -> Any:
    """Return the last feature map of a backbone."""
    return model(image).feature_maps[-1]


PAIRS = (
    Pair(
        "torchvision:resnet18->transformers:resnet18",
        "resnet",
        11.2,
        torchvision("resnet18", num_classes=17),
        RESNET18,
        images(64),
    ),
    Pair(
        "transformers:resnet50->torchvision:resnet50",
        "resnet",
        23.5,
        RESNET50,
        torchvision("resnet50", num_classes=17),
        images(64),
    ),
    Pair("timm:resnet50->transformers:resnet50", "resnet", 23.5, timm("resnet50", num_classes=17), RESNET50, images(64)),
    Pair("timm:convnext_atto->transformers:convnext", "convnext", 3.4, TIMM_CONVNEXT, CONVNEXT, images(64)),
    Pair("transformers:convnext->timm:convnext_atto", "convnext", 3.4, CONVNEXT, TIMM_CONVNEXT, images(64)),
    Pair(
        "torchvision:convnext_tiny->timm:convnext_tiny",
        "convnext",
        28.6,
        torchvision("convnext_tiny"),
        timm("convnext_tiny"),
        images(64),
    ),
    Pair(
        "torchvision:convnext_tiny->transformers:convnext",
        "convnext",
        27.8,
        torchvision("convnext_tiny", num_classes=17),
        transformers("ConvNextForImageClassification", "ConvNextConfig", layer_norm_eps=1e-6, num_labels=17),
        images(64),
    ),
    Pair(
        "timm:convnextv2_atto->transformers:convnextv2",
        "convnextv2",
        3.4,
        timm("convnextv2_atto", num_classes=17),
        CONVNEXTV2,
        images(64),
    ),
    Pair("timm:swin->transformers:swin", "swin", 0.6, TIMM_SWIN, SWIN, images(64)),
    Pair("transformers:swin->timm:swin", "swin", 0.6, SWIN, TIMM_SWIN, images(64)),
    Pair("torchvision:swin->transformers:swin", "swin", 0.6, TORCHVISION_SWIN, SWIN, images(64)),
    Pair("torchvision:swin->timm:swin", "swin", 0.6, TORCHVISION_SWIN, TIMM_SWIN, images(64)),
    Pair(
        "torchvision:swin_t->timm:swin_tiny",
        "swin",
        28.3,
        torchvision("swin_t"),
        timm("swin_tiny_patch4_window7_224"),
        images(224, batch=1),
    ),
    Pair(
        "timm:clip_vision->transformers:clip_vision",
        "clip",
        1.0,
        TIMM_CLIP,
        CLIP,
        images(64),
        src_out=class_token,
        dst_out=pooled,
    ),
    Pair(
        "transformers:clip_vision->timm:clip_vision",
        "clip",
        1.0,
        CLIP,
        TIMM_CLIP,
        images(64),
        src_out=pooled,
        dst_out=class_token,
    ),
    Pair(
        "timm:siglip_vision->transformers:siglip_vision",
        "siglip",
        1.0,
        TIMM_SIGLIP,
        SIGLIP,
        images(64),
        src_out=features,
        dst_out=hidden_states,
    ),
    Pair(
        "timm:mobilevit_xxs->transformers:mobilevit",
        "mobilevit",
        1.0,
        timm("mobilevit_xxs", num_classes=17),
        MOBILEVIT,
        images(128),
    ),
    Pair(
        "timm:mobilevitv2_050->transformers:mobilevitv2",
        "mobilevitv2",
        1.1,
        timm("mobilevitv2_050", num_classes=17),
        MOBILEVITV2,
        images(128),
    ),
    Pair("timm:pvt_v2_b0->transformers:pvt_v2", "pvt_v2", 3.4, timm("pvt_v2_b0", num_classes=17), PVT_V2, images(128)),
    Pair(
        "timm:hiera_tiny_224->transformers:hiera",
        "hiera",
        27.1,
        timm("hiera_tiny_224", num_classes=17),
        HIERA,
        images(224, batch=1),
    ),
    Pair(
        "timm:hgnetv2_b0->transformers:hgnet_v2",
        "hgnet_v2",
        6.0,
        timm("hgnetv2_b0", num_classes=17),
        HGNET_V2,
        images(64),
        src_out=features,
        dst_out=last_feature_map,
    ),
    Pair(
        "timm:tf_efficientnet_b0->transformers:efficientnet",
        "efficientnet",
        4.0,
        timm("tf_efficientnet_b0", num_classes=17),
        EFFICIENTNET,
        images(64),
    ),
    Pair("transformers:llama->transformers:mistral", "llama", 0.1, LLAMA, MISTRAL, tokens(100, 12)),
    Pair("transformers:llama->transformers:phi3", "llama", 0.1, LLAMA, PHI3, tokens(100, 12)),
    Pair("transformers:phi3->transformers:mistral", "llama", 0.1, PHI3, MISTRAL, tokens(100, 12)),
    Pair("transformers:bert->transformers:electra", "bert", 0.9, BERT, ELECTRA, tokens(100, 12)),
)
