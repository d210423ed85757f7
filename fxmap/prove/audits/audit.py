"""Audit: run the user's own code of both models on newly drawn inputs, and compare the outputs.

The lockstep compares graphs that were captured on some inputs. A function that agrees there may differ elsewhere: where a
mask has holes, where a sequence is longer than a window, where numbers are large enough to reach the other piece of a clamp.
The audit looks there. It shares no code with the lockstep: it calls both models as a user would, with random weights that
the mapping has carried over, in float64.

It cannot show that two functions are equal everywhere; it shows on what they were compared, which is the scope of a proof.

>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs(torch.zeros(2, 3, dtype=torch.float64)),) * 2
>>> clamped = audit(lambda i: i.args[0], lambda i: i.args[0].clamp(max=100), both, tolerance=1e-9)
>>> clamped.refuted
'4x3 (drawn values, scaled by 0.001 to 1000)'

Cost: about seven calls of each model, on inputs no larger than the given ones but for two or three.
Source: random and boundary testing of programs, as in Claessen and Hughes, QuickCheck, 2000, doi:10.1145/351240.351266.
"""

import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.inputs import Inputs, as_shared, names_of, others, placed
from fxmap.model.restoring import let_through
from fxmap.model.tensors import Named, named_outputs
from fxmap.prove.audits.beside import beside_tensors
from fxmap.prove.audits.lacking import with_numbers
from fxmap.prove.code.decision_log import Log
from fxmap.prove.code.decisions import Decisions, Site
from fxmap.prove.inputs.few_shapes import few_shapes
from fxmap.prove.inputs.samples import DRAWS, FALLING, Both, Role, Sampler, common_batch
from fxmap.prove.inputs.second_lengths import edges_in_front, second_lengths
from fxmap.prove.inputs.shapes import EXTENTS, Shape, shapes
from fxmap.run.distance import pairs_by_name

Call = Callable[[Inputs], Any]


@dataclass(frozen=True)
class Audit:
    """The results of running both models on drawn inputs.

    Attributes:
        error: the largest difference, relative to the largest value of each sample.
        refuted: the inputs on which the models differ, in words; empty where they agree.
        ran: the inputs that both models accepted, in words.
        samples: the inputs that both models accepted.
        outputs: what the destination returned for each of them.
        varied: the names of the inputs that took different values in some run.
        fixed: the names of the others.
        unpaired: why the names of the outputs do not pair them.
        alone: batches of one, of numbers from 0 to 1 and below 0, that were drawn and not run.
        accepted: the shapes of the runs.
        special: what was special in the further runs that both models accepted, in words.
        tried: inputs of further runs in other manners and sizes, which both accepted.
        numbers: those that values were compared with.
        sampler: what draws inputs that both models accept.
        pairs: how many pairs of a size, a form of values, an option or a manner were in one run, and how many were left out.
        untaken: a decision that went one way in all runs, and behind which the models differ.
        never: what its condition never was, or what was never selected there, where it is no decision by values.
        avoided: ways of the code that no run went, and that inputs choose, in words; `blind` says that nothing showed which.
        ungiven: arguments of both models that the example leaves out, and for which they accepted nothing that was tried.
        lacking: the model that alone makes no numbers of some sample, and the first inputs of which, in words.
        unlike: arguments, left out of the example, for which one model takes tensors that the other one refuses.
    """

    error: float = 0.0
    refuted: str = ""
    ran: tuple[str, ...] = ()
    samples: tuple[Both, ...] = field(default=(), repr=False)
    outputs: tuple[Named, ...] = field(default=(), repr=False)
    varied: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    unpaired: str = ""
    alone: tuple[Both, ...] = field(default=(), repr=False)
    accepted: tuple[Shape, ...] = field(default=(), repr=False)
    untaken: str = ""
    never: object = None
    avoided: tuple[str, ...] = ()
    blind: bool = False
    unlike: str = ""
    lacking: tuple[str, ...] = ()
    ungiven: tuple[str, ...] = ()
    special: tuple[str, ...] = field(default=(), repr=False)
    tried: tuple[Both, ...] = field(default=(), repr=False)
    numbers: tuple[float, ...] = field(default=(), repr=False)
    sampler: Sampler | None = field(default=None, repr=False)
    pairs: tuple[int, int] = field(default=(0, 0), repr=False)

    @property
    def agreed(self) -> tuple[str, ...]:
        """The inputs on which both models agree, in words."""
        ran = self.ran[:-1] if self.refuted else self.ran
        met, left = self.pairs
        pairs = f", with {met} of {met + left} pairs of sizes, values and options" if met else ""
        return (*ran, f"{len(self.special)} special inputs and other ways of calling{pairs}") if self.special else ran


