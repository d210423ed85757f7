"""Take over the activation ranges of an int8 source, for an int8 destination that quantizes at the same places.

Idea: an activation range (scale and zero point) belongs to a place, which is an operation whose result is quantized. The
alignment pairs operations of both models, and thereby their ranges. If every place of the destination has a range in the
source, no calibration data is needed: scales and zero points are copied like any other tensor, and so are the integers of
weights, so that nothing is rounded again. If one place has none, nothing is taken over, and the reason is returned.

Cost: linear in the sites and in the nodes between them and their operations.

Source: the scheme of affine quantization, B. Jacob et al., CVPR 2018, section 2.1, doi:10.1109/CVPR.2018.00286.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fxmap.expressions.arithmetic import Number, Shifted
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Reshape
from fxmap.forms.sites import RangeRef, Site
from fxmap.matching.align.alignment import Pair
from fxmap.matching.derive.places import Place, QuantizedPlaces, Quantizer
from fxmap.matching.derive.saturation import clipped


@dataclass(frozen=True)
class Taken:
    """Ranges that are taken over: those stored under keys, and literals by the name of their node (scale, zero point).

    `idle` are ranges that no operation reads: those of functions that are never called. `others` counts the source's ranges
    without a counterpart in the destination.
    """

    keys: dict[str, Expression] = field(default_factory=dict)
    literals: dict[str, tuple[Expression, Expression]] = field(default_factory=dict)
    idle: frozenset[RangeRef] = frozenset()
    others: int = 0


def take_over(
    src: Quantizer, dst: Quantizer, pairs: Iterable[Pair], owners: Mapping[str, str] = MappingProxyType({})
) -> Taken | str:
    """Find the source's range for every site of the destination; or return the reason why a site has none.

    `pairs` are the operations that correspond; `owners` maps paths of destination modules to the source module that all
    their tensors come from: ranges inside layers that torch splits into several modules are matched by their names
    there. The expressions read the source's state dict, and make values of the destination's.
    """
    ours, theirs = QuantizedPlaces(src), QuantizedPlaces(dst)
    partners = {pair.dst: pair.src for pair in pairs}
    found = _sites_at_places(ours, theirs, partners)
    if isinstance(found, str):
        return found
    inside = _sites_inside(ours, theirs, owners)
    if isinstance(inside, str):
        return inside
    found |= inside
    found |= _behind_what_clips(ours, theirs, partners, found)
    conflict = _shared_by_several(ours, theirs, partners, found) or _cut_off(ours, set(found.values()))
    return conflict or _taken(ours, theirs, found)


def _sites_at_places(ours: QuantizedPlaces, theirs: QuantizedPlaces, partners: Mapping[str, str]) -> dict[Site, Site] | str:
    """Map every site of the destination at an operation to the source's site; or return the reason why one has none."""
    found: dict[Site, Site] = {}
    if theirs.nowhere:
        return f"{theirs.nowhere[0]} is at no single operation"
    for place in theirs.sites:
        own = ours.at((partners[place[0]], place[1])) if place[0] in partners else []
        matched = _sites_at(ours, own, theirs, place)
        reason = matched if isinstance(matched, str) else _several(found, matched)
        if isinstance(matched, str) or reason:
            return f"{reason}, at {theirs.describe(place)}"
        found |= matched
    return found


def _sites_at(ours: QuantizedPlaces, own: list[Site], theirs: QuantizedPlaces, place: Place) -> dict[Site, Site] | str:
    """Map the sites of one place of the destination to the source's; or return the reason why they do not correspond."""
    sites = theirs.at(place)
    if len(own) != len(sites) and len({ours.numbers(site) for site in own}) == 1:
        own = own[:1] * len(sites)
    if len(own) != len(sites):
        return f"the destination has {len(sites)} ranges, {sites[-1]}, and the source {len(own)}"
    found: dict[Site, Site] = {}
    for one, other in zip(own, sites, strict=True):
        if other not in theirs.sites[place]:
            continue
        if one.high - one.low != other.high - other.low:
            return f"{other} has {other.high - other.low + 1} integers, and the source {one.high - one.low + 1}"
        if reason := _several(found, {other: one}):
            return reason
        found[other] = one
    return found


def _several(found: Mapping[Site, Site], more: Mapping[Site, Site]) -> str:
    """Return the message that a site of the destination would have two sites of the source; "" if none would."""
    twice = [other for other, one in more.items() if found.get(other, one) != one]
    return f"{twice[0]} is the range of several operations" if twice else ""


def _sites_inside(ours: QuantizedPlaces, theirs: QuantizedPlaces, owners: Mapping[str, str]) -> dict[Site, Site] | str:
    """Map every site inside a layer that is one module of the twin to the source's site; or return why one has none."""
    found: dict[Site, Site] = {}
    for site in theirs.inner:
        owner = theirs.owner(site)
        one = ours.inside(owners.get(owner, ""), site.path.removeprefix(owner))
        if one is None:
            return f"{site} is inside of {owner}, which has no counterpart that keeps its ranges in the same way"
        found[site] = one
    return found


