"""What is left of an object that is filled in: the classifier is planted, the truth known."""

import pytest
import torch

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


@pytest.mark.parametrize("fills", [[], ["mean", "mean"], ["nothing"]])
def test_wrong_fills_are_refused(fills):
    with pytest.raises(ValueError, match="fills"):
        FilledObjects(fills)
