"""Published proportions of the adult body: segment lengths, masses, centres of mass and radii of gyration.

Lengths are fractions of standing height after Drillis R, Contini R (1966), *Body segment parameters*, New York University,
as tabulated by Winter DA (2009), *Biomechanics and Motor Control of Human Movement*, 4th ed., figure 4.1. Masses, centres of
mass and radii of gyration are those of de Leva P (1996), *Adjustments to Zatsiorsky-Seluyanov's segment inertia parameters*,
J Biomech 29(9):1223-1230, table 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from imdy_plugin.errors import InputError

Sex = Literal["male", "female"]

HEIGHT_RANGE = (1.2, 2.3)
"""Standing heights [m] that adult proportions are used for."""

BODY_MASS_INDEX_RANGE = (10.0, 80.0)
"""Mass over height squared [kg/m^2] that is taken for a person's."""

LENGTHS = {
    "ankle_height": 0.039,
    "knee_height": 0.285,
    "hip_height": 0.530,
    "shoulder_height": 0.818,
    "shoulder_half_width": 0.129,
    "upper_arm": 0.186,
    "forearm": 0.146,
    "hand": 0.108,
    "foot_length": 0.152,
    "foot_width": 0.055,
}
"""Fractions of standing height (Drillis and Contini 1966, in Winter 2009)."""

ASIS_WIDTH = 0.132
"""Distance between the anterior superior iliac spines over height (0.23 m at 1.75 m; Reynolds, Snow and Young 1982, FAA-AM-82-9)."""

PELVIS_DEPTH = 0.088
"""Mid anterior to mid posterior superior iliac spine over height (0.155 m at 1.75 m; Reynolds, Snow and Young 1982)."""

HIP_CENTER_IN_ASIS_WIDTHS = (-0.19, -0.30, 0.36)
"""Right hip centre from the mid anterior iliac spine, forward, up, right, over the width (Bell, Pedersen and Brand 1990, J Biomech 23:617-621)."""

INMAN_ANKLE_AXIS_DEGREES = (8.0, 6.0)
"""Talocrural axis: fall from medial to lateral, and backward turn of its lateral end (Inman 1976, *The Joints of the Ankle*: 82 and 84 degrees)."""

INMAN_SUBTALAR_AXIS_DEGREES = (42.0, 23.0)
"""Subtalar axis: rise above the sole, and turn to the medial side of the foot's midline (Inman 1976)."""


@dataclass(frozen=True)
class Segment:
    """One segment of the table.

    Attributes
    ----------
    mass
        Fraction of body mass.
    center_of_mass
        Distance from the proximal (upper, or heel) end, as a fraction of the segment's length.
    gyration
        Radii of gyration about the forward, longitudinal and lateral axis through the centre of mass, as fractions of the length.
    length
        Fraction of standing height, between the end points that de Leva uses.
    """

    mass: float
    center_of_mass: float
    gyration: tuple[float, float, float]
    length: float


def _segments(height: float, rows: dict[str, tuple[float, float, float, float, float, float]]) -> dict[str, Segment]:
    """Rows of table 4: length [m], mass [%], centre of mass [%], radii of gyration sagittal, transverse, longitudinal [%]."""
    return {
        name: Segment(mass / 100, com / 100, (sagittal / 100, longitudinal / 100, transverse / 100), length / height)
        for name, (length, mass, com, sagittal, transverse, longitudinal) in rows.items()
    }


