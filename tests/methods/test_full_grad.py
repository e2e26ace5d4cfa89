"""FullGrad: its terms sum to the logit, or the classifier is refused."""

import copy

import pytest
import torch
import torchvision
from timm.models import create_model
from timm.models.densenet import DenseNet
from torch import nn
from torch.nn import functional as F
from torchvision.models.vgg import make_layers

from explainers import Explanandum
from explainers.explanandum.features import NotDefinedError
from explainers.functional import masking
from explainers.methods.full_grad import FullGrad, incompleteness, terms

KNOWN = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def lively(network):
    """The network with biases and statistics as of a trained one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith(("bias", "running_mean")):
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
            elif name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network.eval()


def small(inplace=True, act=nn.ReLU):
    torch.manual_seed(0)
    return lively(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), act(inplace),
            nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, bias=False), act(inplace),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
        )
    )  # fmt: skip


@pytest.fixture
def images():
    return torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "network",
    [
        lambda: create_model("resnet10t", num_classes=4),
        # An activation inside of each batch norm.
        lambda: DenseNet(4, (2, 2), num_classes=4),
        lambda: torchvision.models.DenseNet(4, (2, 2), 8, num_classes=4),
        lambda: nn.Sequential(
            make_layers([8, "M", 16, 16, "M"], batch_norm=True),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(144, 6),
            nn.ReLU(True),
            nn.Linear(6, 4),
        ),
    ],
    ids=["resnet", "timm-densenet", "densenet", "vgg"],
)
def test_terms_sum_to_the_logit(network):
    torch.manual_seed(0)
    explanandum = Explanandum(lively(network()), **KNOWN, input_size=[64, 64])
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    top = explanandum(images).argmax(dim=1, keepdim=True)
    (parts,), logits = terms(explanandum, images, top)
    total = torch.stack([part.flatten(1).sum(dim=1) for part in parts]).sum(dim=0)
    torch.testing.assert_close(total, logits.gather(1, top)[:, 0], rtol=1e-5, atol=1e-5)
    assert incompleteness(explanandum) < 1e-12


def test_terms_by_hand():
    # logit = w relu(g (x + b) / s + c) + d of a single pixel
    network = nn.Sequential(
        nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1, eps=0.0), nn.ReLU(), nn.Flatten(), nn.Linear(1, 2)
    ).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1))
        network[0].bias.fill_(0.5)
        network[1].running_mean.fill_(1.0)
        network[1].running_var.fill_(4.0)
        network[1].weight.fill_(6.0)
        network[1].bias.fill_(2.0)
        network[4].weight.copy_(torch.tensor([[10.0], [1.0]]))
        network[4].bias.copy_(torch.tensor([7.0, 1.0]))
    explanandum = Explanandum(network, mean=[0.0] * 3, std=[1.0] * 3, input_size=[1, 1])
    image = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    (parts,), logits = terms(explanandum, image, torch.tensor([[0]]))
    # The norm gives 3 z + 2 - 3 of z = 1.4 + 0.5.
    torch.testing.assert_close(logits[0], torch.tensor([54.0, 5.7]))
    expected = [[3.0, 12.0, 27.0], [15.0], [-10.0], [7.0, 0.0]]
    for part, values in zip(parts, expected, strict=True):
        torch.testing.assert_close(part.flatten(), torch.tensor(values))


@pytest.mark.parametrize("scaling", ["layer", "channel", "none"])
def test_maps_are_magnitudes_scaled_and_upsampled(images, scaling):
    explanandum = Explanandum(small(), **KNOWN, input_size=[12, 10])
    classes = torch.tensor([[0, 2], [1, 1]])
    found = FullGrad(explanandum, scaling).class_maps(images, classes)
    parts = terms(explanandum, images, classes)[0][1]
    assert [tuple(part.shape[1:]) for part in parts] == [
        (3, 12, 10),
        (4, 12, 10),
        (4, 12, 10),
        (3,),
    ]
    expected = torch.zeros(2, 12, 10)
    for part in parts[:-1]:
        for i in range(2):
            size = part[i].abs()
            if scaling == "layer":
                size = (size - size.min()) / (size.max() - size.min())
            elif scaling == "channel":
                size = masking.minmax(size)
            expected[i] += size.sum(dim=0)
    torch.testing.assert_close(found[:, 1], expected)


def test_coarse_layers_are_upsampled(images):
    network = small()
    network[4].bias = nn.Parameter(torch.ones(5))
    explanandum = Explanandum(network, **KNOWN, input_size=[12, 10])
    target = torch.tensor([[True, False, False]] * 2)
    parts = terms(explanandum, images, torch.zeros(2, 1, dtype=torch.int64))[0][0]
    sums = [part.abs().sum(dim=1, keepdim=True) for part in parts[:-1]]
    assert sums[-1].shape == (2, 1, 4, 3)
    large = [F.interpolate(each, size=(12, 10), mode="bilinear")[:, 0] for each in sums]
    found = FullGrad(explanandum, "none").attribute(images, target)
    torch.testing.assert_close(found, torch.stack(large).sum(dim=0))


def test_changes_in_place_do_not_matter(images):
    classes = torch.tensor([[0], [1]])
    maps = [
        FullGrad(Explanandum(small(inplace), **KNOWN, input_size=[12, 10])).class_maps(
            images, classes
        )
        for inplace in (True, False)
    ]
    torch.testing.assert_close(*maps)


@pytest.mark.parametrize("network", [lambda: small(act=nn.SiLU), lambda: create_model("test_vit")])
def test_networks_with_implicit_biases_are_refused(network):
    torch.manual_seed(0)
    explanandum = Explanandum(network(), **KNOWN)
    before = copy.deepcopy(explanandum.state_dict())
    with pytest.raises(NotDefinedError, match="FullGrad is not complete for"):
        FullGrad(explanandum)
    torch.testing.assert_close(explanandum.state_dict(), before, rtol=0, atol=0)
