"""Residual networks for CIFAR: sizes, the shortcut without parameters, and the real weights."""

from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from datamodules.images import read_image
from explainers import Explanandum
from explainers.explanandum.cifar_resnet import PaddedShortcut, cifar_resnet

DATA = Path(__file__).parents[2].parent / "shared" / "data"
MODEL = "explainers.explanandum.cifar_resnet:cifar_resnet"
SETTINGS = {
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "input_size": [32, 32],
}


@pytest.mark.parametrize(
    ("depth", "bottleneck", "convolutions", "millions"),
    # Numbers of parameters: He et al., CVPR 2016, table 6; 1.7 M of ResNet-164: ECCV 2016, table 4.
    [(20, False, 19, 0.27), (56, False, 55, 0.85), (164, True, 163 + 3, 1.7)],
)
def test_the_published_numbers_of_layers_and_parameters(depth, bottleneck, convolutions, millions):
    network = cifar_resnet(depth, bottleneck=bottleneck)
    kinds = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(kinds) == convolutions  # the last layer is linear; three shortcuts are convolutions
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01 if millions < 1 else 0.05)


def test_the_shortcut_takes_every_second_pixel_between_zeros():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    found = PaddedShortcut(2)(maps)
    assert found.shape == (1, 3, 2, 2)
    assert found[0, 1].tolist() == [[0, 2], [8, 10]]
    assert not found[0, [0, 2]].any()


def test_its_stages_are_found_and_weights_are_missing():
    explanandum = Explanandum(MODEL, model_args={"depth": 20}, **SETTINGS)
    assert explanandum.untrained
    assert explanandum.class_names[-1] == "class 9"
    levels, logits = explanandum.features_and_logits(torch.rand(2, 3, 32, 32))
    assert [tuple(level.shape[1:]) for level in levels] == [(32, 16, 16), (64, 8, 8)]
    assert logits.shape == (2, 10)


@pytest.mark.parametrize(("depth", "bottleneck"), [(18, False), (2, False), (60, True)])
def test_other_depths_are_refused(depth, bottleneck):
    with pytest.raises(ValueError, match=f"depth must be {9 if bottleneck else 6}n \\+ 2, got"):
        cifar_resnet(depth, bottleneck=bottleneck)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_real_weights_know_all_their_training_images():
    weights = DATA / "weights" / "cifar10_resnet20.safetensors"
    explanandum = Explanandum(MODEL, str(weights), num_classes=10, **SETTINGS)
    folder = DATA / "cifar10-sample" / "train_png"
    right = []
    for label, each in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        images = torch.stack([read_image(str(path)) for path in sorted(each.iterdir())])
        top = explanandum(F.to_dtype(images, torch.float32, scale=True)).argmax(dim=1)
        right += (top == label).tolist()
    assert len(right) == 600
    assert all(right)
