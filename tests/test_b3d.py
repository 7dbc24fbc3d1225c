"""The .b3d door: read without anything native, checked against the file's own sizes, held against Nimble's reader where that is installed."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import imdy_plugin
from imdy_plugin import registry
from imdy_plugin.adapters.b3d import B3dReader
from imdy_plugin.adapters.b3d_bytes import read_b3d_bytes
from imdy_plugin.adapters.external_loads import read_ground_force
from imdy_plugin.adapters.trc import read_trc
from imdy_plugin.errors import DataWarning, FileFormatError, ImdyError, InputError, UnknownNameError
from imdy_plugin.schema import validate_motion

Array = NDArray[np.float64]
MARKERS = ("RHEE", "RTOE", "LHEE", "LTOE", "RASI", "LASI", "C7")
FRAMES, STEP = 60, 0.01
WEIGHT = 700.0

needs_nimble = pytest.mark.skipif(importlib.util.find_spec("nimblephysics") is None, reason="nimblephysics is not installed: pip install imdy-plugin[nimble]")


def varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def real(number: int, value: float) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<d", value)


def content(number: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def reals(number: int, values: Any) -> bytes:
    return content(number, np.asarray(values, "<f8").tobytes())


@dataclass(frozen=True)
class Recording:
    """What a trial holds: markers (time, marker, 3), plates' force, point and moment, and the same by contact body for each pass."""

    name: str
    markers: Array
    plates: tuple[tuple[Array, Array, Array], ...] = ()
    passes: tuple[tuple[tuple[Array, Array, Array], ...], ...] = ()
    missing: tuple[int, ...] = ()
    corners: Array | None = None
    step: float = STEP


@dataclass(frozen=True)
class Subject:
    """A file, and the lies it tells."""

    trials: tuple[Recording, ...]
    names: tuple[str, ...] = MARKERS
    bodies: tuple[str, ...] = ("calcn_r", "calcn_l")
    version: int = 4
    models: tuple[str, ...] = ("<OpenSimDocument/>",)
    extra: bytes = b""
    states: dict[str, int] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        frames = [self.frames(trial) for trial in self.trials]
        sensor = len(frames[0][0][0]) if frames and frames[0] else 1
        processed = max((len(f) for trial in frames for rest in trial for f in rest[1:]), default=0)
        header = integer(1, 0) + integer(3, self.states.get("sensor", sensor)) + integer(4, self.states.get("pass", processed))
        header += b"".join(content(5, content(2, model)) for model in self.models)
        header += b"".join(content(6, body) for body in self.bodies) + b"".join(content(9, self.header(t)) for t in self.trials)
        header += integer(10, self.version) + real(14, 1.75) + real(15, WEIGHT / 9.81) + b"".join(content(17, name) for name in self.names) + self.extra
        body = b"".join(part for trial in frames for rest in trial for part in rest)
        path.write_bytes(struct.pack("<q", self.states.get("header", len(header))) + header + body)
        return path

    def header(self, trial: Recording) -> bytes:
        out = content(1, trial.name) + content(2, b"".join(varint(m) for m in trial.missing)) if trial.missing else content(1, trial.name)
        out += integer(3, self.states.get("frames", len(trial.markers))) + real(4, trial.step)
        out += b"".join(content(5, integer(1, i) + self.observed(len(trial.markers))) for i in range(len(trial.passes))) + integer(7, len(trial.plates))
        return out + (reals(8, trial.corners) if trial.corners is not None else b"") + content(10, trial.name.partition("_")[0])

    @staticmethod
    def observed(frames: int) -> bytes:
        zeros = np.zeros(frames, "<f4").tobytes()
        return b"".join(content(number, zeros) for number in (5, 6, 7, 8, 9))

    def frames(self, trial: Recording) -> list[list[bytes]]:
        out = []
        for t in range(len(trial.markers)):
            plates = b"".join(reals(n, [p[i][t] for p in trial.plates]) for n, i in ((7, 1), (8, 2), (9, 0))) if trial.plates else b""
            parts = [reals(2, trial.markers[t]) + plates]
            for contact in trial.passes:
                wrench = reals(5, np.zeros(6 * len(contact)))
                forces = wrench + b"".join(reals(n, [c[i][t] for c in contact]) for n, i in ((6, 1), (7, 2), (8, 0)))
                parts.append(forces + b"".join(reals(n, np.zeros(3)) for n in (9, 10, 11)))
            out.append(parts)
        return out


