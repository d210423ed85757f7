"""Plain vision transformers of torchvision, timm and transformers."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.registry.build import timm, torchvision_vit, transformers
from benchmarks.registry.pair import Pair, features, images, normal


def spectrogram_features(model: nn.Module, spectrogram: Tensor) -> Any:
    """Return the features of a vision transformer on a spectrogram, b time mel."""
    return features(model, spectrogram[:, None].transpose(2, 3))


def unmasked(model: nn.Module, image: Tensor) -> Any:
    """Return what a masked autoencoder makes of all patches, in their own order."""
    return model(image, noise=torch.arange(16.0).repeat(len(image), 1)).last_hidden_state


TIMM_VIT = timm("vit_base_patch16_224", img_size=64, patch_size=16, embed_dim=128, depth=6, num_heads=4, num_classes=17)
TRANSFORMERS_VIT = transformers(
    "ViTForImageClassification",
    "ViTConfig",
    image_size=64,
    patch_size=16,
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=512,
    num_labels=17,
    layer_norm_eps=1e-06,
)
TIMM_DEIT = timm(
    "deit_tiny_distilled_patch16_224", img_size=64, patch_size=16, embed_dim=128, depth=6, num_heads=4, num_classes=17
)
TRANSFORMERS_DEIT = transformers(
    "DeiTForImageClassificationWithTeacher",
    "DeiTConfig",
    layer_norm_eps=1e-06,
    image_size=64,
    patch_size=16,
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=512,
    num_labels=17,
)
TIMM_BEIT = timm("beit_base_patch16_224", img_size=64, patch_size=16, embed_dim=128, depth=6, num_heads=4, num_classes=17)
TRANSFORMERS_BEIT = transformers(
    "BeitForImageClassification",
    "BeitConfig",
    image_size=64,
    patch_size=16,
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=512,
    num_labels=17,
    use_relative_position_bias=True,
    use_mean_pooling=True,
    use_absolute_position_embeddings=False,
    layer_norm_eps=1e-06,
)
TRANSFORMERS_DATA2VEC_VISION = transformers(
    "Data2VecVisionForImageClassification",
    "Data2VecVisionConfig",
    image_size=64,
    patch_size=16,
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=512,
    num_labels=17,
    use_relative_position_bias=True,
    use_mean_pooling=True,
    use_absolute_position_embeddings=False,
    layer_norm_eps=1e-06,
)
TIMM_VIT_NOCLS = timm(
    "vit_base_patch16_224",
    img_size=64,
    patch_size=16,
    embed_dim=128,
    depth=6,
    num_heads=4,
    num_classes=17,
    class_token=False,
    global_pool="avg",
    fc_norm=False,
)
TRANSFORMERS_IJEPA = transformers(
    "IJepaForImageClassification",
    "IJepaConfig",
    layer_norm_eps=1e-06,
    image_size=64,
    patch_size=16,
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=512,
    num_labels=17,
)
TRANSFORMERS_VIT_MSN = transformers(
    "ViTMSNForImageClassification",
    "ViTMSNConfig",
    image_size=64,
    patch_size=16,
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=512,
    num_labels=17,
)
TIMM_DEIT_AST = timm(
    "deit_tiny_distilled_patch16_224",
    img_size=(128, 96),
    in_chans=1,
    patch_size=16,
    embed_dim=128,
    depth=6,
    num_heads=4,
    num_classes=17,
)
TRANSFORMERS_AST = transformers(
    "ASTModel",
    "ASTConfig",
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=512,
    frequency_stride=16,
    time_stride=16,
    max_length=96,
    num_mel_bins=128,
    layer_norm_eps=1e-06,
)
TIMM_VIT_HEADLESS = timm(
    "vit_base_patch16_224", img_size=64, patch_size=16, embed_dim=128, depth=6, num_heads=4, num_classes=0
)
TRANSFORMERS_VIT_MAE = transformers(
    "ViTMAEModel",
    "ViTMAEConfig",
    mask_ratio=0.0,
    layer_norm_eps=1e-06,
    image_size=64,
    patch_size=16,
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=512,
)
TRANSFORMERS_DPT_VIT = transformers(
    "DPTModel",
    "DPTConfig",
    layer_norm_eps=1e-06,
    add_projection=False,
    image_size=64,
    patch_size=16,
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=512,
)

PAIRS = (
    Pair("timm:vit->transformers:vit", "vit", 1.29, TIMM_VIT, TRANSFORMERS_VIT, images(64), hard=True),
    Pair("transformers:vit->timm:vit", "vit", 1.29, TRANSFORMERS_VIT, TIMM_VIT, images(64), hard=True),
    Pair("torchvision:vit->transformers:vit", "vit", 1.29, torchvision_vit(), TRANSFORMERS_VIT, images(64), hard=True),
    Pair("transformers:vit->torchvision:vit", "vit", 1.29, TRANSFORMERS_VIT, torchvision_vit(), images(64), hard=True),
    Pair("timm:deit->transformers:deit", "deit", 1.3, TIMM_DEIT, TRANSFORMERS_DEIT, images(64), hard=True),
    Pair("transformers:deit->timm:deit", "deit", 1.3, TRANSFORMERS_DEIT, TIMM_DEIT, images(64), hard=True),
    Pair("timm:beit->transformers:beit", "beit", 1.29, TIMM_BEIT, TRANSFORMERS_BEIT, images(64), hard=True),
    Pair("transformers:beit->timm:beit", "beit", 1.29, TRANSFORMERS_BEIT, TIMM_BEIT, images(64), hard=True),
    Pair(
        "timm:beit->transformers:data2vec-vision",
        "beit",
        1.29,
        TIMM_BEIT,
        TRANSFORMERS_DATA2VEC_VISION,
        images(64),
        hard=True,
    ),
    Pair("timm:vit-nocls->transformers:ijepa", "ijepa", 1.29, TIMM_VIT_NOCLS, TRANSFORMERS_IJEPA, images(64), hard=True),
    Pair("timm:vit->transformers:vit_msn", "vit", 1.29, TIMM_VIT, TRANSFORMERS_VIT_MSN, images(64), hard=True),
    Pair(
        "timm:deit-ast->transformers:ast",
        "ast",
        1.23,
        TIMM_DEIT_AST,
        TRANSFORMERS_AST,
        normal(2, 96, 128),
        src_out=spectrogram_features,
        hard=True,
    ),
    Pair(
        "timm:vit->transformers:vit_mae",
        "vit",
        1.29,
        TIMM_VIT_HEADLESS,
        TRANSFORMERS_VIT_MAE,
        normal(2, 3, 64, 64),
        src_out=features,
        dst_out=unmasked,
        hard=True,
    ),
    Pair(
        "timm:vit->transformers:dpt-vit",
        "vit",
        1.31,
        TIMM_VIT_HEADLESS,
        TRANSFORMERS_DPT_VIT,
        images(64),
        src_out=features,
        hard=True,
    ),
    Pair(
        "transformers:data2vec-vision->timm:beit",
        "beit",
        1.29,
        TRANSFORMERS_DATA2VEC_VISION,
        TIMM_BEIT,
        images(64),
        hard=True,
    ),
    Pair("transformers:ijepa->timm:vit-nocls", "ijepa", 1.29, TRANSFORMERS_IJEPA, TIMM_VIT_NOCLS, images(64), hard=True),
    Pair("transformers:vit_msn->timm:vit", "vit", 1.29, TRANSFORMERS_VIT_MSN, TIMM_VIT, images(64), hard=True),
    Pair(
        "transformers:ast->timm:deit-ast",
        "ast",
        1.23,
        TRANSFORMERS_AST,
        TIMM_DEIT_AST,
        normal(2, 96, 128),
        dst_out=spectrogram_features,
        hard=True,
    ),
    Pair(
        "transformers:vit_mae->timm:vit",
        "vit",
        1.29,
        TRANSFORMERS_VIT_MAE,
        TIMM_VIT_HEADLESS,
        normal(2, 3, 64, 64),
        src_out=unmasked,
        dst_out=features,
        hard=True,
    ),
    Pair(
        "transformers:dpt-vit->timm:vit",
        "vit",
        1.29,
        TRANSFORMERS_DPT_VIT,
        TIMM_VIT_HEADLESS,
        images(64),
        dst_out=features,
        hard=True,
    ),
)
