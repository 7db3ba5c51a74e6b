"""One .safetensors file <-> one `Model`: a rescaler, and the low-res codec that it was trained with.

The config lies in the file's metadata as JSON: the fields of the rescaler's config beside its `kind`, and those of a
low-res codec that is trained under that codec's name. Its entropy model is in the file in integers, beside the
parameters they were made from.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from refscale_codec.errors import UsageError, WeightsError, reason
from refscale_codec.lrcodec.dct.codec import DctCodec
from refscale_codec.lrcodec.gmm import export
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.lrcodec.gmm.net import Gmm
from refscale_codec.lrcodec.interface import LowResCodec
from refscale_codec.picture.files import write_atomically
from refscale_codec.rescale.fgrn import Fgrn
from refscale_codec.rescale.interface import Rescaler
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.rescale.untied import Untied

SHIPPED = Path(__file__).parent / "_weights"  # inside an installed wheel
SOURCE = Path(__file__).parent.parent / "weights"  # beside the package in a source checkout

KEPT = 8
"""Most models that stay in memory."""

RESCALERS: dict[str, Callable[[dict[str, Any], dict[str, Tensor], str], Rescaler]] = {
    "flow": RescaleNet.restored,
    "untied": Untied.restored,
    "fgrn": Fgrn.restored,
}
"""What makes a rescaler of config, tensors and device, by the `kind` in the config; the flow where there is none."""
LOW_RES_CODECS: dict[str, Callable[[dict[str, Any], dict[str, Tensor], dict[str, Tensor], str], LowResCodec]] = {
    "gmm": GmmCodec.restored,
}
"""What makes a trained low-res codec of config, parameters and integers, by its name in the config.

Without one it is `DctCodec`.
"""

_loading = threading.Lock()
_LOW_RES, _EXACT = "low_res.", "exact."  # where the names of the low-res codec's parameters and integers begin


@dataclass(frozen=True)
class Model:
    """All that encoder and decoder share. Several threads may use one object."""

    rescaler: Rescaler
    low_res: LowResCodec
    fingerprint: bytes
    """6 bytes by which a file asks for the model, see `fingerprint`."""

    @property
    def scale(self) -> int:
        """High-res side over low-res side."""
        return self.rescaler.scale

    @property
    def exact(self) -> bool:
        """Whether a file decodes to the same pixels on every machine."""
        return self.rescaler.exact and self.low_res.exact


def shipped(scale: int, codec: str = "jpeg") -> Path:
    """Return the path of the weights that come with the package for a scale of 2 or 4 and a low-res codec.

    Raises:
        WeightsError: the installation lacks them.
        UsageError: no weights of this codec ship at this scale.
    """
    if codec == "gmm" and scale != 2:
        raise UsageError("the codec gmm ships at scale 2 only")
    folder = SHIPPED if SHIPPED.is_dir() else SOURCE
    path = folder / f"refscale-x{scale}{'' if codec == 'jpeg' else f'-{codec}'}.safetensors"
    if not path.is_file():
        raise WeightsError(
            f"no weights for scale {scale} and the codec {codec} come with this installation (looked for {path})"
        )
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
    raise WeightsError(f"no weights with the fingerprint {wanted.hex()} come with this installation")


def device_named(name: str, option: str = "device") -> str:
    """Return torch's name of the device for `auto`, `cpu`, `cuda` or `mps`; `auto` is the fastest that is there.

    Raises:
        UsageError: there is none such here; `option` is what its message calls the name.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available.append("cuda")
    if torch.backends.mps.is_available():
        available.append("mps")
    if name == "auto":
        return available[-1]
    if name not in ("cpu", "cuda", "mps"):
        raise UsageError(f"{option} must be auto, cpu, cuda or mps, not {name}")
    if name not in available:
        raise UsageError(
            f"{option} {name}: this machine or this build of torch has none; there is: {', '.join(available)}"
        )
    return name


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


def store(rescaler: RescaleNet | Untied | Fgrn, path: Path, gmm: Gmm | None = None) -> None:
    """Write a model, floats in half precision; every figure in weights/README.md is that of the stored file.

    An untied rescaler must be exact. `gmm` is the low-res codec that was trained with it; None for `DctCodec`.
    """
    config: dict[str, Any] = {"kind": rescaler.kind} | asdict(rescaler.config)
    tensors = dict(rescaler.state_dict())
    if gmm is not None:
        config["gmm"] = asdict(gmm.config)
        tensors |= {f"{_LOW_RES}{name}": x for name, x in gmm.state_dict().items()}
    tensors = {name: x.half() if x.is_floating_point() else x for name, x in tensors.items()}
    if gmm is not None:
        tensors |= {f"{_EXACT}{name}": x for name, x in export.to_integers(gmm).tensors().items()}
    tensors = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    write_atomically(path, safetensors.torch.save(tensors, metadata={"config": json.dumps(config)}))


def load(path: Path, device: str = "cpu") -> Model:
    """Read a model, ready for inference on a device.

    Raises:
        WeightsError: the file is missing, is no weights file of refscale, or does not fit its own config.
    """
    data, own_fingerprint = _read(path)
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a readable .safetensors file: {error}") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # valid, since it was just loaded
    parts: dict[str, dict[str, Tensor]] = {"": {}, _LOW_RES: {}, _EXACT: {}}
    for name, tensor in tensors.items():
        start = next(start for start in (_LOW_RES, _EXACT, "") if name.startswith(start))
        floats = start != _EXACT and tensor.is_floating_point()
        parts[start][name.removeprefix(start)] = tensor.float() if floats else tensor
    try:
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("some of its numbers are not finite")
        config = json.loads(header["__metadata__"]["config"])
        low_res: LowResCodec = DctCodec()
        for name, restored in LOW_RES_CODECS.items():
            if name in config:
                low_res = restored(config.pop(name), parts[_LOW_RES], parts[_EXACT], device)
        rescaler = RESCALERS[config.pop("kind", "flow")](config, parts[""], device)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} does not hold the weights of a refscale model: {cause}") from None
    return Model(rescaler, low_res, own_fingerprint)


def kept(path: Path, device: str) -> Model:
    """Return what `load` reads, on a device: the same object again as long as the file does not change.

    The `KEPT` that were last asked for stay in memory. Threads that ask at once get one object.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read weights {path}: {reason(error)}") from None
    with _loading:
        return _kept_as(path.resolve(), (status.st_mtime_ns, status.st_size), device)


@lru_cache(KEPT)
def _kept_as(path: Path, version: tuple[int, int], device: str) -> Model:
    return load(path, device)
