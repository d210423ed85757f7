"""Packed: weights that a file holds as several tensors, and which file formats or parametrisations do so.

Names alone cannot tell what the weight is, so that such a file is refused by name, with the way out, and never loaded raw.
These are names of formats: whatever the network is called, its packed weights are called so.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

_DEQUANTIZE = "dequantize it with the library that wrote it, and save the float weights"
_REMOVE = "remove the parametrization from the model that it was saved from, and save the plain weights"


@dataclass(frozen=True, slots=True)
class Packing:
    """How weights are packed: the last names of the tensors that show it, all of which must be there, and the way out.

    What begins with `_` is the end of a last name.
    """

    name: str
    shown_by: tuple[str, ...]
    way_out: str


PACKINGS: tuple[Packing, ...] = (
    Packing("GPTQ or AWQ", ("qweight", "qzeros"), _DEQUANTIZE),
    Packing("bitsandbytes in 8 bits", ("SCB",), _DEQUANTIZE),
    Packing("bitsandbytes in 4 bits", ("absmax", "quant_map"), _DEQUANTIZE),
    Packing("numbers of few bits with scales (fp8)", ("weight_scale_inv",), _DEQUANTIZE),
    Packing("numbers of few bits with scales", ("weight_scale",), _DEQUANTIZE),
    Packing("blocks of 4 bits with shared exponents (MXFP4)", ("_blocks", "_scales"), _DEQUANTIZE),
    Packing("compressed-tensors", ("weight_packed",), _DEQUANTIZE),
    Packing("pruning with masks", ("weight_orig", "weight_mask"), _REMOVE + " (torch.nn.utils.prune.remove)"),
    Packing("spectral norm", ("weight_orig", "weight_u"), _REMOVE),
    Packing("weight norm", ("weight_g",), _REMOVE),
    Packing("weight norm", ("original0",), _REMOVE),
)


def packing_of(left: Collection[str], all_keys: Collection[str]) -> Packing | None:
    """Return how weights of a file are packed, by the keys that nothing reads; None where none shows it.

    >>> packing_of(["0.SCB"], ["0.weight", "0.SCB"]).name
    'bitsandbytes in 8 bits'
    >>> experts = ["experts.down_proj_blocks", "experts.down_proj_scales"]
    >>> packing_of(experts, experts).name
    'blocks of 4 bits with shared exponents (MXFP4)'
    """
    if left and all("lora_" in key for key in all_keys):
        return Packing(
            "an adapter (LoRA) alone, without the weights that it changes",
            ("lora_A",),
            "load it into a model with such adapters, or merge it into its base model first (peft: merge_and_unload)",
        )
    unread, names = ({key.rpartition(".")[2] for key in keys} for keys in (left, all_keys))
    return next((one for one in PACKINGS if _shown(one, names, all) and _shown(one, unread, any)), None)


def _shown(packing: Packing, names: Collection[str], how_many: Callable[[Iterable[bool]], bool]) -> bool:
    return how_many(
        part in names or (part.startswith("_") and any(name.endswith(part) for name in names)) for part in packing.shown_by
    )
