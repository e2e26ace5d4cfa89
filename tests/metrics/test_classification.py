import numpy as np
import pytest
import torch

from explainers.methods.constant import Constant, GroundTruth
from explainers.metrics.classification import THRESHOLDS, ClassSpecificity, MaskedClassification
from tests import planted


def ground_truth(images):
    explainer = GroundTruth(planted.explanandum())
    masks = planted.quadrant_masks(*images.shape[-2:]).bool()
    explainer.feed(images, masks.expand(len(images), -1, -1, -1))
    return explainer


def specificity(metric, explainer, images, labels):
    index = torch.arange(len(images))
    metric.update(
        index, images=images, labels=labels, explanandum=explainer.explanandum, explainer=explainer
    )
    return metric


def test_cells_are_softmax_probabilities_under_each_class_mask():
    # Quadrant k has brightness .1 (k + 1); the logit is 20 times that, and 0 if it is masked.
    brightness = torch.tensor([0.1, 0.2, 0.3, 0.4])
    images = (planted.quadrant_masks(4, 4) * brightness[:, None, None]).sum(0).expand(1, 3, 4, 4)
    metric = specificity(
        ClassSpecificity([0, "bottom right"]),
        ground_truth(images),
        images,
        torch.tensor([[True, False, False, True]]),
    )
    assert metric.names[:3] == tuple(
        f"ClassSpecificity/0/{c}" for c in ("0", "bottom right", "none")
    )
    own = (
        (20 * brightness[:, None] * torch.eye(4)).double().softmax(1)
    )  # row: the only quadrant left
    clean = (20 * brightness).double().softmax(0)
    expected = [[own[0, 0], own[3, 0], clean[0]], [own[0, 3], own[3, 3], clean[3]]]
    _, values = metric.per_image()
    np.testing.assert_allclose(metric.table(values), expected, rtol=1e-5)
    figures = metric.compute()
    assert figures["ClassSpecificity/own"].item() == pytest.approx(
        (own[0, 0] + own[3, 3]).item() / 2
    )
    assert figures["ClassSpecificity/other"].item() == pytest.approx(
        (own[3, 0] + own[0, 3]).item() / 2
    )
    assert metric.direction("ClassSpecificity/own")
    assert not metric.direction("ClassSpecificity/other")
    assert "bottom right" in metric.details(values)


def test_nine_thresholds_and_maps_that_are_not_masks_are_stretched():
    images, labels = planted.scenes(1, (4, 4))
    explainer = Constant(planted.explanandum(), 0.45)
    shown, none = planted.explanandum()(images).double().softmax(1)[0, 0].item(), 0.25
    values = specificity(ClassSpecificity([0]), explainer, images, labels).per_image()[1]
    np.testing.assert_allclose(THRESHOLDS, np.arange(0.1, 0.95, 0.1))
    assert values["ClassSpecificity/0/0"][0] == pytest.approx((4 * shown + 5 * none) / 9)
    explainer.is_mask = False  # a constant map says nothing and becomes 0
    values = specificity(ClassSpecificity([0]), explainer, images, labels).per_image()[1]
    assert values["ClassSpecificity/0/0"][0] == pytest.approx(none)


def test_images_without_the_class_are_missing():
    images, labels = planted.scenes(4, (4, 4))
    metric = specificity(
        ClassSpecificity(), ground_truth(images), images, labels
    )  # five classes of four
    _, values = metric.per_image()
    known = ~np.isnan(np.stack([values[name] for name in metric.names]).reshape(5, 6, 4))
    for t in range(5):
        for c in range(6):
            assert known[t, c].tolist() == [t == image and c != 4 for image in range(4)]
    assert metric.details(values).count("-") == 6 + 4
    empty = specificity(ClassSpecificity([0]), ground_truth(images), images[1:], labels[1:])
    assert np.isnan(list(empty.compute().values())).all()


def test_unknown_classes_are_named():
    images, labels = planted.scenes(1, (4, 4))
    for wrong in ("dog", 4):
        with pytest.raises(ValueError, match=f"no class {wrong!r} among 4"):
            specificity(ClassSpecificity([wrong]), ground_truth(images), images, labels)


def test_micro_averages_by_hand():
    metric = MaskedClassification(masked_threshold=-1)
    labels = torch.tensor([[True, True, False, False], [False, False, True, False]])
    masked = torch.tensor([[1.0, -0.5, -3.0, -0.9], [-2.0, -2.0, -2.0, -2.0]])
    clean = torch.tensor([[1.0, 1.0, -1.0, -0.9], [2.0, -2.0, 1.0, -2.0]])
    inputs = {"labels": labels, "explanandum": planted.explanandum(multi_label=True)}
    metric.update(torch.arange(2), **inputs, logits=clean, masked_logits=masked)
    _, values = metric.per_image()
    assert [values[f"masked_{c}"].tolist() for c in ("tp", "fp", "fn")] == [[2, 0], [1, 0], [0, 1]]
    assert [values[f"clean_{c}"].tolist() for c in ("tp", "fp", "fn")] == [[2, 1], [0, 1], [0, 0]]
    figures = {name: value.item() for name, value in metric.compute().items()}
    assert figures == {
        "MaskedPrecision": 2 / 3, "MaskedRecall": 2 / 3, "MaskedF1": 2 / 3,
        "CleanPrecision": 3 / 4, "CleanRecall": 1.0, "CleanF1": 6 / 7,
    }  # fmt: skip
    assert tuple(figures) == metric.reports


def test_a_single_label_classifier_predicts_its_top_class():
    images, labels = planted.scenes(4, (4, 4))
    maps = planted.quadrant_masks(4, 4)[[0, 1, 2, 2]]  # the last image keeps the wrong quadrant
    metric = MaskedClassification()
    inputs = {
        "images": images,
        "labels": labels,
        "maps": maps,
        "explanandum": planted.explanandum(),
    }
    metric.update(torch.arange(4), **inputs)
    assert [v.item() for v in metric.compute().values()] == [0.75] * 3 + [1.0] * 3


def test_nothing_predicted_is_missing_not_zero():
    counts = {name: np.zeros(2) for name in MaskedClassification.names}
    assert np.isnan(list(MaskedClassification().aggregate(counts).values())).all()
