"""Judge a mapper on a pair: is the function equal on a fresh destination, and which keys are right.

A key is right if it holds the value of the truth map; where the function is equal, other values are right too (channels or
branches that a symmetry exchanges, a bias in front of a softmax). Where there is no truth map, equal functions decide alone.
"""

import gc
import resource
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxmap
from benchmarks.common.controls import CONTROLS
from benchmarks.registry.pair import Build, Output, Pair, main_tensor
from benchmarks.registry.truth import truth_of
from fxmap.testing.randomise import clear_caches, randomise

TOLERANCE = 1e-4  # of float32 outputs, relative to the largest absolute value
EXAMPLES = 5

State = Mapping[str, Any]


@dataclass
class Row:
    """What was measured of one pair, run in one way: `plain`, or with the pair's own functions in the place of forward.

    Of the `keys` of the truth map, these are right, wrong (made, with another value), or missing (not made). Keys that
    nothing reads (`unread`) count only where they are wrong. `error` is relative to the largest output, None where nothing
    could be compared. `false_proofs` is what was called proven and is not: "proof.ok", and keys.
    `seconds` is auto_map with verify=False, `seconds_proof` with verify=True, `seconds_build` building both models.
    """

    id: str
    family: str
    way: str
    params: float
    hard: bool
    same_function: bool
    keys: int = 0
    right: int = 0
    wrong: int = 0
    missing: int = 0
    unread_missing: int = 0
    equal: bool = False
    error: float | None = None
    rungs: list[str] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    proof_ok: bool | None = None
    proof_text: str = ""
    false_proofs: list[str] = field(default_factory=list)
    wrong_keys: list[str] = field(default_factory=list)
    missing_keys: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    controls: dict[str, bool] = field(default_factory=dict)
    seconds: float | None = None
    seconds_build: float | None = None
    seconds_proof: float | None = None
    peak_mb: int = 0
    not_run: str = ""
    failure: str = ""
    load_failure: str = ""

    @property
    def ran(self) -> bool:
        """Whether the pair could be built here."""
        return not self.not_run

    @property
    def ok(self) -> bool:
        """Whether every key is right and the functions are equal; or, for keys alone, right and not called the same."""
        keys = not self.failure and self.wrong == 0 and self.missing == 0 and not self.false_proofs
        return self.ran and keys and (self.equal if self.same_function else not self.proof_ok)


@dataclass(frozen=True)
class Case:
    """A pair, built: a random source, a destination, inputs, and what the source makes of them."""

    pair: Pair
    src: nn.Module
    dst: nn.Module
    seconds: float
    inputs: tuple[Tensor, ...]
    expected: Tensor
    truth: dict[str, Tensor] | None
    unread: frozenset[str]

    @classmethod
    def of(cls, pair: Pair) -> "Case":
        """Build a pair.

        Raises:
            ImportError: a package is absent.
        """
        (src, dst), seconds = _timed(lambda: (built(pair.src, seed=1), built(pair.dst, seed=2)))
        torch.manual_seed(3)
        inputs = pair.inputs()
        randomise(src, 5, lambda model: output(model, inputs, pair.src_out))
        expected = output(src, inputs, pair.src_out)
        known = truth_of(pair.id)
        truth = None if known is None else {k: v.clone() for k, v in known.values(src.state_dict()).items()}
        return cls(pair, src, dst, seconds, inputs, expected, truth, frozenset() if known is None else known.unread)

    def fresh(self) -> nn.Module:
        """Build the destination anew, from another seed."""
        return built(self.pair.dst, seed=4)

    def error(self, dst: nn.Module) -> float:
        """Compare outputs, relative to the source's largest absolute value; infinite where that is not possible."""
        actual = output(dst, self.inputs, self.pair.dst_out)
        if actual.shape != self.expected.shape or not actual.isfinite().all():
            return float("inf")
        scale = self.expected.abs().max()
        return float((actual - self.expected).abs().max() / scale)

    def accepts_plain(self) -> bool:
        """Whether both models, called by themselves, accept the inputs."""
        try:
            for model in (self.src, self.dst):
                _run(lambda model=model: model(*self.inputs))  # type: ignore[misc]
        except Exception:  # whatever a model raises on inputs that are not its own
            return False
        return True


