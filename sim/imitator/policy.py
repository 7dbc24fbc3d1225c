"""The learned imitator: a network, or several mixed by one more, from what is seen to what the joints are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import FileFormatError, InputError
from imdy_plugin.sim.imitator.base import CONTROL_RATE, Controller, Imitator
from imdy_plugin.sim.imitator.observation import COUNT, OWN_SIZE, TASK_SIZE, kinematics, observe
from imdy_plugin.sim.imitator.reference import ActionKind, Reference, lay_out

Array = NDArray[np.float64]

FORMAT = "imdy-policy-1"

ACTIONS = 3 * (COUNT - 1)
"""Commands at a time: a rotation vector for each joint."""

_CLIP = 8.0
_LEAST_DEVIATION = 0.02


@dataclass(frozen=True)
class PolicyConfig:
    """Shape of a policy, and what its numbers mean.

    Attributes
    ----------
    ahead
        Reference frames that are seen, counted from the present one; the recipe sees the next one alone.
    action
        ``"residual"``: actions are added to the commands that would follow the reference if nothing disturbed the person;
        ``"absolute"``: they are the targets themselves, as in the recipe.
    hidden
        Units of the layers of a primitive.
    primitives
        How many primitives there are; beyond one a composer mixes them.
    mix
        ``"weighted"``: the composer gives one weight to each primitive; ``"multiplicative"``: one to each primitive and joint axis,
        which is what the product of Gaussians of one width comes to (Peng et al. 2019, NeurIPS).
    composer_hidden
        Units of the layers of the composer.
    rate
        Commands a second [Hz].
    """

    ahead: tuple[int, ...] = (1,)
    action: ActionKind = "residual"
    hidden: tuple[int, ...] = (512, 512, 512)
    primitives: int = 1
    mix: Literal["weighted", "multiplicative"] = "multiplicative"
    composer_hidden: tuple[int, ...] = (256, 128)
    rate: float = CONTROL_RATE

    @property
    def observation_size(self) -> int:
        """Numbers that are seen."""
        return OWN_SIZE + TASK_SIZE * len(self.ahead)


class Scaler(nn.Module):
    """Centres and scales observations by what was seen so far."""

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, values: Tensor) -> Tensor:
        """Scaled ``values (..., size)``, cut at eight deviations."""
        return ((values - self.mean) / (self.variance + _LEAST_DEVIATION**2).sqrt()).clamp(-_CLIP, _CLIP)

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take ``values (sample, size)`` into mean and variance (Chan et al. 1979)."""
        count = float(len(values))
        total = self.count + count
        change = values.mean(dim=0) - self.mean
        squares = self.variance * self.count + values.var(dim=0, correction=0) * count + change.square() * self.count * count / total
        self.mean.add_(change * count / total)
        self.variance.copy_(squares / total)
        self.count.copy_(total)


class Primitive(nn.Module):
    """A scaler and a plain network."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, last: float = 0.01) -> None:
        super().__init__()
        self.scaler = Scaler(inputs)
        self.layers = mlp(inputs, hidden, outputs, last)

    def forward(self, observation: Tensor) -> Tensor:
        """``(..., observation)`` to ``(..., output)``."""
        return self.layers(self.scaler(observation))  # type: ignore[no-any-return]


def mlp(inputs: int, hidden: tuple[int, ...], outputs: int, last: float = 1.0) -> nn.Sequential:
    """Linear layers with SiLU between them; the weights of the last begin smaller by ``last``."""
    layers: list[nn.Module] = []
    for before, after in zip((inputs, *hidden), hidden, strict=False):
        layers += [nn.Linear(before, after), nn.SiLU()]
    output = nn.Linear((inputs, *hidden)[-1], outputs)
    with torch.no_grad():
        output.weight.mul_(last)
        output.bias.mul_(last)
    return nn.Sequential(*layers, output)


class PolicyNetwork(nn.Module):
    """From observations to actions: one primitive, or several under a composer."""

    def __init__(self, config: PolicyConfig | None = None) -> None:
        super().__init__()
        self.config = config or PolicyConfig()
        size = self.config.observation_size
        self.primitives = nn.ModuleList(Primitive(size, self.config.hidden, ACTIONS) for _ in range(self.config.primitives))
        weights = ACTIONS if self.config.mix == "multiplicative" else 1
        self.composer = Primitive(size, self.config.composer_hidden, weights * self.config.primitives) if self.config.primitives > 1 else None

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``(..., 69)`` for observations ``(..., observation)``."""
        if self.composer is None:
            return self.primitives[0](observation)  # type: ignore[no-any-return]
        actions = torch.stack([primitive(observation) for primitive in self.primitives], dim=-2)
        return (self.weights(observation) * actions).sum(dim=-2)

    def weights(self, observation: Tensor) -> Tensor:
        """Weights of the primitives, ``(..., primitive, 69 or 1)``; they add up to one."""
        if self.composer is None:
            return observation.new_ones((*observation.shape[:-1], 1, 1))
        return torch.softmax(self.composer(observation).unflatten(-1, (self.config.primitives, -1)), dim=-2)

    def learning(self) -> Primitive:
        """The part that training changes: the composer, or the only primitive."""
        return self.primitives[0] if self.composer is None else self.composer  # type: ignore[return-value]

    @torch.inference_mode()
    def act(self, observation: NDArray[np.float32]) -> Array:
        """Actions ``(world, 69)`` for observations ``(world, observation)``, the same for the same."""
        device = next(self.parameters()).device
        return np.asarray(self(torch.from_numpy(observation).to(device)).double().cpu())


