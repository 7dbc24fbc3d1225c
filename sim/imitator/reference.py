"""Reference motions laid out for imitation: states, bodies and commands of every frame, and many of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import InputError
from imdy_plugin.sim.humanoid import build_humanoid, state_of
from imdy_plugin.sim.imitator.base import TIMESTEP
from imdy_plugin.sim.imitator.feedforward import feedforward_targets
from imdy_plugin.sim.imitator.observation import Kinematics, kinematics, simulated_offsets, style_state
from imdy_plugin.sim.imitator.planning import standing

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
ActionKind = Literal["residual", "absolute"]

_FRAMES_LEAST = 3


@dataclass(frozen=True)
class Reference:
    """A motion for one person to imitate.

    Attributes
    ----------
    motion
        As it was given; everything else is of the motion with its soles brought to the ground
        (:func:`~imdy_plugin.sim.imitator.planning.standing`).
    person
        Model of the person.
    offsets
        Each joint in its parent's body [m], ``(24, 3)``, in the order of the simulated bodies.
    position, velocity
        States, ``(time, 99)`` and ``(time, 75)``.
    body
        Where the bodies are and how they move.
    commands
        Commands that would lead from each frame to the next if nothing disturbed the person, ``(time, 69)``
        (:func:`~imdy_plugin.sim.imitator.feedforward.feedforward_targets`).
    """

    motion: BodyMotion
    person: xr.Dataset
    offsets: Array
    position: Array
    velocity: Array
    body: Kinematics
    commands: Array

    def __len__(self) -> int:
        return len(self.position)

    @property
    def name(self) -> str:
        """What the motion is called."""
        return self.motion.name

    @cached_property
    def style(self) -> NDArray[np.float32]:
        """Every frame as the judge of style sees it, ``(time, 232)``."""
        return style_state(self.body, self.position, self.velocity)

    def base(self, frame: int, kind: ActionKind) -> Array:
        """What an action is added to for the command from ``frame`` to the next, ``(69,)``."""
        return self.commands[min(frame, len(self) - 1)] if kind == "residual" else np.zeros(self.commands.shape[1])


def lay_out(person: xr.Dataset, motion: BodyMotion) -> Reference:
    """Lay a motion out for a person, frame by frame, with its soles brought to the ground.

    Raises
    ------
    InputError
        The motion has fewer than three frames.
    """
    if len(motion) < _FRAMES_LEAST:
        raise InputError(f"motion '{motion.name}' has {len(motion)} frames; at least {_FRAMES_LEAST} are needed to imitate it")
    position, velocity = state_of(standing(motion, person))
    offsets = simulated_offsets(person)
    commands = feedforward_targets(build_humanoid(person, TIMESTEP), position, velocity)
    return Reference(motion, person, offsets, position, velocity, kinematics(position, velocity, offsets), commands)


class Library:
    """Many references, of which the frames of many worlds are taken at once.

    Parameters
    ----------
    references
        At least one.
    """

    def __init__(self, references: Sequence[Reference]) -> None:
        if not references:
            raise InputError("there is no motion to imitate")
        self.references = tuple(references)
        self.owners = _owners(self.references)
        self.lengths = np.array([len(r) for r in references])
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self._body = Kinematics(*(np.concatenate([getattr(r.body, n) for r in references]) for n in ("position", "rotation", "velocity", "angular_velocity")))
        self._commands = np.concatenate([r.commands for r in references])
        self._style = np.concatenate([r.style for r in references])
        self._position = np.concatenate([r.position for r in references])
        self._velocity = np.concatenate([r.velocity for r in references])

    def __len__(self) -> int:
        return len(self.references)

    def part(self, clips: Sequence[int]) -> Library:
        """Some of the references."""
        return Library([self.references[clip] for clip in clips])

    def people(self, clip: Indices) -> list[xr.Dataset]:
        """Whose motions they are; the same object for the same person."""
        return [self.references[self.owners[c]].person for c in clip]

    def rows(self, clip: Indices, frame: Indices) -> Indices:
        """Where frames lie; those before the first or after the last of a clip are the first and the last."""
        return np.asarray(self._starts[clip] + np.clip(frame, 0, self.lengths[clip] - 1))

    def body(self, clip: Indices, frame: Indices) -> Kinematics:
        """Bodies of the references, one row for each world."""
        return self._body[self.rows(clip, frame)]

    def state(self, clip: Indices, frame: Indices) -> tuple[Array, Array]:
        """States of the references, ``(world, 99)`` and ``(world, 75)``."""
        rows = self.rows(clip, frame)
        return self._position[rows], self._velocity[rows]

    def base(self, clip: Indices, frame: Indices, kind: ActionKind) -> Array:
        """What actions are added to, ``(world, 69)``, see :meth:`Reference.base`."""
        commands = self._commands[self.rows(clip, frame)]
        return commands if kind == "residual" else np.zeros_like(commands)

    def style(self, clip: Indices, frame: Indices, steps: int) -> NDArray[np.float32]:
        """The ``steps`` frames up to and with ``frame``, ``(world, steps, 232)``."""
        return self._style[np.stack([self.rows(clip, frame - back) for back in range(steps - 1, -1, -1)], axis=1)]

    def style_windows(self, count: int, steps: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Stretches drawn from all frames alike, ``(count, steps * 232)``."""
        clip = random.choice(len(self), size=count, p=self.lengths / self.lengths.sum())
        frame = np.floor(random.random(count) * np.maximum(self.lengths[clip] - steps + 1, 1)).astype(int) + steps - 1
        return self.style(clip, frame, steps).reshape(count, -1)


def _owners(references: Sequence[Reference]) -> Indices:
    """For each reference the first that is laid out for the same person."""
    first: dict[tuple[object, ...], int] = {}
    keys = [(r.person.attrs["name"], r.person.attrs["mass"], r.offsets.tobytes()) for r in references]
    return np.array([first.setdefault(key, number) for number, key in enumerate(keys)])
