"""What a decision asks for: inputs that are ordinary, but for the part that leads the decision one way.

`(x[:, 0] == x[:, -1]).all()` holds where all steps are equal, and there a roll along the steps shows nothing. So where only
inputs that are the same along an axis led a decision one way, the part of them that it asks for is sought: everything else
becomes random again, as long as the decision stays. What is left is run in both models.

>>> usual, special = torch.arange(6.0), torch.full((6,), 5.0)
>>> reduced([special], [usual], lambda values: bool(values[0][0] == values[0][-1]), 100)[0]
tensor([5., 1., 2., 3., 4., 5.])

Cost: about twenty runs for each decision that was met by such inputs alone.
Source: delta debugging, Zeller and Hildebrandt, Simplifying and isolating failure-inducing input, 2002,
doi:10.1109/32.988498.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from fxmap.prove.code.decision_log import Log
from fxmap.prove.code.decisions import Site
from fxmap.prove.inputs.samples import Both, Sampler

# How many runs show what a decision asks for.
_RUNS = 80
# Elements are taken one by one in tensors of at most so many.
_FEW = 300


def asked_for(
    sampler: Sampler, log: Log, usual: Sequence[Tensor], run: Callable[[Both], object], limit: int
) -> Iterator[None]:
    """Run inputs that are ordinary but for what decisions ask for; yield after each decision.

    Args:
        sampler: makes inputs of both models from values of the source's.
        log: the decisions so far, to which a run adds its own.
        usual: ordinary values of the source's inputs.
        run: runs both models.
        limit: how many decisions are looked at.
    """
    for site, way in islice(list(log.unshown()), limit):
        for inputs in log.odd[site].get(way, ()):
            special = [one.to(other.dtype) for one, other in zip(inputs[0].flat(), usual, strict=False)]

            def holds(values: list[Tensor], site: Site = site, way: bool = way) -> bool:
                log.last = ()
                run(sampler.both_of(values))
                return log.outcome(site) is way

            if [one.shape for one in special] == [one.shape for one in usual]:
                reduced(special, usual, holds, _RUNS)
                yield


def reduced(
    special: Sequence[Tensor], usual: Sequence[Tensor], holds: Callable[[list[Tensor]], bool], limit: int
) -> list[Tensor]:
    """Return values that are as usual as a test lets them be.

    Args:
        special: values for which the test holds.
        usual: others, of the same shapes.
        holds: the test.
        limit: how often it runs.
    """
    kept = [torch.ones(value.shape, dtype=torch.bool) for value in special]
    tries = iter(range(limit))

    def mixed(flags: Sequence[Tensor]) -> list[Tensor]:
        return [torch.where(flag, one, other) for flag, one, other in zip(flags, special, usual, strict=True)]

    def becomes_usual(place: int, chosen: Tensor) -> bool:
        fewer = kept[place] & ~chosen
        if torch.equal(fewer, kept[place]):
            return True
        trial = [*kept[:place], fewer, *kept[place + 1 :]]
        if next(tries, None) is None or not holds(mixed(trial)):
            return False
        kept[place] = fewer
        return True

    for place, value in enumerate(special):
        for parts in _parts(value.shape, partial(kept.__getitem__, place)):
            _by_halves(parts, partial(becomes_usual, place))
    return mixed(kept)


def _parts(shape: torch.Size, kept: Callable[[], Tensor]) -> Iterator[list[Tensor]]:
    """Yield ways to cut a tensor: at the places of an axis, positions before samples, and into single elements."""
    for axis in (*range(1, len(shape)), *range(min(1, len(shape)))):
        places = torch.arange(shape[axis]).view(-1, *[1] * (len(shape) - 1 - axis)).expand(shape)
        yield [places == place for place in range(shape[axis])]
    rest = kept().flatten().nonzero().flatten()
    if len(rest) <= _FEW and len(shape) > 1:
        yield [torch.zeros(shape.numel(), dtype=torch.bool).index_fill(0, index, True).view(shape) for index in rest]


def _by_halves(parts: list[Tensor], becomes_usual: Callable[[Tensor], bool]) -> None:
    if not parts or becomes_usual(torch.stack(parts).any(0)) or len(parts) == 1:
        return
    middle = len(parts) // 2
    _by_halves(parts[:middle], becomes_usual)
    _by_halves(parts[middle:], becomes_usual)
