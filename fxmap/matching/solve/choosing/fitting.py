"""Fitting: the source's values that lie in the range of a system, and what is remembered of all points that were met."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fxmap.matching.solve.choosing.gauge import Gauge
from fxmap.matching.solve.choosing.recent import Recent
from fxmap.matching.solve.choosing.signatures import Signatures
from fxmap.matching.solve.known.source import SourceValues
from fxmap.matching.solve.runs.effort import Effort
from fxmap.matching.solve.unknown.systems import Equations, Point, Unknown
from fxmap.matching.solve.unknown.unknowns import Origin, Weights

Rank = tuple[float, ...]

# What the first and the fifth part of a rank say of numbers that are a constant times the source's, and of axes in another
# order.
MULTIPLIED, TURNED = 0.5, 4

_FITS = 1e-7

# So many numbers of choices are remembered, and of solutions.
_REMEMBERED = 4_000_000

# So many numbers of products with the source's values are remembered: a depthwise layer has a system for each channel.
_LOOKS = 10_000_000


@dataclass(frozen=True)
class Choice:
    """The numbers that some values of the source give; of better choices, `rank` is smaller.

    `entries` are their places among all weights, `places` those in the source. `recognised` says that all are there, and
    that where some are 0 the value is read as the source's is.
    """

    entries: Tensor
    numbers: Tensor
    places: Tensor
    origins: tuple[Origin, ...]
    rank: Rank
    recognised: bool
    what: str

    @property
    def certain(self) -> bool:
        """Whether all numbers are the source's, and none is 0."""
        return self.recognised and self.rank[:2] == (0.0, 0.0)

    @property
    def unusual(self) -> bool:
        """Whether some numbers are a constant times the source's, or axes are in another order."""
        return self.rank[:1] == (MULTIPLIED,) or self.rank[4:5] == (TURNED,)

    def weights(self, before: Weights) -> Weights:
        """Return the weights with these numbers known."""
        return before.having(self.entries, self.numbers, self.places, self.origins)


@dataclass(frozen=True)
class Made:
    """The choices at one point, whatever was found elsewhere, and how many tensors had the source's numbers."""

    point: Point
    choices: tuple[Choice, ...]
    table: int


@dataclass(frozen=True)
class Recognised:
    """The solution of a system for one element that is most like the source's numbers, and how many tensors had these."""

    numbers: Tensor
    places: Tensor
    origin: Origin | None
    table: int


class Fitting:
    """Finds the source's values that lie in the range of a system."""

    def __init__(self, source: SourceValues) -> None:
        self.source = source
        self.effort = Effort(float("inf"))
        self.gauge, self.signatures = Gauge(source), Signatures(source)
        self.choices, self.recognised = Recent[int, Made](_REMEMBERED), Recent[tuple[int, int], Recognised](_REMEMBERED)
        self._looks = Recent[int, tuple[Equations, Tensor, Tensor]](_LOOKS)
        self._found: dict[tuple[int, str], Tensor] = {}

    def spend_on(self, effort: Effort) -> None:
        """Count what is done from now on."""
        self.effort = self.gauge.effort = self.signatures.effort = effort

    def __call__(self, system: Unknown) -> Tensor:
        """Return the elements of the source's values that some weights give, in ascending order."""
        equations, rest = system.equations, system.rest
        key = (id(equations), f"{float(rest @ self._weights(len(rest))):.9e}")
        if key not in self._found:
            self._found[key] = self._fitting(equations, rest)
        return self._found[key]

    @staticmethod
    def _weights(count: int) -> Tensor:
        return torch.linspace(1.0, 2.0, count, dtype=torch.float64).sin()

    def _seen(self, equations: Equations) -> tuple[Tensor, Tensor]:
        """Return random vectors outside of a system's range, and their products with the source's different values."""
        found = self._looks.get(id(equations))
        if found is None:
            generator = torch.Generator().manual_seed(11)
            looks = torch.randn(3, len(equations.basis), generator=generator, dtype=torch.float64)
            self.effort.spend(numbers=len(self.source.prints.firsts) * len(equations.basis) / 4)
            looks = looks - (looks @ equations.basis) @ equations.basis.T
            found = equations, looks, looks @ self.source.different
            self._looks.put(id(equations), found, found[1].numel() + found[2].numel())
        return found[1:]

    def _fitting(self, equations: Equations, rest: Tensor) -> Tensor:
        source = self.source
        if not equations.overdetermined or not source.columns.shape[1]:
            return torch.zeros(0, dtype=torch.long)
        basis, firsts = equations.basis, source.prints.firsts
        looks, products = self._seen(equations)
        seen = products - (looks @ rest)[:, None]
        scale = (source.norms[firsts] + rest.norm()) * looks.norm(dim=1).mean()
        # Where nothing varies, such as behind a ReLU that no sample reaches, it may be what does not vary in the source.
        wanted = ~source.varies if _is_still(equations.columns) and _is_still(rest[:, None]) else source.varies
        near = firsts[(seen.abs().amax(0) <= _FITS * scale) & wanted[firsts]]
        wanted = source.columns[:, near] - rest[:, None]
        self.effort.spend(numbers=source.columns.shape[1] + len(near) * basis.numel() / 4)
        left = wanted - basis @ (basis.T @ wanted)
        near = near[left.abs().amax(0) <= _FITS * 1e-1 * wanted.abs().amax(0).clamp_min(1e-30)]
        classes = torch.zeros(len(firsts), dtype=torch.bool)
        classes[source.prints.classes[near]] = True
        return classes[source.prints.classes].nonzero().flatten()


def _is_still(columns: Tensor) -> bool:
    """Whether columns are the same for all samples."""
    return bool(((columns - columns[:1]).abs().amax(0) <= 1e-10 * columns.abs().amax(0)).all())
