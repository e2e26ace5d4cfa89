import numpy as np
import pytest
import torch

from explainers.evaluation import drawing
from explainers.evaluation.panels import Panels
from explainers.methods.constant import Random
from explainers.methods.mp import MP
from explainers.methods.sloc import SLOC
from tests import planted
from tests.support import Truth, trainer


def panels(tmp_path, count):
    explanandum = planted.explanandum()
    methods = {"truth": Truth(explanandum), "random": Random(explanandum)}
    return Panels(tmp_path / "panels.png", count, methods)


def test_the_first_images_are_drawn_once(tmp_path):
    sheet, run = panels(tmp_path, 3), trainer(tmp_path)
    images, maps = torch.rand(2, 3, 8, 8), {"truth": torch.rand(2, 8, 8)}
    sheet.add(run, images, maps)
    assert not sheet.path.exists()
    sheet.add(run, images, maps)  # one of these two
    assert len(sheet.rows) == 3
    written = sheet.path.read_bytes()
    sheet.add(run, images, maps)
    sheet.draw(run)
    assert sheet.path.read_bytes() == written
    assert panels(tmp_path, 3).done  # a run that goes on keeps it


def test_a_short_run_draws_what_there_is(tmp_path):
    sheet, run = panels(tmp_path, 3), trainer(tmp_path)
    sheet.draw(run)
    assert not sheet.path.exists()
    sheet.add(run, torch.rand(1, 3, 8, 8), {"truth": torch.rand(1, 8, 8)})
    sheet.draw(run)
    assert sheet.path.exists()


def test_none_are_drawn_if_none_are_wanted(tmp_path):
    sheet, run = panels(tmp_path, 0), trainer(tmp_path)
    sheet.add(run, torch.rand(1, 3, 8, 8), {"truth": torch.rand(1, 8, 8)})
    sheet.draw(run)
    assert not sheet.path.exists()


def test_words_say_which_image_class_and_scale(tmp_path):
    sheet, run = panels(tmp_path, 3), trainer(tmp_path)
    subject, (images, targets) = planted.explanandum(), planted.scenes(3, (8, 8))
    inputs = {
        "names": ["a.jpg", "folder/" + "b" * 40 + ".jpg", "c.jpg"],
        "targets": targets.roll(1, dims=1),
        "logits": subject(images),
        "explanandum": subject,
    }
    inputs["logits"][2] = torch.nan
    some = torch.full((8, 8), 0.5)
    some[0, 0] = 2.0
    maps = torch.stack([some, torch.zeros(8, 8), torch.full((8, 8), torch.nan)])
    sheet.add(run, images, {"truth": maps}, inputs)
    first, second, third = sheet.titles
    best = subject.probabilities(images)[0, 0].item()
    assert first == [f"a.jpg\ntarget: top right\ntop left {best:.1%}", "truth\n0.5 to 2"]
    assert second[0].startswith("...bbb")
    assert second[1] == "truth\nall zero"
    assert third == ["c.jpg\ntarget: bottom right\noutput not finite", "truth\nno map"]
    assert max(len(line) for title in second for line in title.splitlines()) <= 26


def test_masks_say_their_value_if_they_are_flat(tmp_path):
    sheet = Panels(tmp_path / "a.png", 3, {"m": MP(planted.explanandum())})
    maps = torch.stack([torch.zeros(8, 8), torch.full((8, 8), 0.5), torch.rand(8, 8)])
    sheet.add(trainer(tmp_path), torch.rand(3, 3, 8, 8), {"m": maps})
    assert [row[1] for row in sheet.titles] == ["m\nall zero", "m\nconstant, 0.5", "m\n0 to 1"]


def test_signed_maps_are_white_at_0(tmp_path):
    method = SLOC(planted.explanandum())
    sheet = Panels(tmp_path / "a.png", 1, {"sloc": method})
    maps = torch.zeros(1, 8, 8)
    maps[0, 0], maps[0, 1] = -3.0, 1.0
    sheet.add(trainer(tmp_path), torch.ones(1, 3, 8, 8), {"sloc": maps})
    assert sheet.titles[0][1] == "sloc\n-3 to 3"
    pixels = sheet.rows[0][1].astype(int)
    assert pixels[0, 0, 2] > pixels[0, 0, 0]  # blue against the class
    assert pixels[1, 0, 0] > pixels[1, 0, 2]  # red for it
    assert np.ptp(pixels[4, 4]) <= 1


def test_the_kept_pixels_and_what_the_classifier_makes_of_them(tmp_path):
    subject, (images, targets) = planted.explanandum(), planted.scenes(1, (8, 8))
    sheet = Panels(tmp_path / "a.png", 1, {"truth": Truth(subject)}, kept=0.25)
    inputs = {"names": ["a"], "targets": targets, "logits": subject(images), "explanandum": subject}
    own = planted.quadrant_masks(8, 8)[targets.int().argmax(dim=1)]
    sheet.add(trainer(tmp_path), images, {"truth": own}, inputs)
    shown = images * own[:, None]  # the mean of this classifier is black
    p = subject.probabilities(shown)[0, targets[0]].item()
    assert sheet.titles[0][2] == f"25% of the pixels\ntop left {p:.1%}"
    assert np.array_equal(sheet.rows[0][2], drawing.picture(shown[0]))
    with pytest.raises(ValueError, match="panels_kept must lie in"):
        Panels(tmp_path / "b.png", 1, {}, kept=1.5)