def standing(frames: int = FRAMES) -> Array:
    """Somebody stands on both feet, 0.3 m apart, and sways a little."""
    place = np.array([[-0.1, 0.03, 0.15], [0.12, 0.02, 0.15], [-0.1, 0.03, -0.15], [0.12, 0.02, -0.15], [0.1, 0.95, 0.12], [0.1, 0.95, -0.12], [0.0, 1.5, 0.0]])
    sway = np.zeros((frames, len(place), 3))
    sway[:, 4:, 0] = 0.01 * np.sin(np.arange(frames)[:, None] / 10)
    return np.asarray(place + sway)


def load(share: float, z: float, frames: int = FRAMES, twist: float = 3.0) -> tuple[Array, Array, Array]:
    """Force, point and moment about the point, of a foot that carries a share of the weight."""
    force = np.tile([0.05 * share * WEIGHT, share * WEIGHT, -0.02 * share * WEIGHT], (frames, 1))
    point = np.tile([0.05, 0.0, z], (frames, 1))
    return force, point, np.tile([0.0, twist, 0.0], (frames, 1))


RIGHT, LEFT = load(0.6, 0.15), load(0.4, -0.15, twist=-2.0)
QUIET = Recording("quiet_segment_0", standing(), plates=(LEFT, RIGHT))


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    return Subject((QUIET,)).write(tmp_path / "quiet.b3d")


def test_reads_markers(tmp_path: Path) -> None:
    markers = standing()
    markers[3, 1] = np.nan
    markers[7, 2, 1] = np.nan
    path = Subject((replace(QUIET, markers=markers),)).write(tmp_path / "quiet.b3d")
    motion = B3dReader().read(path)
    validate_motion(motion)
    np.testing.assert_allclose(motion["time"], STEP * np.arange(FRAMES))
    assert list(motion["marker"].values) == list(MARKERS)
    expected = markers.copy()
    expected[7, 2] = np.nan
    np.testing.assert_array_equal(motion["marker_position"].values, expected)
    assert motion.attrs["height"] == 1.75 and motion.attrs["mass"] == pytest.approx(WEIGHT / 9.81)
    assert motion.attrs["trial"] == "quiet_segment_0" and motion.attrs["original_trial"] == "quiet"
    assert f"{FRAMES} frames of trial 'quiet_segment_0'" in motion.attrs["log"]


def test_is_found_by_the_registry(quiet: Path) -> None:
    for source in (quiet, str(quiet), f"{quiet}#quiet_segment_0", f"{str(quiet).upper()}#x"):
        assert isinstance(registry.find_marker_reader(source), B3dReader)
    for source in ("walk.trc", "walk.b3d.mot", "folder#1.b3d/walk.mot", 3):
        assert not B3dReader().accepts(source)


def test_chooses_a_trial(tmp_path: Path) -> None:
    later = replace(QUIET, name="second_segment_0", markers=standing(20) + 1.0, plates=tuple(tuple(a[:20] for a in p) for p in QUIET.plates))  # type: ignore[arg-type]
    path = Subject((QUIET, later)).write(tmp_path / "two.b3d")
    for motion in (
        B3dReader().read(f"{path}#second_segment_0"),
        B3dReader("second_segment_0").read(path),
        B3dReader(1).read(path),
        B3dReader().read(f"{path}#1"),
    ):
        np.testing.assert_array_equal(motion["marker_position"].values, later.markers)
    np.testing.assert_array_equal(B3dReader(1).read(f"{path}#0")["marker_position"].values, QUIET.markers)
    with pytest.raises(InputError, match=r"2 trials: quiet_segment_0, second_segment_0; choose one as two.b3d#quiet_segment_0"):
        B3dReader().read(path)
    with pytest.raises(UnknownNameError, match="trial 'second' does not exist; nearest: second_segment_0"):
        B3dReader().read_ground_force(f"{path}#second")
    for number in (2, -1):
        with pytest.raises(UnknownNameError, match="available: quiet_segment_0, second_segment_0"):
            B3dReader(number).read(path)


