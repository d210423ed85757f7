"""Adapter: a mapping as the state dict adapter of torchtitan, whose protocol needs nothing of torchtitan itself."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fxmap.errors import MappingError, shorten
from fxmap.expressions.base import Expression
from fxmap.expressions.values import evaluated


class StateDictAdapter:
    """An adapter between a model's own state dict (the destination) and that of Hugging Face's checkpoint (the source).

    It is called as torchtitan's `StateDictAdapter` is; a subclass that `KeyMapping.to_state_dict_adapter` returns holds the
    expressions of both directions. Tensors may be DTensors, and a state dict a part of a model's, as of one stage of a
    pipeline: keys are made where all that they need is there.

    Args:
        model_config: not read.
        hf_assets_path: a folder whose model.safetensors.index.json says into which file a key is saved; None, or a folder
            without one, for a single file.
    """

    forward: ClassVar[Mapping[str, Expression]] = {}
    backward: ClassVar[Mapping[str, Expression]] = {}

    def __init__(self, model_config: Any = None, hf_assets_path: str | None = None) -> None:
        self.model_config, self.hf_assets_path = model_config, hf_assets_path
        self.fqn_to_index_mapping: dict[Any, int] | None = _index_of(hf_assets_path)

    def to_hf(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the checkpoint's keys, made from a state dict of the model."""
        return _made(self.backward, state_dict)

    def from_hf(self, hf_state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the model's keys, made from those of the checkpoint."""
        return _made(self.forward, hf_state_dict)

    def get_hf_storage_reader(self, path: str, from_quantized: bool = False) -> Any:
        """Return torch's reader of safetensors for distributed checkpoints.

        Raises:
            MappingError: `from_quantized`: a mapping says nothing of how a checkpoint is quantized.
        """
        if from_quantized:
            raise MappingError(f"{path}: a quantized checkpoint, which the mapping does not dequantize")
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        return HuggingFaceStorageReader(path)


def adapter_of(
    forward: Mapping[str, Expression], backward: Mapping[str, Expression], reasons: Mapping[str, str]
) -> type[StateDictAdapter]:
    """Return an adapter class for a mapping and its inverse.

    Raises:
        MappingError: a source key has no inverse, so that a checkpoint could not be written back.
    """
    if reasons:
        key, reason = next(iter(reasons.items()))
        raise MappingError(
            f"{shorten(list(reasons))}: cannot be made from the model's own keys, so that there is no to_hf: {key}: {reason}"
        )
    return type("MappedStateDictAdapter", (StateDictAdapter,), {"forward": dict(forward), "backward": dict(backward)})


def _made(expressions: Mapping[str, Expression], state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: evaluated(key, expression, state)
        for key, expression in expressions.items()
        if all(source in state for source in expression.sources())
    }


def _index_of(folder: str | None) -> dict[Any, int] | None:
    """Return the number of the file of each key, as in `model-00002-of-00003.safetensors`."""
    index = None if folder is None else Path(folder) / "model.safetensors.index.json"
    if index is None or not index.is_file():
        return None
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    numbers = {key: re.search(r"\d+", str(name)) for key, name in places.items()}
    return {key: int(found[0]) for key, found in numbers.items() if found is not None}
