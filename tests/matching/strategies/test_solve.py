"""Which strategy answers on which models, why those before it were left, and how the best of uncertain answers is chosen."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxmap
from fxmap.capture.ladder import LADDER
from fxmap.errors import CaptureError
from fxmap.files.checkpoint import open_checkpoint
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.matching.strategies.problem import Outcome, Problem, Strategy
from fxmap.matching.strategies.solve import STRATEGIES, solve
from fxmap.model.inputs import Given
from fxmap.testing.planted import randomised
from fxmap.trace import Step, recording

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NAMES = {
    "traced": "structure, by symbolic trace",
    "recorded": "structure, by recorded run",
    "values": "values",
    "weak": "structure, on weak evidence",
    "names": "names",
}


class Cnn(nn.Module):
    """Two layers with a norm; under other names in the destination."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        for name, part in zip(names, (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)), strict=True):
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        one, norm, two = (getattr(self, name) for name in self.names)
        return two(norm(one(x)).relu())


class Attention(nn.Module):
    def __init__(self, order: str) -> None:
        super().__init__()
        for name in order:
            self.add_module(name, nn.Linear(8, 8))
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


class Vit(nn.Module):
    """A vision transformer; the check of its input keeps symbolic tracing out."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
        self.blocks = nn.Sequential(Attention(order), Attention(order))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 4:
            raise ValueError("of another size")
        return self.head(self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class Spelled(nn.Module):
    """q, k and v, which have no names that tell them apart; attention written out in one of two ways."""

    def __init__(self, einsum: bool) -> None:
        super().__init__()
        self.einsum = einsum
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.a(x), self.b(x), self.c(x)
        if self.einsum:
            scores = torch.einsum("bqd,bkd->bqk", q, k)
            weights = (scores - scores.amax(-1, keepdim=True)).exp()
            return torch.einsum("bqk,bkd->bqd", weights / weights.sum(-1, keepdim=True), v)
        return (q @ k.transpose(1, 2)).softmax(-1) @ v


class Tied(nn.Module):
    """Two branches that may be exchanged without an effect."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).tanh() * self.b(x).tanh()


