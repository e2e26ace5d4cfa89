"""Maps from gradients, and the layers that methods look at."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from explainers import Explanandum
from explainers.explanandum import gradients
from explainers.explanandum.features import NotDefinedError
from explainers.explanandum.gradients import checked_layer, default_layer
from explainers.explanandum.layer_maps import layer_maps
from tests import planted

KINDS = ("maps", "last", "tokens")
HEAD = torch.tensor([[2.0, -1.0, 0.0], [-1.0, 3.0, 0.5]])


class TwoStages(nn.Module):
    """Logits HEAD times the means of the channels, by way of two resolutions."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse, self.act = nn.Identity(), nn.AvgPool2d(2), nn.ReLU()

    def forward(self, images):
        return self.act(self.coarse(self.fine(images))).mean(dim=(2, 3)) @ HEAD.T


def two_stages(layers=("fine", "coarse")) -> Explanandum:
    return Explanandum(
        TwoStages(),
        mean=[0.0] * 3,
        std=[1.0] * 3,
        input_size=[8, 8],
        feature_layers=list(layers) or None,
    )


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def test_layer_maps_are_the_positive_part_of_combined_features(images):
    seen = []

    def combine(values, grads):
        seen.append((values, grads))
        weights = torch.tensor([[1.0, -0.5, 0.0], [-1.0, 0.0, 0.0]])
        return (weights[:, :, None, None] * values).sum(dim=1)

    classes = torch.tensor([[0, 1], [1, 1]])
    found = layer_maps(two_stages(), "coarse", images, classes, combine)
    coarse = F.avg_pool2d(images, 2)
    for column, (values, grads) in enumerate(seen):
        assert torch.equal(values, coarse)
        expected = HEAD[classes[:, column]] / (4 * 6)  # d logit / d feature, the mean over pixels
        torch.testing.assert_close(grads, expected[:, :, None, None].expand(2, 3, 4, 6))
    cam = (coarse[0, 0] - 0.5 * coarse[0, 1]).relu()
    large = F.interpolate(cam[None, None], size=(8, 12), mode="bilinear")[0, 0]
    torch.testing.assert_close(found[0, 0], large)
    torch.testing.assert_close(found[0, 1], large)
    assert not found[1].any()


def test_one_forward_pass_serves_all_classes_and_builds_no_graph_before_the_layer(images):
    explanandum = two_stages()
    assert explanandum.layers  # the trial is over
    outputs = []
    explanandum.model.fine.register_forward_hook(lambda *call: outputs.append(call[2]))
    layer_maps(
        explanandum,
        "act",
        images.requires_grad_(),
        torch.tensor([[0, 1, 0]] * 2),
        lambda values, grads: (grads * values).sum(dim=1),
    )
    assert len(outputs) == 1
    assert not outputs[0].requires_grad
    assert images.grad is None


def test_pyramid_maps_by_hand(images):
    images[1] = images[1].mean()  # nothing stands out anywhere
    found = gradients.pyramid_maps(two_stages(), images, torch.tensor([[0, 1], [0, 1]]))
    assert found[1].abs().max() < 1e-3
    for k, odds in enumerate([HEAD[0] - HEAD[1], HEAD[1] - HEAD[0]]):  # d log-odds / d means
        fine = torch.einsum("c,chw->hw", odds, images[0]).clamp(min=0)
        coarse = torch.einsum("c,chw->hw", odds, F.avg_pool2d(images[0], 2)).clamp(min=0)
        fine, coarse = ((m - m.mean()) / m.std(correction=0) for m in (fine, coarse))
        total = fine + F.interpolate(coarse[None, None], scale_factor=2, mode="bilinear")[0, 0]
        expected = (total - total.mean()) / total.std(correction=0)
        torch.testing.assert_close(found[0, k], expected, rtol=1e-4, atol=1e-5)


def test_standardised_maps_by_hand():
    maps = torch.tensor([[[1.0, 3.0], [1.0, 3.0]], [[5.0, 5.0], [5.0, 5.0]]])
    expected = [[[-1, 1], [-1, 1]], [[0, 0], [0, 0]]]
    assert gradients.standardise(maps).tolist() == expected


