"""Make the golden files again: `python tests/golden/make.py`, whenever the format changes, until it is declared stable.
With names, only those are made.

Each file shows a feature of the format on a cut of the drawn example pair: NAME.rsc, what it decodes to (NAME.npz), and
the references that it needs, which `references` in this module draws from the same cut.
"""

import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refscale_codec import model, weights_files
from refscale_codec.codec import bounded, decoder, encoder, reference_choice
from refscale_codec.codec.encoder import EncodeOptions
from refscale_codec.fileformat import container
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.metadata import INCH, Metadata, packed_resolution, packed_texts
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import blending, warp
from refscale_codec.reference.blending import Layer
from refscale_codec.reference.source import Blend, ReferenceSource, Warped
from refscale_codec.reference.warp import STEPS, Alignment, GainOffset, Transform, still
from refscale_codec.rescale import similarity_map
from refscale_codec.rescale.fgrn import Fgrn, FgrnConfig
from refscale_codec.rescale.interface import Rescaler

FOLDER = Path(__file__).parent
EXAMPLES = FOLDER.parents[1] / "examples"
EXACT = FOLDER.parents[1] / "benchmarks" / "weights" / "x2-untied.safetensors"
FGRN = FOLDER / "fgrn.safetensors"  # see `with_every_part`
SIZE = 88, 104


def cut(name: str) -> NDArray[np.uint8]:
    """Return a cut of an example picture, [88, 104, 3]."""
    pixels = pictures.read(EXAMPLES / f"{name}.png").pixels
    return np.ascontiguousarray(pixels[200 : 200 + SIZE[0], 120 : 120 + SIZE[1]])


