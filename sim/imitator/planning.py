"""Plans how a simulated person imitates a motion: receding-horizon iterative LQR through the simulator itself.

A short stretch of the motion is simulated, the simulator is linearised along it (contacts included), and the linear-quadratic
problem of following the reference with little effort gives corrections and feedback (Li and Todorov 2004; Tassa, Erez and Todorov
2012, IROS:4906-4913). The first commands are kept, the stretch moves on. Where the person gets lost, the plan goes back and
improves each look more often from there. What acts in a plan are commands of the joints and nothing else, so every frame of it is
simulated motion like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import mujoco
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solveh_banded
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.errors import InputError
from imdy_plugin.progress import report_progress
from imdy_plugin.sim.backends.mujoco import build_models
from imdy_plugin.sim.floor import bent_toes, lowest_points
from imdy_plugin.sim.humanoid import STANDING_DEPTH, build_humanoid, state_of
from imdy_plugin.sim.imitator.base import CONTROL_RATE, SUBSTEPS, TIMESTEP
from imdy_plugin.sim.imitator.feedforward import feedforward_targets, strengths

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlanSettings:
    """How far a plan looks ahead and what it weighs.

    Attributes
    ----------
    horizon
        Frames looked ahead.
    advance
        Frames kept of each look.
    improvements
        How often each look is improved; it begins with the one before.
    harder
        Frames looked ahead and improvements of each look where the person was lost, for the first and second return.
    first_improvements
        Improvements of the first look of all.
    position, orientation, velocity
        Weights of the squared distance of joints [1/m^2], of rotations [1/rad^2] and of speeds [s^2/rad^2], each a mean over bodies.
    sole
        Weight of the squared velocity of each ankle and toe joint over the reference's [s^2/m^2], which in stance is taken to be zero.
    effort
        Weight of the squared difference from the feed-forward in moderate efforts (:func:`~imdy_plugin.sim.imitator.feedforward.strengths`).
    ending
        Factor of the cost of the last frame of a look.
    lost, failed
        Mean distance of the joints [m] at which a plan goes back, and at which it gives up.
    returns
        How often a plan may go back.
    """

    horizon: int = 24
    advance: int = 6
    improvements: int = 1
    harder: tuple[tuple[int, int], ...] = ((24, 2), (24, 4))
    first_improvements: int = 4
    position: float = 20.0
    sole: float = 0.1
    orientation: float = 0.6
    velocity: float = 0.02
    effort: float = 0.02
    ending: float = 5.0
    lost: float = 0.3
    failed: float = 0.5
    returns: int = 4


@dataclass(frozen=True)
class Plan:
    """A motion in simulation, and how to stay on it.

    Attributes
    ----------
    position, velocity
        States ``(frame, 99)`` and ``(frame, 75)`` at the control rate.
    target
        Commands that lead from each to the next [rad], ``(frame - 1, 69)``.
    gain
        Change of the command with the state's departure from the plan, ``(frame - 1, 69, 150)``.
    complete
        Whether it reaches the end of the reference.
    """

    position: Array
    velocity: Array
    target: Array
    gain: NDArray[np.floating]
    complete: bool


def plan_motion(person: xr.Dataset, reference: BodyMotion, settings: PlanSettings | None = None) -> Plan:
    """Plan the imitation of a motion.

    Takes some ten seconds of one processor for each second of motion.

    Parameters
    ----------
    person
        A model of 24 bodies (:func:`imdy_plugin.sim.standin.build_standin`).
    reference
        The motion, at the control rate.
    settings
        Horizon and weights.

    Raises
    ------
    InputError
        The reference has fewer than three frames or another rate.
    """
    if len(reference) < 3 or abs(reference.rate - CONTROL_RATE) > 0.01:
        raise InputError(f"motion '{reference.name}' has {len(reference)} frames at {reference.rate:g} Hz; give 3 or more at {CONTROL_RATE:g} Hz (resampled)")
    with threadpool_limits(1):  # matrices of 150 x 150: a second thread costs ten times what it gives
        return _Planner(person, standing(reference, person), settings or PlanSettings()).plan()


def standing(reference: BodyMotion, person: xr.Dataset) -> BodyMotion:
    """The motion with its lowest sole on the ground whenever it is near, as deep as soles give way.

    The pelvis is lifted or lowered slowly (below 2.5 Hz); what a recorded skeleton says of the height of its soles is good to a
    centimetre or two, and a simulated person would fall by that much.
    """
    reference = flat_footed(reference, person)
    low = lowest_points(reference, person)[..., 1].min(axis=1)
    weight = np.where(low < 0.0, 3.0, np.where(low < _NEAR, 1.0, 1e-4))
    lift = _smoothest(-low, weight, (CONTROL_RATE / (2 * np.pi * _LIFT_CUTOFF)) ** 4) - STANDING_DEPTH
    position = reference.root_position + lift[:, None] * (0.0, 1.0, 0.0)
    return bent_toes(replace(reference, root_position=position), person)


def flat_footed(motion: BodyMotion, person: xr.Dataset) -> BodyMotion:
    """The motion with feet that stand turned about the ankle until the sole is level.

    A recorded foot in stance is some degrees off, and a simulated one would stand on its edge. Roll is taken out where the foot is near
    the ground, pitch only where it is small besides: heels and toes rise as before.
    """
    rotation, turned, low = motion.rotation_wxyz.copy(), global_rotations(motion), lowest_points(motion, person)[..., 1]
    floor = np.minimum(low.min(axis=1, keepdims=True), 0.0)
    for column, side in enumerate(("right", "left")):
        knee, ankle = JOINTS.index(f"{side}_knee"), JOINTS.index(f"{side}_ankle")
        foot = turned[:, ankle]
        near = np.clip((_HIGH - (low[:, column] - floor[:, 0])) / (_HIGH - _LOW), 0.0, 1.0)
        near = gaussian_filter1d(near, 2.0)
        roll, pitch = np.arcsin(foot[:, 1, 2]), np.arcsin(foot[:, 1, 0])
        level = near * np.clip(2.0 - np.abs(pitch) / _SMALL_PITCH, 0.0, 1.0)
        across, along = foot[:, :, 2] * (1.0, 0.0, 1.0), foot[:, :, 0] * (1.0, 0.0, 1.0)
        lifts = [_unit(along) * (near * roll)[:, None], -_unit(across) * (level * pitch)[:, None]]
        upright = Rotation.from_rotvec(lifts[0]) * Rotation.from_rotvec(lifts[1])
        local = Rotation.from_matrix(turned[:, knee]).inv() * upright * Rotation.from_matrix(foot)
        rotation[:, ankle] = local.as_quat(scalar_first=True)
    return replace(motion, rotation_wxyz=rotation)


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


_NEAR, _LIFT_CUTOFF = 0.04, 2.5
_LOW, _HIGH, _SMALL_PITCH = 0.02, 0.06, float(np.radians(8.0))


def _smoothest(values: Array, weight: Array, stiffness: float) -> Array:
    """The sequence nearest to weighted values whose squared second differences are small (Whittaker 1922)."""
    bands = np.zeros((3, len(values)))
    for row, first in enumerate((1.0, -2.0, 1.0)):
        for column, second in enumerate((1.0, -2.0, 1.0)[row:], row):
            bands[2 - (column - row), column : len(values) - 2 + column] += stiffness * first * second
    bands[2] += weight
    return np.asarray(solveh_banded(bands, weight * values))


@dataclass
class _Stretch:
    """Some frames that were simulated: states, the commands between them, and what they cost."""

    position: Array
    velocity: Array
    target: Array
    cost: float


@dataclass
class _Trail:
    """What is planned so far, and how often which part of it was gone back to."""

    position: list[Array]
    velocity: list[Array]
    target: list[Array] = field(default_factory=list)
    returns: dict[int, int] = field(default_factory=dict)
    hard_until: int = -1
    level: int = 0

    @property
    def frame(self) -> int:
        return len(self.target)

    def go_back(self, frames: int) -> None:
        keep = max(0, self.frame - frames)
        del self.position[keep + 1 :], self.velocity[keep + 1 :], self.target[keep:]


class _Planner:
    def __init__(self, person: xr.Dataset, reference: BodyMotion, settings: PlanSettings) -> None:
        humanoid, self.body = build_humanoid(person, TIMESTEP), build_models(person, TIMESTEP)
        self.model, self.data, self.settings = self.body.damped, mujoco.MjData(self.body.damped), settings
        self.nv, self.nu, self.bodies = self.model.nv, self.model.nu, self.model.nbody - 1
        self.name = reference.name
        self.position, self.velocity = state_of(reference)
        self.target = feedforward_targets(humanoid, self.position, self.velocity)
        self.joints = np.array([self._joints(q) for q in self.position])
        self.effort = settings.effort * (humanoid.kp / strengths()) ** 2
        self.feet = np.flatnonzero([b.endswith(("_ankle", "_foot")) for b in humanoid.bodies])
        self.sole_velocity = _sole_velocity(self.joints[:, self.feet])
        self.rotation_weight = np.full(self.nv, settings.orientation / self.bodies)
        self.rotation_weight[:6] = [0.0] * 3 + [2 * settings.orientation] * 3
        self.velocity_weight = np.full(self.nv, settings.velocity / self.bodies)
        self.velocity_weight[:6] = [20 * settings.velocity] * 3 + [3 * settings.velocity] * 3

    def plan(self) -> Plan:
        planned, guess, last = _Trail([self.position[0]], [self.velocity[0]]), self.target.copy(), len(self.position) - 1
        complete = True
        while planned.frame < last:
            self._look(planned, guess)
            distance = self._distance(planned)
            if distance > self.settings.lost and not self._returned(planned, guess) and distance > self.settings.failed:
                complete = False
                break
            report_progress(f"plan {self.name}", planned.frame, last)
        position, velocity, target = np.array(planned.position), np.array(planned.velocity), np.array(planned.target)
        return Plan(position, velocity, target, self._gains(position, velocity, target), complete)

    def _look(self, planned: _Trail, guess: Array) -> None:
        """Improve the commands of the frames ahead, and keep the first."""
        settings, start = self.settings, planned.frame
        horizon, improvements = settings.harder[planned.level - 1] if start < planned.hard_until else (settings.horizon, settings.improvements)
        if start == 0:
            improvements = max(improvements, settings.first_improvements)
        ahead = slice(start, min(start + horizon, len(self.position) - 1))
        stretch = self._simulated(start, planned.position[-1], planned.velocity[-1], guess[ahead])
        stretch = self._improved(start, stretch, improvements)
        guess[ahead] = stretch.target
        kept = min(settings.advance, len(stretch.target))
        planned.position += list(stretch.position[1 : kept + 1])
        planned.velocity += list(stretch.velocity[1 : kept + 1])
        planned.target += list(stretch.target[:kept])

    def _distance(self, planned: _Trail) -> float:
        return float(np.linalg.norm(self._joints(planned.position[-1]) - self.joints[planned.frame], axis=1).mean())

    def _returned(self, planned: _Trail, guess: Array) -> bool:
        """Go back to before the person was lost, to look harder from there; False where that was tried often enough."""
        place = planned.frame // _PLACE
        planned.returns[place] = planned.returns.get(place, 0) + 1
        level = planned.returns[place]
        if level > len(self.settings.harder) or sum(planned.returns.values()) > self.settings.returns:
            return False
        planned.level, planned.hard_until = level, planned.frame + _HARD_BEYOND
        planned.go_back(_BACK[min(level, len(_BACK)) - 1])
        guess[planned.frame :] = self.target[planned.frame :]
        return True

    def _improved(self, start: int, stretch: _Stretch, improvements: int) -> _Stretch:
        caution = 0.0
        for _ in range(improvements):
            dynamics = self._linearised(stretch)
            better = None
            for _ in range(_ATTEMPTS):
                better = self._searched(start, stretch, dynamics, caution)
                if better is not None:
                    break
                caution = max(10 * caution, 0.1)
            if better is None:
                break
            caution = caution / 5 if caution > 1e-3 else 0.0
            gained, stretch = stretch.cost - better.cost, better
            if gained < 1e-3 * (stretch.cost + gained):
                break
        return stretch

    def _searched(self, start: int, stretch: _Stretch, dynamics: Sequence[tuple[Array, Array]], caution: float) -> _Stretch | None:
        """The longest step along the correction that costs less, or None."""
        try:
            correction, gain = self._solved(start, stretch, dynamics, caution)
        except LinAlgError:
            return None
        for part in _STEPS:
            tried = self._simulated(start, stretch.position[0], stretch.velocity[0], stretch.target + part * correction, stretch, gain)
            if tried.cost < stretch.cost:
                return tried
        return None

    def _simulated(self, start: int, position: Array, velocity: Array, target: Array, around: _Stretch | None = None, gain: Array | None = None) -> _Stretch:
        """Simulate commands, with feedback on the departure from a stretch where there is one."""
        model, data, steps = self.model, self.data, len(target)
        mujoco.mj_resetData(model, data)
        data.qpos, data.qvel = position, velocity
        done = _Stretch(np.empty((steps + 1, model.nq)), np.empty((steps + 1, self.nv)), np.empty((steps, self.nu)), 0.0)
        for i in range(steps):
            done.position[i], done.velocity[i], command = data.qpos, data.qvel, target[i]
            if around is not None and gain is not None:
                command = command + gain[i] @ self._departure(around.position[i], around.velocity[i])
            done.target[i] = command
            if i:
                mujoco.mj_kinematics(model, data)
                done.cost += self._state_cost(start + i)
            done.cost += float(self.effort @ (command - self.target[start + i]) ** 2)
            for _ in range(SUBSTEPS):
                self._step(command)
            if not np.abs(data.qvel).max() < _RUNAWAY:
                return replace(done, cost=np.inf)
        done.position[steps], done.velocity[steps] = data.qpos, data.qvel
        mujoco.mj_kinematics(model, data)
        done.cost += self.settings.ending * self._state_cost(start + steps)
        return done

    def _step(self, command: Array) -> None:
        """A physics step under the control law of :mod:`imdy_plugin.sim.backends.mujoco`."""
        body, data = self.body, self.data
        mujoco.mj_step1(self.model, data)
        data.ctrl = np.clip(body.kp * (command - data.actuator_length), -body.limit, body.limit) - body.kd * data.actuator_velocity
        mujoco.mj_step2(self.model, data)

    def _departure(self, position: Array, velocity: Array) -> Array:
        out = np.empty(2 * self.nv)
        mujoco.mj_differentiatePos(self.model, out[: self.nv], 1.0, position, self.data.qpos)
        out[self.nv :] = self.data.qvel - velocity
        return out

    def _state_cost(self, frame: int) -> float:
        apart = self.data.xpos[1:] - self.joints[frame]
        departure = self._departure(self.position[frame], self.velocity[frame])
        cost = self.settings.position / self.bodies * (apart**2).sum() + self.settings.sole * (self._slip(frame)[0] ** 2).sum()
        return float(cost + self.rotation_weight @ departure[: self.nv] ** 2 + self.velocity_weight @ departure[self.nv :] ** 2)

    def _slip(self, frame: int) -> tuple[Array, Array]:
        """Velocity of the feet over the reference's [m/s], and its derivative by the generalized velocity."""
        mujoco.mj_comPos(self.model, self.data)
        jacobian = np.empty((len(self.feet), 3, self.nv))
        for row, foot in zip(jacobian, self.feet, strict=True):
            mujoco.mj_jacBody(self.model, self.data, row, None, foot + 1)
        turned = jacobian.reshape(-1, self.nv)
        return turned @ self.data.qvel - self.sole_velocity[frame], turned

    def _quadratic(self, frame: int, position: Array, velocity: Array) -> tuple[Array, Array]:
        """Gradient and Gauss-Newton matrix of the cost of a state."""
        nv, data = self.nv, self.data
        self._joints(position)
        data.qvel = velocity
        mujoco.mj_comPos(self.model, data)
        jacobian = np.empty((self.bodies, 3, nv))
        for body in range(self.bodies):
            mujoco.mj_jacBody(self.model, data, jacobian[body], None, body + 1)
        apart, jacobian = (data.xpos[1:] - self.joints[frame]).ravel(), jacobian.reshape(-1, nv)
        departure = self._departure(self.position[frame], self.velocity[frame])
        weight, scale = np.concatenate([self.rotation_weight, self.velocity_weight]), self.settings.position / self.bodies
        gradient, curvature = weight * departure, np.diag(weight)
        gradient[:nv] += scale * apart @ jacobian
        curvature[:nv, :nv] += scale * jacobian.T @ jacobian
        slip, turned = self._slip(frame)
        gradient[nv:] += self.settings.sole * slip @ turned
        curvature[nv:, nv:] += self.settings.sole * turned.T @ turned
        return 2 * gradient, 2 * curvature

    def _linearised(self, stretch: _Stretch) -> list[tuple[Array, Array]]:
        return [self._derivatives(*frame) for frame in zip(stretch.position, stretch.velocity, stretch.target, strict=False)]

    def _derivatives(self, position: Array, velocity: Array, target: Array) -> tuple[Array, Array]:
        """Derivatives of the next state with respect to this one and the command, through all physics steps between them."""
        data, nv, body = self.data, self.nv, self.body
        data.qpos, data.qvel = position, velocity
        by_state, by_target = np.eye(2 * nv), np.zeros((2 * nv, self.nu))
        a, b = np.empty((2 * nv, 2 * nv)), np.empty((2 * nv, self.nu))
        for step in range(SUBSTEPS):
            mujoco.mj_forward(self.model, data)
            pull = body.kp * (target - data.actuator_length)
            stiffness = np.where(np.abs(pull) < body.limit, body.kp, 0.0)
            data.ctrl = np.clip(pull, -body.limit, body.limit) - body.kd * data.actuator_velocity
            mujoco.mj_forward(self.model, data)
            mujoco.mjd_transitionFD(self.model, data, _DIFFERENCE, False, a, b, None, None)
            a[:, 6:nv] -= ((b * stiffness).reshape(2 * nv, -1, 1, 3) @ _turning(data.actuator_length)).reshape(2 * nv, -1)
            a[:, nv + 6 :] -= b * body.kd
            by_state, by_target = a @ by_state, a @ by_target + b * stiffness
            if step < SUBSTEPS - 1:
                self._step(target)
        return by_state, by_target

    def _solved(self, start: int, stretch: _Stretch, dynamics: Sequence[tuple[Array, Array]], caution: float) -> tuple[Array, Array]:
        """Corrections ``(step, 69)`` and gains ``(step, 69, 150)`` of the linear-quadratic problem, from its end to its beginning."""
        steps = len(stretch.target)
        correction, gain = np.empty((steps, self.nu)), np.empty((steps, self.nu, 2 * self.nv))
        slope, curve = (self.settings.ending * q for q in self._quadratic(start + steps, stretch.position[-1], stretch.velocity[-1]))
        for i in reversed(range(steps)):
            by_state, by_target = dynamics[i]
            ahead = curve @ by_state
            state_slope, state_curve = by_state.T @ slope, by_state.T @ ahead
            if i:
                own_slope, own_curve = self._quadratic(start + i, stretch.position[i], stretch.velocity[i])
                state_slope, state_curve = state_slope + own_slope, state_curve + own_curve
            target_slope = by_target.T @ slope + 2 * self.effort * (stretch.target[i] - self.target[start + i])
            target_curve = by_target.T @ curve @ by_target + np.diag(2 * self.effort)
            mixed = by_target.T @ ahead
            factor = cho_factor(target_curve + np.diag(2 * caution * self.effort), check_finite=False)
            solved = -cho_solve(factor, np.concatenate([mixed, target_slope[:, None]], axis=1), check_finite=False)
            gain[i], correction[i] = solved[:, :-1], solved[:, -1]
            slope = state_slope + gain[i].T @ (target_curve @ correction[i] + target_slope) + mixed.T @ correction[i]
            curve = state_curve + gain[i].T @ target_curve @ gain[i] + gain[i].T @ mixed + mixed.T @ gain[i]
            curve = (curve + curve.T) / 2
        return correction, gain

    def _gains(self, position: Array, velocity: Array, target: Array) -> NDArray[np.float32]:
        """Feedback that leads back onto the plan, looking to its end."""
        self.position, self.velocity, self.target = position, velocity, target
        self.joints = np.array([self._joints(q) for q in position])
        self.sole_velocity = np.gradient(self.joints[:, self.feet], 1.0 / CONTROL_RATE, axis=0).reshape(len(position), -1)
        stretch = _Stretch(position, velocity, target, 0.0)
        dynamics = self._linearised(stretch)
        for caution in (0.0, 1.0, 10.0, 100.0):
            try:
                return self._solved(0, stretch, dynamics, caution)[1].astype(np.float32)
            except LinAlgError:
                continue
        return np.zeros((len(target), self.nu, 2 * self.nv), np.float32)

    def _joints(self, position: Array) -> Array:
        self.data.qpos = position
        mujoco.mj_kinematics(self.model, self.data)
        return np.array(self.data.xpos[1:])


