"""Between the simulator's buffers and torch."""

import numpy as np
import torch


def wrap_tensor(buffer: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(buffer)


def unwrap_tensor(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy()
