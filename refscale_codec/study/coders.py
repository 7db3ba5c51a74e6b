"""What rd-curve compares: baselines and refscale, behind one protocol.

A coder takes a target, its reference and a quality, and gives back what a receiver would see and how many bytes it
took. Qualities rise: higher is better and bigger, whatever the codec's own scale does.

Two video codecs stand for what anyone has at hand who owns an older picture: it is the first frame, coded well and not
counted, and the target is predicted from it. Only the target's packet counts then, since the receiver has the rest.
x265 takes any QP for the first frame and codes it nearly without loss; SVT-AV1 only one so much below the target's, so
that at low rates its reference is visibly coded (36 dB at the lowest, where x265's has 53). A lone frame counts whole,
with its parameter sets and without a file around it. A reference of another size is resampled to the target's, as
anyone would do who has to give both frames one size. All bits a baseline takes are its picture's: only refscale tells
headers and map apart.

x265 is fed with 8-bit BT.601 full-range YUV 4:4:4. On aerial pictures that takes 40 % fewer bits for the same RGB PSNR
than coding RGB itself; 10 and 12 bits, YCgCo, BT.709 and the preset "placebo" differ from it by some 2 % at most. AV1
comes from SVT-AV1, the encoder in PyAV's wheels: it knows 4:2:0 only, so colour limits it at high rates; AVIF is the
AV1 with full colour. Its preset 0 saves another 5 % of the bits in three times the time. Deliberately absent: rate
control and more than one thread, so that results can be repeated.

Longer than most modules, because what is compared should be read side by side.
"""

import importlib
import io
import os
import time
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import PIL.features
import PIL.Image
from numpy.typing import NDArray

from refscale_codec.codec import decoder, encoder, payloads
from refscale_codec.fileformat import container
from refscale_codec.lrcodec.dct.jfif import Jpeg, Subsampling
from refscale_codec.picture.image import Image
from refscale_codec.reference import warp
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.study import qualities

Pixels = NDArray[np.uint8]  # [h, w, 3] RGB
Planes = list[NDArray[Any]]  # Y, Cb, Cr as integers, [h, w] each; Cb and Cr [h/2, w/2] in 4:2:0

SMALLEST = 16  # side of a video frame; x265 refuses very small ones
REFERENCE_QP = 2  # of x265's first frame
KEY_FRAME_OFFSET = -64  # of SVT-AV1's first frame, in steps of its 0..255 scale, atop its own boost; it takes no more

_YUV_OF_RGB = np.array(  # BT.601; Y in 0..1, Cb and Cr in -0.5..0.5
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ]
)
_RGB_OF_YUV = np.linalg.inv(_YUV_OF_RGB)


class Coded(NamedTuple):
    """One picture through one coder at one quality."""

    decoded: Pixels  # of the target's shape
    bytes_by_section: dict[str, int]  # what a receiver needs beside the reference; one "picture", if not in sections
    seconds: dict[str, float]  # by stage; at least "encode" and "decode"
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

    def code(self, target: Image, reference: Image | None, quality: int) -> Coded:
        """Code and decode.

        Raises:
            ValueError: no reference where one is needed. That is a mistake of the program, not of a user.
        """


