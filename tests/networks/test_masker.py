import pytest
import torch
from torch.nn import functional as F

from explainers import Explanandum
from explainers.networks.masker import StageMasker, masker
from tests import planted


def test_values_by_hand():
    """One channel a level: the mask is the sigmoid of the sum of both levels at each position."""
    network = StageMasker([1, 1], pool=False, width=1).eval()
    torch.nn.init.ones_(network.reduce[0][0].weight)
    torch.nn.init.zeros_(network.final.weight)
    network.final.weight.data[..., 1, 1] = 1.0
    torch.nn.init.zeros_(network.final.bias)
    first, second = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[-5.0]]]])
    with torch.no_grad():
        masks = network([first, second], torch.Size((4, 4)))
        raised = network([first, second + 7], torch.Size((4, 4)))
    expected = first[0].sigmoid().repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(masks, expected)  # the ReLU takes -5 away
    expected = (first[0] + 2).sigmoid().repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(raised, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*random weights")
def test_for_a_resnet_it_is_the_published_one():
    explanandum = Explanandum("torchvision/resnet18", input_size=[64, 64])
    network = masker(explanandum)
    assert network.pool
    assert network.final.in_channels == 5 * 64
    assert [reduce[0].in_channels for reduce in network.reduce] == [64, 128, 256, 512]
    seen = []
    network.final.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        masks = network.eval()(explanandum.features(images), images.shape[-2:])
        model = explanandum.model
        stem = model.maxpool(model.relu(model.bn1(model.conv1(explanandum.normalize(images)))))
    assert masks.shape == (1, 64, 64)
    torch.testing.assert_close(seen[0][:, :64], stem)
    torch.testing.assert_close(masks, F.interpolate(masks[:, None, ::4, ::4], (64, 64))[:, 0])


def test_a_pyramid_from_stride_4_is_not_pooled():
    assert not masker(planted.explanandum("vit")).pool
    assert masker(planted.explanandum("cnn"), 8).pool
