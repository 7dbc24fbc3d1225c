"""Pictures of simulated people: strips of figures from the side and from ahead, and what their feet do.

Only matplotlib is needed. A body is drawn as the outlines of its parts, each the hull of a few balls, from the farthest to the nearest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import InputError
from imdy_plugin.runs import runs
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.humanoid import SOLE_RADIUS
from imdy_plugin.sim.standin import joint_offsets, sole_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from imdy_plugin.sim.imitator.evaluation import Imitated

Array = NDArray[np.float64]
View = Literal["side", "front"]
Side = Literal["right", "left"]
SIDES: tuple[Side, Side] = ("right", "left")

DPI = 130

_ARROW_PER_WEIGHT = 0.55
_FASTEST_SHOWN = 1.0
_SKY, _BELOW = 0.1, 0.34
"""Room over the figures and below the ground [m]."""
_GAP = 0.3
"""Room for the heading of a row [inch]."""
_TABLE_HEIGHT = 1.75
_LIMBS: tuple[tuple[tuple[str, float], ...], ...] = (
    (("hip", 0.082), ("knee", 0.056)),
    (("knee", 0.054), ("ankle", 0.038)),
    (("shoulder", 0.050), ("elbow", 0.040)),
    (("elbow", 0.039), ("wrist", 0.028)),
    (("wrist", 0.030), ("hand", 0.034)),
    (("collar", 0.075), ("shoulder", 0.055)),
)
_TRUNK: tuple[tuple[tuple[str, float], ...], ...] = (
    (("left_hip", 0.088), ("right_hip", 0.088), ("spine1", 0.105)),
    (("spine1", 0.105), ("spine2", 0.112), ("spine3", 0.118)),
    (("spine3", 0.118), ("left_collar", 0.085), ("right_collar", 0.085)),
    (("neck", 0.050), ("head", 0.050)),
)
"""Joints that a part of the body spans, with the radius there [m] of a person of 1.75 m."""

_HEAD = (np.array([0.02, 0.085, 0.0]), 0.095)
"""Center of the head over its joint, and radius [m]."""

_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 24, endpoint=False)), np.sin(np.linspace(0, 2 * np.pi, 24, endpoint=False))], axis=-1)


@dataclass(frozen=True)
class Palette:
    """Colours of a body: of its right limbs, its trunk and its left limbs, and of the outlines."""

    right: str
    trunk: str
    left: str
    edge: str


REFERENCE = Palette("#a9afb8", "#c3c8cf", "#d9dce1", "#ffffff")
"""Grey: what was to be imitated."""

IMITATION = Palette("#005a8f", "#2b8cc4", "#86c3e6", "#ffffff")
"""Blue: what the simulated person did."""

_FORCE = "#c8441b"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#555555",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
}


@contextmanager
def drawing_style() -> Iterator[None]:
    """Within this context, figures look alike and names are drawn as they are, never as formulas."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def imitation_strip(path: str | os.PathLike[str], imitated: Imitated, instants: int = 8, title: str = "") -> None:
    """Draw the reference, and the imitation with its ground forces over it, at a few instants, from the side and from ahead, as a PNG.

    Parameters
    ----------
    path
        The picture.
    imitated
        What is drawn; its instants lie evenly over what was imitated.
    instants
        How many.
    title
        Heading; name, imitator and errors where not given.
    """
    moved = len(imitated.ground_force) > 0
    motion_strip(
        path,
        imitated.reference,
        imitated.imitation,
        imitated.person,
        ground_force=imitated.ground_force if moved else None,
        ground_moment=imitated.ground_moment if moved else None,
        instants=instants,
        title=title or _heading_of(imitated),
    )


def _heading_of(imitated: Imitated) -> str:
    activity = str(imitated.reference.attrs.get("activity", ""))
    ended = f"failed: {imitated.failure}" if imitated.failure else f"whole length, {imitated.reference.duration:.1f} s"
    return ", ".join(text for text in dict.fromkeys((imitated.reference.name, activity, f"imitated by {imitated.imitator}", ended)) if text)


