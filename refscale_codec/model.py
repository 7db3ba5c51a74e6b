"""One .safetensors file <-> one net: parameters, with the config as JSON in the file's metadata.

A net that was trained together with the learned low-res codec has that in the same file, its entropy model in integers
beside the parameters they were made from.
"""

import hashlib
import json
import threading
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from refscale_codec.errors import UsageError, WeightsError, reason
from refscale_codec.lrcodec.gmm import export
from refscale_codec.lrcodec.gmm.net import Gmm, GmmConfig
from refscale_codec.picture.files import write_atomically
from refscale_codec.rescale.net import RescaleConfig, RescaleNet

SHIPPED = Path(__file__).parent / "_weights"  # inside an installed wheel
SOURCE = Path(__file__).parent.parent / "weights"  # beside the package in a source checkout

KEPT = 8
"""Most models that stay in memory."""

_loading = threading.Lock()
_LOW_RES, _EXACT = "low_res.", "exact."  # where the names of the low-res codec's parameters and integers begin


def shipped(scale: int, codec: str = "jpeg") -> Path:
    """Return the path of the weights that come with the package for a scale of 2 or 4 and a low-res codec.

    Raises:
        WeightsError: the installation lacks them.
    """
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
    """Return what torch is to be told for `auto`, `cpu`, `cuda` or `mps`; `auto` is the fastest that is there.

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


def store(net: RescaleNet, path: Path) -> None:
    """Write the net in half precision; every figure in weights/README.md is that of the stored file."""
    tensors = {name: tensor.detach().cpu().contiguous().half() for name, tensor in net.state_dict().items()}
    config = asdict(net.config)
    if isinstance(net.low_res, Gmm):
        config["gmm"] = asdict(net.low_res.config)
        exact = export.to_integers(net.low_res).tensors()
        tensors |= {f"{_EXACT}{name}": tensor.cpu().contiguous() for name, tensor in exact.items()}
    write_atomically(path, safetensors.torch.save(tensors, metadata={"config": json.dumps(config)}))


def load(path: Path) -> RescaleNet:
    """Read a net in float32, ready for inference.

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
        parts[start][name.removeprefix(start)] = tensor if start == _EXACT else tensor.float()
    try:
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("some of its numbers are not finite")
        config = json.loads(header["__metadata__"]["config"])
        gmm = config.pop("gmm", None)
        wanted = RescaleConfig(**config)
        if wanted.blocks > len(tensors):
            raise ValueError(f"{wanted.blocks} blocks, but {len(tensors)} arrays")
        with torch.device("meta"):
            net = RescaleNet(wanted)
        net.load_state_dict(parts[""], strict=True, assign=True)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster
        if gmm is not None:
            net.low_res = _loaded(Gmm(GmmConfig(**gmm)), parts[_LOW_RES], parts[_EXACT])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} does not hold the weights of a refscale net: {reason}") from None
    net.fingerprint = own_fingerprint
    return net.eval().requires_grad_(False)


def kept(path: Path, device: str) -> RescaleNet:
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
def _kept_as(path: Path, version: tuple[int, int], device: str) -> RescaleNet:
    return load(path).to(device)


def _loaded(gmm: Gmm, parameters: dict[str, Tensor], exact: dict[str, Tensor]) -> Gmm:
    gmm.load_state_dict(parameters)
    gmm.entropy_model = export.read(gmm.config, exact)
    return gmm
