"""Training of the network on recordings with force plates: seeded, resumable, on one CPU core or a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from imdy_plugin.atomic import replacing
from imdy_plugin.errors import InputError
from imdy_plugin.progress import report_progress
from imdy_plugin.solvers.imdys.features import RATE_HZ, Features
from imdy_plugin.solvers.imdys.landmarks import CLUSTERS, FOOT, LANDMARKS, MINIMUM_LANDMARKS, SIDES
from imdy_plugin.solvers.imdys.network import (
    ImdysNetwork,
    NetworkConfig,
    mirror_inputs,
    mirror_outputs,
    save_network,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Targets:
    """What the plates and classic inverse dynamics say, on the features' time stamps; NaN where unknown.

    Attributes
    ----------
    force
        Ground force/mass per foot (right, left), ground frame [N/kg], ``(T, 2, 3)``; zero out of contact.
    center_of_pressure
        Ground frame [m], ``(T, 2, 3)``.
    free_moment
        Vertical moment about the centre of pressure/mass [N m/kg], ``(T, 2)``.
    contact
        ``(T, 2)``.
    valid
        Frames in which the forces are known, ``(T,)``.
    torque
        Joint moment/mass by :data:`~imdy_plugin.solvers.imdys.network.TORQUES` [N m/kg], ``(T, 15)``.
    """

    force: Array
    center_of_pressure: Array
    free_moment: Array
    contact: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    torque: Array


@dataclass(frozen=True)
class TrainingTrial:
    """One recording: features, targets, and who did what where."""

    name: str
    person: str
    source: str
    activity: str
    features: Features
    targets: Targets


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Attributes
    ----------
    network
        Its shape.
    steps, batch, window_s
        Optimiser steps, windows per step, length of a window [s].
    learning_rate, weight_decay, average
        AdamW with a cosine schedule and a short warm-up; decay of the running mean of the weights that is kept.
    weights
        Weight of each head's loss.
    activity_weight
        How often an activity is drawn, relative to 1; within it people are drawn evenly.
    offset_m, cluster_offset_m, foot_height_m, shift_m
        Constant error per window, one standard deviation [m]: of each landmark, of landmarks on segments, of a whole foot's
        height, of the pelvis' place.
    yaw_rad, velocity_noise, acceleration_noise, scale
        Standard deviations of a constant heading error [rad], of white noise [m/s, m/s^2], and of the logarithm of body size.
    drop, drop_upper, borrow
        Probability that a landmark is left out, that the upper body is, that only another recording's landmarks are left.
    seed
        Of initial weights and of every draw.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    steps: int = 2000
    batch: int = 20
    window_s: float = 1.28
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    average: float = 0.995
    weights: dict[str, float] = field(default_factory=lambda: {"contact": 0.3, "force": 1.0, "center_of_pressure": 0.5, "free_moment": 0.2, "torque": 1.0})
    activity_weight: dict[str, float] = field(
        default_factory=lambda: {"child_turn": 0.3, "child_walk": 0.5, "static": 0.3, "jump": 0.5, "squat": 0.5, "sit_to_stand": 0.3}
    )
    offset_m: float = 0.02
    cluster_offset_m: float = 0.05
    foot_height_m: float = 0.02
    shift_m: float = 0.03
    yaw_rad: float = 0.08
    velocity_noise: float = 0.04
    acceleration_noise: float = 0.5
    scale: float = 0.12
    drop: float = 0.2
    drop_upper: float = 0.3
    borrow: float = 0.5
    seed: int = 0


Batch = dict[str, Tensor]

_UPPER = [i for i, n in enumerate(LANDMARKS) if n in ("C7", "T10", "CLAV", "STRN") or n[1:] in ("FHD", "BHD", "CLV", "SHO", "UPA", "ELB", "ELM", "WRA", "WRB")]
_CLUSTER = [i for i, n in enumerate(LANDMARKS) if n[1:] in CLUSTERS]
_FEET = [[LANDMARKS.index(s + n) for n in FOOT] for s in SIDES]


def train(
    trials: Sequence[TrainingTrial],
    out: str | Path,
    config: TrainingConfig | None = None,
    *,
    card: dict[str, Any] | None = None,
    checkpoint_every: int = 250,
    device: str = "cpu",
) -> Path:
    """Train a network and write it to ``out`` (.safetensors).

    A checkpoint is kept beside ``out`` every ``checkpoint_every`` steps; a run that was cut off goes on from it and ends with the
    same weights as one that was not.

    Parameters
    ----------
    trials
        What to train on; leaving people out is the caller's choice.
    config
        How; by default :class:`TrainingConfig`.
    card
        Further facts to keep with the weights (command, sources, licences).
    device
        A torch device.

    Raises
    ------
    InputError
        No trial has a valid frame.
    """
    config = config or TrainingConfig()
    recordings = [_Recording(t, config.network.rate_hz) for t in trials if (t.targets.valid & t.features.usable).any()]
    if not recordings:
        raise InputError("nothing to train on: no recording has a frame in which all feet on the ground are on plates")
    torch.manual_seed(config.seed)
    network = ImdysNetwork(config.network).to(device)
    run = _Run(network, config, Path(out).with_suffix(".checkpoint"))
    probabilities = _sampling(recordings, config)
    for step in range(run.resume(), config.steps):
        random = np.random.default_rng([config.seed, step])
        torch.manual_seed(config.seed * 1_000_003 + step)
        batch = {name: tensor.to(device) for name, tensor in _draw(recordings, probabilities, config, random).items()}
        loss = run.step(step, batch)
        report_progress(f"training, loss {loss:.3f}", step + 1, config.steps)
        if (step + 1) % checkpoint_every == 0:
            run.save(step + 1)
    facts = {"training": asdict(config), "people": sorted({r.trial.person for r in recordings}), "recordings": len(recordings), **(card or {})}
    save_network(run.averaged_network(), out, facts)
    run.forget()
    return Path(out)


class _Run:
    """Weights, their running mean and the optimiser, with a checkpoint on disk."""

    def __init__(self, network: ImdysNetwork, config: TrainingConfig, folder: Path) -> None:
        self.network, self.config, self.folder = network, config, folder
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.mean = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def step(self, step: int, batch: Batch) -> float:
        """One optimiser step; returns the loss."""
        self.network.train()
        warm = min(1.0, (step + 1) / 50)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warm * 0.5 * (1.0 + np.cos(np.pi * step / self.config.steps))
        outputs = self.network(batch["values"], batch["present"])
        loss = total_loss(outputs, batch, self.config.weights)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.config.average, (step + 1) / (step + 10))
        for name, value in self.network.state_dict().items():
            self.mean[name].lerp_(value.detach(), 1.0 - decay)
        return float(loss.detach())

    def averaged_network(self) -> ImdysNetwork:
        """The network with the running mean of its weights."""
        network = ImdysNetwork(self.config.network)
        network.load_state_dict({name: value.cpu() for name, value in self.mean.items()})
        return network.eval()

    def save(self, done: int) -> None:
        """Write the checkpoint: safetensors and JSON, no pickle."""
        moments = {f"{key}.{i}": value for i, state in self.optimizer.state_dict()["state"].items() for key, value in state.items()}
        tensors = {f"weight.{n}": v for n, v in self.network.state_dict().items()} | {f"mean.{n}": v for n, v in self.mean.items()}
        tensors |= {f"moment.{n}": v for n, v in moments.items()}
        with replacing(self.folder.with_suffix(".checkpoint.safetensors")) as path:
            save_file({n: v.detach().cpu().contiguous().clone() for n, v in tensors.items()}, path, metadata={"done": str(done), "config": self._fingerprint()})

    def resume(self) -> int:
        """Load the checkpoint of the same configuration, if there is one; returns the steps done."""
        path = self.folder.with_suffix(".checkpoint.safetensors")
        if not path.exists():
            return 0
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        if metadata["config"] != self._fingerprint():
            raise InputError(f"{path} was left by a run with another configuration; delete it or write elsewhere")
        tensors = load_file(path)
        self.network.load_state_dict({n.removeprefix("weight."): v for n, v in tensors.items() if n.startswith("weight.")})
        self.mean = {n.removeprefix("mean."): v for n, v in tensors.items() if n.startswith("mean.")}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("moment."):
                _, key, index = name.split(".")
                state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        return int(metadata["done"])

    def forget(self) -> None:
        """Remove the checkpoint."""
        self.folder.with_suffix(".checkpoint.safetensors").unlink(missing_ok=True)

    def _fingerprint(self) -> str:
        return json.dumps(asdict(self.config), sort_keys=True)


class _Recording:
    """A trial as tensors in the heading frame, at the features' rate."""

    def __init__(self, trial: TrainingTrial, rate_hz: float) -> None:
        self.trial, self.stride = trial, round(RATE_HZ / rate_hz)
        f, t = trial.features, trial.targets
        into = f.rotation.transpose(0, 2, 1)
        offset = np.einsum("tij,tfj->tfi", into, t.center_of_pressure - f.foot_point)[..., [0, 2]] / 0.1
        offset[np.abs(offset).max(axis=-1) > 3.0] = np.nan
        force = np.einsum("tij,tfj->tfi", into, t.force) / 10.0
        valid = t.valid & f.usable
        self.arrays = {
            "values": f.values,
            "present": f.present,
            "force": _known(force.reshape(len(force), 6), valid),
            "center_of_pressure": _known(offset.reshape(len(offset), 4), valid),
            "free_moment": _known(t.free_moment / 0.1, valid),
            "contact": _known(t.contact.astype(float), valid),
            "torque": _known(t.torque, f.usable),
        }
        self.landmarks = f.present.any(axis=0)
        self.starts = np.flatnonzero(valid)

    def window(self, length: int, random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """``length`` frames at the network's rate around a random valid frame; NaN targets and missing landmarks beyond the ends."""
        span = length * self.stride
        start = int(random.choice(self.starts)) - int(random.integers(0, span))
        rows = np.arange(start, start + span, self.stride)
        inside = (rows >= 0) & (rows < len(self.arrays["values"]))
        out = {}
        for name, array in self.arrays.items():
            blank = 0 if name in ("values", "present") else np.nan
            window = np.full((length, *array.shape[1:]), blank, dtype=array.dtype)
            window[inside] = array[rows[inside]]
            out[name] = window
        return out


def _known(values: Array, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(valid[:, None], values, np.nan).astype(np.float32)


def _sampling(recordings: Sequence[_Recording], config: TrainingConfig) -> Array:
    """Probability of each recording: activities by weight, people in an activity evenly, recordings of a person evenly."""
    groups: dict[tuple[str, str], int] = {}
    for r in recordings:
        key = (r.trial.activity, r.trial.person)
        groups[key] = groups.get(key, 0) + 1
    people = {a: sum(1 for activity, _ in groups if activity == a) for a, _ in groups}
    weight = np.array(
        [config.activity_weight.get(r.trial.activity, 1.0) / people[r.trial.activity] / groups[(r.trial.activity, r.trial.person)] for r in recordings]
    )
    weight *= np.array([np.sqrt(people[r.trial.activity]) for r in recordings])
    return np.asarray(weight / weight.sum(), float)


def _draw(recordings: Sequence[_Recording], probabilities: Array, config: TrainingConfig, random: np.random.Generator) -> Batch:
    length = round(config.window_s * config.network.rate_hz)
    chosen = random.choice(len(recordings), size=config.batch, p=probabilities)
    windows = [recordings[i].window(length, random) for i in chosen]
    batch = {name: torch.from_numpy(np.stack([w[name] for w in windows])) for name in windows[0]}
    lenders = [recordings[i].landmarks for i in random.choice(len(recordings), size=config.batch)]
    return augment(batch, np.stack(lenders), config, random)


def augment(batch: Batch, lenders: NDArray[np.bool_], config: TrainingConfig, random: np.random.Generator) -> Batch:
    """Vary a batch as laboratories, bodies and marker sets vary.

    Parameters
    ----------
    batch
        ``values``, ``present`` and targets, ``(batch, time, ...)``.
    lenders
        Landmarks of other recordings, one per window, ``(batch, landmark)``.
    config, random
        How much, and the source of chance.
    """
    out = dict(batch)
    if random.random() < 0.5:
        out["values"], out["present"] = mirror_inputs(out["values"], out["present"])
        out |= {name: mirror_outputs(name, out[name]) for name in config.network.heads}
    out["present"] = out["present"] & torch.from_numpy(_kept(lenders, config, random))[:, None, :]
    values = out["values"].clone()
    values += _errors(values.shape, config, random)
    size = torch.from_numpy(np.exp(config.scale * random.standard_normal((values.shape[0], 1, 1, 1))).astype(np.float32))
    values[..., :3] *= size
    values[..., 3:6] *= size.sqrt()
    out["center_of_pressure"] = out["center_of_pressure"] * size[..., 0]
    out["values"] = values
    _turn(out, config, random)
    return out


def _kept(lenders: NDArray[np.bool_], config: TrainingConfig, random: np.random.Generator) -> NDArray[np.bool_]:
    """Landmarks to keep, ``(batch, landmark)``; never fewer than a lawful motion has."""
    count = len(lenders)
    kept = random.random(lenders.shape) >= config.drop * random.choice([0.0, 1.0, 2.0], size=(count, 1))
    kept[:, _UPPER] &= (random.random(count) >= config.drop_upper)[:, None]
    kept &= lenders | (random.random(count) >= config.borrow)[:, None]
    few = kept.sum(axis=1) < MINIMUM_LANDMARKS
    for foot in _FEET:
        few |= kept[:, foot].sum(axis=1) < 2
    kept[few] = True
    return kept


def _errors(shape: Sequence[int], config: TrainingConfig, random: np.random.Generator) -> Tensor:
    """Constant position errors and white noise in the features' units, ``(batch, time, landmark, 9)``."""
    count, _, landmarks, _ = shape
    offset = config.offset_m * random.standard_normal((count, 1, landmarks, 3))
    offset[:, :, _CLUSTER] += config.cluster_offset_m * random.standard_normal((count, 1, len(_CLUSTER), 3))
    for foot in _FEET:
        offset[:, :, foot, 1] += config.foot_height_m * random.standard_normal((count, 1, 1))
    offset[..., [0, 2]] += config.shift_m * random.standard_normal((count, 1, 1, 2))
    scales = torch.tensor([0.0] * 3 + [config.velocity_noise / 2.0] * 3 + [config.acceleration_noise / 10.0] * 3)
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(int(random.integers(2**62)))) * scales
    noise[..., :3] = torch.from_numpy(offset / 0.5)
    return noise


def _turn(out: Batch, config: TrainingConfig, random: np.random.Generator) -> None:
    """Turn inputs and vector targets of ``out`` by a small constant yaw; its ``values`` are changed in place."""
    values = out["values"]
    angle = torch.from_numpy((config.yaw_rad * random.standard_normal((values.shape[0], 1, 1))).astype(np.float32))
    cos, sin = angle.cos(), angle.sin()

    def turn(vectors: Tensor, i: int, j: int, c: Tensor, s: Tensor) -> None:
        x, z = vectors[..., i].clone(), vectors[..., j].clone()
        vectors[..., i], vectors[..., j] = c * x - s * z, s * x + c * z

    for k in (0, 3, 6):
        turn(values, k, k + 2, cos, sin)
    for name, pairs in (("force", ((0, 2), (3, 5))), ("center_of_pressure", ((0, 1), (2, 3)))):
        out[name] = out[name].clone()
        for i, j in pairs:
            turn(out[name], i, j, cos[..., 0], sin[..., 0])


def total_loss(outputs: Batch, batch: Batch, weights: dict[str, float]) -> Tensor:
    """Weighted sum of the heads' losses over the frames whose target is known."""
    losses = {name: _LOSSES[name](outputs[name], batch) for name in outputs}
    return torch.stack([weights[name] * value for name, value in losses.items()]).sum()


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, values, torch.zeros_like(values)).sum() / known.sum().clamp(min=1)


