from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from explainers.callbacks.maps import LogMaps, explained, strongest
from explainers.callbacks.save import SaveMaps
from explainers.callbacks.score import Score
from explainers.evaluation import drawing
from explainers.methods.constant import Constant, GroundTruth
from explainers.methods.rise import RISE
from tests import planted
from tests.support import SIZE, Scenes, Truth, trainer


def pixels(path):
    with Image.open(path) as file:
        return np.asarray(file)


def test_pictures_by_hand():
    image = torch.tensor([[[0.0, 1.0]], [[0.5, 1.5]], [[1.0, -1.0]]])
    assert drawing.picture(image).tolist() == [[[0, 128, 255], [255, 255, 0]]]
    low, high = drawing.heat(torch.tensor([[0.0, 1.0]]))[0].astype(int)
    assert low.sum() < 10 < 500 < high.sum()
    grey = drawing.overlay(torch.full((3, 1, 1), 0.5), torch.zeros(1, 1), strength=0.0)
    assert grey.tolist() == [[[128] * 3]]


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


def predict(tmp_path, module, data=None):
    save = SaveMaps(str(tmp_path / "out"))
    trainer(tmp_path, save).predict(module, data or Scenes(), return_predictions=False)


def test_saved_maps_mirror_the_names_and_are_not_made_twice(tmp_path):
    Truth.calls = 0
    predict(tmp_path, Truth(planted.explanandum()), Scenes(limit=3))
    files = sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")
    )
    endings = ("classes.txt", "heat.png", "npy", "overlay.png")
    expected = [f"folder/{i}.jpg.{ending}" for i in range(3) for ending in endings]
    assert files == [*expected, "settings.json"]
    classes = (tmp_path / "out" / "folder" / "2.jpg.classes.txt").read_text()
    assert classes == f"{planted.NAMES[2]}\n"
    saved = np.load(tmp_path / "out" / "folder" / "2.jpg.npy")
    assert saved.dtype == np.float32
    np.testing.assert_array_equal(saved, 3 * planted.quadrant_masks(*SIZE)[2].numpy())
    heat = pixels(tmp_path / "out" / "folder" / "2.jpg.heat.png")
    np.testing.assert_array_equal(heat, drawing.heat(torch.from_numpy(saved) / 3))
    assert Truth.calls == 3
    predict(
        tmp_path, Truth(planted.explanandum())
    )  # of (0, 1), (2, 3), (4): 0 stays in, 2 is taken out
    assert Truth.calls == 3 + 1 + 1 + 1
    assert (tmp_path / "out" / "folder" / "4.jpg.npy").exists()


def test_names_never_lead_out_of_the_folder(tmp_path):
    save = SaveMaps(str(tmp_path))
    assert save._path("../../etc/x.png", ".npy") == tmp_path / "etc" / "x.png.npy"
    assert save._path("/etc/x.png", ".npy") == tmp_path / "etc" / "x.png.npy"


def test_pictures_reach_weights_and_biases_offline(tmp_path, monkeypatch):
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    seen = []
    monkeypatch.setattr(logger, "log_image", lambda **options: seen.append(options))
    drawing.log(
        type("T", (), {"loggers": [logger, object()]})(), "test/maps", np.zeros((2, 2, 3), np.uint8)
    )
    assert seen[0]["key"] == "test/maps"
    assert seen[0]["images"][0].dtype == np.uint8


def test_maps_of_another_run_are_refused(tmp_path):
    """An old model's maps must not pass for a new one's."""
    save = SaveMaps(str(tmp_path))
    run = SimpleNamespace(
        datamodule=SimpleNamespace(root="photos", image_size=[8, 8]), is_global_zero=True
    )
    save.on_predict_start(run, Constant(planted.explanandum(), 0.5))
    save.on_predict_start(run, Constant(planted.explanandum(), 0.5))
    with pytest.raises(ValueError, match=r"value was 0\.5, is 1\.0.*another output_dir"):
        save.on_predict_start(run, Constant(planted.explanandum(), 1.0))


def test_maps_go_on_with_another_batch_size(tmp_path):
    save = SaveMaps(str(tmp_path))
    run = SimpleNamespace(datamodule=SimpleNamespace(), is_global_zero=True)
    for size in (2, 4):
        save.on_predict_start(run, RISE(planted.explanandum(), masks=8, batch_size=size))
    with pytest.raises(ValueError, match=r"run: method\.masks was 8, is 9\. Delete"):
        save.on_predict_start(run, RISE(planted.explanandum(), masks=9, batch_size=2))
