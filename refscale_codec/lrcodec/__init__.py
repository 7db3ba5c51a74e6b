"""Codecs of the low-res picture; files name them by their numbers, options and weights by their names.

A codec implements `interface.LowResCodec`. `dct` entropy-codes the coefficients of JPEG's transform, `gmm` is learned,
`predictive` codes the samples themselves, of pictures that are not made small.
A new one needs a module that implements the interface, and a `Model` that holds it; to be chosen by name, a line in
`CODECS` and weights that ship under its name and name it in their config, whether the codec has parameters or not.
Torch and numpy are imported by the functions in that table, not by it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from refscale_codec.errors import UsageError

JPEG = 1
GMM = 2
PREDICTIVE = 3


def _dct() -> Any:
    from refscale_codec.lrcodec.dct.codec import DctCodec

    return DctCodec


def _gmm() -> Any:
    from refscale_codec.lrcodec.gmm.codec import GmmCodec

    return GmmCodec


def _predictive() -> Any:
    from refscale_codec.lrcodec.predictive.codec import PredictiveCodec

    return PredictiveCodec


def _jpeg_of_dct(payload: bytes, size: tuple[int, int], quality: int) -> bytes:
    from refscale_codec.lrcodec.dct import entropy, jfif

    return jfif.write(entropy.decode(payload, *size, quality), *size, quality)


@dataclass(frozen=True)
class Entry:
    """The facts of a low-res codec without running it."""

    name: str
    """In options, in messages and in the config of a weights file."""
    scales: tuple[int, ...]
    """At which weights ship."""
    codec: Callable[[], Any]
    """Returns its class. That of a trained one has `stored` and `restored`, see `model.load`."""
    trained: bool
    """Whether its parameters are in the weights file."""
    to_jpeg: Callable[[bytes, tuple[int, int], int], bytes] | None = None
    """Makes a JPEG of payload, size (rows, columns) and quality, or raises ContainerError; None if there is no way."""

    @property
    def suffix(self) -> str:
        """What the names of weights and coders have at their ends; nothing for the default, JPEG."""
        return "" if self.name == CODECS[JPEG].name else f"-{self.name}"


CODECS = {
    JPEG: Entry("jpeg", (2, 4), _dct, trained=False, to_jpeg=_jpeg_of_dct),
    GMM: Entry("gmm", (2,), _gmm, trained=True),
    PREDICTIVE: Entry("predictive", (1,), _predictive, trained=False),
}
"""The codecs by their numbers in the header of a file. A number is never used for another one."""


def named(name: str) -> Entry:
    """Return the codec of a name; UsageError for an unknown one."""
    for entry in CODECS.values():
        if entry.name == name:
            return entry
    raise UsageError(f"unknown codec {name!r}: use one of {', '.join(entry.name for entry in CODECS.values())}")


def shipping(scale: int, name: str) -> Entry:
    """Return the codec of a name; UsageError if it is unknown or no weights of it ship at a scale."""
    entry = named(name)
    if scale not in entry.scales:
        raise UsageError(f"the codec {name} ships at scale {' and '.join(map(str, entry.scales))} only")
    return entry


def choices() -> str:
    """Return the names with the scales of those that are not the default, for the help of an option."""
    default, *others = CODECS.values()
    *some, last = (f"{entry.name} (scale {' and '.join(map(str, entry.scales))})" for entry in others)
    return f"{', '.join([f'{default.name} (default)', *some])} or {last}"
