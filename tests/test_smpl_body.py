"""Body models of the SMPL family: files in the smplx layout, shapes, masses, markers, and solving with them."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import imdy_plugin
from imdy_plugin.adapters.smpl.amass import FROM_Z_UP, read_amass, write_amass
from imdy_plugin.adapters.smpl.body_model import DENSITY, SmplBody, body_dataset, load_body_model
from imdy_plugin.adapters.smpl.convert import convert_body
from imdy_plugin.adapters.smpl.dataset import joint_offsets
from imdy_plugin.adapters.smpl.landmarks import skin_markers
from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.solid import close_holes, cut, enclosed_solid, open_edges, repeated_edges
from imdy_plugin.adapters.smpl.topology import FROM_SMPL, JOINTS, PARENTS
from imdy_plugin.errors import DataWarning, FileFormatError, InputError
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.standin import default_offsets
from imdy_plugin.solvers.imdys.landmarks import find_landmarks

Array = NDArray[np.float64]

RADII = {
    "pelvis": 0.11,
    "spine1": 0.11,
    "spine2": 0.11,
    "spine3": 0.11,
    "neck": 0.05,
    "head": 0.085,
    "collar": 0.07,
    "hip": 0.075,
    "knee": 0.05,
    "ankle": 0.036,
    "foot": 0.034,
    "shoulder": 0.045,
    "elbow": 0.037,
    "wrist": 0.034,
    "hand": 0.034,
}
"""Radii of the capsules around the bones of the test's body [m]."""

_TETRAHEDRA = np.array([[0, 1, 3, 7], [0, 3, 2, 7], [0, 2, 6, 7], [0, 6, 4, 7], [0, 4, 5, 7], [0, 5, 1, 7]])
"""Six tetrahedra of a cube around its diagonal; corner k lies at the bits of k."""


def place_joints(offsets: Array) -> Array:
    place = np.zeros((len(JOINTS), 3))
    for joint, parent in enumerate(PARENTS):
        place[joint] = offsets[joint] + (place[parent] if parent >= 0 else 0.0)
    return place


def bones(joints: Array) -> list[tuple[int, Array, Array, float]]:
    """Body, both ends and radius of each capsule, in the ground frame's axes."""
    ends = {"head": (0.02, 0.12, 0.0), "foot": (0.05, -0.01, 0.0), "hand": (0.0, 0.0, 0.07)}
    found = []
    for joint, name in enumerate(JOINTS):
        part = name.rsplit("_", 1)[-1]
        children = [c for c, p in enumerate(PARENTS) if p == joint]
        tips = [joints[c] for c in children if not (name == "spine3" and "collar" in JOINTS[c])]
        if name == "spine3":
            tips = [joints[joint] + 0.4 * (tips[0] - joints[joint])]
        if part in ends:
            tips = [joints[joint] + np.array(ends[part]) * [1, 1, -1 if name.startswith("left") else 1]]
        if part == "ankle":
            tips.append(joints[joint] + np.array([-0.04, -0.025, 0.0]))
        found += [(joint, joints[joint], tip, RADII[part]) for tip in tips]
    return found


def distances(points: Array, capsules: list[tuple[int, Array, Array, float]]) -> Array:
    """Distance of points from the skin of each capsule, ``(point, capsule)``."""
    columns = []
    for _, start, stop, radius in capsules:
        along = stop - start
        share = np.clip((points - start) @ along / (along @ along), 0.0, 1.0)
        columns.append(np.linalg.norm(points - start - share[:, None] * along, axis=1) - radius)
    return np.stack(columns, axis=1)


