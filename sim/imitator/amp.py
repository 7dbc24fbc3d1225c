"""A judge of style: how much ten frames in a row look like recorded motion (adversarial motion priors, Peng et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from imdy_plugin.sim.imitator.observation import STYLE_SIZE


@dataclass(frozen=True)
class StyleConfig:
    """The judge and how it learns.

    Attributes
    ----------
    steps
        Frames that it sees at once.
    hidden
        Units of its layers.
    gradient_penalty
        Weight of the squared gradient at recorded motion.
    logit_penalty, weight_decay
        Weights of the squared output weights and of all squared weights.
    learning_rate, batch, batches
        Of Adam; samples of each kind in a batch; batches for each update of the policy.
    scale
        Of the reward.
    """

    steps: int = 10
    hidden: tuple[int, ...] = (512, 256)
    gradient_penalty: float = 5.0
    logit_penalty: float = 0.01
    weight_decay: float = 0.0001
    learning_rate: float = 2e-5
    batch: int = 512
    batches: int = 4
    scale: float = 2.0


class Discriminator(nn.Module):
    """Tells recorded from simulated motion; a positive output says recorded."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: StyleConfig | None = None) -> None:
        super().__init__()
        self.config = config or StyleConfig()
        sizes = [self.config.steps * STYLE_SIZE, *self.config.hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(sizes[-1], 1)
        self.register_buffer("mean", torch.zeros(sizes[0]))
        self.register_buffer("deviation", torch.ones(sizes[0]))

    def fit_scale(self, recorded: Tensor) -> None:
        """Take mean and deviation of the inputs from recorded motion, ``(sample, steps * 232)``."""
        self.mean.copy_(recorded.mean(dim=0))
        self.deviation.copy_(recorded.std(dim=0).clamp(min=0.05))

    def forward(self, windows: Tensor) -> Tensor:
        """Logits ``(sample, 1)`` of windows ``(sample, steps * 232)``."""
        scaled = ((windows - self.mean) / self.deviation).clamp(-10.0, 10.0)
        return self.output(self.layers(scaled))  # type: ignore[no-any-return]

    @torch.no_grad()
    def reward(self, windows: Tensor) -> Tensor:
        """Reward for motion that looks recorded, ``(sample,)``: ``-scale * log(1 - probability)``, bounded."""
        probability = torch.sigmoid(self(windows)).squeeze(-1)
        return -self.config.scale * torch.log((1.0 - probability).clamp(min=1e-4))

    def loss(self, recorded: Tensor, simulated: Tensor) -> Tensor:
        """Cross entropy of both kinds, with the penalties that keep the judge smooth."""
        recorded = recorded.detach().requires_grad_(True)
        real, fake = self(recorded), self(simulated)
        entropy = 0.5 * (nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean())
        (gradient,) = torch.autograd.grad(real.sum(), recorded, create_graph=True)
        # The gradient is taken by the scaled inputs, so that units of the features do not decide what is smooth.
        penalty = (gradient * self.deviation).square().sum(dim=-1).mean()
        squares = torch.stack([layer.weight.square().sum() for layer in self.modules() if isinstance(layer, nn.Linear)]).sum()
        output = self.output.weight.square().sum()
        return entropy + self.config.gradient_penalty * penalty + self.config.logit_penalty * output + self.config.weight_decay * squares
