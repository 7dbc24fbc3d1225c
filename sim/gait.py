"""A generated person's walk: markers, coordinates, ground forces and joint moments that agree to the last digit.

The joint angles are Fourier series (:mod:`imdy_plugin.sim.gait_table`) near published mean curves of adult walking; the feet
roll from heel to toe without sliding. The total ground force and moment follow from the equations of motion of the very model
that the trial is about, so classic inverse dynamics of the unfiltered trial leaves nothing at the root.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin import schema
from imdy_plugin.adapters.coordinates import write_coordinates
from imdy_plugin.adapters.external_loads import write_ground_force
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.adapters.trc import write_trc
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import InputError
from imdy_plugin.sim.anthropometry import HEIGHT_RANGE, LENGTHS
from imdy_plugin.sim.gait_table import GAITS, TABLE_HEIGHT, Gait
from imdy_plugin.sim.person import FOOT, design_person
from imdy_plugin.solvers.body_load import BodyLoad
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

Array = NDArray[np.float64]

COMFORTABLE_SPEED = 1.3
"""Walking speed [m/s] of a person of 1.75 m; of others at the same Froude number."""

PRESSURE_PHASES = (0.0, 0.05, 0.115, 0.15, 0.20, 0.30, 0.40, 0.45, 0.50, 0.55, 0.615)
PRESSURE_ALONG_FOOT = (0.08, 0.14, 0.26, 0.32, 0.38, 0.49, 0.59, 0.64, 0.69, 0.76, 0.82)
"""Centre of pressure from the heel, in foot lengths, by phase of the gait cycle: heel to great toe (Winter 2009, ch. 5)."""

PIVOT_HEIGHT = 0.62
"""Height over standing height at which the force lines of both feet meet: a little above the centre of mass (Maus et al. 2010, Nat Commun 1:70)."""


@dataclass(frozen=True)
class DemoTrial:
    """A generated walk.

    Attributes
    ----------
    model
        The model document (.osim).
    motion
        Markers, and the true coordinates with their exact derivatives.
    ground_force
        Force, centre of pressure and free moment under each foot.
    truth
        The true generalized forces, as a result.
    height, mass, speed, cadence
        Standing height [m], body mass [kg], speed [m/s], steps per minute.
    """

    model: str
    motion: xr.Dataset
    ground_force: xr.Dataset
    truth: xr.Dataset
    height: float
    mass: float
    speed: float
    cadence: float


def build_walk(
    model: str | os.PathLike[str],
    *,
    speed: float | None = None,
    seconds: float | None = None,
    rate: float = 100.0,
    noise: float = 0.0,
    seed: int = 0,
) -> DemoTrial:
    """Walk straight ahead along +x with the model of a person.

    Parameters
    ----------
    model
        A file that :func:`imdy_plugin.sim.person.write_person` wrote, or the document itself.
    speed
        Mean speed [m/s]; by default :data:`COMFORTABLE_SPEED` at the person's size. Cadence and step length follow from it.
    seconds
        Duration [s]; by default two strides and a fifth of a second.
    rate
        Frames per second [Hz].
    noise
        Standard deviation of what is added to each marker coordinate [m]; the truth is not touched.
    seed
        Of the noise.

    Raises
    ------
    InputError
        The model is not one of a generated person, or speed, duration, rate or noise is out of range.
    """
    document = _read_document(model)
    native = _load(document)
    mechanics = OpenSimMechanics(native)
    height = _height(native)
    size = np.sqrt(height / TABLE_HEIGHT)
    gait = interpolate_gait(COMFORTABLE_SPEED if speed is None else speed / size)
    period = gait.period * size
    time = _time(2 * period + 0.2 if seconds is None else seconds, rate)
    if not (np.isfinite(noise) and 0 <= noise < 0.1):
        raise InputError(f"marker noise is {noise} m; give a standard deviation from 0 to 0.1 m")
    phase = time / period - 0.1 / period
    q, qd, qdd = _kinematics(gait, mechanics.coordinates, phase, period, height)
    force, point, moment = split_between_feet(gait, height, phase, mechanics.ground_wrench(q, qd, qdd))
    loads = [BodyLoad(body, force[:, i], point[:, i], moment[:, i]) for i, body in enumerate(mechanics.foot_bodies)]
    tau = mechanics.inverse_dynamics(q, qd, qdd, loads)
    markers = mechanics.marker_positions(q, mechanics.markers)
    markers = markers + noise * np.random.default_rng(seed).standard_normal(markers.shape)
    ground = (mechanics.foot_bodies, force, point, moment)
    return DemoTrial(
        model=document,
        motion=schema.new_motion(time, markers=(mechanics.markers, markers), coordinates=(mechanics.coordinates, q, qd, qdd), log="generated walk"),
        ground_force=schema.new_motion(time, ground=ground, log="ground forces of a generated walk"),
        truth=_truth(mechanics, native.getName(), time, q, tau, ground),
        height=height,
        mass=mechanics.mass,
        speed=gait.stride * height / period,
        cadence=120.0 / period,
    )


def write_trial(trial: DemoTrial, folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Write a trial as the files that OpenSim's tools read.

    Returns
    -------
    dict
        ``model`` (model.osim), ``markers`` (walk.trc), ``coordinates`` (walk.mot), ``ground_force`` (walk_external_loads.xml)
        and ``ground_force_table`` (walk_grf.mot).
    """
    target = Path(folder)
    model = target / "model.osim"
    with replacing(model) as temporary:
        temporary.write_text(trial.model, encoding="utf-8")
    dataset = OpenSimModelAdapter().load(model).dataset
    table, loads = write_ground_force(trial.ground_force, target / "walk_grf.mot", target / "walk_external_loads.xml")
    return {
        "model": model,
        "markers": write_trc(trial.motion, target / "walk.trc"),
        "coordinates": write_coordinates(trial.motion, target / "walk.mot", dataset),
        "ground_force": loads,
        "ground_force_table": table,
    }


