"""What a file without its model leaves unsaid: tensors that nothing reads, keys that keep their values, tensors in one."""

import warnings

import torch
from torch import Tensor, nn

from fxmap.api.source_file import SourceFile
from fxmap.errors import LoadError, ProofWarning, shorten
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.model.tied import tied, tied_in
from fxmap.model.wrappers import spell


def refuse_two_in_one(file: SourceFile, dst: nn.Module) -> None:
    """Refuse a file with different values for keys that are one tensor in its model, or else in the destination.

    Raises:
        LoadError: there are such keys.
    """
    model, who = (dst, "the destination") if file.src is None else (file.src, f"src ({type(file.src).__name__})")
    own = model.state_dict()
    names = {name: key for key, name in spell(file.state, own).names.items()}
    for keys in (*tied(own), *tied_in(model)):
        held = {key: file.state[names[key]] for key in keys if key in names}
        tensors = {key: value for key, value in held.items() if isinstance(value, Tensor) and not value.is_meta}
        first, *others = [*tensors, ""]
        for key in filter(None, others):
            if not _same(tensors[first], tensors[key]):
                raise LoadError(
                    f"{first} and {key} are one tensor in {who}, and two with different values in {file.where}: {who} has "
                    "tied what was not tied when the file was saved. Nothing was written. Build it without tying these "
                    "weights, or drop one of the two keys from the file"
                )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def warn_of_rest(file: SourceFile, mapping: KeyMapping) -> None:
    """Warn of tensors of the file that nothing reads, and of keys of the destination that keep their own values.

    No run compares the two models here, so that only this says that the destination may compute something else.
    """
    found = file.telling(mapping)
    if found:
        warnings.warn(
            f"{file.where} holds {len(found)} tensors that nothing in the destination reads: {shorten(found)}. If the model "
            "that was saved used them, the destination computes something else; mapping.left_in_file lists them",
            ProofWarning,
            stacklevel=3,
        )
    kept = [key for key in (*mapping.missing, *mapping.mismatched) if key not in mapping.knowledge.unread]
    if kept:
        warnings.warn(
            f"{len(kept)} keys of the destination keep their own values: {shorten(kept)}; mapping.knowledge.reasons has the "
            "reasons",
            ProofWarning,
            stacklevel=3,
        )
