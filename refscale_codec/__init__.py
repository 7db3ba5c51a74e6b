"""refscale: a codec for places photographed again and again.

    import refscale_codec as refscale

    data = refscale.encode(new, reference=old, quality=75)
    hat = refscale.decode(data, reference=old)

`docs/API.md` describes all of it. Importing the package is cheap: numpy is imported with the first name that needs it,
and torch with the first picture that is encoded or decoded.
"""

import importlib
from typing import TYPE_CHECKING, Any

from refscale_codec.errors import RefscaleError as RefscaleError

if TYPE_CHECKING:
    from refscale_codec.api import Reader as Reader
    from refscale_codec.api import decode as decode
    from refscale_codec.api import encode as encode
    from refscale_codec.api import fingerprint as fingerprint
    from refscale_codec.api import load_model as load_model
    from refscale_codec.api import open as open
    from refscale_codec.picture.image import Image as Image

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("Reader", "decode", "encode", "fingerprint", "load_model", "open"), "refscale_codec.api"),
    "Image": "refscale_codec.picture.image",
}

__all__ = ["Image", "Reader", "RefscaleError", "decode", "encode", "fingerprint", "load_model", "open"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return all names, imported or not."""
    return sorted({*globals(), *__all__})
