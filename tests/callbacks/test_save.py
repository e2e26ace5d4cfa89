"""Files of maps: what they hold, where they go, and that none is made twice."""

import csv
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


def predict(tmp_path, module, data=None, **changes):
    """Predicts into the folder `out`, and counts the images that were explained."""
    Truth.calls = 0
    save = SaveMaps(str(tmp_path / "out"))
    trainer(tmp_path, save, **changes).predict(module, data or Scenes(), return_predictions=False)
    return Truth.calls


def pixels(path):
    with Image.open(path) as file:
        return np.asarray(file)


def test_saved_maps_mirror_the_names_and_hold_the_values(tmp_path):
    data = Scenes(limit=3)
    predict(tmp_path, Truth(planted.explanandum()), data)
    out = tmp_path / "out"
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    files.remove(".lock")
    expected = [f"folder/{i}.jpg.{ending}" for i in range(3) for ending in ENDINGS]
    assert files == ["files.csv", *expected, "predict.json"]  # and no temporary ones
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
    assert predict(tmp_path, module) == 2
    assert (tmp_path / "out/folder/4.jpg.npy").exists()
    assert predict(tmp_path, module, Scenes(batch_size=5)) == 0


@pytest.mark.parametrize(
    ("one_by_one", "batches"), [(None, [1, 1, 1]), (True, [1] * 3), (False, [2, 1])]
)
def test_each_image_is_saved_as_soon_as_it_is_explained(tmp_path, one_by_one, batches):
    seen = []

    class Watching(Truth):
        def attribute(self, images, targets):
            seen.append((len(images), len(list(tmp_path.rglob("*.npy")))))
            return super().attribute(images, targets)

    save = SaveMaps(str(tmp_path), one_by_one=one_by_one)
    trainer(tmp_path, save).predict(Watching(planted.explanandum()), Scenes(limit=3))
    assert seen == [(size, sum(batches[:i])) for i, size in enumerate(batches)]
    assert len(list(tmp_path.rglob("*.npy"))) == 3


def test_the_trainer_gets_no_maps_from_it_and_all_without_it(tmp_path):
    module, run = Truth(planted.explanandum()), trainer(tmp_path, SaveMaps())
    assert run.predict(module, Scenes(3)) == [{}, {}]
    assert len(list((tmp_path / "folder").glob("*.npy"))) == 3  # in the trainer's folder
    first, second = trainer(tmp_path).predict(module, Scenes(3))
    quadrants = planted.quadrant_masks(*SIZE)
    assert torch.equal(torch.cat([first["maps"], second["maps"]]), 3 * quadrants[:3])
    assert torch.equal(second["targets"], torch.tensor([[False, False, True, False]]))
    alone = module.predict_step({"image": Scenes(1).samples[0]["image"][None]}, 0)
    assert torch.equal(alone["maps"], 3 * quadrants[:1])


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


class Named(Scenes):
    """Scenes with names of one's own."""

    def __init__(self, names):
        super().__init__(len(names), batch_size=3)
        for sample, name in zip(self.samples, names, strict=True):
            sample["name"] = name


def test_no_image_takes_the_files_of_another(tmp_path):
    names = [
        "sub/z.jpg",
        "../sub/z.jpg",
        "/sub/z.jpg",
        "sub/./z.jpg",
        'caf\udce9\n".jpg',
        "x" * 250,
    ]
    predict(tmp_path, Truth(planted.explanandum()), Named(names))
    quadrants = planted.quadrant_masks(*SIZE)
    with (tmp_path / "out" / "files.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [*names[:4], 'caf\\udce9\n".jpg', names[5]]
    assert [row["file"] for row in rows[:4]] == [
        "sub/z.jpg", "%2E%2E/sub/z.jpg", "%2F/sub/z.jpg", "sub/%2E/z.jpg",
    ]  # fmt: skip
    for i, row in enumerate(rows):
        for ending in ENDINGS:
            assert (tmp_path / "out" / f"{row['file']}.{ending}").exists()
        saved = np.load(tmp_path / "out" / f"{row['file']}.npy")
        np.testing.assert_array_equal(saved, 3 * quadrants[i % 4].numpy())
    assert predict(tmp_path, Truth(planted.explanandum()), Named(names)) == 0


def test_two_images_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two images are called 'a': names must be unique"):
        predict(tmp_path, Truth(planted.explanandum()), Named(["a", "b", "c", "a"]))


def test_maps_of_another_run_are_refused(tmp_path):
    """An old model's maps must not pass for a new one's."""
    predict(tmp_path, Constant(planted.explanandum(), 0.5), Scenes(2))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    heavier = planted.explanandum()
    heavier.model.stem.weight.data.mul_(2)
    for module, changes, told in (
        (Constant(planted.explanandum(), 1.0), {}, r"methods\.constant\.value was 0\.5, is 1\.0"),
        (Constant(heavier, 0.5), {}, r"explanandum\.weights was"),
        (
            Constant(planted.explanandum(multi_label=True), 0.5),
            {},
            r"multi_label was False, is True",
        ),
        (
            Constant(planted.explanandum(), 0.5),
            {"precision": "bf16-mixed"},
            "precision was 32-true",
        ),
        (Truth(planted.explanandum()), {}, r"methods\.constant was there"),
    ):
        with pytest.raises(ValueError, match=told):
            predict(tmp_path, module, Scenes(2), **changes)
    with pytest.raises(ValueError, match=r"save\.classes was None, is all"):
        trainer(tmp_path, SaveMaps(str(tmp_path / "out"), "all")).predict(
            Constant(planted.explanandum(), 0.5), Scenes(2)
        )
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before


def test_a_run_without_a_map_does_not_block_its_folder(tmp_path):
    class Failing(Truth):
        def attribute(self, images, targets):
            raise RuntimeError("no map")

    with pytest.raises(ValueError, match="all 2 images failed, the first by RuntimeError: no map"):
        predict(tmp_path, Failing(planted.explanandum()), Scenes(2))
    assert predict(tmp_path, Truth(planted.explanandum()), Scenes(2)) == 2


def test_maps_go_on_with_another_batch_size(tmp_path):
    for size in (2, 4):
        predict(tmp_path, RISE(planted.explanandum(), masks=8, batch_size=size), Scenes(2))
    with pytest.raises(ValueError, match=r"methods\.rise\.masks was 8, is 9\. .*another folder"):
        predict(tmp_path, RISE(planted.explanandum(), masks=9, batch_size=2))


def test_one_run_writes_a_folder_and_lets_go_of_it(tmp_path):
    module, saves = Truth(planted.explanandum()), [SaveMaps(str(tmp_path)) for _ in range(2)]
    with pytest.raises(ValueError, match="is being written by another run"):
        trainer(tmp_path, *saves).predict(module, Scenes(2))
    for save in saves:  # after the failure, and after a run
        trainer(tmp_path, save).predict(module, Scenes(2))


def test_only_maps_of_explainers_are_written(tmp_path):
    with pytest.raises(ValueError, match="maps of an Explainer, got LightningModule"):
        SaveMaps(str(tmp_path)).on_predict_start(SimpleNamespace(), LightningModule())
