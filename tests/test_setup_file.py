from __future__ import annotations

from pathlib import Path

import pytest

from imdy_plugin.adapters.setup_file import check_time_range, read_id_setup
from imdy_plugin.errors import FileFormatError, InputError


def write(folder: Path, body: str, *, outer: bool = True) -> Path:
    tool = f'<InverseDynamicsTool name="t">{body}</InverseDynamicsTool>'
    path = folder / "setup.xml"
    path.write_text(f'<OpenSimDocument Version="40000">{tool}</OpenSimDocument>' if outer else tool)
    return path


FULL = """
  <results_directory>./Results</results_directory>
  <model_file> ..\\model\\subject 1.osim </model_file>
  <time_range> 0.5   1.6 </time_range>
  <forces_to_exclude> Muscles  actuators </forces_to_exclude>
  <external_loads_file>grf.xml</external_loads_file>
  <coordinates_file>ik.mot</coordinates_file>
  <lowpass_cutoff_frequency_for_coordinates>6.0</lowpass_cutoff_frequency_for_coordinates>
  <output_gen_force_file>id.sto</output_gen_force_file>
"""


@pytest.mark.parametrize("outer", [True, False])
def test_every_field_is_read_and_paths_count_from_the_setups_folder(tmp_path: Path, outer: bool) -> None:
    setup = read_id_setup(write(tmp_path, FULL, outer=outer))
    assert setup.model_file == tmp_path.parent / "model" / "subject 1.osim"
    assert setup.coordinates_file == tmp_path / "ik.mot"
    assert setup.external_loads_file == tmp_path / "grf.xml"
    assert setup.time_range == (0.5, 1.6)
    assert setup.lowpass_cutoff == 6.0
    assert setup.results_directory == tmp_path / "Results"
    assert setup.output_gen_force_file == "id.sto"
    assert setup.forces_to_exclude == ("Muscles", "actuators")


def test_what_is_empty_unassigned_or_left_out_is_none(tmp_path: Path) -> None:
    cutoff = "<lowpass_cutoff_frequency_for_coordinates>-1</lowpass_cutoff_frequency_for_coordinates>"
    setup = read_id_setup(write(tmp_path, f"<model_file>Unassigned</model_file><external_loads_file /><time_range></time_range>{cutoff}"))
    assert setup.model_file is None
    assert setup.coordinates_file is None
    assert setup.external_loads_file is None
    assert setup.time_range is None
    assert setup.lowpass_cutoff is None
    assert setup.results_directory == tmp_path
    assert setup.output_gen_force_file == "inverse_dynamics.sto"
    assert setup.forces_to_exclude == ()


def test_the_default_time_range_of_the_tool_is_everything(tmp_path: Path) -> None:
    assert read_id_setup(write(tmp_path, "<time_range>-Inf Inf</time_range>")).time_range is None


def test_a_half_open_time_range_keeps_its_end(tmp_path: Path) -> None:
    assert read_id_setup(write(tmp_path, "<time_range>-Infinity 2</time_range>")).time_range == (-float("inf"), 2.0)


def test_an_input_directory_is_used_where_it_holds_the_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ik.mot").write_text("x")
    setup = read_id_setup(write(tmp_path, "<input_directory>in</input_directory><coordinates_file>ik.mot</coordinates_file><model_file>m.osim</model_file>"))
    assert setup.coordinates_file == tmp_path / "in" / "ik.mot"
    assert setup.model_file == tmp_path / "m.osim"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<time_range>0.5</time_range>", r"time_range holds 1 number\(s\): '0\.5'"),
        ("<time_range>0,5 1</time_range>", "time_range is '0,5', not a number"),
        ("<time_range>nan 1</time_range>", "time_range is 'nan'"),
        ("<lowpass_cutoff_frequency_for_coordinates>six</lowpass_cutoff_frequency_for_coordinates>", "is 'six', not a number"),
    ],
)
def test_numbers_that_are_none_are_an_error(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_id_setup(write(tmp_path, body))


@pytest.mark.parametrize(
    ("text", "held"),
    [('<OpenSimDocument Version="1"><InverseKinematicsTool name="x"/></OpenSimDocument>', "InverseKinematicsTool"), ("<ScaleTool/>", "ScaleTool")],
)
def test_the_setup_of_another_tool_is_named(tmp_path: Path, text: str, held: str) -> None:
    path = tmp_path / "setup.xml"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=f"holds a {held}, not an InverseDynamicsTool"):
        read_id_setup(path)


def test_an_entity_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "setup.xml"
    path.write_text('<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><InverseDynamicsTool>&b;</InverseDynamicsTool>')
    with pytest.raises(FileFormatError, match="entities"):
        read_id_setup(path)


def test_a_time_range_outside_the_data_is_an_error_with_both_ranges() -> None:
    with pytest.raises(InputError, match=r"ik\.mot: time range 5 to 6 s reaches outside the data, which covers 0\.5 to 1\.6 s"):
        check_time_range((5.0, 6.0), (0.5, 1.6), "ik.mot")
    with pytest.raises(InputError, match="reaches outside"):
        check_time_range((0.4, 1.0), (0.5, 1.6), "ik.mot")
    with pytest.raises(InputError, match="is empty"):
        check_time_range((1.0, 1.0), (0.5, 1.6), "ik.mot")


def test_a_time_range_inside_the_data_passes() -> None:
    assert check_time_range((0.5, 1.6000000001), (0.5, 1.6), "ik.mot") == (0.5, 1.6000000001)
    assert check_time_range(None, (0.5, 1.6), "ik.mot") is None


def test_every_setup_of_the_recordings_reads(data_dir: Path) -> None:
    count = 0
    for path in sorted(data_dir.rglob("*.xml")):
        if b"<InverseDynamicsTool" in path.read_bytes():
            setup = read_id_setup(path)
            assert setup.model_file is not None, path
            assert setup.time_range is not None, path
            count += 1
    assert count >= 25
