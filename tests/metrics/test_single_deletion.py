"""Single deletion by hand, on classifiers whose dependence on each cell is known."""

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.functional.regions import cell_numbers
from explainers.metrics.single_deletion import SingleDeletion

WEIGHTS = torch.tensor([[3.0, 0.0], [1.0, 2.0]])  # of the four cells of 4 x 6 images


class Weighted(nn.Module):
    """The logit of class 1 is a weighted sum of the cells' brightness; class 0 has 0."""

    def forward(self, images):
        brightness = nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2)[:, 0]
        logit = (brightness * WEIGHTS).sum((1, 2))
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


@pytest.fixture
def explanandum():
    return Explanandum(Weighted(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[4, 6])


def measured(explanandum, maps, label=1, **arguments):
    images = torch.ones(len(maps), 3, 4, 6)
    targets = torch.zeros(len(maps), 2, dtype=torch.bool)
    targets[:, label] = True
    metric = SingleDeletion(grid=2, fill="black", **arguments)
    return metric.measure(images=images, maps=maps, targets=targets, explanandum=explanandum)[
        "SingleDeletion"
    ].tolist()


def spread(*cells):
    return torch.tensor(cells).float().view(1, 2, 2).repeat_interleave(2, 1).repeat_interleave(3, 2)


def test_the_order_of_the_cells_by_hand(explanandum):
    right = torch.cat([spread(3, 0, 1, 2), spread(9, -1, 0, 0.5)])
    assert measured(explanandum, right) == pytest.approx([1, 1])
    assert measured(explanandum, -right) == pytest.approx([-1, -1])
    assert measured(explanandum, right, label=0) == pytest.approx([-1, -1])
    # Ranks 4 1 2 3 against 3 1 2 4: 1 - 6 (1 + 1) / (4 * 15).
    assert measured(explanandum, spread(2, 0, 1, 3)) == pytest.approx([0.8])
    assert measured(explanandum, right, batch_size=3) == measured(explanandum, right)


def test_the_order_within_a_cell_does_not_matter(explanandum):
    maps = spread(3, 0, 1, 2)
    maps[0, 0, 0] += 0.6
    maps[0, 1, 1] -= 0.6
    assert measured(explanandum, maps) == pytest.approx([1])


def test_without_an_order_there_is_no_value(explanandum):
    assert measured(explanandum, torch.ones(1, 4, 6)) == pytest.approx([float("nan")], nan_ok=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_takes_the_value_with_it(value):
    class Breaks(Weighted):
        def forward(self, images):
            broken = images[:, 0, 0, 0] == 0  # without the first cell
            return super().forward(images) + torch.where(broken, value, 0.0)[:, None]

    explanandum = Explanandum(Breaks(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[4, 6])
    found = measured(explanandum, spread(3, 0, 1, 2))
    assert found == pytest.approx([float("nan")], nan_ok=True)


def test_cells_of_sizes_that_do_not_divide():
    cells = cell_numbers(5, 7, 3)
    assert cells.unique().tolist() == list(range(9))
    counts = cells.flatten().bincount().tolist()
    assert max(counts) <= 2 * 3
    assert min(counts) >= 1 * 2


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="got 0 and 16"):
        SingleDeletion(grid=0)


def test_the_costs_of_an_image_are_measured_once_for_all_methods(explanandum):
    images, targets = torch.ones(1, 3, 4, 6), torch.tensor([[False, True]])
    metric = SingleDeletion(grid=2, fill="black")
    right = spread(3, 0, 1, 2)

    def shown(images, maps):
        """The value, and the number of images that the classifier sees."""
        counts = []
        seen = explanandum.model.register_forward_pre_hook(lambda _, x: counts.append(len(x[0])))
        found = metric.measure(images=images, maps=maps, targets=targets, explanandum=explanandum)
        seen.remove()
        return found["SingleDeletion"].item(), sum(counts)

    assert shown(images, right) == (pytest.approx(1), 1 + 5)
    assert shown(images, -right) == (pytest.approx(-1), 1)
    assert shown(0.5 * images, right) == (pytest.approx(1), 1 + 5)
    explanandum.model.register_forward_hook(lambda _, x, logits: -logits)  # another classifier
    assert shown(0.5 * images, right) == (pytest.approx(-1), 1 + 5)
