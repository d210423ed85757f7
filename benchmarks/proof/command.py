"""`python -m benchmarks proof`: near misses, attacks and equal pairs, and whether the proof is taken in by any of them.

Near misses are wrong in one place of small real models; attacks (`attacks/`) are pairs that agree on special inputs; equal
pairs are one function in two spellings, which a proof should accept.

A case counts if an independent judge sees another function than the source's, in float64 on several inputs; a proof that
is ok then, or a key that is called proven, tied or inert and is wrong, is a false proof. Where the judge sees no difference,
the case is discarded, and reported. The first divergence is right if it names the first module whose function was changed.
"""

import copy
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

from benchmarks.common.output import plain, progress, write_json
from benchmarks.proof.attacks import report
from benchmarks.proof.attacks.attack import Attack
from benchmarks.proof.attacks.both_ways import other_verdicts, small_weights_too
from benchmarks.proof.attacks.equal import EQUAL
from benchmarks.proof.attacks.kinds import KINDS
from benchmarks.proof.attacks.measure import Row as AttackRow
from benchmarks.proof.attacks.measure import measure
from benchmarks.proof.judge import SAME, Judge, randomise
from benchmarks.proof.near_misses import NEAR_MISSES, Alter, Case, cases, changed, planted
from benchmarks.proof.subjects import SUBJECTS, Subject
from fxmap.capture.recorded import RECORDED
from fxmap.capture.symbolic import SYMBOLIC
from fxmap.cli.tables import print_table
from fxmap.errors import CaptureError
from fxmap.expressions.base import Expression, State
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Proof
from fxmap.matching.draft import mapping_of
from fxmap.matching.sides import Side, side, sides
from fxmap.matching.structure import plan_by_structure
from fxmap.model.inputs import Given
from fxmap.normalize.network import Network
from fxmap.prove.trial import prove

QUICK = ("torchvision mobilenet v2", "timm vit to transformers", "transformers bert", "own mixed")
CAP = 20  # near misses of one kind on one pair of models
_NEAR = "near miss: "
NEAR_KINDS = tuple(f"{_NEAR}{kind}" for kind in NEAR_MISSES)
SIZES = 3  # of inputs that the judge looks at
WIDTH = 150  # of the table where the output is no terminal


@dataclass(frozen=True, slots=True)
class Altered(Expression):
    """A value of the mapping with something done to it that no expression of fxmap does."""

    op: ClassVar[str] = "altered"
    of: Expression
    alter: Alter

    def evaluate(self, state: State, *, quantized: bool = True) -> Tensor:
        return self.alter(self.of.evaluate(state, quantized=quantized))

    def python(self) -> str:
        return f"altered({self.of.python()})"


