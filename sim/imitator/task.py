"""Imitation as a task: many people at once, each at some frame of some motion, commanded step by step and rewarded for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.interfaces import SimBackend, Simulation, StepRecord
from imdy_plugin.sim.backends.base import DivergedError
from imdy_plugin.sim.humanoid import joint_angles
from imdy_plugin.sim.imitator.base import SUBSTEPS, TIMESTEP
from imdy_plugin.sim.imitator.observation import COUNT, Kinematics, kinematics, observe, style_state
from imdy_plugin.sim.imitator.reference import ActionKind, Library
from imdy_plugin.sim.imitator.reward import RewardConfig, approach_reward, failed, imitation_reward, power_cost

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]

_FAR = 0.5
"""Mean distance of the joints [m] beyond which somebody who is getting up is rewarded for coming nearer alone."""

_APPROACH = 9.0
"""Reward for coming nearer [1/m]."""

_DROP, _FALLING = 0.2, 2.0
"""Height [m] above the ground from which people are dropped, and time [s] until they lie."""


@dataclass(frozen=True)
class TaskConfig:
    """The task.

    Attributes
    ----------
    worlds
        People simulated at once.
    substeps, timestep
        Physics steps for each command and the length of one [s].
    episode_steps
        Commands after which an episode ends at the latest.
    rule, limit
        When an episode has failed, see :func:`~imdy_plugin.sim.imitator.reward.failed`.
    reward
        Terms of the reward.
    start_noise
        Standard deviation of the turns [rad] that joints start with beside the reference's; velocities [m/s, rad/s] start off by ten
        times as much, the height [m] by half.
    fallen
        Share of the episodes that start with a person who has fallen down.
    recovery_steps
        Commands that such a person has to get up, while the reference waits.
    style_steps
        Frames that the judge of style sees at once.
    """

    worlds: int = 64
    substeps: int = SUBSTEPS
    timestep: float = TIMESTEP
    episode_steps: int = 300
    rule: Literal["any", "mean"] = "any"
    limit: float = 0.25
    reward: RewardConfig = field(default_factory=RewardConfig)
    start_noise: float = 0.0
    fallen: float = 0.0
    recovery_steps: int = 180
    style_steps: int = 10


@dataclass(frozen=True)
class Outcome:
    """What one command of everybody led to.

    Attributes
    ----------
    final
        Observation of the state that was reached, before any new start, ``(world, observation)``.
    reward
        Of the task alone, ``(world,)``.
    style
        The last frames of everybody as the judge of style sees them, ``(world, steps * 232)``.
    failed, ended
        Episodes that were lost, and those that ended without that, ``(world,)``.
    clip
        Which motion each was imitating, ``(world,)``.
    error
        Mean distance of the joints from the reference [m], ``(world,)``.
    """

    final: NDArray[np.float32]
    reward: Array
    style: NDArray[np.float32]
    failed: Flags
    ended: Flags
    clip: Indices
    error: Array


class ImitationTask:
    """Simulated people who imitate motions of a library, each its own.

    A world keeps its person; at a new start it draws among the motions laid out for that person. :meth:`restart` draws everything
    anew, people included, and what follows depends on nothing but its arguments and the commands.

    Parameters
    ----------
    library
        The motions.
    backend
        The physics engine.
    config
        The task.
    ahead, action
        Frames ahead that are seen, and what actions are added to, see :class:`~imdy_plugin.sim.imitator.policy.PolicyConfig`.
    """

    def __init__(
        self, library: Library, backend: SimBackend, config: TaskConfig | None = None, *, ahead: tuple[int, ...] = (1,), action: ActionKind = "residual"
    ) -> None:
        self.library, self.backend, self.config = library, backend, config or TaskConfig()
        self.ahead, self.action = ahead, action
        self._simulation: Simulation | None = None

    def restart(self, probabilities: Array, seed: int) -> NDArray[np.float32]:
        """Start all episodes anew.

        Parameters
        ----------
        probabilities
            How often to draw each motion, ``(clip,)``.
        seed
            Of every draw until the next restart.

        Returns
        -------
        numpy.ndarray
            Observations ``(world, observation)``.
        """
        self._random, self._probabilities = np.random.default_rng(seed), probabilities
        self._open(self._random.choice(len(self.library), size=self.config.worlds, p=probabilities), seed)
        self._fallen = self._fall_down() if self.config.fallen > 0 else None
        self._start(np.arange(self.config.worlds), self.clip)
        return self.observation()

    def rehearse(self, clips: Indices) -> NDArray[np.float32]:
        """Start one world for each of some motions, at its first frame; who fails or ends starts its motion anew.

        Returns
        -------
        numpy.ndarray
            Observations ``(world, observation)``.
        """
        self._random, self._probabilities, self._fallen = np.random.default_rng(0), np.ones(len(self.library)), None
        self._open(np.asarray(clips), 0)
        first = np.zeros(len(clips), int)
        self._place(np.arange(len(clips)), self.clip, first, *self.library.state(self.clip, first))
        return self.observation()

    def _open(self, clips: Indices, seed: int) -> None:
        """A new simulation of the people of these motions."""
        self.close()
        self.clip, worlds = clips.copy(), len(clips)
        self._offsets = np.stack([self.library.references[c].offsets for c in clips])
        self._simulation = self.backend.start(self.library.people(clips), timestep=self.config.timestep, seed=seed)
        self.frame, self.age = np.zeros(worlds, int), np.zeros(worlds, int)
        self._recovering = np.zeros(worlds, int)
        self._style = np.zeros((worlds, self.config.style_steps, self.library.references[0].style.shape[1]), np.float32)

    def step(self, action: Array) -> Outcome:
        """Command everybody; who failed or came to the end starts anew.

        Parameters
        ----------
        action
            What is added to the base command [rad], ``(world, 69)``.
        """
        target = self.library.base(self.clip, self.frame, self.action) + action
        return self.command(target)

    def command(self, target: Array) -> Outcome:
        """As :meth:`step`, with the targets of the joints' control themselves [rad], ``(world, 69)``."""
        before = self.body
        record = self._advance(target)
        waiting = self._recovering > 0
        self.age, self.frame, self._recovering = self.age + 1, self.frame + ~waiting, np.maximum(self._recovering - 1, 0)
        lost = self._look()
        reference = self.library.body(self.clip, self.frame)
        self._style = np.concatenate([self._style[:, 1:], style_state(self.body, self.position, self.velocity)[:, None]], axis=1)
        lost |= failed(self.body, reference, rule=self.config.rule, limit=self.config.limit) & ~waiting
        ended = ((self.age >= self.config.episode_steps) | (self.frame >= self.library.lengths[self.clip] - 1)) & ~lost
        outcome = Outcome(
            final=self.observation(),
            reward=self._reward(before, reference, waiting) - power_cost(np.nan_to_num(record.torque), self.velocity[:, 6:], self.config.reward),
            style=self._style.reshape(len(self._style), -1),
            failed=lost,
            ended=ended,
            clip=self.clip.copy(),
            error=np.linalg.norm(reference.position - self.body.position, axis=-1).mean(axis=1),
        )
        over = np.flatnonzero(lost | ended)
        if len(over):
            self._start(over, self._draw(over))
        return outcome

    def observation(self) -> NDArray[np.float32]:
        """What everybody sees now, ``(world, observation)``."""
        return observe(self.body, [self.library.body(self.clip, self.frame + k) for k in self.ahead])

    def close(self) -> None:
        """Give the simulation back."""
        if self._simulation is not None:
            self._simulation.close()
            self._simulation = None

    @property
    def _running(self) -> Simulation:
        if self._simulation is None:
            raise RuntimeError("restart() has to be called first")
        return self._simulation

    def _advance(self, target: Array) -> StepRecord:
        """One command; of people who have burst the record is NaN, and so is their state."""
        try:
            return self._running.step_towards(target, self.config.substeps)
        except DivergedError as error:
            return error.record

    def _draw(self, worlds: Indices) -> Indices:
        """New motions of the same people."""
        drawn = []
        for world in worlds:
            own = np.flatnonzero(self.library.owners == self.library.owners[self.clip[world]])
            drawn.append(self._random.choice(own, p=self._probabilities[own] / self._probabilities[own].sum()))
        return np.array(drawn)

    def _start(self, worlds: Indices, clip: Indices) -> None:
        """Put people at a random frame of their motions."""
        last = np.maximum(self.library.lengths[clip] - 2, 1)
        frame = np.floor(self._random.random(len(worlds)) * last).astype(int)
        position, velocity = self._disturbed(*self.library.state(clip, frame))
        self._recovering[worlds] = 0
        if self._fallen is not None:
            position, velocity = self._lay_down(worlds, position, velocity)
        self._place(worlds, clip, frame, position, velocity)

    def _place(self, worlds: Indices, clip: Indices, frame: Indices, position: Array, velocity: Array) -> None:
        self.clip[worlds], self.frame[worlds], self.age[worlds] = clip, frame, 0
        self._running.reset(position, velocity, [int(w) for w in worlds])
        self._style[worlds] = self.library.style(clip, frame, self.config.style_steps)
        self._look()

    def _disturbed(self, position: Array, velocity: Array) -> tuple[Array, Array]:
        """States that are off by the noise of the start."""
        noise, count = self.config.start_noise, len(position)
        if noise <= 0.0:
            return position, velocity
        turn = Rotation.from_rotvec(noise * self._random.standard_normal((count * COUNT, 3)))
        turned = Rotation.from_quat(position[:, 3:].reshape(-1, 4), scalar_first=True) * turn
        off = np.concatenate([position[:, :3], turned.as_quat(scalar_first=True).reshape(count, -1)], axis=1)
        off[:, 1] += 0.5 * noise * self._random.standard_normal(count)
        return off, velocity + 10.0 * noise * self._random.standard_normal(velocity.shape)

    def _lay_down(self, worlds: Indices, position: Array, velocity: Array) -> tuple[Array, Array]:
        """Some of the people fallen down where their references are."""
        assert self._fallen is not None
        down = self._random.random(len(worlds)) < self.config.fallen
        lying = self._fallen[worlds]
        lying[:, [0, 2]] = position[:, [0, 2]]
        self._recovering[worlds[down]] = self.config.recovery_steps
        return np.where(down[:, None], lying, position), np.where(down[:, None], 0.0, velocity)

    def _fall_down(self) -> Array:
        """Everybody dropped stiffly in some attitude; where they lie after a while, ``(world, 99)``."""
        position, velocity = self.library.state(self.clip, self.frame)
        turned = self._random.standard_normal((len(position), 4))
        position[:, 3:7] = turned / np.linalg.norm(turned, axis=1, keepdims=True)
        lowest = kinematics(position, velocity, self._offsets).position[..., 1].min(axis=1)
        position[:, 1] += _DROP - lowest
        self._running.reset(position, np.zeros_like(velocity))
        stiff = joint_angles(position)
        for _ in range(round(_FALLING / (self.config.timestep * self.config.substeps))):
            self._running.step_towards(stiff, self.config.substeps)
        return self._running.state()[0]

    def _look(self) -> Flags:
        """Take in the state of everybody; says who has left the numbers, and is put at the reference for want of a state."""
        position, velocity = self._running.state()
        gone = ~np.isfinite(np.concatenate([position, velocity], axis=1)).all(axis=1)
        if gone.any():
            known = self.library.state(self.clip, self.frame)
            position, velocity = (np.where(gone[:, None], k, v) for k, v in zip(known, (position, velocity), strict=True))
        self.position, self.velocity = position, velocity
        self.body = kinematics(position, velocity, self._offsets)
        return np.asarray(gone)

    def _reward(self, before: Kinematics, reference: Kinematics, waiting: Flags) -> Array:
        """Imitation; for who is getting up and still far from the reference, coming nearer."""
        imitation = imitation_reward(self.body, reference, self.config.reward)
        if not waiting.any():
            return imitation
        far = np.linalg.norm(reference.position - self.body.position, axis=-1).mean(axis=1) > _FAR
        return np.where(waiting & far, _APPROACH * approach_reward(self.body, before, reference), imitation)
