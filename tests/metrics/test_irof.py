"""IROF on an image of four plain quadrants, which are its superpixels."""

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.metrics.irof import IROF

SIZE = 32
WEIGHTS = torch.tensor([0.5, 0.25, 0.25, 0.0])


class Quadrants(nn.Module):
    """The probability of class 1 is a weighted sum of the quadrants that are not black."""

    def forward(self, images):
        seen = nn.functional.adaptive_max_pool2d(images, 2).amax(dim=1).flatten(1) > 0
        share = (0.9 * (seen * WEIGHTS).sum(dim=1)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([-share.logit(), torch.zeros_like(share)], dim=1)


def measured(*orders, **arguments):
    explanandum = Explanandum(Quadrants(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[SIZE] * 2)
    half, images = SIZE // 2, torch.zeros(len(orders), 3, SIZE, SIZE)
    for place, color in enumerate(((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (1.0, 1.0, 1.0))):
        rows, columns = half * (place // 2), half * (place % 2)
        images[:, :, rows : rows + half, columns : columns + half] = torch.tensor(color)[
            None, :, None, None
        ]
    values = torch.tensor(orders).float().view(-1, 2, 2)
    maps = values.repeat_interleave(half, 1).repeat_interleave(half, 2)
    found = IROF(segments=4, **arguments).measure(
        images=images,
        maps=maps,
        targets=torch.tensor([[False, True]]).expand(len(orders), -1),
        explanandum=explanandum,
    )
    return found["IROF"].tolist()


def test_the_area_by_hand():
    # Relative probabilities 1, .5, .25, 0, 0 and, in reverse order, 1, 1, .75, .5, 0.
    expected = [1 - (0.5 + 0.5 + 0.25) / 4, 1 - (0.5 + 1 + 0.75 + 0.5) / 4]
    assert measured((4, 3, 2, 1), (1, 2, 3, 4)) == pytest.approx(expected, abs=1e-4)
    assert measured((4, 3, 2, 1), batch_size=2) == pytest.approx(expected[:1], abs=1e-4)


def test_the_mean_of_a_superpixel_counts():
    assert measured((4, 3, 2, 1), fill="black") == measured((9, 0.3, 0.2, -5), fill="black")


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="got 0 and 16"):
        IROF(segments=0)
