"""Kept inputs: small ones that were compared, on which keys that move nothing are changed.

Cost: linear in the number of inputs.
"""

from collections.abc import Sequence

from fxmap.prove.inputs.samples import Both

# The most numbers of inputs that are kept, or that come before others in a call, and of all that are kept together.
MANY, _ALL = 100_000, 5_000_000


def numbers(both: Both) -> int:
    """Return how many numbers the inputs of a run have."""
    return sum(value.numel() for value in both[0].flat())


def keeps(tried: Sequence[Both], both: Both, most: int) -> bool:
    """Whether inputs are kept beside those that were: there are fewer than `most`, and they are small."""
    count = numbers(both)
    return len(tried) < most and count <= MANY and sum(map(numbers, tried)) + count <= _ALL
