"""Ablation-CAM and Score-CAM by hand, and what is not computed again."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.functional import masking
from explainers.methods.cam_ablation import AblationCAM, ScoreCAM
from tests import planted

HEAD = torch.tensor([[2.0, -1.0, 0.3], [-1.0, 3.0, 0.5]])
CLASSES = torch.tensor([[0, 1], [1, 0]])


class Tiny(nn.Module):
    """Features are the channels at half the resolution, logits HEAD times their squared means."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.first, self.features = nn.Identity(), nn.AvgPool2d(2)
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight = nn.Parameter(HEAD.clone())

    def forward(self, images):
        return self.head(self.features(self.first(images)).mean(dim=(2, 3)).square())


@pytest.fixture
def tiny():
    return Explanandum(Tiny(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[8, 12])


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def grown(weights, images):
    """Maps (B, H, W) of weights (B, 3) of the channels."""
    maps = torch.einsum("bc,bchw->bhw", weights, F.avg_pool2d(images, 2)).clamp(min=0)
    return F.interpolate(maps[:, None], scale_factor=2, mode="bilinear")[:, 0]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_ablation_cam_by_hand(tiny, images, batch_size):
    drops = HEAD[CLASSES[:, 0]] * images.mean(dim=(2, 3)).square()  # each channel adds its part
    found = AblationCAM(tiny, "features", batch_size=batch_size).class_maps(images, CLASSES)
    torch.testing.assert_close(found[:, 0], grown(drops, images))
    assert found.amax(dim=(2, 3)).min() > 0
    relative = AblationCAM(tiny, "features", relative=True).class_maps(images, CLASSES)[:, 0]
    score = tiny(images).gather(1, CLASSES[:, :1])
    torch.testing.assert_close(relative, grown(drops / score, images))


@pytest.mark.parametrize("batch_size", [2, 32])
def test_score_cam_by_hand(tiny, images, batch_size):
    found = ScoreCAM(tiny, "features", batch_size).class_maps(images, CLASSES)
    large = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    masks = masking.minmax(large)  # (B, 3, H, W)
    shown = images[:, None] * masks[:, :, None]  # of each channel
    logits = tiny(shown.flatten(0, 1)).view(2, 3, 2)
    for column in range(2):
        scores = torch.stack([logits[i, :, CLASSES[i, column]] for i in range(2)])
        torch.testing.assert_close(found[:, column], grown(scores.softmax(dim=1), images))


@pytest.mark.parametrize("method", [AblationCAM, ScoreCAM])
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_classes_have_their_own_quadrants_in_maps_and_in_tokens(method, kind):
    images, _ = planted.scenes(4)
    found = method(planted.explanandum(kind)).class_maps(images, torch.arange(4)[:, None])[:, 0]
    mass = (found[:, None] * planted.quadrant_masks(32, 32)).sum(dim=(2, 3))
    assert mass.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_ablation_passes_only_the_layers_behind(tiny, images):
    computed = []
    tiny.model.first.forward = lambda values: computed.append(len(values)) or values
    seen = []
    hook = tiny.model.head.register_forward_hook(lambda *call: seen.append(len(call[2])))
    method = AblationCAM(tiny, "features", batch_size=2)
    computed.clear()
    seen.clear()
    method.class_maps(images, CLASSES)
    hook.remove()
    assert computed == [2]
    assert seen == [2, 2, 1, 2, 1]


@pytest.mark.parametrize("method", [AblationCAM, ScoreCAM])
def test_wrong_arguments_are_refused(tiny, method):
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        method(tiny, "features", batch_size=0)
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        method(tiny, "nowhere")
