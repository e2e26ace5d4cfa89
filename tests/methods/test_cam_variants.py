"""LayerCAM, HiResCAM and XGradCAM by hand, on maps and on tokens."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.methods.cam import GradCAM, HiResCAM, LayerCAM, XGradCAM
from tests import planted

ALL = [LayerCAM, HiResCAM, XGradCAM]
CLASSES = torch.tensor([[0, 1], [1, 0]])


class Weighted(nn.Module):
    """Features are channels at half the resolution; logits weight each position and channel."""

    num_classes = 2

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(2, 3, 4, 6, generator=generator))
        self.features, self.shift = nn.AvgPool2d(2), shift

    def forward(self, images):
        return torch.einsum("kchw,bchw->bk", self.weight, self.features(images - self.shift))


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def weighted(shift: float = 0.0) -> Explanandum:
    return Explanandum(Weighted(shift), mean=[0.0] * 3, std=[1.0] * 3, input_size=[8, 12])


def grown(maps):
    return F.interpolate(maps.clamp(min=0)[:, None], scale_factor=2, mode="bilinear")[:, 0]


def test_by_hand(images):
    explanandum = weighted()
    values = F.avg_pool2d(images, 2)
    grads = explanandum.model.weight[CLASSES[:, 0]]
    shares = (grads * values).sum(dim=(2, 3), keepdim=True) / values.sum(dim=(2, 3), keepdim=True)
    expected = {
        LayerCAM: grads.clamp(min=0) * values,
        HiResCAM: grads * values,
        XGradCAM: shares * values,
    }
    for method, parts in expected.items():
        found = method(explanandum, "features").class_maps(images, CLASSES)[:, 0]
        torch.testing.assert_close(found, grown(parts.sum(dim=1)))
        assert found.max() > 0


def test_a_channel_without_features_has_no_weight():
    images = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    images[:, 1] = 0
    found = XGradCAM(weighted(), "features").class_maps(images, CLASSES[:1])
    assert found.isfinite().all()
    # Grad-CAM and XGrad-CAM agree if the gradient of a channel is the same everywhere.
    explanandum = weighted()
    with torch.no_grad():
        mean = explanandum.model.weight.mean(dim=(2, 3), keepdim=True)
        explanandum.model.weight.copy_(mean.expand(-1, -1, 4, 6))
    maps = [
        method(explanandum, "features").class_maps(images, CLASSES[:1])
        for method in (GradCAM, XGradCAM, HiResCAM)
    ]
    torch.testing.assert_close(maps[1], maps[0])
    torch.testing.assert_close(maps[2], maps[0])


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_classes_have_their_own_quadrants_in_maps_and_in_tokens(method, kind):
    images = torch.full((1, 3, 32, 32), 0.5)
    found = method(planted.explanandum(kind)).class_maps(images, torch.arange(4)[None])[0]
    mass = (found[:, None] * planted.quadrant_masks(32, 32)).sum(dim=(2, 3))
    assert mass.argmax(dim=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ALL)
def test_a_layer_that_does_not_exist_is_refused(method):
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        method(weighted(), "nowhere")
