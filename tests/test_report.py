from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from imdy_plugin._report_view import View, number, signed_pair, words
from imdy_plugin.comparison import combine, difference_table
from imdy_plugin.interfaces import Trial
from imdy_plugin.report import difference_terminal_table, summary, summary_table, write_picture, write_report
from imdy_plugin.schema import GRAVITY, new_model, new_motion, new_result

MASS = 70.0
NAMES = ("pelvis_tx", "pelvis_tz", "hip_flexion_r", "hip_flexion_l", "knee_angle_r", "knee_angle_l", "lumbar_bending", "wrist")


def walk(seconds: float = 2.6, scale: float = 1.0, heading: float = 0.0, **change: Any) -> xr.Dataset:
    """A made-up walk with a step each half second, in any horizontal direction."""
    time = np.arange(0.0, seconds, 0.02)
    n = time.size
    force, point = np.zeros((n, 2, 3)), np.zeros((n, 2, 3))
    for foot, start in enumerate((0.2, 0.7)):
        phase = (time - start) % 1.0
        on = (phase < 0.6) & (time >= start)
        force[:, foot, 1] = np.where(on, scale * MASS * GRAVITY * np.sin(np.pi * phase / 0.6) * 1.3, 0.0)
        ahead = np.where(on, 120.0 * scale * np.sin(2 * np.pi * (phase - 0.3) / 0.6), 0.0)
        force[:, foot, 0], force[:, foot, 2] = np.cos(heading) * ahead, -np.sin(heading) * ahead
        point[:, foot] = np.where(on[:, None], [1.0, 0.0, 0.1], 0.0) * np.stack([time, 0 * time, 0 * time + 1], axis=1)
    coordinate = np.zeros((n, len(NAMES)))
    coordinate[:, 0], coordinate[:, 1] = np.cos(heading) * time, -np.sin(heading) * time
    moment = scale * np.stack([(i + 1) * 10.0 * np.sin(2 * np.pi * time + i) for i in range(len(NAMES))], axis=1)
    given: dict[str, Any] = {
        "coordinates": list(NAMES),
        "generalized_force": moment,
        "units": ["N", "N"] + ["N m"] * (len(NAMES) - 2),
        "bodies": ["calcn_r", "calcn_l"],
        "ground_force": force,
        "center_of_pressure": point,
        "free_moment": np.zeros((n, 2, 3)),
        "root_residual": np.full((n, 6), 7.0),
        "solver": "physics",
        "solver_version": "1.2.3",
        "options": {"cutoff_hz": 6.0},
        "model": "folder/person.osim",
        "mass": MASS,
        "coordinate_value": coordinate,
        "flag": {"missing_markers": (time > 0.5) & (time < 0.9)},
        "attrs": {"log": "first line\nsecond line", "provenance": '{"markers": "a/b/walk.trc"}', "created": "2025-01-02T03:04:05+00:00"},
    }
    return new_result(time, **{**given, **change})


def both() -> xr.Dataset:
    return combine({"imdys": walk(scale=1.1, solver="imdys"), "opensim": walk(solver="opensim")}, "opensim")


def trial(result: xr.Dataset) -> Trial:
    time = result["time"].values
    names = [f"{part}_{side}" for side in "rl" for part in ("heel", "toe", "side")] + ["head"]
    base = np.array([[0, 0, 0.1], [0.2, 0, 0.1], [0.1, 0, 0.16], [0, 0, -0.1], [0.2, 0, -0.1], [0.1, 0, -0.16], [0.1, 1.7, 0]])
    position = base + np.stack([time, 0 * time, 0 * time], axis=1)[:, None]
    bodies = ["calcn_r"] * 3 + ["calcn_l"] * 3 + ["head"]
    listed = ["calcn_r", "calcn_l", "head"]
    model = new_model(
        coords={"body": listed, "joint": ["j"], "coordinate": ["knee_angle_r"], "marker": names},
        variables={
            "body_mass": [1.0, 1.0, 1.0],
            "body_center_of_mass": np.zeros((3, 3)),
            "body_inertia": np.zeros((3, 6)),
            "joint_type": ["Pin"],
            "joint_parent": ["ground"],
            "joint_child": ["head"],
            **{f"joint_{end}_{what}": np.zeros((1, 3)) for end in ("parent", "child") for what in ("location", "orientation")},
            "joint_transform": [""],
            "coordinate_joint": ["j"],
            "coordinate_kind": ["rotational"],
            "coordinate_default": [0.0],
            "coordinate_range": [[0.0, 1.0]],
            "coordinate_locked": [False],
            "coordinate_clamped": [False],
            "coordinate_prescribed": [False],
            "coordinate_coupling": [""],
            "marker_body": bodies,
            "marker_location": np.zeros((7, 3)),
        },
        attrs={"name": "p", "mass": MASS, "gravity": [0, -GRAVITY, 0], "knee_sign": -1},
    )
    return Trial(new_motion(time, markers=(names, position)), model=model, mass=MASS, height=1.75, provenance={"markers": "a/b/walk.trc"})


