"""Pairs without a truth map, in forms that no other pair has: summed branches, weight norm, text towers, other decoders."""

from typing import Any

from torch import Tensor, nn

from benchmarks.registry.build import call, fused, timm, transformers
from benchmarks.registry.language import litgpt
from benchmarks.registry.pair import Build, Pair, images, item, normal, tokens

_SIZE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
_DAC = transformers(
    "DacModel",
    "DacConfig",
    encoder_hidden_size=8,
    decoder_hidden_size=64,
    hidden_size=16,
    n_codebooks=2,
    downsampling_ratios=[2, 4],
    upsampling_ratios=[4, 2],
)


def _dac(normed: bool) -> Build:
    """Build the encoder of DAC, with its weights as direction and size, as it is trained, or as they are shipped."""

    def build() -> nn.Module:
        model = _DAC()
        if normed:
            model.apply_weight_norm()  # type: ignore[operator]
        return model.get_submodule("encoder")

    return build


def text_embeds(model: nn.Module, numbers: Tensor) -> Any:
    """Return the projected embedding of a text."""
    return model(numbers).text_embeds


CLIP_TEXT = transformers(
    "CLIPTextModelWithProjection",
    "CLIPTextConfig",
    vocab_size=100,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=12,
    projection_dim=16,
    hidden_act="gelu",
    bos_token_id=1,
    eos_token_id=2,
)
OPEN_CLIP_TEXT = call(
    "open_clip.transformer:TextTransformer",
    context_length=12,
    vocab_size=100,
    width=32,
    heads=4,
    layers=2,
    mlp_ratio=2,
    output_dim=16,
)
WAVLM = transformers(
    "WavLMModel",
    "WavLMConfig",
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=(16, 16),
    conv_stride=(5, 2),
    conv_kernel=(10, 3),
    num_feat_extract_layers=2,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    num_buckets=16,
    max_bucket_distance=40,
)
TORCHAUDIO_WAVLM = call(
    "torchaudio.models:wavlm_model",
    extractor_mode="group_norm",
    extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2)],
    extractor_conv_bias=False,
    encoder_embed_dim=32,
    encoder_projection_dropout=0.0,
    encoder_pos_conv_kernel=16,
    encoder_pos_conv_groups=4,
    encoder_num_layers=2,
    encoder_num_heads=4,
    encoder_num_buckets=16,
    encoder_max_distance=40,
    encoder_attention_dropout=0.0,
    encoder_ff_interm_features=48,
    encoder_ff_interm_dropout=0.0,
    encoder_dropout=0.0,
    encoder_layer_norm_first=False,
    encoder_layer_drop=0.0,
    aux_num_out=None,
)


def _reparameterised(name: str, params: float, size: int = 64) -> Pair:
    branches, summed = timm(name, num_classes=17), fused(name, num_classes=17)
    return Pair(f"timm:{name}->timm:{name}-fused", "reparameterised", params, branches, summed, images(size))


PAIRS = (
    # MobileOne and RepViT differ from their sums by 6.6e-4 and 3.4e-4 in float32, and are equal in float64: what is folded
    # is rounded once more, through many layers.
    _reparameterised("repvgg_a0", 7.9),
    _reparameterised("mobileone_s0", 4.3),
    _reparameterised("fastvit_t8", 3.3),
    _reparameterised("repvit_m0_9", 4.7),
    Pair("transformers:dac-normed->transformers:dac", "dac", 0.1, _dac(normed=True), _dac(normed=False), normal(1, 1, 64)),
    Pair("transformers:dac->transformers:dac-normed", "dac", 0.1, _dac(normed=False), _dac(normed=True), normal(1, 1, 64)),
    Pair(
        "open_clip:text->transformers:clip_text",
        "clip",
        0.1,
        OPEN_CLIP_TEXT,
        CLIP_TEXT,
        tokens(100, 12),
        dst_out=text_embeds,
    ),
    Pair(
        "transformers:wavlm->torchaudio:wavlm",
        "wavlm",
        0.1,
        WAVLM,
        TORCHAUDIO_WAVLM,
        normal(1, 400),
        dst_out=item(0),
    ),
    Pair(
        "transformers:gpt_neox->litgpt:pythia",
        "gpt_neox",
        0.2,
        transformers("GPTNeoXForCausalLM", "GPTNeoXConfig", rotary_pct=0.25, **_SIZE),
        litgpt(
            n_query_groups=4,
            rotary_percentage=0.25,
            parallel_residual=True,
            bias=True,
            norm_class_name="LayerNorm",
            mlp_class_name="GptNeoxMLP",
            norm_eps=1e-5,
            intermediate_size=160,
        ),
        tokens(100, 12),
    ),
    Pair(
        "transformers:qwen3->litgpt:qwen3",
        "qwen3",
        0.2,
        transformers("Qwen3ForCausalLM", "Qwen3Config", num_key_value_heads=2, head_dim=16, **_SIZE),
        litgpt(norm_qk=True, head_size=16, norm_eps=1e-6, intermediate_size=160),
        tokens(100, 12),
    ),
)