def motion_strip(
    path: str | os.PathLike[str],
    reference: BodyMotion,
    imitation: BodyMotion | None,
    person: xr.Dataset,
    *,
    ground_force: Array | None = None,
    ground_moment: Array | None = None,
    instants: int = 8,
    title: str = "",
) -> None:
    """Draw a motion, or a reference and its imitation, at a few instants, from the side and from ahead, as a PNG.

    Parameters
    ----------
    path
        The picture.
    reference
        Drawn in grey.
    imitation
        Drawn in blue over the reference: the first frames of the same time stamps. None draws the reference alone.
    person
        Model of the person.
    ground_force, ground_moment
        Force on each body [N] and its moment about the origin of the ground frame [N m], ``(time or step, 24, 3)``; drawn as an arrow at the centre of
        pressure of each foot and of the rest.
    instants
        How many.
    title
        Heading.

    Raises
    ------
    InputError
        The imitation is longer than the reference, or there is no instant to draw.
    """
    length = len(reference if imitation is None else imitation)
    if length > len(reference) or length < 1 or instants < 1:
        raise InputError(f"a strip of {instants} instant(s) of {length} frames against a reference of {len(reference)}: nothing fits")
    frames = np.unique(np.linspace(0, length - 1, instants).round().astype(int))
    scene = _Scene.of(reference, imitation, person, frames)
    with drawing_style():
        figure = _strip_figure(scene, ground_force, ground_moment, title)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)


@dataclass(frozen=True)
class _Scene:
    """Bodies at the chosen frames, turned so that they face along x and each seen from where the reference's pelvis is."""

    frames: NDArray[np.intp]
    time: Array
    bodies: tuple[tuple[Palette, list[list[_Part]]], ...]
    origins: Array
    turn: Array
    error: Array | None
    mass: float

    @classmethod
    def of(cls, reference: BodyMotion, imitation: BodyMotion | None, person: xr.Dataset, frames: NDArray[np.intp]) -> _Scene:
        shown = _frames(reference, frames)
        turn = _facing(reference)
        origins = shown.root_position * [1.0, 0.0, 1.0]
        bodies = [(REFERENCE, _figures(shown, person, origins, turn))]
        error = None
        if imitation is not None:
            copied = _frames(imitation, frames)
            bodies.append((IMITATION, _figures(copied, person, origins, turn)))
            apart = joint_positions(copied, joint_offsets(person)) - joint_positions(shown, joint_offsets(person))
            error = np.linalg.norm(apart, axis=-1).mean(axis=1)
        return cls(frames, shown.time, tuple(bodies), origins, turn, error, float(person.attrs["mass"]))

    @property
    def spacing(self) -> float:
        """Distance between two figures on the page [m], so that they hardly overlap in either view."""
        views: tuple[View, ...] = ("side", "front")
        widths = [np.ptp([x for part in figure for x in part.extent(view)]) for _, figures in self.bodies for figure in figures for view in views]
        return float(max(np.max(widths) + 0.12, 0.75))

    @property
    def top(self) -> float:
        """Height that the figures reach [m]."""
        return max(float(ball[1]) + radius for _, figures in self.bodies for figure in figures for part in figure for ball, radius in part.balls)


@dataclass(frozen=True)
class _Part:
    """A part of a body: the hull of some balls, seen from the pelvis, x where the person faces."""

    side: str
    balls: tuple[tuple[Array, float], ...]

    def outline(self, view: View) -> Array:
        """Corners of its outline on the page, ``(corner, 2)``."""
        points = np.concatenate([_on_page(center, view) + radius * _CIRCLE for center, radius in self.balls])
        return np.asarray(points[ConvexHull(points).vertices])

    def extent(self, view: View) -> list[float]:
        """Left and right edge of each ball on the page."""
        return [float(_on_page(center, view)[0]) + sign * radius for center, radius in self.balls for sign in (-1.0, 1.0)]

    def nearness(self, view: View) -> float:
        """How near to whoever looks: from the right side, or from ahead."""
        return float(np.mean([center[2 if view == "side" else 0] for center, _ in self.balls]))


