"""The similarity of two names, word by word: `conv` abbreviates `convolution`, `q` abbreviates `query`."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = tuple[str, ...]


# Words further from the end than this tell the place of a module, not its function.
_LAST = 6


def words(path: Sequence[str]) -> Words:
    """Return the words of a path, without parts that are only numbers, and without the numbers of blocks (`block3`).

    Lists begin at 0 or at 1: that two blocks have one number is no sign that they correspond.

    >>> words(("layers", "3", "selfAttn", "q_proj", "weight"))
    ('layers', 'self', 'attn', 'q', 'proj', 'weight')
    """
    *around, owner, leaf = ("", *path) if len(path) > 1 else ("", "", *path)
    named = [*(re.sub(r"[\d_-]+$", "", part) for part in around), re.sub(r"_\d+$", "", owner), leaf]
    spaced = (re.sub(r"([a-z])([A-Z])", r"\1_\2", part).lower() for part in named if not part.isdigit())
    return tuple(word for part in spaced for word in re.findall(r"[a-z]+|\d+", part))[-_LAST:]


def word_similarity(one: str, other: str) -> float:
    """Return 1 for equal words, less where one begins or abbreviates the other, and 0 where neither does.

    >>> word_similarity("q", "query"), word_similarity("ln", "layernorm"), word_similarity("mean", "var")
    (0.8, 0.6, 0.0)
    """
    if one == other:
        return 1.0
    short, long = sorted((one, other), key=len)
    if short.isdigit() or long.isdigit() or short[0] != long[0]:
        return 0.0
    if long.startswith(short):
        return 0.8
    letters = iter(long)
    return 0.6 if all(letter in letters for letter in short) else 0.0


def name_similarities(ours: Sequence[Words], theirs: Sequence[Words]) -> NDArray[np.float64]:
    """Return the similarity, from 0 to 1, of names at equal positions: the share of their words with a counterpart.

    Rare words count more. Time and memory grow with the number of pairs.

    >>> name_similarities([("conv", "weight"), ("conv", "weight")], [("convolution", "weight"), ("norm", "bias")]).round(2)
    array([0.87, 0.  ])
    """
    counts = Counter(word for side in (ours, theirs) for name in set(side) for word in set(name))
    vocabulary = {word: number for number, word in enumerate(counts)}
    weight = np.array([1 / (1 + math.log(count)) for count in counts.values()] + [0.0])
    left, right = (_padded([[vocabulary[word] for word in name] for name in side], len(counts)) for side in (ours, theirs))
    table = _alike(list(counts), left[:, :, None], right[:, None, :])
    found = (weight[left] * table.max(2, initial=0)).sum(1) + (weight[right] * table.max(1, initial=0)).sum(1)
    result: NDArray[np.float64] = found / np.maximum(weight[left].sum(1) + weight[right].sum(1), 1e-9)
    return result


def _alike(words: Sequence[str], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the similarities of words, given by index; each pair of words is compared once."""
    cells, places = np.unique(left * (len(words) + 1) + right, return_inverse=True)
    known = [*words, ""]
    values = [
        word_similarity(known[one], known[other]) if one < len(words) and other < len(words) else 0.0
        for one, other in zip(*np.divmod(cells, len(words) + 1), strict=True)
    ]
    return np.array(values)[places].reshape(np.broadcast_shapes(left.shape, right.shape))


def _padded(rows: Sequence[Sequence[int]], fill: int) -> NDArray[np.int64]:
    width = max((len(row) for row in rows), default=0) or 1
    return np.array([[*row, *[fill] * (width - len(row))] for row in rows], dtype=np.int64).reshape(len(rows), width)