def test_markers_without_a_name_and_twice(tmp_path: Path) -> None:
    motion = B3dReader().read(Subject((QUIET,), names=(*MARKERS[:-1], "")).write(tmp_path / "a.b3d"))
    assert "1 without a name left out" in motion.attrs["log"] and motion.sizes["marker"] == len(MARKERS) - 1
    path = Subject((QUIET,), names=(*MARKERS[:-1], "RHEE")).write(tmp_path / "b.b3d")
    with pytest.raises(FileFormatError, match="more than once: RHEE"):
        B3dReader().read(path)
    assert list(B3dReader(duplicates="suffix").read(path)["marker"].values)[-1] == "RHEE_2"
    with pytest.raises(FileFormatError, match="no markers with a name"):
        B3dReader().read(Subject((QUIET,), names=("",) * len(MARKERS)).write(tmp_path / "c.b3d"))


def test_zeros_and_frozen_markers_are_warned_of(tmp_path: Path) -> None:
    zero = standing()
    zero[5, 3] = 0.0
    path = Subject((replace(QUIET, markers=zero),)).write(tmp_path / "zero.b3d")
    with pytest.warns(DataWarning, match="1 marker positions are exactly 0, 0, 0"):
        motion = B3dReader().read(path)
    assert np.isnan(motion["marker_position"].values[5, 3]).all()
    walking = standing() + np.linspace(0, 0.5, FRAMES)[:, None, None]
    walking[:, 6] = walking[0, 6]
    with pytest.warns(DataWarning, match="'C7' stands still from 0 to 0.59 s"):
        B3dReader().read(Subject((replace(QUIET, markers=walking),)).write(tmp_path / "frozen.b3d"))


def values(forces: Any, body: str) -> tuple[Array, Array, Array]:
    one = forces.sel(body=body)
    return tuple(one[name].values for name in ("ground_force", "center_of_pressure", "free_moment"))  # type: ignore[return-value]


@pytest.mark.parametrize("about", ["pressure", "origin"])
def test_plates_are_given_to_feet(tmp_path: Path, about: str) -> None:
    plates = [(f, p, m + (np.cross(p, f) if about == "origin" else 0.0)) for f, p, m in ((LEFT), (RIGHT))]
    forces = B3dReader().read_ground_force(Subject((replace(QUIET, plates=tuple(plates)),)).write(tmp_path / "plates.b3d"))
    assert forces is not None
    validate_motion(forces)
    for body, truth in (("calcn_r", RIGHT), ("calcn_l", LEFT)):
        for found, expected in zip(values(forces, body), truth, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-9)
    assert ("about the centre of pressure" if about == "pressure" else "about the ground's origin") in forces.attrs["log"]


def test_a_foot_that_stands_on_no_plate_is_unknown(tmp_path: Path) -> None:
    forces = B3dReader().read_ground_force(Subject((replace(QUIET, plates=(RIGHT,)),)).write(tmp_path / "one.b3d"))
    assert forces is not None
    assert np.isnan(values(forces, "calcn_l")[0]).all() and np.isfinite(values(forces, "calcn_r")[0]).all()
    lifted = standing()
    lifted[:, 2:4, 1] += 0.2 * np.clip(np.arange(FRAMES) - 5, 0, 10)[:, None] / 10
    forces = B3dReader().read_ground_force(Subject((replace(QUIET, markers=lifted, plates=(RIGHT,)),)).write(tmp_path / "lifted.b3d"))
    assert forces is not None
    left = values(forces, "calcn_l")[0]
    assert np.isnan(left[:5]).all() and (left[20:] == 0).all()


