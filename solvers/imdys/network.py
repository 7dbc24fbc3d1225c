"""The network: a set of landmarks per frame, a temporal context, and one head per quantity.

Each landmark is a token: a linear map of its own, of its nine features and its identity. The tokens that are there are summed,
so any subset in any order is lawful input. A stack of dilated convolutions then sees about half a second to either side.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from imdy_plugin.atomic import replacing
from imdy_plugin.errors import FileFormatError
from imdy_plugin.solvers.imdys.landmarks import LANDMARKS, mirrored

CHANNELS = 9
"""Features of a landmark: position, velocity, acceleration."""

TORQUES: tuple[str, ...] = (
    *(f"{n}_{s}" for s in "rl" for n in ("hip_flexion", "hip_adduction", "hip_rotation", "knee_angle", "ankle_angle", "subtalar_angle")),
    *("lumbar_extension", "lumbar_bending", "lumbar_rotation"),
)
"""Coordinates of the torque head, signs as in the full-body model of Rajagopal et al. 2016 (knee flexion positive)."""

HEADS: dict[str, int] = {"contact": 2, "force": 6, "center_of_pressure": 4, "free_moment": 2, "torque": len(TORQUES)}
"""Outputs and their sizes: per foot (right, left) a contact logit, force/mass [10 N/kg], offset of the centre of pressure from the
foot point along x and z [0.1 m], vertical free moment/mass [0.1 N m/kg]; torque/mass [N m/kg]."""

FORMAT = "imdys-1"


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network.

    Attributes
    ----------
    width
        Channels of the feature vector of a frame.
    kernel
        Taps of a temporal convolution.
    dilations
        Dilation of each residual block, in frames of ``rate_hz``.
    rate_hz
        Rate the network was trained at; at a multiple of it the dilations grow by the same factor.
    dropout
        Dropout in the residual blocks.
    stage
        What the encoder was trained on: ``"recordings"``.
    heads
        Which of :data:`HEADS` the network has.
    """

    width: int = 96
    kernel: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    rate_hz: float = 50.0
    dropout: float = 0.1
    stage: str = "recordings"
    heads: tuple[str, ...] = field(default=tuple(HEADS))


class LandmarkEncoder(nn.Module):
    """From landmarks to one feature vector per frame: a masked sum of tokens, then a residual layer."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.token = nn.Linear(len(LANDMARKS) * CHANNELS, config.width)
        self.identity = nn.Linear(len(LANDMARKS), config.width, bias=False)
        self.norm = nn.LayerNorm(config.width)
        self.mix = nn.Sequential(nn.Linear(config.width, 2 * config.width), nn.GELU(), nn.Linear(2 * config.width, config.width))

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        """``values (batch, time, landmark, 9)``, ``present (batch, time, landmark)`` -> ``(batch, time, width)``."""
        mask = present.to(values.dtype)
        tokens = self.token((values * mask[..., None]).flatten(-2)) + self.identity(mask)
        hidden = self.norm(tokens)
        return hidden + self.mix(hidden)  # type: ignore[no-any-return]


class TemporalBlock(nn.Module):
    """Two dilated convolutions beside an identity path; zero padding, so length is kept."""

    def __init__(self, config: NetworkConfig, dilation: int) -> None:
        super().__init__()
        self.dilation, self.kernel = dilation, config.kernel
        self.norm = nn.LayerNorm(config.width)
        self.first = nn.Conv1d(config.width, config.width, config.kernel)
        self.second = nn.Conv1d(config.width, config.width, config.kernel)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, stretch: int) -> Tensor:
        """``(batch, time, width)`` in and out; ``stretch`` multiplies the dilation."""
        y = self.norm(hidden).transpose(1, 2)
        y = self._convolve(self.first, y, stretch)
        y = self._convolve(self.second, self.dropout(nn.functional.gelu(y)), stretch)
        return hidden + y.transpose(1, 2)

    def _convolve(self, layer: nn.Conv1d, y: Tensor, stretch: int) -> Tensor:
        dilation = self.dilation * stretch
        return nn.functional.conv1d(y, layer.weight, layer.bias, dilation=dilation, padding=dilation * (self.kernel // 2))


class ImdysNetwork(nn.Module):
    """Encoder, temporal blocks and heads."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = LandmarkEncoder(config)
        self.blocks = nn.ModuleList(TemporalBlock(config, d) for d in config.dilations)
        self.norm = nn.LayerNorm(config.width)
        self.heads = nn.ModuleDict({name: nn.Linear(config.width, HEADS[name]) for name in config.heads})

    def forward(self, values: Tensor, present: Tensor, rate_hz: float | None = None) -> dict[str, Tensor]:
        """Predict every head, each ``(batch, time, size)``, see :data:`HEADS`.

        Parameters
        ----------
        values, present
            As :class:`~imdy_plugin.solvers.imdys.features.Features` has them, with a batch dimension in front.
        rate_hz
            Rate of the frames, a multiple of the configured one; by default that one.
        """
        stretch = 1 if rate_hz is None else round(rate_hz / self.config.rate_hz)
        hidden = self.encoder(values, present)
        for block in self.blocks:
            hidden = block(hidden, stretch)
        hidden = self.norm(hidden)
        return {name: head(hidden) for name, head in self.heads.items()}


