import logging

import pytest

from explainers.explanandum.classes import check_classes, labels_of
from tests import planted


@pytest.mark.parametrize(
    "names",
    [
        [],
        planted.NAMES,
        ["Top_Left", " top-right ", "BOTTOM LEFT", "bottom  right"],
        ["a", "b", "c", "d"],
        ["twice", "twice", "bottom left", "bottom right"],
    ],
)
def test_the_same_classes_are_accepted(names):
    check_classes(names, planted.explanandum())


def test_another_order_is_refused_with_the_right_one():
    with pytest.raises(ValueError, match="number 0 of the data and number 3 of the") as error:
        check_classes(planted.NAMES[::-1], planted.explanandum())
    assert f"data.init_args.class_names {planted.NAMES}" in str(error.value)


def test_one_name_at_another_place_is_enough():
    with pytest.raises(ValueError, match="'Top Left' is number 2 of the data and number 0"):
        check_classes(["x", "y", "Top Left", "z"], planted.explanandum())


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"the data have 2 classes \(a, ...\), the explanandum 4"):
        check_classes(["a", "b"], planted.explanandum())
    with pytest.raises(ValueError, match=r"or data\.init_args\.num_classes 4 if no file shows the"):
        check_classes(["0", "1", "2"], planted.explanandum())  # numbers of a table


def test_other_names_are_said(caplog):
    with caplog.at_level(logging.INFO):
        check_classes(["n01", "n02", "n03", "n04"], planted.explanandum())
    assert "taken to be in the same order" in caplog.text


def test_a_batch_without_labels_is_refused():
    assert labels_of({"target": "these"}) == "these"
    with pytest.raises(ValueError, match="these have no labels: take data with a folder or a col"):
        labels_of({"image": "this"})
