"""One .safetensors file <-> one net: parameters, with the config as JSON in the file's metadata."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from refscale_codec.errors import WeightsError
from refscale_codec.image import write_atomically
from refscale_codec.rescale.net import RescaleConfig, RescaleNet

SHIPPED = Path(__file__).parent.parent / "_weights"  # inside an installed wheel
SOURCE = Path(__file__).parent.parent.parent / "weights"  # beside the package in a source checkout


def shipped(scale: int) -> Path:
    """Return the path of the weights that come with the package for a scale of 2 or 4.

    Raises:
        WeightsError: the installation lacks them.
    """
    folder = SHIPPED if SHIPPED.is_dir() else SOURCE
    path = folder / f"refscale-x{scale}.safetensors"
    if not path.is_file():
        raise WeightsError(f"no weights for scale {scale} come with this installation (looked for {path})")
    return path


def shipped_as(wanted: bytes) -> Path:
    """Return the path of the weights with this fingerprint among all that come with the package, old ones too.

    Raises:
        WeightsError: none of them has it.
    """
    folder = SHIPPED if SHIPPED.is_dir() else SOURCE
    for path in sorted(folder.glob("*.safetensors")):
        if fingerprint(path) == wanted:
            return path
    raise WeightsError(f"no weights with the fingerprint {wanted.hex()} come with this installation; give --weights")


def fingerprint(path: Path) -> bytes:
    """Return the first 6 bytes of the SHA-256 of a weights file, the name by which a container asks for it."""
    return _read(path)[1]


def _read(path: Path) -> tuple[bytes, bytes]:
    """Return a file's bytes and their fingerprint."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from None
    return data, hashlib.sha256(data).digest()[:6]


def store(net: RescaleNet, path: Path) -> None:
    """Write the net in half precision; every figure in weights/README.md is that of the stored file."""
    tensors = {name: tensor.detach().cpu().contiguous().half() for name, tensor in net.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors, metadata={"config": json.dumps(asdict(net.config))}))


def load(path: Path) -> RescaleNet:
    """Read a net in float32, ready for inference.

    Raises:
        WeightsError: the file is missing, is no weights file of refscale, or does not fit its own config.
    """
    data, own_fingerprint = _read(path)
    try:
        tensors = {name: tensor.float() for name, tensor in safetensors.torch.load(data).items()}
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a readable .safetensors file: {error}") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # valid, since it was just loaded
    try:
        config = RescaleConfig(**json.loads(header["__metadata__"]["config"]))
        with torch.device("meta"):
            net = RescaleNet(config)
        net.load_state_dict(tensors, strict=True, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} does not hold the weights of a refscale net: {reason}") from None
    net.fingerprint = own_fingerprint
    return net.eval().requires_grad_(False)