def test_stated_corners_tell_where_the_plates_are(tmp_path: Path) -> None:
    square = np.array([[-0.3, 0, 0.02], [0.3, 0, 0.02], [0.3, 0, 0.4], [-0.3, 0, 0.4]])
    both = (replace(QUIET, corners=np.stack([square * [1, 1, -1], square])),)
    forces = B3dReader().read_ground_force(Subject(both).write(tmp_path / "two.b3d"))
    assert forces is not None and np.isfinite(forces["ground_force"].values).all() and "place is not known" not in forces.attrs["log"]
    away = (replace(QUIET, corners=np.stack([square * [1, 1, -1] + [2, 0, 0], square])),)
    with pytest.warns(DataWarning, match="calcn_l stands partly beside the plates"):
        forces = B3dReader().read_ground_force(Subject(away).write(tmp_path / "away.b3d"))
    assert forces is not None and np.isnan(values(forces, "calcn_l")[0]).all()


def test_forces_by_contact_body_come_first(tmp_path: Path) -> None:
    nothing = (0 * RIGHT[0], 0 * RIGHT[1], 0 * RIGHT[2])
    swing = RIGHT[0].copy()
    swing[40:] = 0.0
    passes = ((nothing, nothing), (LEFT, (swing, RIGHT[1], RIGHT[2])), (RIGHT, RIGHT))
    trial = replace(QUIET, passes=passes, missing=(0,) * 10 + (1,) * 5 + (5,) * 5 + (0,) * 40)
    path = Subject((trial,), bodies=("calcn_l", "calcn_r")).write(tmp_path / "passes.b3d")
    forces = B3dReader().read_ground_force(path)
    assert forces is not None
    assert list(forces["body"].values) == ["calcn_r", "calcn_l"]
    force, point, moment = values(forces, "calcn_r")
    assert np.isnan(force[10:20]).all() and np.isnan(values(forces, "calcn_l")[0][10:20]).all()
    np.testing.assert_array_equal(force[:10], RIGHT[0][:10])
    assert not force[40:].any() and not point[40:].any() and not moment[40:].any()
    np.testing.assert_array_equal(values(forces, "calcn_l")[2][20:], LEFT[2][20:])
    assert "processing pass 1 (dynamics)" in forces.attrs["log"]
    assert "unknown in 10 frames, as the file says: measured force zero while accelerating, not over a force plate" in forces.attrs["log"]
    validate_motion(forces)


def test_no_forces(tmp_path: Path) -> None:
    assert B3dReader().read_ground_force(Subject((replace(QUIET, plates=()),)).write(tmp_path / "none.b3d")) is None
    silent = tuple((0 * f, 0 * p, 0 * m) for f, p, m in QUIET.plates)
    assert B3dReader().read_ground_force(Subject((replace(QUIET, plates=silent),)).write(tmp_path / "zero.b3d")) is None
    with pytest.raises(InputError, match="holds no ground forces"):
        imdy_plugin.load_trial(None, tmp_path / "none.b3d", ground_force=tmp_path / "none.b3d")


@pytest.mark.parametrize(
    ("plates", "names", "message"),
    [
        (((-RIGHT[0], RIGHT[1], RIGHT[2]),), MARKERS, "plate 1 of trial 'quiet_segment_0' pushes down by 420 N in frame 0"),
        (((RIGHT[0], RIGHT[1], RIGHT[2] + 100.0),), MARKERS, "moments of plate 1 .* neither about its centre of pressure nor about the ground's origin"),
        ((RIGHT,), ("A", "B", "C", "D", "E", "F", "G"), "no heel or toe marker of the right foot among A, B"),
    ],
)
def test_forces_that_cannot_be_understood(tmp_path: Path, plates: Any, names: tuple[str, ...], message: str) -> None:
    path = Subject((replace(QUIET, plates=plates),), names=names).write(tmp_path / "bad.b3d")
    with pytest.raises(FileFormatError, match=message):
        B3dReader().read_ground_force(path)


def test_loads_as_a_trial(quiet: Path) -> None:
    trial = imdy_plugin.load_trial(None, quiet, ground_force=f"{quiet}#quiet_segment_0")
    assert trial.motion.sizes["marker"] == len(MARKERS)
    assert trial.ground_force is not None
    np.testing.assert_allclose(trial.ground_force["ground_force"].sel(axis="y").sum("body"), WEIGHT)


