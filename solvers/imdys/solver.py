"""The solver 'imdys': ground forces learned from markers, made to fit the motion's momentum, then exact inverse dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from imdy_plugin.interfaces import Solver, SolverOptions, Trial
from imdy_plugin.schema import GRAVITY, GROUND_FORCE_VARIABLES, add_log, new_result
from imdy_plugin.solvers.body_load import BodyLoad

if TYPE_CHECKING:
    from imdy_plugin.solvers.imdys.features import Features
    from imdy_plugin.solvers.imdys.momentum import Correction, Trust
    from imdy_plugin.solvers.imdys.network import ImdysNetwork
    from imdy_plugin.solvers.imdys.prediction import GroundLoads
    from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

Array = NDArray[np.float64]

FEET = ("calcn_r", "calcn_l")
"""Names of the feet where no model names them."""

LARGEST_ROOT_SHARE = 0.4
"""A model whose root body holds more of the mass than this has no trunk: its momentum within a stride is not the person's."""

OUTSIDE_SOLE_M = 0.01
"""How far a centre of pressure may lie outside the model's sole: shoes are larger than feet."""

FEW_LANDMARKS = 15
"""Frames with fewer landmarks are flagged."""


class ImdysOptions(SolverOptions):
    """Options of :class:`ImdysSolver`."""

    weights: str = Field("default", description="weights of the network, a .safetensors file; 'default' ships with the package")
    cutoff_hz: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto", description="low-pass cut-off of the coordinates [Hz]; 'auto' by the motion, null filters nothing"
    )
    mirror_average: bool = Field(True, description="average with the mirrored answer to the mirrored motion")
    momentum_correction: bool = Field(True, description="make the slow part of the total force fit the motion's momentum")
    contact_threshold: float = Field(0.5, gt=0, lt=1, description="contact probability below which a foot carries nothing")


class ImdysSolver(Solver):
    """Ground forces by a network that was trained on recordings with plates; joint moments by the model's equations."""

    name: ClassVar[str] = "imdys"
    summary: ClassVar[str] = "no plates: ground forces learned from markers and balanced with the motion's momentum, then exact inverse dynamics"
    version: ClassVar[str] = "1"
    needs: ClassVar[frozenset[str]] = frozenset({"markers", "mass"})
    gives: ClassVar[frozenset[str]] = frozenset(
        {"generalized_force", "ground_force", "center_of_pressure", "free_moment", "root_residual", "contact_probability", "flag", "coordinate_value"}
    )
    requires: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "scipy")
    Options: ClassVar[type[SolverOptions]] = ImdysOptions

    def solve(self, trial: Trial, options: Any) -> xr.Dataset:
        """Solve one trial.

        Returns
        -------
        xarray.Dataset
            With a model, every coordinate's generalized force by exact inverse dynamics and the root's residual. Without,
            the network's own joint moments of hips, knees, ankles, subtalar joints and lumbar spine, and ``root_residual`` is NaN.
            ``flag`` marks ``airborne``, ``few_landmarks``, and ``other_contact``: the feet's force would have to be changed by
            more than a fifth to move the body so, or would have to act 10 cm and more from where the feet are, as when it sits.
            Frames with too few landmarks are NaN.

        Raises
        ------
        InputError
            Too few landmarks among the markers, or a motion under half a second.
        FileFormatError
            The weights are no safetensors file of this network.
        """
        from imdy_plugin.solvers.imdys.features import compute_features
        from imdy_plugin.solvers.imdys.network import load_network
        from imdy_plugin.solvers.imdys.prediction import predict

        path = weights_path(options.weights)
        network, card = load_network(path)
        features = compute_features(trial.motion)
        loads = predict(network, features, mirror_average=options.mirror_average, contact_threshold=options.contact_threshold)
        result = _solve_with_model(trial, options, features, loads) if trial.model is not None else _solve_without_model(trial, options, features, loads)
        return _with_origin(result, features, path, card, network)


def weights_path(weights: str) -> str:
    """Path of the weights; ``"default"`` is the file that ships with the package."""
    from importlib.resources import files

    return str(files("imdy_plugin.solvers.imdys") / "weights" / "imdys.safetensors") if weights == "default" else weights


def _solve_without_model(trial: Trial, options: ImdysOptions, features: Features, loads: GroundLoads) -> xr.Dataset:
    from imdy_plugin.solvers.imdys.momentum import PELVIS, correct_force
    from imdy_plugin.solvers.imdys.network import TORQUES

    total = features.pelvis_acceleration + np.array([0.0, GRAVITY, 0.0])
    correction = correct_force(loads, total, PELVIS)
    loads = correction.loads if options.momentum_correction else loads
    time = np.asarray(trial.motion["time"].values, float)
    loads = loads.at(time)
    assert trial.mass is not None
    return new_result(
        time,
        coordinates=TORQUES,
        generalized_force=loads.torque * trial.mass,
        units=["N m"] * len(TORQUES),
        bodies=FEET,
        root_residual=np.full((len(time), 6), np.nan),
        model="",
        **_ground(loads, trial.mass),
        **_common(trial, options, features, time, loads, correction),
    )


