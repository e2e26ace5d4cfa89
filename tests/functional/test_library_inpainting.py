import pytest
import torch

from explainers.functional import fills

MEAN = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
LIBRARIES = {"telea": "cv2", "navier_stokes": "cv2", "patchmatch": "patchmatch_cython"}


@pytest.fixture(params=LIBRARIES)
def name(request):
    pytest.importorskip(LIBRARIES[request.param], reason="the extra `inpaint` is not installed")
    return request.param


def random(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_a_hole_in_a_plain_image_gets_its_color_and_kept_pixels_stay(name):
    images = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(2, 3, 24, 31).clone()
    images[1] = 1 - images[1]
    images[:, :, 8:14, 9:20] = 0.77  # is not read
    masks = torch.ones(2, 24, 31)
    masks[:, 8:14, 9:20] = 0.3
    filled = fills.fill(name, images, MEAN, masks=masks)
    kept = (masks >= 0.5)[:, None].expand_as(images)
    assert torch.equal(filled[kept], images[kept])
    expected = images[:, :, :1, :1].expand_as(images)
    torch.testing.assert_close(filled, expected, rtol=0, atol=2.01 / 255)  # 8 bits


def test_nothing_kept_gives_the_mean_and_nothing_missing_the_image(name):
    images, masks = random(3, 3, 20, 20), torch.ones(3, 20, 20)
    masks[0], masks[1, 4:9, 4:9] = 0, 0
    filled = fills.fill(name, images, MEAN, masks=masks)
    assert torch.equal(filled[0], MEAN[0].expand(3, 20, 20))
    assert torch.equal(filled[2], images[2])
    assert filled.min() >= 0
    assert filled.max() <= 1


def test_a_fill_does_not_depend_on_its_batch_nor_on_the_missing_pixels(name):
    images, masks = random(3, 3, 20, 22), torch.ones(3, 20, 22)
    masks[:, 5:12, 3:9] = 0
    together = fills.fill(name, images, MEAN, masks=masks)
    images[:, :, 5:12, 3:9] = 1 - images[:, :, 5:12, 3:9]
    alone = [
        fills.fill(name, i[None], MEAN, masks=m[None]) for i, m in zip(images, masks, strict=True)
    ]
    missing = (masks == 0)[:, None].expand_as(images)
    assert torch.equal(torch.cat(alone)[missing], together[missing])


@pytest.mark.parametrize("side", [3, 9])
def test_images_without_a_whole_patch_show_the_mean_color(side):
    pytest.importorskip("patchmatch_cython", reason="the extra `inpaint` is not installed")
    images, masks = random(1, 3, side, side), torch.ones(1, side, side)
    masks[:, ::2] = 0
    filled = fills.fill("patchmatch", images, MEAN, masks=masks)
    color = filled[:, :, 0, 0]
    torch.testing.assert_close(color, MEAN[:, :, 0, 0], rtol=0, atol=1 / 255)


def test_holes_that_leave_no_patch_in_a_smaller_copy_are_filled():
    pytest.importorskip("patchmatch_cython", reason="the extra `inpaint` is not installed")
    images, masks = random(1, 3, 64, 64), torch.ones(1, 64, 64)
    masks[:, ::8, ::8] = 0  # every patch of the image at half its size or less has a hole
    filled = fills.fill("patchmatch", images, MEAN, masks=masks)
    kept = (masks == 1)[:, None].expand_as(images)
    assert torch.equal(filled[kept], images[kept])
    assert not torch.equal(filled[~kept], MEAN.expand_as(images)[~kept])


def test_a_missing_library_is_named(monkeypatch):
    def none(name):
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", none)
    images = random(1, 3, 8, 8)
    for name in LIBRARIES:
        with pytest.raises(ValueError, match=rf"{name}' needs .* pip install .*\[inpaint\]"):
            fills.fill(name, images, MEAN, masks=torch.ones(1, 8, 8))
