"""The bottleneck in layers of every layout."""

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.methods.iba import IBA


class Turned(nn.Module):
    """The same features as maps, channels-last maps and tokens, in the middle of a network."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
        self.maps, self.last, self.tokens = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, images):
        x = self.last(self.maps(self.first(images)).movedim(1, -1))
        return self.head(self.tokens(x.flatten(1, 2)).square().mean(dim=1))


def test_information_is_the_same_whatever_the_layout_of_the_layer():
    """With 8 channels of 8 rows: the shape does not tell which is which."""
    generator, maps = torch.Generator().manual_seed(0), []
    images = torch.rand(10, 3, 32, 48, generator=generator)
    for layer in ("maps", "last", "tokens"):
        torch.manual_seed(0)
        explanandum = Explanandum(
            Turned(), mean=[0.5] * 3, std=[0.2] * 3, input_size=[32, 48], feature_layers=[layer]
        )
        method = IBA(explanandum, steps=4, samples=2)
        assert method.layer == layer
        method.estimate(images)
        maps.append(method.class_maps(images[:2], torch.tensor([[0, 2], [1, 0]])))
    assert maps[0].max() > 0
    for found in maps[1:]:
        torch.testing.assert_close(found, maps[0], rtol=1e-4, atol=1e-6)


def test_a_layer_without_maps_is_refused():
    explanandum = Explanandum(Turned(), mean=[0.5] * 3, std=[0.2] * 3, input_size=[32, 48])
    with pytest.raises(ValueError, match=r"layer 'head' gives \(5, 3\) for 5 images: name a layer"):
        IBA(explanandum, "head")
