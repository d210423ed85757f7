"""A mapping written once as JSON, and used in a training script that needs neither fxmap nor the source's code.

`write_mapping` runs where fxmap is; `converted` needs torch and json alone. The file has a version, `"fxmap": 1`; an
expression is a dict with its operation, `op`, and what this operation is of. Of the operations only those of this mapping
are read here; for all of them let fxmap write the function itself: `mapping.to_python()`.

Run it: python examples/json_without_fxmap.py
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Theirs(nn.Module):
    """Attention with q, k and v in one matrix, as the checkpoint was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of x [batch, length, 16] to itself."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v))  # type: ignore[no-any-return]


class Ours(nn.Module):
    """The same with three matrices, and other names."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of x [batch, length, 16] to itself."""
        attended = nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.out(attended)  # type: ignore[no-any-return]


def write_mapping(file: Path) -> None:
    """Map, prove and write: run once, where fxmap is installed; the file goes into your repository."""
    import fxmap

    mapping = fxmap.auto_map(Theirs(), Ours(), example_inputs=torch.randn(1, 5, 16), verify="required")
    file.write_text(mapping.to_json(), encoding="utf-8")


def made(expression: dict[str, Any], state: dict[str, Tensor]) -> Tensor:
    """Evaluate an expression of a mapping."""
    match expression["op"]:
        case "source":
            return state[expression["key"]]
        case "slice":
            return made(expression["of"], state)[expression["start"] : expression["stop"]]
        case other:
            raise NotImplementedError(f"operation {other!r}: use mapping.to_python(), which writes all of them")


def converted(file: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the destination's state dict, made from the source's: this is all that a training script needs."""
    mapping = json.loads(file.read_text(encoding="utf-8"))
    assert mapping["fxmap"] == 1, "another version of the format"
    return {key: made(expression, state) for key, expression in mapping["expressions"].items()}


def train() -> None:
    """Start training from the checkpoint, without fxmap."""
    model = Ours()
    model.load_state_dict(converted(Path("mapping.json"), torch.load("theirs.pth", weights_only=True)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    before = model(x)
    model(x).square().mean().backward()
    optimizer.step()
    theirs = Theirs()
    theirs.load_state_dict(torch.load("theirs.pth", weights_only=True))
    print("starts where the checkpoint ended:", torch.allclose(theirs(x), before, atol=1e-6))


if __name__ == "__main__":
    if "--train" not in sys.argv:
        torch.manual_seed(0)
        torch.save(Theirs().state_dict(), "theirs.pth")
        write_mapping(Path("mapping.json"))
    train()
