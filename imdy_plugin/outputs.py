"""What a run leaves on disk: OpenSim's files, NetCDF, report and picture."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from imdy_plugin.interfaces import Trial


def write_outputs(result: xr.Dataset, folder: Path, stem: str, trial: Trial | None = None) -> dict[str, Path]:
    """Write a result or a comparison, with its report and picture.

    Parameters
    ----------
    result
        What :func:`imdy_plugin.solve` or :func:`imdy_plugin.compare` returned.
    folder, stem
        Where, and how the files' names begin; the folder is made.
    trial
        The trial, for the picture of the movement and the unit of coordinates: degrees with its model, radians without.

    Returns
    -------
    dict
        Paths by kind; a comparison's files for OpenSim carry the solver's name.
    """
    from imdy_plugin.adapters.netcdf import write_netcdf
    from imdy_plugin.adapters.results import write_result_files
    from imdy_plugin.comparison import is_comparison, split
    from imdy_plugin.report import write_picture, write_report

    paths: dict[str, Path] = {}
    model = trial.model if trial is not None else None
    if is_comparison(result):
        for name, single in split(result).items():
            written = write_result_files(single, folder, f"{stem}_{name}", model)
            paths.update({f"{kind} ({name})": path for kind, path in written.items()})
        paths["comparison"] = folder / f"{stem}_comparison.nc"
        write_netcdf(result, paths["comparison"])
    else:
        paths.update(write_result_files(result, folder, stem, model))
    paths["report"] = write_report(result, folder / f"{stem}_report.html", trial=trial)
    paths["picture"] = write_picture(result, folder / f"{stem}.png", trial=trial)
    return paths