def audit(
    src: Call,
    dst: Call,
    both: Both,
    *,
    tolerance: float,
    tables: tuple[Mapping[int, int], Mapping[int, int]] = ({}, {}),
    limits: Sequence[int] = (),
    pairing: Sequence[tuple[int, int]] = (),
    sized: bool = False,
) -> Audit:
    """Compare two models on drawn inputs, up to the first on which they differ.

    Args:
        src, dst: functions that call a model on inputs, with the weights that are compared, and return its output.
        both: example inputs that both models accept, in float64.
        tolerance: the largest difference that counts as equal, relative to the largest absolute value of a sample.
        tables: the rows of the table that an integer input of each model indexes, by its position.
        limits: numbers that the models hold, such as windows: lengths beyond them are tried.
        pairing: which output of the source is which of the destination, where their names do not say it.
        sized: keep the spatial size of maps.
    """
    auditor = Auditor(src, dst, tolerance, pairing)
    return auditor.audit(Sampler.of(both, tables), limits, sized=sized)


@dataclass(frozen=True)
class Auditor:
    """The two models, how their outputs are compared, and the decisions that their code took.

    `counts` says how many outputs each model returned on the example. A list of one output for each sample may grow: on
    other inputs neither model may return more than it did, or fewer, unless the other one does, too. `models` are the
    replicas that the calls run, and `alike` says that they are one function of their weights, which keep their names.
    """

    src: Call
    dst: Call
    tolerance: float
    pairing: Sequence[tuple[int, int]] = ()
    counts: tuple[int, int] | None = None
    log: Log = field(default_factory=Log)
    models: tuple[nn.Module, nn.Module] | None = None
    alike: bool = False

    def audit(
        self,
        sampler: Sampler,
        limits: Sequence[int] = (),
        *,
        sized: bool = False,
        longest: int = EXTENTS.longest,
        thrifty: bool = False,
    ) -> Audit:
        """Compare the models on drawn inputs, up to the first on which they differ; on few ones if it shall be `thrifty`."""
        self.log.usual = sampler.extents()
        examples, roles = [s.example for s in sampler.slots], [s.role.value for s in sampler.slots]
        plan = few_shapes if thrifty else shapes
        lengths = second_lengths(examples, roles, limits, longest, few=thrifty)
        found = self._run(sampler, chain(plan(examples, roles, limits, sized=sized, longest=longest), lengths), Audit())
        if sized or found.refuted or found.unpaired or any(shape.spatial for shape in found.accepted):
            return found
        return self._run(found.sampler or sampler, edges_in_front(examples, limits, longest, few=thrifty), found)

    def _run(self, sampler: Sampler, plan: Iterable[tuple[str, tuple[Shape, ...]]], found: Audit) -> Audit:
        for seed, (title, choices) in enumerate(plan):
            for one, shape in _choices(sampler, choices):
                inputs = one.draw(shape, seed)
                outcome = self.compare(inputs)
                if self.log.lacking and not found.lacking and max(shape.scales, default=0.0) <= max(EXTENTS.milder):
                    found = replace(found, lacking=(self.log.lacking, describe(title, inputs, shape)))
                # An exponential of large numbers has no value in one spelling and one in another: milder ones are drawn.
                if outcome is None or (outcome[0] == float("inf") and max(shape.scales, default=0.0) > max(EXTENTS.milder)):
                    continue
                error, unpaired, theirs = outcome
                if unpaired:
                    return replace(found, unpaired=unpaired)
                sampler, text = one, describe(title, inputs, shape)
                found = replace(
                    found,
                    error=max(found.error, error),
                    ran=(*found.ran, text),
                    samples=(*found.samples, inputs),
                    outputs=(*found.outputs, theirs),
                    accepted=(*found.accepted, shape),
                    varied=tuple(dict.fromkeys((*found.varied, *_varied(sampler, inputs[0])))),
                )
                if not error <= self.tolerance:
                    return replace(found, refuted=text)
                if not found.alone:
                    forms = [replace(shape, batch=1, scales=(), form=form) for form in ("unit", "negative")]
                    found = replace(found, alone=tuple(one.draw(form, seed) for form in forms))
                break
        return replace(found, fixed=_fixed(sampler, found.varied), sampler=sampler)

    def reordered(self, sampler: Sampler) -> Audit:
        """Compare the models on inputs as the example's, with other floats and the same integers in another order.

        That is for models that accept nothing that is drawn. Where they take no tensors, they are called as in the example.
        """
        ours = others(sampler.both[0], seed=5)
        both = ours, as_shared(others(sampler.both[1], seed=5), sampler.both[1], ours, sampler.both[0])
        outcome = self.compare(both)
        if outcome is None:
            return Audit(fixed=_fixed(sampler, ()), sampler=sampler)
        error, unpaired, theirs = outcome
        varied = tuple(dict.fromkeys(_varied(sampler, ours)))
        text = describe("other values", both, Shape()) if sampler.slots else "the call of the example"
        return Audit(
            error, text if not error <= self.tolerance and not unpaired else "", (text,), (both,), (theirs,), varied,
            _fixed(sampler, varied), unpaired, (both, both), (Shape(),), sampler=sampler,
        )  # fmt: skip

    def compare(
        self,
        inputs: Both,
        *,
        gradients: bool = False,
        forced: frozenset[Site] = frozenset(),
        named: Container[str] | None = None,
        watched: bool = True,
        chance: float | None = None,
        lenient: bool = False,
    ) -> tuple[float, str, Named] | None:
        """Run both models, and return their difference, or why their outputs do not pair, and the destination's outputs.

        Args:
            inputs: of both models.
            gradients: run with gradients, which some code asks for.
            forced: places of decisions that are turned round.
            named: the names of the outputs that are compared beside those that both models return, if not all are.
            watched: whether the decisions of the code are watched: torch has other code for calls that nothing watches.
            chance: what is drawn at random, from 0 to 1, if not torch's own numbers.
            lenient: whether samples are left out of which the destination alone makes no numbers.

        Returns:
            None where one of them does not accept the inputs, or there are no finite outputs to compare. Samples of which
            the source makes no numbers are left out.
        """
        seen: dict[int, Decisions] = {}
        outputs: list[Named] = [[], []]
        beside: list[dict[str, Tensor]] = [{}, {}]
        self.log.refused, self.log.lacking = None, ""
        # The model that refused inputs last goes first: then what it refuses costs no run of the other one.
        for which in (self.log.refusing, 1 - self.log.refusing):
            call = (self.src, self.dst)[which]
            try:
                with torch.set_grad_enabled(gradients):
                    run = partial(call, inputs[which].map(_with_gradient) if gradients else inputs[which])
                    output, seen[which] = (
                        self.log.watched(which, run, forced, chance) if watched else (_unseen(run), Decisions())
                    )
                    outputs[which] = [(name, value.detach()) for name, value in named_outputs(output)]
                    beside[which] = dict(beside_tensors(output))
            except Exception as error:  # whatever a model raises on inputs that it does not accept
                let_through(error)
                self.log.refusing = self.log.refused = which
                return None
        pairing = self.pairing
        if named is not None:
            both_name = {name for name, _ in outputs[0]} & {name for name, _ in outputs[1]}
            outputs = [[(name, value) for name, value in found if name in named or name in both_name] for found in outputs]
            pairing = () if len(outputs[0]) == len(outputs[1]) > len(pairing) else pairing
        elif self.counts is not None:
            surplus = len(outputs[0]) - len(outputs[1]), self.counts[0] - self.counts[1]
            if surplus[0] != surplus[1]:
                return float("inf"), "", outputs[1]
            pairing = () if surplus == (0, 0) else pairing
        pairs, unpaired = paired(outputs[0], outputs[1], pairing)
        if unpaired:
            return 0.0, unpaired, outputs[1]
        batch = common_batch(inputs[0].flat())
        pairs, batch, self.log.lacking = with_numbers(pairs, batch, both=lenient)
        if not pairs:
            return None
        if not forced and chance is None and all(value.numel() for value in inputs[0].flat()):
            # Without numbers all of them are anything: such inputs show no way that a decision goes.
            self.log.add(inputs, tuple(tuple(value.shape) for value in inputs[0].flat()), seen[0], seen[1])
        if named is None:
            pairs += [(value, beside[1][name]) for name, value in beside[0].items() if name in beside[1]]
        return max(difference(a, b, batch) for a, b in pairs), "", outputs[1]


