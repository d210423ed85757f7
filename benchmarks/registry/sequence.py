"""Encoders of torch.nn against those of libraries, GPT-2 blocks, and speech: torchaudio, whisper, demucs (--packages)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.registry.build import call, timm, transformers
from benchmarks.registry.pair import Build, Pair, item, normal


def encoder(*, norm_first: bool = False) -> nn.Module:
    """Build torch.nn's encoder with BERT's eps."""
    layer = nn.TransformerEncoderLayer(
        64, 4, 128, activation="gelu", batch_first=True, norm_first=norm_first, layer_norm_eps=1e-12
    )
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


def prenorm_encoder() -> nn.Module:
    """Build torch.nn's encoder with the norm first, and timm's eps."""
    built = encoder(norm_first=True)
    for module in built.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    return built


def gelu_tanh_encoder() -> nn.Module:
    """Build torch.nn's encoder with the norm first and GPT-2's activation."""
    layer = nn.TransformerEncoderLayer(
        64, 4, 256, activation=partial(F.gelu, approximate="tanh"), batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


def vit_blocks() -> nn.Module:
    """Build the blocks of a vision transformer of timm."""
    model = timm(
        "vit_base_patch16_224", img_size=64, patch_size=16, embed_dim=64, depth=3, num_heads=4, mlp_ratio=2, num_classes=0
    )()
    return model.get_submodule("blocks")


def vit_blocks_gelu_tanh() -> nn.Module:
    """Build the blocks of a vision transformer of timm with GPT-2's activation and eps."""
    model = timm(
        "vit_base_patch16_224",
        img_size=64,
        patch_size=16,
        embed_dim=64,
        depth=3,
        num_heads=4,
        num_classes=0,
        act_layer="gelu_tanh",
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )()
    return model.get_submodule("blocks")


def gpt2_blocks() -> nn.Module:
    """Build the blocks of GPT-2, one after the other; they mask the future only where their model tells them to."""
    model: Any = transformers("GPT2Model", "GPT2Config", vocab_size=100, n_positions=64, n_embd=64, n_layer=3, n_head=4)()
    return nn.Sequential(*model.h)


def run_blocks(model: nn.Sequential, hidden: Tensor) -> Tensor:
    """Run blocks that return a tensor, or a tuple of which the tensor is the first."""
    for block in model:
        output = block(hidden)
        hidden = output[0] if isinstance(output, tuple) else output
    return hidden


def openai_whisper() -> nn.Module:
    """Build a small Whisper of the openai-whisper package."""
    dimensions = call("whisper.model:ModelDimensions", 80, 50, 64, 4, 3, 100, 32, 64, 4, 3)()
    return call("whisper.model:Whisper", dimensions)()


def spectrum_and_tokens() -> tuple[Tensor, Tensor]:
    """Draw a spectrogram, b mel time, and token numbers, b n."""
    return torch.randn(2, 80, 100), torch.randint(1, 99, (2, 8))


def whisper_logits(model: Any, spectrum: Tensor, tokens: Tensor) -> Any:
    """Return the logits of openai-whisper, whose forward takes the tokens first."""
    return model.decoder(tokens, model.encoder(spectrum))


def transformers_whisper_logits(model: nn.Module, spectrum: Tensor, tokens: Tensor) -> Any:
    """Return the logits of transformers' Whisper."""
    return model(input_features=spectrum, decoder_input_ids=tokens).logits


def torchaudio_wav2vec2(mode: str, *, norm_first: bool) -> Build:
    """Build a small wav2vec 2.0 of torchaudio."""
    return call(
        "torchaudio.models:wav2vec2_model",
        extractor_mode=mode,
        extractor_conv_layer_config=[(32, 10, 5), (32, 3, 2), (32, 3, 2), (32, 2, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=64,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=3,
        encoder_num_heads=4,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=128,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=norm_first,
        encoder_layer_drop=0.0,
        aux_num_out=20,
    )


DEMUCS = call("demucs.hdemucs:HDemucs", sources=["a", "b"], audio_channels=1, channels=8)
TORCHAUDIO_DEMUCS = call("torchaudio.models:HDemucs", sources=["a", "b"], audio_channels=1, channels=8)
TRANSFORMERS_BERT_ENCODER = transformers(
    "BertModel",
    "BertConfig",
    part="encoder",
    vocab_size=100,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=64,
)
TRANSFORMERS_DISTILBERT_ENCODER = transformers(
    "DistilBertModel", "DistilBertConfig", part="transformer", vocab_size=100, dim=64, n_layers=3, n_heads=4, hidden_dim=128
)
TRANSFORMERS_WHISPER = transformers(
    "WhisperForConditionalGeneration",
    "WhisperConfig",
    vocab_size=100,
    num_mel_bins=80,
    encoder_layers=3,
    encoder_attention_heads=4,
    decoder_layers=3,
    decoder_attention_heads=4,
    encoder_ffn_dim=256,
    decoder_ffn_dim=256,
    d_model=64,
    max_source_positions=50,
    max_target_positions=32,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=3,
    suppress_tokens=None,
    begin_suppress_tokens=None,
)
# What the models of torchaudio below are in the words of transformers.
SPEECH: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32, 32, 32, 32],
    "conv_stride": [5, 2, 2, 2],
    "conv_kernel": [10, 3, 3, 2],
    "num_feat_extract_layers": 4,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
    "final_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
    "conv_bias": False,
}
TRANSFORMERS_WAV2VEC2 = transformers(
    "Wav2Vec2ForCTC",
    "Wav2Vec2Config",
    **SPEECH,
    do_stable_layer_norm=False,
    feat_extract_norm="group",
)
TORCHAUDIO_WAV2VEC2 = torchaudio_wav2vec2("group_norm", norm_first=False)
TRANSFORMERS_WAV2VEC2_LG = transformers(
    "Wav2Vec2ForCTC",
    "Wav2Vec2Config",
    **SPEECH,
    do_stable_layer_norm=True,
    feat_extract_norm="layer",
)
TORCHAUDIO_WAV2VEC2_LG = torchaudio_wav2vec2("layer_norm", norm_first=True)
TRANSFORMERS_HUBERT = transformers(
    "HubertForCTC",
    "HubertConfig",
    **SPEECH,
    do_stable_layer_norm=False,
    feat_extract_norm="group",
)

