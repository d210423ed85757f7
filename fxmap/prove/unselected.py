"""Unselected: what code of the models could have selected without a branch, and never did in a compared run.

The code is rewritten so that each selection is a call (see `selections`). Replicas run it on the inputs that were compared,
which shows what was selected, and among what. What never was is selected by force, as a jump is turned round.

Cost: a run of both models for each input that was compared, where their code selects by what depends on inputs; nothing
where it does not.
Source: as in `selections`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from types import CodeType

from torch import nn

from fxmap.prove.audit import Auditor
from fxmap.prove.coverage import Coverage, Followed
from fxmap.prove.jumps import Jump
from fxmap.prove.other_way import TURNED, Models, Ran
from fxmap.prove.samples import Both
from fxmap.prove.selecting import FUNCTIONS, Place, Seen, Selector
from fxmap.prove.selections import MARK, Selection, rewritten_file
from fxmap.prove.turned import with_other_code

# How many inputs show whether anything is selected at all, and how many other elements of one container are tried.
_FIRST, _ELEMENTS = 12, 8


@dataclass(frozen=True)
class Unselected:
    """What was never selected at a place: a key, a name, a count, a truth value, or whether an exception is raised."""

    selection: Selection
    jump: Jump
    key: object
    models: tuple[int, ...]
    given: Both

    @property
    def never(self) -> object:
        """What no run selected."""
        if self.selection.kind == "caught":
            return ("raise", "raise", "do without it")[int(str(self.key))]
        return f"take case {int(str(self.key)) + 1}" if self.selection.kind == "case" else self.key

    def inputs(self, auditor: Auditor) -> Both | None:
        """Return inputs that led there."""
        return self.given

    @contextmanager
    def taken(self, models: Models) -> Iterator[Ran]:
        """Select it by force; return what says whether the code came there."""
        place = (self.selection.file, self.selection.index)
        selector = Selector({place: self.key})
        with selecting([models[which] for which in self.models], frozenset({self.selection.file})), selector:
            yield lambda auditor: place in selector.seen

    def __str__(self) -> str:
        return f"{self.jump}, never {self.never}"


def unselected(auditor: Auditor, states: tuple[set[str], set[str]], runs: int) -> list[Unselected]:
    """Return what no compared run of two models selected, and the caller may choose.

    Args:
        auditor: the two models, which were run.
        states: the attributes that code of each sets when it is called.
        runs: how many inputs are run again at most.
    """
    if auditor.models is None:
        return []
    codes = _that_matter(auditor, states)
    if not codes:
        return []
    found = _Found(auditor, auditor.models, frozenset(selection.file for selection in codes))
    found.run(islice(_spread(auditor.log.inputs), min(_FIRST, runs)))
    if any(map(_open, found.selector.seen.values())):
        found.run(islice(_spread(auditor.log.inputs), _FIRST, runs))
    return [
        Unselected(selection, _as_jump(selection, code), key, models, found.inputs[place])
        for selection, (code, models) in codes.items()
        if (place := (selection.file, selection.index)) in found.selector.seen
        for key in islice(_open(found.selector.seen[place]), _ELEMENTS)
    ]


@dataclass
class _Found:
    """The selections of two models, and the first inputs that led to each."""

    auditor: Auditor
    models: Models
    files: frozenset[str]

    def __post_init__(self) -> None:
        self.selector = Selector()
        self.inputs: dict[Place, Both] = {}

    def run(self, inputs: Iterator[Both]) -> None:
        """Run both models on inputs."""
        with selecting(self.models, self.files), self.selector:
            for both in inputs:
                self.auditor.compare(both, forced=TURNED)
                for place in self.selector.seen.keys() - self.inputs.keys():
                    self.inputs[place] = both


def _spread(inputs: list[Both]) -> Iterator[Both]:
    """Yield inputs from all parts of a list first."""
    step = max(len(inputs) // _FIRST, 1)
    yield from inputs[::step]
    yield from (both for index, both in enumerate(inputs) if index % step)


def _open(seen: Seen) -> list[object]:
    """Return the keys of what was never selected, and is not what another key has selected."""
    made = [seen.options[key] for key in seen.selected if seen.options.get(key) is not None]
    return [
        key
        for key, value in seen.options.items()
        if key is not None and key not in seen.selected and not any(value is one for one in made)
    ]


def _that_matter(auditor: Auditor, states: tuple[set[str], set[str]]) -> dict[Selection, tuple[CodeType, tuple[int, ...]]]:
    """Return the selections that a caller may choose, with their code and the models that run it."""
    found: dict[Selection, tuple[CodeType, tuple[int, ...]]] = {}
    coverages = auditor.log.coverage
    decided = {(site.file, site.line) for site in chain(*auditor.log.outcomes)}
    for coverage, changed in zip(coverages, states, strict=True):
        for known in [known for known in coverage.followed.values() if known.own]:
            models = tuple(i for i, one in enumerate(coverages) if id(known.code) in one.followed)
            for selection in rewritten_file(known.code.co_filename).selections:
                is_decided = selection.kind == "flag" and (selection.file, selection.start[0]) in decided
                if not is_decided and _is_in(selection, known) and _matters(selection, known.code, coverage, changed):
                    found[selection] = known.code, models
    return found


def _is_in(selection: Selection, known: Followed) -> bool:
    lines = _lines(known.code)
    return lines.start <= selection.start[0] < lines.stop


def _lines(code: CodeType) -> range:
    ends = [end for _, end, _, _ in code.co_positions() if end is not None]
    return range(code.co_firstlineno, max(ends, default=code.co_firstlineno) + 1)


def _matters(selection: Selection, code: CodeType, coverage: Coverage, changed: set[str]) -> bool:
    """Whether a selection reads what depends on inputs, or an attribute that calls change."""
    by_caller = not selection.names.isdisjoint(coverage.handed.depends(code))
    return by_caller or not selection.attributes.isdisjoint(changed)


def _as_jump(selection: Selection, code: CodeType) -> Jump:
    """Return what a selection reads in the form in which it is said of a jump; its numbers are those of all the code."""
    return Jump(
        code, -1 - selection.index, (0, 0), selection.start[0], selection.text, selection.names, selection.attributes,
        tuple(value for value in code.co_consts if not isinstance(value, CodeType)), False, False, 0, False, False,
    )  # fmt: skip


@contextmanager
def selecting(models: list[nn.Module] | Models, files: frozenset[str]) -> Iterator[None]:
    """Have models run code of some files in which selections are calls, inside of the `with` block."""
    known = {code: other for file in files for code, other in rewritten_file(file).codes.items()}
    with with_other_code(models, lambda code: _with_functions(known[code]) if code in known else None):
        yield


def _with_functions(code: CodeType) -> CodeType:
    """Return rewritten code that calls the functions of `selecting`."""
    return code.replace(co_consts=tuple(map(_function_for, code.co_consts)))


def _function_for(value: object) -> object:
    if isinstance(value, CodeType):
        return _with_functions(value)
    marked = isinstance(value, str) and value.startswith(MARK)
    return FUNCTIONS[value.removeprefix(MARK)] if marked and isinstance(value, str) else value
