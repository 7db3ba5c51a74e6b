"""One .safetensors file <-> one `Model`: a rescaler, and the low-res codec that it was trained with.

The config lies in the file's metadata as JSON: the fields of the rescaler's config beside its `kind`, and those of the
low-res codec under that codec's name; without one it is JPEG. The entropy model of a trained one is in the file in
integers, beside the parameters they were made from.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from refscale_codec import lrcodec, weights_files
from refscale_codec.errors import WeightsError, reason
from refscale_codec.lrcodec.gmm import export
from refscale_codec.lrcodec.gmm.net import Gmm
from refscale_codec.lrcodec.interface import LowResCodec
from refscale_codec.picture import files
from refscale_codec.rescale.fgrn import Fgrn
from refscale_codec.rescale.identity import Identity
from refscale_codec.rescale.interface import Rescaler
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.rescale.quantised import IntegerConv
from refscale_codec.rescale.trained import TrainedRescaler
from refscale_codec.rescale.untied import Untied

KEPT = 8
"""Most models that stay in memory."""

RESCALERS: dict[str, type[TrainedRescaler]] = {"flow": RescaleNet, "untied": Untied, "fgrn": Fgrn, "identity": Identity}
"""The families of rescalers, by the `kind` in a config, which is also the name of their table in a recipe."""

_LARGEST_HEADER = 1 << 20  # bytes of JSON: the arrays of such a net, by far
_STORED_AS = (torch.float16, torch.float32)  # floats

N = TypeVar("N", bound=nn.Module)
_loading = threading.Lock()
_LOW_RES, _EXACT = "low_res.", "exact."  # where the names of the low-res codec's parameters and integers begin


@dataclass(frozen=True)
class Model:
    """All that encoder and decoder share. Several threads may use one object."""

    rescaler: Rescaler
    low_res: LowResCodec
    fingerprint: bytes
    """6 bytes by which a file asks for the model, see `weights_files.fingerprint`."""

    @property
    def scale(self) -> int:
        """High-res side over low-res side."""
        return self.rescaler.scale

    @property
    def exact(self) -> bool:
        """Whether a file decodes to the same pixels on every machine."""
        return self.rescaler.exact and self.low_res.exact


def store(rescaler: TrainedRescaler, path: Path, gmm: Gmm | None = None) -> None:
    """Write a model, floats in half precision; every figure in weights/README.md is that of the stored file.

    Args:
        rescaler: one of `RESCALERS`; it is fixed for inference by this.
        path: of the file, which is replaced.
        gmm: the low-res codec that was trained with it; None for JPEG.
    """
    config: dict[str, Any] = {"kind": rescaler.config.kind} | asdict(rescaler.config)
    tensors = dict(rescaler.for_inference().state_dict())
    if gmm is not None:
        config[lrcodec.CODECS[lrcodec.GMM].name] = asdict(gmm.config)
        tensors |= {f"{_LOW_RES}{name}": x for name, x in gmm.state_dict().items()}
    tensors = {name: x.half() if x.is_floating_point() else x for name, x in tensors.items()}
    if gmm is not None:
        tensors |= {f"{_EXACT}{name}": x for name, x in export.to_integers(gmm).tensors().items()}
    tensors = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    files.write_atomically(path, safetensors.torch.save(tensors, metadata={"config": json.dumps(config)}))


def load(path: Path, device: str = "cpu") -> Model:
    """Read a model, ready for inference on a device.

    Raises:
        WeightsError: the file is missing, is no weights file of refscale, or does not fit its own config.
    """
    data, own_fingerprint = weights_files.read(path)
    try:
        config, parts = _arrays(data)
        low_res: LowResCodec = lrcodec.CODECS[lrcodec.JPEG].codec()()
        for entry in lrcodec.CODECS.values():
            if entry.suffix and entry.name in config:
                codec, of_codec = entry.codec(), config.pop(entry.name)
                if entry.trained:
                    net = _filled(codec.stored, of_codec, parts.pop(_LOW_RES)).to(device)
                    low_res = codec.restored(net, parts.pop(_EXACT))
                else:
                    low_res = codec(**of_codec)
        kind = config.pop("kind", "flow")
        if kind not in RESCALERS:
            raise ValueError(f"its net is of the kind {kind!r}, which this version does not know")
        rescaler: Rescaler = _filled(RESCALERS[kind].stored, config, parts.pop("")).to(  # type: ignore[call-overload]
            device, memory_format=torch.channels_last
        )  # faster
        if strays := [f"{start}{name}" for start, arrays in parts.items() for name in arrays]:
            raise ValueError(f"its description of the net has no low-res codec for {', '.join(strays)}")
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a readable .safetensors file: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        worded = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
        cause = " ".join(str(error).split())[:200] if worded else "its description of the net is of another kind"
        raise WeightsError(f"{path} does not hold the weights of a refscale model: {cause}") from None
    return Model(rescaler, low_res, own_fingerprint)


def _arrays(data: bytes) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Return the config in a weights file, and its arrays, by the beginnings of their names; floats have 32 bits.

    Raises:
        SafetensorError, KeyError, TypeError, ValueError, RuntimeError: there are none.
    """
    size = int.from_bytes(data[:8], "little")
    if size > _LARGEST_HEADER:
        raise ValueError(f"its header has {size} bytes, expected up to {_LARGEST_HEADER}")
    try:
        tensors = safetensors.torch.load(data)
    except KeyError as error:
        raise ValueError(f"it has an array of the type {error}") from None
    said = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    if "config" not in said:
        raise ValueError("it does not describe the net, as files by refscale do; other programs' weights do not fit")
    config = json.loads(said["config"])
    parts: dict[str, dict[str, Tensor]] = {"": {}, _LOW_RES: {}, _EXACT: {}}
    for name, tensor in tensors.items():
        start = next(start for start in (_LOW_RES, _EXACT, "") if name.startswith(start))
        if tensor.dtype in _STORED_AS:
            tensor = tensor.float()
            if not tensor.isfinite().all():
                raise ValueError(f"some numbers of {name} are not finite")
        parts[start][name.removeprefix(start)] = tensor
    return config, parts