def _on_page(point: Array, view: View) -> Array:
    """Where a point lies on the page: ahead is to the right from the side, and the person's right is to the left from ahead."""
    return np.array([point[0], point[1]]) if view == "side" else np.array([-point[2], point[1]])


def _frames(motion: BodyMotion, frames: NDArray[np.intp]) -> BodyMotion:
    return BodyMotion(motion.time[frames], motion.root_position[frames], motion.rotation_wxyz[frames], motion.name)


def _facing(motion: BodyMotion) -> Array:
    """Turns ground vectors about the vertical so that the mean direction the pelvis faces comes to lie along x; ``(3, 3)``."""
    ahead = global_rotations(motion)[:, 0, :, 0]
    x, z = ahead[:, 0].mean(), ahead[:, 2].mean()
    if np.hypot(x, z) < 0.3:
        x, z = ahead[0, 0], ahead[0, 2]
    length = np.hypot(x, z)
    c, s = (x / length, z / length) if length > 1e-6 else (1.0, 0.0)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _figures(motion: BodyMotion, person: xr.Dataset, origins: Array, turn: Array) -> list[list[_Part]]:
    placed = (joint_positions(motion, joint_offsets(person)) - origins[:, None]) @ turn.T
    turned = turn @ global_rotations(motion)
    return [_body_parts(p, r, person) for p, r in zip(placed, turned, strict=True)]


def _body_parts(placed: Array, turned: Array, person: xr.Dataset) -> list[_Part]:
    scale = float(person.attrs.get("height", _TABLE_HEIGHT)) / _TABLE_HEIGHT
    at = dict(zip(JOINTS, placed, strict=True))
    parts = [_Part("", tuple((at[joint], scale * radius) for joint, radius in part)) for part in _TRUNK]
    over, radius = _HEAD
    parts.append(_Part("", ((at["head"] + turned[JOINTS.index("head")] @ (scale * over), scale * radius),)))
    for side in ("left", "right"):
        parts += [_Part(side, tuple((at[f"{side}_{joint}"], scale * radius) for joint, radius in part)) for part in _LIMBS]
        parts += _foot_parts(side, at, turned, person, scale)
    return parts


def _foot_parts(side: str, at: dict[str, Array], turned: Array, person: xr.Dataset, scale: float) -> list[_Part]:
    """The foot with its sole, and the toes."""
    upper = {"ankle": 0.036, "foot": 0.022}
    parts = []
    for joint, radius in upper.items():
        name = f"{side}_{joint}"
        points = at[name] + (sole_points(person)[name] + [0.0, SOLE_RADIUS, 0.0]) @ turned[JOINTS.index(name)].T
        parts.append(_Part(side, ((at[name], scale * radius), *((p, SOLE_RADIUS) for p in points))))
    return parts


@dataclass(frozen=True)
class _Row:
    """One row of a strip: the view, how many of the scene's bodies are drawn over each other, and the heading."""

    view: View
    bodies: int
    heading: str


def _rows(scene: _Scene) -> list[_Row]:
    reference = _Row("side", 1, "reference, seen from the right")
    if len(scene.bodies) == 1:
        return [reference, _Row("front", 1, "seen from ahead")]
    return [reference, _Row("side", 2, "imitation over the reference, seen from the right"), _Row("front", 2, "seen from ahead")]


