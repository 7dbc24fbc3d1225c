"""Imitating references in simulation and noting everything that happens, frame by frame, without looking at it yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import InputError
from imdy_plugin.interfaces import Simulation, StepRecord
from imdy_plugin.sim.backends.base import DivergedError
from imdy_plugin.sim.dynamics import BodyTree, Placement, place, tree_of
from imdy_plugin.sim.humanoid import motion_of, state_of
from imdy_plugin.sim.imitator.base import CONTROL_RATE, SUBSTEPS, Controller
from imdy_plugin.sim.records import Episode
from imdy_plugin.sim.validity import FAILURE_DISTANCE, joint_error
from imdy_plugin.sim.variation import Variation, sole_heights

Array = NDArray[np.float64]

_CHECKED_EVERY = 30
"""Frames between looks at whether an imitation has failed."""


@dataclass(frozen=True)
class Part:
    """One person's part in a simulation.

    Attributes
    ----------
    person
        Model of the person.
    reference
        The motion to imitate, at the control rate.
    controller
        Who commands.
    variation
        Its noise is added.
    seed
        Of the noise.
    """

    person: xr.Dataset
    reference: BodyMotion
    controller: Controller
    variation: Variation
    seed: int = 0


def roll_out(simulation: Simulation, parts: Sequence[Part], after_failure: float = 0.5) -> list[Episode]:
    """Let everybody imitate their reference, each in a world.

    Parameters
    ----------
    simulation
        One world for each part.
    parts
        Who imitates what.
    after_failure
        For how long a person who has failed goes on [s].

    Returns
    -------
    list of Episode
        One for each part. It ends with the reference, some time after a failure, or before the step in which the simulation diverged.

    Raises
    ------
    InputError
        There are not as many parts as worlds, or a reference has fewer than two frames.
    """
    if len(parts) != simulation.worlds:
        raise InputError(f"{len(parts)} people were given for {simulation.worlds} worlds; give one for each")
    short = [p.reference.name for p in parts if len(p.reference) < 2]
    if short:
        raise InputError(f"motion '{short[0]}' has fewer than two frames; nothing to imitate")
    tracks = [_Track(simulation, part, after_failure) for part in parts]
    starts = [_start(part) for part in parts]
    simulation.reset(np.concatenate([p for p, _ in starts]), np.concatenate([v for _, v in starts]))
    targets = np.zeros((simulation.worlds, simulation.torque_size))
    for frame in range(max(t.steps for t in tracks)):
        if not any(track.goes_on for track in tracks):
            break
        _advance(simulation, tracks, targets, frame)
    return [track.episode() for track in tracks]


def _advance(simulation: Simulation, tracks: Sequence[_Track], targets: Array, frame: int) -> None:
    """One step of everybody; a world that diverges is over, and put back to its start, so that the others can go on."""
    position, velocity = simulation.state()
    for world, track in enumerate(tracks):
        if track.goes_on:
            targets[world] = track.command(frame, position[world], velocity[world])
    diverged: tuple[int, ...] = ()
    try:
        record = simulation.step_towards(targets, SUBSTEPS)
    except DivergedError as error:
        record, diverged = error.record, error.worlds
    for world, track in enumerate(tracks):
        if world in diverged:
            track.goes_on = False
            simulation.reset(*_start(track.part), worlds=[world])
        elif track.goes_on:
            track.note(frame, position[world], velocity[world], targets[world], record, world)


class _Track:
    """What one person has done so far."""

    def __init__(self, simulation: Simulation, part: Part, after_failure: float) -> None:
        self.part, self.steps, self.count, self.goes_on = part, len(part.reference) - 1, 0, True
        self._bodies, self._timestep = simulation.bodies, simulation.timestep
        self._reference = state_of(part.reference)[0][: self.steps]
        self._noise = smooth_noise(part.variation, self.steps, simulation.torque_size, part.seed)
        self._tree: BodyTree = tree_of(part.person, simulation.bodies)
        self._looked_at = np.arange(_CHECKED_EVERY - 1, self.steps, _CHECKED_EVERY)
        self._wanted = place(self._tree, self._reference[self._looked_at])
        self._last = self.steps
        self._patience = round(after_failure * CONTROL_RATE)
        n, bodies = self.steps, len(simulation.bodies)
        self._position, self._velocity = np.empty((n, simulation.position_size)), np.empty((n, simulation.velocity_size))
        self._target, self._acceleration = np.empty((n, simulation.torque_size)), np.empty((n, simulation.velocity_size))
        self._torque = np.empty((n, SUBSTEPS, simulation.torque_size))
        self._ground = np.empty((4, n, bodies, 3))

    def command(self, frame: int, position: Array, velocity: Array) -> Array:
        wanted = self.part.controller.target(frame, position, velocity)
        return wanted if self._noise is None else wanted + self._noise[frame]

    def note(self, frame: int, position: Array, velocity: Array, target: Array, record: StepRecord, world: int) -> None:
        self._position[frame], self._velocity[frame], self._target[frame] = position, velocity, target
        self._acceleration[frame], self._torque[frame] = record.acceleration[world], record.torque[world]
        ground = self._ground
        ground[0, frame], ground[1, frame] = record.ground_force[world], record.ground_moment[world]
        ground[2, frame], ground[3, frame] = record.mean_ground_force[world], record.mean_ground_moment[world]
        self.count = frame + 1
        if self.count % _CHECKED_EVERY == 0 and self._last == self.steps and self._has_failed(self.count // _CHECKED_EVERY - 1):
            self._last = min(self.steps, self.count + self._patience)
        self.goes_on = self.count < self._last

    def _has_failed(self, look: int) -> bool:
        frames = slice(look, look + 1)
        wanted = Placement(self._wanted.rotation[..., frames], self._wanted.origin[..., frames], self._wanted.root[..., frames])
        return bool(joint_error(place(self._tree, self._position[self._looked_at[frames]]), wanted)[0] > FAILURE_DISTANCE)

    def episode(self) -> Episode:
        done = slice(0, self.count)
        return Episode(
            bodies=tuple(self._bodies),
            time=np.arange(self.count) / CONTROL_RATE,
            position=self._position[done],
            velocity=self._velocity[done],
            target=self._target[done],
            reference=self._reference[done],
            acceleration=self._acceleration[done],
            torque=self._torque[done],
            ground_force=self._ground[0, done],
            ground_moment=self._ground[1, done],
            mean_ground_force=self._ground[2, done],
            mean_ground_moment=self._ground[3, done],
            timestep=self._timestep,
        )


def smooth_noise(variation: Variation, frames: int, size: int, seed: int) -> Array | None:
    """Noise on what joints are set to [rad], ``(frame, size)``: a first-order process of the variation's time constant; None where there is none."""
    if variation.target_noise == 0.0:
        return None
    white = np.random.default_rng([seed, 1]).normal(size=(frames, size))
    keep = float(np.exp(-1.0 / (CONTROL_RATE * variation.noise_time)))
    white[1:] *= np.sqrt(1.0 - keep**2)
    return np.asarray(variation.target_noise * lfilter([1.0], [1.0, -keep], white, axis=0))


def _start(part: Part) -> tuple[Array, Array]:
    """State in which a person begins, ``(1, ...)``: that of the reference, joints turned by the variation's noise and the soles no deeper than before."""
    begun = part.controller.start(0) or tuple(array[0] for array in state_of(part.reference.part(0, min(3, len(part.reference)))))
    position, velocity = (np.array(array)[None] for array in begun)
    if part.variation.start_noise == 0.0:
        return position, velocity
    turns = np.random.default_rng([part.seed, 2]).normal(scale=part.variation.start_noise, size=(position.shape[1] // 4 - 1, 3))
    before = Rotation.from_quat(position[0, 7:].reshape(-1, 4), scalar_first=True)
    position[0, 7:] = (before * Rotation.from_rotvec(turns)).as_quat(scalar_first=True).ravel()
    moved = motion_of(np.zeros(1), position)
    lift = float(sole_heights(part.reference.part(0, 1), part.person)[0] - sole_heights(moved, part.person)[0])
    position[0, 1] += max(lift, 0.0)
    return position, velocity