def _distance(output: Tensor, target: Tensor, feet: int = 2) -> Tensor:
    """Mean Euclidean distance per foot over known targets, as the force error is defined."""
    known = torch.isfinite(target).reshape(*target.shape[:-1], feet, -1).all(dim=-1)
    difference = (output - torch.nan_to_num(target)).reshape(*target.shape[:-1], feet, -1)
    return _mean((difference.square().sum(dim=-1) + 1e-6).sqrt(), known)


def _absolute(output: Tensor, target: Tensor) -> Tensor:
    return _mean((output - torch.nan_to_num(target)).abs(), torch.isfinite(target))


def _contact_loss(output: Tensor, batch: Batch) -> Tensor:
    target = batch["contact"]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(output, torch.nan_to_num(target), reduction="none")
    return _mean(loss, torch.isfinite(target))


_LOSSES: dict[str, Callable[[Tensor, Batch], Tensor]] = {
    "contact": _contact_loss,
    "force": lambda output, batch: 10.0 * _distance(output, batch["force"]),
    "center_of_pressure": lambda output, batch: _distance(output, batch["center_of_pressure"]),
    "free_moment": lambda output, batch: _absolute(output, batch["free_moment"]),
    "torque": lambda output, batch: _absolute(output, batch["torque"]),
}
