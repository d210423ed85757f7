"""The cases, by group: what is asked, and which of them a short run takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks import measure, names_data
from benchmarks.accuracy import made
from benchmarks.accuracy.problems import FormProblem, PairProblem, Problem
from benchmarks.judge import Case as PairCase
from benchmarks.names_data import NamedPair
from benchmarks.recipes import MODELS
from benchmarks.registry import GROUPS, PAIRS
from benchmarks.registry.build import torchvision
from benchmarks.registry.pair import Pair, images

INCEPTION, QUANTIZABLE, LIBRARIES = "Inception-v3", "quantizable models", "library to library"
SHUFFLED, PARTIAL, RANDOM, NAMES = "renamed and shuffled", "partial matches", "random networks", "names and shapes alone"

_DEFAULT_MODELS = ("shufflenet_v2_x0_5", "resnet18", "mobilenet_v3_large")
_DEFAULT_FORMS = (
    *("quantizable", "fused", "fused-qat", "prepared", "qat"),
    *("int8-channel", "int8-tensor", "dynamic", "qat-to-float", "int8-to-float"),
)
_QUICK_FORMS = ("quantizable", "fused", "int8-channel")
_DEFAULT_PARAMS = 27.0  # millions, of a pair of the default run
_MADE = {"syn-rename": SHUFFLED, "syn-shuffle": SHUFFLED, "syn-bnfold": SHUFFLED, "syn-head": PARTIAL, "syn-aux": PARTIAL}
_RANDOM, _DEFAULT_RANDOM = 40, 7  # of each kind
_EVERY = 4  # of the pairs of names and shapes, the default run takes every fourth


@dataclass(frozen=True)
class Case:
    """One case: `level` is 0 where the quick run takes it, 1 where the default run does, 2 where only the complete one does."""

    name: str
    group: str
    level: int
    build: Callable[[], Problem | NamedPair]


def _forms() -> Iterator[Case]:
    for model in ("inception_v3", *(name for name in MODELS if name != "inception_v3")):
        group = INCEPTION if model == "inception_v3" else QUANTIZABLE
        for form in measure.PAIRS:
            default = form in _DEFAULT_FORMS and (group == INCEPTION or model in _DEFAULT_MODELS)
            quick = default and form in _QUICK_FORMS and model in ("inception_v3", "resnet18")
            quick = quick and (group != INCEPTION or form == "quantizable")
            yield Case(f"{model} to {form}", group, 0 if quick else 1 if default else 2, _form(model, form))


def _form(model: str, form: str) -> Callable[[], Problem]:
    return lambda: FormProblem(model, form)


def _pairs() -> Iterator[Case]:
    seen: set[tuple[str, bool]] = set()
    for pair in sorted(PAIRS.values(), key=lambda pair: (not pair.hard, pair.params)):
        group = INCEPTION if pair.family == "inception_v3" else _MADE.get(pair.family, LIBRARIES)
        first = (pair.family, pair.id in GROUPS["known"]) not in seen and pair.params <= _DEFAULT_PARAMS
        if first:
            seen.add((pair.family, pair.id in GROUPS["known"]))
        default = group != LIBRARIES or first
        quick = pair.id in _QUICK_PAIRS
        yield Case(pair.id, group, 0 if quick else 1 if default else 2, _pair(pair, plain=group == PARTIAL))


_QUICK_PAIRS = (
    "timm:vit->transformers:vit",
    "torchvision:regnet->timm:regnet",
    "torchvision:resnet18->syn:resnet18-renamed",
    "torchvision:resnet18->syn:resnet18-renamed-deep-shuffled",
)


def _pair(pair: Pair, *, plain: bool) -> Callable[[], Problem]:
    def build() -> Problem:
        problem = PairProblem.of(PairCase.of(pair))
        # Where a head is replaced, nobody says which tensors before it are the same.
        return replace(problem, options={"example_inputs": problem.inputs}) if plain else problem

    return build


def _shuffled() -> Iterator[Case]:
    name = "inception_v3, renamed and shuffled"
    yield Case(
        name, INCEPTION, 1, lambda: made.shuffled_problem(name, torchvision("inception_v3", num_classes=10), images(96), 3)
    )


def _made() -> Iterator[Case]:
    for number, (name, build) in enumerate(made.partial_problems()):
        yield Case(name, PARTIAL, 0 if number in (0, 7) else 1, build)
    for number, (name, build) in enumerate(made.random_problems(_RANDOM)):
        yield Case(name, RANDOM, 0 if number < 3 else 1 if number < 3 * _DEFAULT_RANDOM else 2, build)


def _names() -> Iterator[Case]:
    for number, pair in enumerate(names_data.read()):
        level = 0 if number in (1, 121) else 1 if number % _EVERY == 1 else 2
        yield Case(f"names: {pair.id}", NAMES, level, lambda pair=pair: pair)  # type: ignore[misc]


def cases() -> dict[str, Case]:
    """Return all cases by name, in the order of the groups."""
    found = [*_forms(), *_shuffled(), *_pairs(), *_made(), *_names()]
    groups = (INCEPTION, QUANTIZABLE, LIBRARIES, SHUFFLED, PARTIAL, RANDOM, NAMES)
    return {case.name: case for group in groups for case in found if case.group == group}
