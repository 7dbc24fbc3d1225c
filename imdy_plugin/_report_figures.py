"""The figures of a report: matplotlib without its global state, units on every axis, colours that the colour-blind can tell apart."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin._report_view import FEET, Grid, Panel, View, words
from imdy_plugin.comparison import LOADED_FRACTION, sample, side_of
from imdy_plugin.gait_cycle import normalise
from imdy_plugin.runs import runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 10.0
"""Width of every figure [inch]."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_REFERENCE = "#1a1a1a"
_STANCE = "#e9ebee"
_POINTS = 80_000
_LARGEST_RESIDUAL = 0.05
_ARROW_PER_WEIGHT = 0.55
_INSTANTS = 8
_MARGIN = 0.8
_TITLE = 0.34
_LEGEND = 0.3
_FOOT = 0.55
_HIGHEST_PATH = 3.6
_BELOW = 0.45

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#555555",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "imdy",
    "text.parse_math": False,
}


@contextmanager
def drawing_style() -> Iterator[None]:
    """Within this context, figures look alike and names are drawn as they are, never as formulas."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        yield


def svg(figure: Figure, prefix: str) -> str:
    """A figure as an SVG element to stand inside HTML: no header, short numbers, no identifier that another figure has."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", text)
    text = re.sub(r"(?<=[ \"])(-?\d+\.\d{3,})(?=[ \"\n])", lambda m: f"{float(m[1]):.2f}", text)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1)


def colour(view: View, solver: str) -> str:
    """The reference of several is black, the others have a colour each."""
    if len(view.solvers) > 1 and solver == view.reference:
        return _REFERENCE
    others = [s for s in view.solvers if len(view.solvers) == 1 or s != view.reference]
    return _COLOURS[others.index(solver) % len(_COLOURS)]


def grid_figure(view: View, grid: Grid, over: str, row_height: float = 1.75) -> Figure:
    """Panels in rows and columns that share the vertical axis of a row.

    Parameters
    ----------
    view
        What is shown.
    grid
        Rows of panels.
    over
        ``"time"`` or ``"cycle"`` (mean and standard deviation over the gait cycles).
    row_height
        Height of a row [inch].
    """
    grid = [row for row in grid if row]
    columns = max(len(row) for row in grid)
    figure, axes = _axes(len(grid), columns, row_height, sharey="row")
    limit = _POINTS // max(1, len(grid) * columns * len(view.solvers))
    for row, panels in zip(axes, grid, strict=True):
        for ax in row[len(panels) :]:
            ax.set_visible(False)
        for ax, panel in zip(row, panels, strict=False):
            _draw_panel(ax, view, panel, over, limit)
        _left_label(row[0], f"[{panels[0].unit}]")
        _second_axis(row[len(panels) - 1], panels[-1])
    for i in range(columns):
        lowest = axes[max(r for r, panels in enumerate(grid) if i < len(panels)), i]
        lowest.set_xlabel("time [s]" if over == "time" else "gait cycle [%]")
        lowest.tick_params(labelbottom=True)
    axes[0, 0].set_xlim(*(_span(view.time) if over == "time" else (0.0, 100.0)))
    _legend(figure, view)
    return figure


def residual_figure(view: View) -> Figure:
    """Length of the residual force and moment at the root over time, per body mass."""
    figure, axes = _axes(1, 2, 2.0, sharey=False, between=0.75)
    for ax, kind, unit in zip(axes[0], ("force", "moment"), ("N/kg", "N m/kg"), strict=True):
        for name in view.ordered:
            part = view.results[name]["root_residual"].sel(component=[f"{kind}_{a}" for a in "xyz"])
            length = (part**2).sum("component", skipna=False) ** 0.5 / view.mass
            _line(ax, view.time, length.values, colour(view, name), 4000)
        ax.set(title=f"Residual {kind}", xlabel="time [s]", xlim=_span(view.time))
        _left_label(ax, f"[{unit}]")
        ax.set_ylim(bottom=0)
    largest = _largest_force(view) / view.mass
    if np.isfinite(largest):
        axes[0, 0].axhline(_LARGEST_RESIDUAL * largest, color="#777777", linestyle="--", linewidth=0.9)
        axes[0, 0].set_ylim(top=max(axes[0, 0].get_ylim()[1], 1.15 * _LARGEST_RESIDUAL * largest))
    _legend(figure, view)
    return figure