@dataclass
class Row:
    """What came out of one case.

    `distance` is the judge's; `discarded` says why the case does not count; `false_keys` are wrong keys that were called
    proven, tied or inert; `named` is the module that the first divergence names, and `expected` are those that it may name.
    """

    subject: str
    kind: str
    what: str
    distance: float = 0.0
    discarded: str = ""
    ok: bool = False
    false_keys: tuple[str, ...] = ()
    named: str = ""
    expected: tuple[str, ...] = ()
    report: str = ""
    seconds: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether the judge saw a difference."""
        return not self.discarded

    @property
    def is_false(self) -> bool:
        """Whether the proof was taken in."""
        return self.counts and (self.ok or bool(self.false_keys))

    @property
    def located(self) -> bool:
        """Whether the first divergence is where the error was planted."""
        return self.named in self.expected


class Trial:
    """One pair of models with its right mapping, which the judge has confirmed."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        torch.manual_seed(0)
        self.src, self.dst = randomise(subject.source(), 1), randomise(subject.target(), 2)
        example = None if subject.example is None else subject.example(0)
        self.given = Given.of(example)
        self.sides: tuple[Side, Side] = _sides(self.src, self.dst, self.given)
        self.plan = plan_by_structure(*self.sides)
        self.mapping = mapping_of(self.plan)
        self.own = {key: value.clone() for key, value in self.dst.state_dict().items()}
        self.right: dict[str, Tensor] = dict(self.mapping.evaluate(self.src.state_dict()))
        self.judge = Judge(self.src, [subject.draw(seed) for seed in range(SIZES)])
        self.control = prove(self.mapping, self.plan, self.given).proof
        self.distance = self.judge.distance(copy.deepcopy(self.dst), self.right)

    @property
    def sound(self) -> bool:
        """Whether the right mapping is right, and proven: without that no case says anything."""
        return self.control is not None and self.control.ok and self.distance <= SAME

    def keys(self) -> list[str]:
        """Return the destination's keys that an error can be planted in: floats of their own storage."""
        storages = Counter(value.data_ptr() for value in self.dst.state_dict().values())
        return [
            key
            for key, value in self.dst.state_dict().items()
            if key in self.mapping and value.is_floating_point() and storages[value.data_ptr()] == 1
        ]

    def run(self, case: Case) -> Row:
        """Judge a case, prove it, and compare."""
        row = Row(self.subject.name, case.kind, case.what)
        model = changed(self.dst, case)
        own = self.own | {copy_: self.right[key] for copy_, key in case.copies.items()}
        try:
            row.distance = self.judge.distance(copy.deepcopy(model), planted(case, self.right, own))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            row.discarded = f"does not run: {error}"
            return row
        if row.distance <= SAME:
            row.discarded = "the same function"
        begin = time.perf_counter()
        proof = self._proof(case, model)
        row.seconds = time.perf_counter() - begin
        row.ok, row.report = proof.ok, str(proof)
        if row.counts:
            wrong = [key for key in case.keys if self._is_wrong(model, case.only(key), own)]
            row.false_keys = tuple(k for k in wrong if k in proof.statuses and proof.statuses[k].is_proven)
            divergence = proof.divergence
            if divergence is not None:
                row.named = (divergence.src if case.removed else divergence.dst).rpartition(" (")[0]
            # What was removed no longer runs in the changed model.
            ran = self.dst if case.removed else model
            row.expected = self._expected(ran, case.places or [key.rpartition(".")[0] for key in wrong])
        return row

    def _is_wrong(self, model: nn.Module, case: Case, own: Mapping[str, Tensor]) -> bool:
        return self.judge.distance(copy.deepcopy(model), planted(case, self.right, own)) > SAME

    def _expected(self, model: nn.Module, places: Iterable[str]) -> tuple[str, ...]:
        """Return what the first divergence may name: the first of the places that is run, or a part of it.

        A module that is never called itself (a projection whose weight is passed to a function) is run by the one around it.
        """
        order = self.judge.order(model)
        found = []
        for place in places:
            called = place
            while called not in order:
                called = called.rpartition(".")[0]
            found.append((order.index(called), called, place))
        first = min(found)[0] if found else 0
        names = {name for index, called, place in found if index == first for name in (called, place)}
        return tuple(sorted(names | {path for path in order for name in names if name and path.startswith(f"{name}.")}))

    def _proof(self, case: Case, model: nn.Module) -> Proof:
        expressions: dict[str, Expression] = {
            key: self.mapping[case.exchange.get(key, key)] for key in self.mapping if key not in case.left_out
        }
        expressions |= {key: Altered(expressions[key], alter) for key, alter in case.alter.items()}
        expressions |= {copy_: self.mapping[key] for copy_, key in case.copies.items()}
        plan, knowledge = self.plan, self.mapping.knowledge
        if case.change is not None:
            theirs: Network = self.sides[1].main
            plan = plan_by_structure(self.sides[0], side(model, theirs.inputs))
            knowledge = mapping_of(plan).knowledge
        return prove(KeyMapping(expressions, knowledge), plan, self.given).proof


def _sides(src: nn.Module, dst: nn.Module, given: Given) -> tuple[Side, Side]:
    """Capture both models by the first source of graphs that has both."""
    try:
        return sides(SYMBOLIC, src, dst, given)
    except CaptureError as error:
        return sides(RECORDED, src, dst, given, str(error))


