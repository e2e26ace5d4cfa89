"""Files of maps: what they hold, where they go, and that none is made twice."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image

from explainers.callbacks.save import SaveMaps
from explainers.evaluation import drawing
from explainers.methods.constant import Constant
from explainers.methods.rise import RISE
from tests import planted
from tests.support import SIZE, Scenes, Truth, trainer

ENDINGS = ("classes.txt", "heat.png", "npy", "overlay.png")


def predict(tmp_path, module, data=None):
    """Predict into the folder `out`, and count the images that were explained."""
    Truth.calls = 0
    save = SaveMaps(str(tmp_path / "out"))
    trainer(tmp_path, save).predict(module, data or Scenes(), return_predictions=False)
    return Truth.calls


def pixels(path):
    with Image.open(path) as file:
        return np.asarray(file)


def test_saved_maps_mirror_the_names_and_hold_the_values(tmp_path):
    data = Scenes(limit=3)
    predict(tmp_path, Truth(planted.explanandum()), data)
    out = tmp_path / "out"
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    expected = [f"folder/{i}.jpg.{ending}" for i in range(3) for ending in ENDINGS]
    assert files == [*expected, "settings.json"]  # and no temporary ones
    saved = np.load(out / "folder" / "2.jpg.npy")
    assert saved.dtype == np.float32
    quadrant = planted.quadrant_masks(*SIZE)[2]
    np.testing.assert_array_equal(saved, 3 * quadrant.numpy())  # as the method gives it
    heat, overlay = (pixels(out / "folder" / f"2.jpg.{end}.png") for end in ("heat", "overlay"))
    np.testing.assert_array_equal(heat, drawing.heat(quadrant))
    np.testing.assert_array_equal(overlay, drawing.overlay(data.samples[2]["image"], quadrant))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_predicted_classes_are_named_one_a_line(tmp_path, multi_label):
    explanandum = planted.explanandum(multi_label=multi_label)
    for sample in (data := Scenes(limit=2)).samples:
        sample["image"] = torch.zeros(3, *SIZE)  # logits of 0: no class is above a half
    data.samples[1]["image"][:, 4:] = 0.5  # both quadrants at the bottom
    data.samples[1]["image"][:, 4:, :4] = 0.75
    predict(tmp_path, Truth(explanandum), data)
    texts = [(tmp_path / f"out/folder/{i}.jpg.classes.txt").read_text("utf-8") for i in range(2)]
    several = "bottom left\nbottom right\n" if multi_label else "bottom left\n"
    assert texts == ["top left\n", several]


def test_maps_are_drawn_from_their_smallest_to_their_largest_value_and_masks_as_they_are(tmp_path):
    class Signed(Truth):
        def attribute(self, images, targets):
            return 0.5 * super().attribute(images, targets) - 2.0  # -2 and -0.5

    for module, expected in (
        (Signed(planted.explanandum()), planted.quadrant_masks(*SIZE)[0]),
        (Constant(planted.explanandum(), 0.5), torch.full(SIZE, 0.5)),
    ):
        folder = tmp_path / type(module).__name__
        predict(folder, module, Scenes(limit=1))
        shown = pixels(folder / "out/folder/0.jpg.heat.png")
        np.testing.assert_array_equal(shown, drawing.heat(expected))


def test_maps_are_not_made_twice(tmp_path):
    module = Truth(planted.explanandum())
    assert predict(tmp_path, module, Scenes(limit=3)) == 3
    # Of the batches (0, 1), (2, 3) and (4): 0 stays in, 2 is taken out.
    assert predict(tmp_path, module) == 1 + 1 + 1
    assert (tmp_path / "out/folder/4.jpg.npy").exists()
    assert predict(tmp_path, module, Scenes(batch_size=5)) == 1


def test_an_image_whose_map_is_lacking_gets_all_its_files_again(tmp_path):
    module, out = Truth(planted.explanandum()), tmp_path / "out" / "folder"
    predict(tmp_path, module, Scenes(limit=2))
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "1.jpg.npy").unlink()  # the map is written last: a kill before it leaves this
    (out / "1.jpg.heat.png").write_bytes(b"half a pict")
    (out / "0.jpg.heat.png").write_bytes(b"left alone")
    assert predict(tmp_path, module, Scenes(limit=2)) == 1
    again = {path.name: path.read_bytes() for path in out.iterdir()}
    assert again == whole | {"0.jpg.heat.png": b"left alone"}


def test_names_never_lead_out_of_the_folder(tmp_path):
    save = SaveMaps(str(tmp_path))
    assert save._path("../../etc/x.png", ".npy") == tmp_path / "etc" / "x.png.npy"
    assert save._path("/etc/x.png", ".npy") == tmp_path / "etc" / "x.png.npy"


def test_maps_of_another_run_are_refused(tmp_path):
    """An old model's maps must not pass for a new one's."""
    save = SaveMaps(str(tmp_path))

    def start(module, **data):
        data = SimpleNamespace(**{"root": "photos", "image_size": [8, 8]} | data)
        save.on_predict_start(SimpleNamespace(datamodule=data, is_global_zero=True), module)

    start(Constant(planted.explanandum(), 0.5))
    start(Constant(planted.explanandum(), 0.5))
    with pytest.raises(ValueError, match=r"value was 0\.5, is 1\.0.*another output_dir"):
        start(Constant(planted.explanandum(), 1.0))
    other = planted.explanandum()
    other.model.stem.weight.data.mul_(2)
    with pytest.raises(ValueError, match=r"method\.weights was"):
        start(Constant(other, 0.5))
    for change in ({"root": "paintings"}, {"image_size": [4, 4]}):
        with pytest.raises(ValueError, match=f"{next(iter(change))} was"):
            start(Constant(planted.explanandum(), 0.5), **change)


def test_maps_go_on_with_another_batch_size(tmp_path):
    save = SaveMaps(str(tmp_path))
    run = SimpleNamespace(datamodule=SimpleNamespace(), is_global_zero=True)
    for size in (2, 4):
        save.on_predict_start(run, RISE(planted.explanandum(), masks=8, batch_size=size))
    with pytest.raises(ValueError, match=r"run: method\.masks was 8, is 9\. Delete"):
        save.on_predict_start(run, RISE(planted.explanandum(), masks=9, batch_size=2))


def test_only_maps_of_explainers_are_written(tmp_path):
    with pytest.raises(ValueError, match="maps of an Explainer, got LightningModule"):
        SaveMaps(str(tmp_path)).on_predict_start(SimpleNamespace(), LightningModule())
