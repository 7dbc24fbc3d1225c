"""A generated person's model: masses, proportions, symmetry, and that OpenSim reads it without a word."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imdy_plugin._opensim import import_opensim
from imdy_plugin.errors import InputError
from imdy_plugin.sim.anthropometry import DE_LEVA, segment_table
from imdy_plugin.sim.person import Body, Person, build_person, design_person, write_person

PEOPLE = [(1.75, 70.0, None), (1.60, 52.0, "female"), (1.95, 120.0, "male")]


@pytest.fixture(params=PEOPLE, ids=["mean", "female", "male"])
def who(request: pytest.FixtureRequest) -> tuple[float, float, Any]:
    return request.param


@pytest.fixture
def native(who: tuple[float, float, Any], tmp_path: Path) -> Any:
    return import_opensim().Model(str(write_person(tmp_path / "model.osim", *who)))


@pytest.mark.parametrize("sex", ["male", "female", None])
def test_segment_masses_sum_to_one_and_stay_near_the_table(sex: Any) -> None:
    table = segment_table(sex)
    paired = ("upper_arm", "forearm", "hand", "thigh", "shank", "foot")
    assert math.fsum(s.mass * (2 if n in paired else 1) for n, s in table.items()) == pytest.approx(1, abs=1e-12)
    for name, segment in table.items():
        masses = sorted(t[name].mass for t in DE_LEVA.values())
        assert masses[0] * 0.999 <= segment.mass <= masses[-1] * 1.001


def test_mass_height_and_center_of_mass(native: Any, who: tuple[float, float, Any]) -> None:
    height, mass, _ = who
    state = native.initSystem()
    assert native.getTotalMass(state) == pytest.approx(mass, abs=1e-9)
    assert math.fsum(b.mass for b in design_person(*who).bodies) == pytest.approx(mass, abs=1e-9)
    center = native.calcMassCenterPosition(state).to_numpy()
    assert 0.55 <= center[1] / height <= 0.58
    assert center[2] == pytest.approx(0, abs=1e-12)


def test_the_soles_touch_the_floor_and_the_head_reaches_the_height(native: Any, who: tuple[float, float, Any]) -> None:
    height = who[0]
    state = native.initSystem()
    native.realizePosition(state)
    for side in "rl":
        assert native.getBodySet().get(f"calcn_{side}").getPositionInGround(state).to_numpy()[1] == pytest.approx(0, abs=1e-12)
    torso = native.getBodySet().get("torso").getPositionInGround(state).to_numpy()
    body = next(b for b in design_person(*who).bodies if b.name == "torso")
    assert max(torso[1] + s.center[1] + s.radii[1] for s in body.shapes) == pytest.approx(height, abs=1e-9)


def test_inertias_are_lawful(who: tuple[float, float, Any]) -> None:
    for body in design_person(*who).bodies:
        x, y, z = body.inertia
        assert min(x, y, z) > 0, body.name
        assert max(x, y, z) <= x + y + z - max(x, y, z) + 1e-12, body.name


def test_the_parts_of_the_foot_make_the_foot_of_the_table() -> None:
    person = design_person(1.75, 70.0, "male")
    parts = [b for b in person.bodies if b.name in ("talus_r", "calcn_r", "toes_r")]
    segment = segment_table("male")["foot"]
    assert math.fsum(b.mass for b in parts) == pytest.approx(segment.mass * 70)
    x = [_in_ankle(person, b) for b in parts]
    length = 0.152 * 1.75
    center = sum(b.mass * p for b, p in zip(parts, x, strict=True)) / (segment.mass * 70)
    assert center == pytest.approx((segment.center_of_mass - 0.25) * length)


def _in_ankle(person: Person, body: Body) -> float:
    """Forward place of a foot body's centre of mass, from the ankle."""
    calcn = next(b for b in person.bodies if b.name == "calcn_r")
    origin = {"talus_r": 0.0, "calcn_r": -calcn.location_in_child[0]}.get(body.name, -calcn.location_in_child[0] + body.location[0])
    return origin + body.center_of_mass[0]


def test_left_mirrors_right(who: tuple[float, float, Any]) -> None:
    bodies = {b.name: b for b in design_person(*who).bodies}
    for name, right in bodies.items():
        if name.endswith("_r"):
            left = bodies[name[:-2] + "_l"]
            assert left.mass == right.mass and left.inertia == right.inertia
            assert left.center_of_mass == (right.center_of_mass[0], right.center_of_mass[1], -right.center_of_mass[2])
            assert [a.coordinate for a in left.axes] == [a.coordinate[:-2] + "_l" for a in right.axes]


