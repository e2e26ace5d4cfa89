"""Maps of each class: their order, their names and their pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from explainers import Explanandum
from explainers.callbacks import save
from explainers.callbacks.save import SaveMaps
from explainers.evaluation import drawing
from tests import planted
from tests.support import SIZE, Scenes, Truth, trainer

QUADRANTS = planted.quadrant_masks(*SIZE)


class PerClass(Truth):
    """Maps that tell the classes apart: class c has the value c + 1 in its quadrant."""

    def __init__(self, explanandum):
        super().__init__(explanandum)
        self.asked = []

    def class_maps(self, images, classes):
        self.asked.append(tuple(classes.shape))
        return QUADRANTS[classes] * (classes + 1)[:, :, None, None]


def predict(tmp_path, classes, data, multi_label=False, names=planted.NAMES, **changes):
    explanandum = Explanandum(
        planted.PlantedCNN(),
        multi_label=multi_label,
        class_names=names,
        mean=[0.0] * 3,
        std=[1.0] * 3,
    )
    module = PerClass(explanandum)
    trainer(tmp_path, SaveMaps(str(tmp_path), classes, **changes)).predict(module, data)
    return module.asked


def saved(tmp_path, i):
    """The maps of an image and the names of their classes."""
    path = tmp_path / "folder" / f"{i}.jpg"
    return np.load(f"{path}.npy"), (path.parent / f"{i}.jpg.classes.txt").read_text("utf-8")


@pytest.mark.parametrize("one_by_one", [True, False])
def test_all_classes_have_a_map_in_their_order(tmp_path, one_by_one):
    data = Scenes(2)
    predict(tmp_path, "all", data, one_by_one=one_by_one)
    expected = QUADRANTS * torch.arange(1.0, 5.0)[:, None, None]
    for i, sample in enumerate(data.samples):
        maps, names = saved(tmp_path, i)
        assert maps.dtype == np.float32
        np.testing.assert_array_equal(maps, expected)
        assert names == "".join(f"{name}\n" for name in planted.NAMES)
        for name, quadrant in zip(planted.NAMES, QUADRANTS, strict=True):
            for kind, shown in (
                ("heat", drawing.heat(quadrant)),
                ("overlay", drawing.overlay(sample["image"], quadrant)),
            ):
                with Image.open(tmp_path / f"folder/{i}.jpg.{name}.{kind}.png") as file:
                    np.testing.assert_array_equal(np.asarray(file), shown)
    assert len(list(tmp_path.rglob("*.png"))) == 2 * 4 * 2


@pytest.mark.parametrize("one_by_one", [True, False])
def test_predicted_classes_may_be_several_and_differ_in_number(tmp_path, one_by_one):
    data = Scenes(3, batch_size=3, two=(1,))
    data.samples[1]["image"] *= 0.98
    predict(tmp_path, "predicted", data, multi_label=True, one_by_one=one_by_one)
    for i in range(3):
        predicted = planted.PlantedCNN()(data.samples[i]["image"][None])[0] > 0
        ids = predicted.nonzero().flatten().tolist()
        maps, names = saved(tmp_path, i)
        np.testing.assert_array_equal(maps, QUADRANTS[ids] * (torch.tensor(ids) + 1)[:, None, None])
        assert names.splitlines() == [planted.NAMES[index] for index in ids]


def test_names_choose_the_classes_and_their_order(tmp_path):
    asked = predict(tmp_path, ["bottom left", "top left", "bottom left"], Scenes(2))
    assert asked == [(1, 2), (1, 2)]
    maps, names = saved(tmp_path, 1)
    np.testing.assert_array_equal(maps, torch.stack([3 * QUADRANTS[2], QUADRANTS[0]]))
    assert names == "bottom left\ntop left\n"


def test_any_class_name_does(tmp_path):
    odd = ["a/b.c", "\n", "x\ny", "caf\udce9"]
    predict(tmp_path, ["a/b.c", "x\ny", "caf\udce9"], Scenes(1), names=odd)
    maps, names = saved(tmp_path, 0)
    np.testing.assert_array_equal(maps[:, [0, 4, 7], [0, 0, 7]], [[1, 0, 0], [0, 3, 0], [0, 0, 4]])
    assert names == "a/b.c\nx\\ny\ncaf\\udce9\n"
    heats = sorted(path.name for path in tmp_path.rglob("*.heat.png"))
    labels = ["a%2Fb%2Ec", "caf%ED%B3%A9", "x%0Ay"]
    assert heats == [f"0.jpg.{label}.heat.png" for label in labels]


@pytest.mark.parametrize(
    ("one_by_one", "maps", "asked"),
    [
        (None, 3, [(1, 3), (1, 1)] * 3),  # the classes of an image in parts
        (False, 3, [(1, 3), (1, 1)] * 3),
        (False, 9, [(2, 4), (1, 4)]),  # two images fit, three do not
        (False, 12, [(3, 4)]),
    ],
)
def test_many_maps_are_made_and_written_in_parts(tmp_path, one_by_one, maps, asked, monkeypatch):
    monkeypatch.setattr(save, "BYTES", maps * 4 * 8 * 8)
    data = Scenes(3, batch_size=3)
    assert predict(tmp_path, "all", data, one_by_one=one_by_one) == asked
    for i in range(3):
        np.testing.assert_array_equal(
            saved(tmp_path, i)[0], QUADRANTS * torch.arange(1.0, 5.0)[:, None, None]
        )


def test_a_class_that_fails_leaves_no_map_of_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(save, "BYTES", 4 * 8 * 8)
    maps = PerClass.class_maps

    def failing(self, images, classes):
        if len(self.asked) == 2:
            self.asked.append("failed")
            raise RuntimeError("class")
        return maps(self, images, classes)

    monkeypatch.setattr(PerClass, "class_maps", failing)
    with pytest.warns(UserWarning, match="1 of 2 images have no map"):
        predict(tmp_path, "all", Scenes(2))
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["1.jpg.npy"]
    assert list(tmp_path.rglob("*.tmp")) == []


def test_an_unknown_class_is_told_with_the_nearest(tmp_path):
    told = r"no class 'botom left'; did you mean 'bottom left'\?"
    with pytest.raises(ValueError, match=told):
        predict(tmp_path, ["top left", "botom left"], Scenes(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("classes", [[], "", "every", 3])
def test_other_words_are_refused(classes):
    with pytest.raises(ValueError, match="'predicted', 'all', a list of names or None"):
        SaveMaps(classes=classes)