def judge(pair: Pair, *, proof: bool, controls: bool) -> Iterator[Row]:
    """Judge fxmap on a pair: with the pair's own functions, and, where both models accept the inputs, without them."""
    torch.backends.mha.set_fastpath_enabled(False)  # it approximates the tanh of a GELU
    rows = [_row(pair, "forwards" if pair.src_out or pair.dst_out else "plain")]
    try:
        case = Case.of(pair)
    except ImportError as error:
        rows[0].not_run = f"{type(error).__name__}: {error}"
        yield rows[0]
        return
    if rows[0].way == "forwards" and case.accepts_plain():
        rows.append(_row(pair, "plain"))
    if controls:
        rows[0].controls = {name: _control(case, mapper) for name, mapper in CONTROLS.items()}
        if case.truth is not None:
            rows[0].controls["truth"] = loaded_error(case, case.fresh(), case.truth) <= TOLERANCE
    for row in rows:
        row.seconds_build = case.seconds
        _judge(case, row, proof)
        row.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        yield row


def _row(pair: Pair, way: str) -> Row:
    return Row(pair.id, pair.family, way, pair.params, pair.hard, pair.same_function)


def _judge(case: Case, row: Row, proof: bool) -> None:
    options: dict[str, Any] = {"example_inputs": case.inputs}
    if row.way == "forwards":
        options |= {"src_forward": case.pair.src_out, "dst_forward": case.pair.dst_out}
    try:
        mapping, row.seconds = _timed(lambda: fxmap.auto_map(case.src, case.dst, verify=False, **options))
        if proof:
            mapping, row.seconds_proof = _timed(lambda: fxmap.auto_map(case.src, case.dst, verify=True, **options))
        made = dict(mapping.apply(case.src.state_dict()))
    except Exception as error:  # a benchmark of many pairs must survive whatever one of them raises
        row.failure = f"{type(error).__name__}: {error}"
        row.missing = row.keys = len(_judged_keys(case))
        return
    if row.way == "plain" and case.pair.src_out is not None:
        case, made = _without_unread_source(case, made)
    row.rungs = [str(rung) for rung in mapping.knowledge.rungs]
    row.notes = list(mapping.knowledge.notes)
    row.statuses = dict(Counter(str(mapping.status(key)) for key in mapping.knowledge.statuses).most_common())
    dst = case.fresh()
    row.error = loaded_error(case, dst, made)
    row.equal = row.error <= TOLERANCE
    state = nn.Module.state_dict(dst)
    found = count(case, made, state, row.equal)
    row.keys, row.right, row.wrong = found.keys, found.right, len(found.wrong)
    row.missing, row.unread_missing = len(found.missing), found.unread_missing
    # Without a truth map it is not known which of them are wrong.
    row.wrong_keys = list(found.wrong) if case.truth is not None else []
    row.missing_keys = list(found.missing)
    if proof:
        _check_proof(case, row, mapping, state)
    row.load_failure = _load_failure(case, row, mapping, dst)


def _without_unread_source(case: Case, made: dict[str, Any]) -> tuple[Case, dict[str, Any]]:
    """Take what the source's own forward does not read out of the judgement: nobody can see where it belongs.

    A feature extractor against a classifier is a partial match: the head is given, so that functions can be compared.
    """
    truth, known = case.truth, truth_of(case.pair.id)
    if truth is None or known is None:
        return case, made
    # Fixed tables may be parameters that do not require a gradient.
    parameters = {key: p.requires_grad_(True) for key, p in case.src.named_parameters(remove_duplicate=False)}
    outputs = [leaf for leaf in tree_leaves(_plain_output(case)) if isinstance(leaf, Tensor) and leaf.requires_grad]
    grads = torch.autograd.grad([o.sum() for o in outputs], list(parameters.values()), allow_unused=True)
    unread = {key for key, grad in zip(parameters, grads, strict=True) if grad is None}
    heads = {
        key
        for key in truth
        if known.sources(key) & parameters.keys() and not known.sources(key) & parameters.keys() - unread
    }
    given = {key: truth[key] for key in heads if key not in made}
    return replace(case, unread=case.unread | heads), {**made, **given}


def _plain_output(case: Case) -> Any:
    with torch.enable_grad():
        return case.src(*case.inputs)


