import math

import numpy as np
import pytest
import torch
from scipy import stats

from explainers.metrics.complexity import Complexity, Sparseness, entropy, gini

MAPS = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0))


def test_entropy_agrees_with_scipy():
    expected = stats.entropy(MAPS.double().abs().flatten(1).numpy(), axis=1)
    np.testing.assert_allclose(entropy(MAPS).numpy(), expected, rtol=1e-12)
    assert entropy(torch.ones(1, 4, 4)).item() == pytest.approx(math.log(16))
    assert entropy(torch.eye(4)[None, :1]).item() == 0


def test_gini_is_half_the_mean_difference_over_the_mean():
    a = MAPS.double().abs().flatten(1)
    expected = (a[:, :, None] - a[:, None]).abs().mean((1, 2)) / (2 * a.mean(1))
    torch.testing.assert_close(gini(MAPS), expected)
    assert gini(torch.ones(1, 4, 4)).item() == 0
    assert gini(torch.eye(4)[None, :1]).item() == 0.75


@pytest.mark.parametrize("metric", [Complexity(), Sparseness()])
def test_scale_does_not_matter_and_a_zero_map_is_missing(metric):
    name = type(metric).__name__
    maps = torch.cat([MAPS, -3 * MAPS, torch.zeros(1, 7, 5)])
    values = metric.measure(maps=maps)[name]
    torch.testing.assert_close(values[:4], values[4:8])
    assert values.isnan().tolist() == [False] * 8 + [True]
    assert metric.direction(name) == (name == "Sparseness")


@pytest.mark.filterwarnings("ignore")
def test_both_agree_with_quantus():
    quantus = pytest.importorskip("quantus")
    inputs = {"model": None, "x_batch": MAPS[:, None].repeat(1, 3, 1, 1).numpy()}
    inputs |= {"y_batch": np.zeros(4, int), "a_batch": MAPS[:, None].numpy()}
    for metric, function in ((quantus.Complexity, entropy), (quantus.Sparseness, gini)):
        expected = metric(disable_warnings=True)(**inputs)
        np.testing.assert_allclose(function(MAPS).numpy(), expected, atol=1e-5)
