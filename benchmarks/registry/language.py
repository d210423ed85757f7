"""Language models: transformers to litgpt, torchtune and x_transformers (--packages), and back."""

import importlib
from typing import Any

from torch import nn

from benchmarks.registry.build import call, transformers
from benchmarks.registry.compat import install_nf4
from benchmarks.registry.pair import Build, Pair, tokens

# One size for all decoders, in the words of transformers and in those of torchtune.
SIZE: dict[str, Any] = {
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
TORCHTUNE_SIZE: dict[str, Any] = {
    "norm_eps": 1e-06,
    "vocab_size": 100,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 64,
    "max_seq_len": 64,
    "intermediate_dim": 160,
}


def decoder(family: str, **options: Any) -> Build:
    """Build a small decoder of transformers; options change its configuration."""
    return transformers(f"{family}ForCausalLM", f"{family}Config", **SIZE | options)


def litgpt(**options: Any) -> Build:
    """Build a small Llama of litgpt; options change its configuration."""

    def build() -> nn.Module:
        config: dict[str, Any] = {
            "name": "small",
            "block_size": 64,
            "vocab_size": 100,
            "padded_vocab_size": 100,
            "n_layer": 3,
            "n_head": 4,
            "n_embd": 64,
            "n_query_groups": 2,
            "rotary_percentage": 1.0,
            "parallel_residual": False,
            "bias": False,
            "norm_class_name": "RMSNorm",
            "norm_eps": 1e-6,
            "mlp_class_name": "LLaMAMLP",
            "intermediate_size": 160,
        }
        config |= options
        configuration = importlib.import_module("litgpt.config").Config(**config)
        return importlib.import_module("litgpt.model").GPT(configuration)  # type: ignore[no-any-return]

    return build


def torchtune(family: str, **options: Any) -> Build:
    """Build a small model of torchtune, without its quantized tensors; options change its configuration."""
    options = TORCHTUNE_SIZE | options

    def build() -> nn.Module:
        install_nf4()
        return call(f"torchtune.models.{family}._component_builders:{family}", **options)()

    return build


def x_transformers_decoder() -> nn.Module:
    """Build a Llama-like decoder of x_transformers."""
    library = importlib.import_module("x_transformers")
    layers = library.Decoder(
        dim=64,
        depth=3,
        heads=4,
        attn_dim_head=16,
        rotary_pos_emb=True,
        rotary_emb_dim=16,
        use_rmsnorm=True,
        ff_glu=True,
        ff_swish=True,
        ff_no_bias=True,
        ff_mult=2.5,
    )
    return library.TransformerWrapper(  # type: ignore[no-any-return]
        num_tokens=100, max_seq_len=64, use_abs_pos_emb=False, attn_layers=layers
    )


TRANSFORMERS_LLAMA = decoder(
    "Llama",
)
TRANSFORMERS_MISTRAL = decoder(
    "Mistral",
    sliding_window=None,
)
TRANSFORMERS_GEMMA = decoder(
    "Gemma",
    tie_word_embeddings=True,
    head_dim=16,
    hidden_act="gelu_pytorch_tanh",
)
TRANSFORMERS_LLAMA_500000 = decoder(
    "Llama",
    rope_theta=500000.0,
)
TORCHTUNE_LLAMA3 = torchtune(
    "llama3",
)
TRANSFORMERS_LLAMA_10000 = decoder(
    "Llama",
    rope_theta=10000.0,
)
TORCHTUNE_LLAMA2 = torchtune(
    "llama2",
)
TORCHTUNE_MISTRAL = torchtune(
    "mistral",
)
TORCHTUNE_GEMMA = torchtune(
    "gemma",
    head_dim=16,
)

PAIRS = (
    Pair("transformers:llama->litgpt:llama", "llama", 0.14, TRANSFORMERS_LLAMA, litgpt(), tokens(100, 12), hard=True),
    Pair("transformers:mistral->litgpt:mistral", "llama", 0.14, TRANSFORMERS_MISTRAL, litgpt(), tokens(100, 12), hard=True),
    Pair(
        "transformers:gemma->litgpt:gemma",
        "gemma",
        0.14,
        TRANSFORMERS_GEMMA,
        litgpt(name="Gemma-x", scale_embeddings=True, mlp_class_name="GemmaMLP", gelu_approximate="tanh", head_size=16),
        tokens(100, 12),
        hard=True,
    ),
    Pair(
        "transformers:llama->torchtune:llama3",
        "llama",
        0.14,
        TRANSFORMERS_LLAMA_500000,
        TORCHTUNE_LLAMA3,
        tokens(100, 12),
        hard=True,
    ),
    Pair(
        "transformers:llama->torchtune:llama2",
        "llama",
        0.14,
        TRANSFORMERS_LLAMA_10000,
        TORCHTUNE_LLAMA2,
        tokens(100, 12),
        hard=True,
    ),
    Pair(
        "transformers:mistral->torchtune:mistral",
        "llama",
        0.14,
        TRANSFORMERS_MISTRAL,
        TORCHTUNE_MISTRAL,
        tokens(100, 12),
        hard=True,
    ),
    Pair(
        "transformers:gemma->torchtune:gemma", "gemma", 0.14, TRANSFORMERS_GEMMA, TORCHTUNE_GEMMA, tokens(100, 12), hard=True
    ),
    Pair(
        "transformers:llama->x_transformers:decoder",
        "x_transformers",
        0.16,
        decoder(
            "Llama",
            num_key_value_heads=4,
        ),
        x_transformers_decoder,
        tokens(100, 12),
        hard=True,
    ),
    Pair(
        "transformers:phi3->x_transformers:decoder",
        "x_transformers",
        0.16,
        decoder(
            "Phi3",
            num_key_value_heads=4,
            sliding_window=None,
            rms_norm_eps=1e-06,
        ),
        x_transformers_decoder,
        tokens(100, 12),
        hard=True,
    ),
    Pair("litgpt:llama->transformers:llama", "llama", 0.14, litgpt(), TRANSFORMERS_LLAMA, tokens(100, 12), hard=True),
    Pair("litgpt:mistral->transformers:mistral", "llama", 0.14, litgpt(), TRANSFORMERS_MISTRAL, tokens(100, 12), hard=True),
    Pair(
        "torchtune:llama3->transformers:llama",
        "llama",
        0.14,
        TORCHTUNE_LLAMA3,
        TRANSFORMERS_LLAMA_500000,
        tokens(100, 12),
        hard=True,
    ),
    Pair(
        "torchtune:llama2->transformers:llama",
        "llama",
        0.14,
        TORCHTUNE_LLAMA2,
        TRANSFORMERS_LLAMA_10000,
        tokens(100, 12),
        hard=True,
    ),
    Pair(
        "torchtune:mistral->transformers:mistral",
        "llama",
        0.14,
        TORCHTUNE_MISTRAL,
        TRANSFORMERS_MISTRAL,
        tokens(100, 12),
        hard=True,
    ),
    Pair(
        "torchtune:gemma->transformers:gemma", "gemma", 0.14, TORCHTUNE_GEMMA, TRANSFORMERS_GEMMA, tokens(100, 12), hard=True
    ),
)
