"""The OpenSim model adapter: what it reads, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter, scale_mass
from imdy_plugin.errors import DataWarning, FileFormatError, InputError
from imdy_plugin.schema import validate_model
from imdy_plugin.sim.person import write_person
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

ADAPTER = OpenSimModelAdapter()


@pytest.fixture(scope="module")
def person_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_person(tmp_path_factory.mktemp("model") / "person.osim")


def two_bodies(thigh: float = 5.0, shank: float = 3.0, inertia: float = 0.1, weld: bool = False) -> Any:
    osim = import_opensim()
    model = osim.Model()
    model.setName("leg")
    upper = osim.Body("thigh", thigh, osim.Vec3(0, -0.2, 0), osim.Inertia(0.1, 0.1, 0.1) if thigh else osim.Inertia(0))
    lower = osim.Body("shank", shank, osim.Vec3(0, -0.2, 0), osim.Inertia(inertia, inertia, inertia))
    for body in (upper, lower):
        model.addBody(body)
    model.addJoint(osim.PinJoint("hip", model.getGround(), upper))
    ends = (upper, osim.Vec3(0, -0.4, 0), osim.Vec3(0.1, 0.2, 0.3), lower, osim.Vec3(0), osim.Vec3(0))
    model.addJoint(osim.WeldJoint("knee", *ends) if weld else osim.PinJoint("knee", *ends))
    model.finalizeConnections()
    return model


def test_accepts_paths_and_models_only() -> None:
    assert ADAPTER.accepts("a/b.osim") and ADAPTER.accepts(Path("b.OSIM")) and ADAPTER.accepts(import_opensim().Model())
    assert not ADAPTER.accepts("walk.trc") and not ADAPTER.accepts(3) and not ADAPTER.accepts(None)


def test_reads_everything_of_a_model(person_file: Path) -> None:
    loaded = ADAPTER.load(person_file)
    ds = loaded.dataset
    validate_model(ds)
    assert ds.attrs["mass"] == pytest.approx(70.0)
    assert ds.attrs["root_body"] == "pelvis" and ds.attrs["foot_bodies"] == ["calcn_r", "calcn_l"]
    assert ds.attrs["root_coordinates"] == [f"pelvis_{n}" for n in ("tilt", "list", "rotation", "tx", "ty", "tz")]
    assert ds.attrs["gravity"][1] == pytest.approx(-9.80665)
    assert len(ds.attrs["own_forces"]) == loaded.native.getForceSet().getSize() > 0
    kinds = dict(zip(ds["coordinate"].values, ds["coordinate_kind"].values, strict=True))
    assert kinds["pelvis_ty"] == "translational" and kinds["knee_angle_r"] == "rotational"


def test_the_dataset_alone_places_the_markers(person_file: Path) -> None:
    """Walking the tree with nothing but the dataset's joints gives OpenSim's marker positions."""
    loaded = ADAPTER.load(person_file)
    mechanics = OpenSimMechanics(loaded.native)
    q = np.random.default_rng(0).normal(size=len(mechanics.coordinates)) * 0.3
    expected = mechanics.marker_positions(q[None])[0]
    values = dict(zip(mechanics.coordinates, q, strict=True))
    np.testing.assert_allclose(place_markers(loaded.dataset, values), expected, atol=1e-9)
    values["knee_angle_r"] += 0.1
    assert np.abs(place_markers(loaded.dataset, values) - expected).max() > 0.01


def place_markers(ds: Any, values: dict[str, float]) -> np.ndarray:
    frames = {"ground": np.eye(4)}
    for joint in ds["joint"].values:
        part = ds.sel(joint=joint)
        transform = json.loads(str(part["joint_transform"].values))
        inner = np.eye(4)
        for name, axis in transform.items():
            value = evaluate(axis["function"], [values[c] for c in axis["coordinates"]])
            step = np.eye(4)
            if name.startswith("rotation"):
                step[:3, :3] = rodrigues(np.array(axis["axis"]), value)
                inner = inner @ step
            else:
                inner[:3, 3] += np.array(axis["axis"]) * value
        parent = frame(part["joint_parent_location"].values, part["joint_parent_orientation"].values)
        child = frame(part["joint_child_location"].values, part["joint_child_orientation"].values)
        frames[str(part["joint_child"].values)] = frames[str(part["joint_parent"].values)] @ parent @ inner @ np.linalg.inv(child)
    stations = np.c_[ds["marker_location"].values, np.ones(ds.sizes["marker"])]
    return np.array([(frames[str(b)] @ s)[:3] for b, s in zip(ds["marker_body"].values, stations, strict=True)])


def evaluate(function: dict[str, Any], arguments: list[float]) -> float:
    if function["type"] == "Constant":
        return float(function["value"])
    if function["type"] == "MultiplierFunction":
        return float(function["scale"]) * evaluate(function["function"], arguments)
    assert function["type"] == "LinearFunction"
    slope, offset = function["coefficients"]
    return float(slope * arguments[0] + offset)


def rodrigues(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def frame(location: np.ndarray, angles: np.ndarray) -> np.ndarray:
    out = np.eye(4)
    for axis, angle in zip(np.eye(3), angles, strict=True):
        out[:3, :3] = out[:3, :3] @ rodrigues(axis, angle)
    out[:3, 3] = location
    return out


def test_simple_joints_speak_the_same_language_as_custom_ones() -> None:
    ds = ADAPTER.load(two_bodies()).dataset
    hinge = json.loads(str(ds["joint_transform"].sel(joint="knee").values))
    assert hinge["rotation3"] == {"axis": [0.0, 0.0, 1.0], "coordinates": ["knee_coord_0"], "function": {"type": "LinearFunction", "coefficients": [1.0, 0.0]}}
    assert all(not axis["coordinates"] for name, axis in hinge.items() if name != "rotation3")
    np.testing.assert_allclose(ds["joint_parent_location"].sel(joint="knee"), [0, -0.4, 0])
    np.testing.assert_allclose(ds["joint_parent_orientation"].sel(joint="knee"), [0.1, 0.2, 0.3])
    assert ds.attrs["foot_bodies"] == [] and ds.attrs["root_coordinates"] == [] and ds.attrs["knee_sign"] == 0


def test_couplings_are_told(person_file: Path) -> None:
    osim = import_opensim()
    model = two_bodies()
    coupler = osim.CoordinateCouplerConstraint()
    coupler.setName("follow")
    leaders = osim.ArrayStr()
    leaders.append("hip_coord_0")
    coupler.setIndependentCoordinateNames(leaders)
    coupler.setDependentCoordinateName("knee_coord_0")
    coupler.setFunction(osim.LinearFunction(-0.5, 0.1))
    model.addConstraint(coupler)
    model.finalizeConnections()
    ds = ADAPTER.load(model).dataset
    assert str(ds["coordinate_coupling"].sel(coordinate="hip_coord_0").values) == ""
    told = json.loads(str(ds["coordinate_coupling"].sel(coordinate="knee_coord_0").values))
    assert told == {"coordinates": ["hip_coord_0"], "function": {"type": "LinearFunction", "coefficients": [-0.5, 0.1]}, "scale": 1.0}
    mechanics = OpenSimMechanics(model)
    np.testing.assert_allclose(mechanics.couple(np.array([[0.4, 9.0]])), [[0.4, -0.1]])


@pytest.mark.parametrize(("flip", "sign"), [(False, 1), (True, -1)])
def test_knee_sign_is_found_by_bending(person_file: Path, tmp_path: Path, flip: bool, sign: int) -> None:
    text = person_file.read_text()
    file = tmp_path / "model.osim"
    file.write_text(flip_knees(text) if flip else text)
    assert ADAPTER.load(file).dataset.attrs["knee_sign"] == sign


def flip_knees(text: str) -> str:
    """Turn the axis that each knee angle turns about."""
    pattern = r"(<coordinates>knee_angle_[rl]</coordinates>\s*<axis>)([^<]*)(</axis>)"
    flipped, count = re.subn(pattern, lambda m: m[1] + " ".join(str(-float(v)) for v in m[2].split()) + m[3], text)
    assert count == 2
    return flipped


def test_missing_empty_and_cut_files_are_told_apart(person_file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="does not exist"):
        ADAPTER.load(tmp_path / "none.osim")
    (tmp_path / "empty.osim").touch()
    with pytest.raises(FileFormatError, match="empty"):
        ADAPTER.load(tmp_path / "empty.osim")
    whole = person_file.read_text()
    (tmp_path / "cut.osim").write_text(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match=r"line \d+"):
        ADAPTER.load(tmp_path / "cut.osim")
    (tmp_path / "other.osim").write_text("<OpenSimDocument Version='40000'><ExternalLoads/></OpenSimDocument>")
    with pytest.raises(FileFormatError, match="not an OpenSim model"):
        ADAPTER.load(tmp_path / "other.osim")


@pytest.mark.parametrize("entity", ['<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">', '<!ENTITY b SYSTEM "file:///etc/hostname">'])
def test_entities_are_refused_before_opensim_reads_them(person_file: Path, tmp_path: Path, entity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = person_file.read_text().split("?>", 1)[-1]
    bomb = tmp_path / "bomb.osim"
    bomb.write_text(f'<?xml version="1.0"?><!DOCTYPE x [{entity}]>{body}')
    monkeypatch.setattr(import_opensim(), "Model", lambda *_: pytest.fail("OpenSim was handed the file"))
    with pytest.raises(FileFormatError, match="entit"):
        ADAPTER.load(bomb)


def test_a_future_document_version_is_warned_of(person_file: Path, tmp_path: Path) -> None:
    text, count = re.subn(r'OpenSimDocument Version="\d+"', 'OpenSimDocument Version="99900"', person_file.read_text())
    assert count == 1
    (tmp_path / "future.osim").write_text(text)
    with pytest.warns(DataWarning, match="99900 is newer"):
        assert ADAPTER.load(tmp_path / "future.osim").dataset.attrs["mass"] == pytest.approx(70.0)


@pytest.mark.parametrize("mass", [-1.0, 0.0])
def test_masses_that_break_dynamics_are_refused_by_name(mass: float) -> None:
    model = two_bodies()
    shank = model.updBodySet().get("shank")
    shank.set_mass(mass)
    shank.set_inertia(import_opensim().Vec6(0))
    with pytest.raises(InputError, match=r"shank.*give that body a positive mass"):
        ADAPTER.load(model)


@pytest.mark.parametrize("mass", ["-1", "0", "nan"])
def test_masses_that_break_dynamics_are_refused_in_files(person_file: Path, tmp_path: Path, mass: str) -> None:
    text, count = re.subn(
        r'(<Body name="hand_l">.*?<mass>)[^<]*(</mass>.*?<inertia>)[^<]*', rf"\g<1>{mass}\g<2>0 0 0 0 0 0", person_file.read_text(), count=1, flags=re.DOTALL
    )
    assert count == 1
    (tmp_path / "light.osim").write_text(text)
    with pytest.raises((InputError, FileFormatError), match=r"light.osim: .*hand_l.*positive mass"):
        ADAPTER.load(tmp_path / "light.osim")


@pytest.mark.parametrize("model", [{"shank": 0.0, "inertia": 0.0, "weld": True}, {"thigh": 0.0}])
def test_massless_bodies_that_do_not_break_dynamics_are_lawful(model: dict[str, Any]) -> None:
    loaded = ADAPTER.load(two_bodies(**model))
    q = np.full((1, loaded.dataset.sizes["coordinate"]), 0.3)
    assert np.isfinite(OpenSimMechanics(loaded.native).inverse_dynamics(q, q, q)).all()


def test_scaled_mass_scales_every_force(person_file: Path) -> None:
    loaded = ADAPTER.load(person_file)
    scaled = scale_mass(loaded, 77.0)
    assert scaled.dataset.attrs["mass"] == 77.0 and float(scaled.dataset["body_mass"].sum()) == pytest.approx(77.0)
    assert scaled.dataset.attrs["log"].splitlines()[-1].startswith("masses and inertias scaled by 1.1 ")
    validate_model(scaled.dataset)
    light, heavy = OpenSimMechanics(loaded.native), OpenSimMechanics(scaled.native)
    q, qd, qdd = np.random.default_rng(1).normal(size=(3, 2, len(light.coordinates)))
    np.testing.assert_allclose(heavy.inverse_dynamics(q, qd, qdd), 1.1 * light.inverse_dynamics(q, qd, qdd), rtol=1e-9, atol=1e-9)
    assert light.mass == pytest.approx(70.0)
    for wrong in (0.0, -3.0, float("nan")):
        with pytest.raises(InputError, match="positive number"):
            scale_mass(loaded, wrong)


def test_loading_says_nothing_on_the_console(person_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mesh = person_file.read_text().replace(
        "<attached_geometry/>", '<attached_geometry><Mesh name="m"><mesh_file>none.vtp</mesh_file></Mesh></attached_geometry>'
    )
    (tmp_path / "mesh.osim").write_text(mesh)
    OpenSimMechanics(ADAPTER.load(tmp_path / "mesh.osim").native)
    out, err = capfd.readouterr()
    assert out == "" and err == ""
    assert [p.name for p in tmp_path.iterdir()] == ["mesh.osim"]


@pytest.mark.slow
def test_every_recorded_model_loads(data_dir: Path) -> None:
    files = sorted(data_dir.rglob("*.osim"))
    assert len(files) >= 80
    for file in files:
        ds = ADAPTER.load(file).dataset
        name = file.relative_to(data_dir)
        assert ds.attrs["knee_sign"] in ((0,) if file.name == "arm26.osim" else (-1, 1)), name
        assert bool(ds.attrs["root_body"]) == (file.name != "arm26.osim"), name


@pytest.mark.parametrize(
    ("part", "sign"), [("Gait2392_Simbody/OutputReference/subject01_simbody.osim", -1), ("Hamner/outputReference/subject02_scaled.osim", -1)]
)
def test_knee_sign_of_known_models(data_dir: Path, part: str, sign: int) -> None:
    assert ADAPTER.load(data_dir / "opensim_models_pipelines" / part).dataset.attrs["knee_sign"] == sign


def test_knee_sign_of_the_rajagopal_model(data_dir: Path) -> None:
    model = data_dir / "opensim_core_tests_moco/OpenSim/Examples/Moco/example3DWalking/subject_walk_scaled.osim"
    ds = ADAPTER.load(model).dataset
    assert ds.attrs["knee_sign"] == 1
    assert json.loads(str(ds["coordinate_coupling"].sel(coordinate="knee_angle_r_beta").values))["coordinates"] == ["knee_angle_r"]
    assert str(ds["coordinate_kind"].sel(coordinate="knee_angle_r_beta").values) == "coupled"