def interpolate_gait(speed: float) -> Gait:
    """Gait of a person of :data:`~imdy_plugin.sim.gait_table.TABLE_HEIGHT` at a speed [m/s], between those of the table.

    Raises
    ------
    InputError
        The speed is outside the table.
    """
    known = [g.speed for g in GAITS]
    if not (np.isfinite(speed) and known[0] <= speed <= known[-1]):
        raise InputError(f"the walk would be at {speed:.3g} m/s for a height of {TABLE_HEIGHT} m; the table holds {known[0]} to {known[-1]} m/s")
    upper = max(1, int(np.searchsorted(known, speed)))
    low, high = GAITS[upper - 1], GAITS[upper]
    w = (speed - low.speed) / (high.speed - low.speed)

    def mix(a: float, b: float) -> float:
        return (1 - w) * a + w * b

    series = {name: tuple((k, mix(a, c), mix(b, d)) for (k, a, b), (_, c, d) in zip(rows, high.series[name], strict=True)) for name, rows in low.series.items()}
    scalars = {name: mix(getattr(low, name), getattr(high, name)) for name in ("stride", "double_support", "heel_x", "heel_z", "toe_out")}
    return Gait(speed=speed, period=scalars["stride"] * TABLE_HEIGHT / speed, series=series, **scalars)


def split_between_feet(gait: Gait, height: float, phase: Array, wrench: Array) -> tuple[Array, Array, Array]:
    """Share the total ground wrench between the feet.

    In single support the foot carries it at the zero-moment point. In double support the share of the leading foot rises
    smoothly from 0 to 1, both centres of pressure stay near their usual places so that together they make the
    zero-moment point, and the lines of both forces meet at :data:`PIVOT_HEIGHT`.

    Parameters
    ----------
    gait, height
        Gait and standing height [m].
    phase
        In gait cycles since a right heel strike, ``(time,)``.
    wrench
        Total force and moment about the ground origin, ``(time, 6)``.

    Returns
    -------
    force, center_of_pressure, free_moment
        Each ``(time, foot, 3)``, right foot first; zero where a foot does not touch.
    """
    total, moment = wrench[:, :3], wrench[:, 3:]
    target = np.stack([moment[:, 2] / total[:, 1], -moment[:, 0] / total[:, 1]], axis=-1)
    step = np.floor(2 * phase)
    since = phase - step / 2
    lead = _smooth_step(since / gait.double_support)
    share = np.stack([1 - lead, lead], axis=-1)
    usual = np.stack([_usual_pressure(gait, height, step - 1, since + 0.5), _usual_pressure(gait, height, step, since)], axis=1)
    error = target - (share[..., None] * usual).sum(axis=1)
    place = usual + share[..., None] * (error / (share**2).sum(axis=1, keepdims=True))[:, None]
    pivot = target + PIVOT_HEIGHT * height * total[:, [0, 2]] / total[:, [1]]
    vertical = share * total[:, [1]]
    horizontal = vertical[..., None] * (pivot[:, None] - place) / (PIVOT_HEIGHT * height)
    turning = moment[:, 1] - (place[..., 1] * horizontal[..., 0] - place[..., 0] * horizontal[..., 1]).sum(axis=1)
    zero = np.zeros_like(vertical)
    force = np.stack([horizontal[..., 0], vertical, horizontal[..., 1]], axis=-1)
    point = np.stack([place[..., 0], zero, place[..., 1]], axis=-1)
    free = np.stack([zero, share * turning[:, None], zero], axis=-1)
    right_first = np.where((step % 2 == 0)[:, None], [[1, 0]], [[0, 1]])[..., None]
    touching = np.take_along_axis(share[..., None] > 0, right_first, axis=1)
    right_then_left = [np.where(touching, np.take_along_axis(a, right_first, axis=1), 0.0) for a in (force, point, free)]
    return right_then_left[0], right_then_left[1], right_then_left[2]


def _smooth_step(u: Array) -> Array:
    """From 0 to 1 with two continuous derivatives."""
    v = np.clip(u, 0.0, 1.0)
    return np.asarray(v**3 * (10 - 15 * v + 6 * v**2))