@contextmanager
def quiet(inputs: Both) -> Iterator[None]:
    """Keep back the warnings of code that runs on no number at all, such as those of a mean of nothing."""
    if all(value.numel() for value in inputs[0].flat()):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unseen(run: Callable[[], Any]) -> Any:
    """Run code while nothing watches the functions of torch that it calls."""
    with torch._C.DisableTorchFunction():
        return run()


def _with_gradient(value: Tensor) -> Tensor:
    return value.detach().requires_grad_() if value.is_floating_point() else value


def _choices(sampler: Sampler, choices: Sequence[Shape]) -> Iterator[tuple[Sampler, Shape]]:
    """Yield the shapes to try; integers that index no table are drawn from a wide range first, then from narrower ones."""
    integers = any(slot.role is Role.INTEGERS for slot in sampler.slots)
    wide = integers and sampler.largest == DRAWS.integers[0]
    for largest in (*DRAWS.integers, 0, FALLING) if wide else (sampler.largest,):
        for shape in choices:
            yield replace(sampler, largest=largest), shape


def _fixed(sampler: Sampler, varied: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the inputs that had one value alone; of all arguments where none of them is a tensor."""
    ours = sampler.both[0]
    names = names_of(ours) if sampler.slots else [name for name, _, value in placed(ours) if value is not None]
    return tuple(dict.fromkeys((*(name for name in names if name not in varied), *sampler.unlinked)))


def _varied(sampler: Sampler, inputs: Inputs) -> Iterator[str]:
    """Yield the names of the inputs whose values differ from the example's and are not all equal."""
    for slot, value in zip(sampler.slots, inputs.flat(), strict=True):
        differs = value.shape != slot.example.shape or not torch.equal(value, slot.example.to(value.dtype))
        if differs and (value.numel() < 2 or bool((value != value.flatten()[0]).any())):
            yield slot.name


_TITLES = {
    "values": "drawn values",
    "batch": "a larger batch",
    "length": "another length",
    "size": "another size",
}


def describe(title: str, inputs: Both, shape: Shape) -> str:
    """Write the shapes of inputs, and what is special."""
    texts = ["x".join(map(str, value.shape)) or "a number" for value in inputs[0].flat()]
    what = _TITLES.get(title, title)
    scaled = f", scaled by {min(shape.scales):g} to {max(shape.scales):g}" if shape.scales else ""
    return f"{' and '.join(dict.fromkeys(texts))} ({what}{scaled})"


def paired(ours: Named, theirs: Named, pairing: Sequence[tuple[int, int]]) -> tuple[list[tuple[Tensor, Tensor]], str]:
    """Pair the outputs of both models, by name where several have names; also return why names cannot pair them."""
    names = [name for name, _ in ours], [name for name, _ in theirs]
    common = pairs_by_name(*names)
    if not common and min(map(len, names)) > 1 and all((*names[0], *names[1])):
        texts = ", ".join(names[0]), ", ".join(names[1])
        return [], f"the source returns {texts[0]}, the destination {texts[1]}: names do not say which output is which"
    known = {i for i, _ in common}, {j for _, j in common}
    if not pairing and len(ours) == len(theirs):
        others = ([i for i in range(len(ours)) if i not in known[side]] for side in (0, 1))
        pairing = list(zip(*others, strict=True))
    rest = [(i, j) for i, j in pairing if i < len(ours) and j < len(theirs) and i not in known[0] and j not in known[1]]
    return [(ours[i][1], theirs[j][1]) for i, j in (*common, *rest)], ""


def difference(one: Tensor, other: Tensor, batch: int | None) -> float:
    """Return the largest difference, relative to the largest absolute value of each sample of a batch.

    Infinite where shapes differ, or where only one of two values is a number. Scores that both mask out are equal.

    >>> difference(torch.tensor([[1.0], [100.0]]), torch.tensor([[1.5], [100.0]]), 2)
    0.5
    """
    if one.shape != other.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    one, other = (_as_numbers(value) for value in (one, other))
    masked = (one < _MASKED) & (other < _MASKED)
    one, other = one.masked_fill(masked, 0.0), other.masked_fill(masked, 0.0)
    if not bool(torch.isfinite(other).all()):
        return float("inf")
    rows = batch if batch and one.dim() and one.shape[0] == batch else 1
    one, other = one.reshape(rows, -1), other.reshape(rows, -1)
    scale, errors = one.abs().amax(1), (one - other).abs().amax(1)
    return float(torch.where(scale > 0, errors / scale, errors).max())


def _as_numbers(value: Tensor) -> Tensor:
    return torch.view_as_real(value.to(torch.complex128)) if value.is_complex() else value.detach().double()


# A score below this is no score: its softmax is exactly 0 beside any that is not masked.
_MASKED = -1e30