MIRROR_LANDMARKS = [LANDMARKS.index(mirrored(name)) for name in LANDMARKS]
"""Index of each landmark's mirror image."""

_OTHER_FOOT = [1, 0]
_MIRROR_FORCE = ([3, 4, 5, 0, 1, 2], [1.0, 1.0, -1.0] * 2)
_MIRROR_POINT = ([2, 3, 0, 1], [1.0, -1.0] * 2)
_MIRROR_TORQUE = ([6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 12, 13, 14], [1.0] * 13 + [-1.0, -1.0])
MIRROR_HEADS: dict[str, tuple[list[int], list[float]]] = {
    "contact": (_OTHER_FOOT, [1.0, 1.0]),
    "force": _MIRROR_FORCE,
    "center_of_pressure": _MIRROR_POINT,
    "free_moment": (_OTHER_FOOT, [-1.0, -1.0]),
    "torque": _MIRROR_TORQUE,
}
"""For each head the order and the signs of its mirror image in the x-y plane."""


def mirror_inputs(values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The mirror image of a motion: left and right landmarks swapped, z reversed."""
    signs = values.new_tensor([1.0, 1.0, -1.0] * 3)
    return values[..., MIRROR_LANDMARKS, :] * signs, present[..., MIRROR_LANDMARKS]


def mirror_outputs(name: str, output: Tensor) -> Tensor:
    """The mirror image of a head's output, last dimension as in :data:`HEADS`."""
    order, signs = MIRROR_HEADS[name]
    return output[..., order] * output.new_tensor(signs)


def save_network(network: ImdysNetwork, path: str | Path, card: dict[str, Any]) -> None:
    """Write weights with configuration, landmark names and ``card`` (anything JSON holds) as one safetensors file."""
    metadata = {"format": FORMAT, "config": json.dumps(asdict(network.config)), "landmarks": json.dumps(LANDMARKS), "card": json.dumps(card)}
    tensors = {name: tensor.detach().cpu().to(torch.float16).contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_network(path: str | Path) -> tuple[ImdysNetwork, dict[str, Any]]:
    """Read what :func:`save_network` wrote; the network is in evaluation mode.

    Raises
    ------
    FileFormatError
        The file does not exist, is no safetensors file (a pickle is never opened), or holds another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 -- not a mapping
    except (OSError, SafetensorError) as error:
        fix = "give a .safetensors file that 'imdy train' wrote; pickled checkpoints (.pt, .pth, .ckpt) are not opened because they can run code"
        raise FileFormatError(path, f"is no readable safetensors file ({error})", fix) from error
    if metadata.get("format") != FORMAT:
        raise FileFormatError(path, f"holds format '{metadata.get('format')}', not '{FORMAT}'", "train it again with 'imdy train'")
    if json.loads(metadata["landmarks"]) != list(LANDMARKS):
        raise FileFormatError(path, "was trained on other landmarks than this version knows", "train it again with 'imdy train'")
    raw: dict[str, Any] = json.loads(metadata["config"])
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    config = NetworkConfig(**settings)
    network = ImdysNetwork(config)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise FileFormatError(path, f"its weights do not fit its configuration ({error})", "train it again with 'imdy train'") from error
    return network.eval(), json.loads(metadata["card"])
