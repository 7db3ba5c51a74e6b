"""Make the golden files again: `python tests/golden/make.py`, whenever the format changes, until it is declared stable.

Each file shows a feature of the format on a cut of the drawn example pair: NAME.rsc, what it decodes to (NAME.npz), and
the reference that it needs, which `reference` in this module draws from the same cut.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refscale_codec import model
from refscale_codec.codec import decoder, encoder
from refscale_codec.codec.encoder import EncodeOptions
from refscale_codec.picture import image
from refscale_codec.picture.image import Image

FOLDER = Path(__file__).parent
EXAMPLES = FOLDER.parents[1] / "examples"
SIZE = 88, 104


def cut(name: str) -> NDArray[np.uint8]:
    """Return a cut of an example picture, [88, 104, 3]."""
    pixels = image.read(EXAMPLES / f"{name}.png").pixels
    return np.ascontiguousarray(pixels[200 : 200 + SIZE[0], 120 : 120 + SIZE[1]])


def shifted(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture that lies 3 pixels lower and 2 to the left, and is darker."""
    return np.asarray(np.roll(pixels, (3, -2), axis=(0, 1)) * 0.8, np.uint8)


def deep(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return 16-bit samples."""
    return pixels.astype(np.uint16) * 13 + 400


def doubled(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return six bands, the last three derived from the first."""
    return np.dstack([pixels, 255 - pixels[..., ::-1]])


Make = Callable[[NDArray[np.uint8]], Image]
NAMES: dict[str, tuple[int, str, Make, Make | None]] = {
    # name: scale, low-res codec, target of the cut, reference of the cut
    "alone": (2, "jpeg", Image, None),
    "reference": (2, "jpeg", Image, Image),
    "warped": (2, "jpeg", Image, lambda x: Image(shifted(x))),
    "x4": (4, "jpeg", Image, Image),
    "sixteen-bits": (2, "jpeg", lambda x: Image(deep(x)), lambda x: Image(deep(x))),
    "six-bands": (2, "jpeg", lambda x: Image(doubled(x)), lambda x: Image(doubled(x))),
    "alpha": (2, "jpeg", lambda x: Image(x, alpha=np.ascontiguousarray(x[..., 0])), Image),
    "nodata": (2, "jpeg", lambda x: Image(np.where(x < 60, 0, x).astype(np.uint8), nodata=0), Image),
    "learned": (2, "gmm", Image, lambda x: Image(shifted(x))),
    "learned-alone": (2, "gmm", Image, None),
}


def reference(name: str) -> Image | None:
    """Return the reference of a golden file."""
    drawn = NAMES[name][3]
    return None if drawn is None else drawn(cut("reference"))


def main() -> None:
    """Write all of them."""
    for name, (scale, codec, target, _) in NAMES.items():
        net = model.load(model.shipped(scale, codec))
        data = encoder.encode(target(cut("target")), reference(name), net, EncodeOptions(60))
        (FOLDER / f"{name}.rsc").write_bytes(data)
        np.savez_compressed(FOLDER / f"{name}.npz", pixels=decoder.decode(data, reference(name), net).pixels)
        print(name, len(data))


if __name__ == "__main__":
    main()
