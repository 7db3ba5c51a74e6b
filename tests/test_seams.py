"""A low-res codec, a rescaler and a source of references of one's own, through public seams alone."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

import refscale_codec
from refscale_codec import lrcodec, weights_files
from refscale_codec.codec import decoder, encoder
from refscale_codec.codec.encoder import EncodeOptions
from refscale_codec.errors import ContainerError, ReferenceMismatch, WeightsError
from refscale_codec.fileformat import container
from refscale_codec.lrcodec.dct.codec import DctCodec
from refscale_codec.lrcodec.interface import USUAL, CodedLowRes, Floats, LowResReference
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import source as sources
from refscale_codec.reference import warp
from refscale_codec.reference.source import PicturePart, Warped
from refscale_codec.rescale.interface import Context


class LosslessWebp:
    """Keeps the low-res picture in 8 bits, whatever the quality."""

    id, exact, conditional, has_thrift = 200, True, False, False

    def code(self, lr: Floats, reference: LowResReference | None, quality: int, thrift: float = USUAL) -> CodedLowRes:
        pixels, stream = np.clip(np.rint(lr), 0, 255).astype(np.uint8), io.BytesIO()
        PIL.Image.fromarray(pixels).save(stream, "WEBP", lossless=True)
        return CodedLowRes(stream.getvalue(), pixels.astype(np.float32))

    def decode(self, payload: bytes, size: tuple[int, int], reference: LowResReference | None, quality: int) -> Floats:
        try:
            pixels = np.asarray(PIL.Image.open(io.BytesIO(payload)).convert("RGB"))
        except OSError:
            raise ContainerError("the low-res payload is no WebP") from None
        return pixels.astype(np.float32)


class Bicubic:
    """Halves and doubles by bicubic interpolation; where the reference is used, its detail is added."""

    scale, halo, cell, map_levels = 2, 16, 16, 2
    exact, uses_reference, device = False, True, torch.device("cpu")

    def similarity(self, hr: Tensor, reference: Tensor) -> Tensor:
        a, b = (x - functional.avg_pool2d(x, 3, 1, 1) for x in (hr, reference))
        sums = [functional.avg_pool2d((x * y).sum(1, True), 16, ceil_mode=True) for x, y in ((a, b), (a, a), (b, b))]
        return sums[0] / (sums[1] * sums[2] + 1e-3).sqrt()

    def quantise_similarity(self, similarity: Tensor) -> Tensor:
        return (similarity > 0.5).float()

    def planes(self, levels: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        return (levels.float().repeat_interleave(16, 2).repeat_interleave(16, 3)[..., :height, :width],)

    def down(self, hr: Tensor, context: Context) -> Tensor:
        return functional.interpolate(hr, scale_factor=0.5, mode="bicubic", antialias=True)

    def up(self, lr: Tensor, context: Context) -> Tensor:
        if context.reference is None:
            return self._doubled(lr)
        detail = context.reference - self._doubled(self.down(context.reference, context))
        return self._doubled(lr) + context.similarity_map[0] * detail

    def _doubled(self, lr: Tensor) -> Tensor:
        return functional.interpolate(lr, scale_factor=2, mode="bicubic")


MODELS = {
    "both": Model(Bicubic(), LosslessWebp(), b"toys 1"),
    "rescaler of one's own": Model(Bicubic(), DctCodec(), b"toys 2"),
}


@pytest.fixture(params=["codec of one's own", "rescaler of one's own", "both"])
def toy(request: pytest.FixtureRequest, tiny_model: Model) -> Model:
    if request.param == "codec of one's own":
        return replace(tiny_model, low_res=LosslessWebp(), fingerprint=b"toys 0")
    return MODELS[request.param]


def place(height: int, width: int) -> tuple[Image, Image]:
    """Return a picture with detail, and an older one that is another place at its right."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width, :1][:2]
    new = (120 + 60 * np.sin(x / 9) * np.cos(y / 7) + rng.normal(0, 20, (height, width, 3))).clip(0, 255)
    old = (0.9 * new + rng.normal(0, 3, new.shape)).clip(0, 255)
    old[:, 2 * width // 3 :] = rng.integers(0, 256, old[:, 2 * width // 3 :].shape)
    return Image(new.astype(np.uint8)), Image(old.astype(np.uint8))


def test_a_picture_goes_through_the_file_and_back_in_tiles_and_windows(toy: Model) -> None:
    target, reference = place(99, 150)
    plan = encoder.prepare(target, reference, toy, EncodeOptions(tile=32), choose=lambda *_: Warped(None))
    coded = plan.code(90)
    file = container.unpack(coded.file())
    assert (file.header.codec, file.header.weights) == (toy.low_res.id, toy.fingerprint)
    whole = decoder.decode(coded.file(), reference, toy, tile=32)
    assert np.array_equal(whole.pixels, coded.picture().pixels)
    for box in (Box(0, 0, 1, 1), Box(30, 60, 77, 131), Box(90, 140, 99, 150)):
        part = decoder.decode(coded.file(), reference, toy, tile=32, window=box)
        assert np.array_equal(part.pixels, whole.pixels[box.slices])


def test_a_codec_without_parameters_is_chosen_by_its_name(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(lrcodec.CODECS, 200, lrcodec.Entry("lossless", (2,), lambda: LosslessWebp, trained=False))
    monkeypatch.setattr(weights_files, "SHIPPED", tmp_path)
    assert lrcodec.choices().endswith(" or lossless (scale 2)")
    assert lrcodec.choices().count("default") == 1
    target, _ = place(40, 40)
    (tmp_path / "refscale-x2.safetensors").write_bytes(tiny_weights.read_bytes())
    with pytest.raises(WeightsError, match=r"codec lossless .*refscale-x2-lossless\.safetensors"):
        refscale_codec.encode(target.pixels, codec="lossless")
    with safetensors.safe_open(tiny_weights, "pt") as file:
        config = json.loads(file.metadata()["config"]) | {"lossless": {}}
    named = safetensors.torch.save(safetensors.torch.load_file(tiny_weights), {"config": json.dumps(config)})
    (tmp_path / "refscale-x2-lossless.safetensors").write_bytes(named)
    data = refscale_codec.encode(target.pixels, codec="lossless")
    assert container.unpack(data).header.codec == 200
    assert refscale_codec.decode(data).shape == target.pixels.shape


def test_the_reference_counts_where_it_is_similar() -> None:
    target, reference = place(96, 150)
    toy = MODELS["both"]
    coded = encoder.prepare(target, reference, toy, choose=lambda *_: Warped(None)).code(90)
    levels = coded.groups[0].low.similarity_map
    assert levels is not None
    assert levels[:, :6].all() and not levels[:, 7:].any()

    def psnr(data: bytes, older: Image | None) -> float:
        decoded = decoder.decode(data, older, toy).pixels[:, :96]
        return 10 * math.log10(255**2 / np.square(decoded - target.pixels[:, :96].astype(float)).mean())

    assert psnr(coded.file(), reference) > psnr(encoder.encode(target, None, toy), None) + 6


@dataclass(frozen=True)
class Blend:
    """The mean of the older picture and of its mirror image."""

    check: int | None = None
    used = exact = True
    from_first, alignment, places = False, None, (0,)

    def sections(self, names: Sequence[bytes], base: int = 0) -> dict[str, bytes]:
        return {}

    def made(self, group: Image, older: Sequence[Image], first: np.ndarray | None) -> tuple["Blend", Image]:
        blended = Image(self.pixels(older, None, Box(0, 0, group.height, group.width)))
        return Blend(warp.checksum(blended)), blended

    def require_fit(self, older: Sequence[Image], height: int, width: int) -> None:
        pass

    def pixels(self, older: Sequence[Image], first: PicturePart | None, box: Box) -> np.ndarray:
        pixels = older[0].pixels.astype(np.uint16)
        return ((pixels + pixels[:, ::-1]) // 2).astype(np.uint8)[box.slices]


@pytest.mark.parametrize("codec", ["jpeg", "gmm"])
def test_a_source_of_ones_own_is_one_class(
    tiny_models: dict[str, Model], codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, reference = (Image(np.dstack([each.pixels, each.pixels[..., ::-1]])) for each in place(64, 80))
    model = tiny_models[codec]
    coded = encoder.prepare(target, reference, model, EncodeOptions(tile=32), choose=lambda *_: Blend()).code(90)
    found = [group.reference.source for group in coded.groups]
    assert all(isinstance(source, Blend) and source.check for source in found)
    for wrong in (0, 1):
        given = iter([Blend((found[0].check or 0) + wrong), found[1]])
        monkeypatch.setattr(sources, "of_file", lambda *_, given=given: next(given))
        opened = decoder.Decoder(coded.file(), reference, model)
        if wrong:
            with pytest.raises(ReferenceMismatch):
                opened.read(tile=32)
        else:
            assert np.array_equal(opened.read(tile=32).pixels, coded.picture().pixels)
            box = Box(20, 30, 41, 71)
            assert np.array_equal(opened.read(box, tile=32).pixels, coded.picture().pixels[box.slices])


def test_a_damaged_payload_and_another_codec_are_refused(toy: Model) -> None:
    target, _ = place(40, 40)
    file = container.unpack(encoder.encode(target, None, toy))
    with pytest.raises(ContainerError):
        decoder.decode(container.pack(replace(file, lr=b"junk")), None, toy)
    with pytest.raises(ContainerError, match="codec 77, which this version does not know"):
        decoder.decode(container.pack(replace(file, header=replace(file.header, codec=77))), None, toy)
