import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from explainers.functional import smoothing

MEAN = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)


def test_blur_fades_to_the_mean_at_the_border_and_keeps_its_inside():
    flat = MEAN.expand(1, 3, 21, 21)
    torch.testing.assert_close(smoothing.blur(flat, 5, 1.0, MEAN), flat)
    white = smoothing.blur(torch.ones(1, 3, 21, 21), 5, 1.0, MEAN)
    torch.testing.assert_close(white[0, :, 10, 10], torch.ones(3))
    tap = torch.exp(-(torch.tensor([0.0, 1.0, 2.0]) ** 2) / 2)
    inside = (tap.sum() / (2 * tap.sum() - 1)) ** 2  # of the kernel, at a corner
    torch.testing.assert_close(white[0, :, 0, 0], MEAN.flatten() + (1 - MEAN.flatten()) * inside)


def test_kernel_blur_is_the_filtered_impulse_of_the_released_code():
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    kernel = torch.from_numpy(ndimage.gaussian_filter(impulse, 5)).float()
    images = torch.rand(2, 3, 13, 17, generator=torch.Generator().manual_seed(0))
    weight = kernel.expand(3, 1, -1, -1)
    expected = F.conv2d(images - MEAN, weight, padding=5, groups=3) + MEAN
    torch.testing.assert_close(smoothing.kernel_blur(images, MEAN), expected)
    assert kernel[5, 5].item() == pytest.approx(0.00883, abs=5e-6)


def test_a_gaussian_sums_to_one_along_its_dimension():
    offsets = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    one, two = math.exp(-1 / 8), math.exp(-1 / 2)  # at distances 1 and 2, of sigma 2
    down = torch.tensor([[1 / (1 + two), one / (one + 1)], [two / (1 + two), 1 / (one + 1)]])
    torch.testing.assert_close(smoothing.gaussian(offsets, 2.0), down)
    torch.testing.assert_close(smoothing.gaussian(offsets.mT, 2.0, dim=1), down.mT)
    assert smoothing.gaussian(offsets, math.inf).tolist() == [[0.5, 0.5]] * 2


def test_inside_smoothing_by_hand_and_by_its_kernels():
    spike = torch.zeros(1, 9, 9)
    spike[0, 4, 4] = 9
    box = torch.zeros(9, 9)
    box[3:6, 3:6] = 1
    torch.testing.assert_close(smoothing.smooth_inside(spike, 3)[0], box)
    tap = torch.tensor([-1.0, 0.0, 1.0]).square().mul(-0.5).exp()
    tap /= tap.sum()
    found = smoothing.smooth_inside(spike, 3, 1.0)[0, 3:6, 3:6]
    torch.testing.assert_close(found, 9 * tap[:, None] * tap)
    flat = torch.full((2, 6, 4), 3.0)
    torch.testing.assert_close(smoothing.smooth_inside(flat, 11, 5.0), flat)  # no border
    assert torch.equal(smoothing.smooth_inside(spike, 1), spike)


def test_mirrored_smoothing_is_a_gaussian_of_five_by_five():
    maps = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    taps = torch.arange(-2.0, 3.0)
    kernel = torch.exp(-(taps[:, None] ** 2 + taps**2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 5, 5)
    expected = F.conv2d(F.pad(maps, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
    torch.testing.assert_close(smoothing.smooth_mirrored(maps, 1.0), expected)
    assert smoothing.smooth_mirrored(maps, 0.0) is maps
    for size in ((1, 1), (2, 1), (2, 3)):  # too small for a padding of two
        flat = torch.ones(size)
        torch.testing.assert_close(smoothing.smooth_mirrored(flat, 1.0), flat)
