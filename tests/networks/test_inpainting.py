"""The gated U-Net: it starts at zero, takes any size, and each convolution has its gate."""

import pytest
import torch

from explainers.networks.inpainting import GatedConv, GatedUNet, PatchCritic


def stirred(**options):
    """A network whose last layer is no longer zero."""
    torch.manual_seed(0)
    network = GatedUNet(**{"widths": [4, 6, 8], "dilations": [2]} | options)
    torch.nn.init.normal_(network.head.weight)
    return network


def test_a_new_network_corrects_nothing():
    network = GatedUNet([4, 6], [])
    assert torch.equal(
        network(torch.rand(1, 3, 8, 8), torch.ones(1, 8, 8)), torch.zeros(1, 3, 8, 8)
    )


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (17, 30), (224, 5)])
def test_any_size(size):
    network = stirred()
    corrections = network(torch.rand(2, 3, *size), torch.ones(2, *size))
    assert corrections.shape == (2, 3, *size)
    assert corrections.abs().sum() > 0


def test_images_do_not_depend_on_the_batch():
    network, images = stirred(), torch.rand(3, 3, 20, 12)
    masks = (torch.rand(3, 20, 12) < 0.5).float()
    together = network(images, masks)
    alone = torch.cat([network(i[None], m[None]) for i, m in zip(images, masks, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_the_mask_matters():
    network, images = stirred(), torch.rand(1, 3, 8, 8)
    assert not torch.equal(
        network(images, torch.ones(1, 8, 8)), network(images, torch.zeros(1, 8, 8))
    )


def test_a_gate_by_hand():
    block = GatedConv(1, 1)
    with torch.no_grad():
        block.conv.weight.zero_()
        block.conv.weight[0, 0, 1, 1] = 2.0  # features: twice the input
        block.conv.bias.copy_(torch.tensor([0.0, 0.0]))  # the gate is half open
    values = torch.tensor([[[[3.0, -1.0]]]])
    expected = torch.tensor([[[[6.0, torch.exp(torch.tensor(-2.0)) - 1]]]]) / 2
    torch.testing.assert_close(block(values), expected)


def test_the_critic_scores_patches():
    critic = PatchCritic(4)
    assert critic(torch.rand(2, 3, 32, 32), torch.ones(2, 32, 32)).shape == (2, 1, 4, 4)


def test_empty_widths_are_told():
    with pytest.raises(ValueError, match="widths and dilations must be positive integers"):
        GatedUNet([], [1])
