"""Images that fail: they are listed, cost nothing else, and are tried again."""

import csv
import gc
import weakref

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from explainers.callbacks.save import SaveMaps
from tests import planted
from tests.support import SIZE, Scenes, Truth, trainer


class Failing(Truth):
    """Raises on the images whose quadrant is in `bad`."""

    def __init__(self, explanandum, *bad, error=RuntimeError, batch_size=1):
        super().__init__(explanandum)
        self.bad, self.error, self.batch_size, self.asked = bad, error, batch_size, []
        self.held = None

    def attribute(self, images, targets):
        self.asked.append(len(images))
        if targets[:, list(self.bad)].any():
            raise self.error("first line\n  second, line")
        return super().attribute(images, targets)


def predict(tmp_path, module, data=None, callbacks=(), **changes):
    save = SaveMaps(str(tmp_path / "out"), **changes)
    trainer(tmp_path, save, *callbacks).predict(module, data or Scenes(4, batch_size=4))


def errors(tmp_path):
    path = tmp_path / "out" / "errors.csv"
    if not path.exists():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["image"], row["method"], row["error"]) for row in csv.DictReader(file)]


def maps(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").rglob("*.npy"))


@pytest.mark.parametrize(("one_by_one", "asked"), [(None, [1] * 4), (False, [4, 1, 1, 1, 1])])
def test_an_image_that_fails_costs_only_its_own_map(tmp_path, one_by_one, asked):
    module = Failing(planted.explanandum(), 1)
    with pytest.warns(UserWarning, match=r"^1 of 4 images have no map, .*errors\.csv says why"):
        predict(tmp_path, module, one_by_one=one_by_one)
    assert module.asked == asked
    assert maps(tmp_path) == ["0.jpg.npy", "2.jpg.npy", "3.jpg.npy"]
    ((image, method, error),) = errors(tmp_path)
    assert (image, method) == ("folder/1.jpg", "failing")
    assert error.startswith("RuntimeError: first line second, line (test_save_errors.py:")
    saved = np.load(tmp_path / "out/folder/3.jpg.npy")
    np.testing.assert_array_equal(saved, 3 * planted.quadrant_masks(*SIZE)[3].numpy())


def test_it_is_tried_again_and_errors_are_those_of_the_last_run(tmp_path):
    module = Failing(planted.explanandum(), 1, 2)
    with pytest.warns(UserWarning, match="2 of 4 images"):
        predict(tmp_path, module)
    module.bad, module.asked = (2,), []
    with pytest.warns(UserWarning, match="1 of 4 images"):
        predict(tmp_path, module)
    assert module.asked == [1, 1]
    assert [image for image, _, _ in errors(tmp_path)] == ["folder/2.jpg"]
    module.bad = ()
    predict(tmp_path, module)
    assert errors(tmp_path) is None
    assert len(maps(tmp_path)) == 4


def test_the_strict_stop_at_the_first(tmp_path):
    with pytest.raises(RuntimeError, match="second, line"):
        predict(tmp_path, Failing(planted.explanandum(), 1, 2), errors="raise")
    assert maps(tmp_path) == ["0.jpg.npy"]
    with pytest.raises(ValueError, match="errors must be one of"):
        SaveMaps(errors="ignore")


def test_if_all_fail_the_run_does(tmp_path):
    module = Failing(planted.explanandum(), 0, 1, 2, 3)
    with pytest.raises(
        ValueError, match=r"^no map: all 4 images failed, the first by RuntimeError"
    ):
        predict(tmp_path, module)
    assert len(errors(tmp_path)) == 4


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, torch.AcceleratorError])
def test_what_no_later_image_survives_is_raised(tmp_path, error):
    with pytest.raises((error, SystemExit)):
        predict(tmp_path, Failing(planted.explanandum(), 1, error=error))
    assert maps(tmp_path) == ["0.jpg.npy"]


def test_out_of_memory_halves_the_batch_and_frees_what_failed(tmp_path):
    class Large(Failing):
        def attribute(self, images, targets):
            self.asked.append(self.batch_size)
            assert self.held is None or self.held() is None  # the pass before left nothing
            big = torch.zeros(100)
            self.held = weakref.ref(big)
            if self.batch_size > 2:
                raise torch.OutOfMemoryError("full")
            return big.sum() + Truth.attribute(self, images, targets)

    module = Large(planted.explanandum(), batch_size=8)
    gc.disable()
    try:
        with pytest.warns(UserWarning, match="batch_size is [42] from here on") as told:
            predict(tmp_path, module)
    finally:
        gc.enable()
    assert module.asked == [8, 4, 2, 2, 2, 2]
    assert len([each for each in told if "out of memory" in str(each.message)]) == 2
    assert len(maps(tmp_path)) == 4
    assert errors(tmp_path) is None


def test_errors_of_the_folder_are_no_errors_of_images(tmp_path, monkeypatch):
    def full(self, path, shown):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("explainers.callbacks.mapfiles.MapFiles.picture", full)
    with pytest.raises(OSError, match="No space left"):
        predict(tmp_path, Truth(planted.explanandum()))
    assert errors(tmp_path) is None


def test_images_that_could_not_be_read_are_listed(tmp_path):
    data = Scenes(4)
    data.skipped = {"early.jpg": "is no image"}

    class Reading(Callback):
        def on_predict_batch_start(self, *args):
            data.skipped['b"\n.jpg'] = "is\nempty"

    with pytest.warns(UserWarning, match="2 of 6 images have no map"):
        predict(tmp_path, Truth(planted.explanandum()), data, [Reading()])
    assert errors(tmp_path) == [("early.jpg", "", "is no image"), ('b"\n.jpg', "", "is empty")]


def test_outputs_and_maps_that_are_not_finite(tmp_path):
    class Infinite(Truth):
        def attribute(self, images, targets):
            found = super().attribute(images, targets)
            found[targets[:, 2]] = torch.inf
            return found

    explanandum = planted.explanandum()
    plain = explanandum.model.forward
    # Only the first scene is bright at its top left.
    explanandum.model.forward = lambda x: plain(x).where(x[:, :1, 0, 0] < 0.55, torch.nan)
    with pytest.warns(UserWarning, match="not finite") as told:
        predict(tmp_path, Infinite(explanandum))
    (line,) = [str(each.message) for each in told if "no map" in str(each.message)]
    assert line.endswith("tries again; the maps of 1 images are not finite, and saved as they are")
    assert maps(tmp_path) == ["1.jpg.npy", "2.jpg.npy", "3.jpg.npy"]
    assert np.isinf(np.load(tmp_path / "out/folder/2.jpg.npy")).all()
    assert "ValueError: the classifier's outputs are not finite" in errors(tmp_path)[0][2]