def test_reads_the_last_pass_s_model(tmp_path: Path, walk: dict[str, Path]) -> None:
    path = Subject((QUIET,), models=("", "<OpenSimDocument/>", walk["model"].read_text(encoding="utf-8"))).write(tmp_path / "model.b3d")
    loaded, truth = registry.load_model(path), registry.load_model(walk["model"])
    assert loaded.native.getName() == truth.native.getName()
    np.testing.assert_array_equal(loaded.dataset["body_inertia"], truth.dataset["body_inertia"])
    assert loaded.dataset.attrs["source"] == str(path)


@pytest.mark.parametrize(
    ("models", "message"), [((), "holds no model"), (("",), "holds no model"), (("<OpenSimDocument>",), "its model: "), (("<a/>",), "its model: holds <a>")]
)
def test_a_model_that_cannot_be_read(tmp_path: Path, models: tuple[str, ...], message: str) -> None:
    path = Subject((QUIET,), models=models).write(tmp_path / "model.b3d")
    with pytest.raises(FileFormatError, match=message) as raised:
        registry.load_model(f"{path}#quiet_segment_0")
    assert raised.value.path == str(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 bytes, no header"),
        (b"\x01\x02\x03", "has 3 bytes, no header"),
        (struct.pack("<q", 5), "has 8 bytes, no header"),
        (struct.pack("<q", -1) + b"1234", "states a header of -1 bytes in a file of 12"),
        (struct.pack("<q", 2**62) + b"1234", "get it again"),
        (struct.pack("<q", 2) + b"\x0b\x00", "unknown type 3"),
        (struct.pack("<q", 2) + b"\x12\x7f", "reaches beyond its end"),
        (struct.pack("<q", 12) + b"\x08" + b"\xff" * 11, "more than 64 bits"),
        (struct.pack("<q", 2) + b"\x08\xff", "ends inside a number"),
        (struct.pack("<q", 2) + b"\x08\x01", "states frames of 0 and 0 bytes"),
        (struct.pack("<q", 3) + b"\x18\x01\x1d", "ends inside|beyond its end"),
        (struct.pack("<q", 5) + integer(3, 4) + integer(10, 9)[:2] + b"\x01"[:1], "version 9|beyond|unknown"),
        (b"%PDF-1.7 not this one at all", "it is no .b3d file, or was cut"),
        (b"\x00" * 4096, "states a header of 0 bytes"),
    ],
)
def test_what_is_no_b3d_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.b3d"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=message):
        B3dReader().read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="No such file"):
        B3dReader().read(tmp_path / "missing.b3d")
    (tmp_path / "folder.b3d").mkdir()
    with pytest.raises(FileFormatError, match="Is a directory"):
        B3dReader().read(tmp_path / "folder.b3d")


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (Subject((QUIET,), version=5), "is version 5 of the format"),
        (Subject((QUIET,), states={"frames": 59}), r"has \d+ bytes; its header states 1 trial\(s\) that take \d+"),
        (Subject((QUIET,), states={"frames": 61}), "has no room"),
        (Subject((QUIET,), states={"frames": 2**31 - 1}), "has no room"),
        (Subject((QUIET,), states={"frames": -1}), "states -1 frames"),
        (Subject((QUIET,), states={"sensor": 0}), "states frames of 0"),
        (Subject((QUIET,), states={"sensor": -8}), "states frames of -8"),
        (Subject((QUIET,), states={"pass": 2**31 - 1}), ""),
        (Subject((replace(QUIET, step=0.0),)), "time step of 0 s"),
        (Subject((replace(QUIET, step=float("nan")),)), "time step of nan s"),
        (Subject((replace(QUIET, missing=(0, 1)),)), "tells 2 frames of 60"),
        (Subject((QUIET,), names=MARKERS[:-1]), "has 21 numbers of marker_obs per frame, the header states 18"),
        (Subject((QUIET,), names=(*MARKERS, "T10")), "has 21 numbers of marker_obs per frame, the header states 24"),
        (Subject((QUIET,), extra=content(17, b"\xff\xfe")), "field 17 that is not UTF-8"),
        (Subject((QUIET,), extra=integer(17, 5)), "field 17 in another type"),
        (Subject((QUIET,), extra=content(9, b"\x0a\x50abc")), "reaches beyond its end"),
        (Subject((replace(QUIET, markers=standing(0), plates=()),)), "holds no frames"),
        (Subject(()), "0 trials"),
    ],
)
def test_lies_of_the_header(tmp_path: Path, subject: Subject, message: str) -> None:
    path = subject.write(tmp_path / "lies.b3d")
    if not message:
        assert B3dReader().read(path).sizes["time"] == FRAMES
        return
    with pytest.raises(ImdyError, match=message):
        B3dReader().read(path)


