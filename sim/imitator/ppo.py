"""Reinforcement learning of a policy: proximal policy optimization, as skrl does it, under a mixed reward of task and style.

Work goes in sections. A section starts all episodes anew, draws people and motions by what has failed so far, and depends on
nothing but its number and what the last one left; so a training that goes on from a checkpoint between two sections ends with the
same weights as one that was never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from skrl.resources.preprocessors.torch import RunningStandardScaler
from torch import Tensor, nn

from imdy_plugin.interfaces import SimBackend
from imdy_plugin.sim.imitator.amp import Discriminator, StyleConfig
from imdy_plugin.sim.imitator.checkpoint import optimizer_tensors, pack, restore_optimizer, unpack
from imdy_plugin.sim.imitator.mining import Mining
from imdy_plugin.sim.imitator.policy import ACTIONS, PolicyNetwork, Primitive
from imdy_plugin.sim.imitator.reference import Library
from imdy_plugin.sim.imitator.task import ImitationTask, Outcome, TaskConfig


@dataclass(frozen=True)
class PpoConfig:
    """How a policy is reinforced.

    Attributes
    ----------
    discount, trace
        Of rewards to come (gamma) and of advantages (lambda).
    clip
        How far the ratio of new and old probability may go from one; the value's change as well.
    learning_rate
        Of Adam.
    log_deviation
        Logarithm of the fixed standard deviation of the actions [rad].
    rollout
        Commands of each world between two updates.
    epochs, batches
        Passes over them, and batches in a pass.
    gradient_norm
        Longest gradient.
    updates
        Updates in a section.
    warm_up
        Updates of the first section in which the value alone learns, so that it does not mislead a policy that can already do something.
    task_share, style_share
        Shares of the task's and the style's reward.
    value_hidden
        Units of the layers of the value.
    """

    discount: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    learning_rate: float = 2e-5
    log_deviation: float = -2.9
    rollout: int = 32
    epochs: int = 6
    batches: int = 6
    gradient_norm: float = 1.0
    updates: int = 10
    warm_up: int = 0
    task_share: float = 0.5
    style_share: float = 0.5
    value_hidden: tuple[int, ...] = (512, 256)


class _Actor(GaussianMixin, Model):  # type: ignore[misc]
    """The policy as skrl takes it: a Gaussian of fixed width about what the network says."""

    def __init__(self, network: PolicyNetwork, log_deviation: float, spaces: dict[str, Any]) -> None:
        Model.__init__(self, **spaces)
        GaussianMixin.__init__(self)
        self.network, self._log_deviation = network, log_deviation

    def compute(self, inputs: dict[str, Tensor], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        mean = self.network(inputs["observations"])
        return mean, {"log_std": torch.full_like(mean, self._log_deviation)}


class _Critic(DeterministicMixin, Model):  # type: ignore[misc]
    """The value as skrl takes it."""

    def __init__(self, network: nn.Module, spaces: dict[str, Any]) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.network = network

    def compute(self, inputs: dict[str, Tensor], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.network(inputs["observations"]), {}


class Reinforcement:
    """A policy that learns by doing.

    Parameters
    ----------
    network
        The policy; its :meth:`~imdy_plugin.sim.imitator.policy.PolicyNetwork.learning` part is changed.
    library, backend
        What is imitated, and in which physics engine.
    task, style, ppo
        Settings.
    seed
        Of every draw.
    device
        Where the networks are.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        library: Library,
        backend: SimBackend,
        task: TaskConfig,
        style: StyleConfig,
        ppo: PpoConfig,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self.network, self.library, self.config, self.seed, self.device = network.to(device), library, ppo, seed, device
        self.task = ImitationTask(library, backend, replace(task, style_steps=style.steps), ahead=network.config.ahead, action=network.config.action)
        self.mining = Mining(len(library))
        self.value = Primitive(network.config.observation_size, ppo.value_hidden, 1, last=1.0).to(device)
        self.judge = Discriminator(style).to(device)
        self.judge_optimizer = torch.optim.Adam(self.judge.parameters(), lr=style.learning_rate)
        self.judge.fit_scale(self._recorded(2048, np.random.default_rng(seed)))
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        self.agent = _agent(network, self.value, task.worlds, ppo, device)

    def section(self, number: int) -> list[dict[str, float]]:
        """One section of training; returns what happened in each update."""
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        torch.manual_seed(seed)
        random = np.random.default_rng([self.seed, number])
        self.mining.forget()
        observation = self.task.restart(self.mining.probabilities(), seed)
        self._see(torch.from_numpy(observation), first=True)
        rows = []
        for update in range(self.config.updates):
            warm = number > 0 or update >= self.config.warm_up
            self.network.learning().requires_grad_(warm)
            observation, row = self._update(observation, random)
            rows.append(row)
        self.task.close()
        return rows

    def result(self) -> PolicyNetwork:
        """The policy."""
        return self.network

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint needs."""
        named = {"policy": self.network, "value": self.value, "judge": self.judge, "value_scaler": self.agent.checkpoint_modules["value_preprocessor"]}
        packed = [pack(name, module.state_dict()) for name, module in named.items()]
        packed += [pack("moment", optimizer_tensors(self.agent.optimizer)), pack("judge_moment", optimizer_tensors(self.judge_optimizer))]
        packed.append(pack("mining", {name: torch.from_numpy(value) for name, value in self.mining.state().items()}))
        return {name: tensor for part in packed for name, tensor in part.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from :meth:`tensors`."""
        named = {"policy": self.network, "value": self.value, "judge": self.judge, "value_scaler": self.agent.checkpoint_modules["value_preprocessor"]}
        for name, module in named.items():
            module.load_state_dict(unpack(name, tensors))
        restore_optimizer(self.agent.optimizer, unpack("moment", tensors))
        restore_optimizer(self.judge_optimizer, unpack("judge_moment", tensors))
        self.mining.restore({name: value.numpy() for name, value in unpack("mining", tensors).items()})

    def _update(self, observation: NDArray[np.float32], random: np.random.Generator) -> tuple[NDArray[np.float32], dict[str, float]]:
        """A rollout, then skrl's update, the judge's, and the scalers'."""
        outcomes, styles = [], []
        for _ in range(self.config.rollout):
            seen = torch.from_numpy(observation).to(self.device)
            with torch.no_grad():
                action, _ = self.agent.act(seen, None, timestep=0, timesteps=1)
            outcome = self.task.step(action.double().cpu().numpy())
            style = self._style(outcome)
            self._record(seen, action, outcome, style)
            observation = self.task.observation()
            outcomes.append(outcome)
            styles.append(style)
        judged = self._teach_judge(outcomes, random)
        self._see(self.agent.memory.get_tensor_by_name("observations").flatten(0, 1))
        return observation, self._row(outcomes, torch.stack(styles), judged)

    def _style(self, outcome: Outcome) -> Tensor:
        """What the judge says, ``(world,)``; zero where it does not count."""
        if self.config.style_share <= 0.0:
            return torch.zeros(len(outcome.reward), device=self.device)
        return self.judge.reward(torch.from_numpy(outcome.style).to(self.device))

    def _record(self, seen: Tensor, action: Tensor, outcome: Outcome, style: Tensor) -> None:
        reward = self.config.task_share * torch.from_numpy(outcome.reward).float().to(self.device) + self.config.style_share * style
        self.agent.record_transition(
            observations=seen,
            states=None,
            actions=action,
            rewards=reward[:, None],
            next_observations=torch.from_numpy(outcome.final).to(self.device),
            next_states=None,
            terminated=torch.from_numpy(outcome.failed).to(self.device)[:, None],
            truncated=torch.from_numpy(outcome.ended).to(self.device)[:, None],
            infos={},
            timestep=0,
            timesteps=1,
        )
        self.agent.post_interaction(timestep=0, timesteps=1)
        over = outcome.failed | outcome.ended
        self.mining.count(outcome.clip[over], outcome.failed[over])

    def _teach_judge(self, outcomes: list[Outcome], random: np.random.Generator) -> float:
        """Some batches of recorded and simulated windows; returns the mean loss."""
        config, windows = self.judge.config, np.concatenate([o.style for o in outcomes])
        losses = []
        for _ in range(config.batches if self.config.style_share > 0 else 0):
            simulated = torch.from_numpy(windows[random.integers(len(windows), size=config.batch)]).to(self.device)
            loss = self.judge.loss(self._recorded(config.batch, random), simulated)
            self.judge_optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.judge_optimizer.step()
            losses.append(float(loss.detach()))
        return float(np.mean(losses)) if losses else 0.0

    def _recorded(self, count: int, random: np.random.Generator) -> Tensor:
        return torch.from_numpy(self.library.style_windows(count, self.judge.config.steps, random)).to(self.device)

    def _see(self, observations: Tensor, first: bool = False) -> None:
        """Let the scalers of what is learning take observations in; at first only where they have seen nothing."""
        for part in (self.network.learning(), self.value):
            if not first or float(part.scaler.count) == 0:
                part.scaler.update(observations.to(self.device))

    def _row(self, outcomes: list[Outcome], style: Tensor, judged: float) -> dict[str, float]:
        tracked = {name: float(np.mean(values)) for name, values in self.agent.tracking_data.items()}
        self.agent.tracking_data.clear()
        lost, ended = (sum(int(getattr(o, name).sum()) for o in outcomes) for name in ("failed", "ended"))
        return {
            "samples": float(len(outcomes) * len(outcomes[0].reward)),
            "reward": float(np.mean([o.reward for o in outcomes])),
            "style_reward": float(style.mean()),
            "error_mm": 1000.0 * float(np.mean([o.error for o in outcomes])),
            "failed": float(lost),
            "ended": float(ended),
            "policy_loss": tracked.get("Loss / Policy loss", float("nan")),
            "value_loss": tracked.get("Loss / Value loss", float("nan")),
            "style_loss": judged,
        }


