"""From markers to ground forces: features, network and its mirror image, contact, back into the ground frame."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from imdy_plugin.errors import DataWarning
from imdy_plugin.solvers.imdys.features import RATE_HZ, Features
from imdy_plugin.solvers.imdys.network import ImdysNetwork, mirror_inputs, mirror_outputs
from imdy_plugin.solvers.multibody.chunks import one_thread

Array = NDArray[np.float64]

FLOOR_TOLERANCE_M = 0.12
"""Standing height of the lowest foot marker above y = 0 up to which the floor is believed to be at y = 0."""

TYPICAL_FOOT_MARKER_M = 0.03
"""Height of the lowest foot marker of a standing person, used where the floor is not at y = 0."""

CONTACT_RAMP = 0.1
"""Forces rise from zero to full over this range of contact probability below the threshold."""


@dataclass(frozen=True)
class GroundLoads:
    """Ground forces on the right and the left foot, per body mass, ground frame.

    Attributes
    ----------
    time
        Time stamps [s], ``(T,)``.
    force
        [N/kg], ``(T, 2, 3)``; zero out of contact, NaN where too few landmarks are seen.
    center_of_pressure
        [m], ``(T, 2, 3)``; beneath the foot also out of contact.
    free_moment
        Vertical moment about the centre of pressure [N m/kg], ``(T, 2)``.
    contact_probability
        ``(T, 2)``.
    torque
        Joint moments by :data:`~imdy_plugin.solvers.imdys.network.TORQUES` [N m/kg], ``(T, 15)``.
    """

    time: Array
    force: Array
    center_of_pressure: Array
    free_moment: Array
    contact_probability: Array
    torque: Array

    def at(self, time: Array) -> GroundLoads:
        """The loads at other time stamps, linearly between; NaN outside and beside unseen frames.

        A stamp less than one frame outside, as the last of a recording at another rate is, counts as the nearest frame.
        """
        inside = np.clip(time, self.time[0], self.time[-1])
        stamps = np.where(np.abs(time - inside) < 1 / RATE_HZ, inside, time)
        return GroundLoads(time, *(_sample(self.time, x, stamps) for x in list(vars(self).values())[1:]))


def predict(network: ImdysNetwork, features: Features, *, mirror_average: bool = True, contact_threshold: float = 0.5) -> GroundLoads:
    """Predict the ground forces of a motion.

    Parameters
    ----------
    network
        A trained network with all heads.
    features
        Of the motion.
    mirror_average
        Average the answer with the mirrored answer to the mirrored motion; then mirrored motions get mirrored answers exactly.
    contact_threshold
        Contact probability below which a foot carries nothing.
    """
    outputs = run_network(network, features, mirror_average=mirror_average)
    frames = len(features.time)
    probability = 1.0 / (1.0 + np.exp(-outputs["contact"]))
    gate = np.clip((probability - contact_threshold) / CONTACT_RAMP + 1.0, 0.0, 1.0)
    force = 10.0 * outputs["force"].reshape(frames, 2, 3)
    force[..., 1] = np.maximum(force[..., 1], 0.0)
    offset = np.zeros((frames, 2, 3))
    offset[..., [0, 2]] = 0.1 * outputs["center_of_pressure"].reshape(frames, 2, 2)
    point = _turn(features.rotation, offset) + features.foot_point
    point[..., 1] = floor_height(features)
    seen = np.where(features.usable, 1.0, np.nan)
    return GroundLoads(
        features.time,
        _turn(features.rotation, force) * gate[..., None] * seen[:, None, None],
        point,
        0.1 * outputs["free_moment"] * gate * seen[:, None],
        probability * seen[:, None],
        outputs["torque"] * seen[:, None],
    )


@torch.no_grad()
def run_network(network: ImdysNetwork, features: Features, *, mirror_average: bool) -> dict[str, Array]:
    """Outputs of all heads in the heading frame, each ``(T, size)``."""
    values, present = torch.from_numpy(features.values)[None], torch.from_numpy(features.present)[None]
    with one_thread():
        outputs = network(values, present, RATE_HZ)
        mirrored = network(*mirror_inputs(values, present), RATE_HZ) if mirror_average else {}
    if mirror_average:
        outputs = {name: (output + mirror_outputs(name, mirrored[name])) / 2.0 for name, output in outputs.items()}
    return {name: output[0].double().numpy() for name, output in outputs.items()}


def floor_height(features: Features) -> float:
    """Height of the floor [m]: 0, or just below the foot markers where these say that it is elsewhere (with a warning)."""
    if -0.03 <= features.floor <= FLOOR_TOLERANCE_M:
        return 0.0
    warnings.warn(
        f"the lowest foot marker stands at y = {features.floor:.3f} m, so the floor is not at y = 0; it is taken {TYPICAL_FOOT_MARKER_M} m below that marker",
        DataWarning,
        stacklevel=2,
    )
    return features.floor - TYPICAL_FOOT_MARKER_M


def _turn(rotation: Array, vectors: Array) -> Array:
    return np.asarray(np.einsum("tij,tfj->tfi", rotation, vectors))


def _sample(time: Array, values: Array, at: Array) -> Array:
    flat = values.reshape(len(values), -1)
    columns = [np.interp(at, time, column, left=np.nan, right=np.nan) for column in flat.T]
    return np.stack(columns, axis=1).reshape(len(at), *values.shape[1:])
