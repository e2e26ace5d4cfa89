import pytest
import torch

from explainers.networks.cells import CellNetwork, cell_network
from tests import planted


def test_each_cell_sees_the_means_of_its_features():
    """Without a transformer, a value depends on the features of its own cell alone."""
    network = CellNetwork([1, 2], grid=2, outputs=3, width=4, depth=0).eval()
    torch.nn.init.normal_(network.head.weight)
    fine = torch.tensor([[1.0, 3.0, 0.0, 0.0], [5.0, 7.0, 0.0, 0.0]]).repeat_interleave(2, 0)
    features = [fine[None, None], torch.randn(1, 2, 1, 1)]
    with torch.no_grad():
        values = network(features)
        same = fine.clone()
        same[:2, :2], same[2:, :2] = 2.0, 6.0  # the means of the left cells
        torch.testing.assert_close(network([same[None, None], features[1]]), values)
        same[2, 0] += 1
        changed = (network([same[None, None], features[1]]) - values).abs().amax(dim=1)[0] > 1e-4
    assert values.shape == (1, 3, 4)
    assert changed.tolist() == [False, False, True, False]


def test_a_cell_sees_the_others_through_the_transformer():
    torch.manual_seed(0)
    network = CellNetwork([1], grid=3, outputs=1, width=8, depth=1).eval()
    features = torch.randn(1, 1, 6, 6)
    with torch.no_grad():
        assert torch.equal(network([features]), torch.zeros(1, 1, 9))  # at first
        torch.nn.init.normal_(network.head.weight)
        values = network([features])
        features[..., 0, 0] += 1
        assert ((network([features]) - values).abs() > 1e-6).all()


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_it_fits_any_pyramid(kind):
    explanandum = planted.explanandum(kind)
    network = cell_network(explanandum, 5, 2, {"width": 8, "depth": 1})
    for size in ((32, 32), (36, 52)):
        images, _ = planted.scenes(2, size)
        assert network(explanandum.features(images)).shape == (2, 2, 25)
