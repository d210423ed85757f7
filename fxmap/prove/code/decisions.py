"""Decisions: where the code of a model chooses by the values or the sizes of its tensors, and which way it went.

A graph holds the one way that the code went when it was recorded. `if mask.all()`, `if x.max() > 1` and `if length > 512`
leave nothing in it, so two models that part behind such a line have one graph. Here the code runs with every number that
leaves a tensor watched: what it is compared with, where, and with which outcome. Numbers that code compares with are
candidates for inputs, and a decision that went one way in all runs can be forced to go the other way.

>>> def f(x):
...     return -x if bool(x.max() > 6) and x.shape[0] % 3 == 0 else x
>>> with Decisions() as seen:
...     _ = f(torch.ones(3))
>>> seen.numbers, [sorted(outcomes) for outcomes in seen.outcomes.values()]
({6}, [[False]])
>>> with Decisions(forced=frozenset(seen.outcomes)) as other:
...     f(torch.ones(3))
tensor([-1., -1., -1.])

Cost: a Python call for each operation.
Source: branch coverage and concolic execution, Godefroid, Klarlund and Sen, DART, 2005, doi:10.1145/1065010.1065036.
"""

import linecache
import math
import sys
from collections.abc import Callable
from dis import opmap
from functools import cache, partial
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from fxmap.capture.tracer import REPLACING
from fxmap.model.restoring import begin, finish
from fxmap.prove.code.asking import ASKING, SAME


class Site(NamedTuple):
    """A place in code at which a decision is made: by values of tensors, or by their sizes."""

    file: str
    line: int
    code: int
    instruction: int
    by_value: bool

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        return f"{Path(self.file).name}:{self.line}" + (f" ({text})" if text else "")


