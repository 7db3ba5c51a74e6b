"""Arguments of the API: pictures, files, windows and numbers in the forms that callers may give them."""

import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError, UsageError
from refscale_codec.fileformat import container
from refscale_codec.picture import arrays, files
from refscale_codec.picture.coded.ranges import Declared
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.levels import Number
from refscale_codec.picture.tiles import Box

if TYPE_CHECKING:
    from refscale_codec.model import Model

FilePath = str | os.PathLike[str]
Picture = NDArray[Any] | str | os.PathLike[str] | Image
"""An array [h, w] or [h, w, bands] of 8, 16 or 32 bits or floats; the path of a PNG, JPEG, WebP or TIFF file; or an
`Image`, which can have alpha, a nodata value and metadata."""


def image_of(given: Picture, what: str, page: int | None, *, need_georeference: bool) -> Image:
    """Return a picture as `Image`; `page` is which one of a file, from 1, and None for anything but a file.

    Raises:
        UsageError: it is no picture, or a page of something else than a file.
        ImageError: see `pictures.read`.
    """
    if page is not None and not isinstance(given, str | os.PathLike):
        raise UsageError(f"a page of {what} would have no effect: {what} is not a file")
    if isinstance(given, Image):
        return given
    if isinstance(given, str | os.PathLike):
        return pictures.read(
            Path(given), page=None if page is None else whole(page, "page"), need_georeference=need_georeference
        )
    if isinstance(given, np.ndarray):
        return arrays.to_image(given, what)
    raise UsageError(f"{what} must be a numpy array, a path or an Image, not {type(given).__name__}")


def references_of(
    given: Picture | Sequence[Picture] | None,
    page: int | Sequence[int] | None,
    model: "Model | FilePath | None" = None,
    device: str | None = None,
) -> list[Image]:
    """Return the references, one or several or none, as `Image`s.

    Args:
        given: pictures, or paths of `.rsc` files that need no reference themselves.
        page: that of each.
        model: weights of the `.rsc` files, see `coded.model_for`.
        device: that these are decoded on.
    """
    from refscale_codec.api import coded

    several = isinstance(given, list | tuple)
    pictures: Sequence[Any] = given if several else [] if given is None else [given]  # type: ignore[assignment]
    if page is None:
        pages: Sequence[int | None] = [None] * len(pictures)
    elif not pictures:
        raise UsageError("reference_page would have no effect: there is no reference")
    else:
        pages = page if isinstance(page, list | tuple) else [page]  # type: ignore[list-item]
        if len(pages) != len(pictures):
            raise UsageError(f"reference_page has {len(pages)} numbers for {len(pictures)} references")
    among = [one for one in pictures if isinstance(one, str | os.PathLike) and is_coded(one)]
    decoded = iter(coded.pictures_in(among, model, device))
    found = []
    for one, number in zip(pictures, pages, strict=True):
        from_file = isinstance(one, str | os.PathLike) and is_coded(one)
        if from_file and number is not None:
            raise UsageError(f"a page of {os.fspath(one)} would have no effect: it is a .rsc file")
        found.append(next(decoded) if from_file else image_of(one, "the reference", number, need_georeference=False))
    return found


def is_coded(path: FilePath) -> bool:
    """Return whether a file begins as a `.rsc` file."""
    return files.begins(Path(path), container.MAGIC)


def bytes_of(data: bytes | FilePath) -> bytes:
    """Return the bytes of a `.rsc` file; ContainerError if it cannot be read, UsageError for another argument."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if isinstance(data, str | os.PathLike):
        return files.read(Path(data), ContainerError, container.most_bytes)
    raise UsageError(f"a file must be given as bytes or by its path, not as {type(data).__name__}")


def box_of(window: Any) -> Box:
    """Return the box of x, y, width and height in pixels, given as numbers or as rasterio's Window, else UsageError."""
    flatten = getattr(window, "flatten", None)
    try:
        left, top, width, height = map(operator.index, flatten() if callable(flatten) else window)
    except (TypeError, ValueError):
        raise UsageError(f"a window must be four whole numbers, x, y, width and height, not {window!r}") from None
    if width < 1 or height < 1:
        raise UsageError(f"a window must be at least 1x1 pixels, not {width}x{height}")
    return Box(top, left, top + height, left + width)


def ranges_of(given: Any) -> Declared:
    """Return the lowest and highest value, or those of bands by their number; UsageError unless they are numbers."""
    if isinstance(given, Mapping):
        return {whole(band, "a band in value_range"): _range_of(pair) for band, pair in given.items()}
    return _range_of(given)


def _range_of(given: Any) -> tuple[Number, Number]:
    try:
        low, high = (value if isinstance(value, int) else float(value) for value in given)
    except (TypeError, ValueError):
        raise UsageError(f"value_range must be two numbers, such as (0, 10000), not {given!r}") from None
    return low, high


def flag(value: Any, name: str, *others: None) -> Any:
    """Return a value that is True or False, or one of the others; UsageError for anything else."""
    if isinstance(value, bool | np.bool_) or value in others:
        return value if value is None else bool(value)
    raise UsageError(f"{name} must be {', '.join(map(str, others))}{', ' * bool(others)}True or False, not {value!r}")


def path_of(path: Any, what: str) -> FilePath:
    """Return a path; UsageError for anything else."""
    if isinstance(path, str | os.PathLike):
        return path
    raise UsageError(f"{what} must be given by its path, not as {type(path).__name__}")


def whole(number: Any, name: str) -> int:
    """Return a number as int; UsageError if it is not a whole number."""
    try:
        if isinstance(number, bool | np.bool_ | np.ndarray):
            raise TypeError
        return operator.index(number)
    except TypeError:
        raise UsageError(f"{name} must be a whole number, not {number!r}") from None
