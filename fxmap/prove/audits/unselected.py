"""Unselected: what code of the models could have selected without a branch, and never did in a compared run.

The code is rewritten so that each selection is a call (see `selections`). Replicas run it on the inputs that were compared,
which shows what was selected, and among what. What never was is selected by force, as a jump is turned round.

Cost: eight runs of both models where their code selects by what depends on inputs, and one for what was not selected then;
nothing where it does not.
Source: as in `selections`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from types import CodeType

from torch import nn

from fxmap.prove.audits.audit import Auditor
from fxmap.prove.audits.other_way import TURNED, Models, OtherWay, Ran
from fxmap.prove.code.coverage import Coverage, Followed
from fxmap.prove.code.jumps import Jump
from fxmap.prove.code.selecting import FUNCTIONS, Place, Seen, Selector
from fxmap.prove.code.selections import MARK, Selection, rewritten_file
from fxmap.prove.code.turned import with_other_code
from fxmap.prove.inputs.samples import Both

# How many inputs are run to begin with, and how many other elements of one container are tried.
_FIRST, _ELEMENTS = 8, 8
# One in so many of the inputs that may be run is run to begin with, where there are few.
_PER_RUN = 5


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
        return f"{self.jump}, {self.never}"


@dataclass
class Selected:
    """What two models were seen to select, and the first inputs that led to each place.

    A few inputs are run to begin with: what both models do alike, whether it was selected or not, needs no more of them.
    """

    auditor: Auditor
    models: Models
    codes: Mapping[Selection, tuple[CodeType, tuple[int, ...]]]
    runs: int

    def __post_init__(self) -> None:
        self._selector, self._inputs = Selector(), dict[Place, Both]()
        self._rest = islice(_spread(self.auditor.log.inputs), self.runs if self.codes else 0)

    @classmethod
    def of(cls, auditor: Auditor, models: Models, states: tuple[set[str], set[str]], runs: int) -> "Selected":
        """Return what the code of two models can select, before any run.

        Args:
            auditor: the two models, which were run.
            models: their replicas.
            states: the attributes that code of each sets when it is called.
            runs: how many inputs are run again at most.
        """
        return cls(auditor, models, _that_matter(auditor, states), runs)

    def unselected(self) -> list[Unselected]:
        """Run a few inputs, and return what was not selected on them."""
        self._run(islice(self._rest, min(_FIRST, -(-self.runs // _PER_RUN))))
        return self._ways(_open)

    def met(self) -> list[Unselected]:
        """Return what was selected on these, to be forced where other inputs select something else."""
        return self._ways(lambda seen: sorted(seen.selected, key=str))

    def _ways(self, keys: Callable[[Seen], list[object]]) -> list[Unselected]:
        seen = self._selector.seen
        return [
            Unselected(selection, _as_jump(selection, code), key, models, self._inputs[place])
            for selection, (code, models) in self.codes.items()
            if (place := (selection.file, selection.index)) in seen
            for key in islice(keys(seen[place]), _ELEMENTS)
        ]

    def has(self, way: OtherWay) -> bool:
        """Whether something was selected on any of the inputs: all of them are run."""
        self._run(self._rest)
        seen = self._selector.seen
        return isinstance(way, Unselected) and way.key in seen[way.selection.file, way.selection.index].selected

    def _run(self, inputs: Iterator[Both]) -> None:
        with selecting(self.models, frozenset(selection.file for selection in self.codes)), self._selector:
            for both in inputs:
                self.auditor.compare(both, forced=TURNED)
                for place in self._selector.seen.keys() - self._inputs.keys():
                    self._inputs[place] = both


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
