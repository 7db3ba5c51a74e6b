"""Weights for the API: loaded once for each file and device."""

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from refscale_codec.api.arguments import FilePath, whole
from refscale_codec.errors import UsageError

if TYPE_CHECKING:
    from refscale_codec.model import Model


def load_model(
    path: FilePath | None = None, *, scale: int | None = None, codec: str | None = None, device: str | None = None
) -> "Model":
    """Load weights; a later call with the same file and device returns the same object.

    Args:
        path: A `.safetensors` file; by default the weights that ship for `scale` and `codec`.
        scale: Downscaling factor, 2 (default) or 4.
        codec: Codec of the low-res picture, `jpeg` (default) or `gmm`.
        device: `auto` (default: the fastest available), `cpu`, `cuda` or `mps`.

    Raises:
        WeightsError: There is no such file, or it is not a weights file of refscale.
        UsageError: An unknown scale, codec or device, a codec that does not ship at this scale, or scale or codec
            together with a path.
    """
    from refscale_codec import model as models

    if path is not None:
        _require_no(scale=scale, codec=codec, follows_from="path")
    factor = 2 if scale is None else whole(scale, "scale")
    where = models.device_named(device or "auto")
    file = Path(path) if path is not None else models.shipped(factor, "jpeg" if codec is None else codec)
    return models.kept(file, where)


def model_of(
    given: "Model | FilePath | None", scale: int | None = None, codec: str | None = None, device: str | None = None
) -> "Model":
    """Return the model that arguments ask for; see `load_model`."""
    if given is None:
        return load_model(scale=scale, codec=codec, device=device)
    _require_no(scale=scale, codec=codec, follows_from="model")
    if isinstance(given, str | os.PathLike):
        return load_model(given, device=device)
    from refscale_codec.model import Model

    if not isinstance(given, Model):
        raise UsageError(f"model must be loaded, see load_model, or the path of a file, not {type(given).__name__}")
    _require_no(device=device, follows_from="model, which is loaded")
    return given


@lru_cache
def shipped_as(wanted: bytes) -> Path:
    """Return the path of the shipped weights with this fingerprint; WeightsError if there are none."""
    from refscale_codec import model as models

    return models.shipped_as(wanted)


def _require_no(*, follows_from: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} would have no effect: it follows from {follows_from}")
