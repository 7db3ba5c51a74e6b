"""Where the reference of a band group comes from: one value, in the encoder's plan and when read from a file.

A `ReferenceSource` knows its sections of the file, and makes the reference of the older pictures and the decoded first
group. Encoder and decoder never ask which one it is, so another source is a class here and a line in `of_file`.

There may be several older pictures, the references. A source names them by their places in a list: in the encoder that
of those that are given, in the decoder that of those that the file needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.fileformat import references
from refscale_codec.fileformat.container import Container
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction, blending, warp
from refscale_codec.reference.band_prediction import Prediction
from refscale_codec.reference.blending import Layer
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
    """How a band group uses its reference. `older` is the same bands of the older pictures, by their places."""

    @property
    def used(self) -> bool:
        """Whether there is a reference."""

    @property
    def exact(self) -> bool:
        """Whether there is one, and it is the same on every machine: entropy coding may depend on it."""

    @property
    def places(self) -> tuple[int, ...]:
        """Which of the older pictures it needs, lowest layer first."""

    @property
    def from_first(self) -> bool:
        """Whether it depends on the decoded first group, and so on the quality."""

    @property
    def alignment(self) -> Alignment | None:
        """The warp of the first of its older pictures; None for none."""

    @property
    def check(self) -> int | None:
        """The `warp.checksum` of the whole reference; None where nothing is verified."""

    def sections(self, names: Sequence[bytes], base: int = 0) -> dict[str, bytes]:
        """Return the payloads that the file holds of it, by the fields of `Container`.

        Args:
            names: fingerprints of the older pictures, by their places.
            base: the place of the one that the header names.
        """

    def made(
        self, group: Image, older: Sequence[Image], first: NDArray[Any] | None
    ) -> "tuple[ReferenceSource, Image | None]":
        """Return it as the file is to hold it, and the whole reference, None for none.

        Args:
            group: the bands to be coded.
            older: see above.
            first: the decoded first group [h, w, 3]; may be None unless `from_first`.
        """

    def require_fit(self, older: Sequence[Image], height: int, width: int) -> None:
        """Raise ContainerError if it cannot make a reference for a picture of this size of the older ones."""

    def pixels(self, older: Sequence[Image], first: PicturePart | None, box: Box) -> NDArray[Any]:
        """Return the reference in the part of a box that lies in the picture, [h, w, 3].

        Args:
            older: see above.
            first: the decoded first group, at least in the box; may be None unless `from_first`.
            box: in the picture.
        """


@dataclass(frozen=True)
class Unused:
    """The group is coded without a reference."""

    used = exact = from_first = False
    places = ()
    alignment = check = None

    def sections(self, names: Sequence[bytes], base: int = 0) -> dict[str, bytes]:
        """See `ReferenceSource`."""
        return {}

    def made(self, group: Image, older: Sequence[Image], first: NDArray[Any] | None) -> tuple[ReferenceSource, None]:
        """See `ReferenceSource`."""
        return self, None

    def require_fit(self, older: Sequence[Image], height: int, width: int) -> None:
        """See `ReferenceSource`."""

    def pixels(self, older: Sequence[Image], first: PicturePart | None, box: Box) -> NDArray[Any]:
        """Not to be called."""
        raise ValueError("no reference is used")


@dataclass(frozen=True)
class Warped:
    """The same bands of the older picture, warped."""

    alignment: Alignment | None
    """None uses the older picture as it is; it must then have the picture's size."""
    coded: bytes | None = field(default=None, compare=False, repr=False)
    """The alignment's payload, where it is known."""

    place: int = 0
    """Which of the older pictures."""

    used = exact = True
    from_first = False

    @property
    def places(self) -> tuple[int, ...]:
        """See `ReferenceSource`."""
        return (self.place,)

    @property
    def check(self) -> int | None:
        """See `ReferenceSource`."""
        return None if self.alignment is None else self.alignment.check

    def sections(self, names: Sequence[bytes], base: int = 0) -> dict[str, bytes]:
        """See `ReferenceSource`."""
        found = {} if self._payload is None else {"alignment": self._payload}
        return (
            found if names[self.place] == names[base] else found | {"references": blending.pack(names[self.place], [])}
        )

    @cached_property
    def _payload(self) -> bytes | None:
        return warp.pack(self.alignment) if self.coded is None and self.alignment is not None else self.coded

    def made(self, group: Image, older: Sequence[Image], first: NDArray[Any] | None) -> tuple[ReferenceSource, Image]:
        """See `ReferenceSource`; the alignment gets its checksum."""
        warped = warp.apply(older[self.place], self.alignment)
        if self.alignment is None or self._payload is None:
            return self, warped
        check = warp.checksum(warped)
        payload = warp.with_check(self._payload, check)
        return replace(self, alignment=self.alignment._replace(check=check), coded=payload), warped

    def require_fit(self, older: Sequence[Image], height: int, width: int) -> None:
        """See `ReferenceSource`."""
        whole = older[self.place]
        if self.alignment is None and (whole.height, whole.width) != (height, width):
            raise ContainerError("malformed: no ALIGNMENT, but the reference has another size than the picture")

    def pixels(self, older: Sequence[Image], first: PicturePart | None, box: Box) -> NDArray[Any]:
        """See `ReferenceSource`."""
        return warp.apply(older[self.place], self.alignment, box).pixels