@dataclass(frozen=True)
class JpegCoder:
    """JPEG with standard quantiser and fitted Huffman tables, of the picture or of a bicubic reduction of it."""

    name: str
    label: str
    qualities: tuple[int, ...]  # 1..100
    subsampling: Subsampling = "4:4:4"
    scale: int = 1
    needs_reference: bool = field(default=False, init=False)

    def missing(self) -> str | None:
        """Return how to install what is not here; None: this always is."""
        return None

    def code(self, target: Image, reference: Image | None, quality: int) -> Coded:
        """See `Coder.code`."""
        start = time.perf_counter()
        lr = resized(target.pixels, -(-target.height // self.scale), -(-target.width // self.scale))
        payload = Jpeg(self.subsampling, standard=True).encode(lr, quality)
        encoded = time.perf_counter()
        lr_hat = Jpeg().decode(payload, *lr.shape[:2])
        decoded = resized(lr_hat, target.height, target.width)
        seconds = {"encode": encoded - start, "decode": time.perf_counter() - encoded}
        return Coded(decoded, {"picture": len(payload)}, seconds, None if self.scale == 1 else lr_hat)


@dataclass(frozen=True)
class PillowCoder:
    """A still-picture format that Pillow writes, by itself or through a plugin; the whole file counts."""

    name: str
    label: str
    qualities: tuple[int, ...]  # 0..100; dB for JPEG 2000
    format: str
    options: dict[str, Any]  # of `PIL.Image.Image.save`, beside the quality
    feature: str | None  # Pillow's own name of what it must have been built with; None with a plugin
    plugin: str | None = None  # the module that adds the format
    install: str = "pip install --upgrade pillow"
    needs_reference: bool = field(default=False, init=False)

    def missing(self) -> str | None:
        """Return how to install what is not here; None when all is."""
        if self.plugin is not None:
            return None if _import(self.plugin) else self.install
        return None if self.feature in PIL.features.get_supported() else self.install

    def code(self, target: Image, reference: Image | None, quality: int) -> Coded:
        """See `Coder.code`."""
        if self.plugin is not None:
            importlib.import_module(self.plugin)
        setting = {"quality_layers": [quality]} if self.format == "JPEG2000" else {"quality": quality}
        start = time.perf_counter()
        buffer = io.BytesIO()
        PIL.Image.fromarray(np.ascontiguousarray(target.pixels)).save(buffer, self.format, **setting, **self.options)
        encoded = time.perf_counter()
        with PIL.Image.open(buffer, formats=[self.format]) as picture:
            decoded = np.array(picture.convert("RGB"))
        seconds = {"encode": encoded - start, "decode": time.perf_counter() - encoded}
        return Coded(decoded, {"picture": buffer.getbuffer().nbytes}, seconds)


@dataclass(frozen=True)
class VideoCoder:
    """One frame of x265 or SVT-AV1 by PyAV, alone or predicted from the reference, whose coding takes time as well."""

    name: str
    label: str
    qualities: tuple[int, ...]  # 51 - QP for x265, 63 - QP for SVT-AV1
    encoder: Literal["libx265", "libsvtav1"]
    needs_reference: bool

    def missing(self) -> str | None:
        """Return how to install what is not here; None when all is."""
        av = _import("av")
        return None if av and self.encoder in av.codecs_available else "pip install --upgrade av"

    def code(self, target: Image, reference: Image | None, quality: int) -> Coded:
        """See `Coder.code`."""
        pictures = [target]
        if self.needs_reference:
            pictures.insert(0, Image(resized(_required(reference).pixels, target.height, target.width)))
        start = time.perf_counter()
        if self.encoder == "libx265":
            frames = [_planes_444(_padded(picture.pixels)) for picture in pictures]
            packets = _encoded(self.encoder, "yuv444p", _x265_options(51 - quality, len(frames)), frames)
        else:
            frames = [_planes_420(_padded(picture.pixels)) for picture in pictures]
            packets = _encoded(self.encoder, "yuv420p10le", _svt_options(63 - quality, len(frames)), frames)
        encoded = time.perf_counter()
        planes = _decoded("hevc" if self.encoder == "libx265" else "libdav1d", packets)
        decoded = np.ascontiguousarray(_pixels(planes)[: target.height, : target.width])
        seconds = {"encode": encoded - start, "decode": time.perf_counter() - encoded}
        return Coded(decoded, {"picture": len(packets[-1])}, seconds)


@dataclass(frozen=True, eq=False)
class Refscale:
    """Refscale with one net; the whole file counts. Its encoder may find that the reference does not help.

    The mode "unrelated" is "reference" for a caller who gives a picture of another place instead.
    """

    net: RescaleNet
    mode: Literal["reference", "alone", "unrelated"] = "reference"

    @property
    def name(self) -> str:
        """Such as "refscale-x2", "refscale-x2-alone" and "refscale-x2-gmm"."""
        learned = "" if self.net.low_res is None else "-gmm"
        return f"refscale-x{self.net.config.scale}{learned}" + ("" if self.mode == "reference" else f"-{self.mode}")

    @property
    def label(self) -> str:
        """Such as "refscale ×2 with reference"."""
        how = {"reference": "with reference", "alone": "without reference", "unrelated": "with an unrelated reference"}
        learned = "" if self.net.low_res is None else " + GMM"
        return f"refscale ×{self.net.config.scale}{learned} {how[self.mode]}"

    @property
    def qualities(self) -> tuple[int, ...]:
        """See `Coder.qualities`."""
        return {2: (10, 35, 60, 78, 90, 96), 4: (8, 30, 55, 75, 88, 96)}[self.net.config.scale]

    @property
    def needs_reference(self) -> bool:
        """Whether `code` must be given a reference."""
        return self.mode != "alone"

    def code(self, target: Image, reference: Image | None, quality: int) -> Coded:
        """See `Coder.code`."""
        used = _required(reference) if self.needs_reference else None
        options = encoder.EncodeOptions(quality=quality)
        start = last = time.perf_counter()
        seconds: dict[str, float] = {}
        way = "encode"

        def lap(stage: str) -> None:
            nonlocal last
            now = time.perf_counter()
            seconds[f"{way}_{stage}"], last = now - last, now

        data = encoder.encode(Image(target.pixels), used, self.net, options, lap=lap)  # no other coder has metadata
        encoded = last = time.perf_counter()
        way = "decode"
        decoded = decoder.decode(data, used, self.net, lap=lap)
        seconds |= {"encode": encoded - start, "decode": time.perf_counter() - encoded}
        file = container.unpack(data)
        moved = None if used is None else warp.apply(used, payloads.unpack_alignment(file))
        low = payloads.unpack_low_res(file, self.net, moved)
        return Coded(decoded.pixels, container.bytes_by_section(file), seconds, low.picture, low.levels)


JPEG = JpegCoder("jpeg", "JPEG 4:4:4", qualities.JPEG)
BASELINES: tuple[JpegCoder | PillowCoder | VideoCoder, ...] = (
    JPEG,
    JpegCoder("jpeg-420", "JPEG 4:2:0", qualities.JPEG, "4:2:0"),
    PillowCoder(
        "jpeg2000",
        "JPEG 2000",
        (19, 22, 25, 28, 31, 34, 37, 41),
        "JPEG2000",
        {"quality_mode": "dB", "irreversible": True, "no_jp2": True},
        feature="jpg_2000",
    ),
    PillowCoder("webp", "WebP 4:2:0", qualities.WEBP, "WEBP", {"method": 6}, feature="webp"),
    PillowCoder(
        "avif",
        "AVIF 4:4:4",
        (1, 8, 20, 35, 50, 65, 78, 88),
        "AVIF",
        {"subsampling": "4:4:4", "speed": 4, "max_threads": 1},
        feature="avif",
    ),
    PillowCoder(
        "jxl",
        "JPEG XL",
        qualities.WEBP,
        "JXL",
        {"effort": 7, "num_threads": 1},
        feature=None,
        plugin="pillow_jxl",
        install="pip install pillow-jxl-plugin",
    ),
    VideoCoder("x265", "x265 intra 4:4:4 (bitstream only)", (4, 8, 12, 16, 20, 24, 28, 33), "libx265", False),
    VideoCoder(
        "x265-reference",
        "x265 4:4:4 after the reference (P-frame only, reference not counted)",
        (4, 8, 12, 16, 20, 24, 28, 33),
        "libx265",
        True,
    ),
    VideoCoder("av1", "SVT-AV1 intra 4:2:0 (bitstream only)", (0, 6, 12, 18, 24, 30, 36, 42), "libsvtav1", False),
    VideoCoder(
        "av1-reference",
        "SVT-AV1 4:2:0 after the reference (inter frame only, reference not counted)",
        (7, 14, 21, 28, 35, 42, 49, 56),
        "libsvtav1",
        True,
    ),
    JpegCoder("bicubic-x2", "bicubic ×2 + JPEG 4:4:4", qualities.DOWNSCALED, scale=2),
    JpegCoder("bicubic-x4", "bicubic ×4 + JPEG 4:4:4", qualities.DOWNSCALED, scale=4),
)


def baselines() -> tuple[list[Coder], dict[str, str]]:
    """Return the baselines that work here, and for the names of the others the line that installs them."""
    lines = {coder.name: line for coder in BASELINES if (line := coder.missing()) is not None}
    return [coder for coder in BASELINES if coder.name not in lines], lines


def _import(name: str) -> Any:
    """Return a module, None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _required(reference: Image | None) -> Image:
    if reference is None:
        raise ValueError("this coder needs a reference, got None")
    return reference


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Return a picture at another size, bicubic and averaging where it gets smaller; of its own size, the very one."""
    if pixels.shape[:2] == (height, width):
        return pixels
    picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(picture.resize((width, height), PIL.Image.Resampling.BICUBIC))


# --- video -----------------------------------------------------------------------------------------------------------


def _x265_options(qp: int, frames: int) -> dict[str, str]:
    """Constant QP. Of two frames the first gets `REFERENCE_QP`: x265 takes 6 log2(ipratio) off the QP of an I-frame."""
    first = qp if frames == 1 else REFERENCE_QP
    params = {
        "qp": str(qp),
        "ipratio": f"{2 ** ((qp - first) / 6):.9f}",
        "bframes": "0",
        "keyint": "-1",
        "scenecut": "0",
        "rc-lookahead": "0",
        "info": "0",  # no text about the encoder in the stream
        "pools": "none",
        "frame-threads": "1",
        "log-level": "error",
    }
    return {"preset": "slower", "tune": "psnr", "x265-params": _joined(params)}


def _svt_options(qp: int, frames: int) -> dict[str, str]:
    """Constant QP, tuned for PSNR, without look-ahead. Of two frames the first gets a lower QP, as low as it goes."""
    params = {
        "rc": "0",
        "aq-mode": "0",
        "pred-struct": "1",  # low delay: the second frame looks back only
        "tune": "1",
        "enable-tf": "0",
        "scd": "0",
        "keyint": "-1",
        "lp": "1",
    }
    if frames == 2:
        params |= {"use-fixed-qindex-offsets": "2", "key-frame-qindex-offset": str(KEY_FRAME_OFFSET)}
    return {"preset": "1", "qp": str(qp), "svtav1-params": _joined(params)}


def _joined(params: dict[str, str]) -> str:
    return ":".join(f"{key}={value}" for key, value in params.items())


def _encoded(encoder: str, pixel_format: str, options: dict[str, str], frames: list[Planes]) -> list[bytes]:
    """Return the packets, one for each frame."""
    av = importlib.import_module("av")
    os.environ.setdefault("SVT_LOG", "1")  # errors only; there is no other way to stop it writing to stderr
    context = av.CodecContext.create(encoder, "w")
    context.height, context.width = frames[0][0].shape
    context.pix_fmt, context.time_base, context.options = pixel_format, Fraction(1, 25), options
    context.color_range = 2  # full
    packets = []
    for index, planes in enumerate(frames):
        frame = av.VideoFrame(context.width, context.height, pixel_format)
        frame.pts = index
        for plane, values in zip(frame.planes, planes, strict=True):
            _rows(plane, values.dtype)[:, : values.shape[1]] = values
        packets += context.encode(frame)
    return [bytes(packet) for packet in [*packets, *context.encode(None)]]


def _decoded(decoder: str, packets: list[bytes]) -> Planes:
    """Return the last frame."""
    av = importlib.import_module("av")
    context = av.CodecContext.create(decoder, "r")
    context.thread_count = 1
    frames = [frame for data in packets for frame in context.decode(av.Packet(data))]
    frame = [*frames, *context.decode(None)][-1]
    dtype = np.dtype("<u2" if "10" in frame.format.name else "u1")
    return [_rows(plane, dtype)[:, : plane.width].copy() for plane in frame.planes]


def _rows(plane: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a view of a plane's memory, [height, width and some more]."""
    return np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)[: plane.height]


def _padded(pixels: Pixels) -> Pixels:
    """Repeat the last row and column up to even sides of at least `SMALLEST`."""
    bottom, right = (max(SMALLEST, side + side % 2) - side for side in pixels.shape[:2])
    return np.pad(pixels, ((0, bottom), (0, right), (0, 0)), "edge")


def _planes_444(pixels: Pixels) -> Planes:
    """Return 8-bit full-range planes."""
    yuv = pixels @ _YUV_OF_RGB.T + (0, 128, 128)
    return [plane.astype(np.uint8) for plane in np.rint(yuv).clip(0, 255).transpose(2, 0, 1)]


def _planes_420(pixels: Pixels) -> Planes:
    """Return 10-bit full-range planes; a chroma sample is the mean of four pixels, and lies between them."""
    yuv = (pixels @ _YUV_OF_RGB.T) * (1023 / 255) + (0, 512, 512)
    height, width = pixels.shape[:2]
    chroma = yuv[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    planes = [yuv[..., 0], chroma[..., 0], chroma[..., 1]]
    return [np.rint(plane).clip(0, 1023).astype("<u2") for plane in planes]


def _pixels(planes: Planes) -> Pixels:
    """Undo either of the two above; chroma grows by bicubic interpolation."""
    height, width = planes[0].shape
    peak, middle = (255, 128) if planes[0].dtype.itemsize == 1 else (1023, 512)
    grown = [
        np.array(PIL.Image.fromarray(plane.astype(np.float32)).resize((width, height), PIL.Image.Resampling.BICUBIC))
        for plane in planes[1:]
    ]
    yuv = np.stack([planes[0], *(plane - np.float32(middle) for plane in grown)], axis=-1)
    return np.rint(yuv @ _RGB_OF_YUV.T * (255 / peak)).clip(0, 255).astype(np.uint8)
