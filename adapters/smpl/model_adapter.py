"""The SMPL family as models and motions that :func:`imdy_plugin.solve` takes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import xarray as xr

from imdy_plugin.errors import DataWarning
from imdy_plugin.interfaces import LoadedModel, ModelAdapter

if TYPE_CHECKING:
    from imdy_plugin.adapters.smpl.motion import BodyMotion

_MODEL_ENDINGS = (".npz", ".pkl", ".pickle")

_SAME_SHAPE = 0.01
"""Difference of shape components that moves the skin by less than a tenth of a millimetre."""


class SmplModelAdapter(ModelAdapter):
    """Reads body models of the SMPL family."""

    name: ClassVar[str] = "smpl"
    summary: ClassVar[str] = "SMPL, SMPL+H and SMPL-X body models: a .npz path, or an SmplBody with shape and mass"

    def accepts(self, source: Any) -> bool:
        """Whether ``source`` is a ``.npz`` (or ``.pkl``) path or a body of the family."""
        if isinstance(source, (str, os.PathLike)):
            return str(source).lower().endswith(_MODEL_ENDINGS)
        return any(t.__name__ in ("SmplBody", "SmplBodyModel") and t.__module__ == "imdy_plugin.adapters.smpl.body_model" for t in type(source).__mro__)

    def load(self, source: Any) -> LoadedModel:
        """Read ``source``; a path gives the mean shape, its mass estimated from its volume.

        Raises
        ------
        FileFormatError
            The file is a pickle, cut short, or no body model.
        InputError
            The shape has too many components, or the mass is not positive.
        """
        from imdy_plugin.adapters.smpl.body_model import SmplBody, SmplBodyModel, body_dataset

        if isinstance(source, SmplBodyModel):
            return LoadedModel(body_dataset(source))
        body = source if isinstance(source, SmplBody) else SmplBody(source)
        return LoadedModel(body.load())


def is_body_motion(source: Any) -> bool:
    """Whether ``source`` is a motion of the 24-joint body: a ``.npz`` path or a BodyMotion; cheap, imports nothing heavy."""
    if isinstance(source, (str, os.PathLike)):
        return str(source).lower().endswith(".npz")
    return any(t.__name__ == "BodyMotion" and t.__module__ == "imdy_plugin.adapters.smpl.motion" for t in type(source).__mro__)


def read_body_motion(source: Any, model: xr.Dataset) -> xr.Dataset:
    """A motion of the 24-joint body in the coordinates of a person's model.

    Parameters
    ----------
    source
        A ``.npz`` path in AMASS's layout, or a :class:`~imdy_plugin.adapters.smpl.motion.BodyMotion`.
    model
        A model with the 24 joints.

    Raises
    ------
    FileFormatError
        The file cannot be read (:func:`~imdy_plugin.adapters.smpl.amass.read_amass`).
    InputError
        The model has other joints.
    """
    from imdy_plugin.adapters.smpl.amass import read_amass
    from imdy_plugin.adapters.smpl.dataset import check_smpl_model, to_coordinates

    check_smpl_model(model)
    motion: BodyMotion = read_amass(source, model) if isinstance(source, (str, os.PathLike)) else source
    _check_shape(motion, model)
    return to_coordinates(model, motion)


def _check_shape(motion: BodyMotion, model: xr.Dataset) -> None:
    """Warn where a motion was made for another shape than the model's."""
    if "betas" not in motion.attrs or "betas" not in model.attrs:
        return
    theirs, ours = motion.attrs["betas"], model.attrs["betas"]
    count = max(len(theirs), len(ours))
    apart = max((abs(a - b) for a, b in zip(_padded(theirs, count), _padded(ours, count), strict=True)), default=0.0)
    if apart > _SAME_SHAPE:
        text = f"motion '{motion.name}' was made for another shape than the model's (betas differ by up to {apart:.2g})"
        warnings.warn(f"{text}; give the model as SmplBody(path, betas=read_amass(motion).attrs['betas'])", DataWarning, stacklevel=5)


def _padded(values: Sequence[float], count: int) -> list[float]:
    return [*values, *[0.0] * (count - len(values))]
