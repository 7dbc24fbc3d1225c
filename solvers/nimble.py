"""Classic inverse dynamics by Nimble physics, in a worker process: whatever happens to it, the caller lives."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from imdy_plugin.errors import InputError, SolverError
from imdy_plugin.interfaces import SolverOptions, Trial
from imdy_plugin.solvers.body_load import BodyLoad
from imdy_plugin.solvers.classic import ClassicOptions, ClassicSolver, JointForces

if TYPE_CHECKING:
    from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

FloatArray = NDArray[np.float64]

WORKER = Path(__file__).with_name("_nimble_worker.py")

POSE_FRAMES = 10
"""Number of frames in which Nimble's poses are held against OpenSim's."""

LARGEST_POSE_ERROR = 1e-3
"""Distance [m] between where Nimble and OpenSim put a point of a body from which the model counts as misread."""

LARGEST_MASS_LEFT_OUT = 0.01
"""Share of the body's mass that Nimble may leave out; patellae are about 0.002."""

_FRAME_POINTS = 0.2 * np.concatenate([np.zeros((1, 3)), np.eye(3)])
"""Points of a body [m] whose places tell its pose."""


class NimbleOptions(ClassicOptions):
    """Options of :class:`NimbleSolver`."""

    timeout_s: float = Field(600.0, gt=0, description="longest time that Nimble's process may take [s]")


class NimbleSolver(ClassicSolver["OpenSimMechanics"]):
    """Nimble's inverse dynamics: ``tau = M(q) qdd + C(q, qd) - J^T F``, with mass matrix, Coriolis forces and Jacobians of Nimble."""

    name: ClassVar[str] = "nimble"
    summary: ClassVar[str] = "classic inverse dynamics with force plates, by Nimble physics in a process of its own"
    version: ClassVar[str] = "1"
    requires: ClassVar[tuple[str, ...]] = ("nimblephysics", "opensim", "torch", "scipy")
    Options: ClassVar[type[SolverOptions]] = NimbleOptions

    def mechanics(self, trial: Trial, options: Any) -> OpenSimMechanics:
        """The model as OpenSim reads it, which Nimble's reading is held against."""
        from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

        return OpenSimMechanics(trial.native_model)

    def joint_forces(self, mechanics: OpenSimMechanics, q: FloatArray, qd: FloatArray, qdd: FloatArray, loads: Sequence[BodyLoad], options: Any) -> JointForces:
        """Generalized forces by Nimble; NaN for coordinates that it leaves out, which the log names with the bodies left out.

        Raises
        ------
        InputError
            No frame has both a motion and ground forces.
        SolverError
            Nimble's process died or took too long, or Nimble reads the model otherwise than OpenSim does.
        """
        known = np.isfinite(np.concatenate([q, qd, qdd, *(part for load in loads for part in (load.force, load.point, load.moment))], axis=1)).all(axis=1)
        frames = np.flatnonzero(known)
        if not frames.size:
            raise InputError("no frame has both a motion and known ground forces")
        found = _ask(mechanics, q[frames], qd[frames], qdd[frames], [_at(load, frames) for load in loads], options.timeout_s)
        difference = _pose_difference(mechanics, q[frames][_pose_frames(len(frames))], found)
        force = np.full(q.shape, np.nan)
        columns = np.array([mechanics.coordinates.index(str(name)) for name in found["dof"]], dtype=np.intp)
        force[np.ix_(frames, columns)] = found["force"]
        bodies = _bodies_left_out(mechanics, found)
        coordinates = [name for name in mechanics.coordinates if name not in set(found["dof"].tolist())]
        return JointForces(force, _lines(bodies, coordinates, difference), {"left_out_bodies": list(bodies), "left_out_coordinates": coordinates})


def run_worker(script: Path, folder: Path, timeout_s: float) -> None:
    """Run a worker script on ``folder`` with this interpreter.

    Raises
    ------
    SolverError
        It died, which says of what, took longer than ``timeout_s`` [s], or wrote a ``fault.txt``.
    """
    # -P: the script's own folder must not shadow other packages
    command = [sys.executable, "-P", str(script), str(folder)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise SolverError(f"Nimble's process took longer than {timeout_s:g} s and was ended; give a shorter time_range, or a longer timeout_s") from error
    fault = folder / "fault.txt"
    if fault.exists():
        text = fault.read_text(encoding="utf-8").partition(". ")[0].rstrip(".")
        raise SolverError(f"Nimble cannot solve this: {text}; use solver 'opensim'")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise SolverError(f"Nimble's process {_end(done.returncode)}; its last words: {last[:300]}; use solver 'opensim'")


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    known = {s.value: s for s in signal.Signals}
    name = f"{known[-code].name} ({signal.strsignal(-code)})" if -code in known else f"signal {-code}"
    return f"died of {name}"


def _at(load: BodyLoad, frames: NDArray[np.intp]) -> BodyLoad:
    return BodyLoad(load.body, load.force[frames], load.point[frames], load.moment[frames])


def _pose_frames(count: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, POSE_FRAMES).astype(np.intp))


