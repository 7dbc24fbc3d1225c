"""Training of a policy from its first step to its card: stages, checkpoints, curves.

Stages follow perpetual humanoid control (Luo et al. 2023): a primitive learns all motions, a copy of it those that fail, another
to get up, and a composer mixes them. Before the first a policy may be cloned from a teacher.
"""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from imdy_plugin.atomic import replacing
from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.interfaces import SimBackend
from imdy_plugin.progress import report_progress
from imdy_plugin.sim.imitator.amp import StyleConfig
from imdy_plugin.sim.imitator.base import Controller, Imitator
from imdy_plugin.sim.imitator.checkpoint import load_checkpoint, pack, save_checkpoint, unpack
from imdy_plugin.sim.imitator.cloning import Cloning, CloningConfig, Demonstration
from imdy_plugin.sim.imitator.policy import PolicyConfig, PolicyNetwork, save_policy
from imdy_plugin.sim.imitator.ppo import PpoConfig, Reinforcement
from imdy_plugin.sim.imitator.reference import Library
from imdy_plugin.sim.imitator.rehearsal import Rehearsal, rehearse
from imdy_plugin.sim.imitator.task import TaskConfig

StageKind = Literal["clone", "primitive", "hard", "getup", "composer"]

_FALLEN = {"getup": 0.8, "composer": 0.2}
"""Share of the episodes of a stage that start with a person who has fallen."""