def _shared_by_several(
    ours: QuantizedPlaces, theirs: QuantizedPlaces, partners: Mapping[str, str], found: Mapping[Site, Site]
) -> str:
    """Return the message that a destination kernel keeps its input's range where the source has two ranges; else empty."""
    for name, before in theirs.shared():
        if theirs.model.captured.ops.op(name).kind != "cat":
            continue  # it is rounded with the input's range; `_cut_off` tells whether the source's own range cuts values off
        behind = ours.own((partners.get(name, ""), ()))[:1]
        ranges = {ours.numbers(found[site]) if site in found else theirs.numbers(site) for site in before}
        if behind and ranges != {ours.numbers(behind[0])}:
            return f"the destination has one range before and behind {theirs.describe((name, ()))}, the source several"
    return ""


def _behind_what_clips(
    ours: QuantizedPlaces, theirs: QuantizedPlaces, partners: Mapping[str, str], found: Mapping[Site, Site]
) -> dict[Site, Site]:
    """Return the source's range behind a relu or the like for a destination that has one range before and behind it.

    Where nothing else reads what is before, saturation at the range behind does what the relu does, and what that range cuts
    off besides is cut off, too.
    """
    ops, more = theirs.model.captured.ops, dict[Site, Site]()
    for name, before in theirs.shared():
        own, behind = theirs.before(name)[-1:], ours.own((partners.get(name, ""), ()))[:1]
        if clipped(ops.op(name), 0.0, 0.0) is None or own != before or own[0] not in found or not behind:
            continue
        read = [producer for names in ops.operands(name).values() for producer in names]
        alone = len(read) == 1 and len(ops.users(read[0])) == 1
        if alone and behind[0].high - behind[0].low == own[0].high - own[0].low:
            more[own[0]] = behind[0]
    return more


def _cut_off(ours: QuantizedPlaces, taken: set[Site]) -> str:
    """Return the message that a range of the source which the destination does not have cuts values off; else empty.

    Around an operation that clips, the two ranges tell: the narrower one is a bound of the source's function. A mean is
    narrower than what it is made of, so that its range tells nothing.
    """
    return next((why for name in ours.operations.values() if (why := _cut_around(ours, name, taken))), "")


def _cut_around(ours: QuantizedPlaces, name: str, taken: set[Site]) -> str:
    op = ours.model.captured.ops.op(name)
    if clipped(op, 0.0, 0.0) is None:
        return ""
    sites = [*ours.before(name)[-1:], *ours.own((name, ()))[:1]]
    if len(sites) != 2 or (sites[0] in taken) == (sites[1] in taken):
        return ""
    before, behind = (ours.real(site) for site in sites)
    image = None if before is None else clipped(op, *before[:2])
    if before is None or behind is None or image is None:
        return ""
    place, inner, outer = ("behind", image, behind[:2]) if sites[0] in taken else ("before", behind[:2], image)
    step = max(before[2], behind[2])  # ends are rounded to steps
    if outer[0] - inner[0] <= step and inner[1] - outer[1] <= step:
        return ""
    return (
        f"the source cuts values off {place} {ours.describe((name, ()))} at {outer[0]:.4g} and {outer[1]:.4g}, "
        f"where the destination has the range {inner[0]:.4g} to {inner[1]:.4g}"
    )


def _taken(ours: QuantizedPlaces, theirs: QuantizedPlaces, found: Mapping[Site, Site]) -> Taken:
    """Convert pairs of sites to expressions that read scales and zero points from the source's state dict."""
    src, dst = ours.model, theirs.model
    keys: dict[str, Expression] = {}
    literals: dict[str, tuple[Expression, Expression]] = {}
    for other, one in found.items():
        scale = _read(src, one.scale, dst, other.scale)
        zero_point = _read(src, one.zero_point, dst, other.zero_point)
        if one.low != other.low:
            # The same real numbers are mapped to other integers.
            zero_point = Shifted(zero_point, other.low - one.low)
        if other.node:
            literals[other.node] = scale, zero_point
        else:
            keys |= {dst.prefix + str(other.scale): scale, dst.prefix + str(other.zero_point): zero_point}
    idle = frozenset(number for site in theirs.idle for number in site.numbers())
    return Taken(keys, literals, idle, others=len(set(src.sites) - set(ours.idle) - set(found.values())))


def _read(src: Quantizer, one: str | float, dst: Quantizer, other: str | float) -> Expression:
    """Return an expression that reads a scale or zero point of the source, in the shape that the destination stores."""
    shape = tuple(dst.state[other].shape) if isinstance(other, str) else ()
    if not isinstance(one, str):
        return Number(shape, one)
    own = Source(src.prefix + one)
    return own if tuple(src.state[one].shape) == shape else Reshape(own, shape)
