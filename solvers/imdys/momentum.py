"""Newton's law where it is surer than the network: above all in the slow part of the body's momentum balance.

Fast accelerations of a model are noisy, slow ones are not, whereas a learned force is sharp but may be off by a few per cent in
a laboratory it has not seen. The two are joined as a complementary filter: below the cutoff the total follows
the equations, above it the network, unless the two differ by more than the model's own error explains. The correction is
shared between the feet in proportion to their vertical force, so that a foot in the air stays free. The moment balance shifts the
centres of pressure, and shares the weight of somebody who stands on both feet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.solvers.imdys.prediction import GroundLoads

Array = NDArray[np.float64]

LARGEST_GAIN = 0.2
"""Vertical correction above which something else carries the body; the correction stops there."""

LARGEST_SLOPE = 0.1
"""Largest horizontal correction, as a share of the vertical force."""

LARGEST_SHIFT_M = 0.025
"""Largest shift of the centres of pressure [m]."""

BELIEVED_DISAGREEMENT, BOUND_CUTOFF_HZ = 1.5, 6.0
"""Difference of the total force from the momentum balance that may be the model's error [N/kg], and the frequency up to which it is judged [Hz]."""

OUT_OF_REACH_M = 0.1
"""Error of the common centre of pressure [m] from which something other than the feet carries the body: twice the largest seen without."""

PRESSURE_TRUST = 0.7
"""Share of a slow error of the centres of pressure that is mended; a scaled model's centre of mass is no better known."""

LARGEST_SHARE = 0.25
"""Largest part of the total vertical force that is moved from one foot to the other."""

SHARE_ERROR, PRESSURE_ERROR_M = 0.1, 0.01
"""Expected errors of the share of the vertical force and of a centre of pressure [m]."""

SHARE_CUTOFF_HZ = 3.0
"""Below this the share of standing feet follows the moment balance."""

STANDING_WINDOW_S = 0.4
"""Standard deviation of the Gaussian window in which both feet must mostly be down to count as standing."""

_LEAST_SUPPORT = 1.0


@dataclass(frozen=True)
class Trust:
    """How far a momentum balance is believed.

    Attributes
    ----------
    cutoff_hz
        Below this the total force follows the balance [Hz].
    tolerance
        Relative difference of the vertical force that is let stand.
    horizontal
        Whether horizontal forces and centres of pressure are corrected too.
    """

    cutoff_hz: float
    tolerance: float
    horizontal: bool


WHOLE_BODY = Trust(cutoff_hz=1.5, tolerance=0.0, horizontal=True)
"""A model with a trunk of its own: believed below the cadence of walking."""

PELVIS = Trust(cutoff_hz=0.5, tolerance=0.025, horizontal=False)
"""The pelvis' motion alone: over strides it rises and falls as the whole body does; the stated mass is no better known than this."""

PRESSURE_CUTOFF_HZ = 0.5
"""Below this the centres of pressure follow the moment balance: what differs between laboratories is constant."""


@dataclass(frozen=True)
class Correction:
    """Corrected loads and where they could not be made to fit.

    Attributes
    ----------
    loads
        With corrected force.
    gain
        What the vertical force would have to be multiplied with, before limits, ``(T,)``.
    exceeded
        Frames in which a limit of the vertical correction was reached, ``(T,)``.
    """

    loads: GroundLoads
    gain: Array
    exceeded: NDArray[np.bool_]


def balance(loads: GroundLoads, wrench: Array, center: Array, trust: Trust) -> Correction:
    """Fit predicted loads to a model's momentum: slow force, large disagreement, a standing person's share, slow pressure.

    Parameters
    ----------
    loads
        Predicted.
    wrench
        Total ground force/mass and moment/mass about the ground origin that the motion asks for, ``(T, 6)``.
    center
        Centre of mass [m], ``(T, 3)``.
    trust
        How far the model is believed; only a whole body's moments are.
    """
    correction = correct_force(loads, wrench[:, :3], trust)
    if not trust.horizontal:
        return correction
    exceeded = correction.exceeded | held_elsewhere(correction.loads, wrench, center)
    loads = correct_share(bound_disagreement(correction.loads, wrench[:, :3]), wrench, center)
    return Correction(correct_pressure(loads, wrench, center), correction.gain, exceeded)


