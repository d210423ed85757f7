"""Small real models, in pairs whose right mapping is known to be right by running them.

Each is a few layers of a published architecture, so that a case of a near miss costs a fraction of a second. What is said
here of projections and heads is for planting errors only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Draw = Callable[[int], Any]


@dataclass(frozen=True)
class Subject:
    """Two models of one network, and what to run them on.

    `draw(seed)` gives the inputs that the judge uses, of another size for another seed where the models accept it; they are
    passed as keyword arguments where they are a dict. `example` is what the proof is given, None where it is to find inputs
    itself. `joined` are ends of names of joined q, k, v layers, `separate` pairs of ends of q and k layers; `heads` is how
    many heads those have. `share` is the share of the usual number of cases, less than 1 for models that are slow to run.
    """

    name: str
    source: Callable[[], nn.Module]
    target: Callable[[], nn.Module]
    draw: Draw
    example: Draw | None = None
    joined: tuple[str, ...] = ()
    separate: tuple[tuple[str, str], ...] = ()
    heads: int = 0
    share: float = 1.0


def images(*sizes: tuple[int, int], channels: int = 3) -> Draw:
    """Draw images of several sizes, some of them bright enough to saturate what can saturate."""

    def draw(seed: int) -> tuple[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = (2, channels, *sizes[seed % len(sizes)])
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * (1.0, 1.0, 6.0)[seed % 3],)

    return draw


def tokens(vocabulary: int, *lengths: int, name: str = "input_ids") -> Draw:
    """Draw token numbers of several lengths."""

    def draw(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.randint(0, vocabulary, (2, lengths[seed % len(lengths)]), generator=generator)}

    return draw


def _regnet() -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    return RegNet(BlockParams([1, 1, 1], [16, 32, 48], [8, 8, 8], [1.0] * 3, [2] * 3, se_ratio=0.25), num_classes=7)  # type: ignore[no-any-return]


def _timm_resnet() -> nn.Module:
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=7, channels=(16, 24, 32, 48))  # type: ignore[no-any-return]


def _mobilenet_v2() -> nn.Module:
    from torchvision.models import MobileNetV2

    setting = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]
    return MobileNetV2(num_classes=7, width_mult=0.5, inverted_residual_setting=setting)  # type: ignore[no-any-return]


def _mobilenet_v3() -> nn.Module:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    rows = [
        (16, 3, 16, 16, True, "RE", 2, 1),
        (16, 3, 48, 24, False, "RE", 2, 1),
        (24, 5, 64, 24, True, "HS", 1, 1),
    ]
    return MobileNetV3([InvertedResidualConfig(*row, width_mult=1.0) for row in rows], last_channel=64, num_classes=7)  # type: ignore[no-any-return]


def _densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=8, block_config=(2, 2, 2), num_init_features=16, bn_size=2, num_classes=7)  # type: ignore[no-any-return]


def _squeezenet() -> nn.Module:
    from torchvision.models import squeezenet1_1

    return squeezenet1_1(num_classes=7)  # type: ignore[no-any-return]


def _shufflenet() -> nn.Module:
    from torchvision.models import ShuffleNetV2

    return ShuffleNetV2([2, 2, 2], [24, 32, 48, 64, 96], num_classes=7)  # type: ignore[no-any-return]


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 2)], num_classes=7, layer_scale=0.5)  # type: ignore[no-any-return]


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=7)  # type: ignore[no-any-return]


def _swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=7)  # type: ignore[no-any-return]


def _timm_vit() -> nn.Module:
    from timm.models import VisionTransformer

    return VisionTransformer(32, 8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=1.5, num_classes=7)  # type: ignore[no-any-return]


def _transformers_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(  # type: ignore[no-any-return]
        ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8,
            num_labels=7, layer_norm_eps=1e-6,
        )
    )  # fmt: skip


def _transformers_resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(  # type: ignore[no-any-return]
        ResNetConfig(embedding_size=64, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], layer_type="basic", num_labels=7)
    )


def _mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(img_size=32, patch_size=8, num_blocks=2, embed_dim=24, num_classes=7)  # type: ignore[no-any-return]


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(  # type: ignore[no-any-return]
        BertConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            max_position_embeddings=32, num_labels=5,
        )
    )  # fmt: skip


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=32, n_layer=2, n_head=4, use_cache=False))  # type: ignore[no-any-return]


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(  # type: ignore[no-any-return]
        LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=64, use_cache=False, attention_bias=True,
        )
    )  # fmt: skip


class Mixed(nn.Module):
    """What the published models above have little of: other norms, pools, activations, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm1, self.act1 = nn.GroupNorm(4, 16), nn.LeakyReLU(0.1)
        self.pool1 = nn.MaxPool2d(3, 2)
        self.left, self.right = nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.act2, self.act3 = nn.ELU(), nn.Hardswish()
        self.pool2 = nn.AvgPool2d(3, 2, 1)
        self.up, self.norm2 = nn.ConvTranspose2d(16, 16, 2, 2), nn.InstanceNorm2d(16, affine=True)
        self.act4, self.resize = nn.SiLU(), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.mix, self.norm3, self.act5 = nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16), nn.Softplus()
        self.gate, self.act6 = nn.Conv2d(16, 16, 1), nn.Sigmoid()
        self.hidden, self.act7, self.norm4 = nn.Linear(16, 16), nn.Tanh(), nn.LayerNorm(16)
        self.head = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (b, 16) of images (b, 3, h, w)."""
        x = self.pool1(self.act1(self.norm1(self.stem(x))))
        x = self.act2(self.left(x)) + self.act3(self.right(x))
        x = self.pool2(x)
        x = torch.cat([self.act4(self.norm2(self.up(x))), self.resize(x)], 1)
        x = self.act5(self.norm3(self.mix(x)))
        x = x * self.act6(self.gate(x))
        x = x.mean((2, 3))
        return self.head(self.norm4(self.act7(self.hidden(x)) + x))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Torch's own transformer layers, whose projections are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 6)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Compute (b, n, 6) of token numbers (b, n)."""
        result: Tensor = self.head(self.layers(self.embed(input_ids)))
        return result


