"""One picture through every part: command line, weights, file and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

ROOT = Path(__file__).parents[1]


def test_a_cut_of_the_example_pair_goes_through_a_file(refscale: Callable[..., Any], tmp_path: Path) -> None:
    target, reference = (
        PIL.Image.open(ROOT / "examples" / f"{name}.png").convert("RGB").crop((0, 0, 96, 80))
        for name in ("target", "reference")
    )
    target.save(tmp_path / "target.png")
    reference.save(tmp_path / "reference.png")
    ref = ("--ref", tmp_path / "reference.png")
    assert refscale("encode", tmp_path / "target.png", *ref, "-o", tmp_path / "out.rsc").code == 0
    assert refscale("decode", tmp_path / "out.rsc", *ref, "-o", tmp_path / "hat.png").code == 0
    hat = np.asarray(PIL.Image.open(tmp_path / "hat.png"), float)
    error = np.square(hat - np.asarray(target, float)).mean()
    assert 10 * np.log10(255**2 / error) > 28
    assert (tmp_path / "out.rsc").stat().st_size < target.width * target.height // 4
