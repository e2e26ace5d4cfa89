"""What is left of an object that is filled in: the classifier is planted, the truth known."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchmetrics.functional.image import lpips

from explainers.metrics.filled import FilledObjects, ms_ssim
from tests import planted


def measured(images, targets, mask, **arguments):
    subject = planted.explanandum()
    metric = FilledObjects(**arguments)
    found = metric.measure(images=images, targets=targets, mask=mask, explanandum=subject)
    return {name: values.tolist() for name, values in found.items()}


def test_the_class_goes_with_its_object():
    images, targets = torch.full((3, 3, 8, 8), 0.1), torch.zeros(3, 4, dtype=torch.bool)
    images[:, :, 4:, 4:] = 0.2  # the bottom right is second
    images[:, :, :4, :4] = 0.9
    targets[:, 0] = True
    mask = planted.quadrant_masks(8, 8).bool()[[0, 1, 0]]  # the object, another place, none
    mask[2] = False
    found = measured(images, targets, mask, fills=["black"])
    assert found["Filled/clean"][:2] == [1, 1]
    assert found["Filled/black"][:2] == [0, 1]
    assert all(values[2] != values[2] for values in found.values())


def test_a_fill_that_needs_the_hole():
    images, targets = torch.full((1, 3, 8, 8), 0.1), torch.zeros(1, 4, dtype=torch.bool)
    images[:, :, :4, :4] = 0.9
    targets[:, 0] = True
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4, :4] = True
    found = measured(images, targets, mask, fills=["harmonic"])
    assert set(found) == {"Filled/clean", "Filled/harmonic"}  # all quadrants are now alike
    assert found["Filled/clean"] == [1]


def test_the_class_stays_when_its_surroundings_go():
    images, targets = torch.full((2, 3, 8, 8), 0.5), torch.zeros(2, 4, dtype=torch.bool)
    images[:, :, 4:, 4:] = 0.9
    targets[:, 0] = True  # not the brightest quadrant, until that is filled
    mask = planted.quadrant_masks(8, 8).bool()[[0, 3]]
    found = measured(images, targets, mask, fills=["black"], removed="background")
    assert found == {"ObjectOnly/clean": [0, 0], "ObjectOnly/black": [1, 0]}


def test_similarity_of_a_filled_image():
    images, targets = torch.full((1, 3, 176, 176), 0.5), torch.ones(1, 4, dtype=torch.bool)
    mask = planted.quadrant_masks(176, 176).bool()[:1]
    found = measured(images, targets, mask, fills=["harmonic", "black"], ms_ssim=True)
    assert found["MS-SSIM/harmonic"] == [pytest.approx(1, abs=1e-5)]  # nothing has changed
    assert found["MS-SSIM/black"][0] < 0.9
    metric = FilledObjects(["black"], ms_ssim=True)
    assert not metric.direction("MS-SSIM/black")
    assert FilledObjects(["black"], removed="background").direction("ObjectOnly/black")


def test_ms_ssim_of_constant_images_by_hand():
    """Without contrast only the means count, at the coarsest of the five scales."""
    one, other = torch.full((1, 3, 176, 176), 0.5), torch.full((1, 3, 176, 176), 0.25)
    luminance = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
    expected = luminance**0.1333
    assert ms_ssim(one, other).item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="at least 176 pixels"):
        ms_ssim(one[..., :175], other[..., :175])


@pytest.mark.parametrize(
    ("kind", "architecture"), [("squeeze", "squeezenet1_1"), ("alex", "alexnet")]
)
def test_perceptual_distance_with_weights_from_a_file(tmp_path, kind, architecture):
    """The layers, heads and scaling again, from the whole network and the file of the heads."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(architecture, weights=None).eval()
    path = str(tmp_path / "weights.pth")
    torch.save(network.state_dict(), path)
    images = torch.rand(2, 3, 64, 64)
    targets, mask = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 64, 64, dtype=torch.bool)
    metric = FilledObjects(["black"], lpips=path)
    assert metric.direction("LPIPS/black")
    found = measured(images, targets, mask, fills=["black"], lpips=path)["LPIPS/black"]
    heads = torch.load(Path(lpips.__file__).parent / "lpips_models" / f"{kind}.pth", "cpu")
    ends = {"squeeze": [1, 4, 7, 9, 10, 11, 12], "alex": [1, 4, 7, 9, 11]}[kind]
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[..., None, None]
    layers = [2 * torch.cat([images, torch.zeros_like(images)]) - 1]
    layers[0] = (layers[0] - shift) / scale
    expected = torch.zeros(2, dtype=torch.float64)
    for number, layer in enumerate(network.features):
        layers.append(layer(layers[-1]))
        if number in ends:
            one, other = nn.functional.normalize(layers[-1], dim=1).split(2)
            weights = heads[f"lin{ends.index(number)}.model.1.weight"]
            expected += ((one - other) ** 2 * weights[0]).sum(dim=1).mean(dim=(1, 2)).detach()
    assert found == pytest.approx(expected.tolist(), rel=1e-4)
    assert measured(torch.zeros(2, 3, 64, 64), targets, mask, fills=["black"], lpips=path)[
        "LPIPS/black"
    ] == [0, 0]


def test_weights_of_another_network_are_refused(tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    with pytest.raises(ValueError, match="does not hold the weights of AlexNet, SqueezeNet"):
        FilledObjects(["black"], lpips=path)


@pytest.mark.parametrize("fills", [[], ["mean", "mean"], ["nothing"]])
def test_wrong_fills_are_refused(fills):
    with pytest.raises(ValueError, match="fills"):
        FilledObjects(fills)
