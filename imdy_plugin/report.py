"""Results for people: one HTML file that works offline, one picture, one table for the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from rich.markup import escape as escape_markup

from imdy_plugin._report_view import FEET, SAGITTAL, Joint, SummaryRow, View, number, summary_rows
from imdy_plugin.atomic import replacing
from imdy_plugin.comparison import DifferenceRow, difference_table
from imdy_plugin.interfaces import Trial
from imdy_plugin.schema import sampling_rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["SummaryRow", "difference_terminal_table", "summary", "summary_table", "write_picture", "write_report"]

_CSS = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;color:#1d2129;background:#fff;margin:0}
main{max-width:1080px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px}h2{font-size:19px;margin:40px 0 8px;padding-top:14px;border-top:1px solid #dfe2e7}
h3{font-size:15px;margin:22px 0 6px}p{margin:6px 0 10px;max-width:80ch}.sub{color:#596070;margin-bottom:18px}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:14px 0}dl.facts dt{color:#596070}dl.facts dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;font-size:14px;margin:10px 0;font-variant-numeric:tabular-nums}
th,td{padding:4px 12px 4px 0;text-align:left;vertical-align:top;border-bottom:1px solid #eceef1}
thead th{border-bottom:1.5px solid #9aa1ad;vertical-align:bottom}
td.n,th.n{text-align:right;padding-left:12px;white-space:nowrap}th.group{text-align:center;border-bottom:1px solid #c9ced6;padding-left:12px}
td.unit{color:#596070;white-space:nowrap}.wide{overflow-x:auto}
figure{margin:12px 0 6px}figure svg{width:100%;height:auto;display:block}
figure svg text{font-family:"DejaVu Sans",Verdana,Arial,sans-serif!important}
figcaption,.note{color:#596070;font-size:13.5px;max-width:95ch}
details{margin:12px 0}summary{cursor:pointer;font-weight:600}pre{font-size:12.5px;white-space:pre-wrap;
overflow-wrap:anywhere;background:#f6f7f9;padding:10px 12px;margin:6px 0}
.swatch{display:inline-block;width:22px;height:4px;vertical-align:middle;margin-right:7px}
@media print{main{max-width:none;padding:0}h2{break-after:avoid}figure{break-inside:avoid}}
"""


