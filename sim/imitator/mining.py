"""Which clips to train on: those that fail are drawn more often."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Mining:
    """Counts episodes and failures of each clip, the recent ones most, and says how often to draw it.

    Attributes
    ----------
    clips
        Number of clips.
    floor
        Share of the draws that goes to all clips evenly, so that none is forgotten.
    memory
        Weight that earlier episodes keep at each :meth:`forget`.
    """

    clips: int
    floor: float = 0.2
    memory: float = 0.7
    episodes: NDArray[np.float64] = field(init=False)
    failures: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.episodes, self.failures = np.zeros(self.clips), np.zeros(self.clips)

    def count(self, clip: NDArray[np.intp], failed: NDArray[np.bool_]) -> None:
        """Add episodes that have ended, one clip and one outcome each."""
        np.add.at(self.episodes, clip, 1.0)
        np.add.at(self.failures, clip, np.asarray(failed, float))

    def forget(self) -> None:
        """Let what was counted so far weigh less than what comes."""
        self.episodes *= self.memory
        self.failures *= self.memory

    @property
    def failure_rates(self) -> NDArray[np.float64]:
        """Estimated share of failing episodes of each clip; one half where nothing is known."""
        return (self.failures + 0.5) / (self.episodes + 1.0)

    def probabilities(self) -> NDArray[np.float64]:
        """How often to draw each clip: evenly by :attr:`floor`, for the rest in proportion to its failures."""
        hard = self.failure_rates
        return np.asarray(self.floor / self.clips + (1.0 - self.floor) * hard / hard.sum())

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Arrays for a checkpoint."""
        return {"episodes": self.episodes.copy(), "failures": self.failures.copy()}

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        """Go on from :meth:`state`."""
        self.episodes, self.failures = state["episodes"].copy(), state["failures"].copy()
