"""Infidelity and MuFidelity on a linear classifier, whose removal costs are known exactly."""

import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from torch import nn

from explainers import Explanandum
from explainers.metrics.subsets import (
    Infidelity,
    MuFidelity,
    infidelity,
    random_cells,
    random_squares,
    subset_sums,
)

SIZE = (12, 15)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


WEIGHTS = torch.randn(2, *SIZE, generator=generator())


class Linear(nn.Module):
    """Logits are weighted sums of the brightness: removing pixels costs their weighted sum."""

    def forward(self, images):
        return torch.einsum("bchw,khw->bk", images, WEIGHTS.to(images)) / 3


@pytest.fixture
def explanandum():
    return Explanandum(Linear(), mean=[0.0] * 3, std=[1.0] * 3, input_size=list(SIZE))


def scene(count=2):
    images = torch.rand(count, 3, *SIZE, generator=generator(1))
    targets = torch.tensor([[False, True]]).expand(count, -1)
    return images, targets, WEIGHTS[1] * images.mean(dim=1)  # the map that is exactly right


def measured(metric, maps, explanandum):
    images, targets, _ = scene(len(maps))
    (values,) = metric.measure(
        images=images, maps=maps, targets=targets, explanandum=explanandum
    ).values()
    return values.tolist()


def test_the_right_map_at_any_scale_is_without_fault(explanandum):
    _, _, right = scene()
    assert measured(Infidelity(draws=20), 7 * right, explanandum) == pytest.approx([0, 0], abs=1e-9)
    for correlation in ("pearson", "spearman"):
        metric = MuFidelity(draws=20, grid=4, correlation=correlation)
        assert measured(metric, 7 * right, explanandum) == pytest.approx([1, 1], abs=1e-6)
        assert measured(metric, -right, explanandum) == pytest.approx([-1, -1], abs=1e-6)
    assert measured(Infidelity(draws=20), -right, explanandum) == pytest.approx([0, 0], abs=1e-9)


def test_infidelity_is_captums_for_the_same_squares(explanandum):
    images, targets, right = scene()
    maps = right + torch.rand(right.shape, generator=generator(2))
    metric = Infidelity(draws=30, largest=0.5, seed=3)
    squares = random_squares(30, SIZE, 6, generator(3))

    def removing(inputs):
        """captum repeats each input, one after another: the squares follow for each image."""
        removed = squares.repeat(len(inputs) // 30, 1, 1)[:, None].expand_as(inputs).float()
        return removed, inputs * (1 - removed)

    expected = captum_infidelity(
        explanandum,
        removing,
        images,
        (maps / 3)[:, None].expand_as(images),  # captum sums over the channels
        target=targets.int().argmax(dim=1),
        n_perturb_samples=30,
        normalize=True,
    )
    assert measured(metric, maps, explanandum) == pytest.approx(expected.tolist(), rel=1e-4)


def test_infidelity_by_hand():
    sums, costs = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 2.0], [1.0, 3.0]])
    # The best factor is 1, then 0 - 1 and 2 - 1; a map of zeros says nothing of 1 and 3.
    assert infidelity(sums, costs).tolist() == [1.0, 5.0]


def test_mufidelity_by_hand(explanandum):
    images, _, _ = scene(1)
    maps = torch.rand(1, *SIZE, generator=generator(4))
    sets = random_cells(25, SIZE, 3, 0.4, generator(5))
    costs = (WEIGHTS[1] * images[0].mean(dim=0) * sets).sum(dim=(1, 2))
    sums = (maps * sets).sum(dim=(1, 2))
    expected = torch.corrcoef(torch.stack([sums, costs]))[0, 1].item()
    metric = MuFidelity(grid=3, share=0.4, draws=25, seed=5)
    assert measured(metric, maps, explanandum) == pytest.approx([expected], abs=1e-5)
    assert measured(metric, torch.ones_like(maps), explanandum) != [0]


def test_squares_and_cells():
    squares = random_squares(500, SIZE, 6, generator())
    heights, widths = squares.any(dim=2).sum(dim=1), squares.any(dim=1).sum(dim=1)
    assert torch.equal(heights, widths)
    assert torch.equal(squares.sum(dim=(1, 2)), heights**2)
    assert heights.unique().tolist() == [1, 2, 3, 4, 5, 6]
    assert squares.any(dim=0).all()  # every pixel can be removed
    cells = random_cells(50, (8, 8), 4, 0.2, generator())
    assert cells.sum(dim=(1, 2)).unique().tolist() == [3 * 4]  # 3 of 16 cells of 4 pixels
    assert cells.any(dim=0).all()
    assert subset_sums(torch.ones(1, 8, 8), cells).unique().tolist() == [12]


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"largest in \(0, 1\], got 200, 16 and 0"):
        Infidelity(largest=0)
    with pytest.raises(ValueError, match="got 9, 200, 16 and 1"):
        MuFidelity(share=1)
