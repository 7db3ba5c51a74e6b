"""Encoding against the best of an index's pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from refscale_codec.api.functions import encode_image
from refscale_codec.api.request import Rate
from refscale_codec.archive.references import References, needed
from refscale_codec.errors import ImageError, ReferenceMismatch
from refscale_codec.fileformat import container
from refscale_codec.picture.image import Image

if TYPE_CHECKING:
    from refscale_codec.codec.rate_control import Reached
    from refscale_codec.model import Model


class Chosen(NamedTuple):
    """A file, and the picture that it was encoded against."""

    reached: "Reached"
    reference: Path | None
    """None if none helps."""
    tried: int
    """How many pictures were tried."""


def encode(
    image: Image,
    index: References,
    model: "Model",
    rate: Rate,
    most: int,
    *,
    step: Callable[[str], None] = lambda text: None,
    **choices: Any,
) -> Chosen:
    """Encode a picture against each of the candidates that an index finds, and return the smallest file.

    With a target, they are compared at the default quality, and the target is reached with the best.

    Args:
        image: the picture.
        index: of references.
        model: to encode with.
        rate: the quality or target.
        most: how many candidates are tried.
        step: called with a line on each.
        choices: of `api.functions.encode_image`.

    Raises:
        RefscaleError: see `api.encode`.
    """
    step("looking for references")
    at = Rate() if rate.searched else rate
    best: tuple[Reached, Path, Image] | None = None
    tried = 0
    for candidate in index.find(image, most):
        path = candidate.entry.path
        step(f"trying {path.name}")
        try:
            reference = index.picture(candidate.entry.described.fingerprint)
            reached = encode_image(image, reference, model, at, **choices)
        except (ImageError, ReferenceMismatch):  # of bands that do not serve, or gone meanwhile
            continue
        tried += 1
        if needed(container.unpack(reached.data)) and (best is None or len(reached.data) < len(best[0].data)):
            best = reached, path, reference
    step("encoding")
    if best is None:
        return Chosen(encode_image(image, None, model, rate, step=step, **choices), None, tried)
    if rate.searched:
        best = encode_image(image, best[2], model, rate, step=step, **choices), *best[1:]
    return Chosen(best[0], best[1], tried)
