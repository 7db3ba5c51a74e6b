"""Where the reference of a band group comes from: one value, in the encoder's plan and when read from a file.

A `ReferenceSource` knows its sections of the file, and makes the reference of the older picture and the decoded first
group. Encoder and decoder never ask which one it is, so another source is a class here and a line in `of_file`.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.fileformat.container import Container
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction, warp
from refscale_codec.reference.band_prediction import Prediction
from refscale_codec.reference.warp import Alignment


class PicturePart(NamedTuple):
    """A part of a picture."""

    pixels: NDArray[Any]
    """[h, w, bands]."""
    box: Box
    """Where they lie in the picture."""

    def cut(self, box: Box) -> NDArray[Any]:
        """Return the pixels in the overlap with another box."""
        shared = box.overlap(self.box)
        if shared is None:
            raise ValueError(f"{box} is outside {self.box}")
        return self.pixels[shared.within(self.box).slices]


class ReferenceSource(Protocol):
    """How a band group uses its reference. `older` is the same bands of the older picture, None for none."""

    @property
    def used(self) -> bool:
        """Whether there is a reference."""

    @property
    def exact(self) -> bool:
        """Whether there is one, and it is the same on every machine: entropy coding may depend on it."""

    @property
    def from_older(self) -> bool:
        """Whether it needs the older picture."""

    @property
    def from_first(self) -> bool:
        """Whether it depends on the decoded first group, and so on the quality."""

    @property
    def alignment(self) -> Alignment | None:
        """The warp of the older picture; None for none."""

    @property
    def check(self) -> int | None:
        """The `warp.checksum` of the whole reference; None where nothing is verified."""

    def sections(self) -> dict[str, bytes]:
        """Return the payloads that the file holds of it, by the fields of `Container`."""

    def made(
        self, group: Image, older: Image | None, first: NDArray[Any] | None
    ) -> "tuple[ReferenceSource, Image | None]":
        """Return it as the file is to hold it, and the whole reference, None for none.

        Args:
            group: the bands to be coded.
            older: see above.
            first: the decoded first group [h, w, 3]; may be None unless `from_first`.
        """

    def require_fit(self, older: Image | None, height: int, width: int) -> None:
        """Raise ContainerError if it cannot make a reference for a picture of this size of the older one."""

    def pixels(self, older: Image | None, first: PicturePart | None, box: Box) -> NDArray[Any]:
        """Return the reference in the part of a box that lies in the picture, [h, w, 3].

        Args:
            older: see above.
            first: the decoded first group, at least in the box; may be None unless `from_first`.
            box: in the picture.
        """


@dataclass(frozen=True)
class Unused:
    """The group is coded without a reference."""

    used = exact = from_older = from_first = False
    alignment = check = None

    def sections(self) -> dict[str, bytes]:
        """See `ReferenceSource`."""
        return {}

    def made(self, group: Image, older: Image | None, first: NDArray[Any] | None) -> tuple[ReferenceSource, None]:
        """See `ReferenceSource`."""
        return self, None

    def require_fit(self, older: Image | None, height: int, width: int) -> None:
        """See `ReferenceSource`."""

    def pixels(self, older: Image | None, first: PicturePart | None, box: Box) -> NDArray[Any]:
        """Not to be called."""
        raise ValueError("no reference is used")


@dataclass(frozen=True)
class Warped:
    """The same bands of the older picture, warped."""

    alignment: Alignment | None
    """None uses the older picture as it is; it must then have the picture's size."""
    coded: bytes | None = field(default=None, compare=False, repr=False)
    """The alignment's payload, where it is known."""

    used = exact = from_older = True
    from_first = False

    @property
    def check(self) -> int | None:
        """See `ReferenceSource`."""
        return None if self.alignment is None else self.alignment.check

    def sections(self) -> dict[str, bytes]:
        """See `ReferenceSource`."""
        return {} if self._payload is None else {"alignment": self._payload}

    @cached_property
    def _payload(self) -> bytes | None:
        return warp.pack(self.alignment) if self.coded is None and self.alignment is not None else self.coded

    def made(self, group: Image, older: Image | None, first: NDArray[Any] | None) -> tuple[ReferenceSource, Image]:
        """See `ReferenceSource`; the alignment gets its checksum."""
        assert older is not None
        warped = warp.apply(older, self.alignment)
        if self.alignment is None or self._payload is None:
            return self, warped
        check = warp.checksum(warped)
        return Warped(self.alignment._replace(check=check), warp.with_check(self._payload, check)), warped

    def require_fit(self, older: Image | None, height: int, width: int) -> None:
        """See `ReferenceSource`."""
        assert older is not None
        if self.alignment is None and (older.height, older.width) != (height, width):
            raise ContainerError("malformed: no ALIGNMENT, but the reference has another size than the picture")

    def pixels(self, older: Image | None, first: PicturePart | None, box: Box) -> NDArray[Any]:
        """See `ReferenceSource`."""
        assert older is not None
        return warp.apply(older, self.alignment, box).pixels


@dataclass(frozen=True)
class Predicted:
    """A prediction from the decoded first group of the picture."""

    prediction: Prediction

    used = from_first = True
    exact = from_older = False
    alignment = check = None

    def sections(self) -> dict[str, bytes]:
        """See `ReferenceSource`."""
        return {"prediction": band_prediction.pack(self.prediction)}

    def made(self, group: Image, older: Image | None, first: NDArray[Any] | None) -> tuple[ReferenceSource, Image]:
        """See `ReferenceSource`; the prediction is fitted anew."""
        assert first is not None
        prediction = band_prediction.fit(first, group.pixels)
        return Predicted(prediction), Image(band_prediction.predict(first, prediction))

    def require_fit(self, older: Image | None, height: int, width: int) -> None:
        """See `ReferenceSource`."""

    def pixels(self, older: Image | None, first: PicturePart | None, box: Box) -> NDArray[Any]:
        """See `ReferenceSource`."""
        assert first is not None
        return band_prediction.predict(np.ascontiguousarray(first.cut(box)), self.prediction)


def is_used(file: Container) -> bool:
    """Return whether a file's band group uses a reference: an empty map means that there is one which is not used."""
    return (file.header.reference is not None or file.prediction is not None) and file.similarity_map != b""


def of_file(file: Container) -> ReferenceSource:
    """Return the source of a file's band group.

    Raises:
        ContainerError: a payload does not fit the header.
    """
    if not is_used(file):
        return Unused()
    if file.prediction is not None:
        return Predicted(band_prediction.unpack(file.prediction))
    if file.alignment is None:
        return Warped(None)
    return Warped(warp.unpack(file.alignment, file.header.height, file.header.width))