def test_a_frame_that_is_laid_out_unlike_the_first(quiet: Path) -> None:
    data = bytearray(quiet.read_bytes())
    size = read_b3d_bytes(quiet).sensor_size
    at = len(data) - 3 * size
    assert data[at] == 2 << 3 | 2
    data[at] = 3 << 3 | 2
    quiet.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"frame \(57\) is laid out unlike the first"):
        B3dReader().read(quiet)


def outcome(path: Path) -> str:
    """``read`` or the error; anything but our own error fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            for motion in (B3dReader().read(path), B3dReader().read_ground_force(path)):
                if motion is not None:
                    validate_motion(motion)
    except ImdyError as error:
        return type(error).__name__
    return "read"


def test_a_cut_file_is_never_read(quiet: Path) -> None:
    data = quiet.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for length in [*range(header + 20), *np.random.default_rng(0).integers(header, len(data), 100)]:
        quiet.write_bytes(data[:length])
        assert outcome(quiet) == "FileFormatError", length
    quiet.write_bytes(data + b"\x00")
    assert outcome(quiet) == "FileFormatError"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_are_read_or_refused(quiet: Path, seed: int) -> None:
    data, rng = quiet.read_bytes(), np.random.default_rng(seed)
    header = 8 + int.from_bytes(data[:8], "little")
    found = []
    for round_ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(0, header if round_ % 2 else len(data), 1 + round_ % 3):
            damaged[at] = rng.integers(0, 256)
        quiet.write_bytes(damaged)
        found.append(outcome(quiet))
    assert found.count("FileFormatError") > 20 and found.count("read") > 20


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_refused(tmp_path: Path, seed: int) -> None:
    rng, path = np.random.default_rng(seed), tmp_path / "noise.b3d"
    for _ in range(100):
        noise = rng.bytes(int(rng.integers(9, 400)))
        path.write_bytes(struct.pack("<q", rng.integers(1, len(noise) + 1)) + noise)
        assert outcome(path) in ("FileFormatError", "InputError")


NIMBLE_READS = """
import json, sys
from nimblephysics_libs import _nimblephysics as nimble
subject = nimble.biomechanics.SubjectOnDisk(sys.argv[1])
out = []
for trial in range(subject.getNumTrials()):
    frames = subject.readFrames(trial, 0, subject.getTrialLength(trial), True, True, 1, 0.0)
    out.append(dict(
        name=subject.getTrialName(trial), step=subject.getTrialTimestep(trial), missing=[int(r) for r in subject.getMissingGRF(trial)],
        markers=[{name: list(place) for name, place in frame.markerObservations} for frame in frames],
        force=[[list(v) for v in frame.rawForcePlateForces] for frame in frames],
        point=[[list(v) for v in frame.rawForcePlateCenterOfPressures] for frame in frames],
        contact=[[list(p.groundContactForce) + list(p.groundContactCenterOfPressure) + list(p.groundContactTorque) for p in frame.processingPasses]
                 for frame in frames]))
