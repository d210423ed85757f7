"""The formats of checkpoint files: one module each, and one entry each in `FORMATS`."""

from fxmap.files.format import Format
from fxmap.files.formats.dcp import DCP
from fxmap.files.formats.safetensors import SAFETENSORS
from fxmap.files.formats.shards import index_of_shards
from fxmap.files.formats.torch_save import TORCH_SAVE

# Formats of one file, which may also be shards; the first that recognises a file reads it, so that torch.save is last.
_SINGLE: tuple[Format, ...] = (SAFETENSORS, TORCH_SAVE)

FORMATS: tuple[Format, ...] = (index_of_shards(_SINGLE), DCP, *_SINGLE)
