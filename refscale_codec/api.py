"""The Python API: pictures as arrays, paths or `Image`s in; bytes and arrays out. See `docs/API.md`.

The axes of arrays are rows, columns, bands: [h, w] or [h, w, bands]. All functions are thread-safe. Torch is imported
by the first call that encodes or decodes, so that inspecting a file and computing a fingerprint start fast.
"""

import math
import operator
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refscale_codec import lrcodec
from refscale_codec.errors import ContainerError, UsageError, naming
from refscale_codec.fileformat import container
from refscale_codec.picture import arrays, bands, files, geotiff, metadata
from refscale_codec.picture import image as pictures
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import TILE, Box

if TYPE_CHECKING:
    from refscale_codec.codec.decoder import Decoder
    from refscale_codec.codec.rate_control import Target
    from refscale_codec.model import Model

FilePath = str | os.PathLike[str]
Picture = NDArray[Any] | str | os.PathLike[str] | Image
"""An array [h, w] or [h, w, bands] of uint8, uint16 or int16; the path of a PNG, JPEG, WebP or TIFF file; or an
`Image`, which can have alpha, a nodata value and metadata."""


def encode(
    picture: Picture,
    reference: Picture | None = None,
    *,
    quality: int | None = None,
    target_bytes: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    model: "Model | FilePath | None" = None,
    scale: int | None = None,
    codec: str | None = None,
    device: str | None = None,
    value_range: tuple[int, int] | None = None,
    output_hash: bool = False,
    strip: bool = False,
    tile: int = TILE,
) -> bytes:
    """Encode a picture and return the bytes of a `.rsc` file.

    Args:
        picture: Of any size and up to 255 bands.
        reference: An older picture of the same place with the same bands, of any size; None encodes without one.
        quality: 1..100, higher is better and larger; 75 unless a target is given instead.
        target_bytes: Largest size of the file, in bytes.
        target_bpp: Largest size of the file, in bits per pixel of the picture.
        target_psnr: Lowest PSNR of the decoded picture, in dB.
        model: Weights, loaded or the path of a file; by default those that ship for `scale` and `codec`.
        scale: Downscaling factor, 2 (default) or 4.
        codec: Codec of the low-res picture, `jpeg` (default) or `gmm`.
        device: `auto` (default), `cpu`, `cuda` or `mps`; not with a loaded model.
        value_range: Lowest and highest value of 16-bit bands; by default those of each band.
        output_hash: Also decode, and store a hash of the decoded picture.
        strip: Drop colour profile, EXIF, XMP and georeference.
        tile: Largest side of a tile in pixels, a multiple of 16; larger ones take more memory and less time.

    Raises:
        ImageError: A picture cannot be read or is of an unsupported kind, or the reference has other bands.
        UsageError: Arguments that exclude each other, are out of range or of a wrong type.
        WeightsError: The weights cannot be used.
        TargetError: No quality reaches the target.
    """
    targets = {"target_bytes": target_bytes, "target_bpp": target_bpp, "target_psnr": target_psnr}
    given = [name for name, value in {"quality": quality, **targets}.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other: give one")
    for name, value in targets.items():
        if value is not None and not (isinstance(value, int | float | np.number) and 0 < value < math.inf):
            raise UsageError(f"{name} must be a positive number, not {value!r}")
    image = _image(picture, "the picture", need_georeference=not strip)
    older = None if reference is None else _image(reference, "the reference", need_georeference=False)
    if strip:
        image = replace(image, metadata=metadata.Metadata())
    from refscale_codec.codec import encoder, rate_control

    quality = 75 if quality is None else _whole(quality, "quality")
    options = encoder.EncodeOptions(
        quality=quality, output_hash=output_hash, tile=_whole(tile, "tile"), value_range=value_range
    )
    loaded = _model(model, scale, codec, device)
    size = None if target_bytes is None else _whole(target_bytes, "target_bytes")
    target = target_of(image, size, target_bpp, target_psnr)
    if target is None:
        return encoder.encode(image, older, loaded, options)
    return rate_control.encode(image, older, loaded, target, options).data


def target_of(image: Image, size: int | None, bpp: float | None, psnr: float | None) -> "Target | None":
    """Return the target of a search: a size in bytes or bits per pixel, or a PSNR in dB; None if none is given."""
    from refscale_codec.codec.rate_control import Target

    if psnr is not None:
        return Target("psnr", psnr)
    if bpp is not None:
        size = math.floor(bpp * image.height * image.width / 8)
    return None if size is None else Target("bytes", size)


def decode(
    data: bytes | FilePath,
    reference: Picture | None = None,
    *,
    window: tuple[int, int, int, int] | None = None,
    model: "Model | FilePath | None" = None,
    device: str | None = None,
    tile: int = TILE,
) -> NDArray[Any]:
    """Decode the picture in a `.rsc` file, or a window of it; short for `open` and `Scene.read`."""
    with open(data, reference, model=model, device=device, tile=tile) as scene:
        return scene.read(window=window)


def fingerprint(picture: Picture) -> str:
    """Return the id by which a file names its reference: 12 hexadecimal digits, a hash of the pixels without alpha.

    Raises:
        ImageError: The picture cannot be read.
    """
    return _image(picture, "the picture", need_georeference=False).fingerprint().hex()


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
        UsageError: An unknown scale, codec or device, or scale or codec together with a path.
    """
    from refscale_codec import model as models

    if path is not None:
        _require_no(scale=scale, codec=codec, follows_from="path")
    elif scale not in (None, *container.SCALES):
        raise UsageError(f"scale must be 2 or 4, not {scale!r}")
    elif codec not in (None, *lrcodec.NAMES.values()):
        raise UsageError(f"unknown codec {codec!r}: use {' or '.join(lrcodec.NAMES.values())}")
    where = models.device_named(device or "auto")
    file = Path(path) if path is not None else models.shipped(scale or 2, codec or "jpeg")
    return models.kept(file, where)


@lru_cache
def _shipped_as(wanted: bytes) -> Path:
    from refscale_codec import model as models

    return models.shipped_as(wanted)


def _model(
    given: "Model | FilePath | None", scale: int | None = None, codec: str | None = None, device: str | None = None
) -> "Model":
    """Return the model that arguments ask for; see `load_model`."""
    if given is None:
        return load_model(scale=scale, codec=codec, device=device)
    _require_no(scale=scale, codec=codec, follows_from="model")
    if isinstance(given, str | os.PathLike):
        return load_model(given, device=device)
    if not hasattr(given, "fingerprint"):
        raise UsageError(f"model must be loaded, see load_model, or the path of a file, not {type(given).__name__}")
    _require_no(device=device, follows_from="model, which is loaded")
    return given


def _require_no(*, follows_from: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} would have no effect: it follows from {follows_from}")


def open(
    data: bytes | FilePath,
    reference: Picture | None = None,
    *,
    model: "Model | FilePath | None" = None,
    device: str | None = None,
    tile: int = TILE,
) -> "Scene":
    """Open a `.rsc` file; nothing is decoded before `Scene.read`.

    Args:
        data: The path of the file, or its bytes.
        reference: The picture that the file was encoded against, with equal pixels; needed only to read pixels.
        model: The weights that the file was encoded with, loaded or the path of a file; by default they are looked up
            among those that ship.
        device: `auto` (default), `cpu`, `cuda` or `mps`; not with a loaded model.
        tile: Largest side of a tile in pixels, a multiple of 16; larger ones take more memory and less time.

    Raises:
        ContainerError: Not a `.rsc` file, or a damaged one.
        ImageError: The reference cannot be read.
        UsageError: An argument of a wrong type.
    """
    return Scene(data, reference, model=model, device=device, tile=tile)


class Scene:
    """An open `.rsc` file: its properties are available at once, its pixels by `read`.

    The interface follows rasterio's datasets, except that arrays are [h, w, bands], and [h, w] for a single band. It is
    thread-safe.
    """

    def __init__(
        self,
        data: bytes | FilePath,
        reference: Picture | None = None,
        *,
        model: "Model | FilePath | None" = None,
        device: str | None = None,
        tile: int = TILE,
    ) -> None:
        """Parse the file; arguments and errors are those of `open`."""
        self._path = os.fspath(data) if isinstance(data, str | os.PathLike) else None
        self._data: bytes | None = _bytes(data)
        with self._named():
            self._content = container.unpack(self._data)
            self._metadata = metadata.unpack(self._content.metadata)
        self._reference = None if reference is None else _image(reference, "the reference", need_georeference=False)
        self._model, self._device, self._tile = model, device, _whole(tile, "tile")
        self._lock = threading.Lock()
        self._decoder: Decoder | None = None

    def _named(self) -> AbstractContextManager[None]:
        """Return a context that puts the file's name before error messages; bytes have none."""
        return nullcontext() if self._path is None else naming(self._path)

    @cached_property
    def _bands(self) -> bands.Bands:
        with self._named():
            return bands.unpack(self._content.bands, self.height, self.width)

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return self._content.header.height

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return self._content.header.width

    @property
    def count(self) -> int:
        """Number of bands; alpha, if any, is the last."""
        return self._bands.depth + (self._bands.alpha is not None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole picture as an array: (h, w, bands), or (h, w) for a single band."""
        return (self.height, self.width) if self.count == 1 else (self.height, self.width, self.count)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the samples: uint8, uint16 or int16."""
        return self._bands.dtype

    @property
    def nodata(self) -> int | None:
        """The nodata value; None if there is none."""
        return self._bands.nodata

    @property
    def crs(self) -> str | None:
        """The coordinate reference system, as `EPSG:code` or WKT; None if there is none."""
        return geotiff.crs(self._metadata.geo)

    @property
    def transform(self) -> tuple[float, ...] | None:
        """a, b, c, d, e, f, in the order of `affine.Affine`; None if there is none.

        x = a column + b row + c, y = d column + e row + f.
        """
        return geotiff.transform(self._metadata.geo)

    @property
    def tags(self) -> dict[str, str]:
        """The GeoTIFF tags of the whole picture."""
        return geotiff.tags(self._metadata.geo)

    @property
    def reference_id(self) -> str | None:
        """The `fingerprint` of the reference; None if the file was encoded without one."""
        wanted = self._content.header.reference
        return None if wanted is None else wanted.hex()

    @property
    def quality(self) -> int:
        """The quality that the picture was encoded with, 1..100."""
        return self._content.header.quality

    def read(self, *, window: tuple[int, int, int, int] | None = None) -> NDArray[Any]:
        """Decode the picture, or a window of it, to a new array [h, w, bands], or [h, w] for a single band.

        Args:
            window: x, y, width and height in pixels, or a `rasterio.windows.Window` of whole numbers. Its pixels are
                equal to those of the whole picture, and only the tiles that it touches are computed.

        Raises:
            ReferenceMismatch: The reference is missing, another one, or given for a file that has none.
            WeightsError: The weights are not those that the file was encoded with, or no such weights ship.
            ContainerError: The file is damaged.
            UsageError: The window is not inside the picture, or the scene is closed.
        """
        box = None if window is None else _box(window)
        decoder = self._opened()
        with self._named():
            return arrays.of_image(decoder.read(box, tile=self._tile))

    def _opened(self) -> "Decoder":
        """Return the decoder, made by the first read."""
        from refscale_codec.codec.decoder import Decoder

        with self._lock:
            if self._data is None:
                raise UsageError("the scene is closed")
            if self._decoder is None:
                with self._named():
                    given = _shipped_as(self._content.header.weights) if self._model is None else self._model
                model = _model(given, device=self._device)
                with self._named():
                    self._decoder = Decoder(self._data, self._reference, model)
            return self._decoder

    def close(self) -> None:
        """Release the bytes of the file and the reference; the properties remain available."""
        with self._lock:
            self._data = self._reference = self._decoder = None

    def __enter__(self) -> "Scene":
        """Return the object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Return path, shape and type."""
        return f"<refscale scene {self._path or 'of bytes'}: {' x '.join(map(str, self.shape))} {self.dtype}>"


def _bytes(data: bytes | FilePath) -> bytes:
    """Return the bytes of a `.rsc` file."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if isinstance(data, str | os.PathLike):
        return files.read(Path(data), ContainerError)
    raise UsageError(f"a file must be given as bytes or by its path, not as {type(data).__name__}")


def _image(given: Picture, what: str, *, need_georeference: bool) -> Image:
    """Return a picture as `Image`."""
    if isinstance(given, Image):
        return given
    if isinstance(given, str | os.PathLike):
        return pictures.read(Path(given), need_georeference=need_georeference)
    if isinstance(given, np.ndarray):
        return arrays.to_image(given, what)
    raise UsageError(f"{what} must be a numpy array, a path or an Image, not {type(given).__name__}")


def _whole(number: Any, name: str) -> int:
    try:
        return operator.index(number)
    except TypeError:
        raise UsageError(f"{name} must be a whole number, not {number!r}") from None


def _box(window: Any) -> Box:
    """Return the box of x, y, width and height, given as numbers or as rasterio's Window."""
    flatten = getattr(window, "flatten", None)
    try:
        left, top, width, height = map(operator.index, flatten() if callable(flatten) else window)
    except (TypeError, ValueError):
        raise UsageError(f"a window must be four whole numbers, x, y, width and height, not {window!r}") from None
    if width < 1 or height < 1:
        raise UsageError(f"a window must be at least 1x1 pixels, not {width}x{height}")
    return Box(top, left, top + height, left + width)