def _turning(vectors: Array) -> Array:
    """Change of rotation vectors ``(3 * joint)`` with small turns about the child's axes, ``(joint, 3, 3)``: the inverse right Jacobian of SO(3)."""
    vector = vectors.reshape(-1, 3)
    angle = np.linalg.norm(vector, axis=1)
    safe = np.maximum(angle, 1e-4)
    factor = np.where(angle > 1e-4, 1 / safe**2 - (1 + np.cos(safe)) / (2 * safe * np.sin(safe)), 1 / 12)
    cross = np.zeros((len(vector), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]], cross[:, [1, 2, 0], [2, 0, 1]] = vector, -vector
    return np.asarray(np.eye(3) + cross / 2 + factor[:, None, None] * cross @ cross)


def _sole_velocity(place: Array) -> Array:
    """Velocities of the joints of the feet ``(time, 12)``, zero in stance, from their places ``(time, 4, 3)``."""
    velocity = np.gradient(place, 1.0 / CONTROL_RATE, axis=0)
    speed = np.linalg.norm(velocity, axis=-1, keepdims=True)
    return np.asarray((velocity * np.clip(speed / 0.3 - 1.0, 0.0, 1.0)).reshape(len(place), -1))


_STEPS = (1.0, 0.6, 0.3, 0.1)
_ATTEMPTS = 4
_DIFFERENCE = 1e-6
_RUNAWAY = 1e3
_PLACE, _HARD_BEYOND, _BACK = 90, 45, (75, 120)
