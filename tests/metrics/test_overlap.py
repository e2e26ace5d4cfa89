"""Overlap of the maps of two labels, by hand."""

import pytest
import torch

from explainers.base import Explainer
from explainers.methods.constant import CentredGaussian, Constant
from explainers.metrics.overlap import LabelOverlap, top_overlap
from tests import planted


class Quadrant(Explainer):
    """The quadrant of the class; that of class 3 is not finite."""

    def attribute(self, images, targets):
        masks = planted.quadrant_masks(*images.shape[-2:])[targets.int().argmax(dim=1)]
        return masks.masked_fill(targets[:, 3, None, None], torch.nan)


def value(method, labels, **arguments):
    explainer = method(planted.explanandum())
    shown = torch.zeros(1, 4, dtype=torch.bool)
    shown[0, labels] = True
    metric = LabelOverlap(**arguments)
    images = torch.rand(1, 3, 8, 8)
    return metric.measure(images=images, labels=shown, explainer=explainer)["LabelOverlap"].item()


def test_the_overlap_of_the_highest_pixels():
    one = torch.arange(10.0).view(1, 2, 5)
    assert top_overlap(one, one, 0.3).item() == 1
    assert top_overlap(one, -one, 0.3).item() == 0
    # The highest 5 of each are pixels 5 to 9 and 3 to 7: three of seven.
    assert top_overlap(one, one.roll(-2), 0.5).item() == pytest.approx(3 / 7)
    assert top_overlap(one, one.masked_fill(one == 0, torch.nan), 0.3).isnan().item()


def test_maps_of_separate_places_and_of_one_place():
    assert value(Quadrant, [0, 1], share=0.25) == 0
    assert value(CentredGaussian, [0, 1, 2]) == 1
    assert value(Constant, [1, 2]) == 1


def test_the_pairs_are_averaged():
    class Pairs(Quadrant):
        """Classes 0 and 1 share a quadrant."""

        def attribute(self, images, targets):
            return super().attribute(images, targets.roll(0) if not targets[0, 1] else FIRST)

    FIRST = torch.tensor([[True, False, False, False]])
    assert value(Pairs, [0, 1, 2], share=0.25) == pytest.approx(1 / 3)


def test_one_label_and_no_map_have_no_value():
    assert value(Quadrant, [2]) != value(Quadrant, [2])
    assert value(Quadrant, [2, 3]) != value(Quadrant, [2, 3])


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="share must lie between 0 and 1"):
        LabelOverlap(share)