print("JSON" + json.dumps(dict(trials=out, mass=subject.getMassKg(), height=subject.getHeightM(), bodies=subject.getGroundForceBodies())))
"""


def nimble_reads(path: Path) -> Any:
    done = subprocess.run([sys.executable, "-c", NIMBLE_READS, str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]
    return json.loads(done.stdout.partition("JSON")[2])


def assert_markers_equal(motion: Any, theirs: Any) -> None:
    for t, seen in enumerate(theirs["markers"]):
        ours = {str(n): p for n, p in zip(motion["marker"].values, motion["marker_position"].values[t], strict=True) if np.isfinite(p).all()}
        named = {name: place for name, place in seen.items() if name and any(place)}
        assert ours.keys() == named.keys()
        np.testing.assert_array_equal([ours[n] for n in named], list(named.values()))


@needs_nimble
def test_nimble_reads_the_same(tmp_path: Path) -> None:
    markers = standing()
    markers[3, 1] = np.nan
    missing = (0,) * 50 + (2,) * 10
    trial = replace(QUIET, markers=markers, passes=((RIGHT, LEFT),), missing=missing)
    path = Subject((trial, replace(trial, name="again"))).write(tmp_path / "quiet.b3d")
    theirs = nimble_reads(path)
    assert theirs["bodies"] == ["calcn_r", "calcn_l"] and theirs["height"] == 1.75
    for i, one in enumerate(theirs["trials"]):
        assert_markers_equal(B3dReader(i).read(path), one)
        assert one["missing"] == list(missing) and one["step"] == STEP
        forces = B3dReader(i).read_ground_force(path)
        assert forces is not None
        contact = np.array(one["contact"])[:, 0].reshape(FRAMES, 3, 2, 3)
        for k, body in enumerate(("calcn_r", "calcn_l")):
            for j, found in enumerate(values(forces, body)):
                np.testing.assert_array_equal(found[:50], contact[:50, j, k])
                assert np.isnan(found[50:]).all()


RECORDED = Path("nimblephysics_data/b3d/results.b3d")


@pytest.mark.filterwarnings("ignore:.*exactly 0, 0, 0")
@pytest.mark.parametrize(("trial", "original"), [("walking1_segment_0", "walking1"), ("walking2_segment_0", "walking2")])
def test_recorded_file_says_what_its_source_says(data_dir: Path, trial: str, original: str) -> None:
    """The same walk as the laboratory's own force and marker files: axes, signs, units, feet."""
    source = f"{data_dir / RECORDED}#{trial}"
    folder = data_dir / "nimblephysics_data/opencap_subject4"
    truth = read_ground_force(folder / f"ID/{original}_grf.mot", bodies={"1": "calcn_r", "2": "calcn_l"})
    forces = B3dReader().read_ground_force(source)
    assert forces is not None
    known = np.isfinite(forces["ground_force"]).all("axis")
    assert known.sel(body="calcn_r").all() and 0 < (~known.sel(body="calcn_l")).sum() < 20
    assert not known.sel(body="calcn_l")[0], "the left foot is still on the floor beside the plates"
    frames = forces.sizes["time"]
    for body in ("calcn_r", "calcn_l"):
        ours, theirs = forces.sel(body=body), truth.sel(body=body).isel(time=slice(0, frames))
        sure = known.sel(body=body).values & (theirs["ground_force"].sel(axis="y").values > 30)
        assert np.abs((ours["ground_force"].values - theirs["ground_force"].values)[sure]).max() < 1.0
        assert np.abs((ours["center_of_pressure"].values - theirs["center_of_pressure"].values)[sure]).max() < 0.01
        assert np.abs((ours["free_moment"].values - theirs["free_moment"].values)[sure]).max() < 0.1
    motion = B3dReader().read(source)
    assert motion.attrs["mass"] == 68.0 and motion.attrs["height"] == 1.7
    recorded = read_trc(next((folder / "MarkerData").rglob(f"{original}.trc")))
    shared = [n for n in motion["marker"].values if n in recorded["marker"].values]
    assert len(shared) > 40
    apart = motion["marker_position"].sel(marker=shared).values - recorded["marker_position"].sel(marker=shared).values[:frames]
    assert np.nanmedian(np.abs(apart)) < 1e-3


@needs_nimble
@pytest.mark.filterwarnings("ignore:.*exactly 0, 0, 0")
def test_nimble_reads_the_recorded_file_the_same(data_dir: Path) -> None:
    for i, theirs in enumerate(nimble_reads(data_dir / RECORDED)["trials"]):
        motion = B3dReader(i).read(data_dir / RECORDED)
        assert motion.attrs["trial"] == theirs["name"]
        assert_markers_equal(motion, theirs)
