"""NETWORK.md, "The weights file": .safetensors -> tensors and config."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TYPES = {"F16": "<f2", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


class Weights:
    """Tensors by name, and the config."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        self.fingerprint = hashlib.sha256(data).digest()[:6]
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        self.config = json.loads(header.pop("__metadata__")["config"])
        self.arrays: dict[str, np.ndarray] = {}
        for name, entry in header.items():
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            self.arrays[name] = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])

    def floats(self, name: str) -> Tensor:
        """Return a half-precision tensor as 32-bit floats."""
        return torch.from_numpy(self.arrays[name].astype(np.float32))

    def integers(self, name: str) -> np.ndarray:
        """Return whole numbers."""
        return self.arrays[name].astype(np.int64)
