"""Which images are explained, and for which classes."""

from types import SimpleNamespace

import pytest
import torch

from explainers.evaluation.targets import check_choice, choose_targets, class_ids, take
from tests import planted

LOGITS = torch.tensor([[0.1, 3.0, 2.0, -1.0], [-4.0, -3.0, -2.0, -1.0]])


def chosen(choice, labels=None, multi_label=False, logits=LOGITS):
    targets = choose_targets(choice, planted.explanandum("cnn", multi_label), logits, labels)
    assert targets.dtype == torch.bool
    return class_ids(targets)


def test_the_prediction_is_the_top_class_or_all_above_a_half():
    assert chosen("predicted") == [[1], [3]]
    assert chosen("predicted", multi_label=True) == [[0, 1, 2], [3]]  # never nothing


def test_labels_are_taken_as_they_are():
    labels = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    for multi_label in (False, True):
        assert chosen("label", labels, multi_label) == [[1, 3], []]


def test_the_runner_up_of_the_prediction():
    assert chosen("second") == [[2], [2]]
    assert chosen("second", labels=torch.eye(4)[:2]) == [[2], [2]]


def test_choices_that_do_not_suit_say_why():
    with pytest.raises(ValueError, match="needs labelled data"):
        chosen("label")
    with pytest.raises(ValueError, match="single-label classifier of at least two"):
        chosen("second", multi_label=True)
    with pytest.raises(ValueError, match="single-label classifier of at least two"):
        check_choice("second", SimpleNamespace(multi_label=False, num_classes=1))
    for choice in ("predicted", "label", "second"):
        with pytest.raises(ValueError, match="data have 3 classes, the explanandum 4"):
            chosen(choice, labels=torch.eye(3)[:2])


def test_ids_of_several_one_and_no_class():
    targets = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]]).bool()
    assert class_ids(targets) == [[0, 2], [1], []]


def test_take_picks_the_rows_in_their_order_and_passes_on_the_rest():
    batch = {
        "image": torch.arange(6).view(3, 2),
        "name": ["a", "b", "c"],
        "pair": (1, 2, 3),
        "kind": "test",
        "none": None,
    }
    taken = take(batch, [2, 0])
    assert taken.pop("image").tolist() == [[4, 5], [0, 1]]
    assert taken == {"name": ["c", "a"], "pair": [3, 1], "kind": "test", "none": None}
    assert take(batch, [])["image"].shape == (0, 2)
    assert take(batch, range(1))["name"] == ["a"]


def test_the_target_of_logits_that_are_not_finite_is_unknown():
    logits = LOGITS.repeat(3, 1)
    logits[0, 1], logits[3, 0], logits[4, 3] = torch.nan, torch.inf, -torch.inf
    labels = torch.ones(6, 4)
    assert chosen("predicted", logits=logits) == [[], [3], [1], [], [], [3]]
    assert chosen("predicted", multi_label=True, logits=logits)[::3] == [[], []]
    assert chosen("second", logits=logits) == [[], [2], [2], [], [], [2]]
    assert [bool(ids) for ids in chosen("label", labels, logits=logits)] == [0, 1, 1, 0, 0, 1]