_IMAGES = images((64, 64), (72, 56), (80, 64))
_SMALL = images((64, 64))
_FIXED = images((32, 32))
_SEPARATE = (("query", "key"), ("q_proj", "k_proj"))

SUBJECTS: tuple[Subject, ...] = (
    Subject("torchvision regnet", _regnet, _regnet, _IMAGES, _SMALL, share=0.5),
    Subject("timm resnet", _timm_resnet, _timm_resnet, _IMAGES, _SMALL, share=0.5),
    Subject("timm resnet to transformers", _timm_resnet, _transformers_resnet, _IMAGES, _SMALL, share=0.5),
    Subject("torchvision mobilenet v2", _mobilenet_v2, _mobilenet_v2, _IMAGES, share=0.5),
    Subject("torchvision mobilenet v3", _mobilenet_v3, _mobilenet_v3, _IMAGES, _SMALL, share=0.5),
    Subject("torchvision densenet", _densenet, _densenet, _IMAGES, _SMALL, share=0.5),
    Subject("torchvision squeezenet", _squeezenet, _squeezenet, _IMAGES, _SMALL, share=0.5),
    Subject("torchvision shufflenet", _shufflenet, _shufflenet, _IMAGES, _SMALL, share=0.5),
    Subject("torchvision convnext", _convnext, _convnext, _IMAGES, share=0.5),
    Subject("torchvision swin", _swin, _swin, images((64, 64), (96, 64)), _SMALL),
    Subject("torchvision vit", _vit, _vit, _FIXED, _FIXED, joined=("in_proj_weight", "in_proj_bias"), heads=4),
    Subject("timm vit to transformers", _timm_vit, _transformers_vit, _FIXED, _FIXED, separate=_SEPARATE, heads=4),
    Subject("transformers vit to timm", _transformers_vit, _timm_vit, _FIXED, _FIXED,
            joined=("qkv.weight", "qkv.bias"), heads=4),
    Subject("timm mixer", _mixer, _mixer, _FIXED, _FIXED),
    Subject("transformers bert", _bert, _bert, tokens(50, 12, 9, 17), tokens(50, 12), separate=_SEPARATE, heads=4),
    Subject("transformers gpt2", _gpt2, _gpt2, tokens(50, 12, 9, 17), tokens(50, 12)),
    Subject("transformers llama", _llama, _llama, tokens(50, 12, 9, 17), tokens(50, 12), separate=_SEPARATE, heads=4),
    Subject("own encoder", Encoder, Encoder, tokens(40, 12, 9, 17), tokens(40, 12),
            joined=("in_proj_weight", "in_proj_bias"), heads=4),
    Subject("own mixed", Mixed, Mixed, _IMAGES, _SMALL),
)  # fmt: skip