def flag_figure(view: View) -> Figure | None:
    """When each solver flags what; None where no frame is flagged."""
    rows = [
        (name, str(kind), view.results[name]["flag"].sel(kind=kind).values)
        for name in view.ordered
        if "flag" in view.results[name]
        for kind in view.results[name]["kind"].values
    ]
    rows = [row for row in rows if row[2].any()]
    if not rows:
        return None
    labels = [_shortened(words(kind) if len(view.solvers) == 1 else f"{words(kind)} ({name})", 48) for name, kind, _ in rows]
    figure, ax = _single_axes(0.28 * len(rows), left=0.3 + 0.075 * max(len(text) for text in labels), legend=False)
    edges = _frame_edges(view.time)
    for y, (name, _, flagged) in enumerate(rows):
        ax.broken_barh([(edges[a], edges[b] - edges[a]) for a, b in runs(flagged)], (y - 0.35, 0.7), color=colour(view, name))
    ax.set_yticks(range(len(rows)), labels)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=_span(view.time), xlabel="time [s]")
    ax.grid(visible=False, axis="y")
    return figure


def path_figure(view: View) -> Figure | None:
    """Centre of pressure seen from above, forward to the right of the page; None where no foot is ever loaded."""
    paths = {(name, foot): _path(view, name, foot) for name in view.ordered for foot in view.foot_names() if foot in view.feet[name]["foot"].values}
    points = [p[np.isfinite(p).all(axis=1)] for p in paths.values()]
    outlines = list(_foot_outlines(view))
    everything = np.concatenate([np.empty((0, 2)), *points, *(o for o, _ in outlines)])
    if not len(np.concatenate([np.empty((0, 2)), *points])):
        return None
    low, high = everything.min(axis=0) - 0.06, everything.max(axis=0) + 0.06
    width, height = high - low
    scale = min((WIDTH - 2 * _MARGIN) / width, _HIGHEST_PATH / height)
    figure, ax = _single_axes(scale * height, width=scale * width)
    for outline, _ in outlines:
        ax.fill(outline[:, 0], outline[:, 1], facecolor="#f1f2f4", edgecolor="#b5b9c0", linewidth=0.7, zorder=1)
    for (name, foot), path in paths.items():
        ax.plot(path[:, 0], path[:, 1], color=colour(view, name), linestyle="--" if foot == "left" else "-", linewidth=1.2, zorder=3)
    ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xlabel="forward [m]", ylabel="to the right [m]")
    _legend(figure, view, [("right foot", "-"), ("left foot", "--")])
    return figure