_WARM_UP = 5
"""Updates in which the value alone learns, where the policy already can do something."""


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Attributes
    ----------
    kind
        ``"clone"``: a primitive is taught; ``"primitive"``: it is reinforced on all motions; ``"hard"``: a copy on those that fail;
        ``"getup"``: a copy on people who have fallen; ``"composer"``: a network that mixes the primitives, which change no more.
    minutes
        How long it takes, or None for no limit.
    sections
        How many sections it takes at most, or None for no limit.
    """

    kind: StageKind
    minutes: float | None = None
    sections: int | None = None


def parse_stages(text: str) -> list[Stage]:
    """Stages written as ``clone:20,primitive:60``, minutes after the colon.

    Raises
    ------
    UnknownNameError
        There is no such stage.
    InputError
        The minutes are missing or no positive number.
    """
    stages = []
    for part in text.split(","):
        kind, _, minutes = part.strip().partition(":")
        if kind not in get_args(StageKind):
            raise UnknownNameError("stage", kind, get_args(StageKind))
        try:
            length = float(minutes)
        except ValueError as error:
            raise InputError(f"stage '{part.strip()}' does not say how many minutes; write {kind}:20") from error
        if not length > 0:
            raise InputError(f"stage '{part.strip()}': the minutes must be positive")
        stages.append(Stage(kind, minutes=length))  # type: ignore[arg-type]
    return stages


@dataclass(frozen=True)
class ImitationTraining:
    """All settings of a training; see the classes of its parts.

    Attributes
    ----------
    policy, task, style, ppo, cloning
        Of the parts.
    seed
        Of every draw.
    device
        Where the networks are, a torch device.
    """

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)
    cloning: CloningConfig = field(default_factory=CloningConfig)
    seed: int = 0
    device: str = "cpu"


class _Learner(Protocol):
    def section(self, number: int) -> list[dict[str, float]]: ...
    def result(self) -> PolicyNetwork: ...
    def tensors(self) -> dict[str, Tensor]: ...
    def restore(self, tensors: dict[str, Tensor]) -> None: ...


def train_policy(
    library: Library,
    backend: SimBackend,
    out: str | Path,
    stages: Sequence[Stage],
    config: ImitationTraining | None = None,
    *,
    teacher: Imitator | None = None,
    demonstrations: Sequence[Demonstration] = (),
    start: PolicyNetwork | None = None,
    resume: bool = True,
    card: dict[str, Any] | None = None,
    checkpoint_minutes: float = 3.0,
) -> Path:
    """Train a policy and write it, its card and its curves.

    Beside ``out`` (.safetensors) go a checkpoint, ``.checkpoint.safetensors``, the curves as ``.csv`` and ``.png``, and at the end the
    card as ``.md``. A training that was stopped goes on from its checkpoint.

    Parameters
    ----------
    library
        What to imitate; leaving motions out is the caller's choice.
    backend
        The physics engine.
    out
        The policy's file, written with every checkpoint.
    stages
        What is done, one after the other.
    config
        Settings.
    teacher
        Whom ``clone`` clones: an imitator that knows what to do near its plan.
    demonstrations
        What a teacher did on its own, shown first.
    start
        A policy of one primitive to begin with.
    resume
        Go on from the checkpoint where there is one; else it is an error that there is one.
    card
        Further facts for the card (command, sources, licences).
    checkpoint_minutes
        Least time between two checkpoints.

    Raises
    ------
    InputError
        A stage lacks what it needs, or the checkpoint is of another training.
    """
    config = config or ImitationTraining()
    _check(stages, teacher)
    run = _Run(library, backend, Path(out), list(stages), config, teacher, tuple(demonstrations), start)
    if run.checkpoint.exists() and not resume:
        raise InputError(f"{run.checkpoint} holds an unfinished training; go on with it (resume), or remove it")
    run.resume()
    while run.stage < len(stages):
        run.work(checkpoint_minutes)
    return run.finish(dict(card or {}))


def _check(stages: Sequence[Stage], teacher: Imitator | None) -> None:
    kinds = [stage.kind for stage in stages]
    if not kinds:
        raise InputError("a training needs at least one stage, such as primitive:60")
    if "clone" in kinds and teacher is None:
        raise InputError("the stage 'clone' needs a teacher; give the folder of its plans (--teacher)")
    if kinds[0] not in ("clone", "primitive"):
        raise InputError(f"a training begins with 'clone' or 'primitive', not with '{kinds[0]}'")
    if ("composer" in kinds) != (kinds[-1] == "composer") or any(a == "composer" for a, _ in pairwise(kinds)):
        raise InputError("the stage 'composer' comes last")
    if {"hard", "getup"} & set(kinds) and kinds[-1] != "composer":
        raise InputError("further primitives are of use under a composer alone; end with the stage 'composer'")
    if kinds[-1] == "composer" and not {"hard", "getup"} & set(kinds):
        raise InputError("a composer needs more than one primitive; put a stage 'hard' or 'getup' before it")


class _Run:
    """A training on its way: what has been learned, at which stage it is, and what is on disk."""

    def __init__(
        self,
        library: Library,
        backend: SimBackend,
        out: Path,
        stages: list[Stage],
        config: ImitationTraining,
        teacher: Imitator | None,
        demonstrations: tuple[Demonstration, ...],
        start: PolicyNetwork | None,
    ) -> None:
        self.library, self.backend, self.out, self.stages, self.config = library, backend, out, stages, config
        self.teacher, self.demonstrations = teacher, demonstrations
        self.started = start is not None
        torch.manual_seed(config.seed)
        self.primitives = [copy.deepcopy(start) if start is not None else PolicyNetwork(replace(config.policy, primitives=1))]
        self.checkpoint, self.curves = (out.with_name(out.stem + end) for end in (".checkpoint.safetensors", ".csv"))
        self.stage, self.sections, self.seconds, self.samples = 0, 0, 0.0, 0.0
        self.composed: PolicyNetwork | None = None
        self.hard: list[int] = []
        self.rows: list[dict[str, float | str]] = []
        self._loaded: dict[str, Tensor] = {}

    def work(self, checkpoint_minutes: float) -> None:
        """Carry out the stage that the training is at."""
        stage = self.stages[self.stage]
        if not self._loaded:
            self._prepare(stage)
        learner = self._learner(stage)
        if self._loaded:
            learner.restore(self._loaded)
            self._loaded = {}
        saved = time.monotonic()
        while not self._over(stage):
            begun = time.monotonic()
            if isinstance(learner, Cloning):
                learner.set_learning_rate(self._anneal(stage))
            rows = learner.section(self.sections)
            self.sections, self.seconds = self.sections + 1, self.seconds + time.monotonic() - begun
            self._note(stage, rows)
            if time.monotonic() - saved > 60.0 * checkpoint_minutes:
                self._save(learner)
                saved = time.monotonic()
        self._close(stage, learner)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        tensors, facts = load_checkpoint(self.checkpoint, self._fingerprint())
        self.stage, self.sections, self.seconds, self.samples = facts["stage"], facts["sections"], facts["seconds"], facts["samples"]
        self.hard, self.rows = facts["hard"], facts["rows"]
        self.primitives = [copy.deepcopy(self.primitives[0]) for _ in range(facts["primitives"])]
        for number, primitive in enumerate(self.primitives):
            primitive.load_state_dict(unpack(f"primitive{number}", tensors))
        self._loaded = unpack("learner", tensors)

    def finish(self, card: dict[str, Any]) -> Path:
        """Write the policy with what it can do, and its card; the checkpoint is removed."""
        network = self._policy().eval()
        trial = rehearse(network, self.library, self.backend, self.config.task)
        facts = self._facts(trial) | card
        save_policy(network, self.out, facts)
        with replacing(self.out.with_suffix(".md")) as path:
            path.write_text(model_card(facts))
        self.checkpoint.unlink(missing_ok=True)
        return self.out

    def _prepare(self, stage: Stage) -> None:
        """A new primitive where the stage asks for one, and the motions that it is for."""
        if stage.kind in ("hard", "getup"):
            if stage.kind == "hard":
                trial = rehearse(self.primitives[-1], self.library, self.backend, self.config.task)
                self.hard = np.flatnonzero(~trial.success).tolist()
            self.primitives.append(copy.deepcopy(self.primitives[-1]))
        torch.manual_seed(self.config.seed + self.stage)

    def _learner(self, stage: Stage) -> _Learner:
        config, seed = self.config, self.config.seed + 1000 * self.stage
        network, library = self.primitives[-1], self.library
        if stage.kind == "clone":
            controllers = self._controllers()
            return Cloning(
                network, library, controllers, self.backend, config.task, config.cloning, demonstrations=self.demonstrations, seed=seed, device=config.device
            )
        if stage.kind == "composer":
            network = compose(self.primitives, config.policy)
        if stage.kind == "hard" and self.hard:
            library = library.part(self.hard)
        task = replace(config.task, fallen=_FALLEN.get(stage.kind, config.task.fallen))
        able = stage.kind != "composer" and (self.stage > 0 or self.started)
        ppo = replace(config.ppo, warm_up=max(config.ppo.warm_up, _WARM_UP)) if able else config.ppo
        return Reinforcement(network, library, self.backend, task, config.style, ppo, seed=seed, device=config.device)

    def _controllers(self) -> list[Controller]:
        """The teacher's controllers, one for each motion."""
        assert self.teacher is not None
        made = []
        for number, reference in enumerate(self.library.references):
            made.append(self.teacher.begin(reference.person, reference.motion, self.config.seed))
            report_progress("teacher", number + 1, len(self.library))
        return made

    def _over(self, stage: Stage) -> bool:
        """Whether a stage is done: its time or its sections are used up, or nothing is left to learn."""
        if stage.kind == "hard" and not self.hard:
            return True
        done = stage.minutes is not None and self.seconds >= 60.0 * stage.minutes
        return done or (stage.sections is not None and self.sections >= stage.sections)

    def _anneal(self, stage: Stage) -> float:
        """Factor of the learning rate: a cosine over the stage."""
        parts = [self.seconds / (60.0 * stage.minutes) if stage.minutes else 0.0, self.sections / stage.sections if stage.sections else 0.0]
        return 0.05 + 0.95 * 0.5 * (1.0 + float(np.cos(np.pi * min(max(parts), 1.0))))

    def _note(self, stage: Stage, rows: list[dict[str, float]]) -> None:
        self.samples += sum(row["samples"] for row in rows)
        self.rows += [{"stage": stage.kind, "section": self.sections, "seconds": round(self.seconds, 2), **row} for row in rows]
        report_progress(f"stage {stage.kind}", *self._share(stage))

    def _share(self, stage: Stage) -> tuple[int, int]:
        if stage.minutes is not None:
            return min(int(self.seconds), int(60 * stage.minutes)), int(60 * stage.minutes)
        return self.sections, stage.sections or self.sections + 1

    def _close(self, stage: Stage, learner: _Learner) -> None:
        """Keep what a stage has led to and go to the next."""
        if stage.kind == "composer":
            self.composed = learner.result()
        else:
            self.primitives[-1] = copy.deepcopy(learner.result()).requires_grad_(False)
        self.stage, self.sections, self.seconds = self.stage + 1, 0, 0.0
        if self.stage < len(self.stages):
            self._write({})

    def _save(self, learner: _Learner) -> None:
        if self.stages[self.stage].kind == "composer":
            self.composed = learner.result()
        self._write(pack("learner", learner.tensors()))
        if len(self.primitives) == 1 or self.composed is not None:
            save_policy(learner.result(), self.out, {"unfinished": True, "samples": self.samples})

    def _write(self, tensors: dict[str, Tensor]) -> None:
        """The checkpoint and the curves."""
        packed = dict(tensors)
        for number, primitive in enumerate(self.primitives):
            packed |= pack(f"primitive{number}", primitive.state_dict())
        names = ("stage", "sections", "seconds", "samples", "hard", "rows")
        facts = {name: getattr(self, name) for name in names} | {"primitives": len(self.primitives)}
        save_checkpoint(self.checkpoint, packed, facts, self._fingerprint())
        write_curves(self.rows, self.curves)

    def _policy(self) -> PolicyNetwork:
        return self.primitives[0] if self.composed is None else self.composed

    def _fingerprint(self) -> dict[str, Any]:
        names = [f"{r.name} {len(r)}" for r in self.library.references]
        return asdict(self.config) | {"motions": names, "stages": [stage.kind for stage in self.stages]}

    def _facts(self, trial: Rehearsal) -> dict[str, Any]:
        """What the card says."""
        write_curves(self.rows, self.curves)
        return {
            "clips": [
                {"name": r.name, "success": bool(ok), "error_mm": round(1000 * float(error), 1)}
                for r, ok, error in zip(self.library.references, trial.success, trial.error, strict=True)
            ],
            "success_rate": trial.success_rate,
            "mpjpe_mm": trial.mpjpe_mm,
            "samples": int(self.samples),
            "hours": sum(float(last["seconds"]) for last in self._last_rows()) / 3600.0,
            "stages": [stage.kind for stage in self.stages],
            "settings": asdict(self.config),
        }

    def _last_rows(self) -> list[dict[str, float | str]]:
        """The last row of each stage."""
        following = [*(row["stage"] for row in self.rows[1:]), ""]
        return [row for row, then in zip(self.rows, following, strict=True) if row["stage"] != then]


