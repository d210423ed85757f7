"""Weights stored as several tensors are what the libraries that store them make of them."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from fxmap.expressions.base import Source
from fxmap.expressions.decoding import unpacked_bits
from fxmap.expressions.stored import Awq, BlockScaled, Gptq, LookedUp, SpectralNormed, Times

A, B, C, D = map(Source, "abcd")


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Conv2d(4, 3, 2), nn.ConvTranspose1d(4, 3, 2)], ids=str)
def test_spectral_norm_is_torchs_own_in_both_spellings(layer: nn.Module) -> None:
    axis = 1 if isinstance(layer, nn.ConvTranspose1d) else 0
    made = SpectralNormed(A, B, C, axis)
    old = spectral_norm(layer).eval()
    state = dict(zip("abc", (old.weight_orig, old.weight_u, old.weight_v), strict=True))
    x = torch.randn(2, *{nn.Linear: (5,), nn.Conv2d: (4, 6, 6)}.get(type(layer), (4, 6)), generator=rng())
    old(x)
    torch.testing.assert_close(made.evaluate(state), old.weight)
    new = parametrizations.spectral_norm(type(layer)(*((5, 3) if isinstance(layer, nn.Linear) else (4, 3, 2)))).eval()
    held = new.state_dict()
    place = "parametrizations.weight."
    state = {"a": held[place + "original"], "b": held[place + "0._u"], "c": held[place + "0._v"]}
    torch.testing.assert_close(made.evaluate(state), new.weight)


def test_a_pruned_weight_is_the_weight_times_its_mask() -> None:
    layer = nn.Linear(6, 4)
    prune.random_unstructured(layer, "weight", amount=0.5)
    assert torch.equal(Times(A, B).evaluate({"a": layer.weight_orig, "b": layer.weight_mask}), layer.weight)


@pytest.mark.parametrize("rows", [256, 200, 100])
def test_blocks_of_fp8_have_one_scale_each_also_where_the_last_ones_are_cut(rows: int) -> None:
    weight = torch.randn(rows, 300, generator=rng())
    down, across = -(-rows // 128), 3
    scale, codes = torch.empty(down, across), torch.empty(rows, 300, dtype=torch.float8_e4m3fn)
    for i in range(down):
        for j in range(across):
            part = weight[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)]
            scale[i, j] = part.abs().max() / 448
            codes[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)] = (part / scale[i, j]).to(codes.dtype)
    made = BlockScaled(A, B, (128, 128)).evaluate({"a": codes, "b": scale})
    assert float((made - weight).abs().max()) < 0.07 * float(weight.abs().max())
    stacked = BlockScaled(A, B, (128, 128)).evaluate({"a": torch.stack([codes] * 2), "b": torch.stack([scale, 2 * scale])})
    assert torch.equal(stacked, torch.stack([made, 2 * made]))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_numbers_of_few_bits_come_back_from_words(bits: int) -> None:
    numbers = torch.randint(0, 2**bits, (32, 5), generator=rng())
    bit = (numbers[:, None] >> torch.arange(bits)[None, :, None]) & 1
    words = (bit.reshape(-1, 32, 5) << torch.arange(32)[None, :, None]).sum(1)
    as_int32 = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    assert torch.equal(unpacked_bits(as_int32, bits), numbers)


def packed(numbers: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Pack numbers of four bits along the first axis."""
    words = torch.zeros(len(numbers) // 8, numbers.shape[1], dtype=torch.int64)
    for place, column in enumerate(order):
        words |= numbers[column::8].long() << (4 * place)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


@pytest.mark.parametrize("shift", [0, 1])
def test_gptq_gives_back_the_numbers_in_both_versions_of_the_format_also_with_reordered_inputs(shift: int) -> None:
    q = torch.randint(0, 16, (32, 16), generator=rng())
    zeros = torch.randint(0, 16, (2, 16), generator=rng())
    scales = torch.rand(2, 16, generator=rng()).half()
    groups = torch.randint(0, 2, (32,), generator=rng()).int()
    stored = packed(((zeros - shift) & 15).t()).t().contiguous()
    state = {"a": packed(q), "b": stored, "c": scales, "d": groups}
    expected = ((q - zeros[groups.long()]) * scales.float()[groups.long()]).t()
    assert torch.equal(Gptq(A, B, C, 4, shift, D).evaluate(state), expected)
    in_order = ((q - zeros.repeat_interleave(16, 0)) * scales.float().repeat_interleave(16, 0)).t()
    assert torch.equal(Gptq(A, B, C, 4, shift).evaluate(state), in_order)


def test_awq_gives_back_the_numbers_whose_order_in_a_word_is_its_own() -> None:
    q, zeros = torch.randint(0, 16, (32, 16), generator=rng()), torch.randint(0, 16, (2, 16), generator=rng())
    scales = torch.rand(2, 16, generator=rng()).half()
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    state = {"a": packed(q.t(), order).t(), "b": packed(zeros.t(), order).t(), "c": scales}
    expected = ((q - zeros.repeat_interleave(16, 0)) * scales.float().repeat_interleave(16, 0)).t()
    assert torch.equal(Awq(A, B, C, 4).evaluate(state), expected)


def test_codes_of_bitsandbytes_are_looked_up_block_by_block() -> None:
    codes = torch.randint(0, 16, (6, 32), generator=rng())
    table, scale = torch.randn(16, generator=rng()), torch.rand(3, generator=rng())
    flat = codes.flatten()
    state = {"a": ((flat[::2] << 4) | flat[1::2]).to(torch.uint8)[:, None], "b": table, "c": scale}
    expected = (table[flat] * scale.repeat_interleave(64)).reshape(6, 32)
    assert torch.equal(LookedUp(A, B, C, 4, 64, (6, 32)).evaluate(state), expected)