def _usual_pressure(gait: Gait, height: float, step: Array, phase: Array) -> Array:
    """Usual centre of pressure ``(time, 2)``, forward and right, of the foot that made a step, by its own phase."""
    side = np.where(step % 2 == 0, 1.0, -1.0)
    along = (np.interp(phase, PRESSURE_PHASES, PRESSURE_ALONG_FOOT) + FOOT["heel"] - FOOT["heel_center"]) * LENGTHS["foot_length"]
    x = gait.heel_x + gait.stride * step / 2 + along * np.cos(gait.toe_out)
    z = side * (gait.heel_z + along * np.sin(gait.toe_out))
    return np.stack([x, z], axis=-1) * height


def _kinematics(gait: Gait, coordinates: Sequence[str], phase: Array, period: float, height: float) -> tuple[Array, Array, Array]:
    """Coordinates and their first and second derivatives by time, each ``(time, coordinate)``."""
    columns = [_column(gait, name, phase, period, height) for name in coordinates]
    q, qd, qdd = (np.stack([c[i] for c in columns], axis=-1) for i in range(3))
    return q, qd, qdd


def _column(gait: Gait, name: str, phase: Array, period: float, height: float) -> tuple[Array, Array, Array]:
    left = name.endswith("_l")
    series = gait.series.get(name.removesuffix("_l") + "_r" if left else name, ())
    q, qd, qdd = _evaluate(series, phase + 0.5 if left else phase, period)
    scale = height if name in ("pelvis_tx", "pelvis_ty", "pelvis_tz") else 1.0
    advance, velocity = (gait.stride * phase, gait.stride / period) if name == "pelvis_tx" else (0.0, 0.0)
    return scale * (q + advance), scale * (qd + velocity), scale * qdd


def _evaluate(series: Sequence[tuple[int, float, float]], phase: Array, period: float) -> tuple[Array, Array, Array]:
    """Sum of ``a cos + b sin`` over harmonics ``(k, a, b)`` with its derivatives by time."""
    q, qd, qdd = (np.zeros_like(phase) for _ in range(3))
    for k, a, b in series:
        w, angle = 2 * np.pi * k / period, 2 * np.pi * k * phase
        c, s = np.cos(angle), np.sin(angle)
        q += a * c + b * s
        qd += w * (b * c - a * s)
        qdd -= w**2 * (a * c + b * s)
    return q, qd, qdd


def _time(seconds: float, rate: float) -> Array:
    if not (np.isfinite(rate) and 20 <= rate <= 10_000):
        raise InputError(f"the rate is {rate} Hz; give 20 to 10000 Hz")
    if not (np.isfinite(seconds) and 0.1 <= seconds <= 600):
        raise InputError(f"the duration is {seconds} s; give 0.1 to 600 s")
    return np.arange(int(np.floor(seconds * rate)) + 1) / rate


def _read_document(model: str | os.PathLike[str]) -> str:
    if isinstance(model, str) and model.lstrip().startswith("<"):
        return model
    path = Path(model)
    if not path.is_file():
        raise InputError(f"{path}: the model file does not exist; 'imdy model' writes one")
    return path.read_text(encoding="utf-8")


def _load(document: str) -> Any:
    """The ``opensim.Model`` of a document, read through the adapter and its checks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.osim"
        path.write_text(document, encoding="utf-8")
        return OpenSimModelAdapter().load(path).native


def _height(native: Any) -> float:
    """Standing height [m] of a generated person, from the thigh.

    Raises
    ------
    InputError
        The joints are not where a generated person has them.
    """
    joints = native.getJointSet()
    places = {joints.get(i).getName(): joints.get(i).get_frames(0).get_translation().to_numpy() for i in range(joints.getSize())}
    thigh = -places.get("walker_knee_r", np.zeros(3))[1]
    height = float(thigh / (LENGTHS["hip_height"] - LENGTHS["knee_height"]))
    low, high = HEIGHT_RANGE
    wanted = design_person(min(max(height, low), high)).bodies if thigh > 0 else ()
    off = [b.joint for b in wanted if b.joint not in places or np.abs(places[b.joint] - b.location).max() > 0.025 * height]
    if not wanted or off:
        found = f"its {', '.join(off[:5])} differ(s)" if off else "it has no 'walker_knee_r'"
        raise InputError(f"the model '{native.getName()}' is not one of a generated person: {found}; 'imdy model' writes one")
    return height


def _truth(mechanics: OpenSimMechanics, model: str, time: Array, q: Array, tau: Array, ground: tuple[Any, ...]) -> xr.Dataset:
    bodies, force, point, moment = ground
    return schema.new_result(
        time,
        coordinates=mechanics.coordinates,
        generalized_force=tau,
        units=mechanics.units,
        bodies=bodies,
        ground_force=force,
        center_of_pressure=point,
        free_moment=moment,
        root_residual=mechanics.root_wrench(q, tau),
        solver="truth",
        solver_version="1",
        options={},
        model=model,
        mass=mechanics.mass,
        coordinate_value=q,
    )
