"""Writing a dataset as a Zarr group in one file, quickly.

Episodes are short and many, and making a Zarr array through its library costs milliseconds, which for an episode of seconds is as
much as simulating it. Version 2 of the format is simple enough to write directly: a JSON beside one compressed chunk for each
array, all in one ZIP file. xarray and the Zarr library read it, and that is how it is tested.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

_NO_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a ZIP file can hold."""

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
        scaled: NDArray[np.float64] = values * 2.0**self.bits
        np.rint(scaled, out=scaled)
        scaled *= self.step
        return scaled


def write_group(path: Path, dataset: xr.Dataset, rounding: Mapping[str, FixedPoint], extra: Mapping[str, bytes] | None = None) -> None:
    """Write a dataset as a Zarr group of format 2, each array in one chunk; the same dataset makes the same bytes.

    Parameters
    ----------
    path
        The ZIP file to write.
    dataset
        The first dimension of what is rounded is time; its attributes can be written as JSON.
    rounding
        Variables to keep in fixed point; they come back as floating point. The others are kept as they are.
    extra
        Further files of the group.
    """
    described: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": dict(dataset.attrs)}
    chunks: dict[str, bytes] = dict(extra or {})
    for name, variable in dataset.variables.items():
        found, chunk = _array(str(name), variable, rounding.get(str(name)))
        described |= found
        chunks[f"{name}/{'.'.join('0' * max(variable.ndim, 1))}"] = chunk
    metadata = {"zarr_consolidated_format": 1, "metadata": described}
    texts = {name: json.dumps(content, sort_keys=True, allow_nan=False).encode() for name, content in (described | {".zmetadata": metadata}).items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted({**texts, **chunks}.items()):
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), content, zipfile.ZIP_DEFLATED if name in texts else zipfile.ZIP_STORED)


def _array(name: str, variable: xr.Variable, rounding: FixedPoint | None) -> tuple[dict[str, Any], bytes]:
    """What describes an array, by file, and its chunk."""
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
    return {f"{name}/.zarray": array, f"{name}/.zattrs": attrs}, compressor.encode(np.ravel(encoded, order="K"))


def _whole_numbers(values: NDArray[np.float64], rounding: FixedPoint) -> NDArray[Any]:
    """Multiples of the step, in 32 bits where they fit, times beside each other."""
    scale = 2.0**rounding.bits
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0))) * scale
    numbers = np.rint(values.T * scale)
    return np.ascontiguousarray(numbers, dtype=np.int32 if largest < 2.0**31 - 1 else np.int64).T