class Broken(nn.Module):
    """A model that runs on nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no forward")


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def solved(problem: Problem) -> tuple[Outcome, dict[str, Step]]:
    """Solve a problem; return the outcome, and the steps of the strategies that were asked, in order."""
    with recording() as steps:
        outcome = solve(problem)
    return outcome, {step.stage: step for step in steps if not step.depth}


def test_the_strategies_are_those_of_the_ladder_then_values_weak_evidence_and_names() -> None:
    assert [strategy.name for strategy in STRATEGIES] == list(NAMES.values())
    assert [source.needs_inputs for source in LADDER] == [False, True]


def test_a_traced_cnn_is_answered_by_structure_alone() -> None:
    src, dst = randomised(Cnn("a", "b", "c"), 1), randomised(Cnn("one", "norm", "two"), 2)
    outcome, asked = solved(Problem(src, dst))
    assert outcome.certain
    assert outcome.mapping is not None
    assert outcome.mapping.renames["norm.running_var"] == "b.running_var"
    assert list(asked) == [NAMES["traced"]]
    assert asked[NAMES["traced"]].left == ""


def test_what_cannot_be_traced_is_answered_by_structure_on_recorded_runs() -> None:
    src, dst = randomised(Vit("qkv"), 1), randomised(Vit("vkq"), 2)
    outcome, asked = solved(Problem(src, dst, Given.of(X)))
    assert outcome.mapping is not None
    assert outcome.mapping.renames["blocks.1.k.weight"] == "blocks.1.k.weight"
    assert outcome.plan is not None
    assert outcome.plan.dst.main.recorded
    assert list(asked) == [NAMES["traced"], NAMES["recorded"]]
    assert "control flow" in asked[NAMES["traced"]].left


def test_layers_that_structure_cannot_tell_apart_are_answered_by_values() -> None:
    src, dst = randomised(Spelled(False), 1), randomised(Spelled(True), 2)
    outcome, asked = solved(Problem(src, dst, Given.of(torch.randn(2, 5, 6))))
    assert outcome.certain
    assert outcome.mapping is not None
    assert all(key == source for key, source in outcome.mapping.renames.items())
    assert list(asked) == [NAMES["traced"], NAMES["recorded"], NAMES["values"]]
    assert asked[NAMES["recorded"]].left == "a better source has graphs of both models"


def test_without_values_weak_evidence_answers() -> None:
    """Models on the meta device that refuse every input that is guessed for them cannot be run side by side."""
    outcome, asked = solved(Problem(on_meta(Tied), on_meta(Tied), Given.of(torch.randn(2, 4))))
    assert outcome.mapping is not None
    assert len(outcome.mapping) == 4
    assert list(asked) == list(NAMES.values())
    assert "weak evidence (tied)" in asked[NAMES["traced"]].left
    assert asked[NAMES["values"]].left.startswith("the models cannot be run side by side: ")
    assert asked[NAMES["names"]].left == "the models have graphs"


def test_what_structure_decides_needs_no_values_on_the_meta_device() -> None:
    src, dst = on_meta(lambda: Cnn("a", "b", "c")), on_meta(lambda: Cnn("one", "norm", "two"))
    outcome, asked = solved(Problem(src, dst, run=False))
    assert list(asked) == [NAMES["traced"]]
    assert outcome.certain


def test_without_a_graph_names_answer_and_the_report_says_why() -> None:
    outcome, asked = solved(Problem(Broken(), Broken()))
    assert outcome.plan is None
    assert outcome.mapping is not None
    assert outcome.mapping.knowledge.rungs == ("names", "names")
    assert list(asked) == list(NAMES.values())
    traced, recorded = asked[NAMES["traced"]].left, asked[NAMES["recorded"]].left
    assert recorded.startswith(f"{traced}; Broken does not run on")
    assert recorded in outcome.mapping.knowledge.notes[0]


def test_a_checkpoint_without_its_model_is_mapped_by_names() -> None:
    outcome, asked = solved(Problem(open_checkpoint(nn.Linear(2, 3).state_dict()), nn.Linear(2, 3)))
    assert outcome.mapping is not None
    assert outcome.mapping.renames == {"weight": "weight", "bias": "bias"}
    assert asked[NAMES["traced"]].left == asked[NAMES["recorded"]].left == "the source is a state dict, without a model"


def test_without_names_models_without_graphs_have_no_answer() -> None:
    with pytest.raises(CaptureError, match=r"Broken does not run on .*; pass example_inputs=\(x,\)"):
        solve(Problem(Broken(), Broken(), names=False))


def test_a_given_function_and_traces_that_cannot_be_run_ask_for_recorded_runs() -> None:
    src, dst = randomised(Cnn("a", "b", "c"), 1), randomised(Cnn("one", "norm", "two"), 2)
    _, asked = solved(Problem(src, dst, Given.of(X, None, lambda model, x: model(x))))
    assert asked[NAMES["traced"]].left == "a function was given to run in the place of forward"
    outcome, asked = solved(Problem(src, dst, Given.of(X), traced=False))
    assert asked[NAMES["traced"]].left == "a traced graph cannot be run"
    assert outcome.plan is not None
    assert outcome.plan.src.main.recorded


def answering(name: str, count: int | None, *, certain: bool = False) -> Strategy:
    mapping = None if count is None else KeyMapping({f"{name}{i}": "key" for i in range(count)})
    return Strategy(name, lambda problem, earlier: Outcome(mapping, certain=certain))


@pytest.mark.parametrize(
    ("strategies", "chosen"),
    [
        ((answering("a", 1), answering("b", 3), answering("c", 2)), "b"),
        ((answering("a", 2), answering("b", 2)), "a"),
        ((answering("a", 5), answering("b", 1, certain=True), answering("c", 9)), "b"),
        ((answering("a", None), answering("b", 0)), ""),
    ],
)
def test_the_first_certain_answer_is_chosen_else_the_one_that_maps_most_keys(
    strategies: tuple[Strategy, ...], chosen: str
) -> None:
    mapping = solve(Problem(nn.Identity(), nn.Identity()), strategies).mapping
    assert mapping is not None
    assert {key[0] for key in mapping} == set(chosen)


def test_a_strategy_sees_what_came_of_those_before_it() -> None:
    seen = []

    def look(problem: Problem, earlier: tuple[Outcome, ...]) -> Outcome:
        seen.append([len(outcome.mapping or ()) for outcome in earlier])
        return Outcome(certain=True)

    solve(Problem(nn.Identity(), nn.Identity()), (answering("a", 1), answering("b", 2), Strategy("look", look)))
    assert seen == [[1, 2]]


def test_auto_map_and_verify_carry_the_trace_which_is_no_part_of_the_mapping() -> None:
    src, dst = randomised(Cnn("a", "b", "c"), 1), randomised(Cnn("one", "norm", "two"), 2)
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    stages = [step.stage for step in mapping.trace.steps]
    once = ["capture", "build", "normalise"]
    assert stages == [NAMES["traced"], *once, *once, "align", "derive", "prove"]
    assert mapping.trace.operations == 3
    assert set(mapping.trace.seconds()) == set(stages)
    assert mapping.with_knowledge(notes=()).trace is mapping.without_ranges().trace is mapping.trace
    again = KeyMapping.from_json(mapping.to_json())
    assert again == mapping
    assert again.trace.steps == ()
    assert [step.stage for step in fxmap.verify(src, dst, mapping, X).trace.steps] == stages


def _append(values: list[Tensor], value: Tensor) -> None:
    values.append(value)


def _last(values: list[Tensor], value: Tensor) -> Tensor:
    return values[-1] + value


fx.wrap("_append")
fx.wrap("_last")


class Listed(nn.Module):
    """Functions that pass a list on: it is an empty constant of the traced graph, which therefore cannot be run."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        values: list[Tensor] = []
        x = self.layer(x)
        _append(values, x)
        return _last(values, x)


def test_traced_graphs_that_cannot_be_run_are_solved_again_on_recorded_runs() -> None:
    mapping = fxmap.auto_map(randomised(Listed(), 1), randomised(Listed(), 2), example_inputs=torch.randn(2, 4))
    assert mapping.proof.ok
    assert mapping.knowledge.rungs == ("recorded run", "recorded run")
    assert [step.stage for step in mapping.trace.steps if step.left] == ["prove", NAMES["traced"]]
