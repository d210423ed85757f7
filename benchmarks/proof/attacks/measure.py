"""Have fxmap map and prove an attack as a user would, and put what it claims beside what the judge sees."""

import copy
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fxmap
from benchmarks.proof.attacks.attack import Attack
from benchmarks.proof.attacks.judging import DRAWS, Pair, distance, tensors
from benchmarks.proof.judge import SAME
from fxmap.expressions.base import Expression, Source
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Proof, Status

_CAUSE = 160  # characters of a cause that are shown
_AT_THE_END = "first divergence: output (output) against output (output)"  # names no place


@dataclass
class Row:
    """What came out of an attack, or of an equal pair.

    Attributes:
        kind, name: which one.
        equal: whether the two models are one function.
        distance: the judge's, of the outputs with the mapped weights.
        discarded: why the case does not count: the judge sees no difference, or cannot run it.
        ok: what the proof says.
        false_keys: keys whose status is false, each with the status.
        located: whether the report names where the models part.
        failure: what fxmap raised.
        report: the proof, printed.
        seconds: of mapping and proof.
    """

    kind: str
    name: str
    equal: bool
    distance: float = float("nan")
    discarded: str = ""
    ok: bool = False
    false_keys: tuple[str, ...] = ()
    located: bool = False
    failure: str = ""
    report: str = ""
    seconds: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether the case says anything: an attack that differs, an equal pair that does not."""
        return not self.discarded

    @property
    def false_proof(self) -> bool:
        """Whether the proof is ok and the functions differ."""
        return self.counts and self.ok and self.distance > SAME

    @property
    def is_false(self) -> bool:
        """Whether the proof, or what a key is called (proven, inert, tied), is false."""
        return self.false_proof or (self.counts and bool(self.false_keys))

    @property
    def wrong(self) -> bool:
        """Whether an equal pair was mapped wrongly, or not whole."""
        return self.equal and self.counts and self.distance > SAME

    @property
    def cause(self) -> str:
        """Why the pair is not proven: the first divergence, else the reason."""
        if self.ok:
            return ""
        if self.failure:
            return shortened(self.failure)
        divergence = re.search(r"first divergence: (.*)", self.report)
        reason = re.search(r"(?:not ok|could be run): (.*?)(?:; run in|$)", self.report, re.MULTILINE)
        return shortened(divergence[1] if divergence else reason[1] if reason else self.report)


def shortened(text: str) -> str:
    """Return a text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _CAUSE else f"{line[:_CAUSE]}..."


def measure(kind: str, attack: Attack, *, equal: bool, streamed: bool = False) -> Row:
    """Map, prove and judge one pair; `streamed`: with weights that are drawn when they are read."""
    row = Row(kind, attack.name, equal)
    torch.manual_seed(0)
    # The weights that a user maps with are those of the constructors: the truth must hold of all weights.
    src, dst = attack.src().eval(), attack.dst().eval()
    twins = copy.deepcopy(src), copy.deepcopy(dst)
    begin = time.perf_counter()
    try:
        made, proof = _claimed(attack, src, dst, streamed or None)
    except Exception as error:  # a refusal is a result, and a crash is one
        made = _by_name(twins[1]) if attack.keys is None else _by_hand(attack.keys)
        proof, row.failure = Proof(), f"{type(error).__name__}: {error}"
    row.seconds = time.perf_counter() - begin
    row.ok, row.report = proof.ok, str(proof)
    try:
        _judge(row, attack, twins, made, proof)
    except Exception as error:  # an attack that cannot be judged is discarded, and listed
        row.discarded = f"the judge cannot run it: {type(error).__name__}: {error}"
    text = f"{row.report} {row.failure}"
    named = any(re.search(rf"\b{re.escape(name)}", text) for name in attack.names)
    found = proof.divergence is not None and not str(proof.divergence).startswith(_AT_THE_END)
    row.located = row.counts and not row.is_false and not row.failure and (found or named)
    return row


