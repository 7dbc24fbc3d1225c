"""An external load on a body, as every engine of inverse dynamics here takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class BodyLoad:
    """One external load on one body, all in the ground frame.

    Attributes
    ----------
    body
        Name of the body.
    force
        ``(time, 3)`` [N].
    point
        Point of application in ground, ``(time, 3)`` [m].
    moment
        Moment about that point, ``(time, 3)`` [N m].
    """

    body: str
    force: FloatArray
    point: FloatArray
    moment: FloatArray
