"""OpenSim's InverseDynamicsTool setup files, run by any solver."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imdy_plugin import api, registry, schema
from imdy_plugin._opensim import passive_forces
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.interfaces import Trial

if TYPE_CHECKING:
    from imdy_plugin.adapters.setup_file import IdSetup


@dataclass(frozen=True)
class ToolRun:
    """What a setup file led to."""

    result: xr.Dataset
    path: Path


def run_tool(setup: str | os.PathLike[str], solver: str | None = None, *, degrees: bool | None = None, use_defaults: bool = False, **options: Any) -> ToolRun:
    """Run an InverseDynamicsTool setup file and write the generalized forces where it says.

    Parameters
    ----------
    setup
        The setup ``.xml``; its relative paths count from its own folder.
    solver
        By default classic inverse dynamics with the loads that the file names, as ``opensim-cmd run-tool`` does. A solver
        that reads markers gets those of the model's marker set, moved by the coordinates. Whatever ``forces_to_exclude`` says,
        all of the model's own forces are left out, with a warning where that differs; the option ``exclude_forces="muscles"``
        keeps the others.
    degrees
        Unit of the rotational coordinates where their file does not say.
    use_defaults
        Fill coordinates that the file lacks with the model's defaults, instead of refusing.
    **options
        The solver's own options; the file's low-pass frequency is used where the solver has ``cutoff_hz``.

    Raises
    ------
    ImdyError
        The file or what it names cannot be used.
    """
    from imdy_plugin.adapters.results import write_generalized_force
    from imdy_plugin.adapters.setup_file import check_time_range, read_id_setup

    job = read_id_setup(setup)
    if job.coordinates_file is None:
        raise InputError(f"{job.path}: names no coordinates_file; give one, or use 'imdy solve' on the markers")
    name = solver or api.DEFAULT_WITH_PLATES
    trial = api.load_trial(
        job.model_file, coordinates=job.coordinates_file, ground_force=job.external_loads_file or _no_loads(), degrees=degrees, use_defaults=use_defaults
    )
    time = trial.motion["time"].values
    requested = check_time_range(job.time_range, (float(time[0]), float(time[-1])), job.path)
    given = dict(options)
    if name == api.DEFAULT_WITH_PLATES and "exclude_forces" not in given:
        _say_what_is_left_out(trial, job)
    if "cutoff_hz" in registry.get_solver(name).Options.model_fields:
        given.setdefault("cutoff_hz", job.lowpass_cutoff)
    result = api.run_solver(name, trial, given, time_range=requested)
    path = job.results_directory / job.output_gen_force_file
    write_generalized_force(result, path)
    return ToolRun(result, path)


def _say_what_is_left_out(trial: Trial, job: IdSetup) -> None:
    """Warn where OpenSim's tool would let springs, bushings or limits of the model act, which it excludes only when told."""
    named = {name.lower() for name in job.forces_to_exclude}
    acting = [] if "all" in named else [name for name in passive_forces(trial.native_model) if name.lower() not in named]
    if acting:
        shown = ", ".join(acting[:3]) + (f" and {len(acting) - 3} more" if len(acting) > 3 else "")
        what = f"{job.path}: excludes {', '.join(job.forces_to_exclude) or 'nothing'}, but the model also has {shown}, left out here"
        warnings.warn(f"{what}; the option exclude_forces=muscles lets them act, as in OpenSim's tool", DataWarning, stacklevel=3)


def _no_loads() -> xr.Dataset:
    """Ground forces of a motion on which no external load acts."""
    nothing = np.zeros((2, 0, 3))
    return schema.new_motion([0.0, 1.0], ground=([], nothing, nothing, nothing))
