import numpy as np
import pytest
import torch
from PIL import Image

from explainers.callbacks.maps import LogMaps, class_titles, explained, strongest
from explainers.callbacks.score import Score
from explainers.evaluation import drawing
from explainers.methods.constant import Constant, GroundTruth
from tests import planted
from tests.support import SIZE, Scenes, Truth, trainer


def pixels(path):
    with Image.open(path) as file:
        return np.asarray(file)


def test_a_row_shows_what_the_map_keeps_and_removes_and_what_the_classifier_says():
    """A quadrant of brightness 0.1 has the logit 2, so the probability e^2 / (e^2 + 3) = 0.71."""
    module = Truth(planted.explanandum())
    quadrants = planted.quadrant_masks(*SIZE)
    image = (0.1 * quadrants[3]).expand(1, 3, -1, -1)
    for chosen, values, name, titles in (
        ([3], quadrants[3], "a/b.jpg", ["b.jpg\ntarget bottom right 0.71", "map"]),
        ([0], quadrants[3], "c", ["c\ntarget top left 0.10\npredicted bottom right 0.71", "map"]),
        ([1, 3], quadrants[3], "$d$", ["$d$\ntarget bottom right 0.71 (+1)", "map"]),
        ([3], 0 * quadrants[3], "e", ["e\ntarget bottom right 0.71", "map, 0 everywhere"]),
        ([], quadrants[3], "f", ["f\npredicted bottom right 0.71", "map"]),
    ):
        target = torch.zeros(1, 4, dtype=torch.bool)
        target[0, chosen] = True
        (pictures,), (words,) = explained(module, image, values[None], target, [name])
        assert words[:3] == [*titles, "overlay"]
        after, without = (0.10, 0.25) if chosen == [0] else (0.71, 0.25)
        if not values.any():
            after, without = without, after
        told = [f"kept {after:.2f}", f"removed {without:.2f}"] if chosen else ["kept", "removed"]
        assert words[3:] == told
        shown = (255 * values * 0.1).round()[:, :, None].expand(-1, -1, 3).numpy()
        np.testing.assert_array_equal(pictures[0], drawing.picture(image[0]))
        np.testing.assert_array_equal(pictures[3], shown)
        np.testing.assert_array_equal(pictures[4], pictures[0] - shown)
    torn = quadrants[3].clone()
    torn[0, 0] = torch.nan
    _, (words,) = explained(module, image, torn[None], target)
    assert (words[0].split("\n")[0], words[1]) == ("image", "map, partly missing")


def test_strongest_classes_are_ranked_by_their_mean_map():
    module = GroundTruth(planted.explanandum())
    image, _ = planted.scenes(1, SIZE)
    masks = torch.zeros(1, 4, *SIZE, dtype=torch.bool)
    masks[0, 2, :4], masks[0, 1, :2], masks[0, 0, 0, 0] = True, True, True
    module.feed(image, masks)
    label = torch.tensor([False, True, False, False])
    maps, classes = strongest(module, image[0], topk=3)
    assert classes == [2, 1, 0]
    torch.testing.assert_close(maps, masks[0, classes].float())
    probabilities = (100 * module.explanandum.probabilities(image)[0]).tolist()
    assert class_titles(module, image[0], label, maps, classes) == [
        f"bottom left\nAMA 50.0  CLS {probabilities[2]:.1f}",
        f"top right **\nAMA 25.0  CLS {probabilities[1]:.1f}",
        f"top left\nAMA 1.6  CLS {probabilities[0]:.1f}",
    ]
    assert strongest(module, image[0], topk=3, candidates=1)[1] == [0]


class Halves(Truth):
    """Class 1 is the left half with 0.9, class 2 the upper half with 0.7, all others 0.5."""

    is_mask = True

    def class_maps(self, images, classes):
        maps = torch.full((4, *images.shape[-2:]), 0.5)
        maps[1, :, :4], maps[2, :4] = 0.9, 0.7
        return maps[classes]


def test_the_labels_of_an_overlay_are_the_strongest_masks_above_one_half(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(drawing, "log_labels", lambda trainer, *given: sent.append(given))
    logged = LogMaps(images=3, topk=3, output_dir=str(tmp_path))
    trainer(tmp_path, logged, max_epochs=2).fit(Halves(planted.explanandum()), Scenes())
    assert len(sent) == 2
    for key, images, labels, names in sent:
        assert key == "val/masks"
        assert len(images) == len(labels) == 3
        np.testing.assert_array_equal(images[2], drawing.picture(Scenes().samples[2]["image"]))
        numbers = {name: number for number, name in names.items()}
        expected = np.zeros(SIZE, np.uint8)
        expected[:4], expected[:, :4] = numbers["bottom left"], numbers["top right"]
        assert names[0] == "none"
        assert labels[2].dtype == np.uint8
        np.testing.assert_array_equal(labels[2], expected)
    plain = LogMaps(images=3, output_dir=str(tmp_path))  # maps that are no masks
    trainer(tmp_path, plain, max_epochs=1).fit(Truth(planted.explanandum()), Scenes())
    assert len(sent) == 2


def test_sheets_at_every_second_validation_and_at_test(tmp_path):
    logged = LogMaps(images=3, topk=2, every_n_epochs=2, output_dir=str(tmp_path / "maps"))
    module = Truth(planted.explanandum())
    trainer(tmp_path, logged, max_epochs=4).fit(module, Scenes())
    expected = {f"val-epoch-00{e}{kind}.png" for e in (1, 3) for kind in ("", "-classes")}
    assert {path.name for path in (tmp_path / "maps").iterdir()} == expected
    score = Score(output_dir=str(tmp_path / "score"), metrics=[], sanity=False)
    trainer(tmp_path, score, logged).test(module, Scenes(), verbose=False)
    wide, classes = pixels(tmp_path / "maps/test.png"), pixels(tmp_path / "maps/test-classes.png")
    assert wide.shape[1] == 5 * 160
    assert classes.shape[1] == 3 * 160
    assert pixels(tmp_path / "score/panels.png").shape[1] == 2 * 160


def test_no_class_sheet_without_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logged = LogMaps(images=1)
    score = Score(output_dir=str(tmp_path / "score"), metrics=[], sanity=False)
    module = Constant(planted.explanandum())  # takes class_maps from the base
    trainer(tmp_path, score, logged).test(module, Scenes(leave_out=("target",)), verbose=False)
    assert [path.name for path in (tmp_path / "runs" / "maps").iterdir()] == ["test.png"]
    with pytest.raises(ValueError, match="images, every_n_epochs"):
        LogMaps(images=0)
