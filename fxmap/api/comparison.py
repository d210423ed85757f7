"""verify_files: whether a checkpoint holds what a mapping makes of another one."""

from collections.abc import Mapping
from pathlib import Path

from fxmap.api.graph_file import tensors_in
from fxmap.expressions.base import Expression
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.streaming.comparing import Compared, Progress, compare


def verify_files(
    source: str | Path,
    checkpoint: str | Path,
    mapping: Mapping[str, Expression | str],
    *,
    weights: str | None = None,
    progress: Progress | None = None,
) -> Compared:
    """Check that a checkpoint holds what a mapping makes of another one, bit for bit; no model is needed.

    Args:
        source, checkpoint: files (also .onnx and .pt2), indices of shards, or folders, as in `load`; tensors of checkpoints
            are read block by block.
        mapping: a KeyMapping, or a dict that one can be made of.
        weights: which set of weights of the source is meant, as in `load`.
        progress: called with the bytes done, the bytes in all, and the key, after every block.

    Returns:
        The result: `ok`, and the keys that differ with the size of the difference. A value in another floating-point dtype
        is equal where it is the mapping's one, converted.

    Raises:
        CheckpointError: a file cannot be read.
        MappingError: the source lacks a key.

    Memory: 32 MiB of both; a tensor where its expression needs the whole. Cost: both files are read once.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one, other = Path(folder) / "a.pth", Path(folder) / "b.pth"
    ...     torch.save({"qkv": torch.arange(6.0)}, one)
    ...     torch.save({"q": torch.arange(2.0), "v": torch.arange(6.0)[4:]}, other)
    ...     print(verify_files(one, other, {"q": "qkv[0:2]", "v": "qkv[4:6]"}))
    2 of 2 keys are equal, bit for bit
    """
    by_hand = mapping if isinstance(mapping, KeyMapping) else KeyMapping(mapping)
    ours, theirs = tensors_in(source, weights, as_source=True), tensors_in(checkpoint)
    return compare(by_hand, ours, theirs, progress or (lambda done, total, what: None))
