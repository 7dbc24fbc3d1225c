"""Checkpoints of a training: tensors and JSON in one safetensors file, replaced as a whole, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from imdy_plugin.atomic import replacing
from imdy_plugin.errors import FileFormatError, InputError
from imdy_plugin.sim.imitator.policy import read_safetensors

FORMAT = "imdy-imitate-1"


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], fingerprint: Any) -> None:
    """Write a checkpoint; ``fingerprint`` says (in what JSON holds) which training it belongs to."""
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "facts": json.dumps(dict(facts)), "fingerprint": json.dumps(fingerprint, sort_keys=True)}
    with replacing(path) as temporary:
        save_file(kept, temporary, metadata=metadata)


def load_checkpoint(path: str | Path, fingerprint: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint.

    Raises
    ------
    FileFormatError
        It is no checkpoint; a pickle is never opened.
    InputError
        It belongs to a training with other settings.
    """
    metadata, tensors = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise FileFormatError(
            path, f"holds format '{metadata.get('format')}', not '{FORMAT}'", "name a checkpoint that 'imdy imitate train' wrote, or remove the file"
        )
    if metadata["fingerprint"] != json.dumps(fingerprint, sort_keys=True):
        raise InputError(
            f"{path}: was written with other settings or motions ({_differing(metadata['fingerprint'], fingerprint)}); train to another file, or remove it"
        )
    return tensors, json.loads(metadata["facts"])


def pack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names with ``prefix.`` before them."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unpack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with ``prefix.``, without it."""
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers of each parameter."""
    return {f"{number}.{key}": value for number, state in optimizer.state_dict()["state"].items() for key, value in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Go on from :func:`optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _differing(written: str, fingerprint: Any) -> str:
    """Names of the settings that differ."""
    before, now = json.loads(written), json.loads(json.dumps(fingerprint))
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return "all"
    return ", ".join(sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)))
