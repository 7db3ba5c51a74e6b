"""What a coder is for a comparison: a target, its reference and qualities in, decoded pictures and their bytes out.

Qualities rise: higher is better and bigger, whatever the codec's own scale does. All bytes a baseline takes are its
picture's; only refscale's are counted by section.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from refscale_codec.picture.image import Image

Pixels = NDArray[np.uint8]  # [h, w, 3] RGB


class CodedPicture(NamedTuple):
    """One picture through one coder at one quality."""

    decoded: Pixels  # of the target's shape
    bytes_by_section: dict[str, int]  # what a receiver needs beside the reference; one "picture", if not in sections
    seconds: dict[str, float]  # "encode", and "decode" where the file was decoded
    lr: Pixels | None = None  # the decoded low-res picture, where there is one
    similarity: NDArray[np.uint8] | None = None  # the similarity map's levels [rows, columns], where there is one

    @property
    def bytes_total(self) -> int:
        """Bytes of all parts."""
        return sum(self.bytes_by_section.values())


class Coder(Protocol):
    """A way to code pictures."""

    @property
    def name(self) -> str:
        """Short, for tables and --coders: "jpeg", "x265-reference"."""

    @property
    def label(self) -> str:
        """For legends; says what is counted where that is not the whole file."""

    @property
    def qualities(self) -> tuple[int, ...]:
        """Settings that span about 0.05 to 2 bits per pixel, rising."""

    @property
    def needs_reference(self) -> bool:
        """Whether `code` must be given a reference."""

    def code(self, target: Image, reference: Image | None, qualities: Sequence[int]) -> Iterator[CodedPicture]:
        """Yield the target coded and decoded at each quality; what no quality changes is done once.

        Raises:
            ValueError: no reference where one is needed. That is a mistake of the program, not of a user.
        """


def require(reference: Image | None) -> Image:
    """Return the reference of a coder that needs one; ValueError for None."""
    if reference is None:
        raise ValueError("this coder needs a reference, got None")
    return reference


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Return a picture at another size, bicubic and averaging where it gets smaller; of its own size, the very one."""
    if pixels.shape[:2] == (height, width):
        return pixels
    picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(picture.resize((width, height), PIL.Image.Resampling.BICUBIC))
