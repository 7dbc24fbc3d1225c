"""Makes :mod:`imdy_plugin.sim.gait_table`: ``python -m imdy_plugin.sim.gait_fit`` (some minutes, needs torch).

The unknowns are Fourier coefficients of the coordinates over one gait cycle, the left side being the right one half a cycle
later. Nonlinear least squares keeps them near published mean curves while the foot rolls over heel, sole and ball without
sliding, and the ground force and the zero-moment point that follow from the equations of motion stay near published ones.
Each body is represented by six mass points with its mass, centre of mass and inertia, so that forces need positions only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.anthropometry import LENGTHS
from imdy_plugin.sim.gait import PRESSURE_ALONG_FOOT, PRESSURE_PHASES
from imdy_plugin.sim.gait_table import TABLE_HEIGHT
from imdy_plugin.sim.person import FOOT, HEEL_RADIUS, Body, Person, design_person

Array = NDArray[np.float64]
Tensor = torch.Tensor

HEIGHT, MASS = TABLE_HEIGHT, 70.0
FRAMES = 100
DEGREE = math.pi / 180
NORMAL_SPEED, NORMAL_CADENCE = 1.3, 116.0
TOE_OUT = 7 * DEGREE
FLAT, HEEL_OFF, BALL_OFF = 0.095, 0.33, 0.555
"""Phases of the cycle at which the sole is flat, the heel may rise, and the toes begin to roll."""

EVERY_FIVE_PERCENT: dict[str, tuple[float, ...]] = {
    "hip_flexion_r": (26, 25, 22, 18, 13, 8, 4, -1, -5, -9, -12, -12.5, -8, 0, 10, 18, 24, 28, 29, 28),
    "knee_angle_r": (5, 11, 17.5, 19.5, 17.5, 13.5, 9.5, 6.5, 5, 6.5, 11.5, 22, 36, 52, 62, 64, 55, 38, 18, 6),
    "ankle_angle_r": (0, -5, -4.5, 0, 3, 5, 6.5, 8, 9.3, 9.8, 6.5, -3, -15, -18, -11, -4, -0.5, 1, 1, 1),
    "hip_adduction_r": (0, 2, 4.5, 6, 6, 5, 4.2, 3.5, 3, 2, 0, -3, -6, -7, -6, -4.5, -3, -2, -1, -0.5),
    "mtp_angle_r": (0, 0, 0, 0, 0, 0, 0, 0, -3, -10, -20, -28, -25, -12, -4, -2, -2, -2, -2, -1),
}
"""Mean curves [deg] from right heel strike at natural cadence: hip, knee and ankle after Winter (2009), appendix A; hip adduction after
Kadaba, Ramakrishnan and Wootten (1990), J Orthop Res 8:383-392."""

COSINES: dict[str, tuple[float, float, float, int]] = {
    "pelvis_tilt": (-4, 1, 0.10, 2),
    "pelvis_list": (0, -3.5, 0.13, 1),
    "pelvis_rotation": (0, 4.5, 0.0, 1),
    "lumbar_extension": (3, 0.5, 0.35, 2),
    "lumbar_bending": (0, 3.5, 0.13, 1),
    "lumbar_rotation": (0, -7.5, 0.0, 1),
    "arm_flex_r": (-4, -14, 0.0, 1),
    "elbow_flex_r": (25, -8, 0.05, 1),
    "arm_add_r": (-9, 0, 0, 1),
    "pro_sup_r": (80, 0, 0, 1),
}
"""Mean, amplitude [deg], phase of the peak and harmonic of pelvis and trunk (Kadaba et al. 1990) and arms (Murray, Sepic and Barnard 1967,
Phys Ther 47:272-284)."""

SPREAD: dict[str, tuple[float, Sequence[int]]] = {
    "pelvis_tilt": (1, range(0, 7, 2)),
    "pelvis_list": (2, range(1, 10, 2)),
    "pelvis_rotation": (3, range(1, 8, 2)),
    "pelvis_tx": (0.03, range(0, 13, 2)),
    "pelvis_ty": (0.03, range(0, 13, 2)),
    "pelvis_tz": (0.02, range(1, 12, 2)),
    "lumbar_extension": (1, range(0, 7, 2)),
    "lumbar_bending": (2, range(1, 8, 2)),
    "lumbar_rotation": (3, range(1, 6, 2)),
    "hip_flexion_r": (4, range(13)),
    "hip_adduction_r": (3, range(13)),
    "hip_rotation_r": (5, range(9)),
    "knee_angle_r": (5, range(15)),
    "ankle_angle_r": (3, range(15)),
    "subtalar_angle_r": (5, range(13)),
    "mtp_angle_r": (8, range(13)),
    "arm_flex_r": (5, range(4)),
    "arm_add_r": (2, range(3)),
    "elbow_flex_r": (6, range(4)),
    "pro_sup_r": (1, range(1)),
}
"""Standard deviation between people [deg or m] and the harmonics of each coordinate. What root and trunk do alike in both steps has even ones,
what they mirror has odd ones."""

VERTICAL_FORCE: tuple[tuple[float, float], ...] = (
    (0, 0),
    (2, 0.22),
    (5, 0.62),
    (10, 1.03),
    (13, 1.10),
    (16, 1.08),
    (20, 0.97),
    (25, 0.83),
    (30, 0.77),
    (35, 0.81),
    (40, 0.92),
    (45, 1.08),
)
VERTICAL_FORCE += ((48, 1.10), (51, 1.02), (55, 0.60), (58, 0.22), (61.5, 0), (65, 0), (70, 0), (80, 0), (90, 0), (97, 0))
FORWARD_FORCE: tuple[tuple[float, float], ...] = (
    (0, 0),
    (3, -0.03),
    (5, -0.07),
    (10, -0.175),
    (13, -0.19),
    (20, -0.115),
    (25, -0.06),
    (30, -0.015),
    (35, 0.03),
    (40, 0.09),
    (45, 0.16),
)
FORWARD_FORCE += ((50, 0.21), (53, 0.195), (57, 0.09), (61.5, 0), (65, 0), (70, 0), (75, 0), (80, 0), (85, 0), (90, 0), (95, 0))
"""Ground force of one foot over body weight by percent of the cycle (Winter 2009, figure 5.17 and table A.5, natural cadence)."""

_TRANSLATIONS = ("pelvis_tx", "pelvis_ty", "pelvis_tz")
_SAGITTAL = ("hip_flexion_r", "knee_angle_r", "ankle_angle_r")
_SMOOTHEST_HARMONIC = {
    "pelvis_tilt": 1.4,
    "lumbar_extension": 1.4,
    "pelvis_rotation": 2.0,
    "lumbar_bending": 2.0,
    "lumbar_rotation": 2.0,
    "pelvis_tz": 4.0,
    "pelvis_list": 4.0,
}
"""Harmonic from which the motion of the trunk is held down; of everything else from the sixth."""

_PHASE = np.arange(FRAMES) / FRAMES


@dataclass(frozen=True)
class _Basis:
    """Fourier basis of all coordinates: ``q = matrix x`` with ``(frame, coordinate, unknown)``; the last two unknowns place the foot."""

    names: tuple[str, ...]
    columns: dict[str, slice]
    harmonics: dict[str, NDArray[np.int64]]
    matrix: Array

    @property
    def size(self) -> int:
        return int(self.matrix.shape[2])


@dataclass(frozen=True)
class _Walk:
    """Timing of one speed: stride time [s] and length [m], double support (of the cycle), and how far from normal speed."""

    speed: float
    period: float
    stride: float
    double_support: float
    step_ratio: float
    force_ratio: float


def walk_at(speed: float) -> _Walk:
    """Timing at a speed [m/s] for :data:`HEIGHT`; step length over cadence is constant (Sekiya and Nagasaki 1998, Gait Posture 7:225-227)."""
    ratio = math.sqrt(speed / NORMAL_SPEED)
    period = 120 / (NORMAL_CADENCE * ratio)
    return _Walk(speed, period, speed * period, 0.115 - 0.04 * (speed - NORMAL_SPEED), ratio, ratio**4)


def fit(speed: float, start: Array | None = None, steps: int = 40) -> tuple[Array, float]:
    """Fourier coefficients ``(unknown,)`` of the walk at a speed [m/s] by Levenberg-Marquardt, and the cost."""
    with double_precision():
        return _solve(_Problem(walk_at(speed)), start, steps)


@contextmanager
def double_precision() -> Iterator[None]:
    """Torch makes double precision tensors inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _solve(problem: _Problem, start: Array | None, steps: int) -> tuple[Array, float]:
    x = problem.start() if start is None else start.copy()
    r, jacobian = problem.residuals(x), problem.jacobian(x)
    damping = 1e-3
    for _ in range(steps):
        normal = jacobian.T @ jacobian
        scale = np.diag(normal.diagonal() + 1e-9)
        for _ in range(10):
            trial = x - np.linalg.solve(normal + damping * scale, jacobian.T @ r)
            r_trial = problem.residuals(trial)
            if r_trial @ r_trial < r @ r:
                break
            damping *= 4
        else:
            break
        gain = 1 - (r_trial @ r_trial) / (r @ r)
        x, r, damping = trial, r_trial, max(damping / 5, 1e-9)
        print(f"  cost {r @ r:.1f}", flush=True)
        if gain < 1e-3:
            break
        jacobian = problem.jacobian(x)
    return x, float(r @ r)


