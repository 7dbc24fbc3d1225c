from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imdy_plugin.errors import InputError
from imdy_plugin.progress import progress_to
from imdy_plugin.solvers.imdys import training as tr
from imdy_plugin.solvers.imdys.features import Features
from imdy_plugin.solvers.imdys.landmarks import LANDMARKS
from imdy_plugin.solvers.imdys.network import HEADS, NetworkConfig, load_network

TINY = tr.TrainingConfig(network=NetworkConfig(width=16, dilations=(1, 2), dropout=0.0), steps=40, batch=4, window_s=0.6, learning_rate=5e-3, average=0.8)


def trial(name: str, seed: int = 0, frames: int = 200) -> tr.TrainingTrial:
    """The heel's height decides what the foot carries: something a network can learn."""
    random = np.random.default_rng(seed)
    time = np.arange(frames) / 100.0
    height = np.stack([np.sin(2 * np.pi * time + phase + random.random()) for phase in (0.0, np.pi)], axis=1)
    values = np.zeros((frames, len(LANDMARKS), 9), np.float32)
    for foot, landmark in enumerate(("RHEE", "LHEE")):
        values[:, LANDMARKS.index(landmark), 1] = height[:, foot]
    contact = height < 0.0
    force = np.zeros((frames, 2, 3))
    force[..., 1] = np.where(contact, 10.0, 0.0)
    features = Features(
        time=time,
        values=values,
        present=np.ones((frames, len(LANDMARKS)), bool),
        usable=np.ones(frames, bool),
        rotation=np.repeat(np.eye(3)[None], frames, axis=0),
        foot_point=np.zeros((frames, 2, 3)),
        floor=0.0,
        mean_velocity=np.zeros((frames, 3)),
        pelvis_acceleration=np.zeros((frames, 3)),
        landmarks={},
    )
    point = np.where(contact[..., None], 0.05, np.nan) * np.ones(3)
    targets = tr.Targets(force, point, np.where(contact, 0.0, np.nan), contact, np.ones(frames, bool), np.full((frames, 15), np.nan))
    return tr.TrainingTrial(name, f"lab/{name}", "lab", "walk", features, targets)


@pytest.fixture(scope="module")
def trials() -> list[tr.TrainingTrial]:
    return [trial("a", 1), trial("b", 2), trial("c", 3)]


def losses_of(trials: list[tr.TrainingTrial], out: Path, config: tr.TrainingConfig) -> list[float]:
    seen: list[float] = []
    with progress_to(lambda task, _done, _total: seen.append(float(task.rpartition(" ")[2]))):
        tr.train(trials, out, config)
    return seen


def test_training_reduces_the_loss_and_says_who_it_saw(tmp_path: Path, trials: list[tr.TrainingTrial]) -> None:
    losses = losses_of(trials, tmp_path / "w.safetensors", TINY)
    assert len(losses) == TINY.steps
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    _, card = load_network(tmp_path / "w.safetensors")
    assert card["people"] == ["lab/a", "lab/b", "lab/c"]
    assert card["training"]["seed"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"], "the checkpoint is removed when it is no longer needed"


def test_a_run_that_was_cut_off_ends_with_the_same_weights(tmp_path: Path, trials: list[tr.TrainingTrial]) -> None:
    config = replace(TINY, steps=12)
    tr.train(trials, tmp_path / "whole.safetensors", config)

    def stop(_task: str, done: int, _total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress_to(stop):
        tr.train(trials, tmp_path / "cut.safetensors", config, checkpoint_every=5)
    assert not (tmp_path / "cut.safetensors").exists()
    resumed: list[int] = []
    with progress_to(lambda _task, done, _total: resumed.append(done)):
        tr.train(trials, tmp_path / "cut.safetensors", config, checkpoint_every=5)
    assert resumed[0] == 6
    whole, cut = (load_network(tmp_path / f"{n}.safetensors")[0].state_dict() for n in ("whole", "cut"))
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, atol=0, rtol=0)


def test_another_seed_gives_other_weights(tmp_path: Path, trials: list[tr.TrainingTrial]) -> None:
    for seed in (0, 1):
        tr.train(trials, tmp_path / f"{seed}.safetensors", replace(TINY, steps=2, seed=seed))
    first, second = (load_network(tmp_path / f"{seed}.safetensors")[0].state_dict() for seed in (0, 1))
    assert not torch.equal(first["encoder.token.weight"], second["encoder.token.weight"])


def test_a_checkpoint_of_another_recipe_is_not_taken(tmp_path: Path, trials: list[tr.TrainingTrial]) -> None:
    def stop(_task: str, done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress_to(stop):
        tr.train(trials, tmp_path / "w.safetensors", TINY, checkpoint_every=2)
    with pytest.raises(InputError, match="another configuration"):
        tr.train(trials, tmp_path / "w.safetensors", replace(TINY, seed=5))


def test_nothing_valid_is_an_error(tmp_path: Path, trials: list[tr.TrainingTrial]) -> None:
    blind = [replace(t, targets=replace(t.targets, valid=np.zeros(200, bool))) for t in trials]
    with pytest.raises(InputError, match="nothing to train on"):
        tr.train(blind, tmp_path / "w.safetensors", TINY)


def test_unknown_targets_do_not_count() -> None:
    outputs = {name: torch.zeros(1, 4, size) for name, size in HEADS.items()}
    batch = {name: torch.full((1, 4, size), float("nan")) for name, size in HEADS.items()}
    batch["force"][0, 1] = torch.tensor([0.3, 0.4, 0.0, 0.0, 0.0, 0.0])
    weights = dict.fromkeys(HEADS, 1.0)
    assert float(tr.total_loss(outputs, batch, weights)) == pytest.approx(10.0 * (0.5 + 0.001) / 2, rel=1e-3)


def test_augmentation_keeps_what_a_motion_must_hold_and_the_size_of_forces(trials: list[tr.TrainingTrial]) -> None:
    config = replace(TINY, drop=0.4, borrow=0.5, batch=16)
    random = np.random.default_rng(0)
    batch = {
        "values": torch.randn(16, 30, len(LANDMARKS), 9),
        "present": torch.ones(16, 30, len(LANDMARKS), dtype=torch.bool),
        **{name: torch.randn(16, 30, size) for name, size in HEADS.items()},
    }
    lenders = np.random.default_rng(1).random((16, len(LANDMARKS))) > 0.5
    out = tr.augment(batch, lenders, config, random)
    feet = [[LANDMARKS.index(s + n) for n in ("HEE", "MT5", "MT1", "TOE", "ANK", "ANM")] for s in "RL"]
    assert all((out["present"][:, 0, foot].sum(dim=1) >= 2).all() for foot in feet)
    assert not out["present"].all()
    size = [b["force"].unflatten(-1, (2, 3)).norm(dim=-1).sum(dim=-1) for b in (batch, out)]
    torch.testing.assert_close(size[0], size[1])
