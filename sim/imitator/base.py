"""What an imitator is: whoever commands the joints of a simulated person so that it moves like a reference."""

from __future__ import annotations

import abc
from typing import ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.smpl.motion import BodyMotion

Array = NDArray[np.float64]

CONTROL_RATE = 60.0
"""Commands a second [Hz]."""

SUBSTEPS = 2
"""Physics steps for each command."""

TIMESTEP = 1.0 / (CONTROL_RATE * SUBSTEPS)
"""Length of a physics step [s]."""


class Controller(abc.ABC):
    """Commands one person through one reference."""

    @abc.abstractmethod
    def target(self, frame: int, position: Array, velocity: Array) -> Array:
        """The command from one frame of the reference to the next.

        Parameters
        ----------
        frame
            Frame of the reference that the person should be at now; the command lasts until the next.
        position, velocity
            The person's state, ``(position,)`` and ``(velocity,)``, see :class:`imdy_plugin.interfaces.Simulation`.

        Returns
        -------
        numpy.ndarray
            Targets of the joints' proportional-derivative control [rad], ``(torque,)``.
        """

    def start(self, frame: int) -> tuple[Array, Array] | None:
        """The state, ``(position,)`` and ``(velocity,)``, in which the imitation of a frame is best begun; None for the reference's own."""
        return None


class Imitator(abc.ABC):
    """Makes a simulated person move like a reference, by torques of its joints alone."""

    name: ClassVar[str]

    @abc.abstractmethod
    def begin(self, person: xr.Dataset, reference: BodyMotion, seed: int = 0) -> Controller:
        """Get ready to imitate one motion.

        Parameters
        ----------
        person
            Model of the person (:func:`imdy_plugin.schema.validate_model`).
        reference
            The motion to imitate, at :data:`CONTROL_RATE`.
        seed
            Of whatever is drawn at random.
        """
