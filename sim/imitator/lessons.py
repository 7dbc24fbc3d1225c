"""What a policy is trained on: clips laid out for imitation, and settings as they are written on a command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imdy_plugin.errors import InputError, OptionError, UnknownNameError
from imdy_plugin.progress import report_progress
from imdy_plugin.sim.clips import Clip, clips
from imdy_plugin.sim.imitator.base import CONTROL_RATE
from imdy_plugin.sim.imitator.reference import Library, lay_out
from imdy_plugin.sim.imitator.training import ImitationTraining


def training_clips(data: str | Path, pattern: str = "*") -> list[Clip]:
    """Clips of a data folder that may be trained on: level ground, no objects, not held out.

    Parameters
    ----------
    data
        The data folder.
    pattern
        Names wanted, such as ``cmu/0[789]_*``; several are separated by commas.

    Raises
    ------
    InputError
        None is left.
    """
    patterns = [part.strip() for part in pattern.split(",")]
    usable = [clip for clip in clips(data) if clip.may_train and clip.flat and not clip.held_out and not clip.touches_objects]
    chosen = [clip for clip in usable if any(fnmatchcase(clip.name, wanted) for wanted in patterns)]
    if not chosen:
        raise InputError(f"no clip that may be trained on is called '{pattern}'; there are {len(usable)}, such as {', '.join(c.name for c in usable[:3])}")
    return chosen


def library_of(chosen: Sequence[Clip]) -> Library:
    """Clips laid out for imitation at the control rate."""
    references = []
    for number, clip in enumerate(chosen):
        motion, person = clip.load()
        references.append(lay_out(person, motion.resampled(CONTROL_RATE)))
        report_progress("motions", number + 1, len(chosen))
    return Library(references)


def configured(settings: Mapping[str, str]) -> ImitationTraining:
    """Settings with some changed, written as ``{"ppo.learning_rate": "1e-4", "policy.hidden": "[256, 256]"}``.

    Raises
    ------
    UnknownNameError
        There is no such setting.
    OptionError
        A value is not of its setting's type.
    """
    default = ImitationTraining()
    values = asdict(default)
    known = dict(_leaves(default))
    for name, text in settings.items():
        if name not in known:
            raise UnknownNameError("setting", name, known)
        *path, last = name.split(".")
        inner = values
        for part in path:
            inner = inner[part]
        inner[last] = _value(text)
    try:
        return TypeAdapter(ImitationTraining).validate_python(values)
    except ValidationError as error:
        wrong = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise OptionError(f"settings that cannot be used: {'; '.join(wrong)}") from error


def _leaves(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Names and values of all settings, those of parts with the part's name before a dot."""
    found: list[tuple[str, Any]] = []
    for each in fields(settings):
        value = getattr(settings, each.name)
        found += _leaves(value, f"{prefix}{each.name}.") if is_dataclass(value) else [(prefix + each.name, value)]
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
