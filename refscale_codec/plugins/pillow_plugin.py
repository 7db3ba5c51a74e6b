"""`.rsc` files as pictures of Pillow: after `register()`, `PIL.Image.open("scene.rsc")`.

Pillow looks up no entry points, so plugins are registered by an import or, as here and in pillow-heif, by a call. A
file does not hold its reference and `PIL.Image.open` cannot be given one, so an index of references finds it by its
fingerprint. Opening reads the header; the picture is decoded when it is loaded.
"""

import os
from typing import TYPE_CHECKING, Any

import PIL.Image
import PIL.ImageFile
from numpy.typing import NDArray

import refscale_codec as refscale
from refscale_codec.errors import ReferenceMismatch, RefscaleError
from refscale_codec.fileformat import container
from refscale_codec.picture import metadata
from refscale_codec.picture.coded import band_section

if TYPE_CHECKING:
    from refscale_codec.api.arguments import FilePath

FORMAT = "RSC"
"""What `PIL.Image.Image.format` says of such pictures."""

_MODES = {  # by type, bands without alpha, and whether there is alpha
    ("uint8", 1, False): "L",
    ("uint8", 1, True): "LA",
    ("uint8", 3, False): "RGB",
    ("uint8", 3, True): "RGBA",
    ("uint16", 1, False): "I;16",
    ("int32", 1, False): "I",
    ("float32", 1, False): "F",
}

_RAW = {"I": "I;32S", "F": "F;32F"}
"""How samples lie in memory, little endian, where that is not called as the mode."""

_index: "list[FilePath]" = []  # at most one


def register(index: "FilePath | None" = None) -> None:
    """Let Pillow open `.rsc` files in this process.

    Args:
        index: of references, see `References`; by default the one that REFSCALE_REFS in the environment names. Files
            without a reference need none.
    """
    _index[:] = [] if index is None else [index]
    PIL.Image.register_open(FORMAT, RscImageFile, lambda prefix: prefix.startswith(container.MAGIC))
    PIL.Image.register_extension(FORMAT, ".rsc")


class RscImageFile(PIL.ImageFile.ImageFile):
    """A `.rsc` file; errors of refscale are OSErrors here, as programs expect of Pillow."""

    format = FORMAT
    format_description = "refscale"

    def _open(self) -> None:
        assert self.fp is not None
        self._data: bytes | None = self.fp.read()
        try:
            content = container.unpack(self._data)
            header = content.header
            bands = band_section.summary(content.bands, header.height, header.width)
            kept = metadata.unpack(content.metadata)
        except RefscaleError as error:
            raise OSError(str(error)) from error
        mode = _MODES.get((bands.dtype.name, bands.depth, bands.alpha))
        if mode is None:
            raise OSError(
                f"Pillow has no mode for {bands.depth} bands of {bands.dtype}{' and alpha' * bands.alpha}: "
                "refscale_codec.open reads them"
            )
        self._mode, self._size = mode, (header.width, header.height)
        parts = {"icc_profile": kept.icc, "exif": kept.exif, "xmp": kept.xmp}
        self.info = {name: part for name, part in parts.items() if part}

    def load(self) -> Any:
        """Decode the picture, once; what is returned is Pillow's access to its pixels."""
        if self._data is not None:
            try:
                pixels = _decoded(self._data)
            except RefscaleError as error:
                raise OSError(str(error)) from error
            self.load_prepare()
            self.frombytes(
                pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes(),
                "raw",
                _RAW.get(self.mode, self.mode),
            )
            self._data = None
        return super().load()


def _decoded(data: bytes) -> NDArray[Any]:
    wanted = container.unpack(data).header.reference
    if wanted is None:
        return refscale.decode(data)
    path = _index[0] if _index else os.environ.get("REFSCALE_REFS")
    if not path:
        raise ReferenceMismatch(
            f"the file needs its reference {wanted.hex()}: name an index of references, by register(index) or in the "
            "environment as REFSCALE_REFS"
        )
    with refscale.References(path) as index:
        return refscale.decode(data, index.references(data))
