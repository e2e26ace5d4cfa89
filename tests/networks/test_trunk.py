import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.networks.trunk import TrunkMasker, last_layer
from tests import planted

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights")


def small(name, **arguments):
    torch.manual_seed(0)
    return Explanandum(name, num_classes=3, input_size=[64, 64], **arguments)


def test_of_a_cnn_it_is_the_trunk_and_a_1x1_convolution():
    explanandum = small("test_resnet")
    network = TrunkMasker(explanandum)
    assert last_layer(explanandum) == "layer4"
    images = torch.rand(2, 3, 64, 64)
    features = explanandum.model.forward_features(explanandum.normalize(images))
    torch.testing.assert_close(network.features(explanandum, images), features)
    assert [type(part) for part in network.head] == [nn.Conv2d]
    torch.testing.assert_close(network(explanandum, images), network.head(features))
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"trunk.fc.weight", "trunk.fc.bias"}


def test_of_a_vit_it_is_a_head_for_each_patch_behind_the_last_norm():
    explanandum = small("test_vit", model_args={"img_size": 64})
    network = TrunkMasker(explanandum)
    assert last_layer(explanandum) == "norm"
    images = torch.rand(2, 3, 64, 64)
    tokens = explanandum.model.forward_features(explanandum.normalize(images))[:, 1:]
    maps = network.features(explanandum, images)
    torch.testing.assert_close(maps, tokens.mT.unflatten(2, (4, 4)))
    assert [type(part) for part in network.head] == [nn.Conv2d, nn.Tanh, nn.Conv2d]
    assert network(explanandum, images).shape == (2, 1, 4, 4)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"patch_embed", "head"}


def test_it_learns_in_eval_mode_and_leaves_the_classifier_alone():
    explanandum = small("test_resnet")
    network = TrunkMasker(explanandum).train()
    before = {name: value.clone() for name, value in explanandum.state_dict().items()}
    assert network.training
    assert not any(module.training for module in network.trunk.modules())
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(explanandum, torch.rand(2, 3, 64, 64)).mean().backward()
    assert all(p.grad is not None for n, p in network.named_parameters() if n in network.learned)
    optimizer.step()
    torch.testing.assert_close(dict(explanandum.state_dict()), before, rtol=0, atol=0)
    weight = "layer4.0.bn2.weight"
    assert not torch.equal(network.trunk.state_dict()[weight], before[f"model.{weight}"])


def test_it_takes_gray_networks_and_other_sizes():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    explanandum = Explanandum(
        network, mean=[0.5], std=[0.5], input_size=[32, 32], feature_layers=["0"]
    )
    masker = TrunkMasker(explanandum)
    assert masker(explanandum, torch.rand(2, 3, 48, 36)).shape == (2, 1, 12, 9)
    assert masker.features(explanandum, torch.rand(1, 3, 32, 32)).min() < 0  # before the ReLU


def test_features_without_weights_leave_only_the_head_to_learn():
    network = TrunkMasker(planted.explanandum("vit"))
    assert network.learned == {f"head.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")}


def test_a_wrong_size_is_named():
    explanandum = small("test_vit", model_args={"img_size": 64, "dynamic_img_size": False})
    network = TrunkMasker(explanandum)
    with pytest.raises(ValueError, match="made for images of 64 x 64 and fails on 32 x 32"):
        network(explanandum, torch.rand(1, 3, 32, 32))