@pytest.mark.parametrize(
    ("name", "last", "middle"),
    [
        ("test_resnet", "layer4", "layer2"),
        ("test_vit", "blocks.5.norm1", "blocks.2"),
        ("test_efficientnet", "bn2", "blocks.2"),
        ("test_convnext", "norm_pre", "stages.1"),
        ("torchvision/resnet18", "layer4", "layer2"),
        ("torchvision/squeezenet1_1", "classifier.2", "features.4"),
    ],
)
def test_default_layers_of_known_networks(name, last, middle):
    torch.manual_seed(0)
    explanandum = Explanandum(name, num_classes=3, input_size=[160, 160])
    assert default_layer(explanandum) == last
    assert default_layer(explanandum, "middle") == middle


def test_named_layers_come_first():
    explanandum = planted.explanandum()
    assert (default_layer(explanandum), default_layer(explanandum, "middle")) == (
        "stages.3",
        "stages.1",
    )
    assert default_layer(planted.explanandum("vit")) == "block"


def test_the_last_layer_is_found_by_a_trial_if_none_is_named():
    assert default_layer(two_stages(layers=())) == "act"
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    with pytest.raises(NotDefinedError, match=r"no known spatial features: set layer .*'0', '1'"):
        default_layer(Explanandum(flat, num_classes=2, input_size=[8, 8]))


def test_a_layer_is_checked_and_none_is_the_default():
    explanandum = two_stages()
    assert checked_layer(explanandum, "act") == "act"
    assert checked_layer(explanandum, None) == "coarse"
    assert checked_layer(explanandum, None, "middle") == "fine"
    with pytest.raises(ValueError, match=r"no module 'layer9'.*'act'"):
        checked_layer(explanandum, "layer9")


class Turned(nn.Module):
    """The same network with its maps, channels-last maps or tokens as outputs of three layers."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 4)
        self.maps, self.last, self.tokens = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, images):
        x = self.last(self.maps(self.first(images)).movedim(1, -1))
        x = self.tokens(x.flatten(1, 2))
        return self.head((x.sigmoid() + x.square()).mean(dim=1))


def turned(**arguments) -> Explanandum:
    torch.manual_seed(0)
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3, "input_size": [32, 32], **arguments}
    return Explanandum(Turned(), **plain)


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])  # with 8 channels: as many as rows
def test_maps_are_the_same_whatever_the_layout_of_the_layer(size):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([[0, 3], [2, 1]])
    found = [
        layer_maps(
            turned(), layer, images, classes, lambda values, grads: (values * grads).sum(dim=1)
        )
        for layer in KINDS
    ]
    assert found[0].max() > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-8)
    stages = [gradients.pyramid_maps(turned(feature_layers=[n]), images, classes) for n in KINDS]
    for other in stages[1:]:
        torch.testing.assert_close(other, stages[0], rtol=1e-4, atol=1e-4)


def test_a_layer_without_positions_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    explanandum = Explanandum(network, mean=[0.0] * 3, std=[1.0] * 3, input_size=[32, 32])
    assert checked_layer(explanandum, None) == "0"
    with pytest.raises(ValueError, match="layer '1' has a single position for images of 32 x 32"):
        checked_layer(explanandum, "1")
    with pytest.raises(ValueError, match=r"layer '2' gives \(5, 4\) for 5 images: name a layer"):
        checked_layer(explanandum, "2")


def test_the_last_layer_of_a_vit_is_where_other_tokens_still_count():
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 6, 2, 16, 32, num_classes=3)
    nn.init.normal_(network.heads.head.weight)
    explanandum = Explanandum(network, mean=[0.0] * 3, std=[1.0] * 3, input_size=[32, 32])
    assert default_layer(explanandum) == "encoder.layers.encoder_layer_5.ln_1"
    assert default_layer(explanandum, "middle") == "encoder.layers.encoder_layer_2"


def test_default_layers_have_more_than_one_position():
    explanandum = planted.explanandum()  # its stages have strides 2 to 16
    small = Explanandum(
        explanandum.model,
        mean=[0.0] * 3,
        std=[1.0] * 3,
        input_size=[8, 8],
        feature_layers=explanandum.feature_layers,
    )
    assert (default_layer(small), default_layer(small, "middle")) == ("stages.1", "stages.0")
