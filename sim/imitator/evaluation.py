"""How well an imitator does: clips are imitated for their whole length, and what came out is measured against what was wanted.

Position errors are those of perpetual humanoid control (Luo et al. 2023, ICCV, section 4): global and root-relative mean per-joint
position error, and the errors of velocity and acceleration in mm per frame and per squared frame at 30 frames a second. What the feet
do against the ground is measured at the places where the simulated soles touch it.
"""

from __future__ import annotations

import csv
import fnmatch
import json
import math
import multiprocessing
import os
import pickle
import time as clock
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.interfaces import SimBackend, Simulation, StepRecord
from imdy_plugin.progress import report_progress
from imdy_plugin.runs import runs
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.backends.base import DivergedError
from imdy_plugin.sim.humanoid import SOLE_RADIUS, motion_of, state_of
from imdy_plugin.sim.imitator.base import CONTROL_RATE, SUBSTEPS, TIMESTEP, Controller, Imitator
from imdy_plugin.sim.pictures import SIDES, Side
from imdy_plugin.sim.standin import joint_offsets, sole_points
from imdy_plugin.sim.validity import FAILURE_DISTANCE

if TYPE_CHECKING:
    from rich.table import Table

    from imdy_plugin.sim.clips import Clip

Array = NDArray[np.float64]

WORST_LIMIT = 0.25
"""The stricter criterion: no joint is ever this far off [m]."""

FRAME_RATE = 30.0
"""What a frame is in the errors of velocity and acceleration [Hz]."""

TOUCHING = 0.01
"""A place of the sole lower than this over the ground is in contact [m]."""

LOADED = 0.05
"""A foot that carries more than this share of body weight is loaded."""


@dataclass(frozen=True)
class Imitated:
    """What a simulated person made of a reference.

    Attributes
    ----------
    reference
        What was to be imitated, at the control rate, whole.
    imitation
        What the person did: the same time stamps, up to the failure where there was one.
    person
        The person's model.
    torque
        Torques of the joints in every physics step [N m], ``(step, substep, 23, 3)``, in the order of the joints less the pelvis, along the axes of the
        joint's own body; a step leads from one frame to the next.
    ground_force, ground_moment
        Mean force of the ground on each body during each step [N], and its moment about the origin of the ground frame [N m], ``(step, 24, 3)``.
    imitator, seed
        Who imitated, and the seed of what was random.
    failure
        Why the imitation ended early; empty where it did not.
    seconds
        How long it took [s].
    """

    reference: BodyMotion
    imitation: BodyMotion
    person: xr.Dataset
    torque: Array
    ground_force: Array
    ground_moment: Array
    imitator: str
    seed: int = 0
    failure: str = ""
    seconds: float = math.nan

    @property
    def covered(self) -> BodyMotion:
        """The part of the reference that was imitated."""
        return self.reference.part(0, len(self.imitation))

    @property
    def mass(self) -> float:
        """Body mass [kg]."""
        return float(self.person.attrs["mass"])


def imitate(imitator: Imitator, reference: BodyMotion, person: xr.Dataset, backend: SimBackend, *, seed: int = 0) -> Imitated:
    """Imitate a motion from its first state to its last frame, or until it fails.

    Parameters
    ----------
    imitator
        Commands the joints.
    reference
        The motion; it is resampled to the control rate.
    person
        Model of the person.
    backend
        The physics.
    seed
        Of the simulation and the imitator.

    Raises
    ------
    InputError
        The motion has fewer than two frames at the control rate.
    """
    if reference.duration * CONTROL_RATE < 1.0 - 1e-6:
        raise InputError(f"motion '{reference.name}' lasts {reference.duration:g} s: nothing to imitate; give at least two frames at {CONTROL_RATE:g} Hz")
    wanted = reference if math.isclose(reference.rate, CONTROL_RATE, rel_tol=1e-6) else reference.resampled(CONTROL_RATE)
    started = clock.perf_counter()
    controller = imitator.begin(person, wanted, seed)
    simulation = backend.start([person], timestep=TIMESTEP, seed=seed)
    try:
        states, steps, failure = _roll_out(simulation, controller, wanted, joint_offsets(person))
        order = [simulation.bodies.index(joint) for joint in JOINTS]
        joints = [index - 1 for index in order[1:]]
    finally:
        simulation.close()
    return Imitated(
        reference=wanted,
        imitation=motion_of(wanted.time[: len(states)], np.asarray(states), wanted.name),
        person=person,
        torque=_stacked([s.torque[0].reshape(SUBSTEPS, -1, 3)[:, joints] for s in steps], (SUBSTEPS, len(JOINTS) - 1, 3)),
        ground_force=_stacked([s.mean_ground_force[0, order] for s in steps], (len(JOINTS), 3)),
        ground_moment=_stacked([s.mean_ground_moment[0, order] for s in steps], (len(JOINTS), 3)),
        imitator=imitator.name,
        seed=seed,
        failure=failure,
        seconds=clock.perf_counter() - started,
    )