Made = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def _claimed(attack: Attack, src: nn.Module, dst: nn.Module, streamed: bool | None) -> tuple[Made, Proof]:
    """Do what a user does; return how the destination's tensors are made, and what is claimed."""
    if attack.file:
        described = (attack.described or attack.src)().eval()
        mapping = fxmap.load(
            dst, drawn_state(attack, src), src=described, on_mismatch="keep", example_inputs=_example(attack)
        )
        return _applying(mapping), mapping.proof
    if attack.keys is not None:
        proof = fxmap.verify(src, dst, attack.keys, example_inputs=_example(attack), streamed=streamed)
        return _by_hand(attack.keys), proof
    mapping = fxmap.auto_map(src, dst, example_inputs=_example(attack), streamed=streamed)
    return _applying(mapping), mapping.proof or Proof()


def drawn_state(attack: Attack, src: nn.Module) -> dict[str, Any]:
    """Return the file that training leaves: the state dict of the trained source, in float32."""
    trained = Pair(attack, src, src, 0).src.float()
    return dict(trained.state_dict())


def _example(attack: Attack) -> Any:
    return None if attack.example is None else attack.example()


def _applying(mapping: KeyMapping) -> Made:
    return lambda state: dict(mapping.evaluate(state))


def _by_hand(keys: Mapping[str, str]) -> Made:
    expressions: dict[str, Expression] = {key: Source(name) for key, name in keys.items()}
    return _applying(KeyMapping(expressions))


def _by_name(dst: nn.Module) -> Made:
    """Return how tensors are made by copying those of a name: where fxmap refuses, the judge still has to run the pair."""
    keys = {key: tuple(value.shape) for key, value in tensors(dst).items()}
    return lambda state: {key: state[key] for key, shape in keys.items() if key in state and state[key].shape == shape}


def _judge(row: Row, attack: Attack, twins: tuple[nn.Module, nn.Module], made: Made, proof: Proof) -> None:
    row.distance, confirmed = 0.0, False
    false, seen = dict[str, str](), set[str]()
    for seed in range(DRAWS):
        pair = Pair(attack, *twins, seed)
        pair.fill(made(tensors(pair.src)))
        row.distance = max(row.distance, distance(pair.expected(), pair.actual()))
        statuses = {key: status for key, status in proof.statuses.items() if key in pair.own}
        for key, status in statuses.items():
            if status is Status.INERT and pair.moved_by(key):
                false[key] = "inert"
        confirmed |= any(pair.moved_by(key) for key in attack.moves)
        behind = {key for key in attack.behind if pair.inputs_differ(key.rpartition(".")[0])}
        confirmed |= bool(behind)
        seen |= {key for key in behind if statuses.get(key) is Status.PROVEN}
        if attack.truth is not None:
            false |= dict.fromkeys(_wrongly_proven(row, pair, attack.truth(tensors(pair.src)), statuses), "proven")
    if row.discarded:
        return
    if row.distance > SAME:
        wrong = {key: proof.statuses.get(key) for key in attack.wrong}
        false |= {key: str(status) for key, status in wrong.items() if status in (Status.PROVEN, Status.TIED)}
        # Where both are one function all the same, weights make up for the other values that they see.
        false |= dict.fromkeys(seen, "proven")
    row.false_keys = tuple(f"{key} is called {status}" for key, status in false.items())
    if row.wrong and not row.ok:
        row.report = f"the mapping is wrong or not whole ({row.distance:.1e}); {row.report}"
    if not row.equal and row.distance <= SAME and not confirmed:
        row.discarded = "the same function on its probe"


def _wrongly_proven(row: Row, pair: Pair, truth: Mapping[str, Tensor], statuses: Mapping[str, Status]) -> list[str]:
    """Return the keys that are called proven and are not the truth, where the mapping as a whole is not the function."""
    filled = {key: value.clone() for key, value in tensors(pair.dst).items()}
    differs = distance(pair.expected(), pair.actual()) > SAME
    pair.fill(truth)
    if (error := distance(pair.expected(), pair.actual())) > SAME:
        row.discarded = f"the truth is {error:.1e} off"
    proven = [key for key in truth if statuses.get(key) is Status.PROVEN]
    return [key for key in proven if differs and not torch.allclose(filled[key], truth[key], rtol=1e-9, atol=1e-12)]
