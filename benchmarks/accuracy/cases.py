"""The cases, by group: what is asked, and which of them a short run takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.accuracy import made
from benchmarks.accuracy.problems import FormProblem, PairProblem, Problem
from benchmarks.common.judge import Case as PairCase
from benchmarks.forms import measure
from benchmarks.names import data as names_data
from benchmarks.names.data import NamedPair
from benchmarks.registry import PAIRS
from benchmarks.registry.build import torchvision
from benchmarks.registry.pair import Pair, images
from fxmap.testing.recipes.models import MODELS

INCEPTION, QUANTIZABLE, LIBRARIES = "Inception-v3", "quantizable models", "library to library"
SHUFFLED, PARTIAL, RANDOM, NAMES = "renamed and shuffled", "partial matches", "random networks", "names and shapes alone"

# What the default run takes: half an hour on two cores, most of it for the slowest peer.
_DEFAULT_MODELS = ("resnet18", "shufflenet_v2_x0_5")
_DEFAULT_FORMS = ("quantizable", "fused", "fused-qat", "qat", "int8-channel", "int8-tensor", "dynamic", "int8-to-float")
_DEFAULT_INCEPTION = ("quantizable", "fused", "int8-channel")
_DEFAULT_PARAMS = 2.6  # millions
_QUICK_FORMS = ("quantizable", "fused", "int8-channel")
_QUICK_PAIRS = (
    "timm:vit->transformers:vit",
    "torchvision:resnet18->syn:resnet18-renamed",
    "torchvision:resnet18->syn:resnet18-renamed-deep-shuffled",
)
_MADE = {"syn-rename": SHUFFLED, "syn-shuffle": SHUFFLED, "syn-bnfold": SHUFFLED, "syn-head": PARTIAL, "syn-aux": PARTIAL}
_RANDOM, _DEFAULT_RANDOM = 40, 5  # of each kind
_EVERY = 12  # of the pairs of names and shapes, the default run takes every twelfth


@dataclass(frozen=True)
class Case:
    """One case: `level` is 0 where the quick run takes it, 1 where the default run does, 2 where only the complete does."""

    name: str
    group: str
    level: int
    build: Callable[[], Problem | NamedPair]


def _forms() -> Iterator[Case]:
    for model in ("inception_v3", *(name for name in MODELS if name != "inception_v3")):
        inception = model == "inception_v3"
        group = INCEPTION if inception else QUANTIZABLE
        usual = _DEFAULT_INCEPTION if inception else _DEFAULT_FORMS if model in _DEFAULT_MODELS else ()
        quick = ("quantizable",) if inception else _QUICK_FORMS if model == "resnet18" else ()
        for form in measure.PAIRS:
            yield Case(f"{model} to {form}", group, _level(form in quick, form in usual), _form(model, form))


def _level(quick: bool, usual: bool) -> int:
    return 0 if quick else 1 if usual else 2


def _form(model: str, form: str) -> Callable[[], Problem]:
    return lambda: FormProblem(model, form)


def _pairs() -> Iterator[Case]:
    seen: set[str] = set()
    # Of each family the default run takes one pair, a hard one if there is.
    for pair in sorted(PAIRS.values(), key=lambda pair: (not pair.hard, pair.params)):
        group = INCEPTION if pair.family == "inception_v3" else _MADE.get(pair.family, LIBRARIES)
        small = pair.params <= _DEFAULT_PARAMS
        first = small and pair.family not in seen
        if first:
            seen.add(pair.family)
        usual = small and (first or group != LIBRARIES)
        yield Case(pair.id, group, _level(pair.id in _QUICK_PAIRS, usual), _pair(pair, plain=group == PARTIAL))


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
        yield Case(name, PARTIAL, _level(number in (0, 7), number % 4 in (0, 3)), build)
    for number, (name, build) in enumerate(made.random_problems(_RANDOM)):
        yield Case(name, RANDOM, _level(number < 3, number < 3 * _DEFAULT_RANDOM), build)


def _names() -> Iterator[Case]:
    for number, pair in enumerate(names_data.read()):
        level = _level(number in (1, 121), number % _EVERY == 1)
        yield Case(f"names: {pair.id}", NAMES, level, lambda pair=pair: pair)  # type: ignore[misc]


def cases() -> dict[str, Case]:
    """Return all cases by name, in the order of the groups."""
    found = [*_forms(), *_shuffled(), *_pairs(), *_made(), *_names()]
    groups = (INCEPTION, QUANTIZABLE, LIBRARIES, SHUFFLED, PARTIAL, RANDOM, NAMES)
    return {case.name: case for group in groups for case in found if case.group == group}
