import numpy as np
import pytest
import torch
from PIL import Image

from explainers.callbacks.maps import LogMaps, explained, strongest
from explainers.callbacks.score import Score
from explainers.evaluation import drawing
from explainers.methods.constant import Constant, GroundTruth
from tests import planted
from tests.support import SIZE, Scenes, Truth, trainer


def pixels(path):
    with Image.open(path) as file:
        return np.asarray(file)


def test_a_row_shows_what_the_map_keeps():
    module = Truth(planted.explanandum())
    image, mask = torch.ones(3, *SIZE), planted.quadrant_masks(*SIZE)[3]
    pictures = explained(module, image, mask)
    assert len(pictures) == 4
    np.testing.assert_array_equal(pictures[3], (255 * mask[:, :, None].expand(-1, -1, 3)).numpy())


def test_strongest_classes_are_ranked_by_their_mean_map():
    module = GroundTruth(planted.explanandum())
    image, _ = planted.scenes(1, SIZE)
    masks = torch.zeros(1, 4, *SIZE, dtype=torch.bool)
    masks[0, 2, :4], masks[0, 1, :2], masks[0, 0, 0, 0] = True, True, True
    module.feed(image, masks)
    label = torch.tensor([False, True, False, False])
    pictures, titles = strongest(module, image[0], label, topk=3)
    probabilities = (100 * module.explanandum.probabilities(image)[0]).tolist()
    assert titles == [
        f"bottom left\nAMA 50.0  CLS {probabilities[2]:.1f}",
        f"top right **\nAMA 25.0  CLS {probabilities[1]:.1f}",
        f"top left\nAMA 1.6  CLS {probabilities[0]:.1f}",
    ]
    np.testing.assert_array_equal(pictures[0], drawing.heat(masks[0, 2].float()))
    _, only = strongest(module, image[0], None, topk=3, candidates=1)
    assert [title.split("\n")[0] for title in only] == ["top left"]


def test_sheets_at_every_second_validation_and_at_test(tmp_path):
    logged = LogMaps(images=3, topk=2, every_n_epochs=2, output_dir=str(tmp_path / "maps"))
    module = Truth(planted.explanandum())
    trainer(tmp_path, logged, max_epochs=4).fit(module, Scenes())
    expected = {f"val-epoch-00{e}{kind}.png" for e in (1, 3) for kind in ("", "-classes")}
    assert {path.name for path in (tmp_path / "maps").iterdir()} == expected
    score = Score(output_dir=str(tmp_path / "score"), metrics=[], sanity=False)
    trainer(tmp_path, score, logged).test(module, Scenes(), verbose=False)
    wide, classes = pixels(tmp_path / "maps/test.png"), pixels(tmp_path / "maps/test-classes.png")
    assert wide.shape[1] == 4 * 160
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
