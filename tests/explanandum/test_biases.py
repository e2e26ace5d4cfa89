"""Biases of layers, and the outputs that they were added to."""

import torch
from timm.layers import BatchNormAct2d
from torch import nn

from explainers.explanandum.biases import bias_of, biased


def test_the_bias_of_a_batch_norm_is_what_it_gives_for_zero():
    norm = nn.BatchNorm2d(3).eval()
    generator = torch.Generator().manual_seed(0)
    for value in (norm.running_mean, norm.weight.data, norm.bias.data):
        value.copy_(torch.randn(3, generator=generator))
    norm.running_var.copy_(torch.rand(3, generator=generator))
    torch.testing.assert_close(bias_of(norm)[None], norm(torch.zeros(1, 3, 1, 1)))
    plain = nn.BatchNorm2d(3, affine=False).eval()
    assert not bias_of(plain).any()


def test_layers_without_a_bias_have_none():
    assert bias_of(nn.Conv2d(3, 4, 1, bias=False)) is None
    assert bias_of(nn.LayerNorm(4)) is None  # it is not linear
    assert bias_of(nn.BatchNorm2d(3, track_running_stats=False)) is None
    assert bias_of(nn.Linear(3, 4)).shape == (4,)
    assert bias_of(nn.Conv2d(3, 4, 1)).shape == (4, 1, 1)


def test_outputs_are_those_before_the_activation_and_hooks_go():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.ReLU(inplace=True)).eval()
    images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    with biased(network) as found:
        network(images)
    assert [each.bias.shape for each in found] == [(4, 1, 1), (4, 1, 1)]
    assert all((each.output < 0).any() for each in found)
    assert not any(module._forward_hooks for module in network.modules())
    network.requires_grad_(False)
    with biased(network) as found:
        network(images)
    assert found == []