def write_report(ds: xr.Dataset, path: str | os.PathLike[str], *, trial: Trial | None = None, title: str | None = None) -> Path:
    """Write a result or a comparison as one HTML file that needs nothing else.

    Parameters
    ----------
    ds
        What a solver returned, or :func:`imdy_plugin.comparison.combine`.
    path
        The file; its folder is made.
    trial
        The trial, for the picture of the movement, the direction of travel and the outline of the feet.
    title
        Heading; made from the solvers' names where not given.

    Returns
    -------
    Path
        The file written.
    """
    from imdy_plugin._report_figures import drawing_style

    view = View(ds, trial)
    with drawing_style():
        body = "\n".join(_sections(view, title or _title(view)))
    page = _PAGE.format(title=escape(title or _title(view)), css=_CSS, body=body)
    target = Path(path)
    with replacing(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def write_picture(ds: xr.Dataset, path: str | os.PathLike[str], *, trial: Trial | None = None) -> Path:
    """Write ground forces and hip, knee and ankle moments as one PNG: over the gait cycle where there is one, else over time.

    Parameters
    ----------
    ds
        A result or a comparison.
    path
        The file; its folder is made.
    trial
        The trial, for the direction of travel and the knee's sign.
    """
    from imdy_plugin._report_figures import drawing_style, grid_figure

    view = View(ds, trial)
    grid = view.force_grid()[:2] + (view.leg_grid(SAGITTAL) or view.other_grid(2)[:3])
    over = "time" if view.cycles.reason else "cycle"
    target = Path(path)
    with drawing_style(), replacing(target) as temporary:
        grid_figure(view, grid, over).savefig(temporary, dpi=150, format="png")
    return target


def summary(ds: xr.Dataset, trial: Trial | None = None) -> list[SummaryRow]:
    """The summary of a result or a comparison as rows; report and terminal show these very numbers."""
    return summary_rows(View(ds, trial))


def summary_table(ds: xr.Dataset, trial: Trial | None = None) -> Table:
    """The summary for the terminal."""
    from rich.table import Table

    view = View(ds, trial)
    table = Table(title=escape_markup(_title(view)), title_justify="left")
    table.add_column("")
    table.add_column("unit")
    if len(view.solvers) == 1:
        _fill_by_foot(table, view)
    else:
        _fill_by_solver(table, view)
    return table


def _fill_by_foot(table: Table, view: View) -> None:
    """A row per quantity, a column per foot."""
    for foot in FEET:
        table.add_column(foot, justify="right")
    for row in summary_rows(view):
        sides = FEET if row.by_foot else ("",)
        table.add_row(escape_markup(row.quantity), row.unit, *(row.values.get((view.ordered[0], side), "") for side in sides))


def _fill_by_solver(table: Table, view: View) -> None:
    """A row per quantity and foot, a column per solver."""
    for name in view.ordered:
        table.add_column(escape_markup(name), justify="right")
    for row in summary_rows(view):
        for side in FEET if row.by_foot else ("",):
            label = f"{row.quantity} ({side})" if side else row.quantity
            table.add_row(escape_markup(label), row.unit, *(row.values.get((name, side), "") for name in view.ordered))


def difference_terminal_table(comparison: xr.Dataset, trial: Trial | None = None) -> Table:
    """Mean absolute differences from the reference for the terminal, a column per solver; the report has the rest."""
    from rich.table import Table

    view = View(comparison, trial)
    others = [name for name in view.solvers if name != view.reference]
    table = Table(title=escape_markup(f"Mean absolute difference from '{view.reference}'"), title_justify="left")
    table.add_column("quantity")
    for name in others:
        table.add_column(escape_markup(name), justify="right")
    cells: dict[str, dict[str, str]] = {}
    for row in _named_differences(view):
        label, solver, _, absolute, _, normalised, _ = _difference_cells(view, row)
        cells.setdefault(label, {})[solver] = f"{absolute} ({normalised})" if normalised else absolute
    for label, by_solver in cells.items():
        table.add_row(escape_markup(label), *(escape_markup(by_solver.get(name, "")) for name in others))
    return table


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_DIFFERENCE_HEADINGS = ("quantity", "solver", "RMS", "mean absolute", "RMS, normalised", "mean absolute, normalised", "frames")


def _sections(view: View, title: str) -> Iterable[str]:
    yield _header(view, title)
    yield "<h2>Summary</h2>" + _summary_html(view)
    if len(view.solvers) > 1:
        yield _differences_html(view)
    yield from _movement(view)
    yield from _ground(view)
    yield from _moments(view)
    yield from _quality(view)
    yield _notes(view)
    yield _provenance(view)


def _title(view: View) -> str:
    if len(view.solvers) == 1:
        return f"Joint moments and ground forces by {view.solvers[0]}"
    return f"Joint moments and ground forces by {', '.join(view.ordered)}"


def _header(view: View, title: str) -> str:
    time = view.time
    rate = sampling_rate(time)
    span = f"{time[0]:.3f} to {time[-1]:.3f} s, {time.size} frames" + (f" at {rate:.4g} Hz" if np.isfinite(rate) else "")
    facts = {"Model": _file_name(str(view.comparison.attrs.get("model", ""))), "Body mass": f"{view.mass:.1f} kg"}
    height = view.comparison.attrs.get("height") or (view.trial.height if view.trial else None)
    if height:
        facts["Body height"] = f"{float(height):.2f} m"
    for role, source in _inputs(view).items():
        if role != "model":
            facts[role.replace("_", " ").capitalize()] = _file_name(source)
    facts["Time"] = span
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    solvers = "".join(f"<dt>Solver</dt><dd>{_solver_html(view, name)}</dd>" for name in view.ordered)
    created = max((str(r.attrs.get("created", "")) for r in view.results.values()), default="")
    made = f"<dt>Solved</dt><dd>{escape(created.replace('T', ' '))}</dd>" if created else ""
    sub = "Internal joint moments per body mass, ground forces in newtons and body weights."
    return f'<h1>{escape(title)}</h1><p class="sub">{sub}</p><dl class="facts">{rows}{solvers}{made}</dl>'


def _solver_html(view: View, name: str) -> str:
    from imdy_plugin._report_figures import colour

    attrs = view.results[name].attrs
    options = ", ".join(f"{k} = {_short(v)}" for k, v in _json(attrs.get("options")).items()) or "default options"
    note = ", reference" if len(view.solvers) > 1 and name == view.reference else ""
    made_by = "" if attrs["solver"] == name else f" ({attrs['solver']})"
    text = escape(f"{name}{made_by} {attrs['solver_version']}{note}: {options}")
    return f'<span class="swatch" style="background:{colour(view, name)}"></span>{text}'


def _summary_html(view: View) -> str:
    single = len(view.solvers) == 1
    groups = "".join(f'<th class="group" colspan="2">{escape(n)}</th>' for n in view.ordered)
    top = "" if single else f'<tr><th colspan="2"></th>{groups}</tr>'
    feet = "".join(f'<th class="n">{foot}</th>' for _ in view.ordered for foot in FEET)
    rows = "".join(_summary_row(view, row) for row in summary_rows(view))
    note = "Peaks are over all frames with a value, those flagged included. Moments are divided by body mass, forces by body weight."
    if not view.cycles.reason:
        note += " A mean vertical force over whole gait cycles that is more than some 3 % from 100 speaks of a wrong force, mass or plate."
    return f'<div class="wide"><table><thead>{top}<tr><th></th><th></th>{feet}</tr></thead><tbody>{rows}</tbody></table></div><p class="note">{note}</p>'


def _summary_row(view: View, row: SummaryRow) -> str:
    if row.by_foot:
        cells = "".join(f'<td class="n">{escape(row.values.get((n, foot), ""))}</td>' for n in view.ordered for foot in FEET)
    else:
        cells = "".join(f'<td class="n" colspan="2" style="text-align:center">{escape(row.values.get((n, ""), ""))}</td>' for n in view.ordered)
    return f'<tr><td>{escape(row.quantity)}</td><td class="unit">{escape(row.unit)}</td>{cells}</tr>'


def _differences_html(view: View) -> str:
    rows = _named_differences(view)
    note = (
        "Root mean square and mean absolute difference over all frames in which both have a value. The ground force's is the length of the difference vector; "
        "the centre of pressure's is the horizontal distance where both carry more than 5 % of body weight."
    )
    head = f"<h2>Differences from {escape(view.reference)}</h2>"
    if not rows:
        return head + "<p>The solvers have no frame with a value in common.</p>"
    shown = {row.name for row in rows}
    rest = [r for r in difference_table(view.comparison, view.mass) if r.name not in shown]
    more = f"<details><summary>All other coordinates</summary>{_difference_rows(view, rest)}</details>" if rest else ""
    return f'{head}{_difference_rows(view, rows)}<p class="note">{note}</p>{more}'


def _difference_rows(view: View, rows: Sequence[DifferenceRow]) -> str:
    head = "".join(f"<th{' class=n' if i > 1 else ''}>{h}</th>" for i, h in enumerate(_DIFFERENCE_HEADINGS))
    lines, before = [], ""
    for row in rows:
        name, *rest = _difference_cells(view, row)
        shown = ("" if name == before else name, *rest)
        before = name
        cells = "".join(f"<td{' class=n' if i > 1 else ''}>{escape(c)}</td>" for i, c in enumerate(shown))
        lines.append(f"<tr>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _named_differences(view: View) -> list[DifferenceRow]:
    """Forces first, then joint moments by their place in the body; every coordinate where none has a known name."""
    rows = difference_table(view.comparison, view.mass)
    order = [j.coordinate(s) for j in view.joints for s in FEET]
    if not order:
        order = [r.name for r in rows if r.quantity == "coordinate"]
    forces = [r for r in rows if r.quantity != "coordinate"]
    moments = [r for r in rows if r.quantity == "coordinate" and r.name in order]
    quantities = list(dict.fromkeys(r.quantity for r in forces))
    forces.sort(key=lambda r: (quantities.index(r.quantity), r.name not in FEET, r.name != "right", r.name))
    moments.sort(key=lambda r: order.index(r.name))
    return [*forces, *moments]


def _difference_cells(view: View, row: DifferenceRow) -> tuple[str, ...]:
    digits = 1 if row.unit in ("N", "mm") else 2
    percent = 1 if row.normalised_unit == "% BW" else 3

    def normalised(value: float) -> str:
        return f"{number(value, percent)} {row.normalised_unit}" if row.normalised_unit else ""

    plain = [f"{number(v, digits)} {row.unit}" for v in (row.rms, row.mean_absolute)]
    return (_difference_label(view, row), row.solver, *plain, normalised(row.rms_normalised), normalised(row.mean_absolute_normalised), str(row.frames))


def _difference_label(view: View, row: DifferenceRow) -> str:
    if row.quantity != "coordinate":
        foot = f"{row.name} foot" if row.name in FEET else row.name
        return f"{row.quantity.capitalize()}, {foot}"
    for joint in view.joints:
        for side in FEET:
            if joint.coordinate(side) == row.name:
                return f"{joint.name} moment, {side}" if joint.paired else f"{joint.name} moment"
    return row.name


def _movement(view: View) -> Iterable[str]:
    from imdy_plugin._report_figures import movement_figure

    caption = "Markers seen from the right, forward to the right of the page, with the force on each foot drawn from its centre of pressure."
    text = _figure_html(lambda: movement_figure(view), "movement", caption)
    if text:
        yield "<h2>Movement</h2>" + text


def _ground(view: View) -> Iterable[str]:
    from imdy_plugin._report_figures import grid_figure, path_figure

    yield "<h2>Ground forces</h2>"
    grid = view.force_grid()
    if not any(grid):
        yield "<p>No body touches the ground in this result.</p>"
        return
    shade = f"Grey: the foot is on the ground (vertical force above 5 % of body weight, by {view.cycle_solver})."
    yield _figure_html(lambda: grid_figure(view, grid, "time"), "force-time", f"{shade} Fore-aft is along {view.direction}.")
    caption = "Where the centre of pressure moves, seen from above, while the foot carries more than 5 % of body weight."
    yield _figure_html(lambda: path_figure(view), "pressure", caption) or "<p>No foot is loaded: there is no centre of pressure to show.</p>"
    if not view.cycles.reason:
        yield "<h3>Over the gait cycle</h3>" + _figure_html(lambda: grid_figure(view, grid, "cycle"), "force-cycle", _cycle_caption(view))


def _moments(view: View) -> Iterable[str]:
    from imdy_plugin._report_figures import grid_figure

    yield "<h2>Joint moments</h2>"
    legs, trunk, others = view.leg_grid(), view.trunk_grid(), view.other_grid()
    if not legs and not trunk:
        yield "<p>The coordinates carry no standard name; all are shown by their own.</p>"
    elif view.cycles.reason:
        yield f"<p>Shown over time only: there is no full gait cycle ({escape(view.cycles.reason)}).</p>"
    for over in ("time",) if view.cycles.reason else ("cycle", "time"):
        caption = _cycle_caption(view) if over == "cycle" else "Grey: the foot of that side is on the ground."
        if legs or trunk:
            yield f"<h3>Over {'the gait cycle' if over == 'cycle' else 'time'}</h3>"
        if legs:
            yield _figure_html(partial(grid_figure, view, legs, over), f"legs-{over}", caption)
        if trunk:
            yield _figure_html(partial(grid_figure, view, trunk, over), f"trunk-{over}", "")
    if others:
        drawn = _figure_html(lambda: grid_figure(view, others, "time", 1.5), "others", "")
        known = "Other coordinates" if legs or trunk else "All coordinates"
        yield f"<details{'' if legs or trunk else ' open'}><summary>{known} (generalized force by name)</summary>{drawn}</details>"


def _cycle_caption(view: View) -> str:
    counts = " and ".join(f"{len(c)} of the {foot} foot" for foot, c in view.cycles.cycles.items())
    return (
        f"Mean and one standard deviation over the whole gait cycles found in the forces by {view.cycle_solver}: {counts}. "
        "A cycle runs from initial contact to the next of the same foot; dotted: end of contact."
    )


def _quality(view: View) -> Iterable[str]:
    from imdy_plugin._report_figures import flag_figure, residual_figure

    caption = (
        "What would have to hold the root for the motion to obey Newton's laws with these forces. Dashed: 5 % of the largest ground force, "
        "above which results deserve caution (Hicks et al., 2015)."
    )
    yield "<h2>Residuals</h2>" + _figure_html(lambda: residual_figure(view), "residual", caption)
    yield "<h2>Flagged frames</h2>"
    drawn = _figure_html(lambda: flag_figure(view), "flags", "Frames that the solver warns of, and why.")
    silent = [n for n, r in view.results.items() if "flag" not in r]
    yield drawn or "<p>No frame is flagged.</p>"
    if silent:
        yield f"<p>{escape(', '.join(silent))} gives no flags.</p>"


def _notes(view: View) -> str:
    knee = view.knee()
    items = [
        "Moments are internal: the generalized force that muscles and ligaments exert at a coordinate, positive as the coordinate.",
        *([f"{_knee_note(knee)}"] if knee else []),
        f"Ground forces act on the person. Forward is along {view.direction}; right is the person's right; up is against gravity.",
        "A line breaks where a solver gives no value; nothing is filled in.",
    ]
    own = {name: str(r.attrs.get("log", "")) for name, r in view.results.items()}
    if len(view.solvers) > 1:
        own = {"comparison": str(view.comparison.attrs.get("log", "")), **own}
    logs = "".join(f"<h3>Log of {escape(n)}</h3><pre>{escape(text)}</pre>" for n, text in own.items() if text)
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(i)}</li>" for i in items) + f"</ul>{logs}"


def _knee_note(knee: Joint) -> str:
    if knee.plus == "as coordinate":
        return "The model does not say whether its knee angle grows in flexion or in extension; knee moments are positive as the coordinate."
    return f"In this model the knee angle grows in {knee.plus}: a positive knee moment acts towards {knee.plus}."


def _provenance(view: View) -> str:
    parts = []
    for name, result in view.results.items():
        attrs = {k: v for k, v in result.attrs.items() if k not in ("log", "options", "provenance")}
        facts: dict[str, Any] = {**attrs, **{f"option {k}": v for k, v in _json(result.attrs.get("options")).items()}}
        facts |= {f"input {k}": v for k, v in _json(result.attrs.get("provenance")).items()}
        rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(_short(v))}</td></tr>" for k, v in facts.items())
        parts.append(f"<details><summary>{escape(name)}</summary><table>{rows}</table></details>")
    return "<h2>Provenance</h2>" + "".join(parts)


def _figure_html(draw: Callable[[], Figure | None], prefix: str, caption: str) -> str:
    from imdy_plugin._report_figures import svg

    figure = draw()
    if figure is None:
        return ""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg(figure, prefix)}{below}</figure>"


def _inputs(view: View) -> Mapping[str, str]:
    found = {str(k): str(v) for k, v in _json(view.comparison.attrs.get("provenance")).items()}
    if view.trial is not None:
        found |= {str(k): str(v) for k, v in view.trial.provenance.items()}
    return found


def _json(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except json.JSONDecodeError:
        return {"text": text}
    return value if isinstance(value, dict) else {"text": value}


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _file_name(source: str) -> str:
    return source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or source
