"""How large and how varied a data set is, beside the data sets that the paper compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from imdy_plugin.sim.records import RecordStore

PUBLISHED = (
    ("Zell et al. (2020)", "22", "0.07", "GRF (feet), torques", "partial skeleton", "real"),
    ("Scott et al. (2020)", "10", "7.6", "vertical GRF (feet)", "skeleton", "real"),
    ("UnderPressure (Mourot et al. 2022)", "10", "5.5", "vertical GRF (feet)", "skeleton", "real"),
    ("GroundLink (Han et al. 2023)", "7", "1.5", "GRF (feet)", "SMPL", "real"),
    ("AddBiomechanics (Werling et al. 2024)", "273", "57.6", "GRF (feet), torques", "Rajagopal et al. (2016)", "real"),
    ("ImDy (Liu et al. 2025)", "435", "152.3", "GRF (all bodies), torques", "SMPL", "simulated"),
)
"""Rows of Table 1 of the paper: data set, subjects, hours, dynamics, body, style."""

COLUMNS = ("data set", "subjects", "hours", "dynamics", "body", "style")


@dataclass(frozen=True)
class Statistics:
    """What a store holds.

    Attributes
    ----------
    episodes, clips, people, bodies
        Numbers of episodes, of the clips and people that were imitated, and of the different bodies that imitated them.
    frames, valid, failed, usable
        Numbers of frames, of valid ones, of those after a failure, and of valid ones before it.
    hours, usable_hours
        Duration of all frames and of the usable ones [h].
    complete
        Episodes that imitated their clip to its end.
    joint_error
        Distance of the joints from the reference's before a failure, mean over episodes by their frames [m]; None without frames.
    hours_by
        Usable hours by ``activity``, ``imitator``, ``variation`` and ``source``.
    touched
        Episodes in which the ground touched each body.
    largest_residual
        Largest unexplained force or moment of any frame, in body weights (times body height).
    """

    episodes: int
    clips: int
    people: int
    bodies: int
    frames: int
    valid: int
    failed: int
    usable: int
    hours: float
    usable_hours: float
    complete: int
    joint_error: float | None
    hours_by: Mapping[str, Mapping[str, float]]
    touched: Mapping[str, int]
    largest_residual: float

    def row(self, name: str) -> tuple[str, ...]:
        """The data set's row in :data:`PUBLISHED`'s table; subjects are bodies, as in the paper."""
        return (name, str(self.bodies), f"{self.usable_hours:.2f}", "GRF (all bodies), torques", "24 bodies, SMPL topology", "simulated")

    def lines(self) -> list[str]:
        """All of it, for people."""
        share = 100.0 / max(self.frames, 1)
        error = "" if self.joint_error is None else f", joints {1e3 * self.joint_error:.1f} mm from the reference"
        said = [
            f"{self.episodes} episodes of {self.clips} clips of {self.people} people, imitated by {self.bodies} bodies; {self.complete} to the end{error}",
            f"{self.frames} frames, {self.hours:.3f} h; valid {share * self.valid:.3f} %, after a failure {share * self.failed:.2f} %,"
            f" usable {share * self.usable:.2f} % = {self.usable_hours:.3f} h",
            f"largest residual {self.largest_residual:.1e} body weights (valid below 1e-6)",
        ]
        said += [f"hours by {what}: " + ", ".join(f"{name} {hours:.3f}" for name, hours in _largest_first(by)) for what, by in self.hours_by.items()]
        return [*said, "episodes in which the ground touched: " + ", ".join(f"{name} {count}" for name, count in _largest_first(self.touched))]


def statistics(store: RecordStore) -> Statistics:
    """Count what is in a store, from the attributes of its episodes."""
    return statistics_of(store.manifest().values())


def statistics_of(episodes: Iterable[Mapping[str, Any]]) -> Statistics:
    """Count what episodes with these attributes hold."""
    given = list(episodes)
    usable = {i: e["usable_frames"] / e["rate"] / 3600.0 for i, e in enumerate(given)}
    by = {what: Counter[str]() for what in ("activity", "imitator", "variation", "source")}
    touched = Counter[str]()
    for i, episode in enumerate(given):
        touched.update(episode["bodies_touched"])
        for what, counter in by.items():
            counter[str(episode[what])] += usable[i]
    tracked = [(e["mean_joint_error"], e["frames"] - e["failed_frames"]) for e in given if e["mean_joint_error"] is not None]
    weight = sum(frames for _, frames in tracked)
    return Statistics(
        episodes=len(given),
        clips=len({e["clip"] for e in given}),
        people=len({e["person"] for e in given}),
        bodies=len({e["body"] for e in given}),
        frames=sum(e["frames"] for e in given),
        valid=sum(e["valid_frames"] for e in given),
        failed=sum(e["failed_frames"] for e in given),
        usable=sum(e["usable_frames"] for e in given),
        hours=sum(e["frames"] / e["rate"] for e in given) / 3600.0,
        usable_hours=sum(usable.values()),
        complete=sum(e["frames"] == e["reference_frames"] and not e["failed_frames"] for e in given),
        joint_error=sum(error * frames for error, frames in tracked) / weight if weight else None,
        hours_by=by,
        touched=touched,
        largest_residual=max((e["largest_residual"] for e in given), default=0.0),
    )


def _largest_first(counts: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
