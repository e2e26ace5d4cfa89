"""Reading picture files and bringing pictures and masks to one size."""

import struct
import zlib

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


def test_an_image_too_narrow_to_crop_is_named_before_it_fills_the_memory():
    fit = images.Fit([224, 224], "crop", 0.875, "bilinear")
    assert fit(torch.zeros(3, 1, 1000)).shape == (3, 224, 224)
    with pytest.raises(ValueError, match=r"an image of 1 x 9000 pixels is too narrow for resize:"):
        fit(torch.zeros(3, 1, 9000))
    assert images.Fit([4, 4], "squash", 1.0, "bilinear")(torch.zeros(3, 1, 9000)).shape == (3, 4, 4)


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


def half(first, second, mode="RGB"):
    """A picture of 8 x 8 whose left half has one color, and the right half another."""
    picture = Image.new("RGB", (8, 8), first)
    picture.paste(Image.new("RGB", (4, 8), second), (4, 0))
    return picture.convert(mode)


RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.mark.parametrize(
    ("name", "mode", "options", "left", "right"),
    [
        ("cmyk.tif", "CMYK", {}, [200, 0, 0], [0, 0, 200]),
        ("cmyk.jpg", "CMYK", {"quality": 100}, [200, 0, 0], [0, 0, 200]),
        ("grey_alpha.png", "LA", {}, [60] * 3, [23] * 3),
        ("palette_alpha.tif", "PA", {}, [204, 0, 0], [0, 0, 204]),
        ("palette.gif", "P", {"transparency": 0}, [204, 0, 0], [0, 0, 204]),
        ("colour_key.png", "RGB", {"transparency": RED}, [200, 0, 0], [0, 0, 200]),
        ("grey_key.png", "L", {"transparency": 60}, [60] * 3, [23] * 3),
        ("photo.jfif", "RGB", {"format": "JPEG", "quality": 100}, [200, 0, 0], [0, 0, 200]),
        ("photo.jpe", "YCbCr", {"format": "JPEG", "quality": 100}, [200, 0, 0], [0, 0, 200]),
        ("photo.qoi", "RGB", {}, [200, 0, 0], [0, 0, 200]),
        ("pages.tif", "RGB", {"save_all": True}, [200, 0, 0], [0, 0, 200]),
        ("film.gif", "RGB", {"save_all": True}, [200, 0, 0], [0, 0, 200]),
        ("film.webp", "RGB", {"save_all": True, "lossless": True}, [200, 0, 0], [0, 0, 200]),
        ("film.png", "RGB", {"save_all": True}, [200, 0, 0], [0, 0, 200]),
    ],
)
def test_colour_modes_and_first_frames(tmp_path, name, mode, options, left, right):
    if "save_all" in options:
        options = options | {"append_images": [half(BLUE, BLUE)]}
    half(RED, BLUE, mode).save(tmp_path / name, **options)
    image = images.read_image(str(tmp_path / name)).int()
    assert image.shape == (3, 8, 8)
    for column, colour in ((0, left), (7, right)):  # JPEG moves values by a level or two
        assert (image[:, 0, column] - torch.tensor(colour)).abs().max() <= 2