def _ask(
    mechanics: OpenSimMechanics, q: FloatArray, qd: FloatArray, qdd: FloatArray, loads: Sequence[BodyLoad], timeout_s: float
) -> Mapping[str, NDArray[Any]]:
    """What the worker answers: see :mod:`imdy_plugin.solvers._nimble_worker`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mechanics.native.printToXML(str(folder / "model.osim"))
        np.savez(
            folder / "input.npz",
            coordinate=np.array(mechanics.coordinates),
            q=q,
            qd=qd,
            qdd=qdd,
            gravity=mechanics.gravity,
            load_body=np.array([load.body for load in loads], dtype=np.str_),
            load=np.array([(load.force, load.point, load.moment) for load in loads]).reshape(len(loads), 3, len(q), 3),
            pose_frame=_pose_frames(len(q)),
        )
        run_worker(WORKER, folder, timeout_s)
        with np.load(folder / "output.npz", allow_pickle=False) as answer:
            return dict(answer)


def _pose_difference(mechanics: OpenSimMechanics, q: FloatArray, found: Mapping[str, NDArray[Any]]) -> float:
    """Largest distance [m] between points of bodies by Nimble and by OpenSim; a large one says that Nimble misreads a joint."""
    distance = {}
    for i, body in enumerate(found["body"].tolist()):
        if body not in mechanics.bodies:
            raise SolverError(f"Nimble has a body '{body}' that the model lacks; use solver 'opensim'")
        ours = mechanics.point_kinematics(q, 0 * q, 0 * q, body, _FRAME_POINTS)[0]
        pose = found["pose"][:, i]
        theirs = pose[:, None, :3, 3] + np.einsum("tij,pj->tpi", pose[:, :3, :3], _FRAME_POINTS)
        distance[body] = float(np.linalg.norm(ours - theirs, axis=-1).max())
    worst = max(distance, key=lambda body: distance[body])
    if distance[worst] > LARGEST_POSE_ERROR:
        raise SolverError(
            f"Nimble puts body '{worst}' {1e3 * distance[worst]:.3g} mm away from where OpenSim does: it represents a joint on the way there otherwise, "
            "or a coordinate lies outside what the joint's splines define; use solver 'opensim'"
        )
    return distance[worst]


def _bodies_left_out(mechanics: OpenSimMechanics, found: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Bodies with mass that Nimble leaves out, and their mass [kg]."""
    bodies, kept = mechanics.native.getBodySet(), set(found["body"].tolist())
    masses = {name: float(bodies.get(name).getMass()) for name in mechanics.bodies if name not in kept}
    out = {name: mass for name, mass in masses.items() if mass > 0}
    left_out, found_mass = sum(out.values()), float(found["mass"].sum())
    if left_out > LARGEST_MASS_LEFT_OUT * mechanics.mass:
        raise SolverError(f"Nimble leaves out {', '.join(out)}, {left_out:.3g} of {mechanics.mass:.3g} kg; use solver 'opensim'")
    if abs(found_mass + left_out - mechanics.mass) > 1e-6 * mechanics.mass:
        raise SolverError(f"Nimble's bodies weigh {found_mass:g} kg, the model's {mechanics.mass - left_out:g} kg; use solver 'opensim'")
    return out


def _lines(bodies: Mapping[str, float], coordinates: Sequence[str], difference: float) -> list[str]:
    lines = [f"Nimble's poses lie within {difference:.1g} m of OpenSim's"]
    if bodies:
        lines.append(f"bodies that Nimble leaves out: {', '.join(bodies)} ({sum(bodies.values()):.3g} kg are missing from weight and inertia)")
    if coordinates:
        lines.append(f"coordinates that Nimble leaves out, without an answer: {', '.join(coordinates)}")
    return lines