def correct_force(loads: GroundLoads, total: Array, trust: Trust) -> Correction:
    """Make the slow part of the feet's force that of ``total``.

    Parameters
    ----------
    loads
        Predicted.
    total
        Total ground force/mass that the motion asks for, ``m (a - g) / m`` [N/kg], ``(T, 3)``; NaN where unknown.
    trust
        How far ``total`` is believed.
    """
    wanted, carried = slow_part(loads.time, trust.cutoff_hz, total, loads.force.sum(axis=1))
    support = np.maximum(carried[:, 1], _LEAST_SUPPORT)
    gain = np.where(np.isfinite(wanted[:, 1]), wanted[:, 1] / support, 1.0)
    excess = np.sign(gain - 1.0) * np.maximum(np.abs(gain - 1.0) - trust.tolerance, 0.0)
    force = loads.force.copy()
    if trust.horizontal:
        slope = np.clip(np.nan_to_num((wanted - carried) / support[:, None]), -LARGEST_SLOPE, LARGEST_SLOPE)
        force[..., [0, 2]] += loads.force[..., 1:2] * slope[:, None, [0, 2]]
    force[..., 1] *= 1.0 + np.clip(excess, -LARGEST_GAIN, LARGEST_GAIN)[:, None]
    return Correction(replace(loads, force=force), gain, np.abs(excess) > LARGEST_GAIN)


def bound_disagreement(loads: GroundLoads, total: Array) -> GroundLoads:
    """Let the feet's total force differ from ``total`` by at most :data:`BELIEVED_DISAGREEMENT` below :data:`BOUND_CUTOFF_HZ`.

    In motions like those it was trained on the network stays within; in others the equations take over. The excess is shared by
    vertical force; feet in the air stay free.
    """
    wanted, carried = slow_part(loads.time, BOUND_CUTOFF_HZ, total, loads.force.sum(axis=1))
    difference = np.nan_to_num(wanted - carried)
    size = np.linalg.norm(difference, axis=1, keepdims=True)
    excess = difference * np.maximum(0.0, 1.0 - BELIEVED_DISAGREEMENT / np.maximum(size, 1e-9))
    vertical = loads.force[..., 1]
    support = vertical.sum(axis=1, keepdims=True)
    share = np.where(support > _LEAST_SUPPORT, vertical / np.maximum(support, _LEAST_SUPPORT), 0.0)
    force = loads.force + share[..., None] * excess[:, None]
    force[..., 1] = np.maximum(force[..., 1], 0.0)
    return replace(loads, force=force)


def correct_share(loads: GroundLoads, wrench: Array, center: Array) -> GroundLoads:
    """Where a person stands on both feet for longer than a step, share the vertical force as the moment balance asks.

    Errors of the share and of the centres of pressure are weighed by :data:`SHARE_ERROR` and :data:`PRESSURE_ERROR_M`: with
    the feet apart the share explains a missing moment, with the feet together it cannot. Walking's double support is too short
    for this and is left alone.

    Parameters
    ----------
    loads, wrench, center
        As in :func:`correct_pressure`.
    """
    error = _pressure_error(loads, wrench, center, SHARE_CUTOFF_HZ)
    apart = (loads.center_of_pressure[:, 0] - loads.center_of_pressure[:, 1])[:, [0, 2]]
    stiffness = PRESSURE_ERROR_M**2 + SHARE_ERROR**2 * (apart**2).sum(axis=1)
    wanted = SHARE_ERROR**2 * (apart * error).sum(axis=1) / stiffness
    vertical = loads.force[..., 1]
    both = np.nan_to_num(vertical).min(axis=1) > 0.0
    total = np.where(both, vertical.sum(axis=1), 1.0)
    change = wanted * _standing(loads.time, both)
    right = np.clip(vertical[:, 0] / total + np.clip(change, -LARGEST_SHARE, LARGEST_SHARE), 0.0, 1.0)
    force = loads.force.copy()
    force[both, :, 1] = total[both, None] * np.stack([right, 1.0 - right], axis=1)[both]
    return replace(loads, force=force)


