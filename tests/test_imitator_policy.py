"""The policy, its judge of style, its files, and which clips it is trained on."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import FileFormatError, InputError
from imdy_plugin.sim.humanoid import state_of
from imdy_plugin.sim.imitator.amp import Discriminator, StyleConfig
from imdy_plugin.sim.imitator.mining import Mining
from imdy_plugin.sim.imitator.observation import STYLE_SIZE
from imdy_plugin.sim.imitator.policy import PolicyConfig, PolicyImitator, PolicyNetwork, Scaler, load_policy, save_policy
from imdy_plugin.sim.imitator.reference import lay_out
from imdy_plugin.sim.imitator.training import compose
from imdy_plugin.sim.standin import build_standin

SMALL = PolicyConfig(hidden=(16, 16), composer_hidden=(8,))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads are slower than one on networks this small, and many times so where the processors are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def standing() -> BodyMotion:
    wxyz = np.zeros((30, 24, 4))
    wxyz[..., 0] = 1.0
    return BodyMotion(np.arange(30) / 60.0, np.tile([0.0, 1.01, 0.0], (30, 1)), wxyz, "standing")


def random_network(config: PolicyConfig = SMALL, seed: int = 0) -> PolicyNetwork:
    torch.manual_seed(seed)
    network = PolicyNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
    return network


def seen(count: int = 5) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((count, SMALL.observation_size)).astype(np.float32)


def test_a_saved_policy_acts_as_before(tmp_path: Path) -> None:
    network = random_network()
    network.primitives[0].scaler.update(torch.from_numpy(seen(50)) * 3.0 + 1.0)
    save_policy(network, tmp_path / "p.safetensors", {"clips": 3})
    loaded, card = load_policy(tmp_path / "p.safetensors")
    assert card == {"clips": 3}
    assert loaded.config == SMALL
    assert loaded.act(seen()) == pytest.approx(network.act(seen()), abs=0.02)
    assert np.abs(network.act(seen())).max() > 0.1


def test_the_default_policy_is_a_few_megabytes(tmp_path: Path) -> None:
    save_policy(PolicyNetwork(), tmp_path / "p.safetensors", {})
    assert (tmp_path / "p.safetensors").stat().st_size < 5e6


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "p.pt"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FileFormatError, match="pickled checkpoints"):
        load_policy(path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "sprung").exists(), "the trap works"


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(FileFormatError, match="no readable"):
        load_policy(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "imdys-1"})
    with pytest.raises(FileFormatError, match="imdys-1"):
        load_policy(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "imdy-policy-1", "config": json.dumps({"ahead": [1]}), "card": "{}"})
    with pytest.raises(FileFormatError, match="do not fit"):
        load_policy(path)


def test_an_untrained_policy_commands_the_reference(standing: BodyMotion) -> None:
    person = build_standin()
    network = PolicyNetwork(SMALL)
    with torch.no_grad():
        for parameter in network.primitives[0].layers[-1].parameters():
            parameter.zero_()
    controller = PolicyImitator(network).begin(person, standing)
    position, velocity = state_of(standing)
    assert controller.target(3, position[3], velocity[3]) == pytest.approx(lay_out(person, standing).base(3, "residual"))
    assert controller.target(29, position[29], velocity[29]).shape == (69,)


def test_the_same_state_gets_the_same_command(standing: BodyMotion) -> None:
    imitator = PolicyImitator(random_network())
    position, velocity = state_of(standing)
    first, second = (imitator.begin(build_standin(), standing, seed).target(3, position[3], velocity[3]) for seed in (0, 1))
    assert (first == second).all()


def test_a_motion_at_another_rate_is_refused(standing: BodyMotion) -> None:
    with pytest.raises(InputError, match="commands at 60"):
        PolicyImitator(random_network()).begin(build_standin(), standing.resampled(30.0))


@pytest.mark.parametrize("mix", ["weighted", "multiplicative"])
def test_a_composer_mixes_its_primitives(mix: Any) -> None:
    primitives = [random_network(seed=seed) for seed in range(3)]
    network = compose(primitives, PolicyConfig(hidden=SMALL.hidden, composer_hidden=SMALL.composer_hidden, mix=mix))
    own = np.stack([primitive.act(seen()) for primitive in primitives])
    mixed = network.act(seen())
    assert (mixed <= own.max(axis=0) + 1e-6).all()
    assert (mixed >= own.min(axis=0) - 1e-6).all()
    weights = network.weights(torch.from_numpy(seen()))
    assert weights.sum(dim=-2).detach().numpy() == pytest.approx(1.0)
    assert weights.shape[-1] == (1 if mix == "weighted" else 69)
    with torch.no_grad():
        network.composer.layers[-1].weight.zero_()  # type: ignore[union-attr]
        network.composer.layers[-1].bias.copy_(torch.tensor([0.0, 50.0, 0.0]).repeat_interleave(weights.shape[-1]))  # type: ignore[union-attr]
    assert network.act(seen()) == pytest.approx(own[1], abs=1e-5)


def test_composers_survive_their_files(tmp_path: Path) -> None:
    network = compose([random_network(seed=seed) for seed in range(2)], SMALL)
    save_policy(network, tmp_path / "p.safetensors", {})
    assert load_policy(tmp_path / "p.safetensors")[0].act(seen()) == pytest.approx(network.act(seen()), abs=0.02)


def test_a_scaler_knows_mean_and_variance_of_all_it_saw() -> None:
    values = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1.0, 5.0, 50.0]) + 3.0
    scaler = Scaler(4)
    for part in values.split([100, 50, 150]):
        scaler.update(part)
    assert scaler.mean.numpy() == pytest.approx(values.mean(dim=0).numpy(), rel=1e-4)
    assert scaler.variance.numpy() == pytest.approx(values.var(dim=0, correction=0).numpy(), rel=1e-4)
    assert scaler(values).std(dim=0).numpy() == pytest.approx(1.0, abs=0.05)


def test_the_judge_tells_recorded_from_simulated() -> None:
    torch.manual_seed(0)
    config = StyleConfig(steps=2, hidden=(32,), learning_rate=1e-3)
    judge = Discriminator(config)
    size = config.steps * STYLE_SIZE
    recorded, simulated = torch.randn(256, size), torch.randn(256, size) + 0.3
    judge.fit_scale(recorded)
    assert abs(float(judge.reward(recorded).mean() - judge.reward(simulated).mean())) < 0.1, "before it has learned"
    optimizer = torch.optim.Adam(judge.parameters(), lr=config.learning_rate)
    for _ in range(80):
        optimizer.zero_grad()
        judge.loss(recorded, simulated).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    fresh = torch.randn(256, size, generator=torch.Generator().manual_seed(9))
    assert float((judge(fresh) > 0).float().mean()) > 0.9
    assert float((judge(fresh + 0.3) < 0).float().mean()) > 0.9
    assert float(judge.reward(fresh).mean()) > float(judge.reward(fresh + 0.3).mean()) + 0.3


def test_the_gradient_penalty_keeps_the_judge_smooth() -> None:
    def slope(penalty: float) -> float:
        torch.manual_seed(0)
        judge = Discriminator(StyleConfig(hidden=(32,), gradient_penalty=penalty))
        recorded, simulated = torch.randn(64, 2320), torch.randn(64, 2320) + 0.3
        optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3)
        for _ in range(60):
            optimizer.zero_grad()
            judge.loss(recorded, simulated).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        inputs = recorded.requires_grad_(True)
        (gradient,) = torch.autograd.grad(judge(inputs).sum(), inputs)
        return float(gradient.norm(dim=1).mean())

    assert slope(5.0) < 0.8 * slope(0.0)


def test_clips_that_fail_are_drawn_more_often() -> None:
    mining = Mining(4)
    assert mining.probabilities() == pytest.approx(0.25)
    mining.count(np.array([0, 0, 1, 1, 1, 3]), np.array([True, True, False, False, False, True]))
    chances = mining.probabilities()
    assert chances.sum() == pytest.approx(1.0)
    assert chances[0] > chances[3] > chances[2] > chances[1]
    assert chances.min() >= 0.2 / 4
    for _ in range(20):
        mining.forget()
        mining.count(np.array([0, 0, 0]), np.array([False, False, False]))
    assert mining.probabilities()[0] < chances[0]


def test_mining_goes_on_where_it_was() -> None:
    mining, other = Mining(3), Mining(3)
    mining.count(np.array([0, 2]), np.array([True, False]))
    other.restore(mining.state())
    assert (other.probabilities() == mining.probabilities()).all()
