"""Coded pictures as references: what a `.rsc` file of an exact model decodes to is the same on every machine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from refscale_codec.api.models import load_model, model_of, shipped_as
from refscale_codec.errors import ContainerError, ReferenceMismatch, naming
from refscale_codec.fileformat import container, references
from refscale_codec.fileformat.container import Header
from refscale_codec.fileformat.references import LINKS
from refscale_codec.picture import files
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
    return load_model(shipped_as(header.weights, "their file (--weights, in Python model)"), device=device)


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


def pictures_in(
    paths: Sequence["FilePath"], given: "Model | FilePath | None" = None, device: str | None = None
) -> list[Image]:
    """Return what `.rsc` files, which need no reference themselves, decode to as references of one picture.

    Raises:
        ContainerError, WeightsError: one cannot be decoded.
        ReferenceMismatch: one is not of an exact model, or needs a reference itself; or they are too many for a chain.
    """
    if len(paths) >= LINKS:
        raise ReferenceMismatch(f"{len(paths)} references are .rsc files; at most {LINKS - 1} may be")
    found = []
    for path in map(Path, paths):
        data = files.read(path, ContainerError, container.most_bytes)
        with naming(str(path)):
            content = container.unpack(data)
            if needed := references.needed(content):
                raise ReferenceMismatch(
                    f"it needs a reference itself, {references.named(content, needed)}: name an index that has it, "
                    "with --refs or in the environment as REFSCALE_REFS (in Python, see References.decoded)"
                )
            found.append(picture(data, path, [], exact_model(content.header, given, device)))
    return found


def picture(data: bytes, path: Path, older: Sequence[Image], model: "Model") -> Image:
    """Return what a file decodes to, with its name; errors are those of `decoder.decode`."""
    from refscale_codec.codec import decoder

    return replace(decoder.decode(data, older, model), name=path.name)