def movement_figure(view: View) -> Figure | None:
    """Markers from the right side with the ground forces at a few instants; None where the trial has no markers at these times."""
    moments = _instants(view)
    if moments is None:
        return None
    at, labels = moments
    markers = sample(view.trial.motion[["marker_position"]], at)["marker_position"]  # type: ignore[union-attr]
    seen = np.isfinite(markers.values).all(axis=-1)
    if not seen.any(axis=1).all():
        return None
    parts = view.in_body_direction(markers)
    ahead, up = parts["forward"].values, parts["up"].values
    centre = np.nanmedian(ahead, axis=1)
    spacing = max(1.05 * float(np.nanmax(ahead - centre[:, None]) - np.nanmin(ahead - centre[:, None])), 0.9)
    top = float(np.nanmax(up)) + 0.1
    width = WIDTH - 2 * _MARGIN
    figure, ax = _single_axes(width * (top + _BELOW) / (spacing * len(at)))
    for i, label in enumerate(labels):
        ax.scatter(ahead[i] - centre[i] + i * spacing, up[i], s=8, color="#7d838d", linewidths=0, zorder=2)
        ax.text(i * spacing, -0.17, label, ha="center", va="top", fontsize=8)
    for name in view.ordered:
        _arrows(ax, view, name, at, centre, spacing)
    ax.axhline(0.0, color="#555555", linewidth=0.8)
    ax.set_yticks(np.arange(0.0, top, 0.5))
    ax.set(xlim=(-0.5 * spacing, (len(at) - 0.5) * spacing), ylim=(-_BELOW, top), ylabel="height [m]", xticks=[])
    ax.spines["bottom"].set_visible(False)
    ax.spines["left"].set_bounds(0.0, top)
    ax.grid(visible=False)
    _legend(figure, view)
    return figure


def _axes(rows: int, columns: int, row_height: float, *, sharey: Literal["row"] | bool, between: float = 0.4) -> tuple[Figure, NDArray[Any]]:
    """A grid of axes with fixed room for titles, legend and labels [inch]: quicker than to measure every text, and alike in all figures."""
    from matplotlib.figure import Figure

    height = rows * row_height + _LEGEND + _FOOT
    figure = Figure(figsize=(WIDTH, height))
    inner = row_height - _TITLE
    room = {"left": _MARGIN / WIDTH, "right": 1 - _MARGIN / WIDTH, "bottom": _FOOT / height, "top": 1 - (_LEGEND + _TITLE) / height}
    space = {"hspace": _TITLE / inner, "wspace": between / ((WIDTH - 2 * _MARGIN - between * (columns - 1)) / columns)}
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=sharey, gridspec_kw={**room, **space})
    for ax in axes.flat:
        ax.locator_params(axis="y", nbins=5)
    return figure, axes


def _single_axes(inner: float, *, left: float = _MARGIN, width: float | None = None, legend: bool = True) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    top = _LEGEND if legend else 0.1
    height = inner + top + _FOOT
    figure = Figure(figsize=(WIDTH, height))
    wide = WIDTH - left - _MARGIN if width is None else width
    start = left if width is None else (WIDTH - width) / 2
    return figure, figure.add_axes((start / WIDTH, _FOOT / height, wide / WIDTH, inner / height))


def _left_label(ax: Axes, text: str) -> None:
    ax.set_ylabel(text)
    ax.yaxis.set_label_coords(-0.56 / (ax.get_position().width * WIDTH), 0.5)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "\u2026"


def _legend(figure: Figure, view: View, styles: Iterable[tuple[str, Literal["-", "--"]]] = ()) -> None:
    from matplotlib.lines import Line2D

    labels = [(_shortened(_solver_label(view, name), 40), colour(view, name)) for name in view.ordered]
    handles = [Line2D([], [], color=shade, linewidth=2, label=label) for label, shade in labels]
    handles += [Line2D([], [], color="#777777", linestyle=style, label=label) for label, style in styles]
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), fontsize=9 if len(handles) < 6 else 6.5, borderaxespad=0.2)


def _solver_label(view: View, name: str) -> str:
    return f"{name} (reference)" if len(view.solvers) > 1 and name == view.reference else name


def _draw_panel(ax: Axes, view: View, panel: Panel, over: str, limit: int) -> None:
    ax.set_title(_shortened(panel.title, 62 if panel.side else 36))
    ax.axhline(0.0, color="#999999", linewidth=0.7)
    if over == "time":
        spans = [(start, end - start) for start, end in view.contacts(panel.side)]
        ax.broken_barh(spans, (0.0, 1.0), transform=ax.get_xaxis_transform(), color=_STANCE, linewidth=0, zorder=0)
        for name in (n for n in view.ordered if n in panel.series):
            _draw_over_time(ax, view, panel, name, limit)
    else:
        _draw_over_cycle(ax, view, panel)
    if not any(n in panel.series for n in view.solvers):
        _say(ax, "not given by any solver")


