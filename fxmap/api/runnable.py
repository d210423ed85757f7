"""Models as they are run: streamed where one of them has no numbers, or where a user says that they do not fit."""

from typing import TypeVar

from torch import nn

from fxmap.files.checkpoint import Checkpoint
from fxmap.model.replica import is_on_meta, on_meta
from fxmap.run.streamed import streamed

Source = TypeVar("Source", bound=nn.Module | Checkpoint)


def runnable(source: Source, dst: nn.Module, wanted: bool | None) -> tuple[Source | nn.Module, nn.Module]:
    """Return both models as they are run.

    Args:
        source, dst: the two sides.
        wanted: whether weights are streamed; None: where one model is on the meta device.
    """
    if not isinstance(source, nn.Module):
        return source, dst
    bare = is_on_meta(source), is_on_meta(dst)
    if wanted or (wanted is None and any(bare)):
        return streamed(source), streamed(dst)
    # What one side computes from constants (rotary angles, masks) would be compared with nothing on the other.
    return (source, dst) if bare[0] == bare[1] else (on_meta(source), on_meta(dst))
