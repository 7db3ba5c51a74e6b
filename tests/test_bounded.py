"""Files without loss, and with a bound on the error: from picture to picture."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from commands import drawn, older
from conftest import Outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import refscale_codec as codec
from refscale_codec.errors import UsageError
from refscale_codec.fileformat import container

SIZES = [(1, 1), (1, 9), (7, 1), (2, 20), (11, 2), (17, 23)]
HIGHEST = {"u1": 255, "i1": 127, "u2": 65535, "i2": 32767, "u4": 60_000, "i4": 60_000}


def content(seed: int, kind: str, size: tuple[int, int], bands: int) -> NDArray[Any]:
    """Return waves with noise, over all or a sliver of a type's values, with some of the outermost."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = np.stack([np.sin(x / 4 + band) + np.cos(y / 3) for band in range(bands)], axis=-1) / 4 + 0.5
    high = HIGHEST[kind] * rng.choice([1.0, 0.05])
    pixels = (high * waves + rng.normal(0, high / 50, waves.shape)).clip(0, high)
    pixels[rng.random(pixels.shape) < 0.02] = rng.choice([0, high])
    return pixels.astype(kind)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    kind=st.sampled_from(sorted(HIGHEST)),
    size=st.sampled_from(SIZES),
    bands=st.sampled_from([1, 3, 4]),
    bound=st.sampled_from([0, 1, 2.5, 40]),
    with_reference=st.booleans(),
)
def test_no_sample_is_further_off_than_the_bound(
    seed: int, kind: str, size: tuple[int, int], bands: int, bound: float, with_reference: bool
) -> None:
    pixels = content(seed, kind, size, bands)
    reference = content(seed + 1, kind, size, bands) // 2 + pixels // 2 if with_reference else None
    data = codec.encode(pixels, reference, max_error=bound)
    back = codec.decode(data, reference)
    assert back.dtype == pixels.dtype
    assert abs(back.reshape(pixels.shape).astype(np.int64) - pixels).max() <= bound


def test_floats_have_a_bound_in_their_units_and_nodata_is_exact() -> None:
    heights = content(1, "u2", (17, 23), 1)[..., 0].astype(np.float32) / 100
    heights[2:4, 5:9] = np.nan
    back = codec.decode(codec.encode(heights, max_error=0.05))
    assert np.array_equal(np.isnan(back), np.isnan(heights))
    assert 0.005 < np.nanmax(abs(back - heights)) <= 0.05
    flat = np.full((3, 4), 0.7, np.float32)
    assert np.array_equal(codec.decode(codec.encode(flat, lossless=True)), flat)
    with pytest.raises(UsageError, match=r"^band 1 spreads over .* the bound on the error must be that at least$"):
        codec.encode(heights, lossless=True)
    with pytest.raises(UsageError, match="^band 2 spreads over 0..70000, in which 16 bits tell "):
        wide = np.zeros((2, 2, 3), np.uint32)
        wide[0, 0, 1] = 70_000
        codec.encode(wide, lossless=True)


def test_a_deep_picture_of_shallow_values_keeps_its_bound() -> None:
    """All samples are 8-bit levels in 16 bits, so a step is one of 257: the file is without loss."""
    pixels = content(3, "u1", (17, 23), 3).astype(np.uint16) * 257
    assert np.array_equal(codec.decode(codec.encode(pixels, max_error=100)), pixels)


def test_more_loss_takes_fewer_bytes_and_a_reference_too() -> None:
    pixels = drawn(1, 60, 70)
    sizes = [len(codec.encode(pixels, max_error=bound)) for bound in (0, 1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[1] > sizes[2] > sizes[3]
    same = len(codec.encode(pixels, older(pixels), lossless=True))
    assert same < 0.7 * sizes[0]  # older() is linear: the samples follow from it


def test_a_window_and_its_hash(tmp_path: Path) -> None:
    pixels, reference = drawn(1, 60, 70), older(drawn(2, 60, 70))
    (tmp_path / "a.rsc").write_bytes(codec.encode(pixels, reference, lossless=True))
    with codec.open(tmp_path / "a.rsc", reference=reference) as file:
        assert np.array_equal(file.read(window=(11, 7, 30, 20)), pixels[7:27, 11:41])
    assert container.unpack((tmp_path / "a.rsc").read_bytes()).output_hash is not None


def test_the_commands_say_what_is_proved(refscale: Callable[..., Outcome], tmp_path: Path) -> None:
    pixels = drawn(1)
    PIL.Image.fromarray(pixels).save(tmp_path / "new.png")
    PIL.Image.fromarray(older(pixels)).save(tmp_path / "old.png")
    files = [tmp_path / "new.png", "--ref", tmp_path / "old.png"]
    exact = refscale("encode", *files, "--lossless", "--json")
    facts = json.loads(exact.text)
    assert (exact.code, facts["max_error"], facts["quality"]) == (0, 0, 100)
    assert ", lossless (" in exact.err
    near = refscale("encode", *files, "--max-error", "3", "-o", tmp_path / "near.rsc")
    assert near.code == 0 and ", no sample off by more than " in near.err
    back = refscale("decode", tmp_path / "new.rsc", "--ref", tmp_path / "old.png", "-o", tmp_path / "back.png")
    assert back.code == 0
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "back.png")), pixels)
    proved = refscale("verify", tmp_path / "new.rsc", "--ref", tmp_path / "old.png")
    assert proved.code == 0 and "proved: it decodes to the encoder's picture" in proved.text + proved.err
    assert "scale 1, predictive (predicted samples), quality 100" in refscale("info", tmp_path / "new.rsc").text
    for more, words in (
        (("--quality", "9"), "--quality and --lossless exclude each other: give one"),
        (("--scale", "2"), "--scale would have no effect: it follows from the bound on the error"),
        (("--range", "0,9"), "--range would have no effect: it follows from the bound on the error"),
        (
            ("--weights", tmp_path / "new.png"),
            "--weights would have no effect: with a bound on the error no net is used",
        ),
    ):
        refused = refscale("encode", *files, "--lossless", *more, "-o", tmp_path / "no.rsc")
        assert (refused.code, refused.err) == (2, f"error: {words}\n")
    assert not (tmp_path / "no.rsc").exists()


def test_a_batch_without_loss(refscale: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for number in range(2):
        PIL.Image.fromarray(drawn(number)).save(tmp_path / "new" / f"{number}.png")
    done = refscale("batch", tmp_path / "new", "-o", tmp_path / "out", "--lossless", "--jobs", "1", "--device", "cpu")
    assert done.code == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "batch.jsonl").read_text().splitlines()]
    assert [(line["error"], line["psnr"]) for line in lines] == [(None, "inf")] * 2
    for number in range(2):
        assert np.array_equal(codec.decode(tmp_path / "out" / f"{number}.rsc"), drawn(number))


def test_a_real_pair_is_smaller_with_its_reference_and_than_webp(data_folder: Path, tmp_path: Path) -> None:
    with (data_folder / "manifest.csv").open() as lines:
        row = next(row for row in csv.DictReader(lines) if row["split"] == "dev")
    target, reference = (
        np.asarray(PIL.Image.open(data_folder / row[key]).convert("RGB"))[:128, :128] for key in ("target", "reference")
    )
    alone, after = (len(codec.encode(target, given, lossless=True)) for given in (None, reference))
    PIL.Image.fromarray(target).save(tmp_path / "t.webp", lossless=True, quality=100, method=6)
    assert after < alone < (tmp_path / "t.webp").stat().st_size
