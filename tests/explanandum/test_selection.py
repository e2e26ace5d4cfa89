"""Kept classes and their names."""

import pytest

from explainers import Explanandum
from explainers.explanandum import selection
from tests.support import untrained_classifier
from tests.tiny import KNOWN, Tiny


def test_classes_of_a_checkpoint_keep_their_names(tmp_path):
    path = untrained_classifier(tmp_path)
    kept = Explanandum(path, classes=[3, 1])
    assert (kept.num_classes, kept.class_names) == (2, ["d", "b"])
    assert Explanandum(**kept.config).class_names == ["d", "b"]
    for names in (list("uvwxyz"), ["x", "v"]):
        assert Explanandum(path, classes=[3, 1], class_names=names).class_names == ["x", "v"]


@pytest.mark.parametrize(
    ("classes", "multi_label", "told"),
    [
        ([], False, r"classes must have at least 2, got \[\]: the softmax of one class is always"),
        ([], True, r"classes must have at least 1, got \[\]$"),
        ([2], False, r"at least 2, got \[2\]"),
        ([1, 1], True, r"classes must be different, got \[1, 1\]"),
        ([-1, 1], False, r"classes must be indices in \[0, 3\], got \[-1, 1\]"),
        ([0, 4], False, r"classes must be indices in \[0, 3\], got \[0, 4\]"),
    ],
)
def test_wrong_classes_are_refused(classes, multi_label, told):
    with pytest.raises(ValueError, match=told):
        Explanandum(Tiny(), **KNOWN, classes=classes, multi_label=multi_label)


def test_one_class_of_several_labels_may_be_kept():
    assert Explanandum(Tiny(), **KNOWN, classes=[2], multi_label=True).num_classes == 1


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a", "b", "c", "a"], "class names must be different, got 'a' more than once"),
        (["a"], "expected 4 class names, got 1"),
        ("abcd", "expected 4 class names, got 4"),
    ],
)
def test_wrong_names_are_refused(names, told):
    with pytest.raises(ValueError, match=told):
        Explanandum(Tiny(), **KNOWN, class_names=names)


def test_a_library_s_equal_names_are_told_apart():
    own = ["crane", "dog", "crane"]
    unique = ["crane (0)", "dog", "crane (2)"]
    assert selection.class_names(None, own, 3, None) == unique
    assert selection.class_names(own, own, 3, None) == unique  # as an old checkpoint states them
    assert selection.class_names(unique, own, 3, None) == unique
    assert selection.class_names(None, own, 3, [2, 1]) == ["crane", "dog"]
    assert selection.class_names(None, own, 4, None)[0] == "class 0"  # of another head