def _strip_figure(scene: _Scene, force: Array | None, moment: Array | None, title: str) -> Figure:
    from matplotlib.figure import Figure

    rows = _rows(scene)
    across = len(scene.frames) * scene.spacing
    inches = min(1.15, 15.0 / across)
    row_height = inches * (scene.top + _SKY + _BELOW)
    width, height = max(inches * across, 6.5) + 0.9, len(rows) * (row_height + _GAP) + 0.8
    figure = Figure(figsize=(width, height))
    for number, row in enumerate(rows):
        bottom = (len(rows) - 1 - number) * (row_height + _GAP) + 0.12
        ax = figure.add_axes((0.7 / width, bottom / height, (width - 0.9) / width, row_height / height))
        _draw_row(ax, scene, row, force, moment)
        middle, half = 0.5 * (len(scene.frames) - 1) * scene.spacing, 0.5 * (width - 0.9) / inches
        ax.set(ylim=(-_BELOW, scene.top + _SKY), xlim=(middle - half, middle + half))
    figure.text(0.7 / width, 1 - 0.16 / height, title, ha="left", va="top", fontsize=11, fontweight="bold")
    _strip_legend(figure, scene, force is not None, 0.7 / width, 1 - 0.42 / height)
    return figure


def _draw_row(ax: Axes, scene: _Scene, row: _Row, force: Array | None, moment: Array | None) -> None:
    spacing, compared = scene.spacing, row.bodies == len(scene.bodies)
    ax.set_title(row.heading)
    ax.axhspan(-1.0, 0.0, color="#f0eee9", zorder=0)
    ax.axhline(0.0, color="#6b6459", linewidth=1.0, zorder=1)
    for i, frame in enumerate(scene.frames):
        for level, (palette, figures) in enumerate(scene.bodies[: row.bodies]):
            _draw_body(ax, figures[i], palette, row.view, i * spacing, 10 + 40 * level)
        if force is not None and moment is not None and compared:
            step = min(int(frame), len(force) - 1)
            _draw_forces(ax, scene, row.view, force[step], moment[step], scene.origins[i], i * spacing)
        told = f"{scene.time[i]:.2f} s" if scene.error is None or not compared else f"{scene.time[i]:.2f} s\n{1e3 * scene.error[i]:.0f} mm"
        ax.text(i * spacing, -0.05, told, ha="center", va="top", fontsize=8, color="#333333", zorder=200)
    ax.set_yticks(np.arange(0.0, scene.top, 0.5))
    ax.set(ylabel="height [m]", xticks=[], aspect="equal")
    ax.spines["bottom"].set_visible(False)
    ax.spines["left"].set_bounds(0.0, scene.top)


def _draw_body(ax: Axes, parts: Sequence[_Part], palette: Palette, view: View, shift: float, level: int) -> None:
    colours = {"right": palette.right, "": palette.trunk, "left": palette.left}
    for part in sorted(parts, key=lambda p: p.nearness(view)):
        corners = part.outline(view) + np.array([shift, 0.0])
        ax.fill(corners[:, 0], corners[:, 1], facecolor=colours[part.side], edgecolor=palette.edge, linewidth=0.6, zorder=level)


