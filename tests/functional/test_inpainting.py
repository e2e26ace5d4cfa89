"""The harmonic fill against exact solutions of the Laplace equation."""

import numpy as np
import pytest
import torch

from explainers.functional.inpainting import harmonic


def exact(image, kept):
    """Each missing pixel the mean of its direct neighbors, by a dense linear system."""
    height, width = kept.shape
    matrix, right = np.eye(height * width), np.zeros((height * width, 3))
    for y, x in np.ndindex(height, width):
        row = y * width + x
        if kept[y, x]:
            right[row] = image[:, y, x]
            continue
        around = [(y + a, x + b) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        inside = [(a, b) for a, b in around if 0 <= a < height and 0 <= b < width]
        for a, b in inside:
            matrix[row, a * width + b] = -1 / len(inside)
    solved = np.linalg.solve(matrix, right).reshape(height, width, 3)
    return torch.from_numpy(solved).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(13, 18), (1, 9), (7, 1), (16, 16)])
def test_many_sweeps_solve_the_laplace_equation(size):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, *size, generator=generator, dtype=torch.float64)
    kept = torch.rand(size, generator=generator) < 0.3
    kept[0, 0] = True
    solved = harmonic(image[None], kept[None].double(), sweeps=400)[0]
    torch.testing.assert_close(solved, exact(image, kept.numpy()), atol=1e-8, rtol=0)


def test_a_few_sweeps_come_close_in_a_large_hole():
    rows, columns = torch.meshgrid(*[torch.linspace(0, 1, 65)] * 2, indexing="ij")
    image = (0.5 + (rows**2 - columns**2) / 2).expand(1, 3, 65, 65)  # harmonic itself
    masks = torch.ones(1, 65, 65)
    masks[:, 12:52, 9:55] = 0
    assert (harmonic(image * masks, masks) - image).abs().max() < 0.02
    assert (harmonic(image * masks, masks, sweeps=64) - image).abs().max() < 0.002


def test_kept_pixels_stay_and_missing_ones_are_not_read():
    images = torch.rand(2, 3, 9, 11)
    masks = (torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    kept = masks[:, None] >= 0.5
    hidden = images.where(kept, torch.nan)
    filled = harmonic(hidden, masks)
    assert torch.equal(filled, harmonic(images, masks))
    assert torch.equal(filled.where(kept, 0), images.where(kept, 0))
    assert filled.min() >= 0
    assert filled.max() <= 1
    alone = torch.cat([harmonic(i[None], m[None]) for i, m in zip(images, masks, strict=True)])
    assert torch.equal(filled, alone)


def test_an_image_without_a_kept_pixel_takes_the_mean():
    images, masks = torch.rand(2, 3, 5, 6), torch.ones(2, 5, 6)
    masks[1] = 0.49
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    filled = harmonic(images, masks, mean=mean)
    torch.testing.assert_close(filled[1], mean[0].expand(3, 5, 6))
    assert torch.equal(filled[0], images[0])
    torch.testing.assert_close(harmonic(images, masks)[1], torch.full((3, 5, 6), 0.5))


def test_half_precision_is_computed_in_single_and_returned():
    images = torch.rand(1, 3, 8, 8).bfloat16()
    masks = torch.ones(1, 8, 8)
    masks[:, 2:5, 2:5] = 0
    filled = harmonic(images, masks)
    assert filled.dtype == torch.bfloat16
    assert torch.equal(filled, harmonic(images.float(), masks).bfloat16())


def test_wrong_input_is_told():
    with pytest.raises(ValueError, match=r"masks must be \(B, H, W\)"):
        harmonic(torch.rand(2, 3, 4, 4), torch.ones(2, 1, 4, 4))
    with pytest.raises(ValueError, match="sweeps must be at least 0, got -1"):
        harmonic(torch.rand(1, 3, 4, 4), torch.ones(1, 4, 4), sweeps=-1)
