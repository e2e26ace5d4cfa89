"""Reading picture files and bringing pictures and masks to one size."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from datamodules import images


def test_squash_and_crop_by_hand():
    mask = tv_tensors.Mask(torch.tensor([[1, 1, 2, 2, 3, 3, 4, 4]], dtype=torch.uint8).expand(4, 8))
    assert images.Fit([2, 4], "squash", 1.0, "bilinear")(mask).tolist() == [[1, 2, 3, 4]] * 2
    assert images.Fit([4, 4], "crop", 1.0, "bilinear")(mask).tolist() == [[2, 2, 3, 3]] * 4
    image = torch.arange(8.0).expand(3, 4, 8) / 8
    assert torch.equal(images.Fit([4, 4], "crop", 1.0, "bilinear")(image), image[..., 2:6])
    # short side to floor(4 / 0.5) = 8: 8 x 16 loses 2 rows and 6 columns on each side
    assert images.Fit([4, 4], "crop", 0.5, "bicubic")(mask).tolist() == [[2, 2, 3, 3]] * 4
    assert images.Fit([3, 10], "crop", 0.9, "bicubic")(image).shape == (3, 3, 10)


def test_masks_stay_centred_under_their_image():
    mask = torch.zeros(9, 9, dtype=torch.uint8)
    mask[3:6, 3:6] = 1
    fitted = images.Fit([6, 6], "squash", 1.0, "bilinear")(tv_tensors.Mask(mask))
    assert torch.equal(fitted, fitted.flip(0, 1))
    assert fitted.sum() == 4


def save(path, pixels, **kwargs):
    Image.fromarray(pixels).save(path, **kwargs)
    return str(path)


def test_images_of_every_depth_become_rgb(tmp_path):
    grey = np.array([[0, 51], [102, 255]], np.uint8)
    assert images.read_image(save(tmp_path / "l.png", grey))[2].tolist() == grey.tolist()
    deep = images.read_image(save(tmp_path / "i.png", grey.astype(np.uint16) * 257))
    torch.testing.assert_close(deep[1], torch.tensor(grey / 255.0, dtype=torch.float32))
    floats = images.read_image(save(tmp_path / "f.tif", (grey / 255.0).astype(np.float32)))
    torch.testing.assert_close(floats[0], deep[0])
    alpha = np.dstack([grey, grey, grey, 255 - grey])
    assert images.read_image(save(tmp_path / "a.png", alpha))[0].tolist() == grey.tolist()
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "p.png", transparency=bytes([0] * 256))
    assert images.read_image(str(tmp_path / "p.png")).shape == (3, 2, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by a quarter turn
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "e.jpg", exif=exif)
    assert images.read_image(str(tmp_path / "e.jpg")).shape == (3, 6, 4)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, r"bad\.tif: the image holds NaN"), (1.5, r"bad\.tif: expected values in \[0, 1\]")],
)
def test_float_files_are_checked(tmp_path, value, message):
    path = save(tmp_path / "bad.tif", np.full((2, 2), value, np.float32))
    with pytest.raises(ValueError, match=message):
        images.read_image(path)


def test_broken_and_missing_files_are_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"x\.jpg: not a readable image .*replace or remove"):
        images.read_image(str(tmp_path / "x.jpg"))
    whole = save(tmp_path / "y.png", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    data = (tmp_path / "y.png").read_bytes()
    (tmp_path / "y.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"y\.png: not a readable image"):
        images.read_image(whole)
    with pytest.raises(FileNotFoundError, match=r"z\.png: no such image"):
        images.read_image(str(tmp_path / "z.png"))
    with pytest.raises(FileNotFoundError, match=r"z\.png: no such mask"):
        images.read_labels(str(tmp_path / "z.png"))
    save(tmp_path / "rgb.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"rgb\.png: expected a palette or grey PNG"):
        images.read_labels(str(tmp_path / "rgb.png"))
