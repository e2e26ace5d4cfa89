"""Tokens as maps, and which maps make the pyramid."""

import pytest
import torch
from timm.models import create_model
from torch import nn
from torchvision.models import get_model

from explainers import Explanandum
from explainers.explanandum import features
from tests import planted


def test_five_blocks_of_a_vit_are_evenly_spaced():
    assert features.five_of(list(range(12))) == [2, 4, 6, 8, 10]
    assert features.five_of(list(range(24))) == [4, 8, 12, 16, 20]
    assert features.five_of(list(range(6))) == [1, 2, 3, 4, 5]
    assert features.five_of(["only"]) == ["only"] * 5


def classifier(model, **arguments):
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3, "input_size": [64, 96], **arguments}
    return Explanandum(model, **plain)


def test_stages_are_the_named_ones_or_timm_s():
    resnet = create_model("test_resnet", num_classes=3)
    assert features.stages(classifier(resnet)) == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert features.stages(classifier(resnet, feature_layers=["conv1"])) == ["conv1"]
    vit = create_model("deit_tiny_patch16_224", embed_dim=24, num_classes=3, img_size=(64, 96))
    assert features.stages(classifier(vit)) == [f"blocks.{i}" for i in range(12)]
    assert features.five_stages(classifier(vit)) == [f"blocks.{i}" for i in (2, 4, 6, 8, 10)]
    with pytest.raises(ValueError, match=r"layer 'head' gives \(5, 3\) for 5 images: name"):
        features.stages(classifier(vit, feature_layers=["blocks.1", "head"]))


KNOWN = {
    "alexnet": ["features.1", "features.4", "features.11", "features"],
    "resnet18": ["relu", "layer1", "layer2", "layer3", "layer4"],
    "densenet121": [
        "features.relu0",
        *[f"features.denseblock{i}" for i in (1, 2, 3)],
        "features",
    ],
    "mobilenet_v3_small": ["features.0", "features.1", "features.3", "features.8", "features"],
    "shufflenet_v2_x0_5": ["conv1", "maxpool", "stage2", "stage3", "conv5"],
    "regnet_y_400mf": ["stem", *[f"trunk_output.block{i}" for i in (1, 2, 3)], "trunk_output"],
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("wrapped", [False, True])
def test_stages_of_torchvision_s_classifiers_are_found_by_a_trial(name, wrapped):
    torch.manual_seed(0)
    network = get_model(name, weights=None, num_classes=3)
    inner = nn.ModuleDict({"net": network})
    inner.forward = lambda images: network(images)
    explanandum = classifier(inner if wrapped else network)
    prefix = "net." if wrapped else ""
    assert explanandum.sources.names == [prefix + stage for stage in KNOWN[name]]
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        levels, logits = explanandum.features_and_logits(images)
        assert torch.equal(logits, explanandum(images))
    assert [round(96 / level.shape[-1]).bit_length() - 1 for level in levels] == (
        [2, 3, 4, 5] if name == "alexnet" else [1, 2, 3, 4, 5]
    )


class Encoder(nn.Module):
    """Tokens of patches and one of the class, through blocks that add a tenth of the mean."""

    def __init__(self, blocks: int = 12) -> None:
        super().__init__()
        self.num_classes = 4
        self.patch = nn.Conv2d(3, 4, 8, 8)
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(blocks)])

    def forward(self, images):
        x = self.patch(images).flatten(2).mT
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        for layer in self.layers:
            x = layer(x + 0.1 * x.mean(dim=1, keepdim=True))
        return x[:, 0]


def test_blocks_of_one_resolution_are_found_side_by_side_and_laid_out():
    torch.manual_seed(0)
    explanandum = classifier(Encoder())
    assert features.stages(explanandum) == [f"layers.{i}" for i in range(12)]
    assert explanandum.layers["layers.3"].layout[:3] == ("tokens", (8, 12), 1)
    levels = explanandum.features(torch.rand(2, 3, 48, 64))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (4, 48 // s, 64 // s) if s < 32 else (4, 2, 2) for s in (2, 4, 8, 16, 32)
    ]


class Around(nn.Module):
    """Two branches, neither of which decides alone."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 2, 2, 2), nn.Conv2d(3, 2, 4, 4)

    def forward(self, images):
        return self.one(images).mean(dim=(2, 3)) + self.two(images).mean(dim=(2, 3))


def test_stages_that_do_not_decide_alone_are_not_defined():
    for network in (Around(), nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 96, 2))):
        with pytest.raises(features.NotDefinedError, match="no known stages: name them"):
            features.stages(classifier(network))
        with pytest.raises(features.NotDefinedError, match="feature_layers"):
            classifier(network).features(torch.rand(1, 3, 64, 96))
    named = classifier(Around(), feature_layers=["one", "two"])
    assert [level.shape[-1] for level in named.features(torch.rand(1, 3, 64, 96))] == [48, 24]


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "pit_ti_224", "visformer_tiny"])
def test_families_of_timm_whose_stages_are_no_maps_are_refused_or_work(name):
    torch.manual_seed(0)
    explanandum = Explanandum(name, num_classes=3)
    images = torch.rand(1, 3, *explanandum.input_size)
    with torch.no_grad():
        levels, logits = explanandum.features_and_logits(images)
        torch.testing.assert_close(logits, explanandum(images))
    assert all(level.ndim == 4 for level in levels)
    if name == "crossvit_tiny_240":
        with pytest.raises(features.NotDefinedError, match="no known stages"):
            features.stages(explanandum)
    else:
        assert len(features.stages(explanandum)) > 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_stages_do_not_depend_on_the_dtype_or_on_the_weights(dtype):
    torch.manual_seed(1)
    network = get_model("mobilenet_v3_small", weights=None, num_classes=3).to(dtype)
    assert classifier(network).sources.names == KNOWN["mobilenet_v3_small"]


def test_a_falling_pyramid_passes_and_the_last_map_of_each_resolution_is_kept():
    assert features.selected([(16, 24), (8, 12), (4, 6)]) == ([0, 1, 2], False)
    assert features.selected([(9, 9), (8, 8), (8, 8), (8, 8), (4, 4), (4, 4)]) == ([0, 3, 5], False)
    assert features.selected([(7, 7)]) == ([0], False)
    assert features.selected([(4, 6)] * 12) == ([2, 4, 6, 8, 10], True)


def test_one_resolution_is_resized_to_five():
    levels = [torch.full((1, 1, 4, 4), float(i)) for i in range(5)]
    found = features.at_strides(levels, torch.Size([33, 64]))
    sizes = [(17, 32), (9, 16), (5, 8), (3, 4), (2, 2)]
    assert [tuple(level.shape[-2:]) for level in found] == sizes
    assert [level.unique().item() for level in found] == [0, 1, 2, 3, 4]
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    wide = features.at_strides([ramp] * 5, torch.Size([16, 16]))[0]
    assert wide[0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # by nearest neighbor


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_the_number_of_levels_does_not_depend_on_the_size_of_the_images(name):
    arguments = {"model_args": {"dynamic_img_size": True}} if name == "test_vit" else {}
    explanandum = Explanandum(name, num_classes=3, **arguments)
    for side in (1, 2, 3, 17) if name != "test_vit" else (32, 48):
        assert len(explanandum.features(torch.rand(1, 3, side, side))) == 5


def test_the_stages_are_found_once():
    explanandum = planted.explanandum()
    passes = []
    hook = explanandum.model.register_forward_hook(lambda *_: passes.append(1))
    first = features.five_stages(explanandum)
    found = len(passes)
    assert found
    assert features.five_stages(explanandum) == first
    assert len(passes) == found
    hook.remove()
