"""The file against the source model: whether the file holds every tensor that the model reads, and no others.

Four things are checked: keys that the model reads and the file lacks; shapes, where the file's win; keys of the file that
nothing reads; and values of the model itself that the proof used and that differ in the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fxmap.api.file_tables import has_other_integers, own_buffers, with_tables
from fxmap.api.lacking import lacking_said
from fxmap.api.resize import resized
from fxmap.api.stored_form import file_read
from fxmap.errors import LoadError, shorten
from fxmap.files.checkpoint import Checkpoint
from fxmap.files.computed.int8 import is_int8
from fxmap.files.left_over import LeftOver, left_over
from fxmap.files.packed import packing_of
from fxmap.mapping.findings import Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.model.tensors import has_place, is_whole
from fxmap.model.wrappers import spell


@dataclass(frozen=True)
class SourceFile:
    """The weights of a file, under the keys of the source model, if there is one.

    Attributes:
        state: the weights.
        src: the source model, with the shapes of the file; None where keys are matched by names.
        where: the file, for messages.
        keys: how a key of `state` is spelled in the file, where that differs.
        aside: keys of the file that belong to other weights, each with the name of those weights.
        notes: notes for the report.
        read: keys of `state` from which weights are computed, or which say how they are stored.
        tables: integers of the source model, by key, which has the file's numbers of them in the place of its own.
    """

    state: Mapping[str, Any]
    src: nn.Module | None
    where: str
    keys: dict[str, str] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    read: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Checkpoint, src: nn.Module | None, *, run: bool = True) -> "SourceFile":
        """Rename the keys of a file to the source model's, and give that model the tensor shapes of the file.

        If the models are to be run, the source also gets the file's integers and booleans, which no mapping carries over.

        Raises:
            LoadError: the file is not of this model at all.
        """
        if src is None:
            return cls(found.state, None, found.where, {}, found.set_aside, read=tuple(found.computed.read))
        own = src.state_dict()
        # An int8 model has packed entries itself.
        held = found.state if is_int8(own) else found.computed.evaluated(found.state)
        spelling = spell(held, own)
        state = {spelling.names[key]: value for key, value in held.items()}
        for key, twin in _tied(own).items():
            if key not in state and twin in state:
                state[key] = state[twin]
        _refuse_strangers(state, own, src, found.where)
        state = dict(file_read(src, state, found.where))
        model, changed = resized(src, state)
        model, tables = with_tables(model, state) if run else (model, [])
        notes = [Note(f"wrappers: {spelling.note}", NoteKind.WRAPPERS)] if spelling.note else []
        if changed:
            key = changed[0]
            notes.append(
                Note(
                    f"src has other sizes than the file, whose are used: {key} is {list(own[key].shape)} in src and "
                    f"{list(state[key].shape)} in {found.where} ({shorten(changed)})",
                    NoteKind.CHECKPOINT,
                )
            )
        keys = {name: key for key, name in spelling.names.items() if name != key}
        return cls(state, model, found.where, keys, found.set_aside, tuple(notes), tables=tuple(tables))

    def read_by(self, mapping: KeyMapping, on_mismatch: Literal["raise", "keep"]) -> KeyMapping:
        """Return the mapping without keys whose sources the file lacks, and with a list of the unread keys of the file.

        Raises:
            LoadError: the file lacks keys that the source model reads, and `on_mismatch` is "raise".
        """
        mapping = mapping.with_notes(*self.notes)
        lost = mapping.sources() - self.state.keys()
        reason = ""
        if lost:
            mapping, needed = self._without(mapping, lost, on_mismatch)
            reason = f"{self.where} lacks {shorten(needed)}" if needed else ""
        found = self._left(mapping)
        listed = {self.keys.get(one.key, one.key): one.what for one in found}
        listed |= {key: f"of other weights in the file: {name}" for key, name in self.aside.items()}
        mapping = mapping.with_knowledge(left=listed)
        mapping = self._with_tables_told(mapping)
        telling = self._telling(found)
        if telling and not reason:
            reason = f"the file holds more than is read, and what that does is not known: {shorten(telling)}"
        if reason and mapping.proof.asked:
            return mapping.with_verdict(replace(mapping.proof, ok=False, reason=reason))
        own = mapping.proof.own_state
        if own and self.src is not None and self._has_values_of(self.src, own):
            notes = (
                *mapping.proof.notes,
                f"{shorten(list(own))}: the file has the values that the source was compared with",
            )
            return mapping.with_verdict(replace(mapping.proof, ok=True, reason="", notes=notes, own_state=()))
        return mapping

    def _with_tables_told(self, mapping: KeyMapping) -> KeyMapping:
        """Return the mapping, whose proof says with which integers the source was run, where no key is made of these."""
        changed = [self.keys.get(key, key) for key in self.tables if key not in mapping.sources()]
        if not changed or not mapping.proof.forwards:
            return mapping
        note = f"{shorten(changed)}: the file has other numbers of it than src, and the source was compared with the file's"
        return mapping.with_verdict(replace(mapping.proof, notes=(*mapping.proof.notes, note)))

    def telling(self, mapping: KeyMapping) -> list[str]:
        """Return the keys of the file that nothing reads, and that may have mattered to the model that was saved."""
        return self._telling(self._left(mapping))

    def _telling(self, found: Sequence[LeftOver]) -> list[str]:
        return [self.keys.get(one.key, one.key) for one in found if not one.inert and self._is_inside(one.key)]

    def _has_values_of(self, src: nn.Module, keys: Sequence[str]) -> bool:
        known = src.state_dict()
        pairs = [(known.get(key), self.state.get(key)) for key in keys]
        return all(isinstance(a, Tensor) and isinstance(b, Tensor) and _has_numbers_of(a, b) for a, b in pairs)

    def refuse_packed(self, mapping: KeyMapping) -> None:
        """Refuse a file whose weights are packed, or computed from several tensors, where nothing unpacks them.

        Raises:
            LoadError: there are tensors of such a packing that nothing reads.
        """
        left = [one.key for one in self._left(mapping)]
        packing = packing_of(left, self.state)
        if packing is None:
            return
        shown = [self.keys.get(key, key) for key in left if key.rpartition(".")[2] in packing.shown_by] or left
        raise LoadError(
            f"{shorten(shown)}: {self.where} holds {packing.name}, from which the weights would have to be computed. "
            f"Nothing was written. {packing.way_out[0].upper()}{packing.way_out[1:]}; or give the model that it was saved "
            "from (src=)"
        )

    def account(self, mapping: KeyMapping, strict: bool) -> None:
        """Refuse a file with layers of which some tensors are read and others are not.

        Raises:
            LoadError: there are tensors of layers, or of blocks, of which others are read.
        """
        grave = [one for one in self._left(mapping) if one.grave]
        if not strict or not grave or (self.src is None and mapping.missing):
            return
        keys = [self.keys.get(one.key, one.key) for one in grave]
        reader = "the destination" if self.src is None else f"src ({type(self.src).__name__})"
        merge = " Adapters can be merged first (peft: model.merge_and_unload())." if "LoRA" in grave[0].what else ""
        way_out = "Give the model that the file was saved from (src=)"
        if any(one.key in self.tables for one in grave):
            way_out = "Give the destination the same numbers of it, or one that has a place for them"
        if any("has another value" in one.what for one in grave):
            way_out = "Load the file into src first (src.load_state_dict), so that it is compared with these values"
        raise LoadError(
            f"{self.where} holds more than {reader} reads: {shorten(keys)}: {grave[0].what}. Without it, what would be "
            f"loaded computes something else than the model that was saved. Nothing was written.{merge} "
            f"{way_out}, or pass strict=False to leave these keys in the file"
        )

    def _without(
        self, mapping: KeyMapping, lost: set[str], on_mismatch: Literal["raise", "keep"]
    ) -> tuple[KeyMapping, list[str]]:
        """Drop destination keys whose sources the file lacks; also return these sources, except integer counters."""
        known = {} if self.src is None else self.src.state_dict()
        needed = [key for key in known if key in lost and not _is_counter(known[key])]
        if needed and on_mismatch == "raise":
            raise LoadError(lacking_said(needed, known, self.state, self.where, type(self.src).__name__))
        dropped = {key for key, part in mapping.items() if lost & set(part.sources())}
        statuses = dict(mapping.knowledge.statuses)
        for key in dropped:
            statuses[key] = Status.MISSING if set(needed) & set(mapping[key].sources()) else Status.KEPT
        reasons = mapping.knowledge.reasons | dict.fromkeys(dropped, f"{self.where} lacks it")
        rest = {key: part for key, part in mapping.items() if key not in dropped}
        knowledge = replace(mapping.knowledge, statuses=statuses, reasons=reasons)
        return KeyMapping(rest, knowledge, replace(mapping.proof, statuses=statuses), mapping.trace, mapping.graphs), needed

    def _left(self, mapping: KeyMapping) -> list[LeftOver]:
        used = mapping.sources() | {one.source for one in mapping.knowledge.mismatched}
        if self.src is None:
            return list(left_over(self.state, used, set(self.read) - used))
        known = self.src.state_dict()
        read = used | {key for key, twin in _tied(known).items() if twin in used or key in used}
        strange = left_over({key: value for key, value in self.state.items() if key in used or key not in known}, used)
        made = own_buffers(self.src)
        return [*(self._made(mapping, one, made) for one in map(self._placed, strange)), *self._unread(mapping, known, read)]

    def _made(self, mapping: KeyMapping, one: LeftOver, made: Mapping[str, Tensor]) -> LeftOver:
        """Return a left over key; what the code of src makes itself was compared with the file's numbers of it."""
        if one.key not in made or made[one.key].shape != getattr(self.state[one.key], "shape", None):
            return one
        if self._is_missed(mapping, one.key):
            return self._missed(mapping, one.key)
        same = one.key not in self.tables
        what = "src makes it itself, with the same numbers" if same else self._had(one.key, made[one.key])
        return LeftOver(one.key, what, inert=True)

    def _placed(self, one: LeftOver) -> LeftOver:
        """Return a left over key; one that stands outside of the prefix that src has in the file is no part of src."""
        if not one.grave or "lora_" in one.key or self._is_inside(one.key):
            return one
        return LeftOver(one.key, "a part of its own, beside the weights of src")

    def _unread(self, mapping: KeyMapping, known: Mapping[str, Any], read: set[str]) -> list[LeftOver]:
        """List unread keys that both the source model and the file have; some with another value in the file are grave."""
        unread = [key for key in known if key in self.state and key not in read and isinstance(known[key], Tensor)]
        parameters = {key for key, _ in self.src.named_parameters(remove_duplicate=False)} if self.src is not None else set()
        plain = mapping.knowledge.stages[0] in ("float", "quantizable")
        result = []
        for key in unread:
            members = _part(key, unread, known)
            is_part = any(other in parameters and not _is_constant(known[other]) for other in members)
            place = _place_in(mapping, key)
            if self._is_missed(mapping, key):
                result.append(self._missed(mapping, key))
            elif not plain or is_part or not _differs(known[key], self.state[key]):
                result.append(LeftOver(key, f"{self._had(key, known[key])}, and {place}", inert=True))
            else:
                text = f"src has another value of it, with which it was compared, and {place}"
                result.append(LeftOver(key, text, grave=True))
        return result

    def _missed(self, mapping: KeyMapping, key: str) -> LeftOver:
        text = "src computes with the file's numbers of it, which are not those that it was built with"
        return LeftOver(key, f"{text}, and {_place_in(mapping, key)}", grave=True)

    def _is_missed(self, mapping: KeyMapping, key: str) -> bool:
        """Whether the models differ with the file's numbers of a table, and with nothing else that the mapping lacks."""
        return key in self.tables and mapping.proof.differs and not mapping.missing and not mapping.mismatched

    def _had(self, key: str, own: Any) -> str:
        if key in self.tables:
            return "src has it with other numbers than the file, whose were compared"
        if has_other_integers(own, self.state[key]):
            return "src has it with other numbers than the file, which were not compared"
        return "src has it"

    def _is_inside(self, key: str) -> bool:
        """Whether a key of the file has the prefix that the source model's keys have in the file."""
        root = next((full[: -len(name)] for name, full in self.keys.items() if full.endswith(name)), "")
        return self.keys.get(key, key).startswith(root)


