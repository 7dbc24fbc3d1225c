"""Setup files of OpenSim's InverseKinematicsTool: what they ask for, with every path resolved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imdy_plugin.adapters.safe_xml import child_text
from imdy_plugin.adapters.tool_setup import CoordinateTask, ToolSetup
from imdy_plugin.errors import FileFormatError


@dataclass(frozen=True)
class IkSetup:
    """What an InverseKinematicsTool setup asks for.

    Attributes
    ----------
    path
        The setup file; relative paths in it are resolved against its folder. Existence of the other files is not checked.
    model_file, marker_file, coordinate_file
        Model, recording, and values of the tasks with source ``from_file``; or None.
    output_file
        The motion file to write, in the results folder where it names none; or None.
    time_range
        First and last time [s], or None for everything.
    marker_weights, coordinate_tasks
        Those that are to be applied; markers without a task are not tracked.
    constraint_weight
        Infinite where the model's constraints hold exactly.
    """

    path: Path
    model_file: Path | None
    marker_file: Path | None
    coordinate_file: Path | None
    output_file: Path | None
    time_range: tuple[float, float] | None
    marker_weights: tuple[tuple[str, float], ...]
    coordinate_tasks: tuple[CoordinateTask, ...]
    constraint_weight: float


def read_ik_setup(path: str | os.PathLike[str]) -> IkSetup:
    """Read an InverseKinematicsTool setup, of any document version.

    Raises
    ------
    FileFormatError
        It is not such a setup (the message names the tool it is for), a number in it is none, a weight is negative, or no marker has a task.
    """
    setup = ToolSetup(path, "InverseKinematicsTool", "inverse kinematics")
    tool, tasks = setup.tool, setup.tasks(setup.tool)
    if not any(weight > 0 for _, weight in tasks.marker_weights):
        raise FileFormatError(setup.file, "gives no marker a weight", "add IKMarkerTask elements with apply true and a weight above zero")
    return IkSetup(
        path=setup.file,
        model_file=setup.path(tool, "model_file"),
        marker_file=setup.path(tool, "marker_file"),
        coordinate_file=setup.path(tool, "coordinate_file"),
        output_file=_output(setup),
        time_range=setup.time_range(tool),
        marker_weights=tasks.marker_weights,
        coordinate_tasks=tasks.coordinate_tasks,
        constraint_weight=setup.number("constraint_weight", child_text(tool, "constraint_weight") or "inf"),
    )


def _output(setup: ToolSetup) -> Path | None:
    file, folder = setup.path(setup.tool, "output_motion_file"), setup.path(setup.tool, "results_directory")
    if file is None or folder is None or file.parent != setup.file.parent:
        return file
    return folder / file.name
