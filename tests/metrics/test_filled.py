"""What is left of an object that is filled in: the classifier is planted, the truth known."""

import pytest
import torch

from explainers.metrics.filled import FilledObjects
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


@pytest.mark.parametrize("fills", [[], ["mean", "mean"], ["nothing"]])
def test_wrong_fills_are_refused(fills):
    with pytest.raises(ValueError, match="fills"):
        FilledObjects(fills)
