"""The functions of weights that are stored as several tensors: scales, codes, bits, a mask, singular vectors.

Like `functions`, this module needs torch alone: `KeyMapping.to_python` prints its functions.

>>> block_scaled(torch.tensor([[1, 2], [3, 4]], dtype=torch.int8), torch.tensor([0.5, 2.0]), None, ())
tensor([[0.5000, 1.0000],
        [6.0000, 8.0000]])
"""

import torch
from torch import Tensor


def spectral_normed(weight: Tensor, u: Tensor, v: Tensor, axis: int) -> Tensor:
    """Return `weight / sigma`, where sigma is its largest singular value, `u @ W @ v` with the rows of W along `axis`.

    Miyato et al. 2018, arXiv 1802.05957; as torch computes it in eval mode, where u and v are not updated.

    >>> spectral_normed(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), 0)
    tensor([[1.0000, 0.0000],
            [0.0000, 0.2500]])
    """
    matrix = weight.movedim(axis, 0).flatten(1)
    return weight / torch.dot(u, torch.mv(matrix, v))


def block_scaled(value: Tensor, scale: Tensor, zero_point: Tensor | None, block: tuple[int, ...]) -> Tensor:
    """Return `(value - zero_point) * scale` in float32, with a scale for all, for each row, or for each block.

    Args:
        value: numbers of few bits, `o i` or `... o i`.
        scale: one number, one for each row, a tensor that broadcasts, or one number for each block.
        zero_point: of the shape of `scale`, or None for 0.
        block: rows and columns of the blocks that have one scale each, from the first row and column on; empty for none.
    """
    result = value.float()
    if zero_point is not None:
        result = result - spread(zero_point.float(), result, block)
    return result * spread(scale.float(), result, block)


def spread(scale: Tensor, value: Tensor, block: tuple[int, ...]) -> Tensor:
    """Return scales in a shape that broadcasts against the values: one for each row, or repeated over their blocks."""
    if block:
        whole = scale.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
        return whole[..., : value.shape[-2], : value.shape[-1]]
    if scale.numel() == 1:
        return scale.reshape(())
    return scale.reshape(-1, *[1] * (value.dim() - 1)) if scale.dim() == 1 else scale


def looked_up(codes: Tensor, table: Tensor, scale: Tensor, bits: int, block: int, shape: tuple[int, ...]) -> Tensor:
    """Return numbers of a table by their codes, each block of them times its scale, as bitsandbytes stores them.

    Codes of 4 bits share a byte, the first one in its upper half. Dettmers et al. 2023, arXiv 2305.14314.

    >>> table = torch.arange(16.0)
    >>> looked_up(torch.tensor([[0x12], [0x30]], dtype=torch.uint8), table, torch.tensor([1.0, 10.0]), 4, 2, (2, 2))
    tensor([[ 1.,  2.],
            [30.,  0.]])
    """
    numbers = codes.flatten().to(torch.int64)
    if bits == 4:
        numbers = torch.stack([numbers >> 4, numbers & 15], 1).flatten()
    count = 1
    for extent in shape:
        count *= extent
    scales = scale.flatten().float().repeat_interleave(block)[:count]
    return (table.float()[numbers[:count]] * scales).reshape(shape)


def unpacked_bits(words: Tensor, bits: int) -> Tensor:
    """Return the numbers of few bits in words of 32, lowest bits first, along the first axis.

    Numbers of 3 bits may begin in one word and end in the next.

    >>> unpacked_bits(torch.tensor([[0x21]], dtype=torch.int32), 4).flatten().tolist()
    [1, 2, 0, 0, 0, 0, 0, 0]
    """
    words = words.to(torch.int64)
    width = bits if 32 % bits == 0 else 1
    places = torch.arange(0, 32, width, device=words.device)
    parts: Tensor = (words[:, None] >> places[None, :, None]) & (2**width - 1)
    flat = parts.reshape(-1, words.shape[1])
    if width == bits:
        return flat
    bit = flat.reshape(-1, bits, words.shape[1]) << torch.arange(bits, device=words.device)[None, :, None]
    return bit.sum(1)


def gptq(words: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor | None, bits: int, shift: int) -> Tensor:
    """Return the weight, `o i`, that GPTQ stores as words `i/n o`, zeros `g o/n` and scales `g o`.

    `(q - z) * scale`, where `groups` says for each input which row of zeros and scales is its own, and `shift` is what was
    taken off the zeros when they were stored: 1 in the first version of the format. Frantar et al. 2023, arXiv 2210.17323.
    """
    numbers = unpacked_bits(words, bits)
    points = (unpacked_bits(zeros.t(), bits).t()[:, : scales.shape[1]] + shift) & (2**bits - 1)
    size = -(-numbers.shape[0] // scales.shape[0])
    own = torch.arange(numbers.shape[0], device=words.device) // size if groups is None else groups.long()
    weight: Tensor = (numbers - points[own]) * scales.float()[own]
    return weight.t().contiguous()


def awq(words: Tensor, zeros: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Return the weight, `o i`, that AWQ stores as words `i o/n`, zeros `g o/n` and scales `g o`.

    `(q - z) * scale`; the numbers of a word stand in the order 0, 2, 4, 6, 1, 3, 5, 7. Lin et al. 2024, arXiv 2306.00978.
    """
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7], device=words.device)

    def read(part: Tensor) -> Tensor:
        numbers = unpacked_bits(part.t(), bits).t()
        return numbers.reshape(len(part), -1, len(order))[:, :, order].reshape(len(part), -1)

    size = -(-words.shape[0] // scales.shape[0])
    points, factors = (part.repeat_interleave(size, 0)[: words.shape[0]] for part in (read(zeros), scales.float()))
    return ((read(words) - points) * factors).t().contiguous()
