"""The baselines: every coder that refscale is compared with, side by side."""

from refscale_codec.study import qualities
from refscale_codec.study.coders.protocol import Coder
from refscale_codec.study.coders.still import JpegCoder, PillowCoder
from refscale_codec.study.coders.video import VideoCoder

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


def available() -> tuple[list[Coder], dict[str, str]]:
    """Return the baselines that work here, and for the names of the others the line that installs them."""
    lines = {coder.name: line for coder in BASELINES if (line := coder.missing()) is not None}
    return [coder for coder in BASELINES if coder.name not in lines], lines