def refuse_uncomputed(found: Checkpoint) -> None:
    """Refuse a file with weights that are stored as several tensors, from which they cannot be computed.

    Raises:
        LoadError: there are such weights; the message says of which kind they are, why, and the way out.
    """
    refused = found.computed.refused
    if not refused:
        return
    reason = next(iter(refused.values()))
    packing = packing_of(found.state, found.state)
    name = packing.name if packing else "weights stored as several tensors"
    raise LoadError(
        f"{shorten(found.computed.withheld(found.state))}: {found.where} holds {name}, from which the weights cannot be "
        f"computed: {reason}. Nothing was written. Or give the model that it was saved from (src=), or a file of plain "
        "weights, which the library that wrote this one can make"
    )


def _refuse_strangers(state: Mapping[str, Any], own: Mapping[str, Any], src: nn.Module, where: str) -> None:
    shared = [key for key in own if key in state]
    other = [key for key in shared if _shape(own[key]) != _shape(state[key])]
    if own and (not shared or len(other) > len(shared) / 2):
        text = (
            f"{where}: {len(shared)} of the {len(own)} keys of src ({type(src).__name__}) are in the file, {len(other)} of "
            f"them with other shapes. The file has {shorten(list(state))}, src has {shorten(list(own))}: src is not the "
            "model of this file. Nothing was written. Give the model that it was saved from, or leave src out to match keys "
            "by names"
        )
        raise LoadError(text)


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else type(value)