class PolicyImitator(Imitator):
    """A trained policy as an imitator; it draws nothing at random.

    Parameters
    ----------
    network
        The policy.
    card
        What is known of it.
    name
        What its records are called.
    """

    name = "policy"

    def __init__(self, network: PolicyNetwork, card: Mapping[str, Any] | None = None, name: str = "policy") -> None:
        self.network, self.card = network.eval(), dict(card or {})
        self.name = name  # type: ignore[misc]

    @classmethod
    def load(cls, path: str | Path, name: str = "policy") -> PolicyImitator:
        """The policy of a file, see :func:`load_policy`."""
        return cls(*load_policy(path), name=name)

    def begin(self, person: xr.Dataset, reference: BodyMotion, seed: int = 0) -> Controller:
        """Get ready to imitate one motion; ``seed`` changes nothing."""
        rate = self.network.config.rate
        if abs(reference.rate - rate) > 0.01 * rate:
            raise InputError(
                f"motion '{reference.name}' has {reference.rate:g} frames a second; the policy commands at {rate:g}: use reference.resampled({rate:g})"
            )
        return _PolicyController(self.network, lay_out(person, reference))


class _PolicyController(Controller):
    def __init__(self, network: PolicyNetwork, reference: Reference) -> None:
        self._network, self._reference, self._config = network, reference, network.config

    def target(self, frame: int, position: Array, velocity: Array) -> Array:
        body = kinematics(position[None], velocity[None], self._reference.offsets)
        frames = [min(frame + k, len(self._reference) - 1) for k in self._config.ahead]
        action = self._network.act(observe(body, [self._reference.body[at : at + 1] for at in frames]))[0]
        return np.asarray(self._reference.base(frame, self._config.action) + action)


def save_policy(network: PolicyNetwork, path: str | Path, card: Mapping[str, Any]) -> None:
    """Write weights (half precision), configuration and ``card`` (anything JSON holds) as one safetensors file."""
    metadata = {"format": FORMAT, "config": json.dumps(asdict(network.config)), "card": json.dumps(dict(card))}
    learned = {name for name, _ in network.named_parameters()}
    tensors = {name: value.detach().cpu().to(torch.float16 if name in learned else torch.float32).contiguous() for name, value in network.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_policy(path: str | Path) -> tuple[PolicyNetwork, dict[str, Any]]:
    """Read what :func:`save_policy` wrote; the network is in evaluation mode.

    Raises
    ------
    FileFormatError
        The file does not exist, is no safetensors file (a pickle is never opened), or holds something else.
    """
    metadata, tensors = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise FileFormatError(path, f"holds format '{metadata.get('format')}', not '{FORMAT}'", "give weights that 'imdy imitate train' wrote")
    raw: dict[str, Any] = json.loads(metadata["config"])
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    try:
        network = PolicyNetwork(PolicyConfig(**settings))
        network.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (RuntimeError, TypeError) as error:
        raise FileFormatError(path, f"its weights do not fit its configuration ({error})", "train it again with 'imdy imitate train'") from error
    return network.eval(), json.loads(metadata["card"])


def read_safetensors(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Raises
    ------
    FileFormatError
        It does not exist, or is something else; a pickle is never opened.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
    except (OSError, SafetensorError) as error:
        fix = "give a .safetensors file that 'imdy imitate train' wrote; pickled checkpoints (.pt, .pth, .ckpt) are not opened because they can run code"
        raise FileFormatError(path, f"is no readable safetensors file ({error})", fix) from error
