"""Other bodies, mirrored motion, noise: what follows from similarity, and what must repeat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from imdy_plugin.adapters.smpl.motion import BodyMotion, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS, MIRRORED
from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.schema import validate_model
from imdy_plugin.sim.dynamics import place, required_force, tree_of
from imdy_plugin.sim.humanoid import BODIES, state_of
from imdy_plugin.sim.imitator.base import CONTROL_RATE
from imdy_plugin.sim.rollout import smooth_noise
from imdy_plugin.sim.standin import build_standin, joint_offsets, sole_points
from imdy_plugin.sim.variation import (
    DEFAULT_VARIATIONS,
    Variation,
    choose_variations,
    leg_length,
    mirrored_person,
    seed_of,
    similar_motion,
    sole_heights,
)


@pytest.fixture(scope="module")
def person() -> xr.Dataset:
    return build_standin(1.7, 66.0)


@pytest.fixture(scope="module")
def motion(person: xr.Dataset) -> BodyMotion:
    """Steps, roughly: legs and arms swing about all axes while the pelvis moves on."""
    rng = np.random.default_rng(3)
    time = np.arange(91) / CONTROL_RATE
    angles = 0.4 * rng.normal(size=(24, 3)) * np.sin(2 * np.pi * time[:, None, None] + rng.uniform(0, 6, (24, 3)))
    size = np.linalg.norm(angles, axis=-1, keepdims=True)
    rotation = np.concatenate([np.cos(size / 2), np.sin(size / 2) * angles / size], axis=-1)
    root = np.column_stack([1.2 * time, 0.9 + 0.03 * np.sin(12 * time), 0.02 * np.sin(6 * time)])
    return BodyMotion(time, root, rotation, "steps")


def _torques(person: xr.Dataset, motion: BodyMotion) -> np.ndarray:
    """Generalized forces of the motion, velocities and accelerations by differences."""
    position, velocity = state_of(motion)
    tree = tree_of(person, BODIES)
    return required_force(tree, place(tree, position), velocity, np.gradient(velocity, 1 / motion.rate, axis=0))


def test_a_similar_person_needs_torques_in_the_ratio_of_mass_times_length(person: xr.Dataset, motion: BodyMotion) -> None:
    variation = Variation("other", height=1.1, mass=1.2)
    other = variation.person(person)
    validate_model(other)
    stretched = replace(motion, time=motion.time * np.sqrt(1.1), root_position=motion.root_position * 1.1)
    mass = other.attrs["mass"] / person.attrs["mass"]
    assert mass == pytest.approx(1.2 * 1.1**3)
    before, after = _torques(person, motion), _torques(other, stretched)
    np.testing.assert_allclose(after[:, :3], mass * before[:, :3], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(after[:, 3:], mass * 1.1 * before[:, 3:], rtol=1e-9, atol=1e-9)
    in_the_same_time = _torques(other, replace(stretched, time=motion.time))
    assert np.abs(in_the_same_time[:, 3:] - mass * 1.1 * before[:, 3:]).max() > 1.0


def test_a_taller_person_takes_longer_steps_in_more_time(person: xr.Dataset, motion: BodyMotion) -> None:
    moved, other = Variation("tall", height=1.1).applied(motion, person)
    assert other.attrs["height"] == pytest.approx(1.1 * person.attrs["height"])
    assert moved.rate == pytest.approx(CONTROL_RATE)
    assert moved.duration == pytest.approx(motion.duration * np.sqrt(1.1), abs=1.0 / CONTROL_RATE)
    assert np.ptp(moved.root_position[:, 0]) == pytest.approx(1.1 * np.ptp(motion.root_position[:, 0]), rel=0.02)
    assert sole_heights(moved, other).min() == pytest.approx(1.1 * sole_heights(motion, person).min(), abs=2e-3)


def test_longer_legs_on_a_shorter_trunk(person: xr.Dataset, motion: BodyMotion) -> None:
    variation = Variation("legs", parts={"legs": 1.1, "trunk": 0.9})
    moved, other = variation.applied(motion, person)
    before, after = joint_offsets(person), joint_offsets(other)
    assert leg_length(after) == pytest.approx(1.1 * leg_length(before))
    np.testing.assert_allclose(after[JOINTS.index("spine2")], 0.9 * before[JOINTS.index("spine2")])
    np.testing.assert_allclose(after[JOINTS.index("left_elbow")], before[JOINTS.index("left_elbow")])
    assert other.attrs["mass"] == pytest.approx(person.attrs["mass"])
    assert float(other["body_mass"].sum()) == pytest.approx(person.attrs["mass"])
    assert sole_heights(moved, other).min() == pytest.approx(1.1 * sole_heights(motion, person).min(), abs=2e-3)
    assert abs(other["coordinate_default"].values[1] + min(p[:, 1].min() for p in _standing_soles(other).values())) < 2e-3


def _standing_soles(person: xr.Dataset) -> dict[str, np.ndarray]:
    rest = joint_positions(BodyMotion(np.zeros(1), np.zeros((1, 3)), np.tile([1.0, 0, 0, 0], (1, 24, 1))), joint_offsets(person))[0]
    return {body: points + rest[JOINTS.index(body)] for body, points in sole_points(person).items()}


def test_a_mirrored_person_twice_is_the_person(person: xr.Dataset) -> None:
    lame = person.copy(deep=True)
    lame["joint_parent_location"][{"joint": JOINTS.index("left_knee")}] *= 1.05
    lame["body_mass"][{"body": JOINTS.index("left_hip")}] *= 1.1
    once = mirrored_person(lame)
    assert float(once["body_mass"][JOINTS.index("right_hip")]) == pytest.approx(float(lame["body_mass"][JOINTS.index("left_hip")]))
    np.testing.assert_allclose(joint_offsets(once)[JOINTS.index("right_knee")], joint_offsets(lame)[JOINTS.index("left_knee")] * [1, 1, -1])
    twice = mirrored_person(once)
    for name in lame.data_vars:
        if lame[name].dtype.kind == "f":
            np.testing.assert_allclose(twice[name].values, lame[name].values, atol=1e-12)
    np.testing.assert_allclose(np.ravel(twice.attrs.get("heel_points", [])), np.ravel(lame.attrs.get("heel_points", [])))
    validate_model(once)


def test_mirrored_motion_needs_mirrored_torques(person: xr.Dataset, motion: BodyMotion) -> None:
    lame = person.copy(deep=True)
    lame["body_mass"][{"body": JOINTS.index("left_hip")}] *= 1.1
    lame["body_inertia"][{"body": JOINTS.index("left_hip"), "inertia_component": 4}] += 0.01
    moved, other = Variation("mirrored", mirrored=True).applied(motion, lame)
    bodies = {name: _torques(p, m)[:, 3:].reshape(len(m), 24, 3) for name, p, m in (("as is", lame, motion), ("mirrored", other, moved))}
    by_joint = [BODIES.index(JOINTS[MIRRORED[JOINTS.index(b)]]) for b in BODIES]
    np.testing.assert_allclose(bodies["mirrored"], bodies["as is"][:, by_joint] * [-1.0, -1.0, 1.0], atol=1e-8)


def test_nothing_changed_is_the_clip_itself(person: xr.Dataset, motion: BodyMotion) -> None:
    moved, other = Variation().applied(motion, person)
    assert other is person
    np.testing.assert_array_equal(moved.rotation_wxyz, motion.rotation_wxyz)


def test_a_motion_at_another_rate_is_resampled(person: xr.Dataset, motion: BodyMotion) -> None:
    sparse = replace(motion, time=motion.time[::2], root_position=motion.root_position[::2], rotation_wxyz=motion.rotation_wxyz[::2])
    assert Variation().applied(sparse, person)[0].rate == pytest.approx(CONTROL_RATE)
    assert similar_motion(sparse, person, person).rate == pytest.approx(CONTROL_RATE)


def test_noise_is_as_large_and_smooth_as_said_and_repeats() -> None:
    variation = Variation("noisy", target_noise=0.05, noise_time=0.1)
    noise = smooth_noise(variation, 4000, 6, seed=4)
    assert noise is not None
    assert noise.std() == pytest.approx(0.05, rel=0.1)
    one_later = float(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1])
    assert one_later == pytest.approx(np.exp(-1 / (CONTROL_RATE * 0.1)), abs=0.02)
    np.testing.assert_array_equal(noise, smooth_noise(variation, 4000, 6, seed=4))
    assert not np.array_equal(noise, smooth_noise(variation, 4000, 6, seed=5))
    assert smooth_noise(Variation(), 10, 6, seed=4) is None


def test_drawn_variations_are_different_adults_and_repeat(person: xr.Dataset) -> None:
    drawn = choose_variations(["plain"], drawn=40)
    assert len({v.name for v in drawn}) == 41
    assert choose_variations(["drawn-007"], drawn=0) == [drawn[8]]
    heights = np.array([v.height for v in drawn[1:]])
    assert 0.02 < heights.std() < 0.08
    assert sum(v.mirrored for v in drawn) == 20
    assert 10 < sum(v.target_noise > 0 for v in drawn) < 30
    masses = [v.person(person).attrs["mass"] for v in drawn[:6]]
    assert len(set(masses)) == 6


def test_seeds_come_from_names() -> None:
    assert seed_of("a", "b") == seed_of("a", "b")
    assert len({seed_of("a", "b"), seed_of("ab"), seed_of("b", "a")}) == 3


def test_variations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"no part wings; parts are arms, feet|no part wings; parts are legs"):
        Variation("x", parts={"wings": 1.1})
    with pytest.raises(InputError, match="height 3"):
        Variation("x", height=3.0)
    with pytest.raises(InputError, match="noise"):
        Variation("x", target_noise=-1.0)
    with pytest.raises(UnknownNameError, match="mirrored"):
        choose_variations(["mirored"])
    with pytest.raises(UnknownNameError, match="drawn-x"):
        choose_variations(["drawn-x"])
    assert [v.name for v in choose_variations(["plain"])] == ["plain"]
    assert len({v.name for v in choose_variations([])}) == len(DEFAULT_VARIATIONS)
