"""Contacts, gait cycles and what is averaged over them, from vertical ground forces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.comparison import body_mass, foot_forces, sample
from imdy_plugin.errors import InputError
from imdy_plugin.schema import GRAVITY

CONTACT_FRACTION = 0.05
"""Contact begins where the vertical force exceeds this share of body weight."""

RELEASE_RATIO = 0.5
"""Contact ends where the force falls below this share of the threshold."""

MINIMUM_CONTACT = 0.06
"""Shorter contacts, and shorter gaps between contacts, are taken as noise [s]."""

LONGEST_CYCLE = 3.0
"""Two contacts of one foot further apart [s] are no gait cycle."""

_OPPOSITE = {"right": "left", "left": "right"}
_ALTERNATION = 0.2


@dataclass(frozen=True)
class Contact:
    """One contact of a foot with the ground; times in s, crossings of the threshold by linear interpolation.

    ``begins`` and ``ends`` say whether the beginning and the end were seen, or the recording started, stopped or knew nothing there.
    """

    start: float
    end: float
    begins: bool = True
    ends: bool = True


@dataclass(frozen=True)
class GaitCycle:
    """From one initial contact of a foot to its next; times in s.

    ``toe_off`` is the end of the contact; ``both_feet`` says whether the step of the other foot was seen within.
    """

    foot: str
    start: float
    toe_off: float
    end: float
    both_feet: bool = True

    @property
    def duration(self) -> float:
        """Length [s]."""
        return self.end - self.start

    @property
    def duty_factor(self) -> float:
        """Share of the cycle with ground contact."""
        return (self.toe_off - self.start) / self.duration


@dataclass(frozen=True)
class GaitSummary:
    """Gait cycles of a trial and their arithmetic.

    Attributes
    ----------
    cycles
        By foot, in time order; a foot without a full cycle has none.
    reason
        Why there is no cycle at all; empty where there is one.
    """

    cycles: dict[str, tuple[GaitCycle, ...]]
    reason: str

    @property
    def stance(self) -> dict[str, float]:
        """Mean contact time in % of the gait cycle, by foot; NaN without cycles."""
        return {foot: 100.0 * _mean([c.duty_factor for c in cycles]) for foot, cycles in self.cycles.items()}

    @property
    def cadence(self) -> float:
        """Steps per minute: two for each cycle; NaN without cycles."""
        return 120.0 / _mean([c.duration for cycles in self.cycles.values() for c in cycles])

    @property
    def gait(self) -> str:
        """``"run"`` where the feet are off the ground for more than half of the cycle, ``"walk"``, or empty without cycles."""
        stance = _mean([c.duty_factor for cycles in self.cycles.values() for c in cycles])
        return "" if np.isnan(stance) else ("walk" if stance >= 0.5 else "run")


def contacts(
    time: ArrayLike, vertical_force: ArrayLike, threshold: float, release: float | None = None, minimum_duration: float = MINIMUM_CONTACT
) -> list[Contact]:
    """Find when a foot is on the ground.

    Parameters
    ----------
    time
        Stamps [s], shape ``(time,)``.
    vertical_force
        Upward force [N], shape ``(time,)``; NaN where unknown, which ends a contact unseen.
    threshold
        Force [N] above which contact begins.
    release
        Force [N] below which contact ends; half of the threshold where not given.
    minimum_duration
        Shorter gaps are closed, then shorter contacts left out [s].

    Raises
    ------
    InputError
        The threshold is not positive or lies below the release.
    """
    stamps, force = np.asarray(time, float), np.asarray(vertical_force, float)
    low = RELEASE_RATIO * threshold if release is None else release
    if not (threshold > 0 and 0 <= low <= threshold):
        raise InputError(f"contact threshold {threshold:g} N and release {low:g} N: need 0 <= release <= threshold and threshold > 0")
    found = _crossings(stamps, force, threshold, low)
    joined: list[Contact] = []
    for contact in found:
        if joined and joined[-1].ends and contact.begins and contact.start - joined[-1].end < minimum_duration:
            joined[-1] = Contact(joined[-1].start, contact.end, joined[-1].begins, contact.ends)
        else:
            joined.append(contact)
    return [c for c in joined if c.end - c.start >= minimum_duration or not (c.begins and c.ends)]


def foot_contacts(result: xr.Dataset, mass: float | None = None, threshold: float | None = None) -> dict[str, list[Contact]]:
    """Find the contacts of each foot of a result or a motion with ground forces.

    Parameters
    ----------
    result
        With ``ground_force``.
    mass
        Body mass [kg]; the result's where not given.
    threshold
        Force [N]; 5 % of body weight where not given.
    """
    force = CONTACT_FRACTION * body_mass(result, mass) * GRAVITY if threshold is None else threshold
    vertical = foot_forces(result)["ground_force"].sel(axis="y")
    return {str(foot): contacts(result["time"].values, vertical.sel(foot=foot).values, force) for foot in vertical["foot"].values}


def gait_cycles(result: xr.Dataset, mass: float | None = None, threshold: float | None = None, longest: float = LONGEST_CYCLE) -> GaitSummary:
    """Find the gait cycles of each foot.

    A cycle runs from a seen initial contact to the next of the same foot, over known forces only, no longer than
    ``longest`` [s], in which the other foot touches down at most once and never within 20 % of the cycle around this
    foot's contacts: what a jump or a missed step does is no cycle.

    Parameters
    ----------
    result
        With ``ground_force``; walking or running, right and left foot.
    mass, threshold
        As for :func:`foot_contacts`.
    longest
        Longest cycle [s].
    """
    found = foot_contacts(result, mass, threshold)
    vertical = foot_forces(result)["ground_force"].sel(axis="y")
    stamps = result["time"].values
    cycles: dict[str, tuple[GaitCycle, ...]] = {}
    for foot in (f for f in found if f in _OPPOSITE):
        starts = [c for c in found[foot] if c.begins]
        other = [c.start for c in found.get(_OPPOSITE[foot], []) if c.begins]
        known = np.isfinite(vertical.sel(foot=foot).values)
        pairs = [GaitCycle(foot, a.start, a.end, b.start, any(a.start < t < b.start for t in other)) for a, b in pairwise(starts)]
        whole = [c for c in pairs if known[(stamps >= c.start) & (stamps <= c.end)].all()]
        cycles[foot] = tuple(c for c in whole if c.duration <= longest and _alternates(c, other))
    return GaitSummary(cycles, "" if any(cycles.values()) else _why_none(found))


def normalise(variable: xr.DataArray, cycles: Sequence[GaitCycle], points: int = 101) -> xr.Dataset:
    """Resample a variable over gait cycles and average it.

    Parameters
    ----------
    variable
        Any variable with ``time``, such as ``result["generalized_force"]``.
    cycles
        Cycles of one foot.
    points
        Number of points from 0 to 100 %.

    Returns
    -------
    xarray.Dataset
        ``value (cycle, point, ...)``, ``mean (point, ...)`` and ``sd (point, ...)`` (with n - 1; NaN for one cycle); ``point`` in % of the gait
        cycle. A point at which a cycle has no value is left out of the mean.

    Raises
    ------
    InputError
        There is no cycle, or fewer than two points.
    """
    if not cycles:
        raise InputError("no gait cycle to average over; see GaitSummary.reason")
    if points < 2:
        raise InputError(f"{points} point(s) do not make a curve; give at least 2")
    share = np.linspace(0.0, 1.0, points)
    at = np.asarray([c.start + share * c.duration for c in cycles])
    flat = sample(xr.Dataset({"value": variable}), at.ravel())["value"].transpose("time", ...)
    rest = [str(d) for d in flat.dims if d != "time"]
    coords = {name: c for name, c in flat.coords.items() if "time" not in c.dims}
    percent = ("point", 100.0 * share, {"units": "% of the gait cycle"})
    shaped = flat.values.reshape(len(cycles), points, *flat.shape[1:])
    value = xr.DataArray(shaped, dims=("cycle", "point", *rest), coords={**coords, "point": percent}, attrs=variable.attrs)
    count = value.notnull().sum("cycle")
    mean = value.mean("cycle")
    squares = ((value - mean) ** 2).sum("cycle")
    sd = np.sqrt((squares / (count - 1).where(count > 1)).astype(float))
    return xr.Dataset({"value": value, "mean": mean, "sd": sd}, attrs={"foot": cycles[0].foot})


def mean_vertical_force(result: xr.Dataset, cycles: Sequence[GaitCycle], mass: float | None = None) -> NDArray[np.float64]:
    """Mean vertical force of all feet over each cycle, in body weights.

    Over whole cycles of steady gait it is 1, whatever the person does in between; a difference of more than some 3 %
    says that forces, mass or plates are wrong.

    Returns
    -------
    numpy.ndarray
        Shape ``(cycle,)``; NaN where a force within the cycle is unknown.
    """
    total = foot_forces(result)["ground_force"].sel(axis="y", drop=True).sum("foot", skipna=False)
    ends = sorted({t for c in cycles for t in (c.start, c.end)})
    stamps = np.union1d(np.asarray(result["time"].values, float), ends)
    force = sample(xr.Dataset({"total": total}), stamps)["total"].values
    weight = body_mass(result, mass) * GRAVITY
    parts = [slice(*np.searchsorted(stamps, [c.start, c.end]) + np.array([0, 1])) for c in cycles]
    return np.asarray([np.trapezoid(force[p], stamps[p]) / c.duration / weight for p, c in zip(parts, cycles, strict=True)], float)


def _crossings(time: NDArray[np.float64], force: NDArray[np.float64], high: float, low: float) -> list[Contact]:
    found: list[Contact] = []
    start, begins = np.nan, False
    for i, value in enumerate(force):
        previous = force[i - 1] if i else np.nan
        inside = not np.isnan(start)
        if np.isnan(value):
            if inside:
                found.append(Contact(start, float(time[i - 1]), begins, False))
            start = np.nan
        elif not inside and value > high:
            begins = not np.isnan(previous)
            start = _crossing_time(time, force, i, high) if begins else float(time[i])
        elif inside and value <= low:
            found.append(Contact(start, _crossing_time(time, force, i, low), begins, True))
            start = np.nan
    if not np.isnan(start):
        found.append(Contact(start, float(time[-1]), begins, False))
    return found


def _crossing_time(time: NDArray[np.float64], force: NDArray[np.float64], i: int, level: float) -> float:
    share = (level - force[i - 1]) / (force[i] - force[i - 1])
    return float(time[i - 1] + np.clip(share, 0.0, 1.0) * (time[i] - time[i - 1]))


def _alternates(cycle: GaitCycle, other: Sequence[float]) -> bool:
    phases = [(t - cycle.start) / cycle.duration for t in other]
    together = [p for p in phases if abs(p) < _ALTERNATION or abs(p - 1.0) < _ALTERNATION]
    return not together and sum(0.0 < p < 1.0 for p in phases) <= 1


def _why_none(found: dict[str, list[Contact]]) -> str:
    starts = {foot: sum(c.begins for c in found[foot]) for foot in found if foot in _OPPOSITE}
    if not starts:
        return "no ground force of a right or left foot"
    seen = " and ".join(f"{n} initial contact{'' if n == 1 else 's'} of the {foot} foot" for foot, n in starts.items())
    if max(starts.values()) < 2:
        return f"{seen} seen; a full cycle needs two of one foot"
    return f"{seen} seen, but no two in a row enclose a cycle with known forces and one step of the other foot"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
