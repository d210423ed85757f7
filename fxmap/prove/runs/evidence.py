"""Evidence: the record of all that the runs of one proof showed, and how it is put together from several runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import SINGLE_TOLERANCE, TOLERANCE
from fxmap.matching.align.alignment import Pair
from fxmap.matching.plan import Plan
from fxmap.prove.runs.choose_inputs import InputPair
from fxmap.prove.runs.influence import Influence
from fxmap.prove.runs.own_code import OwnCodeRun
from fxmap.prove.runs.weights import held
from fxmap.run.lockstep import Comparison, Names
from fxmap.run.precision import behind_tables


@dataclass(frozen=True)
class Evidence:
    """The results of all runs of one proof.

    Attributes:
        inputs: those of the first run of the captured graphs.
        errors: the largest error of each pair over all runs, 0 where the rounding of a table explains it.
        loose: the pairs that agreed in another layout, or times a constant, in some run.
        rounded: the tables whose rounding explains an error.
        graph_error: the error of the outputs of the captured graphs; `exact` is its tolerance.
        own_code: the run of the user's own code.
        parted: the pairs at which the destination went on with the source's value; later pairs were compared with its help.
        returned: which output of the source is which of the destination; `outputs` is how many each returns.
        equal: those of them that are equal in the first run.
        influence: how far each tensor of the destination matters.
        tied: operations of the destination that may be exchanged with another; `tried` is how many exchanges were run.
        operands: pairs that are made of pieces and read other values in some run, and the argument under which they do.
    """

    inputs: InputPair
    errors: Mapping[Names, float]
    loose: frozenset[Names]
    rounded: tuple[str, ...]
    graph_error: float
    exact: float
    own_code: OwnCodeRun
    parted: frozenset[Names]
    returned: tuple[tuple[int, int], ...]
    outputs: tuple[int, int]
    influence: Influence
    tied: frozenset[str]
    tried: int
    operands: Mapping[Names, str] = field(default_factory=dict)
    equal: frozenset[tuple[int, int]] = frozenset()

    @property
    def error(self) -> float:
        """The largest error of the outputs, of the captured graphs and of the user's own code."""
        return max(self.own_code.error, self.graph_error)

    @property
    def agree(self) -> bool:
        """Whether the outputs are equal."""
        return self.error <= self.own_code.tolerance and self.graph_error <= self.exact

    @property
    def difference(self) -> float:
        """The error of the outputs where they are not equal, else 0."""
        return 0.0 if self.agree else self.error


@dataclass(frozen=True, slots=True)
class Tables:
    """The fx nodes of each model that depend on a table in single precision, each with the table's name."""

    src: Mapping[str, str]
    dst: Mapping[str, str]

    @classmethod
    def of(cls, mapping: KeyMapping, plan: Plan) -> "Tables":
        """Find the fx nodes that depend on tables: tensors that the mapping neither reads nor makes."""
        return cls(
            behind_tables(plan.src.main, held(plan.src, mapping.sources())),
            behind_tables(plan.dst.main, held(plan.dst, mapping)),
        )

    @property
    def tolerance(self) -> float:
        """The tolerated error of captured graphs: they compute in float64, but tables may be in float32."""
        return SINGLE_TOLERANCE if self.src or self.dst else TOLERANCE


def largest_errors(runs: Sequence[Comparison]) -> dict[Names, float]:
    """Return the largest error of each pair over all runs; infinite where a run did not see it."""
    return {pair: max(run.errors.get(pair, float("inf")) for run in runs) for run in runs for pair in run.errors}


def without_rounding(
    plan: Plan, pairs: Iterable[Pair], tables: Tables, errors: Mapping[Names, float]
) -> tuple[dict[Names, float], tuple[str, ...]]:
    """Return the errors, 0 where the rounding of a table explains one, and the tables that were needed for that."""
    left, needed = dict(errors), set[str]()
    for pair in pairs:
        names = plan.src.main.ops.op(pair.src).output, plan.dst.main.ops.op(pair.dst).output
        found = [behind[name] for behind, name in zip((tables.src, tables.dst), names, strict=True) if name in behind]
        if found and TOLERANCE < errors.get((pair.src, pair.dst), 0.0) <= SINGLE_TOLERANCE:
            left[pair.src, pair.dst] = 0.0
            needed.update(found)
    return left, tuple(sorted(needed))
