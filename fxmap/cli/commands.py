"""The commands of the command line, independent of the terminal: each returns an `Outcome` to print."""

import difflib
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.api.automap import auto_map
from fxmap.api.loading import load
from fxmap.api.verdict import Verify
from fxmap.api.verification import verify
from fxmap.cli.references import UsageError, carried, parse, resolve
from fxmap.errors import MappingError, ProofWarning, shorten
from fxmap.files.checkpoint import Checkpoint, read_tensors
from fxmap.files.reading import existing
from fxmap.files.writing import save
from fxmap.mapping.findings import Note, NoteKind, checkpoint_notes
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Proof
from fxmap.matching.keys.mapper import map_by_name
from fxmap.sources.opened import Carried, carries_graph
from fxmap.trace import stage

# An input that is drawn has at most this many numbers, 1 GiB of them, and a length so many digits.
_LARGEST_INPUT, _DIGITS = 2**28, 12


@dataclass(frozen=True)
class Outcome:
    """The result of a command: as text, as data for JSON, and whether the exit status is 0."""

    text: str
    data: dict[str, Any]
    ok: bool


def map_models(
    src: str,
    dst: str,
    weights: str | None = None,
    inputs: str | None = None,
    all_keys: bool = False,
    html: Path | None = None,
    absorb_eps: bool = False,
    allow_code: bool = False,
) -> Outcome:
    """Map SRC to DST, and write the report as a page if a file is given for it."""
    source, destination = _found(src, weights, allow_code), _found(dst)
    mapping = _mapped(source, destination, inputs, absorb_eps)
    if isinstance(source, Carried) or isinstance(destination, Carried):
        told = [repr(text) if isinstance(one, Carried) else "" for text, one in ((src, source), (dst, destination))]
        mapping = mapping.with_knowledge(carried=tuple(told))
    if html is not None:
        mapping.to_html(html, title=f"{src} to {dst}")
    written = "" if html is None else f"\nwrote {html}"
    text = mapping.summary(all_keys, lambda step: step.on_command_line(src, dst))
    return Outcome(text + written, _data(mapping), mapping.ok)


def verify_file(src: str, dst: str, file: Path, inputs: str | None = None, allow_code: bool = False) -> Outcome:
    """Prove the mapping that a JSON file holds."""
    mapping = read_mapping(file)
    ours, theirs = _found(src, None, allow_code), _found(dst)
    for text, found in ((src, ours), (dst, theirs)):
        if isinstance(found, Checkpoint):
            raise UsageError(_NO_MODEL.format(text))
    proof = verify(_model_of(ours), _model_of(theirs), mapping, example_inputs=_inputs(ours, theirs, inputs))
    return Outcome(proof.explain(), _proof(proof), proof.ok)


def explain(
    src: str, dst: str, key: str, weights: str | None = None, inputs: str | None = None, allow_code: bool = False
) -> Outcome:
    """Explain how one destination key is made, and which stages found that."""
    source, destination = _found(src, weights, allow_code), _found(dst)
    ours, theirs = state_of(source), state_of(destination)
    if key not in theirs:
        close = difflib.get_close_matches(key, theirs, n=3)
        hint = f"; the closest are {', '.join(close)}" if close else ""
        raise UsageError(f"{key}: not a key of {dst}, which has {len(theirs)}{hint}")
    mapping = _mapped(source, destination, inputs)
    expression, status = mapping.get(key), mapping.status(key)
    proof = mapping.proof
    sources = {} if expression is None else {name: shape_of(ours.get(name)) for name in expression.sources()}
    data: dict[str, Any] = {
        "key": key,
        "shape": shape_of(theirs[key]),
        "status": str(status),
        "expression": None if expression is None else str(expression),
        "sources": sources,
        "reason": mapping.knowledge.reasons.get(key, ""),
        "captured": list(mapping.knowledge.rungs),
        "proof": str(proof),
        "trace": [asdict(step) for step in mapping.trace.steps],
    }
    lines = [
        f"{key} {data['shape']}",
        f"  = {expression}" if expression is not None else "  is not made from the source",
        *(f"  source: {name} {shape}" for name, shape in sources.items()),
        f"  status: {status}",
        *([f"  because: {data['reason']}"] if data["reason"] else []),
        f"  captured by: {mapping.knowledge.rungs[0] or 'nothing'} and {mapping.knowledge.rungs[1] or 'nothing'}",
        *([f"  {data['proof']}"] if data["proof"] else []),
        *(["", "stages, with their seconds:", str(mapping.trace)] if mapping.trace.steps else []),
    ]
    return Outcome("\n".join(lines), data, status.is_proven)


