import math

import pytest
import torch

from explainers.metrics.saliency import MaskSaliency
from explainers.metrics.seconds import Seconds
from tests import planted

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).log_softmax(1)


def saliency(maps, targets, activation="softmax", multi_label=True):
    metric = MaskSaliency(activation)
    explanandum = planted.explanandum(multi_label=multi_label)
    inputs = {"maps": maps, "targets": torch.tensor([targets]), "explanandum": explanandum}
    return metric.measure(**inputs, masked_logits=LOGITS)["MaskSaliency"].item()


def test_by_hand():
    p = LOGITS[0].exp().tolist()
    maps = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    one, two = [True, False, False, False], [True, True, False, False]
    assert saliency(maps, one) == pytest.approx(math.log(0.375) - math.log(p[0]))
    assert saliency(maps, two) == pytest.approx(math.log(0.375) - math.log(p[0] + p[1]))
    assert saliency(maps * 0, one) == pytest.approx(math.log(0.05) - math.log(p[0]))  # the floor


def test_sigmoid_only_if_asked_for_and_the_classifier_has_one():
    maps, both = torch.ones(1, 2, 2), [True, True, False, False]
    s = LOGITS[0].sigmoid().tolist()
    assert saliency(maps, both, "model") == pytest.approx(-math.log(s[0] + s[1]), rel=1e-6)
    assert saliency(maps, both, "model", multi_label=False) == saliency(maps, both)
    with pytest.raises(ValueError, match="activation"):
        MaskSaliency("sigmoid")


def test_hopeless_classes_stay_finite_and_no_target_is_missing():
    metric = MaskSaliency()
    logits = torch.tensor([[900.0, -900.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    targets = torch.tensor([[False, True, False, False], [False] * 4])
    inputs = {"maps": torch.ones(2, 2, 2), "explanandum": planted.explanandum()}
    values = metric.measure(**inputs, targets=targets, masked_logits=logits)["MaskSaliency"]
    assert values[0].item() == 1800
    assert values[1].isnan()


def test_masked_logits_are_computed_from_images_under_the_maps_if_not_given():
    images, targets = planted.scenes(2, (4, 4))
    explanandum = planted.explanandum()
    maps = planted.quadrant_masks(4, 4)[:2]
    values = MaskSaliency().measure(
        maps=maps, images=images, targets=targets, explanandum=explanandum
    )
    shown = explanandum(images * maps[:, None]).double().log_softmax(1)
    expected = math.log(0.25) - shown.diagonal()
    torch.testing.assert_close(values["MaskSaliency"], expected)


def test_seconds_are_passed_on():
    metric = Seconds()
    metric.update(torch.tensor([0, 1]), seconds=torch.tensor([0.25, 0.75]))
    assert metric.compute() == {"seconds": 0.5}
    assert not metric.direction("seconds")
