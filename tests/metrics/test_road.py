"""ROAD on a classifier that sees one pixel."""

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.metrics.road import ROAD

SIZE = (10, 10)


class OnePixel(nn.Module):
    """Class 1 wins if the pixel (4, 4) is brighter than 0.5."""

    def forward(self, images):
        seen = images[:, :, 4, 4].mean(dim=1)
        return torch.stack([torch.zeros_like(seen), 20 * (seen - 0.5)], dim=1)


def measured(maps, **arguments):
    explanandum = Explanandum(OnePixel(), mean=[0.0] * 3, std=[1.0] * 3, input_size=list(SIZE))
    images = torch.full((len(maps), 3, *SIZE), 0.2)
    images[:, :, 4, 4] = 0.9
    targets = torch.tensor([[False, True]]).expand(len(maps), -1)
    metric = ROAD(**arguments)
    found = metric.measure(images=images, maps=maps, targets=targets, explanandum=explanandum)
    return {name: values.tolist() for name, values in found.items()}, metric


def test_the_one_pixel_that_counts():
    right = torch.arange(100.0).view(1, *SIZE) / 100
    right[0, 4, 4] = 5
    found, metric = measured(torch.cat([right, -right]))
    # Imputed from dark neighbors it is dark; while it stays the class stays.
    assert found == {"ROADMoRF": [0, 1], "ROADLeRF": [1, 0], "ROAD": [1, -1]}
    shares, heights = metric.curves["ROADMoRF"]
    assert heights.shape == (2, 9)
    assert heights.tolist() == [[0] * 9, [1] * 9]
    assert shares.tolist() == pytest.approx([tenth / 10 for tenth in range(1, 10)])
    assert [metric.direction(name) for name in metric.names] == [False, True, True]


def test_the_probability_by_hand():
    right = torch.zeros(1, *SIZE)
    right[0, 4, 4] = 5
    found, _ = measured(right, shares=[0.5], value="probability")
    dark = 1 / (1 + torch.tensor(20 * 0.3).exp())  # all neighbors that are left have 0.2
    assert found["ROADMoRF"] == pytest.approx([dark.item()], rel=0.5)  # up to the noise
    assert found["ROADLeRF"] == pytest.approx([1 / (1 + torch.tensor(-8.0).exp()).item()])


def test_shares_lie_between_0_and_1():
    for shares in ([], [0.0], [0.5, 1.0]):
        with pytest.raises(ValueError, match="shares must lie between 0 and 1"):
            ROAD(shares=shares)
