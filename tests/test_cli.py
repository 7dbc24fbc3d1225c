from __future__ import annotations

import json
from pathlib import Path

import pytest
import xarray as xr
from typer.testing import CliRunner

from imdy_plugin import __version__
from imdy_plugin.adapters.netcdf import read_netcdf
from imdy_plugin.cli import app


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    text = done.output + (str(done.exception) if done.exception and not isinstance(done.exception, SystemExit) else "")
    assert done.exit_code == code, text
    return text


def test_version() -> None:
    assert __version__ in run("--version")


def test_solvers_are_listed_with_their_options() -> None:
    text = run("solvers")
    for part in ("imdys", "opensim", "physics", "cutoff_hz", "imdy-plugin"):
        assert part in text


def test_errors_are_one_message_and_exit_code_two() -> None:
    text = run("solve", "missing.trc", code=2)
    assert "missing.trc" in text
    assert "Traceback" not in text


def test_a_file_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    text = run("model", tmp_path / "taken" / "me.osim", code=2)
    assert "taken" in text and "Traceback" not in text


@pytest.mark.parametrize(("given", "message"), [("cutoff_hz", "NAME=VALUE"), ("cutof=6", "cutoff_hz")])
def test_mistyped_option_is_refused(walk: dict[str, Path], given: str, message: str) -> None:
    arguments = ["solve", walk["markers"], "-m", walk["model"], "-q", walk["coordinates"], "-g", walk["ground_force"], "-o", given]
    assert message in run(*arguments, code=2)


def test_solve_writes_everything_it_says(walk: dict[str, Path], tmp_path: Path) -> None:
    text = run("solve", walk["markers"], "-m", walk["model"], "-q", walk["coordinates"], "-s", "physics", "-o", "cutoff_hz=6", "--out", tmp_path / "out")
    written = {p.suffix for p in (tmp_path / "out").iterdir()}
    assert {".sto", ".mot", ".xml", ".nc", ".html", ".png"} <= written
    assert "_report.html" in text
    stem = walk["markers"].stem
    result = read_netcdf(tmp_path / "out" / f"{stem}.nc")
    assert json.loads(result.attrs["options"])["cutoff_hz"] == 6.0


@pytest.mark.parametrize("nothing", ["null", "None"])
def test_an_option_can_be_nothing(walk: dict[str, Path], tmp_path: Path, nothing: str) -> None:
    run("solve", "-m", walk["model"], "-q", walk["coordinates"], "-s", "physics", "-o", f"cutoff_hz={nothing}", "--out", tmp_path)
    assert json.loads(read_netcdf(tmp_path / f"{walk['coordinates'].stem}.nc").attrs["options"])["cutoff_hz"] is None


def test_compare_writes_a_comparison(walk: dict[str, Path], tmp_path: Path) -> None:
    run("compare", "-m", walk["model"], "-q", walk["coordinates"], "-g", walk["ground_force"], "-s", "physics,opensim", "--out", tmp_path)
    found = list(tmp_path.glob("*_comparison.nc"))
    assert isinstance(read_netcdf(found[0]), xr.Dataset)
    assert len(list(tmp_path.glob("*_id.sto"))) == 2


def test_model_is_written(tmp_path: Path) -> None:
    run("model", tmp_path / "me.osim", "--height", 1.6, "--mass", 55)
    assert "<OpenSimDocument" in (tmp_path / "me.osim").read_text()
    assert "height" in run("model", tmp_path / "no.osim", "--height", -1, code=2)
    assert not (tmp_path / "no.osim").exists()
