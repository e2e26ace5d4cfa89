"""The classes of ImageNet: the same as timm's and an explanandum's own, ten of them twice."""

import timm.data

from datamodules import synsets
from explainers.explanandum.selection import class_names


def test_classes_are_those_of_timm():
    info = timm.data.ImageNetInfo()
    assert list(synsets.class_indices()) == [info.index_to_label_name(i) for i in range(1000)]
    own = [info.index_to_description(i) for i in range(1000)]
    assert synsets.class_names() == class_names(None, own, 1000, None)
    assert len(set(synsets.class_names())) == 1000


def test_the_ten_classes():
    names, index = synsets.class_names(), synsets.class_indices()
    assert [index[wnid] for wnid in synsets.IMAGENETTE] == [
        0, 217, 482, 491, 497, 566, 569, 571, 574, 701
    ]  # fmt: skip
    assert [names[index[wnid]].partition(",")[0] for wnid in synsets.IMAGEWOOF] == [
        "Shih-Tzu", "Rhodesian ridgeback", "beagle", "English foxhound", "Border terrier",
        "Australian terrier", "golden retriever", "Old English sheepdog", "Samoyed", "dingo",
    ]  # fmt: skip


def test_reassessed_labels():
    labels = synsets.reassessed_labels()
    assert len(labels) == 50_000
    assert sum(not classes for classes in labels) == 3163
    assert labels[1] == (795, 970)
