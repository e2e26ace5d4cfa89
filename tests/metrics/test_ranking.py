import itertools
import math

import numpy as np
import pytest
from scipy import stats

from explainers.metrics import ranking
from explainers.metrics.ranking import agreement, favored, mean_ranks, needed_images


def normal(generator, size):
    return generator.normal(0.4, 1, size)


def skewed(generator, size):
    return generator.exponential(1, size) - 0.4


def heavy(generator, size):
    return generator.standard_t(3, size) + 0.5


@pytest.mark.parametrize("draw", [normal, skewed, heavy])
def test_with_the_needed_images_the_signed_rank_test_has_the_power(draw):
    generator = np.random.default_rng(0)
    many = draw(generator, 20_000)
    for power, level in ((0.8, 0.05), (0.9, 0.01)):
        n = needed_images(many, power, level)
        found = stats.wilcoxon(draw(generator, (2000, n)), axis=1, method="approx").pvalue
        assert (found < level).mean() == pytest.approx(power, abs=0.03)


def test_pairs_of_differences_are_counted():
    assert favored(np.array([1.0, -2.0, 4.0])) == pytest.approx(2 / 3)  # -1, 5 and 2
    assert favored(np.array([1.0, 0.0, -1.0])) == 0.5
    assert favored(np.array([2.0])) == 0.5
    values = np.random.default_rng(1).integers(-4, 7, 60).astype(float)  # with ties
    nonzero = values[values != 0]
    sums = np.array([a + b for a, b in itertools.combinations(nonzero, 2)])
    assert favored(values) == pytest.approx((sums > 0).mean() + (sums == 0).mean() / 2)


def test_needed_images_by_hand():
    # The sums with 1, -2 and 4 are positive for 1/2, 1/2 and 1 of the others: mean 2/3.
    spread = 2 * math.sqrt((2 * (1 / 6) ** 2 + (1 / 3) ** 2) / 3)
    n = ((1.959964 / math.sqrt(3) + 0.841621 * spread) * 6) ** 2
    values = np.array([1.0, -2.0, 4.0, np.nan])
    assert needed_images(values) == needed_images(-values) == math.ceil(n) == 85
    zeros = np.zeros(3)  # images on which the methods are equal do not count
    assert needed_images(np.concatenate([values, zeros])) == math.ceil(2 * n)


def test_needed_images_edges():
    certain = np.arange(1.0, 9.0)
    assert needed_images(certain) == 6  # five differences of one sign have p = 2 / 2 ** 5 > 0.05
    assert needed_images(certain, level=0.001) >= 11
    for nothing in ([], [0.0, 0.0, 0.0], [0.0, 2.0], [1.0, -1.0], [np.nan, np.nan]):
        assert needed_images(np.array(nothing)) is None
    with pytest.raises(ValueError, match="between 0 and 1"):
        needed_images(certain, power=80)


def test_friedmans_test_and_mean_ranks_agree_with_scipy():
    table = np.random.default_rng(2).integers(0, 6, (30, 4)).astype(float)  # with ties
    table[:, 1] += 1
    missing = table.copy()
    missing[[3, 7], [0, 2]] = np.nan
    kept = np.delete(table, [3, 7], axis=0)
    columns = dict(zip("abcd", missing.T, strict=True)) | {"undefined": np.full(30, np.nan)}
    found = mean_ranks(columns, higher_is_better=False)
    assert (found["images"], found["left_out"]) == (28, 2)
    assert found["p"] == pytest.approx(stats.friedmanchisquare(*kept.T).pvalue)
    expected = stats.rankdata(kept, axis=1).mean(axis=0)
    assert list(found["ranks"].values()) == pytest.approx(expected)
    assert list(found["ranks"]) == list("abcd")
    best = mean_ranks(columns, higher_is_better=True)["ranks"]
    assert best["b"] == pytest.approx(5 - found["ranks"]["b"])


def test_critical_differences_are_those_of_demsar():
    for methods, expected in ((2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)):
        assert ranking._nemenyi(methods, 0.05) == pytest.approx(expected, abs=1e-3)
    columns = {name: np.arange(14.0) for name in "abcd"}
    found = mean_ranks(columns, True)
    assert found["critical_difference"] == pytest.approx(1.25, abs=0.005)  # Demsar, sec. 3.2.2
    assert found["p"] == 1  # all are equal
    assert found["ranks"] == dict.fromkeys("abcd", 2.5)


def test_ranks_without_enough_methods_or_images():
    two = mean_ranks({"a": np.array([1.0, 2.0, 3.0]), "b": np.array([0.0, 4.0, 2.0])}, True)
    assert two["p"] is None
    assert two["ranks"] == pytest.approx({"a": 4 / 3, "b": 5 / 3})
    lost = np.array([np.nan])
    empty = {"images": 0, "left_out": 0, "ranks": {}, "p": None, "critical_difference": None}
    assert mean_ranks({"a": lost}, True) == mean_ranks({}, True) == empty
    apart = {"a": np.array([1.0, np.nan]), "b": np.array([np.nan, 1.0])}
    assert mean_ranks(apart, True) == empty | {"left_out": 2}


def test_agreement_is_the_mean_of_spearmans_correlation_within_images():
    generator = np.random.default_rng(3)
    quality = generator.normal(size=(20, 5))
    other = quality + generator.normal(size=(20, 5))
    hard = 100 * generator.normal(size=(20, 1))  # how hard an image is does not matter
    tables = {"a": quality + hard, "b": -other, "c": generator.normal(size=(20, 5)) + hard}
    tables["b"][4, 1] = np.nan
    table = {name: dict(zip("vwxyz", t.T, strict=True)) for name, t in tables.items()}
    table["c"]["undefined"] = np.full(20, np.nan)
    found = agreement(table, {"a": True, "b": False, "c": True})
    images = [i for i in range(20) if i != 4]
    pairs = [stats.spearmanr(quality[i], other[i]).statistic for i in images]
    assert found["a"]["b"] == found["b"]["a"] == pytest.approx(np.mean(pairs))
    pairs = [stats.spearmanr(quality[i], tables["c"][i]).statistic for i in range(20)]
    assert found["a"]["c"] == pytest.approx(np.mean(pairs))
    assert [found[name][name] for name in "abc"] == pytest.approx([1, 1, 1])


def test_agreement_that_is_not_defined():
    values = np.arange(3.0)
    assert agreement({"a": {"x": values}}, {"a": True}) == {"a": {"a": None}}
    equal = {"a": {"x": values, "y": values}, "b": {"x": values, "y": -values}}
    found = agreement(equal | {"lost": {"x": values * np.nan}}, dict.fromkeys(equal, True))
    assert found["a"] == {"a": None, "b": None, "lost": None}
    assert found["b"]["b"] == pytest.approx(1)
    assert agreement({}, {}) == {}