@dataclass(frozen=True)
class Conversion:
    """One run of `fxmap convert`."""

    checkpoint: str
    src: str | None
    dst: str
    output: Path
    calibration: str | None = None
    keep: bool = False
    force: bool = False
    weights: str | None = None
    inputs: str | None = None
    into: str | None = None
    strict: bool = True
    verify: Verify = True
    absorb_eps: bool = False
    allow_code: bool = False

    def run(self) -> Outcome:
        """Read, map, fill and write; the output file is written whole, or not at all."""
        existing(Path(self.checkpoint))  # before a model is built
        calibration = _calibration(self.calibration)
        target = _found(self.dst)
        if isinstance(target, Checkpoint):
            raise UsageError(_NO_MODEL.format(self.dst))
        dst = _model_of(target)
        if isinstance(target, Carried) and self.output.suffix != Path(self.dst).suffix:
            raise UsageError(f"--output {self.output}: the name must end in {Path(self.dst).suffix}, as that of {self.dst}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProofWarning)  # the report says it
            mapping = load(
                dst,
                self.checkpoint,
                src=None if self.src is None else _model(self.src),
                weights=self.weights,
                calibration=calibration,
                on_mismatch="keep" if self.keep else "raise",
                example_inputs=_inputs(target, None, self.inputs),
                into=self.into,
                strict=self.strict,
                verify=self.verify,
                absorb_eps=self.absorb_eps,
                allow_code=self.allow_code,
            )
        state = dst.state_dict()
        with stage(f"write {self.output}"):
            if isinstance(target, Carried) and target.save is not None:
                target.save(self.output, self.force)
            else:
                save(state, self.output, overwrite=self.force)
        return outcome_of(mapping, self.checkpoint, self.output, len(state))


# What a name refers to: a model, weights, or both.
Found = nn.Module | Checkpoint | Carried

_NO_MODEL = "{}: a model is needed here, not a file: torchvision:NAME, package.module:factory, FILE.onnx, FILE.pt2"


def _found(text: str, weights: str | None = None, allow_code: bool | None = None) -> Found:
    return carried(text, weights, allow_code) or resolve(text, weights)


def _model_of(found: Found) -> nn.Module:
    assert not isinstance(found, Checkpoint)
    return found.model if isinstance(found, Carried) else found


def _inputs(src: Found, dst: Found | None, shape: str | None) -> Any:
    """Return an input of the given shape, or those that the source carries, or else the destination."""
    of_files = [one.inputs for one in (src, dst) if isinstance(one, Carried) and one.inputs is not None]
    return of_files[0] if shape is None and of_files else example(shape)


def _mapped(src: Found, dst: Found, inputs: str | None, absorb_eps: bool = False) -> KeyMapping:
    if isinstance(dst, Checkpoint):
        return map_by_name(state_of(src), dst.state, "the destination is a checkpoint, without a model", notes=_notes(src))
    source, given = src.state if isinstance(src, Checkpoint) else _model_of(src), _inputs(src, dst, inputs)
    return auto_map(source, _model_of(dst), example_inputs=given, absorb_eps=absorb_eps).with_notes(*_notes(src))


def _notes(found: Found) -> tuple[Note, ...]:
    return checkpoint_notes(found) if isinstance(found, Checkpoint) else ()


def state_of(found: Found) -> Mapping[str, Any]:
    """Return the state dict of a model, of a checkpoint, or of a file that carries its graph."""
    return found.state if isinstance(found, Checkpoint) else _model_of(found).state_dict()


def _model(text: str) -> nn.Module:
    found = _found(text) if not parse(text).origin and carries_graph(text) else None
    if found is None and not parse(text).origin:
        raise UsageError(_NO_MODEL.format(text))
    return _model_of(found or resolve(text))


def example(shape: str | None) -> Tensor | None:
    """Draw an input of a given shape from the standard normal distribution."""
    if shape is None:
        return None
    lengths = shape.replace(",", "x").split("x")
    if not all(length.isdecimal() and len(length) < _DIGITS and int(length) for length in lengths):
        raise UsageError(f"--inputs {shape}: a shape is lengths joined by x, as in 1x3x224x224")
    if math.prod(map(int, lengths)) > _LARGEST_INPUT:
        raise UsageError(f"--inputs {shape}: {math.prod(map(int, lengths)):,} numbers are more than {_LARGEST_INPUT:,}")
    return torch.randn([int(length) for length in lengths], generator=torch.Generator().manual_seed(0))


def _calibration(text: str | None) -> Iterable[Any] | str | None:
    """Read batches of inputs; two words are ways without a file, unless there is a file of that name."""
    if text is None or (text in ("distilled", "keep") and not Path(text).exists()):
        return text
    found = read_tensors(Path(text))
    if isinstance(found, Tensor):
        # A tensor is a batch, whatever its shape: iterated over, it would be many without their first axis.
        return [found]
    return list(found.values()) if isinstance(found, Mapping) else found


def read_mapping(file: Path) -> KeyMapping:
    """Read a mapping from JSON.

    Raises:
        MappingError: the file cannot be read, or holds none.
    """
    try:
        return KeyMapping.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MappingError(f"{file}: cannot be read: {error}") from error
    except MappingError as error:
        raise MappingError(f"{file}: {error}") from error


def shape_of(value: Any) -> str:
    """Write shape and dtype, as in `[3, 2] float32`."""
    if not isinstance(value, Tensor):
        return "absent" if value is None else type(value).__name__
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def outcome_of(mapping: KeyMapping, checkpoint: str, output: Path, keys: int) -> Outcome:
    """Say what was written to a file or a folder of so many keys."""
    written = f"wrote {output}: {len(mapping)} of {keys} tensors from {checkpoint}"
    notes = [str(note) for note in mapping.knowledge.notes_of(NoteKind.CHECKPOINT)]
    data = _data(mapping) | {"output": str(output), "written": len(mapping), "notes": notes}
    return Outcome("\n".join([str(mapping), written]), data, mapping.ok)


def _data(mapping: KeyMapping) -> dict[str, Any]:
    """Return a mapping and its proof as data for JSON."""
    data: dict[str, Any] = json.loads(mapping.to_json())
    return data | {"proof": _proof(mapping.proof)}


def _proof(proof: Proof) -> dict[str, Any]:
    error = proof.error if proof.error < float("inf") else None
    unproven = [key for key, status in proof.statuses.items() if not status.is_proven]
    return {
        "ok": proof.ok,
        "error": error,
        "reason": proof.reason,
        "divergence": str(proof.divergence) if proof.divergence else None,
        "statuses": {key: str(status) for key, status in proof.statuses.items()},
        "not_proven": shorten(unproven) if unproven else "",
    }
