"""Writing a dataset as a Zarr group quickly.

Episodes are short and many, and opening a Zarr array through its library costs milliseconds, which for an episode of seconds is
as much as simulating it. Version 2 of the format is simple enough to write directly: a JSON beside one compressed chunk for each
array. xarray and the Zarr library read it (:func:`xarray.open_zarr`), and that is how it is tested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

_LEVEL = 2
"""Of compression: higher ones take many times longer for a twentieth of the size."""


@dataclass(frozen=True)
class FixedPoint:
    """How a variable is rounded: to multiples of a power of two, kept as whole numbers that are stored as differences along time.

    Attributes
    ----------
    bits
        Binary places after the point.
    differences
        How often successive differences are taken.
    by_bit
        Whether the bits of the differences are sorted before compression rather than their bytes: better where they are smooth but fine.
    """

    bits: int
    differences: int = 0
    by_bit: bool = False

    @property
    def step(self) -> float:
        """The smallest difference between two values, in the variable's unit."""
        return float(2.0**-self.bits)

    def rounded(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values as they will be read."""
        return np.asarray(np.rint(values * 2.0**self.bits) * self.step)


def write_group(folder: Path, dataset: xr.Dataset, rounding: Mapping[str, FixedPoint]) -> None:
    """Write a dataset as a Zarr group of format 2, each array in one chunk.

    Parameters
    ----------
    folder
        Where to; it must not exist.
    dataset
        The first dimension of what is rounded is time; its attributes can be written as JSON.
    rounding
        Variables to keep in fixed point; they come back as floating point. The others are kept as they are.
    """
    folder.mkdir(parents=True)
    described: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": dict(dataset.attrs)}
    for name, variable in dataset.variables.items():
        described |= _write_array(folder / str(name), variable, rounding.get(str(name)))
    for path, content in described.items():
        (folder / path).write_text(json.dumps(content, sort_keys=True, allow_nan=False), encoding="utf-8")
    metadata = {"zarr_consolidated_format": 1, "metadata": described}
    (folder / ".zmetadata").write_text(json.dumps(metadata, sort_keys=True), encoding="utf-8")


def _write_array(folder: Path, variable: xr.Variable, rounding: FixedPoint | None) -> dict[str, Any]:
    from numcodecs import Blosc, Delta  # type: ignore[import-untyped]

    values, attrs = np.asarray(variable.values), {**variable.attrs, "_ARRAY_DIMENSIONS": list(variable.dims)}
    filters: list[Any] = []
    if rounding is not None:
        values = _whole_numbers(values, rounding)
        attrs["scale_factor"] = rounding.step
        filters = [Delta(values.dtype.str)] * rounding.differences
    compressor = Blosc("zstd", clevel=_LEVEL, shuffle=Blosc.BITSHUFFLE if rounding and rounding.by_bit else Blosc.SHUFFLE)
    encoded: Any = np.asfortranarray(values)
    for code in filters:
        encoded = code.encode(encoded)
    folder.mkdir()
    (folder / ".".join("0" * max(values.ndim, 1))).write_bytes(compressor.encode(np.ravel(encoded, order="K")))
    array = {
        "zarr_format": 2,
        "shape": list(values.shape),
        "chunks": [max(n, 1) for n in values.shape],
        "dtype": values.dtype.str,
        "compressor": compressor.get_config(),
        "fill_value": None,
        "order": "F",
        "filters": [code.get_config() for code in filters] or None,
    }
    return {f"{folder.name}/.zarray": array, f"{folder.name}/.zattrs": attrs}


def _whole_numbers(values: NDArray[np.float64], rounding: FixedPoint) -> NDArray[Any]:
    """Multiples of the step, in 32 bits where they fit."""
    numbers = np.rint(values * 2.0**rounding.bits)
    wide = bool(np.abs(numbers).max(initial=0.0) >= 2.0**31)
    return np.asarray(numbers.astype(np.int64 if wide else np.int32))