def _draw_over_time(ax: Axes, view: View, panel: Panel, name: str, limit: int) -> None:
    if name in panel.bounds:
        lower, upper = panel.bounds[name]
        ax.fill_between(view.time, lower.values, upper.values, color=colour(view, name), alpha=0.18, linewidth=0)
    _line(ax, view.time, panel.series[name].values, colour(view, name), limit)


def _draw_over_cycle(ax: Axes, view: View, panel: Panel) -> None:
    cycles = view.cycles_for(panel.side)
    if not cycles:
        _say(ax, f"no full cycle of the {panel.side} foot" if panel.side else "no full cycle")
        return
    if panel.side:
        ax.axvline(100.0 * float(np.mean([c.duty_factor for c in cycles])), color="#777777", linestyle=":", linewidth=1)
    for name in (n for n in view.ordered if n in panel.series):
        curves = normalise(panel.series[name], cycles)
        percent, mean, sd = curves["point"].values, curves["mean"].values, curves["sd"].values
        ax.fill_between(percent, mean - sd, mean + sd, color=colour(view, name), alpha=0.18, linewidth=0)
        _line(ax, percent, mean, colour(view, name), 1000)


def _say(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="#777777")


def _second_axis(ax: Axes, panel: Panel) -> None:
    factor = panel.factor
    second = ax.secondary_yaxis("right", functions=(lambda v: np.asarray(v) * factor, lambda v: np.asarray(v) / factor))
    second.set_ylabel(f"[{panel.second_unit}]")
    second.yaxis.set_label_coords(1 + 0.56 / (ax.get_position().width * WIDTH), 0.5, transform=ax.transAxes)


