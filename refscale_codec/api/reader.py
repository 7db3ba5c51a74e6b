"""The object that `refscale.open` returns."""

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refscale_codec.api.arguments import FilePath, Picture, box_of, bytes_of, references_of, whole
from refscale_codec.api.models import model_of, shipped_as
from refscale_codec.errors import UsageError, naming
from refscale_codec.fileformat import container, references
from refscale_codec.picture import arrays, geo, metadata
from refscale_codec.picture.coded import band_section
from refscale_codec.picture.tiles import TILE

if TYPE_CHECKING:
    from refscale_codec.codec.decoder import Decoder
    from refscale_codec.model import Model


class Reader:
    """An open `.rsc` file: its properties are available at once, its pixels by `read`.

    The interface follows rasterio's datasets, except that arrays are [h, w, bands], and [h, w] for a single band. It is
    thread-safe.
    """

    def __init__(
        self,
        data: bytes | FilePath,
        reference: Picture | Sequence[Picture] | None = None,
        *,
        reference_page: int | Sequence[int] | None = None,
        model: "Model | FilePath | None" = None,
        device: str | None = None,
        tile: int = TILE,
    ) -> None:
        """Parse the file; arguments and errors are those of `open`."""
        self._path = os.fspath(data) if isinstance(data, str | os.PathLike) else None
        self._data: bytes | None = bytes_of(data)
        with self._named():
            self._content = container.unpack(self._data)
            self._metadata = metadata.unpack(self._content.metadata)
        self._references = references_of(reference, reference_page, model, device)
        self._model, self._device, self._tile = model, device, whole(tile, "tile")
        self._lock = threading.Lock()
        self._decoder: Decoder | None = None

    def _named(self) -> AbstractContextManager[None]:
        """Return a context that puts the file's name before error messages; bytes have none."""
        return nullcontext() if self._path is None else naming(self._path)

    @cached_property
    def _bands(self) -> band_section.Summary:
        with self._named():
            return band_section.summary(self._content.bands, self.height, self.width)

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
        return self._bands.depth + self._bands.alpha

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole picture as an array: (h, w, bands), or (h, w) for a single band."""
        return (self.height, self.width) if self.count == 1 else (self.height, self.width, self.count)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the samples: uint8, int8, uint16, int16, uint32, int32 or float32."""
        return self._bands.dtype

    @property
    def nodata(self) -> float | None:
        """The nodata value; None if there is none."""
        return self._bands.nodata

    @property
    def crs(self) -> str | None:
        """The coordinate reference system, as `EPSG:code` or WKT; None if there is none."""
        return geo.crs(self._metadata.geo)

    @property
    def transform(self) -> tuple[float, ...] | None:
        """a, b, c, d, e, f, in the order of `affine.Affine`; None if there is none.

        x = a column + b row + c, y = d column + e row + f.
        """
        return geo.transform(self._metadata.geo)

    @property
    def tags(self) -> dict[str, str]:
        """The GeoTIFF tags of the whole picture."""
        return geo.tags(self._metadata.geo)

    @property
    def descriptions(self) -> tuple[str | None, ...]:
        """The description of each band; None for none."""
        return self._of_bands("descriptions", None)

    @property
    def units(self) -> tuple[str | None, ...]:
        """The unit of each band; None for none."""
        return self._of_bands("units", None)

    @property
    def scales(self) -> tuple[float, ...]:
        """The scale of each band: a sample stands for scale sample + offset."""
        return self._of_bands("scales", 1.0)

    @property
    def offsets(self) -> tuple[float, ...]:
        """The offset of each band; see `scales`."""
        return self._of_bands("offsets", 0.0)

    def _of_bands(self, field: str, default: Any) -> tuple[Any, ...]:
        found = geo.fields_of(self._metadata.geo).get(field, [])
        return tuple([*found, *[default] * self.count][: self.count])

    @cached_property
    def references(self) -> dict[str, str | None]:
        """The references that decoding needs: the `fingerprint` of each, and the name of its file, a hint, or None."""
        with self._named():
            return references.file_names(self._content)

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
            UsageError: The window is not inside the picture, or the file is closed.
        """
        box = None if window is None else box_of(window)
        if box is not None:
            box.require_inside(self.height, self.width)
        decoder = self._opened()
        with self._named():
            return arrays.of_image(decoder.read(box, tile=self._tile))

    def _opened(self) -> "Decoder":
        """Return the decoder, made by the first read."""
        from refscale_codec.codec.decoder import Decoder

        with self._lock:
            if self._data is None:
                raise UsageError("the file is closed")
            if self._decoder is None:
                with self._named():
                    given = shipped_as(self._content.header.weights) if self._model is None else self._model
                model = model_of(given, device=self._device)
                with self._named():
                    self._decoder = Decoder(self._data, self._references, model)
            return self._decoder

    def close(self) -> None:
        """Release the bytes of the file and the reference; the properties remain available."""
        with self._lock:
            self._data = self._decoder = None
            self._references = []

    def __enter__(self) -> "Reader":
        """Return the object itself; UsageError if it is closed."""
        if self._data is None:
            raise UsageError("the file is closed")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Return path, shape and type."""
        return f"<refscale reader {self._path or 'of bytes'}: {' x '.join(map(str, self.shape))} {self.dtype}>"