class Decisions(TorchFunctionMode):
    """Watches the decisions that code makes inside its `with` block.

    Attributes:
        outcomes: by place, the outcomes of the decisions there.
        numbers: what values were compared with.
        sizes: what sizes were compared with, or divided by for the rest.
        batches, alike: of these, what first axes were compared with; and the sizes with which sizes were.
        reads, lengths: whether values, or the length of a tensor, left tensors in a way that is not watched further.
        draws: whether code draws numbers.
        layouts: whether code asks how the numbers of a tensor lie in memory.
        missing: whether code asks for what is no number, or infinite.
        forced: places at which decisions by values are turned round.
        chance: what is drawn at random, from 0 to 1, if not torch's own numbers.
    """

    def __init__(self, forced: frozenset[Site] = frozenset(), chance: float | None = None) -> None:
        super().__init__()
        self.outcomes: dict[Site, set[bool]] = {}
        self.numbers: set[float] = set()
        self.sizes: set[int] = set()
        self.batches: set[int] = set()
        self.alike: set[int] = set()
        self.reads = self.lengths = self.draws = self.layouts = self.missing = False
        self.forced, self.chance = forced, chance
        self._made: Any = WeakTensorKeyDictionary()
        self._leave = partial(_MATH.leave, self)

    def __enter__(self) -> "Decisions":
        """Begin to watch; functions of `math` hand on what is watched."""
        begin(self._leave)
        _MATH.watch(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        """End to watch."""
        finish(self._leave)
        super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Watch what leaves a tensor: truth values, numbers, sizes, and places that were chosen."""
        name = getattr(func, "__name__", "")
        args = self._chosen(name, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        if name in _CHANCES:
            self.draws = True
            return result if self.chance is None else _CHANCES[name](result, self.chance)
        if name in ASKING or (name in SAME and len(args) > 1 and args[0] is args[1]):
            self.missing = self.missing or _site(by_value=True) is not None
        if name in _COMPARISONS:
            self.numbers.update(value for value in args[1:2] if type(value) in (int, float))
        elif name in _READS or (name == "__getitem__" and _is_choice(args[1])):
            if type(result) is bool:
                return self.decided(result, by_value=True)
            self.reads = self.reads or _site(by_value=True) is not None
            if name == "item" and type(result) in (int, float):
                return (_Whole if type(result) is int else _Real)(result).watched(self, by_value=True)
        elif name == "__len__":
            self.lengths = self.lengths or _site(by_value=True) is not None
        elif name in _LAYOUTS or getattr(getattr(func, "__self__", None), "__name__", "") in _LAYOUTS:
            self.layouts = self.layouts or _site(by_value=False) is not None
        elif name in ("size", "numel", "nelement") or getattr(getattr(func, "__self__", None), "__name__", "") == "shape":
            return self._sized(result, self._made.get(args[0], frozenset()) if args else frozenset())
        if isinstance(result, torch.Tensor):
            self._note_made(result, args, cut=name == "repeat_interleave" or (name == "__getitem__" and _is_cut(args[1])))
        return result

    def _note_made(self, result: torch.Tensor, args: Any, *, cut: bool) -> None:
        """Note the extents of a tensor that values have made: it was cut as values say, or is made of such tensors.

        An operation hands on the extents that its result has as well; where it has none of them, as behind a join, those
        that none of its arguments has.
        """
        if not cut and not self._made:
            return
        tensors = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else (arg,)) if _is_plain(part)]
        known = {extent for tensor in tensors for extent in tensor.shape}
        made = frozenset[int]().union(*(self._made.get(tensor, ()) for tensor in tensors))
        new = frozenset(extent for extent in result.shape if extent not in known)
        if cut:
            self._made[result] = new or frozenset(result.shape)
        elif made:
            handed_on = made.intersection(result.shape) or new
            if handed_on:
                self._made[result] = handed_on

    def _chosen(self, name: str, args: Any, kwargs: Any) -> Any:
        """Note whether code chooses any place of a tensor: a loop over none runs no time, and leaves nothing in a graph.

        Returns:
            The arguments; those that choose the other places, where the decision is turned round.
        """
        place = _choosing(name, args, kwargs)
        site = None if place is None else _site(by_value=True)
        if place is None or site is None:
            return args
        is_any = bool((args[place] != 0).any())
        self.outcomes.setdefault(site, set()).update({False, is_any})
        return (*args[:place], args[place] == 0, *args[place + 1 :]) if site in self.forced else args

    def _sized(self, result: Any, made: frozenset[int]) -> Any:
        """Return a size that notes what it is compared with, as a value where it is one that values have `made`."""
        if type(result) is torch.Size:
            several = len(result) > 1
            return torch.Size(
                _Whole(extent).watched(self, by_value=extent in made, first=several and not axis)
                for axis, extent in enumerate(result)
            )
        # A number of elements is a product of extents.
        by_value = type(result) is int and any(result % extent == 0 if extent else not result for extent in made)
        return _Whole(result).watched(self, by_value=by_value) if type(result) is int else result

    def note(self, number: "_Watched", against: object) -> None:
        """Note what a number is compared with, or divided by for the rest."""
        if type(against) in (int, float) and _site(number.by_value) is not None:
            (self.numbers if number.by_value else self.sizes).add(against)  # type: ignore[arg-type]
            self.batches.update([int(against)] if number.first else [])  # type: ignore[call-overload]
        elif isinstance(against, _Whole) and not number.by_value:
            self.alike.add(int(against))

    def decided(self, outcome: bool, *, by_value: bool) -> bool:
        """Note a decision of the code that is running, and return which way it shall go."""
        site = _site(by_value)
        if site is None:
            return outcome
        self.outcomes.setdefault(site, set()).add(outcome)
        return outcome != (site in self.forced)


_COMPARISONS = {
    f"{prefix}{name}{suffix}"
    for name in ("gt", "lt", "ge", "le", "eq", "ne")
    for prefix, suffix in (("", ""), ("__", "__"), ("", "_"))
}
# By these, values of tensors become values of Python, or shapes of tensors.
_READS = {
    *("__bool__", "__int__", "__float__", "__index__", "__contains__", "item", "tolist", "numpy", "__array__"),
    *("equal", "allclose", "is_nonzero", "nonzero", "unique", "unique_consecutive", "masked_select", "argwhere"),
}
# By these, code learns how numbers lie in memory.
_LAYOUTS = {
    *("is_contiguous", "stride", "storage_offset", "data_ptr", "as_strided", "untyped_storage", "storage", "set_"),
    *("layout", "is_sparse", "is_sparse_csr", "is_set_to", "dim_order"),
}
# Functions that draw numbers, and what they return where chance is given.
_CHANCES: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    **dict.fromkeys(("rand", "rand_like"), torch.full_like),
    **dict.fromkeys(("randn", "randn_like"), lambda drawn, chance: torch.full_like(drawn, 12 * chance - 6)),
    "bernoulli": lambda drawn, chance: torch.full_like(drawn, round(chance)),
    **dict.fromkeys(("uniform_", "normal_", "bernoulli_"), lambda drawn, chance: drawn.fill_(chance)),
}
_FXMAP, _TORCH = str(Path(__file__).resolve().parents[2]), str(Path(torch.__file__).resolve().parent)


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _is_choice(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, torch.Tensor) and part.dtype is torch.bool for part in parts)


def _is_cut(index: Any) -> bool:
    """Whether an index is cut at a place that a tensor says."""
    slices = [part for part in (index if isinstance(index, tuple) else (index,)) if isinstance(part, slice)]
    return any(isinstance(end, torch.Tensor) for part in slices for end in (part.start, part.stop, part.step))


def _choosing(name: str, args: Any, kwargs: Any) -> int | None:
    """Return which argument says which places a call chooses; None if it is none that does."""
    if name in ("nonzero", "argwhere") or (name == "where" and len(args) == 1 and not kwargs):
        return 0
    if name not in ("masked_select", "__getitem__") or len(args) < 2 or not isinstance(args[1], torch.Tensor):
        return None
    return 1 if args[1].dtype is torch.bool else None


def _site(by_value: bool) -> Site | None:
    """Return the place of the code that is running; None for fxmap's own, and for torch's own checks of sizes."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    while by_value and frame.f_back is not None and frame.f_code.co_filename.startswith(_TORCH):
        frame = frame.f_back
    file = frame.f_code.co_filename
    if file.startswith((_TORCH, _FXMAP)):
        return None
    return Site(file, frame.f_lineno, id(frame.f_code), _expressions(frame.f_code)[frame.f_lasti // 2], by_value)


@cache
def _expressions(code: CodeType) -> list[int]:
    """Return, for each instruction, itself; of those that make one call the first: Python chooses one of them."""
    first: dict[Any, int] = {}
    steps = enumerate(zip(code.co_positions(), code.co_code[::2], strict=True))
    return [first.setdefault(place, index) if step in _CALLING else index for index, (place, step) in steps]


_CALLING = {opmap[name] for name in ("PRECALL", "CALL") if name in opmap}


class _Watched:
    """A number that left a tensor: it notes what it is compared with, and so does what is computed from it."""

    seen: Decisions
    by_value: bool
    first: bool

    def watched(self, seen: Decisions, *, by_value: bool, first: bool = False) -> Any:
        """Return the number, which reports to `seen`; `first` if it is the extent of a first axis, or made of one."""
        self.seen, self.by_value, self.first = seen, by_value, first
        return self


def is_size(value: object) -> bool:
    """Whether a value is the size of a tensor, or was computed of one, while decisions are watched."""
    return isinstance(value, _Watched) and not value.by_value


class _Whole(_Watched, int):
    pass


class _Real(_Watched, float):
    pass


def _compared(kind: type, name: str) -> Callable[[Any, Any], Any]:
    plain = getattr(kind, name)

    def compare(self: Any, other: Any) -> Any:
        outcome = plain(self, other)
        if outcome is NotImplemented:
            return outcome
        self.seen.note(self, other)
        return self.seen.decided(outcome, by_value=self.by_value)

    return compare


def _computed(kind: type, name: str) -> Callable[..., Any]:
    plain = getattr(kind, name)

    def compute(self: Any, *others: Any) -> Any:
        if name == "__mod__":
            self.seen.note(self, others[0])
        return _as_watched(plain(self, *others), self)

    return compute


def _as_watched(result: Any, by: "_Watched") -> Any:
    """Return what was computed of a watched number, watched as well."""
    if type(result) is int:
        return _Whole(result).watched(by.seen, by_value=by.by_value, first=by.first)
    if type(result) is tuple:
        return tuple(_as_watched(part, by) for part in result)
    return _Real(result).watched(by.seen, by_value=by.by_value, first=by.first) if type(result) is float else result


def _handing_on(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of numbers whose result is watched if one of the numbers is."""

    def function(*args: Any, **kwargs: Any) -> Any:
        result = plain(*args, **kwargs)
        watched = next((value for value in args if isinstance(value, _Watched)), None)
        if watched is None:
            return result
        return (
            watched.seen.decided(result, by_value=watched.by_value) if type(result) is bool else _as_watched(result, watched)
        )

    return function


class _Math:
    """Functions of `math` that hand on what is watched, from the first watcher of all threads to the last."""

    def __init__(self) -> None:
        self.watchers: set[Decisions] = set()
        self.replaced: dict[str, tuple[Any, Any]] = {}

    def watch(self, watcher: Decisions) -> None:
        with REPLACING:
            if not self.watchers:
                plain = {name: getattr(math, name) for name in _FUNCTIONS}
                self.replaced = {name: (function, _handing_on(function)) for name, function in plain.items()}
            self.watchers.add(watcher)
            for name, (_, handing_on) in self.replaced.items():
                setattr(math, name, handing_on)

    def leave(self, watcher: Decisions) -> None:
        with REPLACING:
            self.watchers.discard(watcher)
            for name, (plain, handing_on) in self.replaced.items() if not self.watchers else ():
                if getattr(math, name) is handing_on:  # and nobody else's
                    setattr(math, name, plain)


def _truth(kind: type) -> Callable[[Any], bool]:
    plain: Callable[[Any], bool] = getattr(kind, "__bool__")  # noqa: B009 -- for the type checker
    return lambda self: self.seen.decided(plain(self), by_value=self.by_value)


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "divmod", "and", "or", "xor", "lshift", "rshift")
_UNARY = ("__neg__", "__abs__", "__round__", "__floor__", "__ceil__", "__trunc__", "__invert__", "bit_length")
# Functions of numbers, of which code may choose by the results.
_FUNCTIONS = (
    *("log", "log2", "log10", "log1p", "exp", "expm1", "sqrt", "isqrt", "pow", "fabs", "floor", "ceil", "trunc"),
    *("gcd", "fmod", "remainder", "copysign", "hypot", "sin", "cos", "tan", "tanh", "atan", "isclose"),
)
_MATH = _Math()
for _kind, _plain in ((_Whole, int), (_Real, float)):
    for _name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"):
        setattr(_kind, _name, _compared(_plain, _name))
    for _name in (*(f"__{side}{name}__" for name in _ARITHMETIC for side in ("", "r")), *_UNARY):
        if hasattr(_plain, _name):
            setattr(_kind, _name, _computed(_plain, _name))
    setattr(_kind, "__bool__", _truth(_plain))  # noqa: B010 -- as the others
    setattr(_kind, "__hash__", _plain.__hash__)  # noqa: B010 -- an equality without a hash would take it away