def compose(primitives: Sequence[PolicyNetwork], config: PolicyConfig) -> PolicyNetwork:
    """A policy of several primitives, which change no more, under a new composer."""
    network = PolicyNetwork(replace(config, primitives=len(primitives)))
    for own, given in zip(network.primitives, primitives, strict=True):
        own.load_state_dict(given.primitives[0].state_dict())
    return network


def write_curves(rows: Sequence[dict[str, float | str]], path: Path) -> None:
    """Write what happened in each update as a table, and as a picture beside it."""
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    _draw_curves(rows, path.with_suffix(".png"))


def _draw_curves(rows: Sequence[dict[str, float | str]], path: Path) -> None:
    from matplotlib.figure import Figure

    shown = {"error_mm": "mean joint error [mm]", "reward": "reward of the task", "style_reward": "reward of style", "loss": "cloning loss"}
    figure = Figure(figsize=(9, 6), layout="constrained")
    samples = np.cumsum([float(row["samples"]) for row in rows])
    for axes, (name, label) in zip(figure.subplots(2, 2).flat, shown.items(), strict=True):
        axes.plot(samples, [float(row.get(name, np.nan)) for row in rows], linewidth=1)
        axes.set(xlabel="samples", ylabel=label)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def model_card(facts: dict[str, Any]) -> str:
    """The card of a policy: what it was trained on, for how long, and what it can do."""
    rows = [f"| {c['name']} | {'yes' if c['success'] else 'no'} | {c['error_mm']} |" for c in facts["clips"]]
    further = [
        f"- {name}: {value}" for name, value in facts.items() if name not in ("clips", "settings", "success_rate", "mpjpe_mm", "samples", "hours", "stages")
    ]
    lines = [
        "# A policy that imitates motion",
        "",
        f"- stages: {', '.join(facts['stages'])}",
        f"- samples: {facts['samples']:,}",
        f"- hours: {facts['hours']:.2f}",
        f"- success on its own motions: {100 * facts['success_rate']:.1f} % of {len(facts['clips'])} (mean joint error never over 0.5 m)",
        f"- mean joint error where it succeeds: {facts['mpjpe_mm']:.1f} mm",
        *further,
        "",
        "| motion | success | mean joint error [mm] |",
        "|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"
