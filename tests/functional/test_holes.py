"""Random holes: their shares by kind, and that they depend on the generator alone."""

import pytest
import torch

from explainers.functional import holes as kinds
from explainers.functional.holes import holes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_generator_decides_and_every_mask_has_a_hole():
    masks = holes(40, (31, 45), seeded())
    assert masks.shape == (40, 31, 45)
    assert masks.dtype == torch.float32
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert (masks.amin(dim=(1, 2)) == 0).all()
    torch.manual_seed(5)  # the global state plays no part
    assert torch.equal(masks, holes(40, (31, 45), seeded()))
    assert not torch.equal(masks, holes(40, (31, 45), seeded(1)))


def test_patches_have_the_published_sides():
    areas = {int(kinds.patches((224, 224), seeded(s)).sum()) for s in range(40)}
    assert {29**2, 53**2} <= areas
    hole = kinds.patches((112, 112), seeded(0))
    assert hole.any()
    assert min(int(x.sum()) for x in (hole.any(0), hole.any(1))) >= 15


def test_blocks_are_cells_of_the_grid():
    for seed in range(5):
        hole = kinds.blocks((56, 84), seeded(seed))
        cells = hole.view(28, 2, 28, 3)
        assert (cells == cells[:, :1, :, :1]).all()
        assert 0.01 <= hole.float().mean() <= 0.4


def test_cells_remove_about_half():
    share = torch.stack([kinds.cells((40, 40), seeded(s)) for s in range(60)]).float().mean()
    assert share.item() == pytest.approx(0.5, abs=0.04)


def test_rectangles_and_strokes_are_partial():
    for kind in (kinds.rectangles, kinds.strokes):
        shares = torch.stack([kind((64, 64), seeded(s)).float().mean() for s in range(40)])
        assert shares.min() > 0
        assert shares.mean() < 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (5, 3)])
def test_any_size_will_do(size):
    masks = holes(30, size, seeded())
    assert masks.shape == (30, *size)
    assert (masks.amin(dim=(1, 2)) == 0).all()


def test_no_masks_and_no_size():
    assert holes(0, (4, 4), seeded()).shape == (0, 4, 4)
    with pytest.raises(ValueError, match="height and width of at least 1"):
        holes(1, (0, 4), seeded())
