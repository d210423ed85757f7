"""Proofs of models on the meta device: the verdicts are those of a proof in memory, and no model is in memory."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.mapping.proof import Proof, Status
from fxmap.run import recipe, streamed

WIDTH, TOKENS = 8, torch.tensor([[3, 1, 4, 1]])


class Joined(nn.Module):
    """A decoder whose q, k and v are one layer."""

    def __init__(self, vocabulary: int = 11, depth: int = 2, act: Callable[[Tensor], Tensor] = F.silu) -> None:
        super().__init__()
        self.act, self.embedding = act, nn.Embedding(vocabulary, WIDTH)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH, bias=False) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary, bias=False)

    def parts(self, depth: int, x: Tensor) -> tuple[Tensor, ...]:
        return self.qkv[depth](x).chunk(3, -1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for depth, out in enumerate(self.out):
            q, k, v = self.parts(depth, x)
            x = x + out(self.act((q @ k.transpose(-1, -2)).softmax(-1) @ v))
        logits: Tensor = self.head(self.norm(x))
        return logits


class Split(Joined):
    """The same decoder with three layers."""

    def __init__(self, vocabulary: int = 11, depth: int = 2, act: Callable[[Tensor], Tensor] = F.silu) -> None:
        super().__init__(vocabulary, depth, act)
        del self.qkv
        self.q, self.k, self.v = (nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(depth)) for _ in range(3))

    def parts(self, depth: int, x: Tensor) -> tuple[Tensor, ...]:
        return self.q[depth](x), self.k[depth](x), self.v[depth](x)


@pytest.fixture(autouse=True)
def _everything_is_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "LEAST", 1)
    monkeypatch.setattr(recipe, "BLOCK", 64)


def _proof(src: nn.Module, dst: nn.Module, **options: object) -> Proof:
    return fxmap.auto_map(src, dst, example_inputs=TOKENS, **options).proof  # type: ignore[arg-type]


def test_models_on_the_meta_device_are_proven_as_in_memory() -> None:
    with torch.device("meta"):
        bare = Joined(), Split()
    mapping = fxmap.auto_map(*bare, example_inputs=TOKENS)
    there, here = mapping.proof, _proof(Joined(), Split())
    assert there.ok, there
    assert there.statuses == here.statuses
    assert set(there.statuses.values()) == {Status.PROVEN}
    assert there.scope == here.scope
    assert any(note.startswith("streamed") for note in there.notes)
    assert str(mapping["q.0.weight"]) == "qkv.0.weight[0:8]"
    assert bare[0].head.weight.is_meta


def test_another_activation_is_refused() -> None:
    with torch.device("meta"):
        src, dst = Joined(act=F.relu), Split(act=F.relu6)
    proof = _proof(src, dst)
    assert not proof.ok
    assert "relu6" in str(proof) or "hardtanh" in str(proof)


def test_exchanged_weights_are_refused_and_located() -> None:
    with torch.device("meta"):
        src, dst = Joined(), Joined()
    keys = {key: key for key in dst.state_dict()}
    assert fxmap.verify(src, dst, keys, TOKENS).ok
    proof = fxmap.verify(src, dst, keys | {"out.0.weight": "out.1.weight", "out.1.weight": "out.0.weight"}, TOKENS)
    assert not proof.ok
    assert proof.status("out.0.weight") is Status.MATCHED
    assert proof.divergence is not None
    assert "out.0" in str(proof.divergence)


def test_models_in_memory_are_streamed_where_that_is_asked_for() -> None:
    src, dst = Joined(), Split()
    before = {key: value.clone() for key, value in src.state_dict().items()}
    proof = _proof(src, dst, streamed=True)
    assert proof.ok
    assert any(note.startswith("streamed") for note in proof.notes)
    assert all(torch.equal(value, before[key]) for key, value in src.state_dict().items())


class Rotated(nn.Module):
    def __init__(self, base: float) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("table", base ** -torch.arange(0, 1, 1 / WIDTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.table


class Secretive(Rotated):
    def __init__(self, base: float) -> None:
        super().__init__(base)
        del self.base


def _net(base: float, kind: type[nn.Module] = Rotated) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), kind(base), nn.Linear(WIDTH, 2))


def test_a_table_on_the_meta_device_is_made_anew_where_its_module_says_of_what() -> None:
    with torch.device("meta"):
        models = _net(100.0), _net(100.0), _net(500.0)
    keys, x = {key: key for key in models[0].state_dict()}, torch.randn(2, WIDTH)
    assert fxmap.auto_map(models[0], models[1], example_inputs=x).proof.ok
    assert not fxmap.verify(models[0], models[2], keys, x).ok


def test_a_table_that_nobody_can_make_anew_stands_against_a_proof() -> None:
    with torch.device("meta"):
        src, dst = _net(100.0, Secretive), _net(500.0, Secretive)
    keys, x = {key: key for key in src.state_dict()}, torch.randn(2, WIDTH)
    proof = fxmap.verify(src, dst, keys, x)
    assert not proof.ok
    assert re.search(r"1\.table.*without_weights", proof.reason), proof
    with fxmap.without_weights():
        src, dst, other = (_net(base, Secretive) for base in (100.0, 100.0, 500.0))
    assert fxmap.verify(src, dst, keys, x).ok
    assert not fxmap.verify(src, other, keys, x).ok
