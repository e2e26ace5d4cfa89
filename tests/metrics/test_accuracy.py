import numpy as np
import pytest
import torch
from torch.nn import functional as F

from explainers.metrics.accuracy import ClassifierAccuracy, sentence


def judged(logits, labels, multi_label=False, expected=None):
    metric = ClassifierAccuracy(multi_label)
    metric.update(torch.arange(len(logits)), labels=labels, logits=logits)
    return metric.judge(expected)


def answers(predicted, labels, classes):
    """Logits and multi-hot labels of a single-label classifier, from class indices."""
    one_hot = F.one_hot(torch.tensor([*predicted, *labels]), classes)
    return one_hot[: len(predicted)].float(), one_hot[len(predicted) :].bool()


def test_the_accuracy_has_wilsons_interval():
    found = judged(*answers([0] * 8 + [1] * 2, [0] * 8 + [0] * 2, 4))
    assert (found["figure"], found["value"], found["images"]) == ("top-1", 0.8, 10)
    # (p + z^2 / 2n +- z sqrt(p q / n + z^2 / 4n^2)) / (1 + z^2 / n), with z = 1.96
    np.testing.assert_allclose(found["ci95"], [0.4902, 0.9433], atol=1e-4)
    assert sentence(found) == "top-1 80.0 % [49.0, 94.3]"
    assert found["problem"] is None


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_classes_in_another_order_are_below_chance(shift):
    labels = [k % 4 for k in range(40)]
    found = judged(*answers([(k + shift) % 4 for k in labels], labels, 4))
    assert found["value"] == 0
    assert found["problem"] == "it is not above chance (25.0 %)"


def test_a_classifier_that_always_says_the_same_is_noticed():
    labels = [0] * 90 + [1] * 10
    found = judged(*answers([0] * 100, labels, 3))
    assert found["value"] == 0.9
    assert found["problem"] == "it predicts class 0 for every image"
    assert judged(*answers([0] * 90, [0] * 90, 3))["problem"] is None  # and rightly so


def test_it_is_compared_with_what_is_known():
    labels = [k % 4 for k in range(100)]
    right = answers(labels[:70] + [(k + 1) % 4 for k in labels[70:]], labels, 4)
    assert judged(*right, expected=0.75)["problem"] is None
    assert (
        judged(*right, expected=0.9)["problem"] == "it is below the 90.0 % that it is known to have"
    )


def test_f1_of_a_multi_label_classifier():
    labels = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool().repeat(20, 1)
    logits = torch.tensor([[2.0, -1.0, -1.0], [1.0, -1.0, 3.0]]).repeat(20, 1)
    found = judged(logits, labels, multi_label=True)
    assert (found["figure"], found["value"]) == ("F1", pytest.approx(2 / 3))  # 40 tp, 20 fp, 20 fn
    # Predicting every class: 60 tp, 60 fp, no fn.
    assert found["problem"] == "it is not above chance (66.7 %)"
    perfect = judged(torch.where(labels, 1.0, -1.0), labels, multi_label=True)
    assert (perfect["value"], perfect["ci95"], perfect["problem"]) == (1, [1, 1], None)


def test_images_without_a_label_or_a_finite_answer_do_not_count():
    logits, labels = answers([0, 1, 1, 2], [0, 1, 1, 2], 3)
    logits[0, 1] = torch.nan
    labels[3] = False
    assert judged(logits, labels)["images"] == 2
    nothing = judged(logits[:1], labels[:1])
    assert (nothing["images"], nothing["value"], nothing["problem"]) == (0, None, None)
