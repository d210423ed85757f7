"""The formats of checkpoint files: one module each, and one entry each in `FORMATS`."""

from fxmap.files.format import Format
from fxmap.files.formats.dcp import DCP
from fxmap.files.formats.flax import FLAX
from fxmap.files.formats.gguf import GGUF
from fxmap.files.formats.hdf5 import HDF5
from fxmap.files.formats.numpy_archive import NUMPY
from fxmap.files.formats.orbax import ORBAX
from fxmap.files.formats.safetensors import SAFETENSORS
from fxmap.files.formats.shards import index_of_shards
from fxmap.files.formats.tensorflow import TENSORFLOW
from fxmap.files.formats.torch_save import TORCH_SAVE

# Formats of one file, which may also be shards; the first that recognises a file reads it, so that torch.save is last.
_SINGLE: tuple[Format, ...] = (SAFETENSORS, TORCH_SAVE)

# Of other frameworks, none of which writes shards.
_OTHERS: tuple[Format, ...] = (NUMPY, HDF5, FLAX, GGUF, ORBAX, TENSORFLOW)

FORMATS: tuple[Format, ...] = (index_of_shards(_SINGLE), DCP, *_OTHERS, *_SINGLE)
