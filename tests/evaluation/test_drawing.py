"""Pictures whose pixels are known."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image

from explainers.evaluation import drawing

BLACK, RED, YELLOW = (0, 0, 4), (188, 55, 84), (252, 255, 164)  # inferno at 0, 0.5 and 1


def test_an_image_becomes_bytes_and_is_clipped():
    image = torch.tensor([[[0.0, 1.0]], [[0.5, 1.5]], [[1.0, -1.0]]])
    assert drawing.picture(image).tolist() == [[[0, 128, 255], [255, 255, 0]]]


def test_heat_goes_from_black_over_red_to_yellow():
    shown = drawing.heat(torch.tensor([[0.0, 0.5, 1.0], [-3.0, 0.5, 7.0]]))
    assert shown.dtype == np.uint8
    expected = np.array([[BLACK, RED, YELLOW]] * 2)
    np.testing.assert_allclose(shown.astype(int), expected, atol=1)  # as printed, rounded


def test_an_overlay_mixes_the_heat_with_the_grey_image():
    image = torch.tensor([0.0, 0.25, 0.5])[:, None, None].expand(3, 1, 2)  # grey: 0.25, so 64
    values = torch.tensor([[0.0, 1.0]])
    heat = drawing.heat(values)
    assert drawing.overlay(image, values, strength=0.0).tolist() == [[[64] * 3] * 2]
    np.testing.assert_array_equal(drawing.overlay(image, values, strength=1.0), heat)
    expected = np.rint(0.4 * 64 + 0.6 * heat.astype(float))
    np.testing.assert_array_equal(drawing.overlay(image, values), expected)


def test_a_sheet_shows_each_picture_in_its_cell():
    plain = {c: np.full((4, 4, 3), c, np.uint8) for c in (0, 90, 180)}
    rows, titles = [[plain[0], plain[90]], [plain[180]]], [["", ""], [""]]
    shown = drawing.sheet(rows, titles)
    height, width = 185, 160  # 1.6 inches, and 0.25 more for the title
    assert shown.shape == (2 * height, 2 * width, 3)
    assert shown.dtype == np.uint8
    middles = shown[height // 2 :: height, width // 2 :: width]
    expected = np.array([[0, 90], [180, 255]])[:, :, None].repeat(3, axis=2)  # one cell is empty
    np.testing.assert_array_equal(middles, expected)
    assert drawing.sheet(rows, titles, cell=1.0).shape == (250, 200, 3)


def test_a_title_stands_above_its_own_picture_only():
    plain = np.full((4, 4, 3), 255, np.uint8)
    shown = drawing.sheet([[plain, plain], [plain, plain]], [["", "kept"], ["", ""]])
    rows, columns = np.nonzero((shown < 128).all(axis=2))  # ink on white
    assert len(rows) > 20
    assert rows.max() < 40
    assert columns.min() >= 160


def test_a_file_holds_the_very_pixels(tmp_path):
    shown = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    drawing.save(shown, tmp_path / "deep" / "er" / "x.png")
    with Image.open(tmp_path / "deep" / "er" / "x.png") as file:
        np.testing.assert_array_equal(np.asarray(file), shown)


def test_higher_titles_leave_the_pictures_their_size():
    plain = np.zeros((4, 4, 3), np.uint8)
    shown = drawing.sheet([[plain], [plain]], [["a\nb\n$c$"], [""]])
    assert shown.shape[0] == 2 * (160 + 44)
    assert (shown[:196] == 0).all(axis=2).any(axis=1).sum() >= 140


def test_pictures_reach_weights_and_biases_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    seen = []
    monkeypatch.setattr(logger, "log_image", lambda key, **options: seen.append((key, options)))
    shown = np.zeros((2, 2, 3), np.uint8)
    trainer = SimpleNamespace(loggers=[logger, object()], global_step=7)
    drawing.log(trainer, "test/maps", shown)
    labels, names = np.eye(2, dtype=np.uint8), {0: "none", 1: "cat"}
    drawing.log_labels(trainer, "val/masks", [shown], [labels], names)
    maps, masks = seen
    assert maps == ("test/maps", {"images": [shown], "step": 7})
    mask = {"classes": {"mask_data": labels, "class_labels": names}}
    assert masks == ("val/masks", {"images": [shown], "masks": [mask], "step": 7})


def test_pictures_are_sent_to_tensorboard_as_bytes_with_their_step():
    sent = []

    class Written(TensorBoardLogger):
        experiment = SimpleNamespace(add_image=lambda *given, **more: sent.append((given, more)))

        def __init__(self):
            """Without TensorBoard, which may not be installed."""

    shown = np.zeros((2, 2, 3), np.uint8)
    drawing.log(SimpleNamespace(loggers=[Written()], global_step=7), "val/maps", shown)
    assert sent == [(("val/maps", shown, 7), {"dataformats": "HWC"})]


def test_pictures_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    shown = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    drawing.log(SimpleNamespace(loggers=[logger], global_step=7), "val/maps", shown)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (event,) = events.Images("val/maps")
    assert event.step == 7
    with Image.open(io.BytesIO(event.encoded_image_string)) as file:
        np.testing.assert_array_equal(np.asarray(file), shown)
