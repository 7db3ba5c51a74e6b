"""Video codecs, which anyone has at hand who owns an older picture.

That is the first frame, coded well and not counted, and the target is predicted from it: only the target's packet
counts, since the receiver has the rest. x265 takes any QP
for the first frame and codes it nearly without loss; SVT-AV1 only one so much below the target's, so that at low rates
its reference is visibly coded (36 dB at the lowest, where x265's has 53). A lone frame counts whole, with its parameter
sets and without a file around it. A reference of another size is resampled to the target's, as anyone would do who has
to give both frames one size.

x265 is fed with 8-bit BT.601 full-range YUV 4:4:4. On aerial pictures that takes 40 % fewer bits for the same RGB PSNR
than coding RGB itself; 10 and 12 bits, YCgCo, BT.709 and the preset "placebo" differ from it by some 2 % at most. AV1
comes from SVT-AV1, the encoder in PyAV's wheels: it has 4:2:0 only, so colour limits it at high rates; AVIF is the
AV1 with full colour. Its preset 0 saves another 5 % of the bits in three times the time. Deliberately absent: rate
control and more than one thread, so that results can be repeated.
"""

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from refscale_codec.picture.image import Image
from refscale_codec.study.coders.protocol import CodedPicture, Pixels, require, resized

Planes = list[NDArray[Any]]  # Y, Cb, Cr as integers, [h, w] each; Cb and Cr [h/2, w/2] in 4:2:0

SMALLEST = 16  # side of a video frame; x265 refuses very small ones
REFERENCE_QP = 2  # of x265's first frame
KEY_FRAME_OFFSET = (
    -64
)  # of SVT-AV1's first frame, in steps of its 0..255 scale, on top of its own boost; the lowest it accepts

_YUV_OF_RGB = np.array(  # BT.601; Y in 0..1, Cb and Cr in -0.5..0.5
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ]
)
_RGB_OF_YUV = np.linalg.inv(_YUV_OF_RGB)


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
        try:
            here = self.encoder in importlib.import_module("av").codecs_available
        except ImportError:
            here = False
        return None if here else "pip install --upgrade av"

    def code(self, target: Image, reference: Image | None, qualities: Sequence[int]) -> Iterator[CodedPicture]:
        """See `Coder.code`."""
        pictures = [target]
        if self.needs_reference:
            pictures.insert(0, Image(resized(require(reference).pixels, target.height, target.width)))
        planes = _planes_444 if self.encoder == "libx265" else _planes_420
        frames = [planes(_padded(picture.pixels)) for picture in pictures]
        for quality in qualities:
            start = time.perf_counter()
            if self.encoder == "libx265":
                packets = _encoded(self.encoder, "yuv444p", _x265_options(51 - quality, len(frames)), frames)
            else:
                packets = _encoded(self.encoder, "yuv420p10le", _svt_options(63 - quality, len(frames)), frames)
            encoded = time.perf_counter()
            planes_hat = _decoded("hevc" if self.encoder == "libx265" else "libdav1d", packets)
            decoded = np.ascontiguousarray(_pixels(planes_hat)[: target.height, : target.width])
            seconds = {"encode": encoded - start, "decode": time.perf_counter() - encoded}
            yield CodedPicture(decoded, {"picture": len(packets[-1])}, seconds)


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


@contextmanager
def _same_scheduling() -> Iterator[None]:
    """Keep this thread's scheduling: for root, SVT-AV1 makes it real-time for good, which starves all else."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


@_same_scheduling()
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
