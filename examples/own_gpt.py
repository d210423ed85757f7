"""A GPT of your own, filled with the weights of GPT-2 from transformers.

The names differ, GPT-2 keeps its matrices transposed (Conv1D) and q, k and v in one, and ties its head to its embedding.

Needs: pip install transformers. Run it: python examples/own_gpt.py
"""

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import fxmap


class Block(nn.Module):
    """Attention and a feed-forward network, each after a layer norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [batch, length, width] with what both parts add."""
        h = self.before_attention(x)
        q, k, v = (part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        more: Tensor = self.down(F.gelu(self.up(self.before_mlp(x)), approximate="tanh"))
        return x + more


class MyGPT(nn.Module):
    """Token ids [batch, length] to logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of the next token at each place."""
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.norm(x) @ self.tokens.weight.T
        return logits


torch.manual_seed(0)
# Small and random, so that this runs in a second; in earnest GPT2LMHeadModel.from_pretrained("gpt2").
config = transformers.GPT2Config(vocab_size=96, n_positions=32, n_embd=32, n_layer=2, n_head=4)
src = transformers.GPT2LMHeadModel(config).eval()
dst = MyGPT(vocabulary=96, length=32, width=32, depth=2, heads=4).eval()

mapping = fxmap.transfer(src, dst)
print(mapping.summary())
assert mapping.ok
print("q of the first block:", mapping["blocks.0.q.weight"])

ids = torch.randint(0, 96, (1, 16))
print("largest difference:", (src(ids).logits - dst(ids)).abs().max().item())