PAIRS = (
    Pair(
        "transformers:bert-encoder->torch.nn:TransformerEncoder",
        "nn_transformer",
        0.1,
        TRANSFORMERS_BERT_ENCODER,
        encoder,
        normal(2, 10, 64),
        hard=True,
    ),
    Pair(
        "torch.nn:TransformerEncoder->transformers:bert-encoder",
        "nn_transformer",
        0.1,
        encoder,
        TRANSFORMERS_BERT_ENCODER,
        normal(2, 10, 64),
        hard=True,
    ),
    Pair(
        "transformers:distilbert-encoder->torch.nn:TransformerEncoder",
        "nn_transformer",
        0.1,
        TRANSFORMERS_DISTILBERT_ENCODER,
        encoder,
        normal(2, 10, 64),
        hard=True,
    ),
    Pair(
        "timm:vit-blocks->torch.nn:TransformerEncoder-prenorm",
        "nn_transformer",
        0.1,
        vit_blocks,
        prenorm_encoder,
        normal(2, 10, 64),
        hard=True,
    ),
    Pair(
        "transformers:gpt2-blocks->torch.nn:TransformerEncoder-prenorm",
        "conv1d",
        0.15,
        gpt2_blocks,
        gelu_tanh_encoder,
        normal(2, 10, 64),
        src_out=run_blocks,
        hard=True,
    ),
    Pair(
        "transformers:gpt2-blocks->timm:vit-blocks",
        "conv1d",
        0.15,
        gpt2_blocks,
        vit_blocks_gelu_tanh,
        normal(2, 10, 64),
        src_out=run_blocks,
        hard=True,
    ),
    Pair(
        "openai_whisper:whisper->transformers:whisper",
        "whisper",
        0.39,
        openai_whisper,
        TRANSFORMERS_WHISPER,
        spectrum_and_tokens,
        src_out=whisper_logits,
        dst_out=transformers_whisper_logits,
        hard=True,
    ),
    Pair(
        "transformers:whisper->openai_whisper:whisper",
        "whisper",
        0.39,
        TRANSFORMERS_WHISPER,
        openai_whisper,
        spectrum_and_tokens,
        src_out=transformers_whisper_logits,
        dst_out=whisper_logits,
        hard=True,
    ),
    Pair(
        "transformers:wav2vec2->torchaudio:wav2vec2",
        "wav2vec2",
        0.13,
        TRANSFORMERS_WAV2VEC2,
        TORCHAUDIO_WAV2VEC2,
        normal(2, 1600),
        dst_out=item(0),
        hard=True,
    ),
    Pair(
        "torchaudio:wav2vec2->transformers:wav2vec2",
        "wav2vec2",
        0.13,
        TORCHAUDIO_WAV2VEC2,
        TRANSFORMERS_WAV2VEC2,
        normal(2, 1600),
        src_out=item(0),
        hard=True,
    ),
    Pair(
        "transformers:wav2vec2-lg->torchaudio:wav2vec2-lg",
        "wav2vec2",
        0.13,
        TRANSFORMERS_WAV2VEC2_LG,
        TORCHAUDIO_WAV2VEC2_LG,
        normal(2, 1600),
        dst_out=item(0),
        hard=True,
    ),
    Pair(
        "torchaudio:wav2vec2-lg->transformers:wav2vec2-lg",
        "wav2vec2",
        0.13,
        TORCHAUDIO_WAV2VEC2_LG,
        TRANSFORMERS_WAV2VEC2_LG,
        normal(2, 1600),
        src_out=item(0),
        hard=True,
    ),
    Pair(
        "transformers:hubert->torchaudio:hubert",
        "wav2vec2",
        0.13,
        TRANSFORMERS_HUBERT,
        TORCHAUDIO_WAV2VEC2,
        normal(2, 1600),
        dst_out=item(0),
        hard=True,
    ),
    Pair(
        "torchaudio:hubert->transformers:hubert",
        "wav2vec2",
        0.13,
        TORCHAUDIO_WAV2VEC2,
        TRANSFORMERS_HUBERT,
        normal(2, 1600),
        src_out=item(0),
        hard=True,
    ),
    Pair("demucs:hdemucs->torchaudio:hdemucs", "demucs", 2.35, DEMUCS, TORCHAUDIO_DEMUCS, normal(1, 1, 44100), hard=True),
    Pair(
        "torch.nn:TransformerEncoder->transformers:distilbert-encoder",
        "nn_transformer",
        0.1,
        encoder,
        TRANSFORMERS_DISTILBERT_ENCODER,
        normal(2, 10, 64),
        hard=True,
    ),
    Pair(
        "torch.nn:TransformerEncoder-prenorm->transformers:gpt2-blocks",
        "conv1d",
        0.15,
        gelu_tanh_encoder,
        gpt2_blocks,
        normal(2, 10, 64),
        dst_out=run_blocks,
        hard=True,
    ),
    Pair(
        "timm:vit-blocks->transformers:gpt2-blocks",
        "conv1d",
        0.15,
        vit_blocks_gelu_tanh,
        gpt2_blocks,
        normal(2, 10, 64),
        dst_out=run_blocks,
        hard=True,
    ),
)