def command(
    subjects: Annotated[str, typer.Option(help="Near misses on subjects whose name contains one of these alone.")] = "",
    only: Annotated[
        str, typer.Option(help='Kinds whose name contains one of these, separated by commas, as in "attack,near miss: eps".')
    ] = "",
    cap: Annotated[
        int | None, typer.Option(min=1, help="Cases of one kind (and of one pair of models), at most; else 20 near misses.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which cases are drawn.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Four pairs of models and four cases of a kind.")] = False,
    show: Annotated[bool, typer.Option("--show", help="List the cases that were not located.")] = False,
    streamed: Annotated[
        bool,
        typer.Option(
            "--streamed", help="Run attacks and equal pairs a second time, with weights that are drawn when they are read."
        ),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write every case to this file.")] = None,
) -> None:
    """Try to have wrong mappings and unequal models proven, judged independently; and equal models, which should be.

    Ends with exit code 1 if there is a false proof or label, or fewer than 99% of the near misses are located.
    """
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"{json_file.parent} is not a directory", param_hint="--json")
    wanted = [part.strip() for part in subjects.split(",")]
    chosen = [s for s in SUBJECTS if any(part in s.name for part in wanted) and (not quick or s.name in QUICK)]
    if not chosen:
        raise typer.BadParameter(f"no subject is named so; there are {', '.join(s.name for s in SUBJECTS)}")
    names = Names(only)
    if not names.any_of(*NEAR_KINDS, *KINDS, *EQUAL):
        raise typer.BadParameter(f"no kind is named so; there are {', '.join((*NEAR_KINDS, *KINDS, *EQUAL))}")
    torch.set_num_threads(1)
    logging.getLogger("fxmap").setLevel(logging.ERROR)
    start = time.perf_counter()
    most = 4 if quick and cap is None else cap
    near = chosen if names.any_of(*NEAR_KINDS) else []
    rows, unsound = _measured(near, names, most or CAP, seed)
    drawn = [] if subjects else list(_drawn(names, most, seed))
    measured = _attacked(drawn)
    seconds = time.perf_counter() - start
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if near:
        _print(console, rows, unsound, len(near), seconds, show)
    report.show(console, measured, show)
    if streamed:
        measured += _again(console, drawn, measured, show)
    if json_file is not None:
        near_rows = [asdict(row) | {"false": row.is_false, "located": row.located} for row in rows]
        more = {"unsound": unsound, "attacks": report.as_data(measured)}
        write_json(json_file, "proof", [plain(row) for row in near_rows], seconds, **more)
    counted = [row for row in rows if row.counts]
    located = sum(row.located for row in counted)
    false = any(row.is_false for row in rows) or any(row.is_false for row in measured)
    if unsound or false or located < 0.99 * len(counted):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Names:
    """Which kinds are wanted: those that contain a part of the option, all where it is empty.

    >>> Names("eps, attack").any_of("near miss: eps"), Names("eps").any_of("equal: masks"), Names("").any_of("equal: masks")
    (True, False, True)
    """

    option: str

    def any_of(self, *kinds: str) -> bool:
        """Tell whether one of these kinds is wanted."""
        parts = [part.strip() for part in self.option.split(",")]
        return any(part in kind for part in parts for kind in kinds)


def _drawn(names: Names, cap: int | None, seed: int) -> Iterator[tuple[str, Attack, bool]]:
    """Draw attacks and equal pairs of the kinds that are wanted, all of them where there is no cap."""
    kinds: list[tuple[str, Callable[[], Iterator[Attack]]]] = [*KINDS.items(), *EQUAL.items()]
    for kind, make in kinds:
        if names.any_of(kind):
            found = list(make())
            if cap is not None and cap < len(found):
                found = random.Random(f"{seed} {kind}").sample(found, cap)
            yield from ((kind, attack, kind in EQUAL) for attack in found)