def _tied(own: Mapping[str, Any]) -> dict[str, str]:
    """Return, for every key that shares its tensor with other keys, one of these."""
    first: dict[tuple[Any, ...], str] = {}
    result: dict[str, str] = {}
    for key, value in own.items():
        if isinstance(value, Tensor) and has_place(value):
            place = value.data_ptr(), value.shape, value.stride()
            if place in first:
                result[key] = first[place]
                result.setdefault(first[place], key)
            first.setdefault(place, key)
    return result


def _place_in(mapping: KeyMapping, key: str) -> str:
    """Say what the destination has in the place of a key that nothing is made of."""
    own = key in mapping.knowledge.statuses
    return "the destination keeps its own" if own else "the destination has no place for it"


def _part(key: str, unread: list[str], known: Mapping[str, Any]) -> list[str]:
    """Return the keys of the largest entirely unread module that a key is in; if there is none, the key alone."""
    parts = key.split(".")
    for depth in range(1, len(parts)):
        inside = [other for other in known if other.startswith(".".join(parts[:depth]) + ".")]
        if all(other in unread or not isinstance(known[other], Tensor) for other in inside):
            return inside
    return [key]


def _is_counter(value: Any) -> bool:
    return isinstance(value, Tensor) and is_whole(value)


def _is_constant(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_meta and bool((value == value.flatten()[:1]).all())


def _has_numbers_of(own: Tensor, other: Tensor) -> bool:
    """Whether a tensor of the file equals the source model's; integer tensors count as well, since something reads them."""
    if own.shape != other.shape or own.is_meta or other.is_meta:
        return False
    return torch.equal(own, other) if not own.is_floating_point() else not _differs(own, other)


def _differs(own: Tensor, other: Any) -> bool:
    if own.is_meta or not isinstance(other, Tensor) or _is_counter(own) or own.is_quantized or other.is_meta:
        return False
    return own.shape != other.shape or not torch.allclose(own, other.to(own), rtol=1e-5, atol=1e-8, equal_nan=True)
