"""What an encoder is asked for: checked here for the API and for the command line, which write names differently."""

import math
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from refscale_codec import lrcodec
from refscale_codec.api.arguments import whole
from refscale_codec.errors import UsageError
from refscale_codec.fileformat import container

if TYPE_CHECKING:
    from refscale_codec.codec.rate_control import Target
    from refscale_codec.picture.image import Image

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Names of what a net can run on; `auto` is the fastest that is there."""

_LARGEST_TARGET = 1 << 53  # in bytes, bits per pixel or dB: far above any file's, and exact as a float

Name = Callable[[str], str]
"""Turns the name of an argument into that of a message."""


class Rate(NamedTuple):
    """A quality, one of the targets or a bound on the error; nothing for the default quality."""

    quality: int | None = None
    target_bytes: int | None = None
    target_bpp: float | None = None
    target_psnr: float | None = None
    max_error: float | None = None

    @property
    def searched(self) -> bool:
        """Whether it is a target."""
        return (self.target_bytes, self.target_bpp, self.target_psnr) != (None, None, None)

    def target(self, image: "Image") -> "Target | None":
        """Return the target of a search for a picture; None for none."""
        from refscale_codec.codec.rate_control import Target

        if self.target_psnr is not None:
            return Target("psnr", self.target_psnr)
        if self.target_bpp is not None:
            return Target("bytes", math.floor(float(self.target_bpp) * image.height * image.width / 8))
        return None if self.target_bytes is None else Target("bytes", self.target_bytes)


def rate_of(
    quality: Any = None,
    target_bytes: Any = None,
    target_bpp: Any = None,
    target_psnr: Any = None,
    max_error: Any = None,
    lossless: bool = False,
    *,
    name: Name = str,
) -> Rate:
    """Return what arguments ask for, each None if it is not given.

    Raises:
        UsageError: several of them are given, or one is of a wrong type or out of range.
    """
    targets = {"target_bytes": target_bytes, "target_bpp": target_bpp, "target_psnr": target_psnr}
    every = {"quality": quality, **targets, "max_error": max_error, "lossless": lossless or None}
    given = {key: value for key, value in every.items() if value is not None}
    if len(given) > 1:
        *some, last = map(name, given)
        raise UsageError(f"{', '.join(some)} and {last} exclude each other: give one")
    if quality is not None and not 1 <= whole(quality, name("quality")) <= 100:
        raise UsageError(f"{name('quality')} must be 1..100, not {quality}")
    for key, value in targets.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < math.inf):
            raise UsageError(f"{name(key)} must be a positive number, not {value!r}")
        if value is not None and value > _LARGEST_TARGET:
            raise UsageError(f"a target must be at most {_LARGEST_TARGET:,}")
    if max_error is not None:
        number = isinstance(max_error, Real) and not isinstance(max_error, bool)
        if not (number and 0 <= max_error <= _LARGEST_TARGET):
            raise UsageError(f"{name('max_error')} must be a number from 0 on, not {max_error!r}")
    size = None if target_bytes is None else whole(target_bytes, name("target_bytes"))
    bound = 0 if lossless else max_error
    return Rate(None if quality is None else whole(quality, name("quality")), size, target_bpp, target_psnr, bound)


def shipping_of(
    scale: Any, codec: Any, weights: str | None = None, rate: Rate | None = None, *, name: Name = str
) -> tuple[int, str]:
    """Return the scale and the codec of the shipped weights that are asked for, None for the default.

    Args:
        scale: one of `container.SCALES`.
        codec: name of a low-res codec.
        weights: name of the argument that names weights, if it is given.
        rate: that is asked for; a bound on the error takes samples of full size.
        name: see `Name`.

    Raises:
        UsageError: an unknown one, two of which none ship, or what follows from another argument.
    """
    if codec is not None:
        lrcodec.named(codec)
    bounded = rate is not None and rate.max_error is not None
    cause = weights or ("the bound on the error" if bounded else None)
    for key, value in (("scale", scale), ("codec", codec)):
        if value is not None and cause is not None:
            raise UsageError(f"{name(key)} would have no effect: it follows from {cause}")
    if bounded:
        if weights is not None:
            raise UsageError(f"{weights} would have no effect: with a bound on the error no net is used")
        scale, codec = lrcodec.CODECS[lrcodec.PREDICTIVE].scales[0], lrcodec.CODECS[lrcodec.PREDICTIVE].name
    entry = None if codec is None else lrcodec.named(codec)
    usual = 2 if entry is None or 2 in entry.scales else entry.scales[0]
    factor = usual if scale is None else whole(scale, name("scale"))
    if factor not in container.SCALES:
        *some, last = map(str, container.SCALES)
        raise UsageError(f"{name('scale')} must be {', '.join(some)} or {last}, not {factor}")
    if entry is None:
        entry = next(each for each in lrcodec.CODECS.values() if factor in each.scales)
    return factor, lrcodec.shipping(factor, entry.name).name


def require_device(device: str, option: str = "device") -> None:
    """Raise UsageError for a name that is none of `DEVICES`; `option` is what its message calls it."""
    if device not in DEVICES:
        raise UsageError(f"{option} must be {', '.join(DEVICES[:-1])} or {DEVICES[-1]}, not {device}")


def device_named(device: str, option: str = "device") -> str:
    """Return torch's name of a device; torch is imported only for a name that needs it.

    Raises:
        UsageError: an unknown one, or one that is not here; `option` is what the message calls it.
    """
    require_device(device, option)
    if device == "cpu":
        return device
    import torch

    available = ["cpu"]
    if torch.cuda.is_available():
        available.append("cuda")
    if torch.backends.mps.is_available():
        available.append("mps")
    if device == "auto":
        return available[-1]
    if device not in available:
        raise UsageError(
            f"{option} {device}: this machine or this build of torch has none; there is: {', '.join(available)}"
        )
    return device