def correct_pressure(loads: GroundLoads, wrench: Array, center: Array) -> GroundLoads:
    """Shift both centres of pressure towards where the slow part of the horizontal moment balances.

    Parameters
    ----------
    loads
        With corrected force.
    wrench
        Total ground force/mass and moment/mass about the ground origin that the motion asks for, ``(T, 6)``.
    center
        Centre of mass [m], ``(T, 3)``; moments are compared about its projection on the floor.
    """
    shift = np.zeros((len(loads.time), 3))
    shift[:, [0, 2]] = PRESSURE_TRUST * np.clip(_pressure_error(loads, wrench, center, PRESSURE_CUTOFF_HZ), -LARGEST_SHIFT_M, LARGEST_SHIFT_M)
    return replace(loads, center_of_pressure=loads.center_of_pressure + shift[:, None])


def held_elsewhere(loads: GroundLoads, wrench: Array, center: Array) -> NDArray[np.bool_]:
    """Frames in which the moment balance wants the pressure further than :data:`OUT_OF_REACH_M` from where the feet are, ``(T,)``.

    A seat carries a sitting person behind the feet, although the total force says nothing of it.
    """
    error = _pressure_error(loads, wrench, center, PRESSURE_CUTOFF_HZ)
    return np.asarray(np.linalg.norm(error, axis=1) > OUT_OF_REACH_M, bool)


def _pressure_error(loads: GroundLoads, wrench: Array, center: Array, cutoff_hz: float) -> Array:
    """How far along x and z the common centre of pressure would have to move for the slow moment to balance [m], ``(T, 2)``."""
    base = center.copy()
    base[:, 1] = loads.center_of_pressure[:, 0, 1]
    asked = wrench[:, 3:] - np.cross(base, wrench[:, :3])
    carried = np.cross(loads.center_of_pressure - base[:, None], loads.force).sum(axis=1)
    wanted, moment, support = slow_part(loads.time, cutoff_hz, asked, carried, loads.force.sum(axis=1))
    missing = (wanted - moment) / np.maximum(support[:, 1:2], _LEAST_SUPPORT)
    return np.nan_to_num(np.stack([missing[:, 2], -missing[:, 0]], axis=1))


def _standing(time: Array, both: NDArray[np.bool_]) -> Array:
    """How surely a person stands on both feet rather than steps, 0 to 1, ``(T,)``."""
    from scipy.ndimage import gaussian_filter1d

    mean = gaussian_filter1d(both.astype(float), STANDING_WINDOW_S / float(np.median(np.diff(time))))
    return np.asarray(np.clip(2.0 * mean - 1.0, 0.0, 1.0))


def slow_part(time: Array, cutoff_hz: float, *signals: Array) -> list[Array]:
    """Gaussian low-pass of several signals ``(T, n)`` over the frames in which all are known; NaN where none is near.

    The Gaussian has a standard deviation of ``1 / (2 pi cutoff)`` and is cut off at the ends of the recording.
    """
    from scipy.ndimage import gaussian_filter1d

    sigma = 1.0 / (2.0 * np.pi * cutoff_hz) / float(np.median(np.diff(time)))
    known = np.all([np.isfinite(x).all(axis=1) for x in signals], axis=0)
    weight = gaussian_filter1d(known.astype(float), sigma, mode="constant")
    out = []
    for x in signals:
        mean = gaussian_filter1d(np.where(known[:, None], x, 0.0), sigma, axis=0, mode="constant")
        out.append(np.where(weight[:, None] > 0.02, mean / np.maximum(weight, 1e-9)[:, None], np.nan))
    return out
