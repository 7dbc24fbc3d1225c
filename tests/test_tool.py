from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.storage import read_table
from imdy_plugin.errors import DataWarning, FileFormatError, ImdyError
from imdy_plugin.tool import run_tool

SETUP = """<?xml version="1.0" encoding="UTF-8" ?>
<OpenSimDocument Version="40000">
  <InverseDynamicsTool name="walk">
    <results_directory>Results</results_directory>
    <model_file>{model}</model_file>
    <time_range>{start} {stop}</time_range>
    <forces_to_exclude>ALL</forces_to_exclude>
    <external_loads_file>{loads}</external_loads_file>
    <coordinates_file>{coordinates}</coordinates_file>
    <lowpass_cutoff_frequency_for_coordinates>{cutoff}</lowpass_cutoff_frequency_for_coordinates>
    <output_gen_force_file>id.sto</output_gen_force_file>
  </InverseDynamicsTool>
</OpenSimDocument>
"""


def write_setup(folder: Path, walk: dict[str, Path], **changes: object) -> Path:
    values = {"model": walk["model"], "loads": walk["ground_force"], "coordinates": walk["coordinates"], "start": 0.5, "stop": 1.0, "cutoff": 6, **changes}
    path = folder / "setup.xml"
    path.write_text(SETUP.format(**values))
    return path


def rms_against_the_tool(walk: dict[str, Path], folder: Path, cutoff: float, loads: object) -> float:
    """Largest root-mean-square difference over columns between run_tool and OpenSim's own InverseDynamicsTool [N m]."""
    ours = read_table(run_tool(write_setup(folder, walk, cutoff=cutoff, loads=loads)).path)
    reference = folder / "reference"
    reference.mkdir()
    path = write_setup(reference, walk)
    opensim = import_opensim()
    tool = opensim.InverseDynamicsTool(str(path))
    tool.run()
    theirs = read_table(reference / "Results" / "id.sto")
    assert set(ours.names) == set(theirs.names)
    columns = [theirs.names.index(name) for name in ours.names]
    np.testing.assert_allclose(ours.time, theirs.time, atol=1e-9)
    return float(np.sqrt(np.mean((ours.values - theirs.values[:, columns]) ** 2, axis=0)).max())


def test_run_tool_gives_what_opensim_gives(walk: dict[str, Path], tmp_path: Path) -> None:
    assert rms_against_the_tool(walk, tmp_path, 6, walk["ground_force"]) < 0.05


@pytest.mark.parametrize(("cutoff", "loads"), [(3, None), (6, "")])
def test_another_filter_or_no_loads_would_be_seen(walk: dict[str, Path], tmp_path: Path, cutoff: float, loads: str | None) -> None:
    assert rms_against_the_tool(walk, tmp_path, cutoff, walk["ground_force"] if loads is None else loads) > 0.5


def test_another_solver_runs_the_same_setup(walk: dict[str, Path], tmp_path: Path) -> None:
    done = run_tool(write_setup(tmp_path, walk), "imdys")
    assert done.result.attrs["solver"] == "imdys"
    assert "markers computed from the coordinates" in done.result.attrs["log"]
    assert read_table(done.path).time.size == done.result.sizes["time"]


SPRING = """<SpringGeneralizedForce name="knee_spring"><coordinate>knee_angle_r</coordinate><stiffness>50</stiffness></SpringGeneralizedForce>"""


def test_a_spring_that_the_setup_does_not_exclude_is_left_out_with_a_warning(walk: dict[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "sprung.osim"
    text = walk["model"].read_text()
    head, tail = text.split("<ForceSet", 1)
    opening, rest = tail.split("<objects>", 1)
    model.write_text(f"{head}<ForceSet{opening}<objects>{SPRING}{rest}")
    without = run_tool(write_setup(tmp_path, walk)).result
    path = write_setup(tmp_path, walk, model=model)
    path.write_text(path.read_text().replace("<forces_to_exclude>ALL", "<forces_to_exclude>Muscles"))
    with pytest.warns(DataWarning, match="excludes Muscles, but the model also has knee_spring, left out here"):
        left_out = run_tool(path).result
    kept = run_tool(path, exclude_forces="muscles").result
    knee = {"coordinate": "knee_angle_r"}
    np.testing.assert_allclose(left_out["generalized_force"].sel(knee), without["generalized_force"].sel(knee), atol=1e-6)
    assert float(abs(kept["generalized_force"].sel(knee) - without["generalized_force"].sel(knee)).max()) > 1.0


def test_range_outside_the_data_names_both(walk: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ImdyError, match="99"):
        run_tool(write_setup(tmp_path, walk, start=98, stop=99))


def test_a_setup_that_is_no_setup_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "setup.xml"
    path.write_text("<html></html>")
    with pytest.raises(FileFormatError):
        run_tool(path)


def test_the_unit_that_the_coordinates_do_not_state_can_be_given(walk: dict[str, Path], tmp_path: Path) -> None:
    silent = tmp_path / "silent.mot"
    silent.write_text(walk["coordinates"].read_text().replace("inDegrees=yes\n", ""))
    stated = run_tool(write_setup(tmp_path, walk)).result
    setup = write_setup(tmp_path, walk, coordinates=silent)
    with pytest.raises(FileFormatError, match="degrees=True"):
        run_tool(setup)
    np.testing.assert_array_equal(run_tool(setup, degrees=True).result["generalized_force"], stated["generalized_force"])
