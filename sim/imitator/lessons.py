"""What a policy is trained on: clips laid out for imitation, and settings as they are written on a command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imdy_plugin.errors import InputError, OptionError, UnknownNameError
from imdy_plugin.interfaces import SimBackend
from imdy_plugin.progress import report_progress
from imdy_plugin.sim.clips import Clip, clips
from imdy_plugin.sim.imitator.base import CONTROL_RATE
from imdy_plugin.sim.imitator.cloning import Demonstration
from imdy_plugin.sim.imitator.plans import PlanFolder
from imdy_plugin.sim.imitator.policy import load_policy
from imdy_plugin.sim.imitator.reference import Library, lay_out
from imdy_plugin.sim.imitator.tracker import Tracker
from imdy_plugin.sim.imitator.training import ImitationTraining, parse_stages, train_policy

_SAME_RATE = 1e-3
"""Difference of rates [Hz] that is none: a motion is known by its numbers, and resampling may turn the sign of a quaternion."""


def training_clips(data: str | Path, patterns: Sequence[str] | None = None) -> list[Clip]:
    """Clips of a data folder that may be trained on: level ground, no objects, not held out.

    Parameters
    ----------
    data
        The data folder.
    patterns
        Names wanted, such as ``cmu/0[789]_*``; all if not given.

    Raises
    ------
    InputError
        None is left.
    """
    usable = [clip for clip in clips(data) if clip.may_train and clip.flat and not clip.held_out and not clip.touches_objects]
    chosen = [clip for clip in usable if any(fnmatchcase(clip.name, wanted) for wanted in patterns or ("*",))]
    if not chosen:
        raise InputError(
            f"no clip that may be trained on is called {' or '.join(patterns or ())}; there are {len(usable)}, such as {', '.join(c.name for c in usable[:3])}"
        )
    return chosen


def library_of(chosen: Sequence[Clip]) -> Library:
    """Clips laid out for imitation at the control rate."""
    references = []
    for number, clip in enumerate(chosen):
        motion, person = clip.load()
        references.append(lay_out(person, motion if abs(motion.rate - CONTROL_RATE) < _SAME_RATE else motion.resampled(CONTROL_RATE)))
        report_progress("motions", number + 1, len(chosen))
    return Library(references)


def train_on_clips(
    data: str | Path,
    out: str | Path,
    backend: SimBackend,
    patterns: Sequence[str] | None = None,
    stages: str = "primitive:60",
    settings: Mapping[str, str] | None = None,
    *,
    teacher: str | Path | None = None,
    start: str | Path | None = None,
    resume: bool = True,
) -> Path:
    """Train a policy on clips of a data folder, see :func:`~imdy_plugin.sim.imitator.training.train_policy`.

    Parameters
    ----------
    data, patterns
        Which clips, see :func:`training_clips`.
    out
        The policy's file.
    backend
        The physics engine.
    stages
        Such as ``clone:20,primitive:60``, see :func:`~imdy_plugin.sim.imitator.training.parse_stages`.
    settings
        Settings that differ from the recipe's, see :func:`configured`.
    teacher
        Folder of the tracker's plans (:class:`~imdy_plugin.sim.imitator.plans.PlanFolder`) that the stage ``clone`` learns from;
        clips without a plan are left out.
    start
        A policy's file to begin with; it decides the policy's shape.
    resume
        Go on from a checkpoint.
    """
    planned, config = parse_stages(stages), configured(settings or {})
    network = load_policy(start)[0] if start is not None else None
    if network is not None:
        config = replace(config, policy=network.config)
    library = library_of(training_clips(data, patterns))
    card = {"backend": backend.name}
    if teacher is None:
        return train_policy(library, backend, out, planned, config, start=network, resume=resume, card=card)
    library, shown = planned_part(library, teacher)
    return train_policy(library, backend, out, planned, config, teacher=Tracker(teacher), demonstrations=shown, start=network, resume=resume, card=card)


def planned_part(library: Library, folder: str | Path) -> tuple[Library, list[Demonstration]]:
    """The motions that a folder has plans of, and what the plans do.

    Raises
    ------
    InputError
        There is no plan of any.
    """
    plans = PlanFolder(folder)
    planned = [number for number, each in enumerate(library.references) if plans.file(each.person, each.motion).exists()]
    if not planned:
        raise InputError(f"{folder} holds no plan of any of the {len(library)} motions; the tracker makes them: Tracker(plans=folder)")
    part = library.part(planned)
    shown = []
    for reference in part.references:
        plan = plans.get(reference.person, reference.motion)
        shown.append(Demonstration(reference, plan.position, plan.velocity, plan.target))
    return part, shown


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
