import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from explainers.functional import fills, masking, smoothing


def test_blend_keeps_where_the_mask_is_one():
    image = torch.full((1, 3, 1, 2), 0.8)
    fill = torch.full((1, 3, 1, 1), 0.2)
    blended = masking.blend(image, torch.tensor([[[1.0, 0.5]]]), fill)
    torch.testing.assert_close(blended[0, 0], torch.tensor([[0.8, 0.5]]))


def test_merge_takes_the_maximum_over_true_targets_and_zero_without_any():
    masks = torch.tensor([[[[0.2, 0.9]], [[0.6, 0.1]], [[1.0, 1.0]]]]).expand(2, -1, -1, -1)
    targets = torch.tensor([[True, True, False], [False, False, False]])
    torch.testing.assert_close(masking.merge(masks, targets)[0], torch.tensor([[0.6, 0.9]]))
    torch.testing.assert_close(masking.merge(masks, targets)[1], torch.zeros(1, 2))


def test_minmax_scales_each_map_alone():
    maps = torch.tensor([[[-1.0, 1.0]], [[5.0, 5.0]], [[0.0, 4.0]]])
    torch.testing.assert_close(
        masking.minmax(maps)[:, 0], torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    )


def test_blur_fades_to_the_mean_at_the_border_and_keeps_its_inside():
    mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    flat = mean.expand(1, 3, 21, 21)
    torch.testing.assert_close(smoothing.blur(flat, 5, 1.0, mean), flat)
    white = smoothing.blur(torch.ones(1, 3, 21, 21), 5, 1.0, mean)
    torch.testing.assert_close(white[0, :, 10, 10], torch.ones(3))
    tap = torch.exp(-(torch.tensor([0.0, 1.0, 2.0]) ** 2) / 2)
    inside = (tap.sum() / (2 * tap.sum() - 1)) ** 2  # of the kernel, at a corner
    torch.testing.assert_close(white[0, :, 0, 0], mean.flatten() + (1 - mean.flatten()) * inside)


MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.1, 0.2, 0.3]))


def test_kernel_blur_is_the_filtered_impulse_of_the_released_code():
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    kernel = torch.from_numpy(ndimage.gaussian_filter(impulse, 5)).float()
    images = torch.rand(2, 3, 13, 17, generator=torch.Generator().manual_seed(0))
    weight = kernel.expand(3, 1, -1, -1)
    expected = F.conv2d(images - MEAN, weight, padding=5, groups=3) + MEAN
    torch.testing.assert_close(smoothing.kernel_blur(images, MEAN), expected)
    assert kernel[5, 5].item() == pytest.approx(0.00883, abs=5e-6)


def test_fills_by_name():
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fills.fill("mean", images, MEAN), MEAN)
    assert fills.fill("black", images, MEAN).abs().sum() == 0
    torch.testing.assert_close(
        fills.fill("blur", images, MEAN, sigma=2.0), smoothing.blur(images, 17, 2.0, MEAN)
    )
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    noise, again = (fills.fill("noise", images, MEAN, STD, g) for g in generators)
    assert torch.equal(noise, again)
    for statistic, expected in ((noise.mean(dim=(2, 3)), MEAN), (noise.std(dim=(2, 3)), STD)):
        torch.testing.assert_close(statistic.flatten(), expected.flatten(), atol=0.03, rtol=0)


def test_other_images_come_from_the_batch_or_from_a_bank():
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(-1, 3, 2, 2)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        others = fills.fill("images", images, MEAN, generator=generator)
        assert not (others == images).any()
        assert sorted(others[:, 0, 0, 0].tolist()) == [0, 1, 2]
    from_bank = fills.fill("images", images[:1], MEAN, bank=images[2:])
    assert torch.equal(from_bank, images[2:])


def test_a_bank_is_a_folder_of_pictures(tmp_path):
    for name, level in (("b.png", 255), ("a.png", 51)):
        Image.new("RGB", (4, 6), (level, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (3, 5), (0, 0, 102)).save(tmp_path / "sub" / "c.png")
    bank = fills.read_bank(str(tmp_path), 3, 5)
    assert bank.shape == (3, 3, 3, 5)
    torch.testing.assert_close(
        bank.mean(dim=(2, 3)), torch.tensor([[0.2, 0, 0], [1.0, 0, 0], [0, 0, 0.4]])
    )
    drawn = fills.read_bank(str(tmp_path), 3, 5, count=2, seed=1, resample="bilinear")
    assert drawn.shape == (2, 3, 3, 5)
    assert all(any(torch.equal(one, known) for known in bank) for one in drawn)
    assert not torch.equal(drawn[0], drawn[1])
    with pytest.raises(ValueError, match=r"holds 3 pictures .* expected at least 4"):
        fills.read_bank(str(tmp_path), 3, 5, count=4)


def test_impossible_fills_say_why(tmp_path):
    images = torch.rand(1, 3, 4, 4)
    cases = [
        ({"name": "sand"}, "sand"),
        ({"name": "blur", "sigma": 0.0}, "sigma"),
        ({"name": "noise"}, "std"),
        ({"name": "images"}, "bank"),
        ({"name": "images", "bank": torch.rand(2, 3, 4, 5)}, "pictures are"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            fills.fill(images=images, mean=MEAN, **arguments)
    with pytest.raises(ValueError, match="holds 0 pictures"):
        fills.read_bank(str(tmp_path), 2, 2)
