import torch

from explainers.evaluation.panels import Panels
from explainers.methods.constant import Random
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
