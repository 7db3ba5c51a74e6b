"""The gradient of quantisation: its law, and that both low-res codecs train with it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from refscale_codec.lrcodec import gradient
from refscale_codec.lrcodec.gmm.net import rounded
from refscale_codec.training import losses


@given(a=st.floats(-1000, 1000), b=st.floats(-1000, 1000))
@settings(max_examples=50, deadline=None)
def test_the_share_rises_with_the_magnitude_from_none_to_all(a: float, b: float) -> None:
    small, large = sorted((abs(a), abs(b)))
    none, of_small, of_negative, of_large = gradient.share(torch.tensor([0, small, -small, large]).double()).tolist()
    assert none == 0
    assert of_negative == pytest.approx(of_small)
    assert of_small <= of_large + 1e-12
    assert of_large <= 1
    assert gradient.share(torch.tensor(1e6)) == pytest.approx(1)
    assert gradient.share(torch.tensor(gradient.HALF).sqrt()) == pytest.approx(0.5)


@pytest.mark.parametrize("half", [gradient.HALF, 1 / 4])
def test_both_codecs_train_with_it(monkeypatch: pytest.MonkeyPatch, half: float) -> None:
    monkeypatch.setattr(gradient, "HALF", half)
    y = torch.tensor([0.3, 2.0], requires_grad=True)
    rounded(y).sum().backward()
    assert y.grad is not None
    assert y.grad.tolist() == pytest.approx([v**2 / (v**2 + half) for v in (0.3, 2.0)])

    steps = torch.zeros(1, 1, 1, 3, 8, 8)
    steps[..., 0, 3, 5] = 0.3  # of luma
    quality = torch.tensor([50.0])

    def luma(lr: Tensor) -> Tensor:
        return losses.jpeg_steps(lr, quality)[..., 0, 3, 5].sum()

    lr = losses.of_jpeg_steps(steps, quality)
    kept, all_of_it = (luma(x) for x in (losses.surviving(lr, quality), lr))
    assert float(kept / all_of_it) == pytest.approx(0.3**2 / (0.3**2 + half), rel=1e-3)
