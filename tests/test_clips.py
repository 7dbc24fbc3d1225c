"""The catalogue of recorded motions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.errors import InputError
from imdy_plugin.sim.clips import CUTOFF, EVALUATION_ONLY, RATE, Clip, clips, held_out
from imdy_plugin.sim.standin import joint_offsets
from imdy_plugin.training_data import EVALUATION_ONLY as NEVER_TRAINED_ON


@pytest.fixture(scope="module")
def catalogue(data_dir: Path) -> list[Clip]:
    return clips(data_dir)


def test_a_folder_without_motions_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no motion.*cmu_mocap/bvh"):
        clips(tmp_path)


def test_activities_come_from_the_names_of_the_trials(tmp_path: Path) -> None:
    for trial in ("02_03", "03_01", "06_01", "06_02", "09_12", "99_01"):
        file = tmp_path / "cmu_mocap" / "bvh" / trial[:2] / f"{trial}.bvh"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = {clip.name: clip for clip in clips(tmp_path)}
    assert {name: clip.activity for name, clip in found.items()} == {
        "cmu/02_03": "run",
        "cmu/03_01": "uneven terrain",
        "cmu/06_01": "walk",
        "cmu/06_02": "basketball",
        "cmu/09_12": "navigate",
        "cmu/99_01": "unknown",
    }
    assert [name for name, clip in found.items() if not clip.flat] == ["cmu/03_01"]
    assert [name for name, clip in found.items() if clip.touches_objects] == ["cmu/06_02"]
    assert found["cmu/06_01"].person == "cmu/06"


def test_a_tenth_of_each_common_kind_is_held_out_whatever_the_order() -> None:
    kinds = {f"lab/{kind}{i}": f"lab/{kind}" for kind, count in {"walk": 30, "run": 12, "hop": 2, "crawl": 4}.items() for i in range(count)}
    held = held_out(kinds)
    counts = Counter(kinds[name] for name in held)
    assert counts["lab/walk"] == 3
    assert counts["lab/run"] == 1
    assert counts["lab/hop"] + counts["lab/crawl"] == 1
    assert held_out(dict(reversed(kinds.items()))) == held


def test_another_laboratory_does_not_change_who_is_held_out() -> None:
    kinds = {f"lab/{i}": "lab/walk" for i in range(20)}
    assert held_out(kinds | {f"other/{i}": "other/walk" for i in range(9)}) >= held_out(kinds)


def test_what_is_only_evaluated_on_is_the_same_everywhere() -> None:
    assert EVALUATION_ONLY == NEVER_TRAINED_ON


def test_the_catalogue_holds_every_recording(catalogue: list[Clip]) -> None:
    names = [clip.name for clip in catalogue]
    assert len(set(names)) == len(names)
    assert sum(clip.source == "cmu" for clip in catalogue) == 85
    assert len(catalogue) > 180
    assert {clip.source for clip in catalogue if not clip.may_train} == {"hamner", "arnold"}
    assert {clip.source for clip in catalogue if not clip.whole_body} == {"rbds"}
    held = {(clip.source, clip.activity) for clip in catalogue if clip.held_out}
    assert {("cmu", "walk"), ("cmu", "run"), ("cmu", "dance")} <= held
    assert 0.07 < np.mean([clip.held_out for clip in catalogue if clip.source == "cmu"]) < 0.13


@pytest.mark.parametrize("name", ["cmu/07_01", "cmu/09_01", "opencap4/subject4__squats1", "opencap4/subject4__DJ1", "schreiber/2014048__C4_01"])
def test_a_clip_loads_as_a_motion_and_its_person(catalogue: list[Clip], name: str) -> None:
    clip = next(c for c in catalogue if c.name == name)
    motion, person = clip.load()
    assert motion.rate == pytest.approx(RATE)
    assert motion.name == name
    assert motion.attrs["activity"] == clip.activity
    assert 1.4 < person.attrs["height"] < 2.0
    assert 40 < person.attrs["mass"] < 110
    assert joint_offsets(person).shape == (len(JOINTS), 3)
    speed = np.linalg.norm(np.gradient(motion.root_position, motion.time, axis=0), axis=1)
    assert speed.max() < 6.0
    assert 0.3 < motion.root_position[:, 1].min() < motion.root_position[:, 1].max() < 1.7
    assert CUTOFF < RATE / 2