def _filled(build: Callable[[dict[str, Any]], N], config: dict[str, Any], arrays: dict[str, Tensor]) -> N:
    """Return the net of a config with these arrays. It takes no memory before they are known to fit.

    Raises:
        TypeError, ValueError, RuntimeError: they do not.
    """
    with torch.device("meta"):
        net = build(config)
    if missing := asdict(net.config).keys() - config.keys():  # type: ignore[call-overload]
        raise ValueError(f"its description of the net lacks {', '.join(sorted(missing))}")
    wanted = net.state_dict()
    if strange := wanted.keys() ^ arrays.keys():
        raise ValueError(f"the arrays of that net and those in the file differ: {', '.join(sorted(strange))}")
    for name, array in arrays.items():
        if (array.dtype, array.shape) != (wanted[name].dtype, wanted[name].shape):
            raise ValueError(
                f"its array {name} has {_sizes(array)}; by its description of the net it must have "
                f"{_sizes(wanted[name])}"
            )
    net.load_state_dict(arrays, assign=True)
    for module in net.modules():
        if isinstance(module, IntegerConv):
            module.require_exact()
    return net.eval().requires_grad_(False)


def _sizes(array: Tensor) -> str:
    kind = str(array.dtype).removeprefix("torch.")
    return f"{'x'.join(map(str, array.shape)) or '1'} numbers of the type {kind}"


def kept(path: Path, device: str) -> Model:
    """Return what `load` reads, on a device: the same object again as long as the file does not change.

    The `KEPT` that were last asked for stay in memory. Threads that ask at once get one object.

    Raises:
        WeightsError: see `load`.
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
