"""Reading a model's skeleton first, and the whole model when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.model_outline import read_outline
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.interfaces import Deferred, LoadedModel, Trial
from imdy_plugin.schema import new_motion
from imdy_plugin.sim.person import write_person

ADAPTER = OpenSimModelAdapter()


@pytest.fixture(scope="module")
def person_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_person(tmp_path_factory.mktemp("model") / "person.osim")


def changed(file: Path, folder: Path, change: Callable[[str], str]) -> Path:
    text = change(file.read_text())
    assert text != file.read_text()
    copy = folder / "changed.osim"
    copy.write_text(text)
    return copy


def test_the_skeleton_tells_what_the_whole_tells(person_file: Path) -> None:
    whole = ADAPTER.load(import_opensim().Model(str(person_file))).dataset
    skeleton = ADAPTER.load(person_file).dataset
    assert len(skeleton.attrs["own_forces"]) > 10
    for ds in (whole, skeleton):
        for name in ("source", "log"):
            del ds.attrs[name]
    assert skeleton.identical(whole)
    assert not skeleton.assign(body_mass=1.01 * skeleton["body_mass"]).identical(whole)


def test_the_skeleton_is_a_fraction_of_the_file(person_file: Path) -> None:
    outline = read_outline(person_file)
    assert outline is not None and outline.text == person_file.read_bytes()
    assert b"<ForceSet" not in outline.skeleton and b"<JointSet" in outline.skeleton
    assert len(outline.skeleton) < 0.9 * len(outline.text)


def test_defaults_of_what_moves_stay(person_file: Path, tmp_path: Path) -> None:
    """Only looked at: OpenSim would keep them for every model that it reads afterwards."""
    told = "<defaults><Coordinate><default_value>0.7</default_value></Coordinate></defaults>"
    outline = read_outline(changed(person_file, tmp_path, lambda t: t.replace("<JointSet", f"{told}<JointSet", 1)))
    assert outline is not None and told.encode() in outline.skeleton


def test_comments_that_look_like_elements_cut_nothing(person_file: Path, tmp_path: Path) -> None:
    tricky = changed(
        person_file, tmp_path, lambda t: t.replace("<BodySet", "<!-- <ForceSet> <b> --><BodySet", 1).replace("<JointSet", "<!-- </ForceSet> --><JointSet", 1)
    )
    plain, commented = read_outline(person_file), read_outline(tricky)
    assert plain is not None and commented is not None
    assert commented.skeleton == plain.skeleton and commented.forces == plain.forces


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("<OpenSimDocument", '<!DOCTYPE OpenSimDocument [<!ENTITY a "b">]><OpenSimDocument', 1),
        lambda t: t[:-100],
        lambda t: t.replace("<MarkerSet", '<MarkerSet file="markers.xml"', 1),
        lambda t: t.replace("<ForceSet", '<ForceSet file="forces.xml"', 1),
        lambda t: t.replace("OpenSimDocument", "Document"),
        lambda t: t.replace('Version="', 'Version="v', 1),
    ],
)
def test_files_that_are_not_plain_are_not_cut(person_file: Path, tmp_path: Path, change: Callable[[str], str]) -> None:
    assert read_outline(changed(person_file, tmp_path, change)) is None
    assert read_outline(tmp_path / "none.osim") is None


@pytest.mark.parametrize("fate", ["kept", "gone", "changed"])
def test_the_whole_model_comes_as_it_was_when_it_is_asked_for(person_file: Path, tmp_path: Path, fate: str) -> None:
    file = tmp_path / "model.osim"
    file.write_bytes(person_file.read_bytes())
    loaded = ADAPTER.load(file)
    if fate != "kept":
        file.unlink()
    if fate == "changed":
        file.write_text("nothing")
    forces = loaded.native.getForceSet()
    assert [forces.get(i).getName() for i in range(forces.getSize())] == loaded.dataset.attrs["own_forces"]
    assert loaded.native is loaded.native


def test_what_is_deferred_is_made_once_and_only_when_read() -> None:
    made: list[str] = []

    def make() -> str:
        made.append("model")
        return "a model"

    loaded = LoadedModel(new_motion([0.0], coordinates=(["a"], np.zeros((1, 1)))), Deferred(make))
    trial = Trial(loaded.dataset, native_model=loaded.deferred_native)
    moved = trial.with_motion(new_motion([1.0], coordinates=(["a"], np.zeros((1, 1)))))
    assert trial.has("native_model") and moved.has("native_model") and not made
    assert moved.native_model == "a model" and float(moved.motion["time"][0]) == 1.0
    assert trial.native_model == loaded.native == trial.native_model == "a model"
    assert made == ["model"]


def test_a_native_model_may_be_given_as_it_is_or_not_at_all() -> None:
    motion = new_motion([0.0], coordinates=(["a"], np.zeros((1, 1))))
    assert Trial(motion).native_model is None and not Trial(motion).has("native_model")
    assert Trial(motion, native_model="a model").native_model == "a model"
    assert LoadedModel(motion).native is None


def test_what_cannot_be_made_says_so_each_time() -> None:
    def fail() -> None:
        raise RuntimeError("no")

    deferred = Deferred(fail)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            deferred.get()
