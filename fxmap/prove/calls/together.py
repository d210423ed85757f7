"""Together: options in combination, and calls that follow one with an option.

Each option has been run by itself, and both models agree there. A mask beside a switch, or two switches, may meet a branch
that neither meets alone: so every two of them are run together, in a covering array (`covering`). What is set in a row may
hide the effect of something else in it: where models are small, every two options are also run with no other one.

>>> import torch
>>> from fxmap.model.inputs import as_inputs
>>> from fxmap.prove.calls.option import in_both, with_keyword
>>> def option(name, value):
...     return Option(f"{name}={value}", in_both(lambda i: with_keyword(i, name, value)), factor=name)
>>> both = (as_inputs(torch.zeros(2)),) * 2
>>> accepted = [option("causal", True), option("mode", "sum"), option("mode", "mean")]
>>> ran = []
>>> for _ in together(accepted, both, lambda text, inputs: ran.append(text) or True, Plenty(2, 4)):
...     pass
>>> ran
['causal=True, mode=sum', 'causal=True, mode=mean']

Cost: about the product of the two largest numbers of values, in runs of both models on small inputs.
Source: as in `covering`.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import combinations, islice

from fxmap.prove.calls.covering import Row, covering
from fxmap.prove.calls.manners import after
from fxmap.prove.calls.option import Option
from fxmap.prove.inputs.budget import Plenty
from fxmap.prove.inputs.samples import Both

Run = Callable[[str, Both], bool]


def combined(accepted: Sequence[Option], both: Both, run: Run, plenty: Plenty) -> Iterator[None]:
    """Run options in combination, then the inputs after calls with options; yield after each run."""
    yield from islice(together(accepted, both, run, plenty), plenty.runs)
    yield from (None for text, inputs in after_options(accepted, both, plenty.calls) if run(text, inputs) or True)


def together(accepted: Sequence[Option], both: Both, run: Callable[[str, Both], bool], plenty: Plenty) -> Iterator[None]:
    """Run options in combination, up to where every two of them were; yield after each run.

    Args:
        accepted: those that both models accept by themselves.
        both: the inputs without any of them.
        run: runs both models on inputs, of which it is told in words, and says whether they accept them.
        plenty: how much is run.
    """
    factors = _factors(accepted, plenty.values)
    ran = set[Row]()

    def accepts(row: Row) -> bool:
        ran.add(row)
        chosen = [values[level - 1] for values, level in zip(factors, row, strict=True) if level]
        inputs: Both | None = both
        for option in chosen:
            inputs = None if inputs is None else option.applied(inputs)
        return inputs is not None and run(", ".join(option.text for option in chosen), inputs)

    for _ in covering([len(values) for values in factors], accepts):
        yield
    for left in range(plenty.alone):
        row = next((row for row in _alone(len(factors)) if row not in ran), None)
        if row is None or left == plenty.alone:
            return
        accepts(row)
        yield


def after_options(accepted: Sequence[Option], both: Both, most: int) -> Iterator[tuple[str, Both]]:
    """Yield the inputs after a call with an option, the last of each factor, then after calls with each of these."""
    last = list({option.factor: option for option in accepted}.values())[:most]
    changed = [(option.text, first) for option in last for first in [option.applied(both)] if first is not None]
    for text, first in changed:
        yield f"after a call {text}", after([first], both)
    if len(changed) > 1:
        yield "after calls with options", after([first for _, first in changed], both)


def _factors(accepted: Sequence[Option], values: int) -> list[list[Option]]:
    """Return the first options of each factor, of tensors of one kind one."""
    found: dict[str, dict[Hashable, Option]] = {}
    for option in accepted:
        if option.factor:
            found.setdefault(option.factor, {}).setdefault(option.kind, option)
    return [list(options.values())[:values] for options in found.values()]


def _alone(count: int) -> Iterator[Row]:
    """Yield the rows with the first value of two options and no other."""
    for chosen in combinations(range(count), 2):
        yield tuple(int(i in chosen) for i in range(count))
