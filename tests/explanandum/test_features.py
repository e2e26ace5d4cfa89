"""Tokens as maps, and which maps make the pyramid."""

import pytest
import torch
from timm.models import create_model
from torch import nn

from explainers.explanandum import features


@pytest.mark.parametrize("prefix", range(6))
@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (4, 3), (5, 5), (2, 8)])
def test_tokens_are_laid_out_as_the_image_is(prefix, rows, columns):
    maps = torch.arange(2.0 * 3 * rows * columns).view(2, 3, rows, columns)
    tokens = torch.cat([torch.full((2, prefix, 3), -1.0), maps.flatten(2).mT], dim=1)
    assert torch.equal(features.as_map(tokens, rows / columns), maps)


def test_maps_pass_and_what_is_no_grid_is_refused():
    maps = torch.rand(1, 2, 3, 4)
    assert features.as_map(maps, 1.0) is maps
    with pytest.raises(ValueError, match=r"cannot lay 15 tokens out as a grid of aspect 1\.00"):
        features.as_map(torch.zeros(1, 15, 2), 1.0)


def test_five_blocks_of_a_vit_are_evenly_spaced():
    assert features.five_of(list(range(12))) == [2, 4, 6, 8, 10]
    assert features.five_of(list(range(24))) == [4, 8, 12, 16, 20]
    assert features.five_of(list(range(6))) == [1, 2, 3, 4, 5]
    assert features.five_of(["only"]) == ["only"] * 5


def test_stages_are_the_named_ones_or_timm_s():
    network = create_model("test_resnet")
    assert features.stages(network, None) == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert features.stages(network, ["conv1"]) == ["conv1"]
    vit = create_model("deit_tiny_patch16_224", embed_dim=24)
    assert features.stages(vit, None) == [f"blocks.{i}" for i in (2, 4, 6, 8, 10)]
    assert features.stages(nn.Linear(1, 1), None) == []


def levels(*sides):
    """A level of each side, filled with its number."""
    return [torch.full((1, 1, side, side), float(i)) for i, side in enumerate(sides)]


def test_a_falling_pyramid_passes():
    given = levels(16, 8, 4)
    assert features.pyramid(given, torch.Size([32, 32])) is given


def test_the_last_map_of_each_resolution_is_kept():
    found = features.pyramid(levels(16, 8, 8, 8, 4, 4), torch.Size([32, 32]))
    assert [(level.shape[-1], level[0, 0, 0, 0].item()) for level in found] == [
        (16, 0),
        (8, 3),
        (4, 5),
    ]


def test_one_resolution_is_resized_to_five():
    found = features.pyramid(levels(*[4] * 12), torch.Size([33, 64]))
    assert [tuple(level.shape[-2:]) for level in found] == [
        (17, 32),
        (9, 16),
        (5, 8),
        (3, 4),
        (2, 2),
    ]
    assert [level.unique().item() for level in found] == [2, 4, 6, 8, 10]
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    wide = features.pyramid([ramp] * 12, torch.Size([16, 16]))[0]
    assert wide[0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # by nearest neighbour
