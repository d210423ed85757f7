"""Models as they are run: streamed where one of them has no numbers, or where a user says that they do not fit."""

from typing import TypeVar

from torch import nn

from fxmap.files.checkpoint import Checkpoint
from fxmap.model.replica import is_on_meta, on_meta
from fxmap.run.streamed import streamed
from fxmap.sources.onnx.model import OnnxModel

Source = TypeVar("Source", bound=nn.Module | Checkpoint)

# Numbers: 1 GB in single precision, four times as much in a proof of two models.
_LARGE = 1 << 28


def runnable(source: Source, dst: nn.Module, wanted: bool | None) -> tuple[Source | nn.Module, nn.Module]:
    """Return both models as they are run.

    Args:
        source, dst: the two sides.
        wanted: whether weights are streamed; None: where one model is on the meta device, or where 1 GB or more of the
            source lie in a file beside its graph, so that a proof needs no more memory than reading it does.
    """
    if not isinstance(source, nn.Module):
        return source, dst
    bare = is_on_meta(source), is_on_meta(dst)
    in_file = isinstance(source, OnnxModel) and source.mapped >= _LARGE
    if wanted or (wanted is None and (any(bare) or in_file)):
        return streamed(source), streamed(dst)
    # What one side computes from constants (rotary angles, masks) would be compared with nothing on the other.
    return (source, dst) if bare[0] == bare[1] else (on_meta(source), on_meta(dst))
