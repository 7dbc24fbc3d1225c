from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import imdy_plugin
from imdy_plugin import registry
from imdy_plugin._opensim import import_opensim, silenced
from imdy_plugin.adapters.scale_setup import read_scale_setup
from imdy_plugin.adapters.scaled_model import default_marker_positions, scale_model, write_model
from imdy_plugin.adapters.storage import write_table
from imdy_plugin.adapters.trc import write_trc
from imdy_plugin.cli import app
from imdy_plugin.errors import DataWarning, FileFormatError, InputError, SolverError, UnknownNameError
from imdy_plugin.scaling import ScaledModel, scale
from imdy_plugin.schema import new_motion
from imdy_plugin.solvers import size_fit
from imdy_plugin.solvers.kinematics import coordinates_of
from imdy_plugin.solvers.multibody import Multibody, inverse_kinematics
from imdy_plugin.solvers.multibody.inverse_kinematics import MarkerFit, fit_markers
from imdy_plugin.solvers.multibody.mechanics import body_mechanics
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics
from imdy_plugin.solvers.size_fit import SizePrior, SizeProblem, fit_size, mirrored, scaled_dataset
from imdy_plugin.solvers.static_pose import fit_pose

FloatArray = NDArray[np.float64]

MEASUREMENTS = {
    "pelvis": ([("RASI", "LASI")], {"pelvis": "X Y Z"}),
    "torso height": ([("RASI", "C7"), ("LASI", "C7")], {"torso": "Y"}),
    "thigh": ([("RASI", "RLFC"), ("LASI", "LLFC")], {"femur_r": "X Y Z", "femur_l": "X Y Z"}),
    "shank": ([("RLFC", "RLMAL"), ("LLFC", "LLMAL")], {"tibia_r": "Y", "tibia_l": "Y", "talus_r": "X Y Z", "talus_l": "X Y Z"}),
}
POSE = {"pelvis_ty": 0.95, "pelvis_tilt": 0.03, "pelvis_rotation": 0.4, "hip_flexion_r": 0.1, "knee_angle_l": 0.15, "arm_add_r": -0.2, "elbow_flex_r": 0.3}


def measurement(name: str, pairs: list[tuple[str, str]], bodies: Mapping[str, str], apply: str = "true") -> str:
    of_pairs = "".join(f"<MarkerPair><markers> {a} {b} </markers></MarkerPair>" for a, b in pairs)
    of_bodies = "".join(f'<BodyScale name="{body}"><axes> {axes} </axes></BodyScale>' for body, axes in bodies.items())
    return (
        f'<Measurement name="{name}"><apply>{apply}</apply><MarkerPairSet><objects>{of_pairs}</objects></MarkerPairSet>'
        f"<BodyScaleSet><objects>{of_bodies}</objects></BodyScaleSet></Measurement>"
    )


def setup_text(
    *,
    measurements: str | None = None,
    manual: str = "<Scale><scales> 1.02 0.97 1.05 </scales><segment>hand_r</segment><apply>true</apply></Scale>",
    tasks: str | None = None,
    order: str = "measurements manualScale",
    mass: float = 72.6,
    preserve: bool = True,
    extra: str = "",
    range_: str = "0.1 0.4",
) -> str:
    if measurements is None:
        measurements = "".join(measurement(name, pairs, bodies) for name, (pairs, bodies) in MEASUREMENTS.items())
    if tasks is None:
        weights = {"RASI": 10.0, "LASI": 10.0, "RPSI": 10.0, "LPSI": 10.0, "C7": 3.0, "T10": 1.0, "CLAV": 2.0} | {
            f"{side}{name}": weight
            for side in "RL"
            for name, weight in {"LFC": 5.0, "MFC": 5.0, "LMAL": 4.0, "MMAL": 4.0, "CAL": 2.0, "MT5": 2.0, "TOE": 1.0, "LEL": 1.0, "MEL": 1.0}.items()
        }
        tasks = "".join(f'<IKMarkerTask name="{n}"><apply>true</apply><weight>{w}</weight></IKMarkerTask>' for n, w in weights.items())
        tasks += '<IKMarkerTask name="RTH1"><apply>false</apply><weight>50</weight></IKMarkerTask>'
        tasks += '<IKCoordinateTask name="subtalar_angle_r"><weight>1</weight><value_type>default_value</value_type></IKCoordinateTask>'
        tasks += '<IKCoordinateTask name="pro_sup_r"><weight>0.5</weight><value_type>manual_value</value_type><value>0.2</value></IKCoordinateTask>'
    return f"""<OpenSimDocument Version="30000"><ScaleTool name="someone"><mass>{mass}</mass><height>1800</height><age>-1</age>
      <GenericModelMaker><model_file>Unassigned</model_file><marker_set_file>Unassigned</marker_set_file></GenericModelMaker>
      <ModelScaler><apply>true</apply><scaling_order> {order} </scaling_order><MeasurementSet><objects>{measurements}</objects></MeasurementSet>
      <ScaleSet><objects>{manual}</objects></ScaleSet><marker_file>static.trc</marker_file><time_range>{range_}</time_range>
      <preserve_mass_distribution>{str(preserve).lower()}</preserve_mass_distribution></ModelScaler>
      <MarkerPlacer><apply>true</apply><IKTaskSet><objects>{tasks}</objects></IKTaskSet><marker_file>static.trc</marker_file>
      <time_range>{range_}</time_range>{extra}</MarkerPlacer></ScaleTool></OpenSimDocument>"""


@pytest.fixture(scope="session")
def loose(native: Any) -> Any:
    """A generic model whose markers may be moved."""
    model = native.clone()
    for name in locations(model):
        model.updMarkerSet().get(name).set_fixed(False)
    return model


