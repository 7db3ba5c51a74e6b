"""refscale: a codec for places photographed again and again.

    import refscale_codec as refscale

    data = refscale.encode(new, reference=old, quality=75)
    hat = refscale.decode(data, reference=old)

`docs/API.md` describes all of it. Importing the package is cheap: numpy is imported with the first name that needs it,
and torch with the first picture that is encoded or decoded.
"""

from __future__ import annotations

import importlib

from refscale_codec.errors import ContainerError as ContainerError
from refscale_codec.errors import ImageError as ImageError
from refscale_codec.errors import IndexFault as IndexFault
from refscale_codec.errors import ReferenceMismatch as ReferenceMismatch
from refscale_codec.errors import RefscaleError as RefscaleError
from refscale_codec.errors import TargetError as TargetError
from refscale_codec.errors import UsageError as UsageError
from refscale_codec.errors import WeightsError as WeightsError

TYPE_CHECKING = False  # the module typing takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from refscale_codec.api import Reader as Reader
    from refscale_codec.api import decode as decode
    from refscale_codec.api import encode as encode
    from refscale_codec.api import fingerprint as fingerprint
    from refscale_codec.api import load_model as load_model
    from refscale_codec.api import open as open
    from refscale_codec.archive.references import References as References
    from refscale_codec.picture.image import Image as Image
    from refscale_codec.picture.metadata import Metadata as Metadata

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("Reader", "decode", "encode", "fingerprint", "load_model", "open"), "refscale_codec.api"),
    "References": "refscale_codec.archive.references",
    "Image": "refscale_codec.picture.image",
    "Metadata": "refscale_codec.picture.metadata",
}

__all__ = [
    "ContainerError",
    "Image",
    "ImageError",
    "IndexFault",
    "Metadata",
    "Reader",
    "ReferenceMismatch",
    "References",
    "RefscaleError",
    "TargetError",
    "UsageError",
    "WeightsError",
    "decode",
    "encode",
    "fingerprint",
    "load_model",
    "open",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return all names, imported or not."""
    return sorted({*globals(), *__all__})