class _Problem:
    """Residuals of one speed, and their derivatives by the unknowns."""

    def __init__(self, walk: _Walk) -> None:
        self.walk = walk
        self.person: Person = design_person(HEIGHT, MASS)
        self.bodies = [b for b in self.person.bodies if not b.name.endswith("_l")]
        self.basis = _make_basis()
        self.curves, self.spread = _normal_curves(self.basis.names, walk.step_ratio, self.person)
        self.points = [(b.name, *_mass_points(b)) for b in self.bodies]
        self.second_derivative = _second_derivative(walk.period)
        vertical = _periodic(VERTICAL_FORCE)
        both = np.fft.fft(vertical + np.roll(vertical, FRAMES // 2))
        both[7:-6] = 0
        both = np.real(np.fft.ifft(both))
        self.vertical = torch.as_tensor(1 + walk.force_ratio * (both / both.mean() - 1))
        forward = _periodic(FORWARD_FORCE)
        forward = forward + np.roll(forward, FRAMES // 2)
        self.forward = torch.as_tensor(walk.step_ratio * (forward - forward.mean()))

    def start(self) -> Array:
        """The mean curves themselves."""
        x = np.zeros(self.basis.size)
        for i, name in enumerate(self.basis.names):
            columns = self.basis.columns[name]
            x[columns] = np.linalg.lstsq(self.basis.matrix[:, i, columns], self.curves[:, i], rcond=None)[0]
        x[-2:] = (0.24, 0.045)
        return x

    def residuals(self, x: Array) -> Array:
        """All residuals, in standard deviations."""
        q, foot = torch.as_tensor(self.basis.matrix @ x), torch.as_tensor(x[-2:])
        near, points = self._of_frame(q, foot)
        force, moment = self._wrench(points)
        return np.concatenate([near.numpy().ravel(), self._of_force(force, moment, foot).numpy().ravel(), self._smoothness() * x])

    def jacobian(self, x: Array) -> Array:
        """Derivative of the residuals; a frame's geometry depends on that frame's coordinates only."""
        matrix = self.basis.matrix
        q, foot = torch.as_tensor(matrix @ x), torch.as_tensor(x[-2:])
        count = q.shape[1]

        def shifted(d: Tensor) -> tuple[Tensor, Tensor]:
            return self._of_frame(q + d[:count], foot + d[count:])

        d_near, d_points = (a.numpy() for a in torch.func.jacfwd(shifted)(torch.zeros(count + 2)))
        near = np.einsum("nrc,ncx->nrx", d_near[..., :count], matrix)
        near[..., -2:] += d_near[..., count:]
        points = self._of_frame(q, foot)[1]
        d_force, d_moment = self._wrench_jacobian(points.numpy(), d_points[..., :count])
        force, moment = self._wrench(points)

        def loaded(d: Tensor) -> Tensor:
            return self._of_force(force + d[:3], moment + d[3:6], foot + d[6:])

        local = torch.func.jacfwd(loaded)(torch.zeros(8)).numpy()
        far = np.einsum("nri,nix->nrx", local[..., :6], np.concatenate([d_force, d_moment], axis=1))
        far[..., -2:] += local[..., 6:]
        return np.concatenate([near.reshape(-1, len(x)), far.reshape(-1, len(x)), np.diag(self._smoothness())])

    def _smoothness(self) -> Array:
        """Weight of each unknown: high harmonics cost."""
        weight = np.zeros(self.basis.size)
        for name, columns in self.basis.columns.items():
            scale = 0.004 if name in _TRANSLATIONS else DEGREE if name in _SAGITTAL else 2 * DEGREE
            first = _SMOOTHEST_HARMONIC.get(name, 6.0)
            weight[columns] = (self.basis.harmonics[name] / first) ** 3 / scale
        return weight

    def _poses(self, q: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Rotation ``(frame, 3, 3)`` and origin ``(frame, 3)`` of each body."""
        ground = (torch.eye(3).expand(len(q), 3, 3), torch.zeros(len(q), 3))
        poses = {"ground": ground}
        for body in self.bodies:
            parent, origin = poses[body.parent]
            turn, slide = torch.eye(3).expand(len(q), 3, 3), torch.as_tensor(body.location, dtype=torch.float64).expand(len(q), 3)
            for axis in body.axes:
                if axis.coordinate not in self.basis.names:
                    continue
                value, direction = q[:, self.basis.names.index(axis.coordinate)], torch.as_tensor(axis.direction, dtype=torch.float64)
                if axis.translates:
                    slide = slide + value[:, None] * direction
                else:
                    turn = turn @ _rotation(direction, value)
            rotation = parent @ turn
            center = origin + (parent @ slide[..., None])[..., 0]
            poses[body.name] = (rotation, center - rotation @ torch.as_tensor(body.location_in_child, dtype=torch.float64))
        return poses

    def _of_frame(self, q: Tensor, foot: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals that depend on one frame only ``(frame, residual)``, and the mass points ``(frame, point, 3)``."""
        poses = self._poses(q)
        normal = 0.6 * (q - torch.as_tensor(self.curves)) / torch.as_tensor(self.spread)
        knee = torch.relu(3 * DEGREE - q[:, [self.basis.names.index("knee_angle_r")]]) / DEGREE
        points = torch.cat([poses[n][0][:, None] @ torch.as_tensor(p)[..., None] + poses[n][1][:, None, :, None] for n, _, p in self.points], dim=1)[..., 0]
        return torch.cat([normal, knee, self._contact(poses, foot)], dim=1), points

    def _contact(self, poses: dict[str, tuple[Tensor, Tensor]], foot: Tensor) -> Tensor:
        """Rolling over heel, sole, ball and toes without sliding, in units of 0.4 mm; nothing below ground; a foot that swings through clear."""
        length, unit = LENGTHS["foot_length"] * HEIGHT, 0.0004
        radius, ball_height = HEEL_RADIUS * HEIGHT, FOOT["ball_height"] * length
        toe_length, sole = (FOOT["toe"] - FOOT["ball"]) * length, (FOOT["ball"] - FOOT["heel_center"]) * length
        ahead = torch.as_tensor(self.walk.stride * _PHASE)[:, None] * torch.tensor([1.0, 0, 0])

        def place(body: str, *location: float) -> Tensor:
            return poses[body][1] + poses[body][0] @ torch.tensor(location) + ahead

        heel = place("calcn_r", (FOOT["heel_center"] - FOOT["origin"]) * length, radius, 0.0)
        ball = place("calcn_r", (FOOT["ball"] - FOOT["origin"]) * length, ball_height, 0.0)
        tip, middle = place("toes_r", toe_length, -ball_height, 0.0), place("toes_r", toe_length / 2, -ball_height, 0.0)
        calcn, toes = poses["calcn_r"][0], poses["toes_r"][0]
        forward, side = (torch.tensor([math.cos(TOE_OUT), 0.0, math.sin(TOE_OUT)]), torch.tensor([-math.sin(TOE_OUT), 0.0, math.cos(TOE_OUT)]))
        base = torch.stack([foot[0], 0 * foot[0], foot[1]])
        pitch = torch.atan2(calcn[:, 1, 0], torch.sqrt(calcn[:, 0, 0] ** 2 + calcn[:, 2, 0] ** 2))[:, None]
        up = torch.tensor([0.0, 1.0, 0.0])
        tilt = torch.stack([calcn[:, :, 0] @ side, calcn[:, 1, 2]], dim=1)
        off = 0.5 + self.walk.double_support
        rolls, flat, lifts, tips = (_between(a, b) for a, b in ((0, FLAT), (FLAT, HEEL_OFF), (HEEL_OFF, BALL_OFF), (BALL_OFF, off)))
        swings = _between(off, 1.0)
        clear = torch.as_tensor(0.012 * np.sin(np.pi * np.clip((_PHASE - off) / (1 - off), 0, 1)) ** 2)
        heights = torch.stack([heel[:, 1] - radius, ball[:, 1] - ball_height, tip[:, 1], middle[:, 1]], dim=1)
        landing = torch.as_tensor((np.arange(FRAMES) == 0).astype(float))[:, None]
        parts = [
            (rolls + flat) * (heel - (base + radius * up - radius * pitch * (rolls > 0) * forward)) / unit,
            (flat + lifts) * (ball - (base + sole * forward + ball_height * up)) / unit,
            (flat + lifts + tips) * (tip - (base + (sole + toe_length) * forward)) / unit,
            rolls * tilt / 0.03 + swings * tilt / 0.06,
            flat * calcn[:, 1:2, 2] / 0.003,
            lifts * toes[:, 1:2, 2] / 0.01 + tips * toes[:, 1:2, 2] / 0.05,
            torch.relu(clear[:, None] - heights) / 0.001,
            landing * (pitch - 20 * DEGREE) / DEGREE,
            torch.relu(pitch - 24 * DEGREE) / DEGREE,
            landing * (foot[1] - 0.045) / 0.003,
        ]
        return torch.cat(parts, dim=1)

    def _wrench(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Total external force and moment about the (advancing) ground origin, each ``(frame, 3)``."""
        force, moment = torch.zeros(FRAMES, 3), torch.zeros(FRAMES, 3)
        for place, mass in self._both_sides(points.numpy()):
            load = mass[:, None] * (np.einsum("nm,mpi->npi", self.second_derivative, place) + np.array([0, GRAVITY, 0]))
            force += torch.as_tensor(load.sum(axis=1))
            moment += torch.as_tensor(np.cross(place, load).sum(axis=1))
        return force, moment

    def _both_sides(self, points: Array) -> list[tuple[Array, Array]]:
        """Mass points of trunk and right side, and of the left side, with their masses."""
        mass = np.concatenate([np.full(6, m) for _, m, _ in self.points])
        return [(points, mass), (_to_left(points[:, self._is_right]), mass[self._is_right])]

    @property
    def _is_right(self) -> NDArray[np.bool_]:
        return np.concatenate([np.full(6, n.endswith("_r")) for n, _, _ in self.points])

    def _wrench_jacobian(self, points: Array, d_points: Array) -> tuple[Array, Array]:
        """Derivatives ``(frame, 3, unknown)`` of force and moment; ``d_points`` is ``(frame, point, 3, coordinate)``."""
        size = self.basis.size
        d_force, d_moment = np.zeros((FRAMES, 3, size)), np.zeros((FRAMES, 3, size))
        right = self._is_right
        sides = [(d_points, self.basis.matrix), (_to_left(d_points[:, right]), np.roll(self.basis.matrix, -(FRAMES // 2), axis=0))]
        for (place, mass), (d_place, matrix) in zip(self._both_sides(points), sides, strict=True):
            load = mass[:, None] * (np.einsum("nm,mpi->npi", self.second_derivative, place) + np.array([0, GRAVITY, 0]))
            total = np.einsum("p,npic,ncx->nix", mass, d_place, matrix, optimize=True)
            d_force += np.einsum("nm,mix->nix", self.second_derivative, total, optimize=True)
            for i in range(3):
                a, b = (i + 1) % 3, (i + 2) % 3
                here = np.einsum("npc,np->nc", d_place[:, :, a], load[:, :, b]) - np.einsum("npc,np->nc", d_place[:, :, b], load[:, :, a])
                d_moment[:, i] += np.einsum("nc,ncx->nx", here, matrix)
                for sign, arm, along in ((1, a, b), (-1, b, a)):
                    coupled = np.einsum("np,p,mpc->nmc", place[:, :, arm], mass, d_place[:, :, along], optimize=True)
                    coupled *= sign * self.second_derivative[:, :, None]
                    d_moment[:, i] += coupled.reshape(FRAMES, -1) @ matrix.reshape(-1, size)
        return d_force, d_moment

    def _of_force(self, force: Tensor, moment: Tensor, foot: Tensor) -> Tensor:
        """Distance of force, zero-moment point and vertical moment from published ones, ``(frame, residual)``."""
        weight = MASS * GRAVITY
        x, z = moment[:, 2] / force[:, 1], -moment[:, 0] / force[:, 1]
        turning = moment[:, 1] - (z * force[:, 0] - x * force[:, 2])
        first = torch.as_tensor((np.arange(FRAMES) < FRAMES // 2).astype(float))
        wanted = self._wanted_pressure(foot)
        parts = [
            (force[:, 1] / weight - self.vertical) / 0.05,
            (force[:, 0] / weight - self.forward) / 0.03,
            force[:, 2] / weight / 0.05,
            first * (x + torch.as_tensor(self.walk.stride * _PHASE) - wanted[:, 0]) / 0.008,
            first * (z - wanted[:, 1]) / 0.008,
            first * turning / 3.0,
        ]
        return torch.stack(parts, dim=1)

    def _wanted_pressure(self, foot: Tensor) -> Tensor:
        """Usual centre of pressure of both feet together ``(frame, 2)`` in the first half of the cycle."""
        length = LENGTHS["foot_length"] * HEIGHT

        def under(phase: Array, side: float, x: Tensor) -> Tensor:
            along = torch.as_tensor((np.interp(phase, PRESSURE_PHASES, PRESSURE_ALONG_FOOT) + FOOT["heel"] - FOOT["heel_center"]) * length)
            return torch.stack([x + along * math.cos(TOE_OUT), side * (foot[1] + along * math.sin(TOE_OUT))], dim=1)

        lead = np.clip(_PHASE / self.walk.double_support, 0, 1)
        share = torch.as_tensor(lead**3 * (10 - 15 * lead + 6 * lead**2))[:, None]
        return (1 - share) * under(_PHASE + 0.5, -1.0, foot[0] - self.walk.stride / 2) + share * under(_PHASE, 1.0, foot[0])


def _make_basis() -> _Basis:
    columns, harmonics, blocks, start = {}, {}, [], 0
    for name, (_, orders) in SPREAD.items():
        waves = [(k, f(2 * np.pi * k * _PHASE)) for k in orders for f in ((np.cos, np.sin) if k else (np.cos,))]
        columns[name], harmonics[name] = slice(start, start + len(waves)), np.array([k for k, _ in waves])
        blocks.append(np.stack([w for _, w in waves], axis=1))
        start += len(waves)
    matrix = np.zeros((FRAMES, len(SPREAD), start + 2))
    for i, (name, block) in enumerate(zip(SPREAD, blocks, strict=True)):
        matrix[:, i, columns[name]] = block
    return _Basis(tuple(SPREAD), columns, harmonics, matrix)


def _normal_curves(names: Sequence[str], step_ratio: float, person: Person) -> tuple[Array, Array]:
    """Mean curves ``(frame, coordinate)`` and standard deviations ``(coordinate,)``; the hip's swing goes with the step."""
    height = next(a.default for b in person.bodies for a in b.axes if a.coordinate == "pelvis_ty")
    curves = np.zeros((FRAMES, len(names)))
    for i, name in enumerate(names):
        if name in EVERY_FIVE_PERCENT:
            values = EVERY_FIVE_PERCENT[name]
            curves[:, i] = _periodic([(5 * k, v) for k, v in enumerate(values)]) * DEGREE
        elif name in COSINES:
            mean, amplitude, peak, order = COSINES[name]
            curves[:, i] = (mean + amplitude * np.cos(2 * np.pi * order * (_PHASE - peak))) * DEGREE
    hip = names.index("hip_flexion_r")
    curves[:, hip] = curves[:, hip].mean() + step_ratio * (curves[:, hip] - curves[:, hip].mean())
    curves[:, names.index("pelvis_ty")] = height - 0.03 + 0.02 * np.cos(4 * np.pi * (_PHASE - 0.30))
    curves[:, names.index("pelvis_tz")] = 0.02 * np.cos(2 * np.pi * (_PHASE - 0.30))
    return curves, np.array([SPREAD[n][0] * (1 if n in _TRANSLATIONS else DEGREE) for n in names])


def _periodic(points: Sequence[tuple[float, float]]) -> Array:
    """Periodic cubic spline through (percent of the cycle, value) at every frame."""
    x, y = (list(v) for v in zip(*points, strict=True))
    return np.asarray(CubicSpline(np.array([*x, 100 + x[0]]) / 100, [*y, y[0]], bc_type="periodic")(_PHASE))


def _mass_points(body: Body) -> tuple[float, Array]:
    """Mass of each of six points that have the body's mass, centre of mass and inertia, and their places."""
    x, y, z = body.inertia
    spread = np.sqrt(3 * np.array([y + z - x, x + z - y, x + y - z]) / 2 / body.mass)
    return body.mass / 6, np.array(body.center_of_mass) + np.concatenate([np.diag(spread), -np.diag(spread)])


def _second_derivative(period: float) -> Array:
    """Matrix that differentiates a periodic signal twice by time, exactly for its harmonics."""
    w = 2 * np.pi * np.fft.fftfreq(FRAMES, 1 / FRAMES) / period
    return np.real(np.fft.ifft(-(w**2)[:, None] * np.fft.fft(np.eye(FRAMES), axis=0), axis=0))


def _rotation(direction: Tensor, angle: Tensor) -> Tensor:
    """Rotation matrices ``(frame, 3, 3)`` about a fixed unit axis."""
    x, y, z = direction.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.eye(3) + torch.sin(angle)[:, None, None] * cross + (1 - torch.cos(angle))[:, None, None] * (cross @ cross)


def _to_left(right: Array) -> Array:
    """Points ``(frame, point, 3, ...)`` of the left side: half a cycle later, mirrored."""
    sign = np.array([1.0, 1.0, -1.0]).reshape(1, 1, 3, *[1] * (right.ndim - 3))
    return np.asarray(np.roll(right, -(FRAMES // 2), axis=0) * sign)


def _between(low: float, high: float) -> Tensor:
    return torch.as_tensor(((low <= _PHASE) & (high > _PHASE)).astype(float))[:, None]


SPEEDS = (1.0, 1.15, 1.3, 1.45)
"""Speeds [m/s] of the table."""


def tabulate(speed: float, x: Array) -> str:
    """One entry of the table as source text; lengths over height, angles in radians."""
    walk, basis = walk_at(speed), _make_basis()
    lines = [f"    Gait(speed={speed}, period={walk.period:.6f}, stride={walk.stride / HEIGHT:.6f}, double_support={walk.double_support:.4f},"]
    lines += [f"        heel_x={x[-2] / HEIGHT:.7f}, heel_z={x[-1] / HEIGHT:.7f}, toe_out={TOE_OUT:.7f}, series={{"]
    for name, columns in basis.columns.items():
        unit = HEIGHT if name in _TRANSLATIONS else 1.0
        values: dict[int, list[float]] = {}
        for k, v in zip(basis.harmonics[name], x[columns] / unit, strict=True):
            values.setdefault(int(k), []).append(float(v))
        rows = ", ".join(f"({k}, {v[0]:.7f}, {v[1] if k else 0.0:.7f})" for k, v in values.items())
        lines.append(f'        "{name}": ({rows}{"," if len(values) == 1 else ""}),')
    return "\n".join([*lines, "    }),"])


def main() -> None:
    """Fit all speeds, each from its neighbour, and write the table beside this module; what stands above it in its file stays."""
    fits = {NORMAL_SPEED: fit(NORMAL_SPEED)[0]}
    for chain in (sorted(s for s in SPEEDS if s > NORMAL_SPEED), sorted((s for s in SPEEDS if s < NORMAL_SPEED), reverse=True)):
        start = fits[NORMAL_SPEED]
        for speed in chain:
            start = fits[speed] = fit(speed, start)[0]
    entries = "\n".join(tabulate(speed, fits[speed]) for speed in sorted(fits))
    table = Path(__file__).with_name("gait_table.py")
    head = table.read_text(encoding="utf-8").partition("GAITS: ")[0]
    table.write_text(f"{head}GAITS: tuple[Gait, ...] = (\n{entries}\n)\n", encoding="utf-8")


if __name__ == "__main__":
    main()
