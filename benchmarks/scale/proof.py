"""Prove a decoder that does not fit: `python -m benchmarks.scale.proof SIZE`, in a process of its own.

The source is Llama of transformers, the destination the same network by hand, whose q, k and v, and whose gate and up, are
one layer each; both are without weights. It prints a JSON object: seconds by the clock and of the processor, the peak of
memory, and what of it importing takes.
"""

import json
import resource
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap

# Layers, width, hidden width, heads, groups of keys, vocabulary: the smaller ones are Llama 3's.
SIZES = {
    "0.1B": (4, 1024, 2816, 16, 4, 32_000),
    "1B": (16, 2048, 8192, 32, 8, 128_256),
    "8B": (32, 4096, 14_336, 32, 8, 128_256),
    "70B": (80, 8192, 28_672, 64, 8, 128_256),
}


class Layer(nn.Module):
    """One layer of the decoder by hand."""

    def __init__(self, width: int, hidden: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.each = heads, groups, width // heads
        self.before, self.behind = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, (heads + 2 * groups) * self.each, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_and_up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend causally, b n c -> b n c."""
        b, n, _ = x.shape
        joined = self.qkv(self.before(x)).view(b, n, -1, self.each).transpose(1, 2)
        q, k, v = joined.split([self.heads, self.groups, self.groups], 1)
        q, k = (part * cos + turned(part) * sin for part in (q, k))
        k, v = (part.repeat_interleave(self.heads // self.groups, 1) for part in (k, v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape))
        gate, up = self.gate_and_up(self.behind(x)).chunk(2, -1)
        made: Tensor = x + self.down(F.silu(gate) * up)
        return made


def turned(x: Tensor) -> Tensor:
    """Return a value with the halves of its last axis exchanged, one of them negated."""
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


class Joined(nn.Module):
    """A decoder by hand."""

    def __init__(self, layers: int, width: int, hidden: int, heads: int, groups: int, vocabulary: int) -> None:
        super().__init__()
        self.each, self.embedding = width // heads, nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, hidden, heads, groups) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits, b n -> b n v."""
        frequencies = 10_000.0 ** (-torch.arange(0, self.each, 2).float() / self.each)
        angles = torch.arange(tokens.shape[1]).float()[:, None] * frequencies
        angles, x = torch.cat((angles, angles), -1), self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        made: Tensor = self.head(self.norm(x))
        return made


def peak() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prove(layers: int, width: int, hidden: int, heads: int, groups: int, vocabulary: int) -> dict[str, Any]:
    """Map and prove one pair of decoders."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        use_cache=False,
    )
    with fxmap.without_weights():
        src, dst = LlamaForCausalLM(config).eval(), Joined(layers, width, hidden, heads, groups, vocabulary).eval()
    before, start, used = peak(), time.perf_counter(), time.process_time()
    tokens = torch.tensor([[3, 1, 4, 1]])
    mapping = fxmap.auto_map(src, dst, example_inputs=tokens, src_forward=_logits, dst_forward=lambda model, x: model(x))
    return {
        "numbers": sum(value.numel() for value in dst.parameters()),
        "ok": mapping.proof.ok,
        "reason": mapping.proof.reason,
        "passes": mapping.proof.forwards,
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - used,
        "peak_mb": peak(),
        "imported_mb": before,
    }


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    logits: Tensor = model(tokens).logits
    return logits


if __name__ == "__main__":
    print(json.dumps(prove(*SIZES[sys.argv[1]])))
