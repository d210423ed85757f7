"""KeyMapping: an expression over source keys for every destination key, to apply, load, save and print.

It holds expressions and findings about every key, but no values of either model.

>>> import torch
>>> mapping = KeyMapping({"head.weight": "fc.weight"})
>>> list(mapping.apply({"fc.weight": torch.zeros(2, 3)}))
['head.weight']
>>> KeyMapping.from_json(mapping.to_json()) == mapping
True
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Self

from torch import nn

from fxmap.errors import ArgumentError
from fxmap.expressions.base import Expression, Source
from fxmap.files.writing import write_text
from fxmap.mapping.applying import (
    evaluate,
    refuse_incomplete,
    refuse_lacking_ranges,
    refuse_unknown,
    refuse_unusable,
    sources_of,
    whole_ones,
)
from fxmap.mapping.combining import Combinable, Whole
from fxmap.mapping.exports import Exports
from fxmap.mapping.findings import Findings, Note
from fxmap.mapping.given import AbsentKey, found_in, given_expressions, given_json, given_state
from fxmap.mapping.graphs import Graphs
from fxmap.mapping.lazy_state import LazyState, lazily
from fxmap.mapping.next_steps import Step
from fxmap.mapping.opened import opened_state
from fxmap.mapping.page import notebook, page
from fxmap.mapping.proof import Proof, Status
from fxmap.mapping.python_source import module_source
from fxmap.mapping.report import describe, summarise
from fxmap.mapping.serial import read_json, write_json
from fxmap.mapping.shapes import refuse_other_shapes, shapes_taken
from fxmap.mapping.sharded import is_sharded, load_sharded
from fxmap.mapping.verdict import refuse_refuted, warn_of_guesses, warn_of_kept, warn_of_refuted
from fxmap.mapping.versions import with_versions
from fxmap.mapping.writing import Loaded, write_state
from fxmap.model.arguments import refuse_no_model, refuse_other_kind
from fxmap.model.faults import bounded
from fxmap.model.surroundings import undisturbed
from fxmap.model.wrappers import match_prefix
from fxmap.trace import Trace

_NOT_TRACED = Trace()


class KeyMapping(Combinable, Exports):
    """How every destination key is made from source keys.

    As a mapping it goes from destination key to expression, over the keys that the source makes; keys that the
    destination keeps, or that have no source, have a `status` and no expression. Immutable. Two are equal if they make the
    same keys in the same way, whether or not a run has proven that since.

    Args:
        expressions: for each destination key an expression, or its text: a source key for a rename, or what is printed for
            rows, joins, other shapes and orders (`qkv.weight[0:64]`).
        knowledge: statuses, reasons and notes; may be left out in a mapping written by hand.
        proof: the result of running both models; left out, it is one that says that it was not asked for.
        trace: the stages that led to the mapping; no part of equality nor of JSON.
        graphs: the operations of both models and their correspondence, for `to_html`; likewise.
        loaded: whether it has filled its destination, so that the report does not ask for that; likewise.
    """

    def __init__(
        self,
        expressions: Mapping[str, Expression | str],
        knowledge: Findings | None = None,
        proof: Proof | None = None,
        trace: Trace = _NOT_TRACED,
        graphs: Graphs | None = None,
        loaded: bool = False,
    ) -> None:
        self._expressions = given_expressions(expressions)
        self.knowledge = knowledge or Findings(dict.fromkeys(self._expressions, Status.MATCHED))
        self.proof = proof or Proof.not_asked(self.knowledge.statuses)
        self.trace = trace
        self.graphs = graphs
        self.loaded = loaded

    def __getitem__(self, key: str) -> Expression:
        if key not in self._expressions:
            raise AbsentKey(key, self.knowledge.why_absent(key), self.knowledge.statuses.keys())
        return self._expressions[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._expressions)

    def __len__(self) -> int:
        return len(self._expressions)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, KeyMapping):
            return self._expressions == other._expressions and _unverified(self.knowledge) == _unverified(other.knowledge)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def status(self, key: str) -> Status:
        """Return the status of a destination key; a KeyError if the destination has no such key."""
        return found_in(self.knowledge.statuses, key)

    @property
    def ok(self) -> bool:
        """Whether a run proved it: every key that the output depends on is proven or tied; as `proof.ok`."""
        return self.proof.ok

    @property
    def missing(self) -> list[str]:
        """Destination keys that need a source and have none."""
        return self.knowledge.keys_with(Status.MISSING)

    @property
    def unexpected(self) -> list[str]:
        """Source keys that no destination key needs."""
        return list(self.knowledge.unexpected)

    @property
    def left_in_file(self) -> dict[str, str]:
        """The unread keys of the file, each with its role; empty where there was no file."""
        return dict(self.knowledge.left)

    @property
    def mismatched(self) -> list[str]:
        """Destination keys whose counterpart has another shape; `knowledge.mismatched` has both shapes."""
        return self.knowledge.keys_with(Status.MISMATCHED)

    @property
    def renames(self) -> dict[str, str]:
        """Destination key to source key, for tensors that are only renamed."""
        return {key: expression.key for key, expression in self.items() if isinstance(expression, Source)}

    def sources(self) -> set[str]:
        """Return the source keys that some expression reads."""
        return sources_of(self)

    def apply(self, state_dict: Mapping[str, Any], like: Mapping[str, Any] | None = None) -> "OrderedDict[str, Any]":
        """Make the destination's keys from a source state dict; the arguments are not changed.

        Args:
            state_dict: the source's keys, with or without a wrapper's prefix such as `module.`.
            like: a state dict of the destination; the result then has all its keys, in its order, with its values where
                the source makes none, and its `_metadata`. Weights that are tensor subclasses (torchao) are quantized as
                its own are; without it they are float.

        Returns:
            The keys that the source makes, or all of them with `like`. Renamed tensors are the source's own, not copies. Its
            `_metadata` has the versions of the destination's modules, so that `load_state_dict` upgrades nothing.

        Raises:
            MissingCalibration: the destination is static int8, and its ranges are not those of an int8 source.
            QuantizationError: they are, and stand in the destination's code, which no state dict holds.
            MappingError: the state dict lacks a source key, or has another shape where rows or columns are taken.
            DifferentNetworks: the two models are not the same network.
        """
        given_state(state_dict, "apply")
        refuse_unusable(self.knowledge)
        refuse_lacking_ranges(self, self.knowledge)
        warn_of_refuted(self.proof, "apply")
        self._spelled(state_dict)  # for the shapes; `evaluate` spells the keys itself
        return self.evaluate(state_dict, like)

    def lazy(self, state_dict: Mapping[str, Any] | str | Path) -> LazyState:
        """Return the keys that the source makes as a mapping that makes a tensor when it is asked for, and keeps none.

        Args:
            state_dict: the source's keys, or the path of a checkpoint, of which tensors are read when they are needed.

        >>> import torch
        >>> state = KeyMapping({"head.weight": "fc.weight"}).lazy({"fc.weight": torch.ones(2, 2)})
        >>> state.shape("head.weight"), state["head.weight"].sum().item()
        ((2, 2), 4.0)
        """
        warn_of_refuted(self.proof, "lazy")
        return LazyState(self, self._spelled(opened_state(state_dict, "lazy")))

    def _spelled(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a state dict under the source's keys; its tensors have the shapes that the mapping was made for."""
        state, _ = match_prefix(state_dict, self.sources())
        refuse_other_shapes(self, self.knowledge, state)
        return state

    def without_ranges(self) -> "KeyMapping":
        """Return the mapping without the activation ranges of an int8 source: the destination keeps its own.

        >>> KeyMapping({"fc.scale": "scale"}, Findings({"fc.scale": Status.TAKEN})).without_ranges().status("fc.scale")
        <Status.KEPT: 'kept'>
        """
        taken = self.knowledge.keys_with(Status.TAKEN)
        expressions = {key: part for key, part in self.items() if key not in taken}
        statuses = self.knowledge.statuses | dict.fromkeys(taken, Status.KEPT)
        return self._changed(expressions, knowledge=replace(self.knowledge, statuses=statuses, literals={}))

    def evaluate(self, state_dict: Mapping[str, Any], like: Mapping[str, Any] | None = None) -> "OrderedDict[str, Any]":
        """Evaluate all expressions as `apply` does, but accept static int8, with the ranges of `like`, if that is given."""
        own = None if like is None else given_state(like, "like")
        made = evaluate(self, given_state(state_dict, "evaluate"), own)
        return made if own is not None else with_versions(made, self.knowledge.versions)

    @bounded
    @undisturbed
    def load_into(
        self,
        dst: nn.Module,
        state_dict: Mapping[str, Any] | str | Path,
        on_mismatch: Literal["raise", "keep"] = "raise",
        verify: bool | Literal["warn"] = True,
        *,
        assign: bool = False,
    ) -> Loaded:
        """Load a source state dict into the destination: all of it, or nothing.

        Parameters that are DTensors (FSDP2 `fully_shard`, tensor parallel) are filled on every rank with what that rank
        holds, so that no rank holds the model; all ranks call this, and all of them raise where one fails.

        Shapes and dtypes are checked before the first tensor changes; should loading fail all the same, the destination
        gets its old values back, from memory or, if they are many, from a temporary file.

        Args:
            state_dict: the source's keys, or the path of a checkpoint, of which tensors are read when they are needed.
            assign: give the destination new tensors, as `load_state_dict(assign=True)` does, of the dtype that the source
                has: for a model on the meta device.
            on_mismatch: "raise" if a key that the output depends on has no source, or one of another shape; "keep" to
                let the destination keep its own values there.
            verify: refuse a mapping that a run has refuted (`proof.refuted`), and warn where outputs differ for a known
                reason; "warn" writes both with a warning, False without.

        Raises:
            LoadError: a key does not fit, or nothing would be written.
            ProofError: both models were run, their outputs differ, and no known difference of the models explains it.
            CheckpointError: a file cannot be read.
            MissingCalibration, MappingError, DifferentNetworks: as `apply`.

        Memory: the largest tensor beside the destination and what is in memory of the source.
        """
        refuse_no_model("dst", dst, "The order is mapping.load_into(dst, state_dict)")
        own = dst.state_dict()
        if on_mismatch == "raise":
            self.require_complete()
            refuse_unknown(self, self.knowledge, own)
        elif on_mismatch != "keep":
            raise ArgumentError(f'on_mismatch is "raise" or "keep", not {on_mismatch!r}')
        refuse_refuted(self.proof, verify)
        if verify is not False:
            warn_of_guesses(self.knowledge)
            warn_of_kept(self, self.knowledge, own)
        refuse_unusable(self.knowledge)
        refuse_lacking_ranges(self, self.knowledge)
        given = self._spelled(opened_state(state_dict, "load_into"))
        if is_sharded(own):
            if assign:
                raise ArgumentError("assign=True is for plain tensors: give a sharded model memory by to_empty(device=...)")
            return load_sharded(dst, LazyState(whole_ones(self), given), self.knowledge)
        return write_state(dst, lazily(self, given, own), self.keys(), self.knowledge, assign=assign)

    def require_complete(self) -> None:
        """Raise an error if a key that the destination's output depends on has no source.

        Raises:
            LoadError: there are such keys; the message names them, why, and the ways out.
            DifferentNetworks: the two models are not the same network.
        """
        refuse_unusable(self.knowledge)
        refuse_incomplete(self, self.knowledge)

    def write(self, dst: nn.Module, full: Mapping[str, Any]) -> Loaded:
        """Load a full destination state dict into the model, all or nothing; keys made by the mapping are checked first.

        Raises:
            LoadError: keys, shapes or dtypes do not fit, or the model refused; the destination is as it was.
            QuantizationError: the destination was prepared for QAT, and would divide by 0.
        """
        return write_state(dst, full, self.keys(), self.knowledge)

    def _alike(self, expressions: Mapping[str, Expression], knowledge: Findings) -> Self:
        return type(self)(expressions, knowledge)

    def _of(self, whole: Whole) -> Self:
        return type(self)(whole.expressions, whole.findings, whole.proof)

    def to_json(self) -> str:
        """Write the mapping as JSON: expressions and statuses, no values; of the proof, whether a run refuted it."""
        return write_json(self, self.knowledge, self.proof)

    @classmethod
    def from_json(cls, text: str) -> "KeyMapping":
        """Read a mapping from the JSON that `to_json` writes.

        Keys that it calls proven are `claimed`, until `fxmap.verify` has proven them here: a file can say anything. One
        that a run refuted stays refuted, until `with_proof` gives it another proof.

        Raises:
            MappingError: the text is not such JSON; the message says where.
        """
        return cls(*read_json(given_json(text)))

    def to_python(self) -> str:
        """Write a function `convert(state)` that needs torch alone."""
        warn_of_refuted(self.proof, "to_python")
        return module_source(self._expressions, shapes_taken(self, self.knowledge))

    def with_knowledge(self, **changes: Any) -> "KeyMapping":
        """Return the same mapping with other findings: `changes` are fields of `Findings`."""
        return self._changed(knowledge=replace(self.knowledge, **changes))

    def with_notes(self, *notes: Note) -> "KeyMapping":
        """Return the same mapping with more notes in its report."""
        return self.with_knowledge(notes=(*self.knowledge.notes, *notes))

    def with_proof(self, proof: Proof) -> "KeyMapping":
        """Return the same mapping with a proof, whose statuses replace its own."""
        return self._changed(knowledge=replace(self.knowledge, statuses=proof.statuses), proof=proof)

    def with_verdict(self, proof: Proof) -> "KeyMapping":
        """Return the same mapping with another proof, whose statuses do not replace its own."""
        return self._changed(proof=proof)

    def with_trace(self, trace: Trace) -> "KeyMapping":
        """Return the same mapping with the trace of the stages that made it."""
        return self._changed(trace=trace)

    def with_graphs(self, graphs: Graphs) -> "KeyMapping":
        """Return the same mapping with the graphs of both models."""
        return self._changed(graphs=graphs)

    def with_loaded(self) -> "KeyMapping":
        """Return the same mapping, which has filled its destination."""
        return self._changed(loaded=True)

    def _changed(self, expressions: Mapping[str, Expression] | None = None, **parts: Any) -> "KeyMapping":
        own: dict[str, Any] = {name: getattr(self, name) for name in ("knowledge", "proof", "trace", "graphs", "loaded")}
        return KeyMapping(self._expressions if expressions is None else expressions, **(own | parts))

    def summary(self, all_keys: bool = False, step: Callable[[Step], str] = str) -> str:
        """Return what `fxmap map` prints: the verdict, the mapping generalised over layers, what is open, the next step.

        Args:
            all_keys: one line for every key, instead of at most a screen of patterns.
            step: how a next step is said; as a line of Python if left out.

        >>> print(KeyMapping({f"layers.{i}.weight": f"h.{i}.weight" for i in range(12)}).summary())
        no proof asked for; 12 of 12 destination keys are made from the source: 12 renamed
          h.{i}.weight -> layers.{i}.weight, i = 0..11
             12  matched by structure, not proven
        proof: not asked for: run both models with fxmap.verify(src, dst, mapping)
        next: prove it: fxmap.verify(src, dst, mapping)
        """
        return summarise(self._expressions, self.knowledge, self.proof, all_keys, step, self.loaded)

    def to_html(self, path: str | Path | None = None, *, title: str = "fxmap") -> str:
        """Return the report as one HTML page that needs no network, and write it to a file if a path is given.

        It shows both graphs side by side, with what corresponds to what, the table of keys, and the proof. About 350 bytes
        for each operation and key.

        Raises:
            CheckpointError: the file cannot be written; one that was there is then as it was.
        """
        refuse_other_kind("path", path, (str, Path, NoneType), "that of a file")
        text = page(self._expressions, self.knowledge, self.proof, self.graphs, title, self.loaded)
        if path is not None:
            write_text(Path(path), text)
        return text

    def _repr_html_(self) -> str:
        return notebook(self._expressions, self.knowledge, self.proof, self.loaded)

    def __str__(self) -> str:
        return describe(self._expressions, self.knowledge, self.proof)

    def __repr__(self) -> str:
        left = f"{len(self.missing)} missing, {len(self.mismatched)} mismatched"
        return f"<KeyMapping of {len(self)} keys, {self.proof.verdict}; {left}>"


def _unverified(findings: Findings) -> Findings:
    return replace(findings, statuses={key: status.unverified for key, status in findings.statuses.items()})