def _line(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], colour: str, limit: int) -> None:
    known = np.isfinite(y)
    beside = np.concatenate([[False], known[:-1]]) | np.concatenate([known[1:], [False]])
    alone = known & ~beside
    ax.plot(*_thinned(x, y, limit), color=colour, linewidth=2.2 if colour == _REFERENCE else 1.3)
    if alone.any():
        ax.plot(x[alone], y[alone], color=colour, linestyle="none", marker=".", markersize=4)


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64], limit: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most about ``limit`` points that keep the smallest and largest value of each stretch, and every gap."""
    bins = max(limit // 3, 50)
    if len(x) <= 3 * bins:
        return x, y
    keep = []
    for part in np.array_split(np.arange(len(x)), bins):
        known = part[np.isfinite(y[part])]
        if known.size < part.size:
            keep.append(part[~np.isfinite(y[part])][:1])
        if known.size:
            keep.append(np.asarray([known[y[known].argmin()], known[y[known].argmax()]]))
    index = np.unique(np.concatenate(keep))
    return x[index], y[index]


def _span(time: NDArray[np.float64]) -> tuple[float, float]:
    first, last = float(time[0]), float(time[-1])
    return (first, last) if last > first else (first - 0.5, last + 0.5)


def _largest_force(view: View) -> float:
    total = view.feet[view.reference]["ground_force"].sum("foot", skipna=False)
    length = ((total**2).sum("axis", skipna=False) ** 0.5).values
    return float(np.nanmax(length)) if np.isfinite(length).any() else float("nan")


def _frame_edges(time: NDArray[np.float64]) -> NDArray[np.float64]:
    if time.size == 1:
        return np.asarray([time[0] - 0.5, time[0] + 0.5])
    middle = (time[1:] + time[:-1]) / 2
    return np.concatenate([[time[0]], middle, [time[-1]]])


def _path(view: View, name: str, foot: str) -> NDArray[np.float64]:
    one = view.feet[name].sel(foot=foot)
    point = view.in_body_direction(one["center_of_pressure"])
    loaded = one["ground_force"].sel(axis="y").values > LOADED_FRACTION * view.weight
    return np.where(loaded[:, None], np.stack([point["forward"].values, point["right"].values], axis=1), np.nan)


def _foot_outlines(view: View) -> Iterator[tuple[NDArray[np.float64], str]]:
    """Hull of the markers on each foot in the middle of each contact."""
    names = _foot_markers(view)
    for side in (s for s in FEET if len(names[s]) >= 3):
        middles = [(a + b) / 2 for a, b in view.contacts(side)][:12]
        positions = sample(view.trial.motion[["marker_position"]].sel(marker=names[side]), middles)["marker_position"]  # type: ignore[union-attr]
        parts = view.in_body_direction(positions)
        for i in range(len(middles)):
            points = np.stack([parts["forward"].values[i], parts["right"].values[i]], axis=1)
            points = points[np.isfinite(points).all(axis=1)]
            if len(points) >= 3 and np.linalg.matrix_rank(points - points[0]) == 2:
                from scipy.spatial import ConvexHull

                yield points[ConvexHull(points).vertices], side


def _foot_markers(view: View) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {side: [] for side in FEET}
    if view.trial is None or view.trial.model is None or "marker_position" not in view.trial.motion:
        return found
    model, recorded = view.trial.model, set(view.trial.motion["marker"].values.tolist())
    feet = {str(b): side_of(str(b)) for r in view.results.values() for b in r["body"].values}
    for marker, body in zip(model["marker"].values.tolist(), model["marker_body"].values.tolist(), strict=True):
        side = feet.get(body) or (side_of(body) if body.startswith(("calcn", "toes")) else "")
        if marker in recorded and side:
            found[side].append(marker)
    return found


def _instants(view: View) -> tuple[NDArray[np.float64], list[str]] | None:
    """Times and labels of the pictures: over one gait cycle where there is one, else over the whole trial."""
    if view.trial is None or "marker_position" not in view.trial.motion:
        return None
    stamps = view.trial.motion["time"].values
    first, last = max(float(view.time[0]), float(stamps[0])), min(float(view.time[-1]), float(stamps[-1]))
    if last <= first:
        return None
    inside = [c for s in FEET for c in view.cycles_for(s) if c.start >= first and c.end <= last]
    if not inside:
        at = np.linspace(first, last, _INSTANTS)
        return at, [f"{t:.2f} s" for t in at]
    cycle = inside[0]
    share = np.arange(_INSTANTS) / _INSTANTS
    at = cycle.start + share * cycle.duration
    return at, [f"{t:.2f} s\n{100 * s:.0f} % {cycle.foot}" for t, s in zip(at, share, strict=True)]


def _arrows(ax: Axes, view: View, name: str, at: NDArray[np.float64], centre: NDArray[np.float64], spacing: float) -> None:
    feet = sample(view.feet[name], at)
    force, point = (view.in_body_direction(feet[v]) for v in ("ground_force", "center_of_pressure"))
    scale = _ARROW_PER_WEIGHT / view.weight
    for foot in range(feet.sizes["foot"]):
        for i in np.flatnonzero(_column(force["up"], foot) > LOADED_FRACTION * view.weight):
            start = (_column(point["forward"], foot)[i] - centre[i] + i * spacing, _column(point["up"], foot)[i])
            end = (start[0] + scale * _column(force["forward"], foot)[i], start[1] + scale * _column(force["up"], foot)[i])
            if np.isfinite([*start, *end]).all():
                ax.annotate(
                    "",
                    xy=end,
                    xytext=start,
                    arrowprops={"arrowstyle": "-|>", "color": colour(view, name), "linewidth": 1.4, "mutation_scale": 7, "shrinkA": 0, "shrinkB": 0},
                )


def _column(values: xr.DataArray, foot: int) -> NDArray[np.float64]:
    return np.asarray(values.transpose("time", "foot").values[:, foot], float)