@pytest.fixture(scope="session")
def generic(loose: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a generic model."""
    return write_model(loose, tmp_path_factory.mktemp("generic") / "generic.osim")


@pytest.fixture(scope="session")
def standing(native: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static trial of somebody of other proportions, who sways by a millimetre."""
    rng = np.random.default_rng(3)
    other = {body: np.array([1.05, 1.12, 0.96]) for body in ("pelvis", "femur_r", "femur_l", "tibia_r", "tibia_l")} | {"torso": np.array([0.95, 1.06, 1.1])}
    mechanics = OpenSimMechanics(scale_model(native, other, 80.0, preserve_mass_distribution=True))
    q = np.array([POSE.get(name, default) for name, default in zip(mechanics.coordinates, mechanics.default_values, strict=True)])
    place = mechanics.marker_positions(q[None])[0] + rng.normal(0.0, 0.004, (len(mechanics.markers), 3))
    still = place + rng.normal(0.0, 1e-3, (30, *place.shape))
    names = [n for n in mechanics.markers if n != "LFIN"]
    motion = new_motion(np.arange(30) / 60.0, markers=(names, still[:, [mechanics.markers.index(n) for n in names]]))
    return write_trc(motion, tmp_path_factory.mktemp("static") / "static.trc")


@pytest.fixture
def setup(tmp_path: Path) -> Callable[..., Path]:
    """Write a setup and return its path."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "scale_setup.xml"
        path.write_text(setup_text(**changes))
        return path

    return write


def opensim_tool(setup: Path, generic: Path, static: Path, folder: Path) -> tuple[Any, Any, dict[str, float]]:
    """OpenSim's own ScaleTool on the same inputs: the scaled model, the one with placed markers, and the static pose."""
    opensim = import_opensim()
    shutil.copy(generic, folder / "a.osim")
    shutil.copy(static, folder / "static.trc")
    with silenced():
        tool = opensim.ScaleTool(str(setup))
        tool.setPathToSubject(f"{folder}/")
        tool.getGenericModelMaker().setModelFileName("a.osim")
        for part in (tool.getModelScaler(), tool.getMarkerPlacer()):
            part.setMarkerFileName("static.trc")
        tool.getMarkerPlacer().setStaticPoseFileName("static.trc")
        tool.getMarkerPlacer().setOutputModelFileName("placed.osim")
        tool.getMarkerPlacer().setOutputMotionFileName("static.mot")
        assert tool.run()
        scaled = opensim.Model(str(folder / "a.osim"))
        tool.getModelScaler().setPrintResultFiles(False)
        assert tool.getModelScaler().processModel(scaled, f"{folder}/", tool.getSubjectMass())
        table = opensim.TimeSeriesTable(str(folder / "static.mot"))
        row = dict(zip(table.getColumnLabels(), table.getRowAtIndex(0).to_numpy(), strict=True))
        placed = opensim.Model(str(folder / "placed.osim"))
    return scaled, placed, {label.split("/")[-2]: float(v) for label, v in row.items() if label.endswith("/value")}


def frames(model: Any) -> FloatArray:
    """Where the joints are in their bodies: what scale factors change."""
    joints = model.getJointSet()
    every = [joints.get(i) for i in range(joints.getSize())]
    return np.array([f.findTransformInBaseFrame().p().to_numpy() for j in every for f in (j.getParentFrame(), j.getChildFrame())])


def inertias(model: Any) -> FloatArray:
    bodies = model.getBodySet()
    every = [bodies.get(i) for i in range(bodies.getSize())]
    return np.array([[b.get_mass(), *b.get_mass_center().to_numpy(), *(b.get_inertia().get(k) for k in range(6))] for b in every])


def locations(model: Any) -> dict[str, FloatArray]:
    markers = model.getMarkerSet()
    return {m.getName(): m.get_location().to_numpy().copy() for m in (markers.get(i) for i in range(markers.getSize()))}


def assert_scaled_as_by_opensim(ours: ScaledModel, scaled: Any) -> None:
    np.testing.assert_allclose(frames(ours.native), frames(scaled), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(inertias(ours.native), inertias(scaled), rtol=1e-9, atol=1e-12)


def assert_pose_no_worse(setup: Path, static: Path, ours: ScaledModel, theirs: dict[str, float], scaled: Any) -> None:
    """The static pose costs no more, by the setup's own weights, than the one OpenSim's assembler stops at."""
    job = read_scale_setup(setup)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        from imdy_plugin.adapters.trc import read_trc

        motion = read_trc(static)
    start, end = job.place_range or (-np.inf, np.inf)
    mean = motion["marker_position"].sel(time=slice(start - 1e-6, end + 1e-6)).mean("time")
    mechanics = OpenSimMechanics(scaled)
    weights = {n: w for n, w in job.marker_weights if n in mechanics.markers and n in motion["marker"].values}

    def cost(pose: Mapping[str, float]) -> float:
        q = np.array([[pose[name] for name in mechanics.coordinates]])
        error = mechanics.marker_positions(q, list(weights))[0] - mean.sel(marker=list(weights)).values
        wanted = {t.coordinate: t for t in job.coordinate_tasks}
        goals = {n: t.value if t.source == "manual_value" else mechanics.default_values[mechanics.coordinates.index(n)] for n, t in wanted.items()}
        markers = sum(w * float(e @ e) for w, e in zip(weights.values(), error, strict=True)) / sum(weights.values())
        return 0.5 * (markers + sum(wanted[n].weight * (pose[n] - goals[n]) ** 2 for n in wanted))

    assert cost(ours.pose) <= cost(theirs) * (1 + 1e-6)


def test_factors_masses_and_pose_are_those_of_opensims_scale_tool(generic: Path, standing: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    ours = scale(generic, standing, setup=setup())
    scaled, placed, pose = opensim_tool(setup(), generic, standing, tmp_path)
    assert_scaled_as_by_opensim(ours, scaled)
    assert ours.factors["hand_r"] == (1.02, 0.97, 1.05)
    assert ours.factors["tibia_r"][0] == 1.0 and ours.factors["tibia_r"][1] != 1.0
    assert_pose_no_worse(setup(), standing, ours, pose, scaled)
    assert set(locations(ours.native)) == set(locations(placed))
    assert ours.removed == ("LFIN",)


def test_without_mass_distribution_masses_go_as_opensims_do(generic: Path, standing: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    path = setup(preserve=False)
    ours = scale(generic, standing, setup=path)
    scaled, _, _ = opensim_tool(path, generic, standing, tmp_path)
    assert_scaled_as_by_opensim(ours, scaled)
    kept = scale(generic, standing, setup=path, preserve_mass_distribution=True)
    assert abs(inertias(kept.native)[:, 0] - inertias(ours.native)[:, 0]).max() > 0.01


def test_markers_are_where_they_were_measured_in_the_pose(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    ours = scale(generic, standing, setup=setup())
    mechanics = OpenSimMechanics(ours.native)
    q = np.array([[ours.pose[name] for name in mechanics.coordinates]])
    from imdy_plugin.adapters.trc import read_trc

    measured = read_trc(standing)["marker_position"].isel(time=slice(6, 25)).mean("time")
    for name, place in zip(mechanics.markers, mechanics.marker_positions(q)[0], strict=True):
        np.testing.assert_allclose(place, measured.sel(marker=name), atol=1e-7)


def test_the_static_pose_is_the_one_opensims_solver_ends_at_when_it_is_exact(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    opensim = import_opensim()
    path = setup()
    ours = scale(generic, standing, setup=path, place_markers="free")
    job = read_scale_setup(path)
    unplaced = scale(generic, standing, setup=path, place_markers="none").native
    mechanics = OpenSimMechanics(unplaced)
    from imdy_plugin.adapters.trc import read_trc

    measured = read_trc(standing)["marker_position"].isel(time=slice(6, 25)).mean("time")
    names = [n for n, _ in job.marker_weights]
    table, labels, row, weights = opensim.TimeSeriesTableVec3(), opensim.StdVectorString(), opensim.RowVectorVec3(len(names)), opensim.SetMarkerWeights()
    for i, (name, weight) in enumerate(job.marker_weights):
        labels.append(name)
        row[i] = opensim.Vec3(*measured.sel(marker=name).values.tolist())
        weights.cloneAndAppend(opensim.MarkerWeight(name, weight))
    table.setColumnLabels(labels)
    table.appendRow(0.0, row)
    table.addTableMetaDataString("Units", "m")
    references = opensim.SimTKArrayCoordinateReference()
    for name, value, weight in (("subtalar_angle_r", 0.0, 1.0), ("pro_sup_r", 0.2, 0.5)):
        reference = opensim.CoordinateReference(name, opensim.Constant(value))
        reference.setWeight(weight)
        references.push_back(reference)
    with silenced():
        model = unplaced.clone()
        state = model.initSystem()
        solver = opensim.InverseKinematicsSolver(model, opensim.MarkersReference(table, weights), references, float("inf"))
        solver.setAccuracy(1e-10)
        solver.assemble(state)
    theirs = np.array([model.getCoordinateSet().get(n).getValue(state) for n in mechanics.coordinates])
    poses = np.array([theirs, [ours.pose[n] for n in mechanics.coordinates]])
    placed = mechanics.marker_positions(poses, names)
    assert np.linalg.norm(placed[0] - placed[1], axis=1).max() < 2e-5


@pytest.mark.parametrize("start", [0.0, 2.5, -2.0])
def test_a_pose_is_found_whichever_way_the_person_faces(native: Any, start: float) -> None:
    mechanics = body_mechanics(registry.load_model(native).dataset)
    turned = POSE | {"pelvis_rotation": start, "pelvis_tx": 3.0, "pelvis_tz": -2.0}
    q = np.array([turned.get(n, d) for n, d in zip(mechanics.coordinates, mechanics.default_values, strict=True)])
    measured = mechanics.marker_positions(q[None])[0]
    found = fit_pose(mechanics, mechanics.markers, measured, np.ones(len(measured)))
    assert np.abs(found.position - measured).max() < 1e-5


def test_mass_is_exact_and_the_file_reloads_everywhere(generic: Path, standing: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    before = generic.read_bytes()
    person = scale(generic, standing, setup=setup(), mass=61.3, output=tmp_path / "me" / "scaled.osim")
    assert person.path == tmp_path / "me" / "scaled.osim"
    assert generic.read_bytes() == before
    trial = imdy_plugin.load_trial(person.path, standing)
    assert trial.mass == pytest.approx(61.3, rel=1e-12)
    assert person.mass == pytest.approx(61.3, rel=1e-12)
    assert list(person.path.parent.iterdir()) == [person.path]


def test_the_generic_model_is_never_overwritten(generic: Path, standing: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    copy = tmp_path / "generic.osim"
    shutil.copy(generic, copy)
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="overwrite the generic"):
        scale(copy, standing, setup=setup(), output=tmp_path / "sub" / ".." / "generic.osim")
    assert copy.read_bytes() == generic.read_bytes()


def test_a_failed_run_leaves_the_old_file(generic: Path, standing: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    old = tmp_path / "scaled.osim"
    old.write_text("before")
    with pytest.raises(InputError, match="positive"):
        scale(generic, standing, setup=setup(), mass=-1.0, output=old, force=True)
    assert old.read_text() == "before"


def test_an_older_file_is_replaced_only_when_told(generic: Path, standing: Path, setup: Callable[..., Path], person: Any, tmp_path: Path) -> None:
    old = tmp_path / "scaled.osim"
    old.write_text("before")
    for arguments in ({"static": standing, "setup": setup()}, {"static": moving(person, 2), "mass": 70.0}):
        with pytest.raises(InputError, match=r"scaled.osim exists and would be replaced.*--force"):
            scale(generic, **arguments, output=old)
        assert old.read_text() == "before"
    scale(generic, standing, setup=setup(), output=old, force=True)
    assert imdy_plugin.load_trial(old, standing).mass == pytest.approx(72.6)
    copy = Path(shutil.copy(generic, tmp_path / "generic.osim"))
    with pytest.raises(InputError, match="overwrite the generic"):
        scale(copy, standing, setup=setup(), output=copy, force=True)


def test_what_is_applied_later_wins(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    manual = "<Scale><scales> 1.3 1.3 1.3 </scales><segment>femur_r</segment><apply>true</apply></Scale>"
    last = scale(generic, standing, setup=setup(manual=manual), place_markers="none")
    first = scale(generic, standing, setup=setup(manual=manual, order="manualScale measurements"), place_markers="none")
    assert last.factors["femur_r"] == (1.3, 1.3, 1.3)
    assert first.factors["femur_r"] == first.factors["femur_l"] != (1.3, 1.3, 1.3)


def test_what_is_not_applied_is_not(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    off = measurement("x", [("NOT", "THERE")], {"femur_r": "X"}, apply="false")
    person = scale(generic, standing, setup=setup(measurements=off, manual=""), place_markers="none")
    assert set(person.factors.values()) == {(1.0, 1.0, 1.0)}
    assert person.pose == {} and person.moved == {} and np.isnan(person.marker_rms)


def test_fixed_markers_stay(loose: Any, standing: Path, setup: Callable[..., Path]) -> None:
    held = loose.clone()
    held.updMarkerSet().get("RTH1").set_fixed(True)
    person = scale(held, standing, setup=setup())
    unplaced = scale(loose, standing, setup=setup(), place_markers="none")
    assert "RTH1" not in person.moved and "RTH2" in person.moved
    np.testing.assert_allclose(locations(person.native)["RTH1"], locations(unplaced.native)["RTH1"])


def test_unmeasured_markers_are_kept_when_asked(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    assert "LFIN" in locations(scale(generic, standing, setup=setup(), keep_unmeasured=True).native)


def test_a_marker_set_joins_the_models(native: Any, generic: Path, standing: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    markers = tmp_path / "markers.xml"
    markers.write_text(
        '<OpenSimDocument Version="40000"><MarkerSet name="s"><objects>'
        '<Marker name="RLFC"><socket_parent_frame>/bodyset/femur_r</socket_parent_frame><location>0 -0.4 0.06</location></Marker>'
        '<Marker name="NEW"><socket_parent_frame>/bodyset/femur_r</socket_parent_frame><location>0.01 -0.2 0.03</location></Marker>'
        "</objects></MarkerSet></OpenSimDocument>"
    )
    person = scale(generic, standing, setup=setup(measurements="", manual=""), markers=markers, place_markers="none")
    assert set(locations(person.native)) == {*locations(native), "NEW"}
    np.testing.assert_allclose(locations(person.native)["RLFC"], [0, -0.4, 0.06])
    with pytest.raises(FileFormatError, match="not a MarkerSet"):
        scale(generic, standing, setup=setup(), markers=setup())


def test_markers_without_a_task_are_placed_but_do_not_pull(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    person = scale(generic, standing, setup=setup())
    assert "RTH1" not in person.marker_error and "RTH1" in person.moved


def ramp(path: Path, coordinate: str, ends: tuple[float, float] = (0.2, 0.7), span: tuple[float, float] = (0.0, 0.5)) -> Path:
    """A file of one coordinate that goes straight from one value [rad] to another; in degrees, which OpenSim takes whatever the header says."""
    values = np.rad2deg(np.linspace(*ends, 31))
    return write_table(path, [coordinate], np.linspace(*span, 31), values[:, None], in_degrees=True, name="Coordinates")


PULLED = "".join(f'<IKMarkerTask name="{n}"><weight>1</weight></IKMarkerTask>' for n in ("RASI", "LASI", "RPSI", "LPSI", "C7", "CLAV", "RLFC", "LLFC"))
PULLED += '<IKCoordinateTask name="elbow_flex_r"><weight>1e4</weight><value_type>from_file</value_type></IKCoordinateTask>'


def test_a_coordinate_from_a_file_has_its_value_there_where_the_pose_starts(generic: Path, standing: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    ramp(tmp_path / "pose.mot", "elbow_flex_r")
    path = setup(tasks=PULLED, extra="<coordinate_file>pose.mot</coordinate_file>")
    assert scale(generic, standing, setup=path).pose["elbow_flex_r"] == pytest.approx(0.3, abs=1e-6)
    theirs = opensim_tool(path, generic, standing, tmp_path)[2]
    assert theirs["elbow_flex_r"] == pytest.approx(0.3, abs=1e-3)
    whole = setup(tasks=PULLED, extra="<coordinate_file>pose.mot</coordinate_file>", range_="-1 -1")
    assert scale(generic, standing, setup=whole).pose["elbow_flex_r"] == pytest.approx(0.2, abs=1e-6)


def test_a_file_that_lacks_a_coordinate_or_the_time_of_the_pose_is_refused(generic: Path, standing: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    path = setup(tasks=PULLED, extra="<coordinate_file>pose.mot</coordinate_file>")
    ramp(tmp_path / "pose.mot", "elbow_flex_l")
    with pytest.raises(FileFormatError, match=r"pose.mot: holds no coordinate 'elbow_flex_r'.*elbow_flex_l"):
        scale(generic, standing, setup=path)
    for span in ((0.2, 0.5), (-1.0, 0.05)):
        ramp(tmp_path / "pose.mot", "elbow_flex_r", span=span)
        with pytest.raises(FileFormatError, match=r"pose.mot: covers .* elbow_flex_r .* starts at 0.1 s"):
            scale(generic, standing, setup=path)
    with pytest.raises(InputError, match="names no coordinate_file"):
        scale(generic, standing, setup=setup(tasks=PULLED))


def test_markers_that_a_setup_wants_in_vain_are_named(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    tasks = setup_text().split("<IKTaskSet><objects>")[1].split("</objects></IKTaskSet>")[0]
    with pytest.warns(DataWarning, match="left out: RASIS; 'RASIS': nearest: RASI"):
        scale(generic, standing, setup=setup(tasks=tasks + '<IKMarkerTask name="RASIS"><weight>1</weight></IKMarkerTask>'))


def test_a_static_pose_that_does_not_come_to_rest_is_told(generic: Path, standing: Path, setup: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def restless(*given: Any, **named: Any) -> MarkerFit:
        return replace(fit_markers(*given, **named), converged=np.zeros(1, bool))

    monkeypatch.setattr(inverse_kinematics, "fit_markers", restless)
    with pytest.warns(DataWarning, match="static pose did not come to rest"):
        scale(generic, standing, setup=setup())


# Bad input -------------------------------------------------------------------------------------------------------------


def test_missing_markers_are_all_named_with_the_nearest(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    wrong = measurement("thigh", [("RASIS", "RLFC"), ("RLFK", "RLFC")], {"femur_r": "Y"})
    with pytest.raises(InputError) as raised:
        scale(generic, standing, setup=setup(measurements=wrong))
    for part in ("recording lacks 'RASIS' (measurement thigh)", "nearest: RASI", "RLFK", "generic model lacks"):
        assert part in str(raised.value)


def test_unknown_bodies_and_coordinates_are_named(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    with pytest.raises(UnknownNameError, match="nearest: femur_r"):
        scale(generic, standing, setup=setup(measurements=measurement("t", [("RASI", "RLFC")], {"femurr": "Y"})))
    with pytest.raises(UnknownNameError, match="handd"):
        scale(generic, standing, setup=setup(manual="<Scale><scales>1 1 1</scales><segment>handd_r</segment></Scale>"))
    task = '<IKMarkerTask name="RASI"><weight>1</weight></IKMarkerTask>' * 1
    task += "".join(f'<IKMarkerTask name="{n}"><weight>1</weight></IKMarkerTask>' for n in ("LASI", "RPSI", "LPSI"))
    with pytest.raises(UnknownNameError, match="knee_angle_r"):
        scale(generic, standing, setup=setup(tasks=task + '<IKCoordinateTask name="knee_angel_r"><weight>1</weight></IKCoordinateTask>'))


@pytest.mark.parametrize("mass", [0.0, -70.0, float("nan"), float("inf")])
def test_the_mass_must_be_positive(generic: Path, standing: Path, setup: Callable[..., Path], mass: float) -> None:
    with pytest.raises(InputError, match="in kilograms, a positive number"):
        scale(generic, standing, setup=setup(), mass=mass)


def test_a_mass_that_no_person_has_is_told(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    with pytest.warns(DataWarning, match="72600 kg, which no person has"):
        scale(generic, standing, setup=setup(mass=72600.0), place_markers="none")


def test_a_setup_without_a_mass_asks_for_it(generic: Path, standing: Path, setup: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="states no mass"):
        scale(generic, standing, setup=setup(mass=-1))


def edited(standing: Path, tmp_path: Path, change: Callable[[FloatArray, list[str]], None], unit: str = "mm", factor: float = 1.0) -> Path:
    from imdy_plugin.adapters.trc import read_trc

    motion = read_trc(standing)
    names = [str(n) for n in motion["marker"].values]
    position = motion["marker_position"].values * factor
    change(position, names)
    return write_trc(new_motion(motion["time"].values, markers=(names, position)), tmp_path / "edited.trc", unit=unit)


def test_two_markers_at_one_place_are_refused(standing: Path, generic: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    def put_together(position: FloatArray, names: list[str]) -> None:
        position[:, names.index("LASI")] = position[:, names.index("RASI")]

    with pytest.raises(InputError, match="same place in the static trial"):
        scale(generic, edited(standing, tmp_path, put_together), setup=setup())


def test_gaps_are_left_out_with_a_warning_and_nothing_is_refused(standing: Path, generic: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    def half(position: FloatArray, names: list[str]) -> None:
        position[:12, names.index("LASI")] = np.nan

    with pytest.warns(DataWarning, match="frames") as caught:
        person = scale(generic, edited(standing, tmp_path, half), setup=setup())
    assert any("'RASI' and 'LASI' are seen together in" in str(w.message) for w in caught)
    assert person.factors["pelvis"][0] == pytest.approx(scale(generic, standing, setup=setup()).factors["pelvis"][0], rel=0.01)

    def never(position: FloatArray, names: list[str]) -> None:
        position[6:25, names.index("LASI")] = np.nan

    with pytest.raises(InputError, match="never seen together"):
        scale(generic, edited(standing, tmp_path, never), setup=setup())


def test_a_wrong_unit_is_refused_and_an_odd_size_is_told(standing: Path, generic: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no person does"):
        scale(generic, edited(standing, tmp_path, lambda *_: None, factor=1000.0), setup=setup())
    with pytest.warns(DataWarning) as caught:
        scale(generic, edited(standing, tmp_path, lambda *_: None, factor=2.2), setup=setup())
    assert any("scaled far from the generic model: pelvis x by" in str(w.message) for w in caught)


def test_a_person_who_moves_is_told(standing: Path, generic: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    def walk(position: FloatArray, names: list[str]) -> None:
        position[:, :, 0] += np.linspace(0, 0.3, len(position))[:, None]

    with pytest.warns(DataWarning, match="move by more than 20 mm"):
        scale(generic, edited(standing, tmp_path, walk), setup=setup())


def test_a_time_range_outside_the_recording_is_refused(standing: Path, generic: Path, setup: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="holds no frame of the static trial"):
        scale(generic, standing, setup=setup(range_="3 4"))


def test_no_shared_marker_is_an_error_with_names(standing: Path, generic: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    from imdy_plugin.adapters.trc import read_trc

    motion = read_trc(standing)
    renamed = motion.assign_coords(marker=[f"me:{n}" for n in motion["marker"].values])
    with pytest.raises(InputError, match=r"share no marker; 'me:C7'"):
        scale(generic, renamed, setup=setup(measurements=""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<OpenSimDocument Version="4"><InverseDynamicsTool /></OpenSimDocument>', "InverseDynamicsTool, not a ScaleTool"),
        ("<ScaleTool><mass>heavy</mass></ScaleTool>", "mass is 'heavy'"),
        ("<ScaleTool><ModelScaler><scaling_order>guess</scaling_order></ModelScaler></ScaleTool>", "scaling_order holds 'guess'"),
        ("<ScaleTool><ModelScaler><apply>perhaps</apply></ModelScaler></ScaleTool>", "true or false"),
        ("<ScaleTool><ModelScaler><time_range>2 1</time_range></ModelScaler></ScaleTool>", "time_range"),
        ("<ScaleTool><ModelScaler><time_range>0 nan</time_range></ModelScaler></ScaleTool>", "nan"),
        (f"<ScaleTool><ModelScaler><MeasurementSet><objects>{measurement('m', [], {'b': 'W'})}</objects></MeasurementSet></ModelScaler></ScaleTool>", "'W'"),
        (
            "<ScaleTool><ModelScaler><MeasurementSet><objects><Measurement name='m'><MarkerPair><markers>A</markers></MarkerPair></Measurement></objects>"
            "</MeasurementSet></ModelScaler></ScaleTool>",
            "pair of 1 marker",
        ),
        ("<ScaleTool><ModelScaler><ScaleSet><objects><Scale><scales>1 0 1</scales></Scale></objects></ScaleSet></ModelScaler></ScaleTool>", "three positive"),
        (
            "<ScaleTool><MarkerPlacer><IKTaskSet><objects><IKMarkerTask name='A'><weight>-1</weight></IKMarkerTask></objects></IKTaskSet>"
            "</MarkerPlacer></ScaleTool>",
            "weight",
        ),
        ("<ScaleTool><mass>1", "well-formed"),
        ('<!DOCTYPE x [<!ENTITY e "boom">]><ScaleTool><mass>&e;</mass></ScaleTool>', "entities"),
    ],
)
def test_a_setup_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "setup.xml"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        read_scale_setup(path)


def test_paths_of_a_setup_count_from_its_folder_and_empty_ones_are_none(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "setup.xml"
    path.write_text(
        "<ScaleTool><mass>-1</mass><GenericModelMaker><model_file>..\\m\\a b.osim</model_file><marker_set_file>Unassigned</marker_set_file>"
        "</GenericModelMaker><ModelScaler><marker_file /><time_range>-1 -1</time_range></ModelScaler></ScaleTool>"
    )
    job = read_scale_setup(path)
    assert job.model_file == tmp_path / "m" / "a b.osim"
    assert all(value is None for value in (job.marker_set_file, job.scale_file, job.scale_range, job.mass))
    assert job.scales and job.places and not job.preserve_mass_distribution


def test_a_set_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "tasks.xml").write_text('<IKTaskSet><objects><IKMarkerTask name="A"><weight>2</weight></IKMarkerTask></objects></IKTaskSet>')
    path = tmp_path / "setup.xml"
    path.write_text('<ScaleTool><MarkerPlacer><IKTaskSet file="tasks.xml" /></MarkerPlacer></ScaleTool>')
    assert read_scale_setup(path).marker_weights == (("A", 2.0),)


def test_the_command_writes_a_model(generic: Path, standing: Path, setup: Callable[..., Path], tmp_path: Path) -> None:
    arguments = ["scale", generic, standing, "--setup", setup(), "--mass", 65.5, "--output", tmp_path / "me.osim"]
    done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "65.5 kg" in done.output and "femur_r" in done.output and (tmp_path / "me.osim").is_file()
    before = (tmp_path / "me.osim").read_text()
    arguments[arguments.index(65.5)] = 60.0
    again = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert again.exit_code == 2 and "--force" in again.output and (tmp_path / "me.osim").read_text() == before
    forced = CliRunner().invoke(app, [str(a) for a in [*arguments, "--force"]], env={"COLUMNS": "200"})
    assert forced.exit_code == 0 and (tmp_path / "me.osim").read_text() != before
    bad = CliRunner().invoke(app, ["scale", str(generic), str(standing), "--setup", str(setup()), "--output", "me.txt"], env={"COLUMNS": "200"})
    assert bad.exit_code == 2 and ".osim" in bad.output


# Published setups ------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "hamner": (
        "opensim_models_pipelines/Hamner/Setup_Scale.xml",
        "opensim_models_pipelines/Hamner/FullBodyModel_Hamner2010_v2_0.osim",
        "opensim_models_pipelines/Hamner/subject02_static.trc",
    ),
    "schreiber": (
        "schreiber_moissenet_2019_walking/data/2014031/scaling/2014031_scaleSetup.xml",
        "schreiber_moissenet_2019_walking/model/Rajagopal2015_SchreiberMoissenet2019.osim",
        "schreiber_moissenet_2019_walking/data/2014031/static/2014031_ST.trc",
    ),
    "rajagopal": (
        "opensim_models_pipelines/Rajagopal/Scale/scale_setup_run.xml",
        "bmc_walk_run/opensim/Mod&Sim2018/Rajagopal2015.osim",
        "opensim_models_pipelines/Rajagopal/ExpData/static_run.trc",
    ),
}


@pytest.mark.filterwarnings("ignore::imdy_plugin.errors.DataWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_setups_scale_as_by_opensim(data_dir: Path, tmp_path: Path, name: str) -> None:
    setup, generic, static = (data_dir / part for part in PUBLISHED[name])
    ours = scale(generic, static, setup=setup)
    scaled, _, pose = opensim_tool(setup, generic, static, tmp_path)
    assert_scaled_as_by_opensim(ours, scaled)
    assert_pose_no_worse(setup, static, ours, pose, scaled)


def test_a_model_scaled_otherwise_is_told_apart(native: Any) -> None:
    one = scale_model(native, {"femur_r": [1.1, 1.1, 1.1]}, 70.0, preserve_mass_distribution=True)
    other = scale_model(native, {"femur_r": [1.1, 1.1 + 1e-4, 1.1]}, 70.0, preserve_mass_distribution=True)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(frames(one), frames(other), rtol=1e-6, atol=1e-9)
    assert set(default_marker_positions(one)) == set(locations(one))


# Without a setup -------------------------------------------------------------------------------------------------------

PERSON = {
    "pelvis": [1.04, 1.02, 1.07],
    "torso": [0.99, 1.05, 1.02],
    "femur_r": [1.02, 1.12, 1.04],
    "tibia_r": [1.0, 1.06, 1.02],
    "calcn_r": [1.05, 1.0, 1.03],
    "humerus_r": [1.02, 0.98, 1.01],
}


@pytest.fixture(scope="session")
def person(loose: Any) -> Any:
    """The generic model as large as somebody else, left as right."""
    every = PERSON | {name.replace("_r", "_l"): factors for name, factors in PERSON.items()}
    return scale_model(loose, every, 71.0, preserve_mass_distribution=True)


def moving(person: Any, frames: int = 4, noise: float = 0.0, seed: int = 0) -> Any:
    """Markers of somebody who bends all joints."""
    rng = np.random.default_rng(seed)
    mechanics = OpenSimMechanics(person)
    phase = rng.uniform(0, 2 * np.pi, len(mechanics.coordinates))
    q = mechanics.default_values + 0.4 * np.sin(2 * np.pi * np.arange(frames)[:, None] / frames + phase)
    for name, value in (("pelvis_ty", 0.95), ("knee_angle_r", 0.5), ("knee_angle_l", 0.7), ("elbow_flex_r", 0.6), ("elbow_flex_l", 0.5)):
        q[:, mechanics.coordinates.index(name)] += value
    lower, upper = mechanics.bounds.T
    position = mechanics.marker_positions(mechanics.couple(np.clip(q, lower, upper)))
    return new_motion(np.arange(frames) / 10.0, markers=(mechanics.markers, position + rng.normal(0.0, noise, position.shape)))


def problem_of(native: Any, motion: Any) -> tuple[SizeProblem, FloatArray]:
    problem = SizeProblem(registry.load_model(native).dataset, [str(n) for n in motion["marker"].values], motion["marker_position"].values)
    return problem, np.tile(problem.goal, (motion.sizes["time"], 1))


def test_derivatives_of_the_automatic_fit_are_exact(loose: Any, person: Any) -> None:
    problem, pose = problem_of(loose, moving(person, 3))
    rng = np.random.default_rng(0)
    size, offset = rng.normal(0.0, 0.05, problem.mixing.shape[1]), rng.normal(0.0, 0.01, (len(problem.names), 3))
    pose = pose + rng.uniform(-0.3, 0.3, pose.shape)
    point, step = problem.evaluate(size, offset, pose), 1e-6
    by_size, by_pose = point.size_slopes() @ problem.mixing, point.pose_slopes()
    for column in rng.choice(len(size), 12, replace=False):
        change = step * np.eye(len(size))[column]
        two = [problem.evaluate(size + s * change, offset, pose).place for s in (1, -1)]
        np.testing.assert_allclose((two[0] - two[1]) / (2 * step), by_size[..., column], atol=1e-8)
    for number, coordinate in enumerate(problem.free[::5]):
        change = step * np.eye(pose.shape[1])[coordinate]
        two = [problem.evaluate(size, offset, pose + s * change).place for s in (1, -1)]
        np.testing.assert_allclose((two[0] - two[1]) / (2 * step), by_pose[..., 5 * number], atol=1e-8)


def test_the_fits_scaled_geometry_is_opensims(loose: Any) -> None:
    bodies = [str(b) for b in registry.load_model(loose).dataset["body"].values]
    factors = np.random.default_rng(1).uniform(0.8, 1.2, (len(bodies), 3))
    scaled = scale_model(loose, dict(zip(bodies, factors, strict=True)), 70.0, preserve_mass_distribution=True)
    ours = Multibody(scaled_dataset(registry.load_model(loose).dataset, factors))
    mechanics = OpenSimMechanics(scaled)
    q = mechanics.couple(mechanics.default_values + 0.1)[None]
    np.testing.assert_allclose(ours.marker_positions(ours.tensor(q)).numpy(), mechanics.marker_positions(q), atol=1e-9)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_fits_scaled_geometry_is_opensims_for_published_models(data_dir: Path, name: str) -> None:
    loaded = registry.load_model(data_dir / PUBLISHED[name][1])
    bodies = [str(b) for b in loaded.dataset["body"].values]
    factors = np.random.default_rng(1).uniform(0.8, 1.2, (len(bodies), 3))
    scaled = scale_model(loaded.native, dict(zip(bodies, factors, strict=True)), 70.0, preserve_mass_distribution=True)
    ours = Multibody(scaled_dataset(loaded.dataset, factors))
    mechanics = OpenSimMechanics(scaled)
    q = mechanics.couple(mechanics.default_values + 0.1)[None]
    np.testing.assert_allclose(ours.marker_positions(ours.tensor(q)).numpy(), mechanics.marker_positions(q), atol=1e-6)


def with_sliding_joint(kind: str = "SliderJoint") -> Any:
    """A trunk that moves freely, with a carriage on it that slides along an axis oblique to both."""
    opensim = import_opensim()
    model = opensim.Model()
    bodies = [opensim.Body(name, 5.0, opensim.Vec3(0), opensim.Inertia(0.1, 0.1, 0.1)) for name in ("trunk", "carriage")]
    for body in bodies:
        model.addBody(body)
    root = opensim.FreeJoint("root", model.getGround(), opensim.Vec3(0), opensim.Vec3(0), bodies[0], opensim.Vec3(0), opensim.Vec3(0))
    ends = bodies[0], opensim.Vec3(0.1, 0.2, -0.1), opensim.Vec3(0.3, -0.2, 0.5), bodies[1], opensim.Vec3(-0.05, 0.1, 0.02), opensim.Vec3(0.0, 0.4, 0.1)
    slide = getattr(opensim, kind)("slide", *ends)
    for joint in (root, slide):
        model.addJoint(joint)
    for body in bodies:
        for number, place in enumerate(0.2 * np.eye(3)):
            model.addMarker(opensim.Marker(f"{body.getName()}{number}", body, opensim.Vec3(*place.tolist())))
    model.finalizeConnections()
    return model


def carriage(model: Any, value: float) -> tuple[Any, FloatArray]:
    """The dataset of the sliding model, and a pose in which the carriage is ``value`` along its axes."""
    dataset = registry.load_model(model).dataset
    return dataset, np.where(dataset["coordinate_joint"].values == "slide", value, 0.3)[None]


@pytest.mark.parametrize("kind", ["SliderJoint", "PlanarJoint", "FreeJoint"])
def test_only_custom_joints_translations_are_scaled_as_in_opensim(kind: str) -> None:
    model = with_sliding_joint(kind)
    dataset, q = carriage(model, 0.5)
    factors = {"trunk": np.array([2.0, 2.0, 2.0]), "carriage": np.array([1.0, 1.3, 0.9])}
    mechanics = OpenSimMechanics(scale_model(model, factors, 10.0, preserve_mass_distribution=True))
    ours = Multibody(scaled_dataset(dataset, np.array(list(factors.values()))))
    np.testing.assert_allclose(ours.marker_positions(ours.tensor(q)).numpy(), mechanics.marker_positions(q), atol=1e-9)
    taken = dataset.assign(joint_type=dataset["joint_type"].copy(data=["CustomJoint"] * 2))
    wrong = Multibody(scaled_dataset(taken, np.array(list(factors.values()))))
    assert np.abs(wrong.marker_positions(wrong.tensor(q)).numpy() - mechanics.marker_positions(q)).max() > 0.1


def test_derivatives_of_the_fit_are_exact_where_a_joint_slides() -> None:
    dataset, q = carriage(with_sliding_joint(), 0.5)
    names = [str(n) for n in dataset["marker"].values]
    problem = SizeProblem(dataset, names, np.zeros((1, len(names), 3)))
    size, offset, step = np.full(problem.mixing.shape[1], 0.05), np.zeros((len(names), 3)), 1e-6
    slopes = problem.evaluate(size, offset, q).size_slopes() @ problem.mixing
    for column, change in enumerate(step * np.eye(len(size))):
        two = [problem.evaluate(size + sign * change, offset, q).place for sign in (1, -1)]
        np.testing.assert_allclose((two[0] - two[1]) / (2 * step), slopes[..., column], atol=1e-8)


def rms_of_another_movement(model: Any, person: Any) -> float:
    motion = moving(person, seed=5)
    mechanics = body_mechanics(registry.load_model(model).dataset)
    names = [str(n) for n in motion["marker"].values]
    return float(np.mean(fit_markers(mechanics, motion["time"].values, names, motion["marker_position"].values).rms))


def test_size_is_found_from_movement_alone(loose: Any, person: Any) -> None:
    found = scale(loose, moving(person, 8), mass=71.0)
    for body, truth in PERSON.items():
        assert (np.abs(np.log(found.factors[body]) - np.log(truth)) < 2.5 * np.array(found.uncertainty[body])).all(), body
        assert found.factors[body] == found.factors[body.replace("_r", "_l")]
    for body in ("femur_r", "tibia_r", "humerus_r"):
        assert found.factors[body][1] == pytest.approx(PERSON[body][1], rel=0.03), body
    errors = [rms_of_another_movement(model, person) for model in (found.native, loose)]
    assert errors[0] < 0.004 and errors[1] > 0.008
    assert found.mass == pytest.approx(71.0, rel=1e-12)


def test_what_no_marker_tells_follows_the_body(loose: Any) -> None:
    larger = scale_model(loose, {str(b): [1.12] * 3 for b in registry.load_model(loose).dataset["body"].values}, 70.0, preserve_mass_distribution=True)
    motion = moving(larger)
    legs = [str(n) for n in motion["marker"].values if str(n)[1:3] in ("TH", "TB", "LF", "MF", "LM", "MM", "CA", "MT", "AS", "PS")]
    found = scale(loose, motion.sel(marker=legs), mass=70.0)
    for factors in found.factors.values():
        np.testing.assert_allclose(factors, 1.12, rtol=0.02)
    assert found.uncertainty["hand_r"][1] > 2 * found.uncertainty["femur_r"][1]


def test_a_fit_that_does_not_come_to_rest_is_told(loose: Any, person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, _ = problem_of(loose, moving(person))
    found = fit_size(problem)
    assert found.converged and 1 < found.steps < 60
    monkeypatch.setattr(size_fit, "_MAX_STEPS", 2)
    hasty = fit_size(problem)
    assert not hasty.converged and hasty.steps == 2
    with pytest.warns(DataWarning, match="did not come to rest in 2 steps"):
        scale(loose, moving(person), mass=70.0)


def test_a_fit_whose_every_step_is_refused_is_told(loose: Any, person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, _ = problem_of(loose, moving(person))
    found, cost, calls = fit_size(problem), SizeProblem.cost, iter(range(1000))
    monkeypatch.setattr(SizeProblem, "cost", lambda *given: cost(*given) + 1e6 * next(calls))
    refused = fit_size(problem)
    assert refused.steps == 1 and not refused.converged and found.converged


def test_what_neither_markers_nor_prior_tell_is_an_error_with_advice(loose: Any, person: Any) -> None:
    motion = moving(person)
    legs = [str(n) for n in motion["marker"].values if str(n)[1:3] in ("TH", "TB", "LF", "MF", "LM", "MM", "AS", "PS")]
    told = motion.sel(marker=legs)
    for prior in (SizePrior(axis=np.inf), SizePrior(angle=np.inf)):
        problem = SizeProblem(registry.load_model(loose).dataset, legs, told["marker_position"].values, prior=prior)
        with pytest.raises(SolverError, match=r"no single answer.*more of the model's markers"):
            fit_size(problem)


def test_left_and_right_may_differ_when_asked(loose: Any, person: Any) -> None:
    longer = scale_model(loose, {"femur_r": [1.0, 1.1, 1.0], "femur_l": [1.0, 1.0, 1.0]}, 70.0, preserve_mass_distribution=True)
    found = scale(loose, moving(longer, 8), mass=70.0, symmetric=False)
    assert found.factors["femur_r"][1] - found.factors["femur_l"][1] == pytest.approx(0.1, abs=0.03)


def test_markers_on_soft_tissue_are_told_from_those_over_bone(loose: Any, person: Any) -> None:
    problem, _ = problem_of(loose, moving(person, 2))
    soft = {name for name, is_soft in zip(problem.names, problem.technical, strict=True) if is_soft}
    assert {"RTH1", "RTH2", "RTH3", "LTB1", "RTB2", "RUA"} <= soft
    assert not soft & {"RLFC", "RMFC", "RLMAL", "RASI", "LPSI", "RCAL", "C7", "RLEL"}
    chosen = scale(loose, moving(person, 4), mass=70.0, place_markers="soft")
    assert set(chosen.moved) == soft


def test_a_shifted_cluster_is_put_where_it_was_and_changes_no_size(loose: Any, person: Any) -> None:
    motion = moving(person)
    shifted = person.clone()
    location = shifted.getMarkerSet().get("RTH1").get_location().to_numpy()
    shifted.updMarkerSet().get("RTH1").set_location(import_opensim().Vec3(*(location + np.array([0.03, -0.02, 0.01])).tolist()))
    plain, moved = scale(loose, motion, mass=70.0), scale(loose, moving(shifted), mass=70.0)
    np.testing.assert_allclose(plain.factors["femur_r"], moved.factors["femur_r"], rtol=0.01)
    np.testing.assert_allclose(locations(moved.native)["RTH1"] - locations(plain.native)["RTH1"], [0.03, -0.02, 0.01], atol=0.005)


def test_recordings_are_pooled_and_gaps_are_no_obstacle(loose: Any, person: Any) -> None:
    first, second = moving(person, 4), moving(person, 4, seed=9)
    gaps = first.copy(deep=True)
    gaps["marker_position"].values[::2, :5] = np.nan
    found = scale(loose, gaps.drop_sel(marker="LFIN"), mass=70.0, also=[second])
    assert "LFIN" in found.moved
    assert found.factors["femur_r"][1] == pytest.approx(1.12, rel=0.03)


def test_a_marker_that_is_hardly_ever_seen_stays_in_the_model(loose: Any, person: Any) -> None:
    motion = moving(person, 16)
    motion["marker_position"].loc[{"marker": "RTH1"}] = np.nan
    motion["marker_position"].values[7, [str(n) for n in motion["marker"].values].index("RTH1")] = 1.0
    with pytest.warns(DataWarning, match="not seen in the frames that are fitted.*RTH1"):
        found = scale(loose, motion, mass=70.0)
    assert "RTH1" in locations(found.native) and "RTH1" not in found.moved


def test_an_unknown_way_of_placing_is_refused(loose: Any, person: Any) -> None:
    with pytest.raises(InputError, match="nearest: free"):
        scale(loose, moving(person, 2), mass=70.0, place_markers="fre")  # type: ignore[arg-type]


def test_held_markers_stay_and_it_is_told(native: Any, person: Any) -> None:
    with pytest.warns(DataWarning, match="holds all its markers fixed"):
        held = scale(native, moving(person, 4), mass=70.0)
    assert held.moved == {}
    assert scale(native, moving(person, 4), mass=70.0, place_markers="all").moved


def test_too_few_shared_markers_name_the_nearest(loose: Any, person: Any) -> None:
    motion = moving(person, 3)
    renamed = motion.assign_coords(marker=[f"{n}_x" for n in motion["marker"].values])
    with pytest.raises(InputError, match=r"share 0 marker.*'C7_x': nearest: C7"):
        scale(loose, renamed, mass=70.0)


def test_markers_on_the_ground_say_nothing_of_size(loose: Any, person: Any, tmp_path: Path) -> None:
    floor = tmp_path / "floor.xml"
    floor.write_text(
        '<OpenSimDocument Version="40000"><MarkerSet><objects><Marker name="FLOOR"><socket_parent_frame>/ground</socket_parent_frame>'
        "<location>0 0 0</location></Marker></objects></MarkerSet></OpenSimDocument>"
    )
    motion = moving(person, 3)
    names = [*motion["marker"].values[:-1], "FLOOR"]
    found = scale(loose, motion.assign_coords(marker=[str(n) for n in names]), mass=70.0, markers=floor)
    assert "FLOOR" not in found.marker_error and "FLOOR" not in found.moved
    assert found.removed == (str(motion["marker"].values[-1]),)


def test_swapped_names_are_told(loose: Any, person: Any) -> None:
    motion = moving(person, 5)
    names = [{"RLFC": "RLMAL", "RLMAL": "RLFC"}.get(str(n), str(n)) for n in motion["marker"].values]
    with pytest.warns(DataWarning) as caught:
        scale(loose, motion.assign_coords(marker=names), mass=70.0)
    assert any("far from where the scaled model has them" in str(w.message) and "RLMAL" in str(w.message) for w in caught)


@pytest.mark.parametrize(("arguments", "message"), [((None, "x.trc"), "no generic model"), (("x.osim", None), "no recording")])
def test_what_is_missing_without_a_setup_is_named(arguments: tuple[Any, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scale(*arguments, mass=70.0)


def test_without_a_setup_the_mass_must_be_given(loose: Any, person: Any) -> None:
    with pytest.raises(InputError, match="no body mass is given"):
        scale(loose, moving(person, 2))
    with pytest.raises(InputError, match="positive"):
        scale(loose, moving(person, 2), mass=0.0)


@pytest.mark.parametrize(
    ("name", "other"), [("femur_r", "femur_l"), ("right_thigh", "left_thigh"), ("L.Foot", "R.Foot"), ("pelvis", "pelvis"), ("lower_leg", "lower_leg")]
)
def test_the_other_side_of_a_name(name: str, other: str) -> None:
    assert mirrored(name) == other


def test_the_command_scales_without_a_setup(generic: Path, person: Any, tmp_path: Path) -> None:
    trc = write_trc(moving(person, 5), tmp_path / "any.trc")
    arguments = ["scale", generic, trc, "--mass", 71, "--output", tmp_path / "me.osim", "--also", trc, "--asymmetric"]
    done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "±" in done.output and "71 kg" in done.output
    assert imdy_plugin.load_trial(tmp_path / "me.osim", trc).mass == pytest.approx(71.0)


@pytest.mark.filterwarnings("ignore::imdy_plugin.errors.DataWarning")
def test_a_published_person_is_fitted_as_well_as_by_the_published_scaling(data_dir: Path) -> None:
    """Another walking trial than the one that scales: markers are no farther from the automatic model than from the published one."""
    folder = data_dir / "schreiber_moissenet_2019_walking" / "data" / "2014019"
    generic = data_dir / "schreiber_moissenet_2019_walking" / "model" / "Rajagopal2015_SchreiberMoissenet2019.osim"
    first, other = sorted((folder / "dynamic").glob("*.trc"))
    found = scale(generic, folder / "static" / "2014019_ST.trc", mass=73.8, also=[first])
    from imdy_plugin.adapters.trc import read_trc

    motion = read_trc(other).isel(time=slice(None, None, 20))
    errors = {}
    for name, model in {"ours": found.native, "published": folder / "scaling" / "2014019_scaledModelAdjusted.osim"}.items():
        errors[name] = coordinates_of(imdy_plugin.load_trial(model, motion)).attrs["marker_rms_mean"]
    assert errors["ours"] < 0.6 * errors["published"]
