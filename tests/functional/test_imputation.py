"""Linear imputation by hand, and by the equation that every imputed pixel must satisfy."""

import torch
from torch.nn import functional as F

from explainers.functional.imputation import impute

MEAN = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
KERNEL = torch.tensor([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])


def weighted(images):
    """Weighted means of the neighbors inside the image."""
    images = images.double().flatten(0, 1)[:, None]
    kernel = KERNEL.double()[None, None]
    total = F.conv2d(torch.ones_like(images[:1]), kernel, padding=1)
    return (F.conv2d(images, kernel, padding=1) / total)[:, 0]


def test_single_pixels_by_hand():
    images = torch.zeros(1, 3, 3, 3)
    images[:, :, 0, 1] = 0.6  # above the center
    images[:, :, 2, 2] = 0.6  # diagonal to it
    masks = torch.ones(1, 3, 3)
    masks[:, 1, 1] = 0
    images[:, :, 1, 1] = 9  # not read
    torch.testing.assert_close(impute(images, masks, MEAN)[0, :, 1, 1], torch.full((3,), 0.15))
    masks = torch.ones(1, 3, 3)
    masks[:, 0, 0] = 0  # in the corner, with three neighbors: 1/6, 1/6 and 1/12 of 5/12
    images[:, :, 1, 1] = 0
    corner = torch.full((3,), 0.6 * 2 / 5)
    torch.testing.assert_close(impute(images, masks, MEAN)[0, :, 0, 0], corner)


def test_every_missing_pixel_is_the_mean_of_its_neighbors_and_the_others_stay():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 17, 12, generator=generator)
    masks = (torch.rand(3, 17, 12, generator=generator) < 0.4).float()
    masks[1, 3:15, :9] = 0  # a large hole at the border
    filled = impute(images, masks, MEAN)
    kept = masks.bool()[:, None].expand_as(images)
    assert torch.equal(filled[kept], images[kept])
    expected = weighted(filled).view_as(filled).float()
    torch.testing.assert_close(filled[~kept], expected[~kept], atol=1e-6, rtol=0)
    for one in range(3):
        alone = impute(images[one : one + 1], masks[one : one + 1], MEAN)
        assert torch.equal(alone[0], filled[one])


def test_all_and_nothing():
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([torch.ones(4, 5), torch.zeros(4, 5)])
    filled = impute(images, masks, MEAN)
    assert torch.equal(filled[0], images[0])
    assert torch.equal(filled[1], MEAN[0].expand(3, 4, 5))
    assert impute(images[:0], masks[:0], MEAN).shape == (0, 3, 4, 5)