SIGNS = {
    "hip_flexion_r": ("femur_r", (0, -0.4, 0), 0, 1),
    "hip_flexion_l": ("femur_l", (0, -0.4, 0), 0, 1),
    "hip_adduction_r": ("femur_r", (0, -0.4, 0), 2, -1),
    "hip_adduction_l": ("femur_l", (0, -0.4, 0), 2, 1),
    "hip_rotation_r": ("femur_r", (0.1, 0, 0), 2, -1),
    "hip_rotation_l": ("femur_l", (0.1, 0, 0), 2, 1),
    "knee_angle_r": ("tibia_r", (0, -0.4, 0), 0, -1),
    "knee_angle_l": ("tibia_l", (0, -0.4, 0), 0, -1),
    "ankle_angle_r": ("calcn_r", (0.2, 0, 0), 1, 1),
    "ankle_angle_l": ("calcn_l", (0.2, 0, 0), 1, 1),
    "subtalar_angle_r": ("calcn_r", (0.05, 0, 0), 2, -1),
    "subtalar_angle_l": ("calcn_l", (0.05, 0, 0), 2, 1),
    "mtp_angle_r": ("toes_r", (0.05, 0, 0), 1, -1),
    "lumbar_extension": ("torso", (0, 0.4, 0), 0, -1),
    "lumbar_bending": ("torso", (0, 0.4, 0), 2, 1),
    "lumbar_rotation": ("torso", (0, 0, 0.2), 0, 1),
    "arm_flex_r": ("humerus_r", (0, -0.3, 0), 0, 1),
    "arm_add_r": ("humerus_r", (0, -0.3, 0), 2, -1),
    "arm_add_l": ("humerus_l", (0, -0.3, 0), 2, 1),
    "elbow_flex_r": ("ulna_r", (0, -0.2, 0), 0, 1),
    "pro_sup_r": ("radius_r", (0.1, 0, 0), 2, -1),
    "pro_sup_l": ("radius_l", (0.1, 0, 0), 2, 1),
}


@pytest.fixture(scope="module")
def mean_person(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return import_opensim().Model(str(write_person(tmp_path_factory.mktemp("person") / "model.osim")))


@pytest.mark.parametrize("coordinate", SIGNS)
def test_coordinates_move_the_way_their_names_say(coordinate: str, mean_person: Any) -> None:
    opensim, model = import_opensim(), mean_person
    state = model.initSystem()
    body, point, axis, sign = SIGNS[coordinate]
    places = []
    for value in (0.0, 0.1):
        model.getCoordinateSet().get(coordinate).setValue(state, value)
        model.realizePosition(state)
        places.append(model.getBodySet().get(body).findStationLocationInGround(state, opensim.Vec3(*point)).to_numpy())
    assert sign * (places[1] - places[0])[axis] > 1e-3


def test_every_coordinate_has_an_actuator_and_every_segment_markers(native: Any) -> None:
    native.initSystem()
    coordinates = [native.getCoordinateSet().get(i).getName() for i in range(native.getCoordinateSet().getSize())]
    actuators = {native.getForceSet().get(i).getName() for i in range(native.getForceSet().getSize())}
    root = {"pelvis_tilt", "pelvis_list", "pelvis_rotation", "pelvis_tx", "pelvis_ty", "pelvis_tz"}
    assert actuators == {f"{c}_{'residual' if c in root else 'actuator'}" for c in coordinates}
    markers = [native.getMarkerSet().get(i) for i in range(native.getMarkerSet().getSize())]
    assert len(markers) >= 40
    carrying = {m.getParentFrame().getName() for m in markers}
    assert carrying >= {f"{b}_{s}" for b in ("femur", "tibia", "calcn", "toes", "humerus", "radius", "hand") for s in "rl"} | {"pelvis", "torso"}


_LOAD = """
import sys, opensim
opensim.Logger.removeFileSink()
opensim.Logger.setLevelString("Warn")
model = opensim.Model(sys.argv[1])
model.finalizeFromProperties()
model.initSystem()
"""


def _log_of_loading(path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", _LOAD, str(path)], capture_output=True, text=True, cwd=path.parent, timeout=120, check=False)
    return done.stdout + done.stderr


def test_opensim_reads_it_without_a_word(tmp_path: Path) -> None:
    good = write_person(tmp_path / "good.osim")
    assert _log_of_loading(good) == ""
    broken = tmp_path / "broken.osim"
    broken.write_text(good.read_text(encoding="utf-8").replace("/bodyset/calcn_r</socket_parent>", "/bodyset/heel_r</socket_parent>"), encoding="utf-8")
    assert _log_of_loading(broken) != ""


@pytest.mark.parametrize(
    ("height", "mass", "says"),
    [
        (0.0, 70.0, "1.2 to 2.3"),
        (-1.7, 70.0, "1.2 to 2.3"),
        (math.nan, 70.0, "1.2 to 2.3"),
        (math.inf, 70.0, "1.2 to 2.3"),
        (175.0, 70.0, "centimetres"),
        (1750.0, 70.0, "millimetres"),
        (1.75, 0.0, "between"),
        (1.75, -70.0, "between"),
        (1.75, math.nan, "between"),
        (1.75, 70_000.0, "grams"),
    ],
)
def test_what_is_no_person_is_refused_with_the_range(height: float, mass: float, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        write_person(tmp_path / "model.osim", height, mass)
    assert not list(tmp_path.iterdir())


def test_unknown_sex_is_refused() -> None:
    with pytest.raises(InputError, match="'male', 'female' or None"):
        build_person(sex="m")  # type: ignore[arg-type]


def test_people_of_different_height_are_similar() -> None:
    small, tall = design_person(1.5, 50.0), design_person(2.0, 100.0)
    for a, b in zip(small.bodies, tall.bodies, strict=True):
        assert np.array(b.location) == pytest.approx(np.array(a.location) * 2.0 / 1.5)
        assert b.mass == pytest.approx(2 * a.mass)