def test_one_bit_one_pixel_and_sixteen_bit_colour(tmp_path):
    bits = save(tmp_path / "bits.png", np.array([[True, False]]))
    assert images.read_image(bits).tolist() == [[[255, 0]]] * 3
    tiny = save(tmp_path / "tiny.png", np.array([[[5, 6, 7]]], np.uint8))
    assert images.read_image(tiny).flatten().tolist() == [5, 6, 7]
    assert images.Fit([4, 4], "crop", 0.9, "bicubic")(images.read_image(tiny)).shape == (3, 4, 4)
    pixel = struct.pack(">3H", 200 * 256 + 7, 0, 65535)
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, part in [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + pixel)), (b"IEND", b"")]:
        checksum = struct.pack(">I", zlib.crc32(kind + part))
        content += struct.pack(">I", len(part)) + kind + part + checksum
    (tmp_path / "deep.png").write_bytes(content)
    assert images.read_image(str(tmp_path / "deep.png")).flatten().tolist() == [200, 0, 255]


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
@pytest.mark.parametrize(("value", "wrong"), [(200, True), (4095, True), (4096, False), (0, False)])
def test_grey_of_fewer_bits_in_a_sixteen_bit_file_is_refused(tmp_path, kind, value, wrong):
    path = save(tmp_path / "x.tif", np.array([[0, value]], kind))
    if wrong:
        with pytest.raises(
            ValueError, match=rf"x\.tif: expected 16-bit gray .* up to {value} only"
        ):
            images.read_image(path)
    else:
        assert images.read_image(path)[0, 0, 1].item() == pytest.approx(value / 65535)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_files_without_content_or_end_are_named(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    save(path, noise)
    whole = path.read_bytes()
    for content in (b"", whole[:-60], b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.{ending}: not a readable image"):
            images.read_image(str(path))


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, r"bad\.tif: the image holds NaN"), (255.0, r"bad\.tif: expected values in \[0, 1\]")],
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


def moved(kind, seeds=30):
    """What each of some seeds makes of a random mask of 16 x 32 and of an image equal to it."""
    generator = torch.Generator().manual_seed(0)
    plane = (torch.rand(16, 32, generator=generator) > 0.5).float()
    augment = images.augmentation(kind, plane.shape)
    for seed in range(seeds):
        torch.manual_seed(seed)
        sample = {"image": tv_tensors.Image(plane[None]), "mask": tv_tensors.Mask(plane.byte())}
        yield plane, augment(sample)


def test_pad_shifts_image_and_mask_by_up_to_an_eighth():
    seen = set()
    for plane, sample in moved("pad"):
        found = sample["mask"].as_subclass(torch.Tensor)
        assert torch.equal(sample["image"][0], found.float())
        shifts = [
            (down, right, flipped)
            for flipped in (False, True)
            for down in range(-2, 3)
            for right in range(-4, 5)
            if torch.equal(shifted(plane.flip(1) if flipped else plane, down, right), found.float())
        ]
        assert len(shifts) == 1
        seen.update(shifts)
    assert {flipped for *_, flipped in seen} == {False, True}
    assert {-2, 2} <= {down for down, *_ in seen}  # each has a chance of 1 in 5, 30 times
    assert max(abs(right) for _, right, _ in seen) >= 3


def shifted(plane, down, right):
    height, width = plane.shape
    wide = torch.zeros(height + 8, width + 8)
    wide[4 + down : 4 + down + height, 4 + right : 4 + right + width] = plane
    return wide[4:-4, 4:-4]


def test_affine_moves_the_center_by_five_percent_and_the_mask_along():
    disk = (torch.cartesian_prod(torch.arange(40.0), torch.arange(60.0)) - 20).view(40, 60, 2)
    plane = (disk[..., 0].square() + (disk[..., 1] - 10).square() < 64).float()
    places = torch.cartesian_prod(torch.arange(40.0), torch.arange(60.0))
    augment = images.augmentation("affine", plane.shape)
    shifts, areas = [], []
    for seed in range(20):
        torch.manual_seed(seed)
        sample = augment({
            "image": tv_tensors.Image(plane[None]),
            "mask": tv_tensors.Mask(plane.byte()),
        })  # fmt: skip
        mask, image = sample["mask"].float().flatten(), sample["image"].flatten()
        # The mask is that of the nearest pixel, the image is interpolated: edges alone differ.
        assert (mask - (image > 0.5).float()).abs().sum() <= 12
        shifts.append((mask @ places / mask.sum() - plane.flatten() @ places / plane.sum()).abs())
        areas.append(float(mask.sum() / plane.sum()))
    largest = torch.stack(shifts).amax(dim=0)
    # Of 40 x 60 pixels 5 % are 2 x 3; the disk's center lies within half a pixel of the image's.
    assert (largest <= torch.tensor([2.8, 3.8])).all()
    assert (largest >= torch.tensor([1.0, 1.5])).all()
    assert 0.95**2 * 0.97 < min(areas) < 1 < max(areas) < 1.05**2 * 1.03
