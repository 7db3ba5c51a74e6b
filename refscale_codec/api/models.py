"""Weights for the API: loaded once for each file and device."""

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from refscale_codec import weights_files
from refscale_codec.api.arguments import FilePath
from refscale_codec.api.request import Rate, device_named, shipping_of
from refscale_codec.errors import UsageError

if TYPE_CHECKING:
    from refscale_codec.model import Model


def load_model(
    path: FilePath | None = None, *, scale: int | None = None, codec: str | None = None, device: str | None = None
) -> "Model":
    """Load weights; a later call with the same file and device returns the same object.

    Args:
        path: A `.safetensors` file; by default the weights that ship for `scale` and `codec`.
        scale: Downscaling factor, 2 (default) or 4; 1 for samples as they are.
        codec: Codec of the low-res picture, `jpeg` (default) or `gmm`; `predictive` at scale 1.
        device: `auto` (default: the fastest available), `cpu`, `cuda` or `mps`.

    Raises:
        WeightsError: There is no such file, or it is not a weights file of refscale.
        UsageError: An unknown scale, codec or device, a codec that does not ship at this scale, or scale or codec
            together with a path.
    """
    chosen = shipping_of(scale, codec, None if path is None else "path")
    where = device_named("auto" if device is None else device)
    from refscale_codec import model as models

    return models.kept(weights_files.shipped(*chosen) if path is None else Path(path), where)


def model_of(
    given: "Model | FilePath | None",
    scale: int | None = None,
    codec: str | None = None,
    device: str | None = None,
    rate: Rate | None = None,
) -> "Model":
    """Return the model that arguments ask for; see `load_model`. A bound on the error, in `rate`, asks for its own.

    Raises:
        UsageError: they exclude each other, or there is no such model.
        WeightsError: its file cannot be read.
    """
    chosen = shipping_of(scale, codec, None if given is None else "model", rate)
    if given is None:
        return load_model(scale=chosen[0], codec=chosen[1], device=device)
    if isinstance(given, str | os.PathLike):
        return load_model(given, device=device)
    from refscale_codec.model import Model

    if not isinstance(given, Model):
        raise UsageError(f"model must be loaded, see load_model, or the path of a file, not {type(given).__name__}")
    if device is not None:
        raise UsageError("device would have no effect: it follows from model, which is loaded")
    return given


@lru_cache
def shipped_as(wanted: bytes, option: str = "model") -> Path:
    """See `weights_files.shipped_as`; what is found is kept."""
    return weights_files.shipped_as(wanted, option)
