import pytest
import torch
from torch import nn

from refscale_codec.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(1, 32, 288), (3, 64, 27), (2, 16, 16)])
def test_singular_values_are_brought_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(x))
    assert values.shape[-1] == min(shape[1:]) and values.min() > 0.3 and values.max() < 1.4
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    near = (orthogonal(x) * (u @ v)).sum() / orthogonal(x).norm() / (u @ v).norm()
    assert near > 0.95


def test_step_has_the_promised_size_and_direction():
    kernel = nn.Parameter(torch.zeros(32, 16, 3, 3))
    kernel.grad = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(2))
    Muon([kernel], lr=0.01).step()
    assert kernel.detach().square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.2)
    assert (kernel * kernel.grad).sum() < 0


def test_kernels_of_one_shape_do_not_mix_and_go_on_after_a_restart():
    torch.manual_seed(3)
    kernels = [nn.Parameter(torch.randn(8, 8, 3, 3)) for _ in range(2)]
    alone = nn.Parameter(kernels[0].detach().clone())
    gradients = torch.randn(3, 2, 8, 8, 3, 3)
    together, single = Muon(kernels, lr=0.01), Muon([alone], lr=0.01)
    for step in gradients:
        kernels[0].grad, kernels[1].grad, alone.grad = step[0], step[1], step[0].clone()
        together.step()
        single.step()
        again = Muon([alone], lr=0.01)
        again.load_state_dict(single.state_dict())
        single = again
    assert torch.allclose(alone, kernels[0], atol=1e-4)


def test_kernels_without_a_gradient_stay():
    kernel = nn.Parameter(torch.ones(4, 4, 3, 3))
    Muon([kernel], lr=0.01).step()
    assert torch.equal(kernel, torch.ones(4, 4, 3, 3))
