"""The functions of the API."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from refscale_codec.api.arguments import FilePath, Picture, flag, image_of, ranges_of, references_of, whole
from refscale_codec.api.models import model_of
from refscale_codec.api.reader import Reader
from refscale_codec.api.request import Rate, rate_of
from refscale_codec.errors import UsageError
from refscale_codec.picture.coded.ranges import Declared
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import TILE

if TYPE_CHECKING:
    from refscale_codec.codec.rate_control import Reached
    from refscale_codec.model import Model


def encode(
    picture: Picture,
    reference: Picture | Sequence[Picture] | None = None,
    *,
    quality: int | None = None,
    target_bytes: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    lossless: bool = False,
    max_error: float | None = None,
    model: "Model | FilePath | None" = None,
    scale: int | None = None,
    codec: str | None = None,
    device: str | None = None,
    value_range: Sequence[float] | NDArray[Any] | Mapping[int, Sequence[float]] | None = None,
    output_hash: bool = False,
    reference_name: bool | None = None,
    strip: bool = False,
    page: int | None = None,
    reference_page: int | Sequence[int] | None = None,
    tile: int = TILE,
) -> bytes:
    """Encode a picture and return the bytes of a `.rsc` file.

    Args:
        picture: Of any size and up to 255 bands.
        reference: An older picture of the same place with the same bands, of any size, or a list of up to 8, of which
            those that help are used; None encodes without one. It may be the path of a `.rsc` file of an exact model
            that needs no reference itself; for others see `References.decoded`.
        quality: 1..100, higher is better and larger; 75 unless a target is given instead.
        target_bytes: Largest size of the file, in bytes.
        target_bpp: Largest size of the file, in bits per pixel of the picture.
        target_psnr: Lowest PSNR of the decoded picture, in dB.
        lossless: Decode to equal samples.
        max_error: Decode to samples that are off by no more than this, in their units.
        model: Weights, loaded or the path of a file; by default those that ship for `scale` and `codec`.
        scale: Downscaling factor, 2 (default) or 4; 1 for samples as they are.
        codec: Codec of the low-res picture, `jpeg` (default) or `gmm`; `predictive` at scale 1.
        device: `auto` (default), `cpu`, `cuda` or `mps`; not with a loaded model.
        value_range: Lowest and highest value to code, or a dict of such pairs by the number of the band, from 1; by
            default those of each band, and 0 and 255 for uint8.
        output_hash: Also decode, and store a hash of the decoded picture.
        reference_name: Whether to keep the name of the reference's file as a hint, if it is given by its path; by
            default if the picture has metadata and the name takes less than 0.1 % of the file.
        strip: Store no colour profile, EXIF, XMP or georeference.
        page: Which picture of a file that holds several, from 1.
        reference_page: Likewise, of the reference, or of each in a list.
        tile: Largest side of a tile in pixels, a multiple of 16; larger ones take more memory and less time.

    Raises:
        ImageError: A picture cannot be read or is of an unsupported kind, or the reference has other bands.
        UsageError: Arguments that exclude each other, are out of range or of a wrong type.
        WeightsError: The weights cannot be used.
        TargetError: No quality reaches the target.
    """
    rate = rate_of(quality, target_bytes, target_bpp, target_psnr, max_error, flag(lossless, "lossless"))
    if rate.max_error is not None and value_range is not None:
        raise UsageError("value_range would have no effect: it follows from the bound on the error")
    limits = None if value_range is None else ranges_of(value_range)
    side, named = whole(tile, "tile"), flag(reference_name, "reference_name", None)
    hashed, stripped = flag(output_hash, "output_hash"), flag(strip, "strip")
    image = image_of(picture, "the picture", page, need_georeference=not stripped)
    older = references_of(reference, reference_page, model, device)
    loaded = model_of(model, scale, codec, device, rate)
    return encode_image(
        image,
        older,
        loaded,
        rate,
        value_range=limits,
        output_hash=hashed,
        reference_name=named,
        strip=stripped,
        tile=side,
    ).data


def encode_image(
    image: Image,
    reference: Image | Sequence[Image] | None,
    model: "Model",
    rate: Rate,
    *,
    value_range: Declared | None = None,
    output_hash: bool = False,
    reference_name: bool | None = None,
    strip: bool = False,
    tile: int = TILE,
    step: Callable[[str], None] = lambda text: None,
) -> "Reached":
    """Encode what `encode` and the command of this name have read; arguments and errors are those of `encode`.

    `step` is called with a line on each try of a search.
    """
    from refscale_codec.codec import bounded, rate_control
    from refscale_codec.codec.encoder import EncodeOptions

    options = EncodeOptions(
        output_hash=output_hash,
        tile=tile,
        value_range=value_range,
        store_metadata=not strip,
        reference_name=reference_name,
    )
    if rate.max_error is not None:
        return bounded.encode(image, reference, model, rate.max_error, options, on_try=step)
    if rate.quality is not None:
        options = replace(options, quality=rate.quality)
    return rate_control.encode(image, reference, model, rate.target(image), options, step=step)


def decode(
    data: bytes | FilePath,
    reference: Picture | Sequence[Picture] | None = None,
    *,
    reference_page: int | Sequence[int] | None = None,
    window: tuple[int, int, int, int] | None = None,
    model: "Model | FilePath | None" = None,
    device: str | None = None,
    tile: int = TILE,
) -> NDArray[Any]:
    """Decode the picture in a `.rsc` file, or a window of it; short for `open` and `Reader.read`.

    Args:
        data: As `reference`, `reference_page`, `model`, `device` and `tile`, see `open`.
        reference: See `open`.
        reference_page: See `open`.
        window: x, y, width and height in pixels, within the picture; None for all of it.
        model: See `open`.
        device: See `open`.
        tile: See `open`.

    Returns:
        [h, w, bands] of the picture's type, alpha as the last band, or [h, w] for a single band.

    Raises:
        RefscaleError: Those of `open` and of `Reader.read`.
    """
    with open(data, reference, reference_page=reference_page, model=model, device=device, tile=tile) as reader:
        return reader.read(window=window)


def open(
    data: bytes | FilePath,
    reference: Picture | Sequence[Picture] | None = None,
    *,
    reference_page: int | Sequence[int] | None = None,
    model: "Model | FilePath | None" = None,
    device: str | None = None,
    tile: int = TILE,
) -> "Reader":
    """Open a `.rsc` file; nothing is decoded before `Reader.read`.

    Args:
        data: The path of the file, or its bytes.
        reference: The picture that the file was encoded against, with equal pixels; needed only to read pixels. A list
            of several may be in any order, and have more than the file needs. A `.rsc` file, see `encode`, is decoded
            at once.
        reference_page: Which picture of a reference's file that holds several, from 1; for a list, of each.
        model: The weights that the file was encoded with, loaded or the path of a file; by default they are looked up
            among those that ship.
        device: `auto` (default), `cpu`, `cuda` or `mps`; not with a loaded model.
        tile: Largest side of a tile in pixels, a multiple of 16; larger ones take more memory and less time.

    Raises:
        ContainerError: Not a `.rsc` file, or a damaged one.
        ImageError: The reference cannot be read.
        UsageError: An argument of a wrong type.
    """
    return Reader(data, reference, reference_page=reference_page, model=model, device=device, tile=tile)


def fingerprint(picture: Picture, *, page: int | None = None) -> str:
    """Return the id by which a file names its reference: 12 hexadecimal digits, a hash of the pixels without alpha.

    Raises:
        ImageError: The picture cannot be read.
    """
    return image_of(picture, "the picture", page, need_georeference=False).fingerprint().hex()
