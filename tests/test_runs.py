from __future__ import annotations

import numpy as np

from imdy_plugin.runs import longest_run, runs


def test_runs_reach_both_ends() -> None:
    assert runs(np.array([1, 1, 0, 1, 0, 1], bool)) == [(0, 2), (3, 4), (5, 6)]
    assert runs(np.zeros(3, bool)) == []
    assert runs(np.zeros(0, bool)) == []


def test_the_longest_run_is_the_first_of_equals() -> None:
    assert longest_run(np.array([0, 1, 1, 0, 1, 1], bool)) == slice(1, 3)
    assert longest_run(np.array([1, 0, 1, 1, 1], bool)) == slice(2, 5)
    assert longest_run(np.zeros(3, bool)) == slice(0, 0)
