import numpy as np
import pytest
import torch

from explainers.explanandum import neurons
from explainers.explanandum.layouts import Layout
from explainers.explanandum.neurons import FeatureStatistics


def test_statistics_are_numpys_whatever_the_batches():
    """Far from zero, where sums of squares would have lost the deviations."""
    generator = torch.Generator().manual_seed(0)
    values = 1e4 + torch.randn(23, 2, 6, generator=generator)
    statistics = FeatureStatistics()
    for batch in values.split([1, 9, 2, 11]):
        statistics.update(batch, (2, 3))
    exact = values.double().numpy()
    np.testing.assert_allclose(statistics.mean, exact.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        (statistics.squares / 22).sqrt(), exact.std(axis=0, ddof=1), rtol=1e-7
    )
    assert statistics.images == 23
    assert statistics.lowest == values.min()
    mean, std, active = statistics.read((2, 3), least_std=0.01)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, exact.std(axis=0, ddof=1), rtol=1e-6)
    assert (active == 1).all()


def test_deviations_have_a_floor_and_rare_neurons_are_inactive():
    values = torch.zeros(200, 1, 4)
    values[:, 0, 0] = 3.0
    values[:2, 0, 1] = 1.0  # one per cent
    values[:3, 0, 2] = -1.0  # more
    statistics = FeatureStatistics()
    statistics.update(values, (1, 4))
    _, std, active = statistics.read((1, 4), least_std=0.2)
    assert active.tolist() == [[1, 0, 1, 0]]
    torch.testing.assert_close(std, torch.full((1, 4), 0.2))
    _, std, _ = statistics.read((1, 4), least_std=0.01)
    assert std[0, 1] == pytest.approx(np.std([1] * 2 + [0] * 198, ddof=1))


def test_another_grid_is_reached_by_interpolation_and_leaves_the_prefix():
    statistics = FeatureStatistics()
    row = torch.tensor([[9.0, 0.0, 4.0]])  # a class token, then a map of one by two
    statistics.update(torch.stack([row - 1, row + 1]), (1, 2))
    mean, std, _ = statistics.read((2, 4), least_std=0.01)
    assert mean.tolist() == [[9, *([0, 1, 3, 4] * 2)]]
    torch.testing.assert_close(std, torch.full((1, 9), 2**0.5))


def test_images_of_another_size_are_refused():
    statistics = FeatureStatistics()
    statistics.update(torch.zeros(1, 2, 6), (2, 3))
    for shape, grid in (((1, 2, 6), (3, 2)), ((1, 2, 8), (2, 4))):
        with pytest.raises(ValueError, match="one size"):
            statistics.update(torch.zeros(shape), grid)


def test_statistics_load_into_an_empty_module():
    statistics = FeatureStatistics()
    statistics.update(torch.rand(4, 2, 6), (2, 3))
    other = FeatureStatistics()
    other.load_state_dict(statistics.state_dict())
    torch.testing.assert_close(other.state_dict(), statistics.state_dict(), rtol=0, atol=0)
    other.update(torch.rand(1, 2, 6), (2, 3))
    assert other.images == 5


@pytest.mark.parametrize(
    ("shape", "layout", "grid", "places"),
    [
        ((2, 5, 3, 4), Layout("maps", (3, 4)), (3, 4), 12),
        ((2, 3, 4, 5), Layout("channels_last", (3, 4)), (3, 4), 12),
        ((2, 12, 5), Layout("tokens", (3, 4)), (3, 4), 12),
        ((2, 13, 5), Layout("tokens", (3, 4), 1), (3, 4), 13),  # tokens, the first of the class
    ],
)
def test_layouts_become_channels_by_places_and_back(shape, layout, grid, places):
    output = torch.rand(shape)
    found, own = neurons.to_neurons(output, layout, (2, 3, 30, 40))
    assert own == grid
    assert found.shape == (2, 5, places)
    torch.testing.assert_close(neurons.from_neurons(found, output, layout), output)
    one = output[0, places - 12 + 5, 1] if output.ndim == 3 else output[0, 1, 1, 1]
    assert found[0, 1, places - 12 + 5] == one  # channel 1 at the second place of the second row
    found.zero_()
    assert output.max() > 0  # a copy


def test_only_the_map_is_changed():
    found = neurons.on_map(torch.arange(5.0).view(1, 1, 5), (2, 2), lambda maps: maps.mT)
    assert found.tolist() == [[[0, 1, 3, 2, 4]]]


def test_what_is_neither_map_nor_tokens_is_refused():
    for shape in ((2, 3), (4, 3, 4, 4), (2, 16, 3)):
        with pytest.raises(ValueError, match="expected maps of 2 images from a layer, got"):
            neurons.to_neurons(torch.zeros(shape), Layout("maps", (4, 4)), (2, 3, 8, 8))