def _solve_with_model(trial: Trial, options: ImdysOptions, features: Features, loads: GroundLoads) -> xr.Dataset:
    from imdy_plugin.solvers.imdys.momentum import balance
    from imdy_plugin.solvers.kinematics import choose_cutoff, coordinates_of, smooth
    from imdy_plugin.solvers.multibody.mechanics import body_mechanics

    assert trial.model is not None and trial.mass is not None
    mechanics = body_mechanics(trial.model)
    motion = coordinates_of(trial)
    time = np.asarray(motion["time"].values, float)
    cutoff, reason = choose_cutoff(options.cutoff_hz, motion, mechanics)
    states = smooth(time, motion["coordinate_value"].sel(coordinate=list(mechanics.coordinates)).values, cutoff)
    wrench = mechanics.ground_wrench(*states) / mechanics.mass
    loads = loads.at(time)
    correction = balance(loads, wrench, mechanics.center_of_mass(*states)[0], _trust(trial.model, mechanics))
    loads = _kept_in_soles(correction.loads if options.momentum_correction else loads, mechanics, *states[:2])
    ground = _ground(loads, trial.mass)
    per_foot = zip(mechanics.foot_bodies, *(np.moveaxis(ground[name], 1, 0) for name in GROUND_FORCE_VARIABLES), strict=True)
    force = mechanics.inverse_dynamics(*states, [BodyLoad(*foot) for foot in per_foot])
    result = new_result(
        time,
        coordinates=mechanics.coordinates,
        generalized_force=force,
        units=mechanics.units,
        bodies=mechanics.foot_bodies,
        root_residual=mechanics.root_wrench(states[0], force),
        model=mechanics.name,
        coordinate_value=states[0],
        coordinate_velocity=states[1],
        coordinate_acceleration=states[2],
        **ground,
        **_common(trial, options, features, time, loads, correction),
    )
    return add_log(result.assign_attrs(cutoff=reason), f"imdys: coordinates low-passed at {reason}")


def _trust(model: xr.Dataset, mechanics: BodyMechanics) -> Trust:
    from imdy_plugin.solvers.imdys.momentum import PELVIS, WHOLE_BODY

    root_mass = float(model["body_mass"].sel(body=mechanics.root_body))
    return PELVIS if root_mass > LARGEST_ROOT_SHARE * mechanics.mass else WHOLE_BODY


def _kept_in_soles(loads: GroundLoads, mechanics: BodyMechanics, q: Array, qd: Array) -> GroundLoads:
    from imdy_plugin.solvers.contact import keep_in_sole, sole_motion

    outline, _ = sole_motion(mechanics, q, qd)
    point = loads.center_of_pressure.copy()
    for foot in range(2):
        known = np.isfinite(point[:, foot]).all(axis=1) & np.isfinite(outline[:, foot]).all(axis=(1, 2))
        inside = keep_in_sole(point[known, foot], outline[known, foot])
        outward = point[known, foot] - inside
        distance = np.linalg.norm(outward, axis=1, keepdims=True)
        point[known, foot] = inside + outward * np.minimum(1.0, OUTSIDE_SOLE_M / np.maximum(distance, 1e-9))
    return replace(loads, center_of_pressure=point)


def _ground(loads: GroundLoads, mass: float) -> dict[str, Any]:
    """Force, centre of pressure and free moment of a result: zero where nothing touches."""
    bears = np.nan_to_num(loads.force[..., 1:2], nan=1.0) > 0.0
    moment = np.zeros_like(loads.force)
    moment[..., 1] = loads.free_moment * mass
    return {
        "ground_force": np.where(bears, loads.force * mass, 0.0),
        "center_of_pressure": np.where(bears, loads.center_of_pressure, 0.0),
        "free_moment": np.where(bears, moment, 0.0),
    }


def _common(trial: Trial, options: ImdysOptions, features: Features, time: Array, loads: GroundLoads, correction: Correction) -> dict[str, Any]:
    nearest = np.clip(np.searchsorted(features.time, time), 0, len(features.time) - 1)
    count = features.present.sum(axis=1)[nearest]
    exceeded = np.interp(time, correction.loads.time, correction.exceeded.astype(float)) > 0.5
    flags = {
        "airborne": (loads.force[..., 1] == 0.0).all(axis=1),
        "few_landmarks": count < FEW_LANDMARKS,
        "other_contact": exceeded,
    }
    return {
        "solver": ImdysSolver.name,
        "solver_version": ImdysSolver.version,
        "options": options.model_dump(),
        "mass": trial.mass,
        "contact_probability": loads.contact_probability,
        "flag": flags,
    }


def _with_origin(result: xr.Dataset, features: Features, path: str, card: Mapping[str, Any], network: ImdysNetwork) -> xr.Dataset:
    import hashlib
    from pathlib import Path

    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    pairs = ", ".join(f"{landmark}={marker}" for landmark, marker in features.landmarks.items())
    result = result.assign_attrs(
        landmarks=pairs, weights_file=Path(path).name, weights_sha256=digest, training_people=len(card.get("people", ())), stage=network.config.stage
    )
    return add_log(result, f"imdys: ground forces from {len(features.landmarks)} landmarks by {Path(path).name} (sha256 {digest[:12]})")
