import pytest
import torch

from explainers.perturbation import patches


def draw(count=50, size=(20, 14), side=6, probability=0.5, seed=0):
    return patches.draw_patches(count, size, side, probability, torch.Generator().manual_seed(seed))


def dense(*groups):
    return torch.cat([group.pixels(0, len(group.kept)) for group in groups])


def test_a_patch_mask_by_hand():
    kept = torch.tensor([[[True, False, True], [False, True, False], [True, False, True]]])
    made = patches.Patches((4, 5), 2, kept, torch.tensor([[1, 0]]))
    expected = [[1, 1, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert made.pixels(0, 1)[0].tolist() == expected
    assert made.areas().tolist() == [10]
    assert made.pixels(0, 1, 3)[0, 0].tolist() == [1] * 6 + [0] * 6 + [1] * 3


@pytest.mark.parametrize(
    ("size", "side"), [((20, 14), 6), ((7, 9), 1), ((5, 8), 20), ((12, 12), 4)]
)
def test_patch_masks_are_squares_of_a_shifted_grid(size, side):
    made = draw(30, size, side)
    for mask, kept, (down, across) in zip(
        dense(made), made.kept, made.offsets.tolist(), strict=True
    ):
        expected = [
            [bool(kept[(i + down) // side, (j + across) // side]) for j in range(size[1])]
            for i in range(size[0])
        ]
        assert mask.bool().tolist() == expected
    assert made.offsets.min() >= 0
    assert made.offsets.max() < side
    assert torch.equal(made.areas(), dense(made).sum(dim=(1, 2)))
    assert torch.equal(made.pixels(5, 9), dense(made)[5:9])


@pytest.mark.parametrize("probability", [0.3, 0.7])
def test_patch_masks_keep_a_square_with_the_probability_asked_for(probability):
    side, count = 8, 5000
    made = dense(draw(count, (24, 24), side, probability))
    assert (made.mean(dim=0) - probability).abs().max() < 0.035  # 5 standard errors
    # Two pixels are in one square, and so equal, with probability 1 - distance / side.
    centred = made - probability
    for distance in (1, 4, 8):
        covariance = (centred[:, :, :-distance] * centred[:, :, distance:]).mean()
        expected = probability * (1 - probability) * max(0, 1 - distance / side)
        assert float(covariance) == pytest.approx(expected, abs=0.01)


def test_patch_masks_without_a_pixel_are_drawn_again():
    sizes = draw(300, (6, 6), 12, 0.02).areas()
    assert sizes.min() > 0
    assert (sizes < 36).any()


def test_patch_masks_come_from_their_generator():
    assert torch.equal(dense(draw(seed=3)), dense(draw(seed=3)))
    assert not torch.equal(dense(draw(seed=3)), dense(draw(seed=4)))


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"side": 0}, {"probability": 0.0}, {"probability": 1.1}]
)
def test_patches_refuse_what_makes_no_masks(wrong):
    with pytest.raises(ValueError, match="positive and probability"):
        draw(**wrong)


def test_patch_sums_and_their_adjoint_are_dense_products():
    groups = [draw(40, side=6, seed=1), draw(30, side=3, probability=0.2, seed=2)]
    pixels = dense(*groups).double().flatten(1)  # (M, H W)
    sums = patches.PatchSums(groups)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 20, 14, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, 70, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(sums(maps), maps.flatten(1) @ pixels.mT)
    torch.testing.assert_close(sums.adjoint(weights).flatten(1), weights @ pixels)
    torch.testing.assert_close(sums.areas.double(), pixels.sum(dim=1))


def test_patch_spectra_are_masks_in_another_basis():
    groups = [draw(9, side=6, seed=1), draw(5, side=3, seed=2)]
    generator = torch.Generator().manual_seed(0)
    down, across = (torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (20, 14))
    parts = list(patches.PatchSums(groups).spectra(down, across, rows=8))
    assert [(part.start, part.stop) for part, _ in parts] == [(0, 8), (8, 16), (16, 24)]
    expected = down @ dense(*groups).double() @ across.mT
    torch.testing.assert_close(torch.cat([values for _, values in parts], dim=1), expected)
