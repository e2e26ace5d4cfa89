"""Accuracy of classifiers: classes that no image shows do not count."""

import pytest
import torch

from explainers.explanandum.accuracy import MeanAveragePrecision, accuracy_metrics

# Class 0: wrong, right, so precision 1/2 at the only positive. Class 1: right, wrong,
# right, so (1 + 2/3) / 2. No image shows class 2.
SCORES = torch.tensor([[0.9, 0.9, 0.4], [0.2, 0.5, 0.3], [0.5, 0.7, 0.2]])
TARGETS = torch.tensor([[0, 1, 0], [0, 1, 0], [1, 0, 0]])


def test_average_precision_of_classes_with_images():
    metric = MeanAveragePrecision(3)
    metric.update(SCORES[:2], TARGETS[:2])
    metric.update(SCORES[2:], TARGETS[2:])
    with pytest.warns(UserWarning, match="2 of 3 classes"):
        assert float(metric.compute()) == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert metric.higher_is_better


def test_without_any_label_there_is_no_mean():
    metric = MeanAveragePrecision(3)
    metric.update(SCORES, torch.zeros_like(TARGETS))
    with pytest.warns(UserWarning, match="0 of 3 classes"):
        assert metric.compute().isnan()


def test_the_mean_is_the_one_of_a_multi_label_classifier():
    metrics = accuracy_metrics(2, multi_label=True)
    metrics.update(SCORES[:, :2], TARGETS[:, :2])
    assert float(metrics.compute()["map"]) == pytest.approx((1 / 2 + 5 / 6) / 2)