def _draw_forces(ax: Axes, scene: _Scene, view: View, force: Array, moment: Array, origin: Array, shift: float) -> None:
    """Arrows of the forces on each foot and on the rest of the body, a body weight 0.55 m long."""
    feet = {side: [JOINTS.index(f"{side}_ankle"), JOINTS.index(f"{side}_foot")] for side in ("right", "left")}
    rest = [i for i in range(len(JOINTS)) if i not in feet["right"] + feet["left"]]
    weight = scene.mass * GRAVITY
    for bodies in (*feet.values(), rest):
        total, turning = force[bodies].sum(axis=0), moment[bodies].sum(axis=0)
        if total[1] < 0.02 * weight:
            continue
        place = np.array([turning[2], 0.0, -turning[0]]) / total[1]
        start = _on_page(scene.turn @ (place - origin), view) + np.array([shift, 0.0])
        way = _on_page(scene.turn @ total, view) * _ARROW_PER_WEIGHT / weight
        style: Any = {"arrowstyle": "-|>", "color": _FORCE, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
        ax.annotate("", tuple(start + way), tuple(start), arrowprops=style, zorder=150)


def _strip_legend(figure: Figure, scene: _Scene, forces: bool, left: float, top: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    labels = [(REFERENCE.trunk, "reference")] + [(IMITATION.trunk, "imitation in simulation (dark: right side)")] * (len(scene.bodies) > 1)
    handles: list[Any] = [Patch(facecolor=colour, label=label) for colour, label in labels]
    if forces:
        handles.append(Line2D([], [], color=_FORCE, linewidth=1.6, label=f"ground force, a body weight is {_ARROW_PER_WEIGHT:g} m long"))
    if scene.error is not None:
        handles.append(Line2D([], [], linestyle="none", label="below: time, mean joint error"))
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(left, top), ncols=len(handles), fontsize=8.5, borderaxespad=0.0, borderpad=0.0)


def foot_tracks(path: str | os.PathLike[str], imitated: Imitated, title: str = "") -> None:
    """Draw height and horizontal speed of both soles of reference and imitation over time, as a PNG: a foot that skates moves while it is loaded.

    Parameters
    ----------
    path
        The picture.
    imitated
        What is drawn.
    title
        Heading; name and imitator where not given.
    """
    from imdy_plugin.sim.imitator.evaluation import contact_metrics

    with drawing_style():
        figure = _tracks_figure(imitated)
        metrics = contact_metrics(imitated)
        told = f"within 1 cm of the ground, while loaded, it slides {metrics['skate']:.0f} mm/s; the reference {metrics['skate_reference']:.0f} mm/s"
        figure.suptitle(f"{title or _heading_of(imitated)}\n{told}", x=0.07, ha="left", fontsize=10)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)


def _tracks_figure(imitated: Imitated) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.4))
    axes = figure.subplots(4, 1, sharex=True, gridspec_kw={"left": 0.07, "right": 0.98, "top": 0.86, "bottom": 0.08, "hspace": 0.42})
    _tracks_legend(figure)
    for (height, speed), side in zip((axes[:2], axes[2:]), SIDES, strict=True):
        _draw_tracks(height, speed, imitated, side)
    axes[-1].set_xlabel("time [s]")
    axes[-1].set_xlim(imitated.reference.time[0], imitated.reference.time[-1])
    return figure


def _draw_tracks(height: Axes, speed: Axes, imitated: Imitated, side: Side) -> None:
    from imdy_plugin.sim.imitator.evaluation import foot_load, sole_track

    time, step = imitated.imitation.time, 1.0 / imitated.imitation.rate
    loaded = runs(foot_load(imitated, side))
    for motion, colour, width in ((imitated.covered, REFERENCE.right, 2.4), (imitated.imitation, IMITATION.right, 1.2)):
        track = sole_track(motion, imitated.person, side)
        height.plot(time, 1e3 * track.lowest, color=colour, linewidth=width)
        lowest = np.argmin(track.height[1:], axis=1)
        speed.plot(time[1:] - 0.5 * step, track.slide[np.arange(len(lowest)), lowest] / step, color=colour, linewidth=width)
    told = "height of the lowest place of the sole", f"its speed over the ground, up to {_FASTEST_SHOWN:g} m/s"
    for ax, heading, unit in zip((height, speed), told, ("[mm]", "[m/s]"), strict=True):
        ax.broken_barh([(time[a], (b - a) * step) for a, b in loaded], (0, 1), transform=ax.get_xaxis_transform(), color="#f6e3da", linewidth=0, zorder=0)
        ax.set_title(f"{side} foot: {heading}")
        ax.set_ylabel(unit)
        ax.grid(color="#e2e2e2", linewidth=0.5)
    height.axhline(0.0, color="#6b6459", linewidth=0.9)
    height.set_ylim(-30.0, max(120.0, height.get_ylim()[1]))
    speed.set_ylim(0.0, _FASTEST_SHOWN)


def _tracks_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=REFERENCE.right, linewidth=2.4, label="reference"),
        Line2D([], [], color=IMITATION.right, linewidth=1.4, label="imitation"),
        Patch(facecolor="#f6e3da", label="loaded in simulation"),
    ]
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.98, 0.995), ncols=3, fontsize=9)