def _roll_out(simulation: Simulation, controller: Controller, wanted: BodyMotion, offsets: Array) -> tuple[list[Array], list[StepRecord], str]:
    """States of the frames that were reached, what acted between them, and why it ended early."""
    begun = controller.start(0) or tuple(array[0] for array in state_of(wanted))
    position, velocity = (np.asarray(array)[None] for array in begun)
    places = joint_positions(wanted, offsets)
    simulation.reset(position, velocity)
    states: list[Array] = [position[0]]
    steps: list[StepRecord] = []
    for frame in range(len(wanted) - 1):
        try:
            record = simulation.step_towards(controller.target(frame, position[0], velocity[0])[None], SUBSTEPS)
        except DivergedError as error:
            return states, steps, str(error)
        position, velocity = simulation.state()
        failure = _failure(position, places[frame + 1], offsets, float(wanted.time[frame + 1]))
        states.append(position[0].copy())
        steps.append(record)
        if failure:
            return states, steps, failure
    return states, steps, ""


def _failure(position: Array, places: Array, offsets: Array, time: float) -> str:
    reached = joint_positions(motion_of(np.zeros(1), position), offsets)[0]
    error = float(np.linalg.norm(reached - places, axis=-1).mean())
    return f"{error:.2f} m off at {time:.2f} s" if error >= FAILURE_DISTANCE else ""


def _stacked(arrays: Sequence[Array], shape: tuple[int, ...]) -> Array:
    return np.stack(arrays) if arrays else np.empty((0, *shape))


# --- what is measured ------------------------------------------------------------------------------------------------------------------------------


def joint_errors(reference: BodyMotion, imitation: BodyMotion, offsets: Array) -> Array:
    """Distance of each joint from where it should be [m], ``(time, 24)``, for the frames of the imitation, which begins with the reference."""
    return np.asarray(np.linalg.norm(joint_positions(imitation, offsets) - joint_positions(reference.part(0, len(imitation)), offsets), axis=-1))


def position_metrics(reference: Array, imitation: Array, rate: float) -> dict[str, float]:
    """Errors of joint positions.

    Parameters
    ----------
    reference, imitation
        Positions of the joints [m], ``(time, joint, 3)``, pelvis first.
    rate
        Frames per second [Hz].

    Returns
    -------
    dict
        ``mpjpe_global`` and ``mpjpe_root`` [mm] (positions in the ground frame, and less that of the pelvis); ``velocity_error`` [mm/frame] and
        ``acceleration_error`` [mm/frame^2], frames of 1/30 s; ``jitter`` and ``jitter_reference``, mean jerk of the joints [m/s^3]. NaN where
        there are too few frames.
    """
    apart = imitation - reference
    lag = max(1, round(rate / FRAME_RATE))
    per_frame = rate / lag / FRAME_RATE
    return {
        "mpjpe_global": 1e3 * _mean_length(apart),
        "mpjpe_root": 1e3 * _mean_length(apart - apart[:, :1]),
        "velocity_error": 1e3 * per_frame * _mean_length(apart[lag:] - apart[:-lag]),
        "acceleration_error": 1e3 * per_frame**2 * _mean_length(apart[2 * lag :] - 2 * apart[lag:-lag] + apart[: -2 * lag]),
        "jitter": rate**3 * _mean_length(np.diff(imitation, n=3, axis=0)),
        "jitter_reference": rate**3 * _mean_length(np.diff(reference, n=3, axis=0)),
    }


def _mean_length(vectors: Array) -> float:
    return float(np.linalg.norm(vectors, axis=-1).mean()) if vectors.size else math.nan