@dataclass(frozen=True)
class Blend:
    """The same bands of several older pictures, warped and blended."""

    layers: tuple[Layer, ...]
    """Two or more, lowest first."""
    check: int | None = None
    coded: bytes | None = field(default=None, compare=False, repr=False)
    """The payload of the lowest alignment, where it is known."""

    used = exact = True
    from_first = False

    @property
    def places(self) -> tuple[int, ...]:
        """See `ReferenceSource`."""
        return tuple(layer.place for layer in self.layers)

    @property
    def alignment(self) -> Alignment:
        """See `ReferenceSource`."""
        return self.layers[0].alignment

    def sections(self, names: Sequence[bytes], base: int = 0) -> dict[str, bytes]:
        """See `ReferenceSource`; the check of the alignment is that of the whole."""
        lowest, *above = self.layers
        named = None if names[lowest.place] == names[base] else names[lowest.place]
        layers = [(names[layer.place], layer.alignment, layer.weights) for layer in above]
        aligned = warp.with_check(self.coded or warp.pack(lowest.alignment), self.check or 0)
        return {"alignment": aligned, "references": blending.pack(named, layers)}

    def made(self, group: Image, older: Sequence[Image], first: NDArray[Any] | None) -> tuple[ReferenceSource, Image]:
        """See `ReferenceSource`; the weights are fitted to the whole group, and layers of no use left out."""
        whole, layers, pixels = Box(0, 0, group.height, group.width), list[Layer](), group.pixels
        for layer in self.layers:
            warped = warp.apply(older[layer.place], layer.alignment).pixels
            weights = blending.fit(group.pixels, pixels, warped) if layers else layer.weights
            if (weights == blending.FULL).all():
                layers, pixels = [layer], warped
            elif weights.any():
                layers.append(layer._replace(weights=weights))
                pixels = blending.mixed(pixels, warped, weights, whole)
        check, coded = warp.checksum(Image(pixels)), self.coded if layers[0] is self.layers[0] else None
        if len(layers) > 1:
            return Blend(tuple(layers), check, coded), Image(pixels)
        place, alignment = layers[0][:2]
        as_it_is = alignment.does_nothing and older[place].pixels.shape == pixels.shape
        return Warped(None if as_it_is else alignment._replace(check=check), place=place), Image(pixels)

    def require_fit(self, older: Sequence[Image], height: int, width: int) -> None:
        """See `ReferenceSource`."""

    def pixels(self, older: Sequence[Image], first: PicturePart | None, box: Box) -> NDArray[Any]:
        """See `ReferenceSource`."""
        lowest, *above = self.layers
        part = box.overlap(Box(0, 0, *lowest.alignment[:2]))
        assert part is not None
        pixels = warp.apply(older[lowest.place], lowest.alignment, part).pixels
        for layer in above:
            warped = warp.apply(older[layer.place], layer.alignment, part).pixels
            pixels = blending.mixed(pixels, warped, layer.weights, part)
        return pixels


@dataclass(frozen=True)
class Predicted:
    """A prediction from the decoded first group of the picture."""

    prediction: Prediction

    used = from_first = True
    exact = False
    places = ()
    alignment = check = None

    def sections(self, names: Sequence[bytes], base: int = 0) -> dict[str, bytes]:
        """See `ReferenceSource`."""
        return {"prediction": band_prediction.pack(self.prediction)}

    def made(self, group: Image, older: Sequence[Image], first: NDArray[Any] | None) -> tuple[ReferenceSource, Image]:
        """See `ReferenceSource`; the prediction is fitted anew."""
        assert first is not None
        prediction = band_prediction.fit(first, group.pixels)
        return Predicted(prediction), Image(band_prediction.predict(first, prediction))

    def require_fit(self, older: Sequence[Image], height: int, width: int) -> None:
        """See `ReferenceSource`."""

    def pixels(self, older: Sequence[Image], first: PicturePart | None, box: Box) -> NDArray[Any]:
        """See `ReferenceSource`."""
        assert first is not None
        return band_prediction.predict(np.ascontiguousarray(first.cut(box)), self.prediction)


def is_used(file: Container) -> bool:
    """Return whether a file's band group uses a reference: an empty map means that there is one which is not used."""
    return (file.header.reference is not None or file.prediction is not None) and file.similarity_map != b""


def of_file(file: Container, named: Sequence[bytes] | None = None) -> ReferenceSource:
    """Return the source of a file's band group.

    Args:
        file: of the band group.
        named: the references by their places; by default those that this file needs.

    Raises:
        ContainerError: a payload does not fit the header.
    """
    size = file.header.height, file.header.width
    if not is_used(file):
        return Unused()
    if file.prediction is not None:
        return Predicted(band_prediction.unpack(file.prediction))
    alignment = None if file.alignment is None else warp.unpack(file.alignment, *size)
    if file.references is None:
        return Warped(alignment)
    named = named or references.of_groups([file])
    lowest, above = blending.unpack(file.references, *size)
    place = 0 if lowest is None else named.index(lowest)
    if not above:
        return Warped(alignment, place=place)
    if alignment is None:
        raise ContainerError("malformed: REFERENCES of several layers without ALIGNMENT")
    layers = (Layer(named.index(name), moved, weights) for name, moved, weights in above)
    return Blend((Layer(place, alignment, blending.uniform(blending.FULL, *size)), *layers), alignment.check)
