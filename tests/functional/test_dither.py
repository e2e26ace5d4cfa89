import torch

from explainers.functional.dither import bayer


def test_the_pattern_is_bayers_and_repeats():
    pattern = bayer(8, 6)
    assert pattern.shape == (8, 6)
    assert torch.equal(pattern[:4], pattern[4:])
    assert torch.equal(pattern[:, :2], pattern[:, 4:])
    values = (15 * (pattern[:4, :4] + 0.5)).round().int()
    assert sorted(values.flatten().tolist()) == list(range(16))
    # Thresholded at half, it is a checkerboard.
    assert torch.equal(values < 8, (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0)
