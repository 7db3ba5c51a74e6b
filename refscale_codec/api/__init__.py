"""The Python API: pictures as arrays, paths or `Image`s in; bytes and arrays out. See `docs/API.md`.

The axes of arrays are rows, columns, bands: [h, w] or [h, w, bands]. All functions are thread-safe. Torch is imported
by the first call that encodes or decodes, so that inspecting a file and computing a fingerprint start fast.
"""

from refscale_codec.api.functions import decode, encode, fingerprint, open
from refscale_codec.api.models import load_model
from refscale_codec.api.reader import Reader

__all__ = ["Reader", "decode", "encode", "fingerprint", "load_model", "open"]
