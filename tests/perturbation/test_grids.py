import numpy as np
import pytest
import torch
from skimage.transform import resize

from explainers.perturbation import grids


def make(count=20, size=(30, 20), grid=(5, 3), probability=0.5, batch_size=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(grids.rise(count, size, grid, probability, batch_size, generator))


@pytest.mark.parametrize(
    ("size", "grid"), [((56, 56), (7, 7)), ((37, 51), (7, 7)), ((9, 5), (2, 1))]
)
def test_rise_masks_are_upsampled_as_in_the_published_code(size, grid):
    generator = torch.Generator().manual_seed(0)
    kept = (torch.rand(6, *grid, generator=generator) < 0.5).float().numpy()
    cells = [-(-side // parts) for side, parts in zip(size, grid, strict=True)]
    shifts = (torch.rand(6, 2, generator=generator) * torch.tensor(cells)).long()
    up = [(parts + 1) * cell for parts, cell in zip(grid, cells, strict=True)]
    expected = [
        resize(coarse, up, order=1, mode="reflect")[top : top + size[0], left : left + size[1]]
        for coarse, (top, left) in zip(kept, shifts.tolist(), strict=True)
    ]
    made = torch.cat(make(6, size, grid))
    np.testing.assert_allclose(made.numpy(), np.stack(expected), atol=1e-6)


def test_rise_masks_do_not_depend_on_the_batch_size():
    whole, parts = make(batch_size=20), make(batch_size=7)
    assert [len(part) for part in parts] == [7, 7, 6]
    torch.testing.assert_close(torch.cat(parts), whole[0], rtol=0, atol=1e-6)
    assert not torch.equal(make(seed=1)[0], parts[0])


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_rise_masks_have_the_mean_asked_for_everywhere(probability):
    made = torch.cat(make(4000, (16, 16), (4, 4), probability, 4000))
    assert made.min() >= 0
    assert made.max() <= 1 + 1e-6
    assert (made.mean(dim=0) - probability).abs().max() < 0.035  # at most 5 standard errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grid": (0, 3)}, "positive"),
        ({"count": 0}, "positive"),
        ({"probability": 1.0}, r"\(0, 1\)"),
    ],
)
def test_rise_refuses_what_makes_no_masks(wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)


def test_a_row_of_cells_is_upsampled_about_their_centres_and_mirrored_beyond():
    assert grids.interpolation(2, 2).tolist() == [[1, 0], [0, 1]]
    assert grids.interpolation(3, 1).tolist() == [[1], [1], [1]]
    found = grids.interpolation(6, 2)  # centres at -1/3, 0, 1/3, 2/3, 1 and 4/3 of a cell
    expected = [[2 / 3, 1 / 3], [1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1], [1 / 3, 2 / 3]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_windows_are_cut_from_each_start():
    matrix = torch.arange(10).view(5, 2)
    found = grids.windows(matrix, torch.tensor([0, 3]), 2)
    assert found.tolist() == [[[0, 1], [2, 3]], [[6, 7], [8, 9]]]