def march(value: Array, low: Array, step: float) -> tuple[Array, NDArray[np.int64]]:
    """Surface where values on a grid cross zero, by marching tetrahedra: always closed, corners anticlockwise from outside (above zero)."""
    shape = np.array(value.shape)
    flat, stride = value.ravel(), np.array([shape[1] * shape[2], shape[2], 1])
    corners = np.array(list(itertools.product((0, 1), repeat=3)))[:, ::-1]
    cells = np.stack(np.meshgrid(*(np.arange(n - 1) for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
    cube = cells @ stride
    tets = (cube[:, None] + (corners @ stride)[None])[:, _TETRAHEDRA].reshape(-1, 4)
    inside = flat[tets] < 0
    triangles: list[NDArray[np.int64]] = []
    for count in (1, 2, 3):
        chosen, within = tets[inside.sum(axis=1) == count], inside[inside.sum(axis=1) == count]
        order = np.argsort(~within, axis=1, kind="stable")
        t = np.take_along_axis(chosen, order, axis=1)
        pairs = {1: [[(0, 1), (0, 2), (0, 3)]], 3: [[(3, 0), (3, 1), (3, 2)]], 2: [[(0, 2), (0, 3), (1, 3)], [(0, 2), (1, 3), (1, 2)]]}[count]
        triangles += [np.stack([t[:, list(pair)] for pair in three], axis=1) for three in pairs]
    edges = np.sort(np.concatenate(triangles).reshape(-1, 2), axis=1)
    unique, faces = np.unique(edges, axis=0, return_inverse=True)
    place = np.stack(np.unravel_index(unique.ravel(), value.shape), axis=-1).reshape(-1, 2, 3) * step + low
    share = flat[unique[:, 0]] / (flat[unique[:, 0]] - flat[unique[:, 1]])
    vertices = place[:, 0] + share[:, None] * (place[:, 1] - place[:, 0])
    faces = faces.reshape(-1, 3).astype(np.int64)
    return vertices, turned_outwards(vertices, faces, value, low, step)


def turned_outwards(vertices: Array, faces: NDArray[np.int64], value: Array, low: Array, step: float) -> NDArray[np.int64]:
    from scipy.interpolate import RegularGridInterpolator

    field = RegularGridInterpolator([low[k] + step * np.arange(n) for k, n in enumerate(value.shape)], value, bounds_error=False, fill_value=None)
    corner = vertices[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    small = 0.2 * step * normal / np.maximum(length, 1e-15)
    middle = corner.mean(axis=1)
    inward = field(middle + small) < field(middle - small)
    faces[inward] = faces[inward][:, ::-1]
    return faces


def make_mesh(joints: Array, step: float = 0.04) -> tuple[Array, NDArray[np.int64]]:
    """A closed skin around the bones."""
    low, high = joints.min(axis=0) - 0.18, joints.max(axis=0) + 0.22
    counts = np.ceil((high - low) / step).astype(int) + 1
    grid = np.stack(np.meshgrid(*(low[k] + step * np.arange(counts[k]) for k in range(3)), indexing="ij"), axis=-1)
    depth = distances(grid.reshape(-1, 3), bones(joints))
    blended = -np.log(np.exp(-50.0 * depth).sum(axis=1)) / 50.0
    return march(blended.reshape(counts), low, step)


def make_weights(vertices: Array, joints: Array) -> Array:
    """How much each body moves each vertex: the nearer its bones, the more."""
    capsules = bones(joints)
    near = np.exp(-40.0 * np.abs(distances(vertices, capsules)))
    weights = np.zeros((len(vertices), len(JOINTS)))
    for column, (body, *_) in enumerate(capsules):
        weights[:, body] += near[:, column]
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def make_regressor(vertices: Array, joints: Array) -> Array:
    """Weights of the vertices around each joint whose mean it is."""
    regressor = np.zeros((len(joints), len(vertices)))
    for row, joint in zip(regressor, joints, strict=True):
        near = np.argsort(np.linalg.norm(vertices - joint, axis=1))[:60]
        system = np.vstack([vertices[near].T, np.ones(len(near))])
        row[near] = np.linalg.pinv(system) @ [*joint, 1.0]
    return regressor


def make_arrays() -> dict[str, Any]:
    """What a file of a body model holds, in SMPL's axes; its first shape component makes the body larger, the second wider."""
    joints = place_joints(default_offsets(1.75))
    joints = joints - joints[0] + np.array([0.03, -0.2, 0.0])
    vertices, faces = make_mesh(joints)
    turned = vertices @ FROM_SMPL
    directions = np.random.default_rng(0).normal(0.0, 1e-3, (len(vertices), 3, 10))
    directions[..., 0], directions[..., 1] = 0.05 * turned, 0.05 * turned * [1.0, 0.0, 1.0]
    return {
        "v_template": turned,
        "shapedirs": directions,
        "J_regressor": make_regressor(vertices, joints),
        "kintree_table": np.array([[2**32 - 1, *PARENTS[1:]], range(24)], dtype=np.uint32),
        "weights": make_weights(vertices, joints),
        "f": faces.astype(np.uint32),
    }


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    return make_arrays()


def save(path: Path, arrays: dict[str, Any], **changed: Any) -> Path:
    content = {**arrays, **changed}
    np.savez(path, allow_pickle=False, **{name: array for name, array in content.items() if array is not None})
    return path


@pytest.fixture(scope="module")
def smpl_file(arrays: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the layout of the smplx package."""
    return save(tmp_path_factory.mktemp("smpl") / "SMPL_NEUTRAL.npz", arrays)


# Solids --------------------------------------------------------------------------------------------------------------------------

BOX = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
BOX_FACES = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]])


def ball(step: float, radii: Array, center: Array) -> tuple[Array, NDArray[np.int64]]:
    low = np.array([-1.2137, -1.2071, -1.2291])  # no corner of the grid lies on the ball
    axes = [start + step * np.arange(int(2.43 / step) + 2) for start in low]
    value = np.linalg.norm(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), axis=-1) - 1.0
    vertices, faces = march(value, low, step)
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True) * radii + center, faces


def test_a_box_is_exact() -> None:
    size, corner = np.array([0.3, 0.5, 0.2]), np.array([2.0, -1.0, 0.5])
    solid = enclosed_solid((BOX * size + corner)[BOX_FACES])
    volume = float(np.prod(size))
    assert solid.volume == pytest.approx(volume, rel=1e-12)
    np.testing.assert_allclose(solid.center, corner + size / 2, rtol=1e-12)
    np.testing.assert_allclose(solid.inertia, volume / 12 * np.diag((size**2).sum() - size**2), atol=1e-12 * volume)


def test_an_ellipsoid_is_off_by_its_mesh_alone() -> None:
    """A polyhedron inscribed in an ellipsoid is smaller by the square of its edges; halving them quarters the error."""
    radii, center = np.array([0.1, 0.2, 0.15]), np.array([1.0, 2.0, 3.0])
    volume = 4 / 3 * np.pi * float(np.prod(radii))
    inertia = volume / 5 * np.diag((radii**2).sum() - radii**2)
    errors = []
    for step in (0.1, 0.05):
        vertices, faces = ball(step, radii, center)
        solid = enclosed_solid(vertices[faces])
        np.testing.assert_allclose(solid.center, center, atol=1e-5)
        errors.append((1 - solid.volume / volume, 1 - np.trace(solid.inertia) / np.trace(inertia)))
        np.testing.assert_allclose(solid.inertia, inertia, atol=0.01 * np.trace(inertia))
    assert 0 < errors[1][0] < 0.001 < errors[0][0] < 0.004
    assert errors[1][1] < 0.002
    np.testing.assert_allclose(np.array(errors[0]) / errors[1], 4.0, rtol=0.1)


def test_a_cut_box_is_two_boxes() -> None:
    """Weights that change along x cut the box where both bodies move the skin alike, here at 0.3; the point of the cut lies in that plane."""
    weights = np.stack([0.3 - BOX[:, 0], BOX[:, 0] - 0.3], axis=1)
    solids = cut(BOX, BOX_FACES, weights, lambda *_: np.array([0.3, 0.4, 0.9]))
    assert solids[0].volume == pytest.approx(0.3, rel=1e-12)
    assert solids[1].volume == pytest.approx(0.7, rel=1e-12)
    np.testing.assert_allclose(solids[1].center, [0.65, 0.5, 0.5], rtol=1e-12)
    np.testing.assert_allclose(solids[0].inertia, 0.3 / 12 * np.diag([2.0, 1.09, 1.09]), atol=1e-13)


def test_parts_of_a_cut_add_up_to_the_whole() -> None:
    vertices, faces = ball(0.2, np.array([0.3, 0.2, 0.25]), np.array([0.5, -0.3, 1.0]))
    directions = np.array([[1.0, 0, 0], [-0.5, 0.9, 0], [-0.5, -0.9, 0], [0, 0, 1.2]])
    weights = (vertices - np.array([0.5, -0.3, 1.0])) @ directions.T
    solids = cut(vertices, faces, weights, lambda *_: np.array([0.5, -0.3, 1.0]))
    whole = enclosed_solid(vertices[faces])
    assert len(solids) == 4
    assert sum(s.volume for s in solids.values()) == pytest.approx(whole.volume, rel=1e-12)
    np.testing.assert_allclose(sum(s.first for s in solids.values()), whole.first, rtol=1e-11)
    np.testing.assert_allclose(sum(s.second for s in solids.values()), whole.second, atol=1e-14)


def test_holes_are_found_and_closed() -> None:
    vertices, faces = ball(0.1, np.ones(3), np.zeros(3))
    assert len(open_edges(faces)) == repeated_edges(faces) == 0
    assert len(open_edges(faces[3:])) > 0
    closed, more, holes = close_holes(vertices, faces[3:])
    assert holes >= 1
    assert len(open_edges(more)) == 0
    assert enclosed_solid(closed[more]).volume == pytest.approx(enclosed_solid(vertices[faces]).volume, rel=1e-3)
    assert repeated_edges(np.vstack([faces, faces[:1]])) == 3


# The file ------------------------------------------------------------------------------------------------------------------------


def test_joints_and_skin_of_the_mean_shape(smpl_file: Path, arrays: dict[str, Any]) -> None:
    model = load_body_model(smpl_file)
    vertices, joints = model.shape()
    np.testing.assert_array_equal(vertices, arrays["v_template"])
    np.testing.assert_allclose(joints, arrays["J_regressor"] @ arrays["v_template"], atol=1e-12)
    assert (model.kind, model.parents) == ("SMPL", PARENTS)
    np.testing.assert_allclose(model.joints()[JOINTS.index("left_hip")] - model.joints()[0], default_offsets(1.75)[1], atol=1e-9)


def test_a_shape_is_a_weighted_sum(smpl_file: Path, arrays: dict[str, Any]) -> None:
    betas = np.random.default_rng(5).normal(size=10)
    expected = arrays["v_template"].copy()
    for component, weight in enumerate(betas):
        expected += weight * arrays["shapedirs"][:, :, component]
    vertices, joints = load_body_model(smpl_file).shape(betas)
    np.testing.assert_allclose(vertices, expected, atol=1e-14)
    np.testing.assert_allclose(joints, arrays["J_regressor"] @ expected, atol=1e-14)


def test_too_many_betas_are_an_error_with_shapes_and_few_are_padded(smpl_file: Path) -> None:
    model = load_body_model(smpl_file)
    with pytest.raises(InputError, match=r"betas have shape \(300,\).*shapes of SMPL model 'SMPL_NEUTRAL' are \(\d+, 3, 10\): it has 10"):
        model.shape(np.zeros(300))
    with pytest.raises(InputError, match=r"betas have shape \(2, 10\)"):
        model.shape(np.zeros((2, 10)))
    with pytest.raises(InputError, match="finite"):
        model.shape([np.nan])
    np.testing.assert_array_equal(model.shape([0.5])[0], model.shape([0.5, *[0.0] * 9])[0])
    dataset = body_dataset(model, [0.5, 0.1], 70.0)
    assert "2 of 10 shape components given, the others are zero" in dataset.attrs["log"]
    assert "components given" not in body_dataset(model, np.zeros(10), 70.0).attrs["log"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": None}, "lacks weights of a body model"),
        ({"shapedirs": np.zeros((3, 3, 10))}, r"do not fit each other: .*shapedirs \(3, 3, 10\)"),
        ({"kintree_table": np.zeros((2, 24), int)}, "joints hang on"),
        ({"f": np.array([[0, 1, 10**6]])}, "faces name vertices up to 1000000"),
        ({"v_template": np.full((4, 3), "x")}, "no finite number"),
    ],
)
def test_files_that_are_no_body_models(tmp_path: Path, arrays: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        load_body_model(save(tmp_path / "odd.npz", arrays, **changed))


def test_objects_and_motions_in_the_place_of_a_model(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, allow_pickle=True, **{**arrays, "J_regressor": np.array([None])})
    with pytest.raises(FileFormatError, match="'J_regressor' holds Python objects"):
        load_body_model(path)
    np.savez(path, allow_pickle=True, **arrays, joint2num=np.array([None]))
    load_body_model(path)
    np.savez(path, poses=np.zeros((3, 72)))
    with pytest.raises(FileFormatError, match=r"it holds poses -- give it as the motion"):
        load_body_model(path)


def with_more_joints(arrays: dict[str, Any], hands: tuple[int, int], between: int) -> dict[str, Any]:
    """SMPL+H (no joints between wrists and hands) or SMPL-X (jaw and eyes): the hand is the root of the middle finger."""
    count = 22 + between + 30
    parents = [*PARENTS[:22], *[15] * between, *[20] * 15, *[21] * 15]
    regressor, weights = np.zeros((count, arrays["weights"].shape[0])), np.zeros((arrays["weights"].shape[0], count))
    rows = [*range(22), *hands]
    regressor[rows], weights[:, rows] = arrays["J_regressor"], arrays["weights"]
    weights[:, hands[0] + 2] = 0.25 * weights[:, hands[0]]
    weights[:, hands[0]] *= 0.75
    if between:
        weights[:, 22] = 0.25 * weights[:, 15]
        weights[:, 15] *= 0.75
    return {**arrays, "J_regressor": regressor, "weights": weights, "kintree_table": np.array([parents, range(count)])}


@pytest.mark.parametrize(("kind", "hands", "between"), [("SMPL+H", (25, 40), 0), ("SMPL-X", (28, 43), 3)])
def test_fingers_are_the_hand_and_the_jaw_the_head(tmp_path: Path, arrays: dict[str, Any], kind: str, hands: tuple[int, int], between: int) -> None:
    model = load_body_model(save(tmp_path / "more.npz", with_more_joints(arrays, hands, between)))
    assert model.kind == kind
    plain = load_body_model(save(tmp_path / "plain.npz", arrays))
    np.testing.assert_allclose(model.body_weights(), plain.body_weights(), atol=1e-15)
    np.testing.assert_allclose(model.joints(), plain.joints(), atol=1e-12)
    np.testing.assert_allclose(body_dataset(model, mass=70.0)["body_inertia"], body_dataset(plain, mass=70.0)["body_inertia"], atol=1e-12)


@pytest.mark.parametrize(("stored", "shapes"), [(20, 10), (400, 300), (16, 10)])
def test_expressions_are_no_shapes(tmp_path: Path, arrays: dict[str, Any], stored: int, shapes: int) -> None:
    more = with_more_joints(arrays, (28, 43), 3)
    path = save(tmp_path / "x.npz", more, shapedirs=np.zeros((*arrays["v_template"].shape, stored), np.float32))
    assert load_body_model(path).directions.shape[2] == shapes


# The person ----------------------------------------------------------------------------------------------------------------------


def test_masses_and_inertias_are_those_of_the_skin(smpl_file: Path) -> None:
    """All bodies together have the mass, centre and inertia of what the whole skin encloses."""
    model, dataset = load_body_model(smpl_file), SmplBody(smpl_file, mass=75.0).load()
    whole = enclosed_solid((model.template @ FROM_SMPL.T)[model.faces])
    density = 75.0 / whole.volume
    masses = dataset["body_mass"].values
    centers = dataset["body_center_of_mass"].values + model.joints()
    assert masses.sum() == pytest.approx(75.0, rel=1e-12)
    np.testing.assert_allclose(masses @ centers / 75.0, whole.center, atol=1e-12)
    xx, yy, zz, xy, xz, yz = dataset["body_inertia"].values.T
    total = np.stack([np.stack([xx, xy, xz]), np.stack([xy, yy, yz]), np.stack([xz, yz, zz])]).transpose(2, 0, 1)
    apart = centers - masses @ centers / 75.0
    total = total + masses[:, None, None] * ((apart**2).sum(axis=1)[:, None, None] * np.eye(3) - apart[:, :, None] * apart[:, None, :])
    np.testing.assert_allclose(total.sum(axis=0), density * whole.inertia, atol=1e-10)


def test_left_and_right_are_alike(smpl_file: Path) -> None:
    dataset = SmplBody(smpl_file, mass=75.0).load()
    masses = dict(zip(JOINTS, dataset["body_mass"].values, strict=True))
    for name in JOINTS:
        if name.startswith("left"):
            assert masses[name] == pytest.approx(masses[name.replace("left", "right")], rel=0.05, abs=0.005), name
    assert (dataset["body_mass"] > 0).all()


def test_mass_is_estimated_from_volume_where_nobody_says_it(smpl_file: Path) -> None:
    dataset = SmplBody(smpl_file).load()
    assert dataset.attrs["mass"] == pytest.approx(DENSITY * dataset.attrs["volume"], rel=1e-12)
    assert "estimated from" in dataset.attrs["mass_source"]
    assert "estimated from" in dataset.attrs["log"]
    assert SmplBody(smpl_file, mass=80.0).load().attrs["mass_source"] == "given"
    with pytest.raises(InputError, match="mass is -3"):
        SmplBody(smpl_file, mass=-3.0).load()


def test_shape_scales_mass_length_and_inertia(smpl_file: Path) -> None:
    mean, large = SmplBody(smpl_file).load(), SmplBody(smpl_file, betas=[2.0]).load()
    assert large.attrs["height"] / mean.attrs["height"] == pytest.approx(1.1, rel=1e-6)
    np.testing.assert_allclose(joint_offsets(large), 1.1 * joint_offsets(mean), atol=1e-9)
    np.testing.assert_allclose(large["body_mass"], 1.1**3 * mean["body_mass"], rtol=1e-9)
    np.testing.assert_allclose(large["body_inertia"], 1.1**5 * mean["body_inertia"], atol=1e-9)


def test_soles_are_under_the_feet_and_on_the_ground(smpl_file: Path) -> None:
    model, dataset = load_body_model(smpl_file), SmplBody(smpl_file, mass=75.0).load()
    joints = model.joints()
    lowest = float((model.template @ FROM_SMPL.T)[:, 1].min())
    assert float(dataset["coordinate_default"].sel(coordinate="pelvis_ty")) == pytest.approx(joints[0][1] - lowest, abs=1e-9)
    heels = np.reshape(dataset.attrs["heel_points"], (2, 3))
    assert (heels[:, 0] < -0.03).all()
    assert (heels[:, 1] < -0.05).all()
    for body, points in dataset.attrs["sole_points"].items():
        at = joints[JOINTS.index(body)] + np.asarray(points)
        np.testing.assert_allclose(at[:, 1], lowest, atol=1e-9)
        assert np.ptp(at[:, 2]) > 0.03


def test_markers_are_landmarks_on_the_skin(smpl_file: Path) -> None:
    model, dataset = load_body_model(smpl_file), SmplBody(smpl_file, mass=75.0).load()
    found = find_landmarks([str(n) for n in dataset["marker"].values])
    assert len(found) == dataset.sizes["marker"] == 45
    skin = model.template @ FROM_SMPL.T
    bodies = [JOINTS.index(str(b)) for b in dataset["marker_body"].values]
    at = model.joints()[bodies] + dataset["marker_location"].values
    assert all(np.linalg.norm(skin - place, axis=1).min() < 1e-9 for place in at)
    place = dict(zip(dataset["marker"].values, at, strict=True))
    assert place["RASI"][2] > 0.05 > -0.05 > place["LASI"][2]
    assert place["RTOE"][0] > place["RANK"][0] > place["RHEE"][0]
    assert place["C7"][1] > place["T10"][1] > place["SACR"][1]
    assert place["STRN"][0] > 0.05 > -0.05 > place["T10"][0]
    assert place["RKNE"][2] > place["RMKNEE"][2] >= place["LMKNEE"][2] > place["LKNE"][2]


def test_vertices_of_the_table_are_taken_where_they_lie_near() -> None:
    joints = place_joints(default_offsets(1.75))
    skin = np.random.default_rng(0).normal(0.0, 0.6, (6890, 3))
    hip = joints[JOINTS.index("pelvis")]
    skin[4343], skin[3122] = hip + np.array([0.11, 0.02, 0.13]), hip + np.array([0.5, 0.0, 0.0])
    markers, told = skin_markers(skin, joints)
    np.testing.assert_allclose(markers["RASI"][1], [0.11, 0.02, 0.13], atol=1e-12)
    assert np.linalg.norm(markers["LPSI"][1] - [0.5, 0.0, 0.0]) > 0.3
    assert "at the vertices of the table" in told


def test_a_skin_without_a_body_is_an_error(arrays: dict[str, Any], tmp_path: Path) -> None:
    weights = arrays["weights"].copy()
    weights[:, JOINTS.index("left_hand")] = 0.0
    with pytest.raises(InputError, match="left_hand of 'odd' own no skin"):
        SmplBody(save(tmp_path / "odd.npz", arrays, weights=weights)).load()
    with pytest.raises(InputError, match="inside out"):
        SmplBody(save(tmp_path / "odd.npz", arrays, f=arrays["f"][:, ::-1])).load()


def test_holes_in_the_skin_are_closed_and_told(arrays: dict[str, Any], tmp_path: Path) -> None:
    head = np.argmax(arrays["v_template"][arrays["f"]].mean(axis=1)[:, 1])
    holed = SmplBody(save(tmp_path / "holed.npz", arrays, f=np.delete(arrays["f"], head, axis=0)), mass=75.0).load()
    whole = SmplBody(save(tmp_path / "whole.npz", arrays), mass=75.0).load()
    assert "1 holes of the skin closed" in holed.attrs["log"]
    np.testing.assert_allclose(holed["body_mass"], whole["body_mass"], rtol=1e-3)


# Solving -------------------------------------------------------------------------------------------------------------------------


def squat(model: xr.Dataset, depth: float, arms: float = 1.4, frames: int = 240) -> BodyMotion:
    """Two seconds on both feet, arms hanging, knees bending by ``2 * depth`` [rad] and straightening, feet where they are."""
    time = np.arange(frames) / 120
    bend = depth * 0.5 * (1 - np.cos(np.pi * time))
    rotation = np.zeros((frames, 24, 4))
    rotation[..., 0] = 1.0
    for side, sign in (("left", -1.0), ("right", 1.0)):
        turns = {"hip": ("z", bend), "knee": ("z", -2 * bend), "ankle": ("z", bend), "shoulder": ("x", np.full(frames, sign * arms))}
        for joint, (axis, angle) in turns.items():
            rotation[:, JOINTS.index(f"{side}_{joint}")] = Rotation.from_euler(axis, angle[:, None]).as_quat(scalar_first=True)
    offsets = joint_offsets(model)
    thigh, shank = (float(np.linalg.norm(offsets[JOINTS.index(f"left_{joint}")])) for joint in ("knee", "ankle"))
    height = float(model["coordinate_default"].sel(coordinate="pelvis_ty"))
    fall, back = (thigh + shank) * (1 - np.cos(bend)), (thigh - shank) * np.sin(bend)
    return BodyMotion(time, np.stack([-back, height - fall, np.zeros(frames)], axis=1), rotation, "squat")


@pytest.mark.parametrize("solver", ["physics", "imdys"])
def test_the_ground_carries_a_person_who_stands(smpl_file: Path, solver: str) -> None:
    body = SmplBody(smpl_file, mass=75.0)
    result = imdy_plugin.solve(body, squat(body.load(), 0.0), solver=solver)
    force = result["ground_force"].values
    np.testing.assert_allclose(force.sum(axis=1)[:, 1], 75.0 * GRAVITY, rtol=0.03)
    assert force.sum(axis=1)[:, 1].mean() == pytest.approx(75.0 * GRAVITY, rel=0.003)
    np.testing.assert_allclose(force[:, 0, 1], force[:, 1, 1], rtol=0.05)
    np.testing.assert_allclose(result["center_of_pressure"].values[..., 1], 0.0, atol=1e-3)
    assert [str(b) for b in result["body"].values] == ["right_ankle", "left_ankle"]


def test_a_squat_loads_the_knees_by_hand(smpl_file: Path) -> None:
    """At the bottom, slowly reached, a knee holds half the weight above it at its distance from the knee's vertical."""
    body = SmplBody(smpl_file, mass=75.0)
    model = body.load()
    motion = squat(model, 0.8)
    slow = BodyMotion(motion.time * 20, motion.root_position, motion.rotation_wxyz, "slow")
    result = imdy_plugin.solve(body, slow, solver="physics", cutoff_hz=None)
    frame = 120
    joints = joint_positions(slow, joint_offsets(model))[frame]
    turned = global_rotations(slow)[frame]
    below = [JOINTS.index(f"{side}_{part}") for side in ("left", "right") for part in ("knee", "ankle", "foot")]
    above = [joint for joint in range(24) if joint not in below]
    centers = joints + np.einsum("bij,bj->bi", turned, model["body_center_of_mass"].values)
    masses = model["body_mass"].values
    lever = (masses[above] * (centers[above, 0] - joints[JOINTS.index("right_knee"), 0])).sum() * GRAVITY
    knees = result["generalized_force"].sel(coordinate=["right_knee_z", "left_knee_z"]).values[frame]
    assert abs(lever) > 50.0
    np.testing.assert_allclose(-knees.sum(), lever, rtol=0.02)


def test_multibody_gives_back_what_the_ground_did(smpl_file: Path) -> None:
    body = SmplBody(smpl_file, mass=75.0)
    motion = squat(body.load(), 0.6)
    solved = imdy_plugin.solve(body, motion, solver="physics", cutoff_hz=6.0)
    again = imdy_plugin.solve(body, motion, ground_force=solved[["ground_force", "center_of_pressure", "free_moment"]], solver="multibody", cutoff_hz=6.0)
    np.testing.assert_allclose(again["generalized_force"], solved["generalized_force"], atol=1e-8)
    assert abs(again["root_residual"].values).max() < 1e-8
    # and Newton: the force on the ground is the weight and the acceleration of the centre of mass
    impulse = np.trapezoid(solved["ground_force"].values.sum(axis=1)[:, 1], motion.time)
    assert impulse == pytest.approx(75.0 * GRAVITY * motion.duration, rel=0.01)


def test_a_motion_from_a_file_with_its_own_shape(smpl_file: Path, tmp_path: Path) -> None:
    """AMASS in, betas and all: the pelvis's place in the body model counts, and the feet come to stand on the floor."""
    shaped = SmplBody(smpl_file, betas=[1.0, -0.5], mass=75.0)
    model = shaped.load()
    motion = replace(squat(model, 0.3), attrs={"betas": [1.0, -0.5], "gender": "neutral"})
    path = write_amass(tmp_path / "squat.npz", motion.placed(np.array([0.0, -0.25, 0.0])), pelvis=model.attrs["pelvis_in_file"])
    result = imdy_plugin.solve(shaped, path, solver="physics")
    assert "moved up by 0.2500 m" in result.attrs["log"]
    expected = imdy_plugin.solve(shaped, coordinates=motion, solver="physics")
    np.testing.assert_allclose(result["generalized_force"], expected["generalized_force"], atol=1e-6)
    with pytest.warns(DataWarning, match="made for another shape"):
        imdy_plugin.solve(SmplBody(smpl_file, mass=75.0), path, solver="physics")


def test_a_simulated_body_stands_on_its_own_soles(smpl_file: Path) -> None:
    mujoco = pytest.importorskip("mujoco")
    from imdy_plugin.sim.humanoid import build_humanoid

    model = SmplBody(smpl_file, mass=75.0).load()
    humanoid = build_humanoid(model)
    data = mujoco.MjData(humanoid.model)
    lifted = float(model["coordinate_default"].sel(coordinate="pelvis_ty")) + 0.01
    for height, touches in ((lifted, False), (lifted - 0.012, True)):
        data.qpos[1] = height
        mujoco.mj_forward(humanoid.model, data)
        assert (data.ncon > 0) == touches
    assert humanoid.model.body_mass.sum() == pytest.approx(75.0)


def test_what_does_not_fit_is_said(smpl_file: Path, walk: dict[str, Path], tmp_path: Path) -> None:
    motion = squat(SmplBody(smpl_file, mass=75.0).load(), 0.2)
    with pytest.raises(InputError, match="need a model"):
        imdy_plugin.solve(None, motion, solver="physics")
    with pytest.raises(InputError, match="none of the 24-joint body"):
        imdy_plugin.solve(walk["model"], motion, solver="physics")
    with pytest.raises(FileFormatError, match="give an AMASS motion, or the body model as the model"):
        imdy_plugin.solve(smpl_file, smpl_file, solver="physics")


def test_the_mass_given_to_solve_scales_the_body(smpl_file: Path) -> None:
    motion = squat(SmplBody(smpl_file).load(), 0.0)
    result = imdy_plugin.solve(smpl_file, motion, mass=80.0, solver="physics")
    np.testing.assert_allclose(result["ground_force"].values.sum(axis=1)[:, 1], 80.0 * GRAVITY, rtol=1e-3)


def test_the_report_names_the_joints_of_the_body(smpl_file: Path) -> None:
    from imdy_plugin.report import summary

    body = SmplBody(smpl_file, mass=75.0)
    result = imdy_plugin.solve(body, squat(body.load(), 0.6), solver="physics")
    rows = {row.quantity: row for row in summary(result)}
    knee = rows["Knee moment, peak extension / flexion"]
    peak = float(result["generalized_force"].sel(coordinate="right_knee_z").max()) / 75.0
    assert knee.values["physics", "right"].startswith(f"{peak:.2f} /")
    assert peak > 0.3
    assert {"Hip flexion moment, peak flexion / extension", "Ankle moment, peak dorsiflexion / plantarflexion"} <= set(rows)


# Against another implementation ----------------------------------------------------------------------------------------------------


def test_against_the_smplx_package(arrays: dict[str, Any], tmp_path: Path) -> None:
    """Shape, and joints of a moving body with its root's turn and place, as that package computes them from the same file."""
    smplx = pytest.importorskip("smplx")
    import torch

    pickled = tmp_path / "SMPL_NEUTRAL.pkl"
    zeros = np.zeros((*arrays["v_template"].shape, 207))
    pickled.write_bytes(pickle.dumps({**arrays, "kintree_table": arrays["kintree_table"].astype(np.int64), "posedirs": zeros}, 2))
    rng = np.random.default_rng(4)
    frames, betas = 5, rng.normal(size=10)
    poses, trans = rng.normal(0, 0.6, (frames, 72)), rng.normal(0, 1.0, (frames, 3))
    extra = dict.fromkeys(smplx.vertex_ids.vertex_ids["smplh"], 0)
    theirs = smplx.SMPL(str(pickled), dtype=torch.float64, batch_size=frames, num_betas=10, vertex_ids=extra)
    tensors = [torch.as_tensor(x) for x in (np.tile(betas, (frames, 1)), poses[:, 3:], poses[:, :3], trans)]
    out = theirs(betas=tensors[0], body_pose=tensors[1], global_orient=tensors[2], transl=tensors[3])
    model = load_body_model(convert_body(pickled))
    dataset = body_dataset(model, betas, 70.0)
    path = tmp_path / "motion.npz"
    np.savez(path, poses=poses, trans=trans, mocap_framerate=1.0, betas=betas)
    ours = read_amass(path, pelvis=dataset.attrs["pelvis_in_file"], up="z")
    placed = joint_positions(ours, joint_offsets(dataset))
    # that package adds 1e-8 to each component of a rotation vector before it takes its length
    np.testing.assert_allclose(placed, out.joints[:, :24].detach().numpy() @ FROM_Z_UP.T, atol=2e-8)
    assert np.abs(placed - out.joints[:, :24].detach().numpy() @ FROM_SMPL.T).max() > 0.1
