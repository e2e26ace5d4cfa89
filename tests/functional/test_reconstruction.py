"""Losses and scores inside holes, by hand."""

import pytest
import torch

from explainers.functional.reconstruction import (
    gradient_l1,
    hole_l1,
    hole_psnr,
    hole_ssim,
    spectrum_l1,
)

MASK = torch.tensor([[[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]])
ORIGINAL = torch.zeros(1, 3, 2, 4)


def completed(values):
    image = ORIGINAL.clone()
    image[:, :, 1, :2] = torch.tensor(values)
    return image


def test_differences_by_hand():
    image = completed([0.2, -0.4])
    assert hole_l1(image, ORIGINAL, MASK).item() == pytest.approx(0.3)
    # At half resolution the hole is half a pixel, whose gap is (0.2 - 0.4) / 4.
    assert hole_l1(image, ORIGINAL, MASK, scales=2).item() == pytest.approx(0.3 + 0.05 / 0.5)
    # Downward 0.2 and 0.4; to the right 0.6 and 0.4; per channel and pixel of the hole.
    assert gradient_l1(image, ORIGINAL, MASK).item() == pytest.approx(1.6 / 2)
    assert hole_psnr(image, ORIGINAL, MASK).item() == pytest.approx(10.0)  # mean square 0.1


def test_the_spectrum_does_not_ask_where():
    image = torch.rand(1, 3, 8, 8)
    assert spectrum_l1(image.roll(3, dims=3), image).item() == pytest.approx(0, abs=1e-6)
    # A constant of 0.5 has all its energy at one frequency: 0.5 * 64 / 8, of 40 frequencies.
    constant = torch.full((1, 3, 8, 8), 0.5)
    assert spectrum_l1(constant, 0 * constant).item() == pytest.approx(4 / 40)


def test_images_count_alike_and_whole_ones_are_perfect():
    images, originals = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    masks = torch.ones(2, 16, 16)
    masks[0, 4:9, 4:9] = 0
    images = originals.where(masks[:, None] > 0, images)
    alone = hole_l1(images[:1], originals[:1], masks[:1])
    torch.testing.assert_close(hole_l1(images, originals, masks), alone / 2)
    assert hole_psnr(images, originals, masks)[1].item() == pytest.approx(100)
    scores = hole_ssim(images, originals, masks)
    assert scores[1] == 1
    assert scores[0] < 0.9
    torch.testing.assert_close(scores[:1], hole_ssim(images[:1], originals[:1], masks[:1]))
