"""A policy that learns from a teacher: it is shown what to do where it gets to by itself.

The teacher is any imitator that says what it would do in any state near its plan. People are commanded by the policy or by the
teacher, a little disturbed either way, and whatever happens, the teacher's command is what the policy is trained to give
(dataset aggregation, Ross et al. 2011, AISTATS). Work goes in sections as in :mod:`~imdy_plugin.sim.imitator.ppo`, but what was
gathered is no part of a checkpoint: a training that goes on gathers anew, and ends with other weights of the same worth.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imdy_plugin.errors import InputError
from imdy_plugin.interfaces import SimBackend
from imdy_plugin.sim.imitator.base import Controller
from imdy_plugin.sim.imitator.checkpoint import optimizer_tensors, pack, restore_optimizer, unpack
from imdy_plugin.sim.imitator.mining import Mining
from imdy_plugin.sim.imitator.observation import kinematics, observe
from imdy_plugin.sim.imitator.policy import ACTIONS, PolicyConfig, PolicyNetwork
from imdy_plugin.sim.imitator.reference import Library, Reference
from imdy_plugin.sim.imitator.task import ImitationTask, TaskConfig

Array = NDArray[np.float64]
Samples = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class CloningConfig:
    """How a policy is taught.

    Attributes
    ----------
    share
        Share of the people whom the teacher commands in the first section; in each one after that it is multiplied by ``decay``.
    decay
        See ``share``.
    noise
        Standard deviation of what disturbs every command [rad].
    steps
        Commands of each world in a section.
    updates, batch
        Steps of the optimizer in a section, and samples in each.
    learning_rate, weight_decay
        Of AdamW.
    average
        Decay of the running mean of the weights, which is what acts and what is kept.
    capacity
        Samples that are kept; the oldest give way.
    largest
        Actions of the teacher are cut at this [rad].
    """

    share: float = 1.0
    decay: float = 0.8
    noise: float = 0.01
    steps: int = 100
    updates: int = 100
    batch: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    average: float = 0.995
    capacity: int = 400_000
    largest: float = 2.0


class Buffer:
    """The last so many samples.

    Parameters
    ----------
    capacity
        How many.
    size
        Numbers of an observation.
    """

    def __init__(self, capacity: int, size: int) -> None:
        self._observations = np.empty((capacity, size), np.float16)
        self._actions = np.empty((capacity, ACTIONS), np.float32)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, len(self._actions))

    def add(self, observations: NDArray[np.float32], actions: NDArray[np.float32]) -> None:
        """Add samples, ``(sample, observation)`` and ``(sample, 69)``."""
        rows = (self._added + np.arange(len(actions))) % len(self._actions)
        self._observations[rows], self._actions[rows] = observations, actions
        self._added += len(actions)

    def draw(self, count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Samples drawn evenly."""
        rows = random.integers(len(self), size=count)
        return torch.from_numpy(self._observations[rows].astype(np.float32)), torch.from_numpy(self._actions[rows])


@dataclass(frozen=True)
class Demonstration:
    """What a teacher did on its own.

    Attributes
    ----------
    reference
        What it imitated.
    position, velocity
        States from the reference's first frame on, as far as it went: ``(time, 99)`` and ``(time, 75)``.
    target
        Commands, ``(time - 1, 69)`` or ``(time, 69)``.
    """

    reference: Reference
    position: Array
    velocity: Array
    target: Array

    def samples(self, config: PolicyConfig) -> Samples:
        """Observations and actions of the policy that would have done the same.

        Raises
        ------
        InputError
            There are more states than the reference has frames, or targets are missing.
        """
        frames, last = len(self.position), len(self.reference) - 1
        if not 1 < frames <= last + 1 or len(self.velocity) != frames or len(self.target) not in (frames - 1, frames):
            raise InputError(
                f"demonstration of '{self.reference.name}': {len(self.position)} positions, {len(self.velocity)} velocities and {len(self.target)} targets "
                f"for {last + 1} frames; give a state for each frame, as far as it goes, and a target for each but the last"
            )
        now = np.arange(frames - 1)
        body = kinematics(self.position[now], self.velocity[now], self.reference.offsets)
        ahead = [self.reference.body[np.minimum(now + k, last)] for k in config.ahead]
        base = np.stack([self.reference.base(int(frame), config.action) for frame in now])
        return observe(body, ahead), (self.target[now] - base).astype(np.float32)