@dataclass(frozen=True)
class SoleTrack:
    """Where the places of one sole are that can touch the ground: the rounded edges that the simulated foot stands on.

    Attributes
    ----------
    height
        Lowest point of each place over the ground [m], ``(time, place)``.
    slide
        Horizontal way from frame to frame of the matter at that lowest point [m], ``(time - 1, place)``: none while it rolls.
    step
        Time between frames [s].
    """

    height: Array
    slide: Array
    step: float

    @property
    def lowest(self) -> Array:
        """Height of the lowest place [m], ``(time,)``."""
        return np.asarray(self.height.min(axis=1))

    def touching(self, loaded: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Which places touch the ground before and after each step, ``(time - 1, place)``; only during ``loaded`` steps where these are given."""
        low = self.height < TOUCHING
        both = low[1:] & low[:-1]
        return both if loaded is None else both & loaded[:, None]

    def slide_speed(self, loaded: NDArray[np.bool_] | None = None) -> Array:
        """Mean speed over the ground of the places that touch it [m/s], ``(time - 1,)``; NaN where none does."""
        touching = self.touching(loaded)
        count = touching.sum(axis=1)
        way = np.where(touching, self.slide, 0.0).sum(axis=1)
        return np.where(count > 0, way / np.maximum(count, 1), np.nan) / self.step


def sole_track(motion: BodyMotion, person: xr.Dataset, side: Side) -> SoleTrack:
    """Follow the sole of one foot through a motion."""
    offsets = joint_offsets(person)
    turned, placed = global_rotations(motion), joint_positions(motion, offsets)
    heights, slides = [], []
    for body, points in sole_points(person).items():
        if not body.startswith(side):
            continue
        index = JOINTS.index(body)
        centers = points + np.array([0.0, SOLE_RADIUS, 0.0])
        center = placed[:, index, None] + np.einsum("tij,pj->tpi", turned[:, index], centers)
        roll = Rotation.from_matrix(turned[1:, index] @ np.swapaxes(turned[:-1, index], 1, 2)).as_rotvec()
        rolled = SOLE_RADIUS * np.stack([roll[:, 2], -roll[:, 0]], axis=-1)
        heights.append(center[..., 1] - SOLE_RADIUS)
        slides.append(np.linalg.norm(np.diff(center, axis=0)[..., [0, 2]] + rolled[:, None], axis=-1))
    return SoleTrack(np.concatenate(heights, axis=1), np.concatenate(slides, axis=1), 1.0 / motion.rate)


def foot_load(imitated: Imitated, side: Side) -> NDArray[np.bool_]:
    """During which steps a foot carries more than :data:`LOADED` of body weight, ``(step,)``."""
    return np.asarray(foot_force(imitated, side)[:, 1] > LOADED * imitated.mass * GRAVITY)


def foot_force(imitated: Imitated, side: Side) -> Array:
    """Force of the ground on the bodies of one foot [N], ``(step, 3)``."""
    return np.asarray(imitated.ground_force[:, _foot_bodies(imitated.person, side)].sum(axis=1))


def foot_moment(imitated: Imitated, side: Side) -> Array:
    """Moment of that force about the origin of the ground frame [N m], ``(step, 3)``."""
    return np.asarray(imitated.ground_moment[:, _foot_bodies(imitated.person, side)].sum(axis=1))


def _foot_bodies(person: xr.Dataset, side: Side) -> list[int]:
    return [JOINTS.index(body) for body in sole_points(person) if body.startswith(side)]


def contact_metrics(imitated: Imitated) -> dict[str, float]:
    """What the feet do against the ground.

    Returns
    -------
    dict
        ``skate`` [mm/s] and ``skate_per_stance`` [mm]: how far the places of the soles slide that lie within 1 cm of the ground while the
        foot is loaded; ``skate_reference`` [mm/s]: the same of the reference, within 1 cm of the ground during the same steps;
        ``penetration`` and ``penetration_worst`` [mm]: how deep the lowest place is in the ground, mean over all frames and at most, and
        ``penetration_reference``. NaN without contact.
    """
    soles = [sole_track(imitated.imitation, imitated.person, side) for side in SIDES]
    wanted = [sole_track(imitated.covered, imitated.person, side) for side in SIDES]
    loads = [foot_load(imitated, side) for side in SIDES]
    way, duration, stances = np.sum([_skate(sole, load) for sole, load in zip(soles, loads, strict=True)], axis=0)
    way_wanted, duration_wanted, _ = np.sum([_skate(sole, load) for sole, load in zip(wanted, loads, strict=True)], axis=0)
    depth, depth_wanted = (np.maximum(0.0, -np.minimum(*(s.lowest for s in both))) for both in (soles, wanted))
    return {
        "skate": 1e3 * _ratio(way, duration),
        "skate_per_stance": 1e3 * _ratio(way, stances),
        "skate_reference": 1e3 * _ratio(way_wanted, duration_wanted),
        "penetration": 1e3 * float(depth.mean()),
        "penetration_worst": 1e3 * float(depth.max()),
        "penetration_reference": 1e3 * float(depth_wanted.mean()),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _skate(sole: SoleTrack, loaded: NDArray[np.bool_]) -> tuple[float, float, int]:
    """Way that a foot slides [m], how long it is in contact [s], and in how many stances."""
    speed = sole.slide_speed(loaded)
    known = np.isfinite(speed)
    return float(speed[known].sum() * sole.step), float(known.sum() * sole.step), len(runs(known))


@dataclass(frozen=True)
class Score:
    """How one clip was imitated. Lengths in mm; what the figures mean is told at :func:`position_metrics` and :func:`contact_metrics`.

    Attributes
    ----------
    clip, activity, person, source
        Which clip.
    held_out
        Whether it is one of those that no imitator is trained on.
    free
        Whether the ground is level and the person handles nothing, as in the simulation.
    imitator, seed
        Who imitated it.
    duration, completed, seconds
        Length of the clip [s], the share of it that was imitated, and how long that took [s].
    success
        Whether the clip was imitated to its end with a mean joint error below :data:`FAILURE_DISTANCE` in every frame.
    success_strict
        The same with every joint below :data:`WORST_LIMIT`.
    failure
        Why not; empty on success.
    worst_mean_error, worst_error
        Largest mean error of a frame, and largest error of a joint [mm].
    """

    clip: str
    activity: str
    person: str
    source: str
    held_out: bool
    free: bool
    imitator: str
    seed: int
    duration: float
    completed: float
    seconds: float
    success: bool
    success_strict: bool
    failure: str
    worst_mean_error: float = math.nan
    worst_error: float = math.nan
    mpjpe_global: float = math.nan
    mpjpe_root: float = math.nan
    velocity_error: float = math.nan
    acceleration_error: float = math.nan
    jitter: float = math.nan
    jitter_reference: float = math.nan
    skate: float = math.nan
    skate_per_stance: float = math.nan
    skate_reference: float = math.nan
    penetration: float = math.nan
    penetration_worst: float = math.nan
    penetration_reference: float = math.nan


def score(imitated: Imitated, clip: Clip) -> Score:
    """Measure what was made of a clip; figures of a failed one are those of its frames up to the failure."""
    offsets = joint_offsets(imitated.person)
    errors = joint_errors(imitated.reference, imitated.imitation, offsets)
    whole = not imitated.failure and len(imitated.imitation) == len(imitated.reference)
    places = joint_positions(imitated.covered, offsets), joint_positions(imitated.imitation, offsets)
    figures: dict[str, Any] = position_metrics(*places, imitated.reference.rate)
    figures |= contact_metrics(imitated)
    return Score(
        **_identity(clip, imitated.imitator, imitated.seed),
        duration=imitated.reference.duration,
        completed=(len(imitated.imitation) - 1) / (len(imitated.reference) - 1),
        seconds=imitated.seconds,
        success=bool(whole and (errors.mean(axis=1) < FAILURE_DISTANCE).all()),
        success_strict=bool(whole and (errors < WORST_LIMIT).all()),
        failure=imitated.failure,
        worst_mean_error=1e3 * float(errors.mean(axis=1).max()),
        worst_error=1e3 * float(errors.max()),
        **figures,
    )


def _identity(clip: Clip, imitator: str, seed: int) -> dict[str, Any]:
    known = {"clip": clip.name, "activity": clip.activity, "person": clip.person, "source": clip.source, "held_out": clip.held_out}
    return {**known, "free": clip.flat and not clip.touches_objects, "imitator": imitator, "seed": seed}


# --- many clips ------------------------------------------------------------------------------------------------------------------------------------

RUN_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("mpjpe_global", "MPJPE global [mm]", 1),
    ("mpjpe_root", "MPJPE root-relative [mm]", 1),
    ("velocity_error", "velocity error [mm/frame]", 1),
    ("acceleration_error", "acceleration error [mm/frame\u00b2]", 1),
    ("skate", "skate [mm/s]", 0),
    ("skate_reference", "of reference", 0),
    ("penetration", "penetration [mm]", 1),
)
"""What is averaged over the clips of a row of the table: name, heading, digits."""

_HEADINGS = ("activity", "clips", "min", "success [%]", "none > .25 m [%]", *(heading for _, heading, _ in RUN_COLUMNS))
_SHOWN = ("clips", "success [%]", "MPJPE global [mm]", "MPJPE root-relative [mm]", "skate [mm/s]", "of reference")
"""Of the columns those that fit into a terminal; files hold all."""


@dataclass(frozen=True)
class Summary:
    """Averages over some clips, each clip counting the same.

    Attributes
    ----------
    group, activity
        ``all``, ``level, no objects``, ``held out`` or ``others``; the activity, or ``all``.
    clips, minutes
        How many clips, and how long together [min].
    success, success_strict
        Shares that succeeded.
    successes, everything
        Means of the figures of :class:`Score` over the clips that succeeded, and over all as far as they went; NaN where there is none.
    """

    group: str
    activity: str
    clips: int
    minutes: float
    success: float
    success_strict: float
    successes: dict[str, float]
    everything: dict[str, float]


@dataclass(frozen=True)
class ImitationEvaluation:
    """Scores of many clips.

    Attributes
    ----------
    scores
        One for each clip.
    """

    scores: tuple[Score, ...]

    def summaries(self) -> list[Summary]:
        """All clips, those on level ground with nothing in the hands, those held out and the others, together and by activity."""
        groups = {
            "all": self.scores,
            "level, no objects": [s for s in self.scores if s.free],
            "held out": [s for s in self.scores if s.held_out],
            "others": [s for s in self.scores if not s.held_out],
        }
        found = []
        for group, scores in groups.items():
            found += [_summarise(group, "all", scores)] if scores else []
            found += [_summarise(group, a, [s for s in scores if s.activity == a]) for a in sorted({s.activity for s in scores})]
        return found

    def table(self) -> Table:
        """The summaries as a table for a terminal, most important columns only; errors are means over the clips that succeeded."""
        from rich.table import Table

        title = f"{', '.join(sorted({s.imitator for s in self.scores}))}: {len(self.scores)} clips; errors over the clips that succeeded"
        table = Table("group: activity", title=title)
        for heading in ("clips", "success\n[%]", "MPJPE\n[mm]", "by root\n[mm]", "skate\n[mm/s]", "of ref."):
            table.add_column(heading, justify="right", no_wrap=True)
        previous = "all"
        for row in self.summaries():
            if row.group != previous:
                table.add_section()
            shown = dict(zip(_HEADINGS, _cells(row), strict=True))
            table.add_row(row.group if row.activity == "all" else f"  {row.activity}", *(shown[heading] for heading in _SHOWN))
            previous = row.group
        return table

    def markdown(self) -> str:
        """The summaries as a Markdown table."""
        headings = ["group", *_HEADINGS]
        lines = [f"| {' | '.join(headings)} |", f"|{'---|' * 2}{'--:|' * (len(headings) - 2)}"]
        lines += [f"| {' | '.join([row.group, *_cells(row)])} |" for row in self.summaries()]
        return "\n".join(lines) + "\n"

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row for each clip."""
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Score)])
            writer.writeheader()
            writer.writerows(asdict(s) for s in self.scores)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write summaries and clips; what is not known is null."""
        content = {"summaries": [asdict(s) for s in self.summaries()], "clips": [asdict(s) for s in self.scores]}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(_without_nan(content), indent=1) + "\n", encoding="utf-8")


def choose_clips(clips: Sequence[Clip], names: Sequence[str] = (), activities: Sequence[str] = (), held_out: bool = False) -> list[Clip]:
    """Some of the clips.

    Parameters
    ----------
    clips
        All there are.
    names
        Patterns of names such as ``cmu/07*``; all where there are none.
    activities
        All where there are none.
    held_out
        Only those that no imitator is trained on.

    Raises
    ------
    UnknownNameError
        No clip has a name or an activity.
    InputError
        None is left.
    """
    for pattern in names:
        if not any(fnmatch.fnmatchcase(c.name, pattern) for c in clips):
            raise UnknownNameError("clip", pattern, [c.name for c in clips])
    for activity in activities:
        if activity not in {c.activity for c in clips}:
            raise UnknownNameError("activity", activity, {c.activity for c in clips})
    named = [c for c in clips if not names or any(fnmatch.fnmatchcase(c.name, p) for p in names)]
    chosen = [c for c in named if (not activities or c.activity in activities) and (c.held_out or not held_out)]
    if not chosen:
        raise InputError(f"none of {len(named)} clips of these names is {'held out' if held_out else 'what was asked for'}; widen the choice")
    return chosen


def evaluate_imitator(
    imitator: Imitator, clips: Sequence[Clip], backend: SimBackend, *, seed: int = 0, workers: int = 1, pictures: Path | None = None
) -> ImitationEvaluation:
    """Imitate clips and measure how well.

    Parameters
    ----------
    imitator
        Who imitates.
    clips
        What is imitated.
    backend
        The physics.
    seed
        Of whatever is random, the same for each clip.
    workers
        Clips imitated at once, each in a process of its own.
    pictures
        Folder for a strip and the tracks of the feet of every clip; none are drawn without it.

    Raises
    ------
    InputError
        There is no clip.
    """
    if not clips:
        raise InputError("no clip to imitate; widen the choice")
    plan = _Plan(imitator, backend, seed, pictures)
    scores = []
    for done, found in enumerate(_run_all(clips, plan, workers), 1):
        scores.append(found)
        report_progress("imitation", done, len(clips))
    return ImitationEvaluation(tuple(scores))


@dataclass(frozen=True)
class _Plan:
    imitator: Imitator
    backend: SimBackend
    seed: int
    pictures: Path | None

    def run(self, clip: Clip) -> Score:
        reference, person = clip.load()
        imitated = imitate(self.imitator, reference, person, self.backend, seed=self.seed)
        if self.pictures is not None:
            _draw(imitated, self.pictures, clip.name.replace("/", "_"))
        return score(imitated, clip)


def _run_all(clips: Sequence[Clip], plan: _Plan, workers: int) -> Iterator[Score]:
    if workers <= 1:
        yield from map(plan.run, clips)
        return
    import cloudpickle  # type: ignore[import-untyped]

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        yield from pool.map(_run_packed, [cloudpickle.dumps((plan, clip)) for clip in clips])


def _run_packed(packed: bytes) -> Score:
    plan, clip = pickle.loads(packed)
    return cast("Score", plan.run(clip))


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def _draw(imitated: Imitated, folder: Path, stem: str) -> None:
    from imdy_plugin.sim.pictures import foot_tracks, imitation_strip

    imitation_strip(folder / f"{stem}.png", imitated)
    foot_tracks(folder / f"{stem}_feet.png", imitated)


def _summarise(group: str, activity: str, scores: Sequence[Score]) -> Summary:
    return Summary(
        group=group,
        activity=activity,
        clips=len(scores),
        minutes=sum(s.duration for s in scores) / 60.0,
        success=float(np.mean([s.success for s in scores])),
        success_strict=float(np.mean([s.success_strict for s in scores])),
        successes=_means(s for s in scores if s.success),
        everything=_means(scores),
    )


_FIGURES = tuple(f.name for f in fields(Score) if isinstance(f.default, float))


def _means(scores: Iterable[Score]) -> dict[str, float]:
    chosen = list(scores)
    known = {name: [v for v in (getattr(s, name) for s in chosen) if math.isfinite(v)] for name in _FIGURES}
    return {name: float(np.mean(values)) if values else math.nan for name, values in known.items()}


def _cells(row: Summary) -> list[str]:
    shares = [f"{100 * share:.1f}" for share in (row.success, row.success_strict)]
    figures = [_number(row.successes[name], digits) for name, _, digits in RUN_COLUMNS]
    return [row.activity, str(row.clips), f"{row.minutes:.1f}", *shares, *figures]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