def shifted(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture that lies 3 pixels lower and 2 to the left, and is darker."""
    return np.asarray(np.roll(pixels, (3, -2), axis=(0, 1)) * 0.8, np.uint8)


def deep(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return 16-bit samples."""
    return pixels.astype(np.uint16) * 13 + 400


def small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a part, [40, 50, bands]."""
    return np.ascontiguousarray(pixels[20:60, 30:80])


def near(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture that differs from the cut of the reference by an eighth."""
    return np.asarray((7 * cut("reference").astype(int) + pixels) // 8, np.uint8)


def fine(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return four bands of 16-bit samples that use the last bits."""
    y, x = np.mgrid[: len(pixels), : pixels.shape[1]]
    return deep(pixels[..., [0, 1, 2, 1]]) + (x * y % 7)[..., None].astype(np.uint16)


def striped(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture with detail all over, for motion to be found by."""
    y, x = np.mgrid[: len(pixels), : pixels.shape[1]]
    return np.asarray((pixels + (40 * np.sin(0.9 * y) * np.cos(0.7 * x))[..., None]).clip(0, 255), np.uint8)


def torn(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture whose left half lies 2 pixels lower, whose right half lies 2 higher, and which is darker."""
    halves = np.roll(pixels, 2, axis=0)[:, :52], np.roll(pixels, -2, axis=0)[:, 52:]
    return np.asarray(np.concatenate(halves, axis=1) * 0.8, np.uint8)


def half_noise(pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return six bands, the last three of which are of no use."""
    noise = np.random.default_rng(seed).integers(120, 136, pixels.shape, np.uint8)
    return np.dstack([pixels, noise])


def odd(pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return samples of either sign, of odd height and width."""
    return np.ascontiguousarray((pixels[:85, :99].astype(np.int16) - 100) * 150)


def of_everything(pixels: NDArray[np.uint8]) -> Image:
    """Return a picture with alpha, nodata and metadata."""
    samples = odd(pixels)
    metadata = Metadata(
        icc=b"profile",
        exif=b"II*\0" + bytes(20),
        xmp=b"<x/>",
        geo=b'{"crs": "EPSG:32630"}',
        gamma=struct.pack(">I", 45455),
        chromaticities=struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
        intent=b"\1",
        cicp=bytes([1, 13, 0, 1]),
        resolution=packed_resolution(300, 300, INCH),
        texts=packed_texts([("Station", "km 12,4"), ("Kommentar", "größer")]),
    )
    return Image(np.where(samples < -3000, -3000, samples), metadata, alpha=samples[..., 1].copy(), nodata=-3000)


def doubled(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return six bands, the last three derived from the first."""
    return np.dstack([pixels, 255 - pixels[..., ::-1]])


def tripled(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return nine bands, the last six derived from the first."""
    return np.dstack([doubled(pixels), pixels[..., [1, 2, 0]]])


def twice(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture of twice the side, 3 x 4 blocks."""
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture of three times the side, with two rows and a column more."""
    return np.pad(pixels.repeat(3, axis=0).repeat(3, axis=1), ((0, 2), (0, 1), (0, 0)), "edge")


def measured(pixels: NDArray[np.uint8]) -> Image:
    """Return two bands of floats with each special value, two fill values, samples far beyond the rest, and alpha."""
    samples = (pixels[:85, :99, :2].astype(np.float32) - 100) * np.float32(0.37)
    samples[10:30, 20:50], samples[40, 50, 1], samples[41, 50:53, 0] = np.nan, -np.inf, np.inf
    samples[60:70, 5:25, 1] = -9999.9
    samples[60:70, 60:80], samples[72:80, 60:80] = -32768, 65535
    samples[3, 4, 0], samples[80, 90] = 1e30, (-4000, 70_000)
    return Image(samples, alpha=np.ascontiguousarray(pixels[:85, :99, 2] / np.float32(255)), nodata=-9999.9)


Make = Callable[[NDArray[np.uint8]], Image]
NAMES: dict[str, tuple[int, str, Make, Make | None]] = {
    # name: scale, low-res codec, target of the cut, reference of the cut
    "alone": (2, "jpeg", Image, None),
    "reference": (2, "jpeg", Image, Image),
    "warped": (2, "jpeg", Image, lambda x: Image(shifted(x))),
    "x4": (4, "jpeg", Image, Image),
    "sixteen-bits": (2, "jpeg", lambda x: Image(deep(x)), lambda x: Image(deep(x))),
    "offset": (2, "jpeg", lambda x: Image(deep(x)), lambda x: Image(deep(x) + np.uint16(3000))),
    "six-bands": (2, "jpeg", lambda x: Image(doubled(x)), lambda x: Image(doubled(x))),
    "alpha": (2, "jpeg", lambda x: Image(x, alpha=np.ascontiguousarray(x[..., 0])), Image),
    "nodata": (2, "jpeg", lambda x: Image(np.where(x < 60, 0, x).astype(np.uint8), nodata=0), Image),
    "learned": (2, "gmm", Image, lambda x: Image(shifted(x))),
    "learned-alone": (2, "gmm", Image, None),
    "learned-sixteen-bits": (2, "gmm", lambda x: Image(deep(x)), lambda x: Image(deep(shifted(x)))),
    "map": (4, "jpeg", lambda x: Image(x[:85, :99]), lambda x: Image(x[:85, :99])),  # see `with_map`
    "vectors": (2, "jpeg", lambda x: Image(striped(x)), lambda x: Image(torn(striped(x)))),
    "unused": (2, "gmm", lambda x: Image(half_noise(x, 0)), lambda x: Image(half_noise(x, 1))),
    "predicted": (2, "gmm", lambda x: Image(deep(doubled(x)[..., :5])), None),
    "floats": (2, "jpeg", measured, measured),
    "everything": (4, "jpeg", of_everything, lambda x: Image(odd(x), name="older.tif")),
    "shift": (2, "jpeg", Image, lambda x: Image(shifted(x))),  # this and the next three: see `alignment`
    "similarity": (2, "gmm", Image, lambda x: Image(np.ascontiguousarray(x[:70]))),
    "affine": (4, "jpeg", Image, lambda x: Image(enlarged(x))),
    "homography": (2, "jpeg", lambda x: Image(deep(x)), lambda x: Image(deep(torn(x)))),
    "grey-reference": (2, "jpeg", Image, lambda x: Image(np.ascontiguousarray(shifted(x)[..., 1:2]))),
    "reference-of-grey": (2, "jpeg", lambda x: Image(deep(x[..., 1:2])), lambda x: Image(deep(doubled(x)[..., 2:5]))),
    "constant-map": (2, "jpeg", Image, Image),  # see `with_map`
    "fgrn": (4, "jpeg", Image, None),
    "exact": (2, "jpeg", Image, Image),
    "exact-sixteen-bits": (2, "jpeg", lambda x: Image(deep(doubled(x))), lambda x: Image(deep(shifted(doubled(x))))),
    "blended": (2, "jpeg", lambda x: Image(twice(x)), lambda x: Image(shifted(twice(x)))),  # see `blended`
    "third-reference": (2, "gmm", lambda x: Image(tripled(x)), lambda x: Image(tripled(x), name="first.tif")),
    "lossless": (1, "predictive", lambda x: Image(small(near(x))), lambda x: Image(small(x))),  # see `BOUNDS`
    "lossless-alone": (1, "predictive", lambda x: Image(small(x[..., 1:2])), None),
    "bounded": (1, "predictive", lambda x: Image(fine(small(near(x)))), lambda x: Image(fine(small(x)))),
}
BOUNDS = {"lossless": 0, "lossless-alone": 0, "bounded": 3}  # on the error of a sample
FURTHER: dict[str, list[Make]] = {  # references after the first
    "blended": [lambda x: Image(enlarged(x))],
    "third-reference": [lambda x: Image(shifted(tripled(x))), lambda x: Image(torn(tripled(x)), name="third.tif")],
}
NOT_SHIPPED = {"exact": EXACT, "exact-sixteen-bits": EXACT, "blended": EXACT, "fgrn": FGRN}  # to be named
WITH_NAMES = "everything", "third-reference"


def weights(name: str) -> Path:
    """Return the weights of a golden file."""
    return NOT_SHIPPED.get(name) or weights_files.shipped(*NAMES[name][:2])


def alignment(name: str) -> Alignment | None:
    """Return the alignment that a golden file has to have, where it does not matter what the encoder would find."""
    one = 1 << Transform.bits(*SIZE)
    image, motion = still(*SIZE), np.full((2, 2, 2), (-3, 2), np.int16)
    return {
        "shift": image._replace(
            transform=Transform(-3 * STEPS, 2 * STEPS + 20),
            radiometry=(GainOffset(320, -4), GainOffset(), GainOffset(250, 7)),
        ),
        "similarity": image._replace(transform=Transform(90, -200, one // 50, one // 30, -(one // 30), one // 50)),
        "affine": image._replace(factor=3, transform=Transform(0, 30, one // 90, 0, one // 70, -(one // 40))),
        "homography": image._replace(
            transform=Transform(9, -60, one // 60, one // 80, -(one // 50), 0, 40, -70),
            motion=motion,
            radiometry=(GainOffset(300, 900),) * 3,
        ),
    }.get(name)


class AsGiven(Blend):
    """A blend whose layers and weights the encoder leaves as they are."""

    def made(self, group: Image, older: Sequence[Image], first: NDArray[Any] | None) -> tuple[ReferenceSource, Image]:
        """See `ReferenceSource`."""
        picture = Image(self.pixels(older, first, Box(0, 0, group.height, group.width)))
        return replace(self, check=warp.checksum(picture)), picture


def blended() -> Blend:
    """Return that of a shift and a similarity onto a picture of 3 x 4 blocks, with weights of all kinds."""
    height, width = 2 * SIZE[0], 2 * SIZE[1]
    image, half = still(height, width), 1 << Transform.bits(height, width) - 1
    motion = np.arange(24).reshape(3, 4, 2).astype(np.int16) % 5 - 2
    back = image._replace(transform=Transform(3 * STEPS, -2 * STEPS), radiometry=(GainOffset(320, 1),) * 3)
    smaller = image._replace(factor=3, transform=Transform(-16, -16, -half, 0, 0, -half), motion=motion)
    weights = (np.arange(12).reshape(3, 4) * 7 % 5).astype(np.int16)
    lowest = blending.uniform(blending.FULL, height, width)
    return AsGiven((Layer(0, back, lowest), Layer(1, smaller, weights)))


def third_reference() -> list[ReferenceSource]:
    """Return the first reference as it is; the third alone, as it is; and layers of all three, the third the lowest."""
    back = still(*SIZE)._replace(transform=Transform(3 * STEPS, -2 * STEPS), radiometry=(GainOffset(320, 0),) * 3)
    full, half = (blending.uniform(weight, *SIZE) for weight in (blending.FULL, 2))
    weights = np.array([[0, 4], [1, 3]], np.int16)
    layers = Layer(2, still(*SIZE), full), Layer(1, back, half), Layer(0, still(*SIZE), weights)
    return [Warped(None), Warped(None, place=2), AsGiven(layers)]


def sources(name: str) -> list[ReferenceSource]:
    """Return how the band groups have to use the references, where it does not matter what the encoder would find."""
    given = alignment(name)
    if given is not None:
        return [Warped(given)]
    return {"blended": [blended()], "third-reference": third_reference()}.get(name, [])


def as_given(name: str) -> Callable[..., ReferenceSource] | None:
    """Return a choice of the references' use that is `sources`."""
    each = iter(sources(name))
    return (lambda *_: next(each)) if sources(name) else None


def references(name: str) -> list[Image]:
    """Return the references of a golden file."""
    drawn = NAMES[name][3]
    return [] if drawn is None else [make(cut("reference")) for make in (drawn, *FURTHER.get(name, []))]


def target(name: str) -> Image:
    """Return the picture that a golden file was made of."""
    return NAMES[name][2](cut("target"))


def with_map(data: bytes, rescaler: Rescaler, constant: bool) -> bytes:
    """Return a file with a map of one level, or of all levels, which pictures this small do not get by themselves."""
    file = container.unpack(data)
    cell = rescaler.cell // rescaler.scale  # low-res pixels a side
    rows, columns = np.ogrid[[slice(-(-side // cell)) for side in file.header.low_res_size]]
    levels = ((rows * columns // 9 + columns // 3) % rescaler.map_levels).astype(np.uint8)
    levels = np.ones_like(levels) if constant else levels
    return container.pack(replace(file, similarity_map=similarity_map.encode(levels, rescaler.map_levels)))


def with_every_part(net: Fgrn) -> Fgrn:
    """Return a net near mean and repetition, as it begins, in which no part is zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return net


def main() -> None:
    """Write those that were named, or all."""
    if not FGRN.exists():
        tiny = FgrnConfig(scale=4, width=8, down_blocks=1, up_blocks=2, cells=2, growth=4)
        model.store(with_every_part(Fgrn(tiny)), FGRN)
    for name in sys.argv[1:] or NAMES:
        net = model.load(weights(name))
        options = EncodeOptions(60, output_hash=name == "everything", reference_name=name in WITH_NAMES)
        if name in BOUNDS:
            data = bounded.encode(target(name), references(name), net, BOUNDS[name], options).data
        else:
            choose = as_given(name) or reference_choice.choose
            data = encoder.prepare(target(name), references(name), net, options, choose=choose).code(60).file()
        if name in ("map", "constant-map"):
            data = with_map(data, net.rescaler, name == "constant-map")
        (FOLDER / f"{name}.rsc").write_bytes(data)
        np.savez_compressed(FOLDER / f"{name}.npz", pixels=decoder.decode(data, references(name), net).pixels)
        print(name, len(data))


if __name__ == "__main__":
    main()
