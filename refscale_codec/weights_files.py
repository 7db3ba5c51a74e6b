"""Weights files without what is in them: those that come with the package, and the fingerprints that name them.

Torch is not imported, so that what goes wrong before a net is needed is told at once; `model` makes nets of the files.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from refscale_codec import lrcodec
from refscale_codec.errors import UsageError, WeightsError
from refscale_codec.fileformat import container
from refscale_codec.picture import files

SHIPPED = Path(__file__).parent / "_weights"  # inside an installed wheel
SOURCE = Path(__file__).parent.parent / "weights"  # beside the package in a source checkout

LARGEST = 1 << 28
"""Most bytes of a weights file: nets of 130 million parameters."""


def shipped(scale: int, codec: str = "jpeg") -> Path:
    """Return the path of the weights that come with the package for a scale of 2 or 4 and a low-res codec.

    Raises:
        WeightsError: the installation lacks them.
        UsageError: an unknown scale or codec, or a codec that does not ship at this scale.
    """
    if scale not in container.SCALES:
        raise UsageError(f"scale must be {' or '.join(map(str, container.SCALES))}, not {scale!r}")
    path = _folder() / f"refscale-x{scale}{lrcodec.shipping(scale, codec).suffix}.safetensors"
    if not path.is_file():
        raise WeightsError(
            f"no weights for scale {scale} and the codec {codec} come with this installation (looked for {path})"
        )
    return path


def shipped_as(wanted: bytes, option: str = "model") -> Path:
    """Return the path of the weights with this fingerprint among all that come with the package, old ones too.

    Args:
        wanted: 6 bytes, see `fingerprint`.
        option: the name by which others can be given, for the message.

    Raises:
        WeightsError: none of them has it.
    """
    for path in sorted(_folder().glob("*.safetensors")):
        if fingerprint(path) == wanted:
            return path
    raise WeightsError(f"no weights with the fingerprint {wanted.hex()} come with this installation; give {option}")


def _folder() -> Path:
    return SHIPPED if SHIPPED.is_dir() else SOURCE


def fingerprint(path: Path) -> bytes:
    """Return the first 6 bytes of the SHA-256 of a weights file, the name by which a container asks for it.

    Raises:
        WeightsError: see `read`.
    """
    return read(path)[1]


def described(path: Path) -> dict[str, Any]:
    """Return the config of the net in a weights file that ships, without making the net; see `model`."""
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        config: dict[str, Any] = json.loads(file.metadata()["config"])
    return config


def require(path: Path) -> None:
    """Raise WeightsError if there is no such file, or it is a folder; nothing is read of one that is there."""
    if not os.path.exists(path) or os.path.isdir(path):
        read(path)  # which says what is wrong


def read(path: Path) -> tuple[bytes, bytes]:
    """Return a file's bytes and their fingerprint.

    Raises:
        WeightsError: it cannot be read, or is larger than `LARGEST`.
    """
    data = files.read(path, WeightsError, lambda head, name: LARGEST)
    return data, hashlib.sha256(data).digest()[:6]
