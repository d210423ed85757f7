"""Evidence: errors of several runs are put together, and nothing is edited in place."""

import torch
from torch import nn

from fxmap.matching.align.alignment import Pair
from fxmap.matching.strategies.problem import Problem
from fxmap.matching.strategies.solve import solve
from fxmap.prove.graphs.aligned import aligned
from fxmap.prove.runs.evidence import Tables, largest_errors, without_rounding
from fxmap.run.lockstep import Comparison


def _compared(**errors: float) -> Comparison:
    return Comparison({(name, name): error for name, error in errors.items()}, frozenset(), (), 0.0, [], [], [])


def test_a_pair_that_one_run_did_not_see_has_no_finite_error() -> None:
    errors = largest_errors([_compared(a=1e-3, b=0.0), _compared(a=1e-2)])
    assert errors == {("a", "a"): 1e-2, ("b", "b"): float("inf")}


def test_only_errors_of_the_size_of_rounding_behind_a_table_are_forgiven() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    plan = solve(Problem(model, model)).plan
    assert plan is not None
    pairs: list[Pair] = aligned(plan)
    first, *others = [(pair.src, pair.dst) for pair in pairs]
    node = plan.src.main.ops.op(first[0]).output
    errors = {first: 1e-7, **dict.fromkeys(others, 1e-7)}
    left, needed = without_rounding(plan, pairs, Tables({node: "table"}, {}), errors)
    assert left == {first: 0.0, **dict.fromkeys(others, 1e-7)}
    assert needed == ("table",)
    assert errors[first] == 1e-7
    assert without_rounding(plan, pairs, Tables({node: "table"}, {}), {first: 1e-3}) == ({first: 1e-3}, ())


def test_captured_graphs_are_exact_where_no_table_is_in_single_precision() -> None:
    assert Tables({}, {}).tolerance < Tables({}, {"node": "table"}).tolerance
    assert torch.finfo(torch.float32).eps < Tables({"node": "table"}, {}).tolerance
