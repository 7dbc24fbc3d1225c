"""The pose in which a person stood: one frame of weighted inverse kinematics, with coordinates drawn to values.

The problem is that of OpenSim's MarkerPlacer: half the mean of the markers' squared distances, weighted, plus half the weighted squared
distances of coordinates from what they are drawn to, within the limits of clamped coordinates, coupled ones following their leaders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.errors import InputError

if TYPE_CHECKING:
    from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

FloatArray = NDArray[np.float64]

_ACCURACY = 1e-8
"""How near a coordinate comes to where it would end [rad or m]."""


@dataclass(frozen=True)
class StaticPose:
    """A pose.

    Attributes
    ----------
    value
        Value [rad or m] of each coordinate.
    position
        Where the model's markers are in ground ``(marker, 3)`` [m].
    converged
        Whether it ended because no coordinate moved any more.
    """

    value: dict[str, float]
    position: FloatArray
    converged: bool


def fit_pose(
    mechanics: BodyMechanics, names: Sequence[str], measured: FloatArray, weights: FloatArray, targets: Mapping[str, tuple[float, float]] | None = None
) -> StaticPose:
    """Fit the model's pose to one frame of markers, whichever way the person faces; what no marker tells is at its target or default.

    Parameters
    ----------
    mechanics
        The model.
    names, measured
        Markers of the model and where they were ``(marker, 3)`` [m].
    weights
        Weight of each ``(marker,)``; zero for those that only take part in :attr:`StaticPose.position`.
    targets
        For coordinates that are drawn to a value: that value [rad or m] and its weight.

    Raises
    ------
    InputError
        Too few markers have a weight.
    UnknownNameError
        A target is for a coordinate that the model lacks.
    """
    from imdy_plugin.solvers.multibody.inverse_kinematics import MIN_MARKERS, fit_markers

    weights = np.asarray(weights, float)
    used = np.flatnonzero(weights > 0)
    if len(used) < MIN_MARKERS:
        raise InputError(f"only {len(used)} of the shared markers have a weight; at least {MIN_MARKERS} are needed for the static pose")
    share = weights[used] / weights.sum()
    chosen, places = [names[int(i)] for i in used], np.asarray(measured, float)[None, used]
    found = fit_markers(mechanics, np.zeros(1), chosen, places, share, _ACCURACY, tasks=dict(targets or {}))
    pose = found.value[0].copy()
    for name in set(found.never_seen) & set(targets or {}):
        column = mechanics.coordinates.index(name)
        pose[column] = np.clip((targets or {})[name][0], *mechanics.bounds[column])
    pose = mechanics.couple(pose)
    position = mechanics.marker_positions(pose[None], names)[0]
    return StaticPose(dict(zip(mechanics.coordinates, pose.tolist(), strict=True)), position, bool(found.converged[0]))
