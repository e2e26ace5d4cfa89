"""Mean and std: what may be given, what is assumed, and gray images."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import Normalize

from explainers import Explanandum
from explainers.explanandum import normalization
from explainers.explanandum.classifier import Classifier
from tests.tiny import KNOWN, Tiny, images

WRONG = [
    ("mean", [123.7, 116.3, 103.5], r"must lie in \[0, 1\], got .*: divide values for 0..255 by"),
    ("std", [58.4, 57.1, 57.4], "must lie above 0 and at most 1, got .*: divide values for 0..255"),
    ("mean", [-0.1, 0.5, 0.5], r"must lie in \[0, 1\], got \[-0.1, 0.5, 0.5\]$"),
    ("std", [0.0, 0.1, 0.1], r"must lie above 0 and at most 1, got \[0.0, 0.1, 0.1\]$"),
    ("std", [-0.2] * 3, "must lie above 0"),
    ("mean", [math.nan] * 3, r"must lie in \[0, 1\]"),
    ("std", [math.inf] * 3, "must lie above 0"),
    ("mean", [0.5], r"must have 3 values, one for each input channel of the network, got \[0.5\]"),
    ("mean", [0.5] * 4, "must have 1 or 3 values"),
    ("std", [], r"must have 1 or 3 values, .* got \[\]"),
    ("std", 0.5, "must have 1 or 3 values, .* got 0.5"),
    ("mean", "0.5", "must have 1 or 3 values"),
]


@pytest.mark.parametrize(("name", "values", "told"), WRONG)
@pytest.mark.parametrize("kind", [Explanandum, Classifier])
def test_what_is_no_mean_or_std_is_refused(kind, name, values, told):
    arguments = {"num_classes": 4, **KNOWN, name: values}
    with pytest.raises(ValueError, match=f"{name} .*{told}"):
        kind(Tiny(), **arguments)


def test_a_network_of_bytes_is_told_by_its_std():
    explanandum = Explanandum(Tiny(), mean=[0.0] * 3, std=[1 / 255] * 3)
    assert explanandum.normalize(torch.ones(1, 3, 2, 2)).unique().tolist() == pytest.approx([255])


ASSUMED = r"the normalization of Tiny is not known: ImageNet's "


def test_what_is_assumed_is_said():
    with pytest.warns(UserWarning, match=ASSUMED + r"mean \[0.485, 0.456, 0.406\] and std \[0.229"):
        explanandum = Explanandum(Tiny())
    torch.testing.assert_close(explanandum.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    with pytest.warns(UserWarning, match=ASSUMED + r"std \[0.229, 0.224, 0.225\] are assumed"):
        Explanandum(Tiny(), mean=[0.5] * 3)


def test_own_weights_of_a_library_s_architecture_have_an_unknown_normalization(tmp_path, recwarn):
    source = Explanandum("test_resnet", num_classes=2)
    torch.save(source.model.state_dict(), tmp_path / "own.pth")
    assert not recwarn  # timm knows what it trained
    with pytest.warns(UserWarning, match=r"of ResNet is not known: its library's mean \[0.5"):
        Explanandum("test_resnet", num_classes=2, weights=str(tmp_path / "own.pth"))
    recwarn.clear()
    Explanandum("test_resnet", num_classes=2, weights=str(tmp_path / "own.pth"), **KNOWN)
    Explanandum(**source.config)
    assert not recwarn


class Kornia(nn.Module):
    """Normalizes as the layers of other libraries do, with buffers."""

    def __init__(self, names=("mean", "std")):
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.full((1, 3, 1, 1), 0.5))

    def forward(self, x):
        return (x - 0.5) / 0.5


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(Normalize([0.5] * 3, [0.5] * 3), Tiny()),
        nn.Sequential(Kornia(), Tiny()),
        nn.DataParallel(nn.Sequential(Kornia(("pixel_mean", "pixel_std")), Tiny())),
        Classifier(Tiny(), 4),
        Explanandum(Tiny(), **KNOWN),
    ],
)
def test_nothing_is_normalized_twice(network):
    with pytest.raises(ValueError, match=r"normalizes its input itself .* set mean: \[0, 0, 0\]"):
        Explanandum(network)
    own = Explanandum(network, mean=[0.0] * 3, std=[1.0] * 3)
    torch.testing.assert_close(own(images()), network(images()))


GRAY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601


@pytest.mark.parametrize("multi_label", [False, True])
def test_gray_images_are_made_inside(multi_label):
    network = Tiny(channels=1)
    explanandum = Explanandum(network, mean=[0.3], std=[0.2], multi_label=multi_label)
    gray = (images() * GRAY).sum(dim=1, keepdim=True)
    torch.testing.assert_close(explanandum(images()), network((gray - 0.3) / 0.2))
    assert explanandum.mean.shape == explanandum.std.shape == (1, 3, 1, 1)
    assert explanandum.config["mean"] == pytest.approx([0.3])
    again = Explanandum(network, **{k: explanandum.config[k] for k in ("mean", "std")})
    assert torch.equal(again(images()), explanandum(images()))
    with pytest.raises(ValueError, match=r"mean must have 1 values, .* got \[0.3, 0.3, 0.3"):
        Explanandum(network, mean=[0.3] * 3, std=[0.2])


def test_libraries_build_gray_networks():
    arguments = {"model": "test_resnet", "model_args": {"in_chans": 1}, "num_classes": 2}
    with pytest.warns(UserWarning, match=r"its library's mean \[0.5\] and std \[0.5\] are assumed"):
        explanandum = Explanandum(**arguments)
    classifier = Classifier(**arguments).eval()
    classifier.network.load_state_dict(explanandum.model.state_dict())
    torch.testing.assert_close(classifier(images()), explanandum(images()))
    with pytest.raises(ValueError, match="takes 5 channels; only RGB"):
        Explanandum("test_resnet", model_args={"in_chans": 5})


def test_integers_and_other_shapes_are_no_images():
    explanandum = Explanandum(Tiny(), **KNOWN)
    with pytest.raises(ValueError, match=r"float images in \[0, 1\], got torch.uint8: divide by"):
        explanandum(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"shape \(B, 3, H, W\), got \(1, 1, 8, 8\)"):
        explanandum(torch.zeros(1, 1, 8, 8))


def test_low_precision_images_are_normalized_in_float32():
    found = normalization.normalize(
        images().bfloat16(), normalization.plane([0.485]), normalization.plane([0.229])
    )
    torch.testing.assert_close(found, (images().bfloat16().float() - 0.485) / 0.229)


@pytest.mark.parametrize("make", [torch.tensor, np.array, tuple], ids=["torch", "numpy", "tuple"])
def test_values_may_come_as_an_array(make):
    values = normalization.channel_values("mean", make([0.5, 0.25, 0.0]))
    assert values == [0.5, 0.25, 0.0]