class Cloning:
    """A policy that is taught.

    Parameters
    ----------
    network
        The policy; one primitive.
    library, controllers
        What is imitated, and for each motion the teacher's controller of it.
    backend
        The physics engine.
    task, config
        Settings.
    demonstrations
        What the teacher did on its own, shown first.
    seed
        Of every draw.
    device
        Where the network is.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        library: Library,
        controllers: Sequence[Controller],
        backend: SimBackend,
        task: TaskConfig,
        config: CloningConfig,
        *,
        demonstrations: Sequence[Demonstration] = (),
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.network, self.config, self.seed, self.device = network.to(device), config, seed, device
        self.library, self.controllers = library, controllers
        self.task = ImitationTask(library, backend, replace(task, fallen=0.0), ahead=network.config.ahead, action=network.config.action)
        self.mining = Mining(len(library))
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.buffer = Buffer(config.capacity, network.config.observation_size)
        for demonstration in demonstrations:
            self.buffer.add(*demonstration.samples(network.config))

    def section(self, number: int) -> list[dict[str, float]]:
        """Gather, then train; returns what happened."""
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        random = np.random.default_rng([self.seed, number])
        torch.manual_seed(seed)
        self.mining.forget()
        row = self._gather(number, seed, random)
        losses = [self._learn(random) for _ in range(self.config.updates)]
        return [row | {"loss": float(np.mean(losses))}]

    def set_learning_rate(self, factor: float) -> None:
        """Train at ``factor`` times the configured rate from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor

    def result(self) -> PolicyNetwork:
        """The policy with the running mean of its weights."""
        return self.average

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds."""
        packed = [pack("policy", self.network.state_dict()), pack("average", self.average.state_dict()), pack("moment", optimizer_tensors(self.optimizer))]
        packed.append(pack("mining", {name: torch.from_numpy(value) for name, value in self.mining.state().items()}))
        return {name: tensor for part in packed for name, tensor in part.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from :meth:`tensors`."""
        self.network.load_state_dict(unpack("policy", tensors))
        self.average.load_state_dict(unpack("average", tensors))
        restore_optimizer(self.optimizer, unpack("moment", tensors))
        self.mining.restore({name: value.numpy() for name, value in unpack("mining", tensors).items()})

    def _gather(self, number: int, seed: int, random: np.random.Generator) -> dict[str, float]:
        """Let people act and note what the teacher would do."""
        observation = self.task.restart(self.mining.probabilities(), seed)
        taught = random.random(self.task.config.worlds) < self.config.share * self.config.decay**number
        errors, lost, ended = [], 0, 0
        for _ in range(self.config.steps):
            base = self.library.base(self.task.clip, self.task.frame, self.network.config.action)
            told = np.clip(self._told() - base, -self.config.largest, self.config.largest)
            self.buffer.add(observation, told.astype(np.float32))
            action = np.where(taught[:, None], told, self.average.act(observation))
            outcome = self.task.step(action + self.config.noise * random.standard_normal(action.shape))
            over = (outcome.failed | outcome.ended) & ~taught
            self.mining.count(outcome.clip[over], outcome.failed[over])
            errors.append(outcome.error[~taught] if not taught.all() else outcome.error)
            lost, ended = lost + int(outcome.failed[~taught].sum()), ended + int(outcome.ended[~taught].sum())
            observation = self.task.observation()
        self.task.close()
        samples = float(self.config.steps * len(taught))
        return {"samples": samples, "taught": float(taught.mean()), "error_mm": 1000.0 * float(np.mean(np.concatenate(errors))), "failed": lost, "ended": ended}

    def _told(self) -> Array:
        """The teacher's commands in the states that people are in, ``(world, 69)``."""
        states = zip(self.task.clip, self.task.frame, self.task.position, self.task.velocity, strict=True)
        return np.stack([self.controllers[clip].target(int(frame), position, velocity) for clip, frame, position, velocity in states])

    def _learn(self, random: np.random.Generator) -> float:
        """One step of the optimizer; returns the loss."""
        observations, actions = (part.to(self.device) for part in self.buffer.draw(self.config.batch, random))
        scaler = self.network.learning().scaler
        if float(scaler.count) < len(self.buffer):
            scaler.update(observations)
        loss = torch.nn.functional.smooth_l1_loss(self.network(observations), actions, beta=0.1)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        kept = self.average.state_dict()
        for name, value in self.network.state_dict().items():
            kept[name].copy_(value) if "scaler" in name else kept[name].lerp_(value, 1.0 - self.config.average)
        return float(loss.detach())
