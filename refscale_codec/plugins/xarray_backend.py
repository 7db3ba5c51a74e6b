"""`.rsc` files as data sets of xarray: `xr.open_dataset("scene.rsc", engine="refscale", reference="old.tif")`.

Names, dimensions and coordinates are those of rioxarray's engine for GeoTIFFs: a variable `band_data` (band, y, x), x
and y at the centres of pixels, and `spatial_ref` with the coordinate reference system as CF's grid mapping. Nothing is
decoded before it is computed, and then only the tiles that are touched.

The entry point is in `pyproject.toml`. xarray imports the module with those of all engines, so it imports neither torch
nor what decodes before a file is opened.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray, BackendEntrypoint, CachingFileManager
from xarray.core import indexing

import refscale_codec as refscale
from refscale_codec.picture import tiles
from refscale_codec.picture.io import gdal_fields
from refscale_codec.picture.tiles import TILE

if TYPE_CHECKING:
    from refscale_codec.api import Reader
    from refscale_codec.api.arguments import FilePath, Picture
    from refscale_codec.model import Model

NAME = "band_data"
"""Of the variable with the pixels."""


class RefscaleBackend(BackendEntrypoint):
    """The engine `refscale`."""

    description = "Pictures coded against older pictures of the place (.rsc)"
    url = "https://github.com/refscale/refscale/blob/main/docs/ECOSYSTEM.md"

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        mask_and_scale: bool = True,
        reference: "Picture | None" = None,
        reference_page: int | None = None,
        model: "Model | FilePath | None" = None,
        device: str | None = None,
        tile: int = TILE,
    ) -> xr.Dataset:
        """Open a `.rsc` file; its pixels are decoded when they are computed.

        Args:
            filename_or_obj: The path of the file, or its bytes.
            drop_variables: Names of variables to leave out.
            mask_and_scale: Whether nodata becomes NaN, and a scale and offset that all bands share are applied, which
                makes integers floats; without, samples keep their type, and attributes of the variable tell of both.
            reference: The picture that the file was encoded against, with equal pixels. It is read with the first
                pixels; to read attributes and coordinates it need not be given.
            reference_page: Which picture of a reference's file that holds several, from 1.
            model: The weights that the file was encoded with; by default those that ship.
            device: `auto` (default), `cpu`, `cuda` or `mps`.
            tile: Largest side of a tile in pixels, a multiple of 16; `chunks={}` makes each tile a chunk.

        Raises:
            ContainerError: Not a `.rsc` file, or a damaged one. Errors of `Reader.read` come when pixels are computed.
        """
        opened = partial(
            refscale.open,
            filename_or_obj,
            reference,
            reference_page=reference_page,
            model=model,
            device=device,
            tile=tile,
        )
        tiles.require_side(tile)
        with refscale.open(filename_or_obj) as reader:
            manager = CachingFileManager(_opened, opened, mode="r")
            data = _Pixels(manager, (reader.count, reader.height, reader.width), reader.dtype)
            raw = xr.Variable(("band", "y", "x"), indexing.LazilyIndexedArray(data), _attributes(reader))
            dataset = xr.Dataset({NAME: raw}, _coordinates(reader), reader.tags)
            sides = {"band": reader.count, "y": _sides(reader.height, tile), "x": _sides(reader.width, tile)}
        dataset = xr.decode_cf(dataset, mask_and_scale=mask_and_scale, decode_times=False, decode_coords=False)
        dataset[NAME].encoding |= {"preferred_chunks": sides}
        if "spatial_ref" in dataset.coords:
            dataset[NAME].encoding["grid_mapping"] = "spatial_ref"
        if isinstance(filename_or_obj, str | os.PathLike):
            dataset.encoding["source"] = os.fspath(filename_or_obj)
        dataset = dataset.drop_vars([] if drop_variables is None else drop_variables, errors="ignore")
        dataset.set_close(manager.close)
        return dataset

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return whether a file is named `*.rsc`."""
        return isinstance(filename_or_obj, str | os.PathLike) and os.fspath(filename_or_obj).lower().endswith(".rsc")


def _opened(opening: "partial[Reader]", mode: str) -> "Reader":
    """Open a file, for reading; a manager without a mode cannot be unpickled."""
    return opening()


class _Pixels(BackendArray):
    """The pixels of a file [bands, h, w], decoded when they are indexed."""

    def __init__(
        self, manager: "CachingFileManager[Reader]", shape: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> None:
        self.manager, self.shape, self.dtype = manager, shape, dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        """Decode the smallest window that holds what a key of positions and slices with positive steps selects."""
        spans = [
            range(length)[part] if isinstance(part, slice) else range(length)[part : part + 1 or None]
            for part, length in zip(key, self.shape, strict=True)
        ]
        _, rows, columns = spans
        if not all(spans):
            found = np.empty([len(span) for span in spans], self.dtype)
        else:
            height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
            with self.manager.acquire_context() as reader:
                window = reader.read(window=(columns[0], rows[0], width, height))
            pixels = window.reshape(height, width, -1).transpose(2, 0, 1)
            found = pixels[spans[0].start : spans[0].stop : spans[0].step, :: rows.step, :: columns.step]
        return found[tuple(slice(None) if isinstance(part, slice) else 0 for part in key)]


def _sides(length: int, tile: int) -> tuple[int, ...]:
    """Return how long the tiles are along a side of the picture."""
    return tuple(each.box.height for each in tiles.grid(length, 1, tile, 0))


def _attributes(reader: "Reader") -> dict[str, Any]:
    """Return the attributes of the variable, by CF's names; of scales and offsets only such as all bands share."""
    found: dict[str, Any] = {}
    if reader.nodata is not None:
        found["_FillValue"] = reader.dtype.type(reader.nodata)
    for name, values, default in (("scale_factor", reader.scales, 1.0), ("add_offset", reader.offsets, 0.0)):
        if set(values) != {default}:
            found[name if len(set(values)) == 1 else f"{name}s"] = values[0] if len(set(values)) == 1 else values
    for name, texts in (("long_name", reader.descriptions), ("units", reader.units)):
        if any(texts):
            found[name] = (texts[0] or "") if len(set(texts)) == 1 else tuple(text or "" for text in texts)
    return found


def _coordinates(reader: "Reader") -> dict[str, Any]:
    """Return bands from 1, x and y at the centres of pixels, unless these are turned or unknown, and the place."""
    found: dict[str, Any] = {"band": ("band", np.arange(1, reader.count + 1))}
    place: dict[str, str] = {}
    if reader.crs is not None:
        place = {"crs_wkt": _wkt(reader.crs), "spatial_ref": _wkt(reader.crs)}
    if reader.transform is not None:
        a, b, c, d, e, f = reader.transform
        place["GeoTransform"] = " ".join(map(repr, (c, a, b, f, d, e)))  # in GDAL's order
        if b == d == 0:
            found["x"] = ("x", c + a * (np.arange(reader.width) + 0.5))
            found["y"] = ("y", f + e * (np.arange(reader.height) + 0.5))
    if place:
        found["spatial_ref"] = ((), 0, place)
    return found


def _wkt(crs: str) -> str:
    """Return a coordinate reference system as WKT if rasterio is installed and PROJ knows it; else as it is."""
    with suppress(ImportError, ValueError):
        return str(gdal_fields.system_of(crs).to_wkt())
    return crs