DE_LEVA: dict[Sex, dict[str, Segment]] = {
    "male": _segments(
        1.741,
        {
            "head": (0.2033, 6.94, 59.76, 36.2, 37.6, 31.2),
            "upper_trunk": (0.1707, 15.96, 29.99, 71.6, 45.4, 65.9),
            "mid_trunk": (0.2155, 16.33, 45.02, 48.2, 38.3, 46.8),
            "lower_trunk": (0.1457, 11.17, 61.15, 61.5, 55.1, 58.7),
            "upper_arm": (0.2817, 2.71, 57.72, 28.5, 26.9, 15.8),
            "forearm": (0.2689, 1.62, 45.74, 27.6, 26.5, 12.1),
            "hand": (0.0862, 0.61, 79.00, 62.8, 51.3, 40.1),
            "thigh": (0.4222, 14.16, 40.95, 32.9, 32.9, 14.9),
            "shank": (0.4340, 4.33, 44.59, 25.5, 24.9, 10.3),
            "foot": (0.2581, 1.37, 44.15, 25.7, 24.5, 12.4),
        },
    ),
    "female": _segments(
        1.735,
        {
            "head": (0.2002, 6.68, 58.94, 33.0, 35.9, 31.8),
            "upper_trunk": (0.1425, 15.45, 20.77, 74.6, 50.2, 71.8),
            "mid_trunk": (0.2053, 14.65, 45.12, 43.3, 35.4, 41.5),
            "lower_trunk": (0.1815, 12.47, 49.20, 43.3, 40.2, 44.4),
            "upper_arm": (0.2751, 2.55, 57.54, 27.8, 26.0, 14.8),
            "forearm": (0.2643, 1.38, 45.59, 26.1, 25.7, 9.4),
            "hand": (0.0780, 0.56, 74.74, 53.1, 45.4, 33.5),
            "thigh": (0.3685, 14.78, 36.12, 36.9, 36.4, 16.2),
            "shank": (0.4323, 4.81, 44.16, 27.1, 26.7, 9.3),
            "foot": (0.2283, 1.29, 40.14, 29.9, 27.9, 13.9),
        },
    ),
}
"""Table 4 of de Leva (1996). The foot's longitudinal axis points forward."""

_PAIRED = ("upper_arm", "forearm", "hand", "thigh", "shank", "foot")


def segment_table(sex: Sex | None = None) -> dict[str, Segment]:
    """Segment parameters whose masses, paired segments counted twice, sum to one.

    Parameters
    ----------
    sex
        ``"male"`` or ``"female"``; None takes the mean of both.

    Raises
    ------
    InputError
        ``sex`` is something else.
    """
    if sex is not None and sex not in DE_LEVA:
        raise InputError(f"sex is {sex!r}; give 'male', 'female' or None for the mean of both")
    tables = [DE_LEVA[sex]] if sex is not None else list(DE_LEVA.values())
    mean = {name: _mean([t[name] for t in tables]) for name in tables[0]}
    total = sum(s.mass * (2 if name in _PAIRED else 1) for name, s in mean.items())
    return {name: Segment(s.mass / total, s.center_of_mass, s.gyration, s.length) for name, s in mean.items()}


def check_person(height: float, mass: float) -> None:
    """Refuse a height or a mass that is no adult's.

    Parameters
    ----------
    height, mass
        Standing height [m] and body mass [kg].

    Raises
    ------
    InputError
        A value is not finite or outside the range; the message says which and names the likely unit.
    """
    low, high = HEIGHT_RANGE
    if not (math.isfinite(height) and low <= height <= high):
        hint = " (centimetres? give metres)" if low <= height / 100 <= high else " (millimetres? give metres)" if low <= height / 1000 <= high else ""
        raise InputError(f"height is {height} m{hint}; adult proportions hold from {low} to {high} m")
    lightest, heaviest = (limit * height**2 for limit in BODY_MASS_INDEX_RANGE)
    if not (math.isfinite(mass) and lightest <= mass <= heaviest):
        hint = " (grams? give kilograms)" if math.isfinite(mass) and lightest <= mass / 1000 <= heaviest else ""
        raise InputError(f"mass is {mass} kg{hint}; at a height of {height} m it must lie between {lightest:.0f} and {heaviest:.0f} kg")


def _mean(segments: list[Segment]) -> Segment:
    n = len(segments)
    gyration = tuple(sum(s.gyration[i] for s in segments) / n for i in range(3))
    return Segment(
        mass=sum(s.mass for s in segments) / n,
        center_of_mass=sum(s.center_of_mass for s in segments) / n,
        gyration=(gyration[0], gyration[1], gyration[2]),
        length=sum(s.length for s in segments) / n,
    )