def _agent(network: PolicyNetwork, value: nn.Module, worlds: int, config: PpoConfig, device: str) -> PPO:
    """skrl's agent for these settings, ready to act and to learn."""
    size = network.config.observation_size
    spaces = {
        "observation_space": gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32),
        "action_space": gymnasium.spaces.Box(-np.inf, np.inf, (ACTIONS,), np.float32),
        "device": device,
    }
    settings = PPO_CFG(
        rollouts=config.rollout,
        learning_epochs=config.epochs,
        mini_batches=config.batches,
        discount_factor=config.discount,
        gae_lambda=config.trace,
        learning_rate=config.learning_rate,
        grad_norm_clip=config.gradient_norm,
        ratio_clip=config.clip,
        value_clip=config.clip,
        time_limit_bootstrap=True,
        value_preprocessor=RunningStandardScaler,
        value_preprocessor_kwargs={"size": 1, "device": device},
    )
    settings.experiment.write_interval = settings.experiment.checkpoint_interval = 0
    memory = RandomMemory(memory_size=config.rollout, num_envs=worlds, device=device)
    models = {"policy": _Actor(network, config.log_deviation, spaces), "value": _Critic(value, spaces)}
    agent = PPO(models=models, memory=memory, cfg=settings, **spaces)
    agent.init()
    agent.enable_training_mode(True)
    return agent
