"""Tiny models of transformers, timm and torchvision, built of their configurations: nothing is downloaded."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.proof.attacks.attack import Attack, Build, Draw, numbers
from benchmarks.proof.attacks.inputs import holes

_SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
_CAUSAL: dict[str, Any] = _SMALL | {"num_key_value_heads": 1, "head_dim": 8, "use_cache": False}


class Passing(nn.Module):
    """A model that passes its inputs on, or ignores some of them."""

    def __init__(self, model: nn.Module, *ignored: str) -> None:
        super().__init__()
        self.model, self.ignored = model, ignored

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Any:  # fmt: skip
        """Call the model with what is not ignored."""
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
        return self.model(input_ids, **{k: v for k, v in inputs.items() if k not in self.ignored and v is not None})


def transformers(name: str, config: str = "", **options: Any) -> Build:
    """Return how a model is built of its configuration."""

    def build() -> nn.Module:
        import transformers as library

        made = getattr(library, config or name.replace("Model", "Config"))(**options)
        # Eager and explicit, so that both take any mask.
        made._attn_implementation = "eager"
        model: nn.Module = getattr(library, name)(made)
        return model

    return build


_ENCODERS: dict[str, Build] = {
    "BERT": transformers("BertModel", **_SMALL, max_position_embeddings=32),
    "RoBERTa": transformers("RobertaModel", **_SMALL, max_position_embeddings=34, pad_token_id=1),
    "ELECTRA": transformers("ElectraModel", **_SMALL, embedding_size=16, max_position_embeddings=32),
    "ALBERT": transformers("AlbertModel", **_SMALL, embedding_size=16, max_position_embeddings=32),
    "DistilBERT": transformers(
        "DistilBertModel", vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=24, max_position_embeddings=32
    ),
    "MPNet": transformers("MPNetModel", **_SMALL, max_position_embeddings=34),
    "GPT-2": transformers("GPT2Model", vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32, use_cache=False),
    "Llama": transformers("LlamaModel", **_CAUSAL),
    "OPT": transformers(
        "OPTModel", vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=24,
        max_position_embeddings=32, word_embed_proj_dim=16, use_cache=False,
    ),
    "GPT-NeoX": transformers("GPTNeoXModel", **_SMALL, use_cache=False),
    "T5": transformers("T5EncoderModel", "T5Config", vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2),
}  # fmt: skip


def attacks() -> Iterator[Attack]:
    """Yield the ignored inputs of encoders and decoders."""
    ids = numbers(48, 2, 7) + 2
    ones: Draw = lambda: {"input_ids": ids, "attention_mask": torch.ones_like(ids)}  # noqa: E731 -- a draw beside a draw
    some: Draw = lambda: {"input_ids": ids, "attention_mask": holes(2, 7)}  # noqa: E731
    for name, build in _ENCODERS.items():
        yield _without(f"{name} that ignores its mask", build, "attention_mask", ones, some)
    segments = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    for name in ("BERT", "ALBERT"):
        yield _without(f"{name} that ignores its segments", _ENCODERS[name], "token_type_ids", lambda: segments,
                       lambda: segments | {"token_type_ids": numbers(2, 2, 7, seed=1)})  # fmt: skip
    places = {"input_ids": ids, "position_ids": torch.arange(7)[None].expand(2, -1).contiguous()}
    for name in ("GPT-2", "Llama", "BERT"):
        yield _without(f"{name} that ignores its positions", _ENCODERS[name], "position_ids", lambda: places,
                       lambda: places | {"position_ids": places["position_ids"].flip(1)})  # fmt: skip


_LONG: tuple[tuple[str, str, str, dict[str, Any], dict[str, Any], dict[str, Any]], ...] = (
    (
        "Mistral, window of 32",
        "MistralForCausalLM",
        "MistralConfig",
        _CAUSAL,
        {"sliding_window": None},
        {"sliding_window": 32},
    ),
    (
        "Qwen2, window of 24",
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {**_CAUSAL, "use_sliding_window": True, "max_window_layers": 0},
        {"sliding_window": 64},
        {"sliding_window": 24},
    ),
    (
        "Llama, rotary base beyond its length",
        "LlamaForCausalLM",
        "LlamaConfig",
        _CAUSAL | {"max_position_embeddings": 32},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    (
        "T5, distance of its last bucket",
        "T5EncoderModel",
        "T5Config",
        {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2},
        {"relative_attention_max_distance": 128},
        {"relative_attention_max_distance": 64},
    ),
)


def sizes() -> Iterator[Attack]:
    """Yield configurations that differ in what long inputs alone reach."""
    long: Draw = lambda: {"input_ids": numbers(48, 1, 90) + 2}  # noqa: E731 -- a draw beside a draw
    for name, model, config, options, one, other in _LONG:
        yield Attack(
            name, transformers(model, config, **options, **one), transformers(model, config, **options, **other), None, long
        )
    yield Attack("GPT-2 without its scale, one token", _gpt2(True), _gpt2(False), lambda: torch.tensor([[1]]),
                 lambda: {"input_ids": numbers(50, 1, 20)})  # fmt: skip


def _gpt2(scaled: bool) -> Build:
    options: dict[str, Any] = {
        "vocab_size": 50,
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "use_cache": False,
        "scale_attn_weights": scaled,
    }
    return transformers("GPT2LMHeadModel", "GPT2Config", **options)


def depths() -> Iterator[Attack]:
    """Yield shorter stacks of real models: the last norm sees other values."""
    draw: Draw = lambda: {"input_ids": numbers(48, 2, 7) + 2}  # noqa: E731 -- used twice
    for name, model, config, options, layers, norm in (
        ("Llama", "LlamaModel", "LlamaConfig", _CAUSAL, "num_hidden_layers", "norm.weight"),
        ("GPT-2", "GPT2Model", "GPT2Config", {"vocab_size": 50, "n_embd": 16, "n_head": 2, "use_cache": False}, "n_layer",
         "ln_f.weight"),
        ("BERT", "BertModel", "BertConfig", _SMALL, "num_hidden_layers", "pooler.dense.weight"),
    ):  # fmt: skip
        builds = [transformers(model, config, **{**options, layers: depth}) for depth in (4, 2)]
        yield Attack(f"4 layers of {name} into 2", builds[0], builds[1], draw, draw, behind=(norm,))
    images: Callable[[], Any] = lambda: (torch.randn(2, 3, 16, 16),)  # noqa: E731 -- used twice
    yield Attack("4 layers of a timm ViT into 2", lambda: vit(4), lambda: vit(2), images, images,
                 behind=("norm.weight", "head.weight"))  # fmt: skip


def vit(depth: int, **options: Any) -> nn.Module:
    """Build a tiny vision transformer of timm."""
    from timm.models import VisionTransformer

    model: nn.Module = VisionTransformer(
        16, 8, embed_dim=16, depth=depth, num_heads=2, mlp_ratio=1.5, num_classes=5, **options
    )
    return model


def _without(name: str, build: Build, ignored: str, example: Draw, probe: Draw) -> Attack:
    return Attack(name, lambda: Passing(build()), lambda: Passing(build(), ignored), example, probe, names=(ignored,))


def themselves() -> Iterator[Attack]:
    """Yield models mapped onto themselves, with a mask of ones: equal on every mask."""
    ids = numbers(48, 2, 7) + 2
    ones: Draw = lambda: {"input_ids": ids, "attention_mask": torch.ones_like(ids)}  # noqa: E731 -- a draw beside a draw
    some: Draw = lambda: {"input_ids": ids, "attention_mask": holes(2, 7)}  # noqa: E731
    for name, build in _ENCODERS.items():
        yield Attack(f"{name} onto itself", _passing(build), _passing(build), ones, some)
    images: Draw = lambda: (torch.randn(2, 3, 16, 16),)  # noqa: E731 -- used twice
    yield Attack("timm's ViT onto itself", lambda: vit(2), lambda: vit(2), images, images)
    yield Attack(
        "timm's ViT of any size, of one size", lambda: vit(1, dynamic_img_size=True), lambda: vit(1), images, images
    )
    large: Draw = lambda: (torch.randn(2, 3, 64, 64),)  # noqa: E731 -- used twice
    yield Attack("torchvision's ConvNeXt, timm's", _convnext, _timm_convnext, large, large)


def _passing(build: Build) -> Build:
    return lambda: Passing(build())


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    settings = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 1), CNBlockConfig(32, None, 1)]
    return ConvNeXt(settings, num_classes=5, stochastic_depth_prob=0.1, layer_scale=0.5)  # type: ignore[no-any-return]


def _timm_convnext() -> nn.Module:
    from timm.models.convnext import ConvNeXt

    model: nn.Module = ConvNeXt(
        depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=5, ls_init_value=0.5, drop_path_rate=0.1
    )
    return model