def _attacked(drawn: list[tuple[str, Attack, bool]]) -> list[AttackRow]:
    rows = (measure(kind, attack, equal=equal) for kind, attack, equal in drawn)
    return list(progress(rows, len(drawn), lambda row: f"{row.kind}: {row.name}"))


def _again(console: Console, drawn: list[tuple[str, Attack, bool]], kept: list[AttackRow], show: bool) -> list[AttackRow]:
    """Run attacks and equal pairs with weights that are drawn when they are read, and print where the verdict is another."""
    with small_weights_too():
        rows = (measure(kind, attack, equal=equal, streamed=True) for kind, attack, equal in drawn)
        again = list(progress(rows, len(drawn), lambda row: f"{row.kind}: {row.name}, streamed"))
    console.print("with weights that are drawn when they are read:")
    report.show(console, again, show)
    others = other_verdicts(kept, again)
    console.print(f"{len(again) - len(others)} of {len(again)} verdicts are those with weights in memory")
    for line in others:
        console.print(line, markup=False, highlight=False)
    return [replace(row, kind=f"{row.kind}, streamed") for row in again]


def _measured(chosen: list[Subject], names: Names, cap: int, seed: int) -> tuple[list[Row], list[str]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rows: list[Row] = []
    unsound: list[str] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for subject in chosen:
            trial = Trial(subject)
            if not trial.sound:
                unsound.append(f"{subject.name}: the right mapping is {trial.distance:.1e} off; {trial.control}")
                continue
            drawn = [c for c in cases(subject, trial.dst, trial.keys(), cap, seed) if names.any_of(f"{_NEAR}{c.kind}")]
            task = progress.add_task(subject.name, total=len(drawn))
            if not console.is_terminal:
                console.print(f"{subject.name}: {len(drawn)} cases", highlight=False)
            for case in drawn:
                rows.append(trial.run(case))
                progress.advance(task)
    return rows, unsound


def _print(console: Console, rows: list[Row], unsound: list[str], subjects: int, seconds: float, show: bool) -> None:
    print_table(console, _table(rows, "kind"))
    print_table(console, _table(rows, "subject"))
    for row in rows:
        if row.is_false or (show and row.counts and not row.located):
            what = "FALSE PROOF" if row.is_false else "not located"
            expected = ", ".join(row.expected[:3])
            text = f"{what}: {row.subject}, {row.kind}, {row.what} ({row.distance:.1e}); expected {expected}; {row.report}"
            console.print(text, markup=False, highlight=False)
    for text in unsound:
        console.print(f"UNSOUND: {text}", markup=False, highlight=False)
    counted = [row for row in rows if row.counts]
    located = sum(row.located for row in counted)
    console.print(
        f"{len(counted)} cases count on {subjects} pairs of models; {sum(row.is_false for row in rows)} false proofs; "
        f"{located} located ({located / max(1, len(counted)):.2%}); {len(rows) - len(counted)} discarded; {seconds:.0f} s"
    )


def _table(rows: list[Row], by: str) -> Table:
    table = Table(title=f"near misses by {by}", pad_edge=False)
    table.add_column(by, no_wrap=True)
    titles = ("cases", "do not run", "same function", "of these\nproven", "count", "false\nproofs", "located", "s a proof")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, by), []).append(row)
    for name, group in [*groups.items(), ("all", rows)]:
        if name == "all":
            table.add_section()
        counted = [row for row in group if row.counts]
        same = [row for row in group if row.discarded == "the same function"]
        located = sum(row.located for row in counted) / max(1, len(counted))
        false = sum(row.is_false for row in group)
        cells = (
            str(len(group)),
            str(len(group) - len(counted) - len(same)),
            str(len(same)),
            str(sum(row.ok for row in same)),
            str(len(counted)),
            f"[red]{false}[/red]" if false else "0",
            f"{located:.1%}" if counted else "",
            f"{sum(row.seconds for row in group) / max(1, len(counted) + len(same)):.2f}",
        )
        table.add_row(name, *cells)
    return table
