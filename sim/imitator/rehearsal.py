"""Every motion imitated once from its beginning, many at a time: which succeed, and how near they come."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.interfaces import SimBackend
from imdy_plugin.progress import report_progress
from imdy_plugin.sim.imitator.policy import PolicyNetwork
from imdy_plugin.sim.imitator.reference import Library
from imdy_plugin.sim.imitator.task import ImitationTask, TaskConfig

MEAN_LIMIT = 0.5
"""A motion is lost where the mean distance of the joints exceeds this [m]."""


@dataclass(frozen=True)
class Rehearsal:
    """How each motion went.

    Attributes
    ----------
    success
        Whether it was imitated to its end, ``(clip,)``.
    error
        Mean distance of the joints up to the end or the failure [m], ``(clip,)``.
    """

    success: NDArray[np.bool_]
    error: NDArray[np.float64]

    @property
    def success_rate(self) -> float:
        """Share of the motions that succeeded."""
        return float(self.success.mean())

    @property
    def mpjpe_mm(self) -> float:
        """Mean joint error over the motions that succeeded [mm]; NaN where none did."""
        return 1000.0 * float(self.error[self.success].mean()) if self.success.any() else float("nan")


def rehearse(network: PolicyNetwork, library: Library, backend: SimBackend, config: TaskConfig | None = None) -> Rehearsal:
    """Imitate every motion of a library once, without chance."""
    config = replace(config or TaskConfig(), rule="mean", limit=MEAN_LIMIT, episode_steps=int(library.lengths.max()), fallen=0.0)
    task = ImitationTask(library, backend, config, ahead=network.config.ahead, action=network.config.action)
    success, error = np.zeros(len(library), bool), np.zeros(len(library))
    for first in range(0, len(library), config.worlds):
        clips = np.arange(first, min(first + config.worlds, len(library)))
        success[clips], error[clips] = _run(task, network, clips)
        report_progress("rehearsal", int(clips[-1]) + 1, len(library))
    task.close()
    return Rehearsal(success, error)


def _run(task: ImitationTask, network: PolicyNetwork, clips: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """One group of motions at once; worlds that are done go on unnoticed."""
    observation = task.rehearse(clips)
    going, success = np.ones(len(clips), bool), np.zeros(len(clips), bool)
    total, steps = np.zeros(len(clips)), np.zeros(len(clips))
    while going.any():
        outcome = task.step(network.act(observation))
        total[going], steps[going] = total[going] + outcome.error[going], steps[going] + 1
        success |= going & outcome.ended
        going &= ~(outcome.failed | outcome.ended)
        observation = task.observation()
    return success, total / np.maximum(steps, 1)