def _control(case: Case, mapper: Callable[[State, State], dict[str, Tensor]]) -> bool:
    return loaded_error(case, case.fresh(), mapper(case.src.state_dict(), case.dst.state_dict())) <= TOLERANCE


def loaded_error(case: Case, dst: nn.Module, made: State) -> float:
    """Write tensors into a fresh destination, and return the error of its output.

    Tensors are written in place: keys that are tied follow one another, keys that are not made keep the fresh values.
    """
    state = nn.Module.state_dict(dst)
    if any(key not in state or value.shape != state[key].shape for key, value in made.items()):
        return float("inf")
    with torch.no_grad():
        for key, value in made.items():
            state[key].copy_(value)
    clear_caches(dst)
    try:
        return case.error(dst)
    except Exception:  # whatever a model raises with weights that are not its own
        return float("inf")


@dataclass(frozen=True, slots=True)
class Counts:
    """Keys that are judged, how many are right, and which are wrong and missing."""

    keys: int
    right: int
    wrong: tuple[str, ...]
    missing: tuple[str, ...]
    unread_missing: int


def count(case: Case, made: Collection[str], dst: State, equal: bool) -> Counts:
    """Count keys that are right, wrong (made, with another value) and missing in a filled destination."""
    if case.truth is None:
        keys = _judged_keys(case)
        there, absent = [key for key in keys if key in made], tuple(key for key in keys if key not in made)
        # Which keys are wrong is not known; where the function is equal, none is, and what is absent does not matter.
        return Counts(len(keys), len(there), (), (), len(absent)) if equal else Counts(len(keys), 0, tuple(there), absent, 0)
    right, wrong, missing, unread = 0, [], [], 0
    for key, value in case.truth.items():
        if _close(dst[key], value) or (equal and key in made):
            right += 1
        elif key in made:
            wrong.append(key)
        elif key in case.unread:
            unread += 1
        else:
            missing.append(key)
    return Counts(len(case.truth), right, tuple(wrong), tuple(missing), unread)


def _judged_keys(case: Case) -> list[str]:
    if case.truth is not None:
        return list(case.truth)
    return [key for key, value in nn.Module.state_dict(case.dst).items() if value.is_floating_point()]


def _close(actual: Tensor, expected: Tensor) -> bool:
    if actual.shape != expected.shape or torch.equal(actual, expected):
        return actual.shape == expected.shape
    return bool((actual.double() - expected.double()).abs().max() <= 1e-5 * expected.double().abs().max())


def _check_proof(case: Case, row: Row, mapping: fxmap.KeyMapping, dst: State) -> None:
    """Find what is called proven and is not."""
    row.proof_ok = mapping.proof.ok
    row.proof_text = str(mapping.proof)
    if row.proof_ok and not row.equal:
        row.false_proofs.append("proof.ok")
    if not row.equal and case.truth is not None and case.pair.same_function:
        proven = [key for key in case.truth if mapping.knowledge.statuses.get(key) is fxmap.Status.PROVEN]
        row.false_proofs += [key for key in proven if not _close(dst[key], case.truth[key])]


def _load_failure(case: Case, row: Row, mapping: fxmap.KeyMapping, dst: nn.Module) -> str:
    """Load as a user does, and compare the output with that of plain copying."""
    try:
        mapping.load_into(dst, case.src.state_dict(), on_mismatch="keep")
        clear_caches(dst)
        equal = case.error(dst) <= TOLERANCE
    except Exception as error:  # a result, as above
        return f"{type(error).__name__}: {error}"
    return "" if equal == row.equal else "load_into gives another output than copying the values"


def built(build: Build, seed: int) -> nn.Module:
    """Build a model in float32 and eval mode, with weights that the seed gives."""
    torch.manual_seed(seed)
    model = build().float()
    nn.Module.eval(model)
    gc.collect()
    return model


@torch.no_grad()
def _run(function: Callable[[], Any]) -> Any:
    return function()


def output(model: nn.Module, inputs: tuple[Tensor, ...], output: Output | None) -> Tensor:
    """Run a model, and return the tensor of its output that counts."""
    return main_tensor(_run(lambda: model(*inputs) if output is None else output(model, *inputs))).detach().float()


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start
