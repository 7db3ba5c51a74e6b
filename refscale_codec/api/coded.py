"""Coded pictures as references: what a `.rsc` file of an exact model decodes to is the same on every machine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from refscale_codec.api.models import load_model, model_of, shipped_as
from refscale_codec.errors import ReferenceMismatch, WeightsError
from refscale_codec.fileformat.container import Header
from refscale_codec.picture.image import Image

if TYPE_CHECKING:
    from refscale_codec.api.arguments import FilePath
    from refscale_codec.model import Model


def model_for(header: Header, given: "Model | FilePath | None" = None, device: str | None = None) -> "Model":
    """Return the model that a file was coded with: the one that is given, or one that comes with the installation.

    Raises:
        WeightsError: it is neither.
    """
    if given is not None and (model := model_of(given, device=device)).fingerprint == header.weights:
        return model
    try:
        return load_model(shipped_as(header.weights), device=device)
    except WeightsError as error:
        raise WeightsError(f"{error}; name their file (--weights, in Python model)") from None


def exact_model(header: Header, given: "Model | FilePath | None" = None, device: str | None = None) -> "Model":
    """Return the model of a file whose decoded picture is to be a reference.

    Raises:
        WeightsError: see `model_for`.
        ReferenceMismatch: the model is not exact.
    """
    model = model_for(header, given, device)
    if not model.exact:
        raise ReferenceMismatch(
            "it cannot be a reference: its net computes with floating point, so that it may decode to other pixels "
            "elsewhere; decode it, and let the picture be the reference"
        )
    return model


def picture(data: bytes, path: Path, older: Sequence[Image], model: "Model") -> Image:
    """Return what a file decodes to, with its name; errors are those of `decoder.decode`."""
    from refscale_codec.codec import decoder

    return replace(decoder.decode(data, older, model), name=path.name)
