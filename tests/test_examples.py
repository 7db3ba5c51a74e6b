"""The scripts under examples/ run and do what they say."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = EXAMPLES / "draw_pair.py"


def test_drawn_pair_is_reproducible_and_its_dates_are_alike_but_not_equal() -> None:
    spec = importlib.util.spec_from_file_location("draw_pair", SCRIPT)
    assert spec is not None and spec.loader is not None
    draw_pair = importlib.util.module_from_spec(spec)
    sys.modules["draw_pair"] = draw_pair  # dataclasses look their module up
    spec.loader.exec_module(draw_pair)

    first, second = (
        [draw_pair.render(draw_pair.Scene(), capture, 96) for capture in (draw_pair.REFERENCE, draw_pair.TARGET)]
        for _ in range(2)
    )
    for picture, again in zip(first, second, strict=True):
        assert picture.dtype == np.uint8
        assert picture.shape == (96, 96, 3)
        assert np.array_equal(picture, again)

    reference, target = (picture.ravel().astype(float) for picture in first)
    assert not np.array_equal(reference, target)
    assert np.corrcoef(reference, target)[0, 1] > 0.3


@pytest.mark.slow
def test_encode_one_prints_bytes_bpp_and_psnr_of_both_coders(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "encode_one.py"), run_name="__main__")
    line = re.compile(r"(\w+) +(\d+) bytes  ([\d.]+) bpp  ([\d.]+) dB PSNR")
    rows = [line.fullmatch(text) for text in capsys.readouterr().out.splitlines()]
    assert [row and row[1] for row in rows] == ["refscale", "JPEG"]
    sizes, rates, psnrs = ([float(row[column]) for row in rows if row] for column in (2, 3, 4))
    assert rates == pytest.approx([8 * size / 512**2 for size in sizes], abs=5e-4)
    assert psnrs[0] > 30
    assert psnrs[1] == pytest.approx(psnrs[0], abs=0.5)