class Page(HTMLParser):
    """Collects tags, identifiers and whether elements close in order."""

    VOID = frozenset({"meta", "br", "hr", "img", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [v for k, v in attrs if k == "id" and v]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(page: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", page))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    ds = both()
    return write_report(ds, tmp_path_factory.mktemp("report") / "new" / "report.html", trial=trial(ds)).read_text()


def test_report_holds_every_number_of_the_summary_and_the_differences(page: str) -> None:
    ds = both()
    shown = text_of(page)
    for row in summary(ds, trial(ds)):
        assert row.quantity in shown
        assert all(value in shown for value in row.values.values()), row
    for difference in difference_table(ds):
        assert number(difference.rms, 1 if difference.unit in ("N", "mm") else 2) in shown


def test_report_is_one_lawful_file_that_needs_nothing_else(page: str) -> None:
    parsed = Page(page)
    assert parsed.tags.count("svg") == 11
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert len(parsed.ids) == len(set(parsed.ids))
    for key, value in parsed.attributes:
        if key in ("src", "href", "xlink:href") or "url(" in (value or ""):
            target = re.sub(r".*(?:^|url\()#([^)]*)\)?.*", r"\1", value or "")
            assert target in parsed.ids, (key, value)
    outside = [u for u in re.findall(r"https?://[^\s\"<>]+", page) if u not in ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")]
    assert outside == []
    assert len(page) < 3_000_000
    for figure in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(figure)


def test_report_says_what_a_reader_needs(page: str) -> None:
    shown = text_of(page)
    for words_shown in (
        "person.osim", "70.0 kg", "walk.trc", "1.75 m", "opensim 1.2.3, reference: cutoff_hz = 6.0", "2025-01-02", "Missing markers (imdys)",
        "Internal", "a positive knee moment acts towards extension", "the mean direction of travel", "second line", "gait cycle [%]", "time [s]",
        "[N m/kg]", "[% BW]", "Over the gait cycle", "combined imdys, opensim on 130 stamps",
    ):  # fmt: skip
        assert words_shown in shown, words_shown
    assert "Other coordinates" in shown and "wrist" in shown


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'$x$"
    result = walk(
        coordinates=[evil, *NAMES[1:]], solver=evil, model=evil, options={evil: evil}, flag={evil: np.ones(130, bool)},
        attrs={"log": evil, "provenance": f'{{"<b>": "{evil[:25]}"}}'},
    )  # fmt: skip
    page = write_report(result, tmp_path / "r.html", title=evil).read_text()
    assert "<script" not in page and "<b>" not in page
    assert page.count("&lt;script&gt;") > 5
    Page(page)
    table = Console(width=200, record=True, file=(tmp_path / "t.txt").open("w"))
    table.print(summary_table(walk(solver="[red]x[/nothing]")))
    assert "[red]x[/nothing]" in table.export_text()


def holed() -> xr.Dataset:
    result = walk()
    moment = result["generalized_force"].values
    moment[10] = np.nan
    moment[12] = np.nan
    moment[:, 4] = np.nan
    force = result["ground_force"].values
    force[30:40] = np.nan
    return result


def one_foot() -> xr.Dataset:
    result = walk()
    for name in ("ground_force", "center_of_pressure", "free_moment"):
        result[name].loc[{"body": "calcn_l"}] = np.nan
    return result


def no_ground() -> xr.Dataset:
    n = walk().sizes["time"]
    nothing = np.zeros((n, 0, 3))
    return walk(bodies=[], ground_force=nothing, center_of_pressure=nothing, free_moment=nothing)


def everything_missing() -> xr.Dataset:
    result = walk()
    for name in ("generalized_force", "ground_force", "center_of_pressure", "free_moment", "root_residual"):
        result[name] = result[name] * np.nan
        result[name].attrs["units"] = "N"
    return result


def bare() -> xr.Dataset:
    """What a solver without a model gives: no kinematics, no flags, coordinates by names of its own."""
    return walk(coordinates=[f"q{i}" for i in range(len(NAMES))]).drop_vars(["flag", "kind", "coordinate_value"])


def bounded() -> xr.Dataset:
    result = walk()
    extra = {}
    for name in ("generalized_force", "ground_force"):
        extra |= {f"{name}_lower": result[name] - 5.0, f"{name}_upper": result[name] + 5.0}
    return result.assign({k: v.assign_attrs(units="N") for k, v in extra.items()})


CASES = {
    "holed": (holed, "Over the gait cycle"),
    "one foot": (one_foot, "no full cycle of the left foot"),
    "no ground": (no_ground, "No body touches the ground"),
    "everything missing": (everything_missing, "Shown over time only"),
    "bare": (bare, "carry no standard name"),
    "bounded": (bounded, "Over the gait cycle"),
    "no cycles": (lambda: walk(1.1), "there is no full gait cycle (1 initial contact of the right foot"),
    "two frames": (lambda: walk(0.04), "there is no full gait cycle"),
    "one frame": (lambda: walk(0.01), "there is no full gait cycle"),
}


@pytest.mark.parametrize("case", CASES)
def test_survives(case: str, tmp_path: Path) -> None:
    make, expected = CASES[case]
    result = make()
    page = write_report(result, tmp_path / "r.html").read_text()
    assert expected in text_of(page)
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    Page(page)
    summary_table(result)


@pytest.mark.parametrize("case", ["one foot", "no ground", "bare"])
def test_picture(case: str, tmp_path: Path) -> None:
    path = write_picture(CASES[case][0](), tmp_path / "new" / "p.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_an_isolated_frame_is_drawn_as_a_point(tmp_path: Path) -> None:
    def points(result: xr.Dataset) -> int:
        from imdy_plugin._report_figures import drawing_style, grid_figure

        view = View(result)
        with drawing_style():
            axes = grid_figure(view, view.leg_grid(), "time").axes
        return sum(line.get_marker() == "." for ax in axes for line in ax.lines)

    assert points(walk()) == 0
    assert points(holed()) == 3


def test_forces_are_along_the_direction_of_travel() -> None:
    ahead, turned = View(walk()), View(walk(heading=2.0))
    for name in ("forward", "right", "up"):
        expected, found = (v.in_body_direction(v.feet["physics"]["ground_force"])[name].values for v in (ahead, turned))
        np.testing.assert_allclose(found, expected, atol=1e-9)
    assert turned.direction == "the mean direction of travel"
    assert abs(turned.feet["physics"]["ground_force"].sel(axis="x").values - ahead.feet["physics"]["ground_force"].sel(axis="x").values).max() > 50


def test_heading_without_travel_is_the_pelvis_or_x() -> None:
    still = walk(coordinates=["pelvis_rotation", *NAMES[1:]])
    still["coordinate_value"][:] = 0.0
    still["coordinate_value"].loc[{"coordinate": "pelvis_rotation"}] = np.pi / 2
    view = View(still)
    np.testing.assert_allclose(view.forward, (0.0, -1.0), atol=1e-12)
    assert View(bare()).forward == (1.0, 0.0)


def test_summary_numbers_by_hand() -> None:
    values = {row.quantity: row.values for row in summary(walk())}
    assert values["Vertical ground force, peak"]["physics", "right"] == "1.30"
    assert values["Residual force at the root, RMS"]["physics", ""] == number(7.0 * np.sqrt(3) / MASS)
    assert values["Frames flagged"]["physics", ""] == number(100 * 19 / 130, 1)
    assert values["Cadence"]["physics", ""] == "120"
    amplitude = 30.0 / MASS
    assert values["Hip flexion moment, peak flexion / extension"]["physics", "right"] == signed_pair(np.array([amplitude, -amplitude]))
    assert "Knee moment, peak as coordinate / opposite" in values


def test_tables_for_the_terminal_show_the_same_numbers(tmp_path: Path) -> None:
    ds = both()
    console = Console(width=240, record=True, file=(tmp_path / "t.txt").open("w"))
    console.print(summary_table(ds))
    console.print(difference_terminal_table(ds))
    shown = console.export_text()
    for row in summary(ds):
        assert all(value in shown for value in row.values.values()), row
    assert "(right)" in shown and "Hip flexion moment, right" in shown


def test_words_and_numbers() -> None:
    assert words("missing_markers") == "Missing markers"
    assert number(-0.001) == "0.00" and number(-1.236) == "\N{MINUS SIGN}1.24" and number(float("nan")) == "\N{EN DASH}"


def test_a_long_recording_stays_small(tmp_path: Path) -> None:
    long = walk(600.0)
    path = write_report(long, tmp_path / "r.html")
    assert path.stat().st_size < 3_000_000


def test_a_failed_report_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")

    def fail(*_: object) -> str:
        raise OSError("no space")

    monkeypatch.setattr("imdy_plugin.report._notes", fail)
    with pytest.raises(OSError, match="no space"):
        write_report(walk(), path)
    assert path.read_text() == "old"
