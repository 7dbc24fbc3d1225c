"""Newton's law where it is certain: the slow part of the total ground force is the slow part of the body's momentum balance.

Fast accelerations of a model are noisy, slow ones are not, whereas a learned force is sharp but may be off by a few per cent in
a laboratory it has not seen. The two are joined as a complementary filter: below the cutoff the total follows
the equations, above it the network. The correction is shared between the feet in proportion to their vertical force, so that a foot
in the air stays free.
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

LARGEST_SHIFT_M = 0.03
"""Largest shift of the centres of pressure [m]."""

_LEAST_SUPPORT = 1.0


@dataclass(frozen=True)
class Correction:
    """Corrected loads and where they could not be made to fit.

    Attributes
    ----------
    loads
        With force and centre of pressure corrected.
    gain
        What the vertical force would have to be multiplied with, before limits, ``(T,)``.
    exceeded
        Frames in which a limit of the vertical correction was reached, ``(T,)``.
    """

    loads: GroundLoads
    gain: Array
    exceeded: NDArray[np.bool_]


def correct_force(loads: GroundLoads, total: Array, cutoff_hz: float) -> Correction:
    """Make the slow part of the feet's force that of ``total``.

    Parameters
    ----------
    loads
        Predicted.
    total
        Total ground force/mass that the motion asks for, ``m (a - g) / m`` [N/kg], ``(T, 3)``; NaN where unknown.
    cutoff_hz
        Where the equations hand over to the network [Hz].
    """
    feet = loads.force.sum(axis=1)
    wanted, carried = slow_part(loads.time, cutoff_hz, total, feet)
    support = np.maximum(carried[:, 1], _LEAST_SUPPORT)
    gain = np.where(np.isfinite(wanted[:, 1]), wanted[:, 1] / support, 1.0)
    slope = np.nan_to_num((wanted - carried) / support[:, None])
    force = loads.force.copy()
    for axis in (0, 2):
        force[..., axis] += loads.force[..., 1] * np.clip(slope[:, axis], -LARGEST_SLOPE, LARGEST_SLOPE)[:, None]
    force[..., 1] *= np.clip(gain, 1.0 - LARGEST_GAIN, 1.0 + LARGEST_GAIN)[:, None]
    return Correction(replace(loads, force=force), gain, np.abs(gain - 1.0) > LARGEST_GAIN)


def correct_pressure(loads: GroundLoads, wrench: Array, center: Array, cutoff_hz: float) -> GroundLoads:
    """Shift both centres of pressure so that the slow part of the horizontal moment balances.

    Parameters
    ----------
    loads
        With corrected force.
    wrench
        Total ground force/mass and moment/mass about the ground origin that the motion asks for, ``(T, 6)``.
    center
        Centre of mass [m], ``(T, 3)``; moments are compared about its projection on the floor.
    cutoff_hz
        As in :func:`correct_force`.
    """
    base = center.copy()
    base[:, 1] = loads.center_of_pressure[:, 0, 1]
    asked = wrench[:, 3:] - np.cross(base, wrench[:, :3])
    carried = np.cross(loads.center_of_pressure - base[:, None], loads.force).sum(axis=1)
    wanted, moment, support = slow_part(loads.time, cutoff_hz, asked, carried, loads.force.sum(axis=1))
    missing = (wanted - moment) / np.maximum(support[:, 1:2], _LEAST_SUPPORT)
    shift = np.nan_to_num(np.stack([missing[:, 2], np.zeros(len(missing)), -missing[:, 0]], axis=1))
    shift = np.clip(shift, -LARGEST_SHIFT_M, LARGEST_SHIFT_M)
    return replace(loads, center_of_pressure=loads.center_of_pressure + shift[:, None])


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
