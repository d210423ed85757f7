"""Configs beside a checkpoint file: how strong an adapter is, and how weights are packed, which names do not say."""

import json
from pathlib import Path
from typing import Any

from fxmap.files.computed.kind import Settings

# A larger file is no config.
_LARGEST = 1_000_000


def settings_beside(path: Path) -> Settings:
    """Return what the configs in the folder of a checkpoint say; nothing where there are none, or they cannot be read.

    >>> settings_beside(Path("no such folder"))
    Settings(lora_alpha=None, adapter={}, packing={})
    """
    folder = path if path.is_dir() else path.parent
    packing = _read(folder / "config.json").get("quantization_config")
    for name in ("quantize_config.json", "quant_config.json"):
        packing = packing if isinstance(packing, dict) else _read(folder / name) or None
    return Settings(adapter=_read(folder / "adapter_config.json"), packing=packing if isinstance(packing, dict) else {})


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
