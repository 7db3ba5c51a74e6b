"""Pictures of the report that are compared under a divider: what there is to see of each, as files inside the page."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import PIL.Image

from refscale_codec.study import heatmaps

_LAYER_NAMES = {
    "target": "Target",
    "reference": "Reference",
    "reconstruction": "Reconstruction",
    "error": "Error heat map",
    "similarity": "Similarity map",
}
_OF_PICTURE = ("target", "reference")  # layers that are the same whatever the coder


class Scene(NamedTuple):
    """One picture through one coder at one quality, to be looked at."""

    dataset: str
    name: str  # scenes of the same dataset and name share a viewer, where their coders can be compared
    coder: str
    bpp: float
    psnr: float  # dB; not finite where the picture came back unchanged
    bytes_total: int
    layers: Mapping[str, bytes]
    """A PNG, WebP or JPEG file for each of target, reference, reconstruction, error, similarity, or any of them."""

    @property
    def lossless(self) -> bool:
        """Whether the picture came back unchanged."""
        return not math.isfinite(self.psnr)


class _Layer(NamedTuple):
    label: str
    kind: str  # a key of Scene.layers
    data: bytes

    @property
    def source(self) -> str:
        """The picture as an address."""
        kind, _, _ = _type_and_size(self.data)
        return f"data:{kind};base64,{base64.b64encode(self.data).decode()}"


class _Scale(NamedTuple):
    """The colour bar of a heat map."""

    low: str
    colours: str
    high: str


class Viewer(NamedTuple):
    """One picture: its layers and the coders that it went through."""

    dataset: str
    name: str
    scenes: list[Scene]
    layers: list[_Layer]
    left: int  # index of the layer that it begins with
    right: int
    width: int
    height: int
    scales: list[_Scale]


def viewers(scenes: Sequence[Scene]) -> list[Viewer]:
    """Return one viewer for each picture; ValueError for a layer that is no picture."""
    groups: dict[tuple[str, str], list[Scene]] = {}
    for scene in scenes:
        groups.setdefault((scene.dataset, scene.name), []).append(scene)
    return [_viewer(group, layers) for group in groups.values() if (layers := _layers(group))]


def _layers(scenes: Sequence[Scene]) -> list[_Layer]:
    """Return what can be looked at of one picture, the target and the reference once for all coders."""
    several = len({scene.coder for scene in scenes}) > 1
    layers: dict[tuple[str, bytes], _Layer] = {}
    for own in (False, True):  # the picture's layers first, then those of the coders
        for scene in scenes:
            for kind, data in scene.layers.items():
                if (kind not in _OF_PICTURE) == own:
                    label = _LAYER_NAMES.get(kind, kind) + (f", {scene.coder}" if own and several else "")
                    layers.setdefault((kind if not own else label, data), _Layer(label, kind, data))
    return list(layers.values())


def _viewer(scenes: list[Scene], layers: list[_Layer]) -> Viewer:
    kinds = [layer.kind for layer in layers]
    left = kinds.index("target") if "target" in kinds else 0
    right = kinds.index("reconstruction") if "reconstruction" in kinds else len(layers) - 1
    _, width, height = _type_and_size(layers[left].data)
    return Viewer(
        scenes[0].dataset, scenes[0].name, scenes, layers, left, right, width, height, _scales(frozenset(kinds))
    )


def _scales(kinds: Iterable[str]) -> list[_Scale]:
    bars = {
        "error": (
            "Error: 0",
            heatmaps.ERROR_COLOURS,
            f"{heatmaps.ERROR_SCALE} or more levels of 255 (mean of R, G, B)",
        ),
        "similarity": ("Similarity: 0, dissimilar", heatmaps.SIMILARITY_COLOURS, "1, similar"),
    }
    return [
        _Scale(low, ",".join(f"#{bytes(colour).hex()}" for colour in heatmaps.palette(name)[::17]), high)
        for kind, (low, name, high) in bars.items()
        if kind in kinds
    ]


def _type_and_size(data: bytes) -> tuple[str, int, int]:
    """Return MIME type, width and height of a PNG, WebP or JPEG file."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as picture:
            return PIL.Image.MIME[str(picture.format)], picture.width, picture.height
    except PIL.UnidentifiedImageError:
        raise ValueError(f"a layer must be a PNG, WebP or JPEG file, not {data[:12]!r}...") from None
