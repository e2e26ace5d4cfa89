import numpy as np
import pytest
from scipy import stats

from explainers.metrics import statistics


def test_images_are_averaged_over_their_classes_and_missing_values_stay_missing():
    index = np.array([5, 2, 5, 2])
    values = np.array([[1.0, np.nan], [3.0, np.nan], [2.0, 8.0], [5.0, np.nan]])
    images, means = statistics.by_image(index, values)
    assert images.tolist() == [2, 5]
    np.testing.assert_array_equal(means, [[4.0, np.nan], [1.5, 8.0]])
    assert statistics.by_image(index[:0], values[:0])[1].shape == (0, 2)


def test_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(1).normal(3, 1, 80)
    mine = statistics.bootstrap_ci({"m": np.append(values, np.nan)}, n=4000)["m"]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2)
    np.testing.assert_allclose(mine, theirs.confidence_interval, atol=0.02)


def test_bootstrap_of_a_ratio_resamples_whole_images():
    generator = np.random.default_rng(3)
    columns = {"a": generator.uniform(1, 2, 60), "b": generator.uniform(2, 3, 60)}

    def ratio(values):
        return {"ratio": float(values["a"].sum() / values["b"].sum())}

    mine = statistics.bootstrap_ci(columns, ratio, n=3000)["ratio"]
    theirs = stats.bootstrap(
        tuple(columns.values()),
        lambda a, b, axis=-1: a.sum(axis) / b.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=3000,
        rng=4,
    )
    np.testing.assert_allclose(mine, theirs.confidence_interval, atol=0.005)


def skewed(count=40):
    return np.random.default_rng(5).exponential(1, count) ** 2


def test_bca_intervals_of_a_mean_agree_with_scipy():
    values = skewed()
    mine = statistics.bootstrap_ci({"m": np.append(values, np.nan)}, n=20_000, method="bca")["m"]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=2)
    np.testing.assert_allclose(mine, theirs.confidence_interval, rtol=0.02)
    plain = statistics.bootstrap_ci({"m": values}, n=20_000)["m"]
    assert mine[0] > 1.03 * plain[0]  # unlike the percentiles
    assert mine[1] > 1.03 * plain[1]


@pytest.mark.parametrize("n", [2000, 20])  # 20: a jackknife over groups of two images
def test_bca_intervals_of_a_ratio_agree_with_scipy(n):
    columns = {"a": skewed(), "b": np.random.default_rng(6).uniform(1, 2, 40)}

    def ratio(values):
        return {"ratio": float(values["a"].sum() / values["b"].sum())}

    mine = statistics.bootstrap_ci(columns, ratio, n=n, method="bca")["ratio"]
    theirs = stats.bootstrap(
        tuple(columns.values()),
        lambda a, b, axis=-1: a.sum(axis) / b.sum(axis),
        paired=True,
        method="BCa",
        n_resamples=2000,
        rng=4,
    )
    np.testing.assert_allclose(mine, theirs.confidence_interval, rtol=0.05 if n > 20 else 0.3)


def test_bca_edges():
    for values in ([2.0], [2.0, 2.0, 2.0]):
        found = statistics.bootstrap_ci({"m": np.array(values)}, n=9, method="bca")
        assert found["m"] == (2, 2)
    nothing = np.array([np.nan, np.nan])
    assert np.isnan(statistics.bootstrap_ci({"m": nothing}, n=9, method="bca")["m"]).all()

    def unknown(_):
        return {"f": float("nan")}

    assert np.isnan(statistics.bootstrap_ci({"m": nothing}, unknown, n=3, method="bca")["f"]).all()
    with pytest.raises(ValueError, match="got 'BCa'"):
        statistics.bootstrap_ci({"m": nothing}, method="BCa")


def test_bootstrap_edges():
    nothing = np.array([np.nan, np.nan])
    assert np.isnan(statistics.bootstrap_ci({"m": nothing})["m"]).all()
    assert statistics.bootstrap_ci({"m": np.array([2.0])})["m"] == (2.0, 2.0)
    assert np.isnan(
        statistics.bootstrap_ci({"m": nothing}, lambda _: {"f": float("nan")}, n=3)["f"]
    ).all()
    many = np.arange(50.0)  # in one piece or in many
    for whole, parts in zip(
        statistics._resampled_sums([many], 20, 0),
        statistics._resampled_sums([many], 20, 0, budget=120),
        strict=True,
    ):
        np.testing.assert_array_equal(whole, parts)


def test_signed_rank_and_holm():
    generator = np.random.default_rng(0)
    a, b, c = (generator.normal(m, 1, 30) for m in (0.0, 0.4, 0.1))
    b[3] = np.nan
    result = statistics.paired_wilcoxon({"IoU": {"a": a, "b": b, "c": c}}, main="a")
    assert [(r["a"], r["b"]) for r in result] == [("a", "b"), ("a", "c"), ("b", "c")]
    known = ~np.isnan(b)
    raw = [
        stats.wilcoxon(a[known], b[known]).pvalue,
        stats.wilcoxon(a, c).pvalue,
        stats.wilcoxon(b[known], c[known]).pvalue,
    ]
    order = np.argsort(raw)
    expected = np.empty(3)
    expected[order] = np.maximum.accumulate(
        np.minimum(1, np.array([3, 2, 1]) * np.array(raw)[order])
    )
    assert [r["p"] for r in result] == pytest.approx(expected.tolist())
    assert result[0]["difference"] == pytest.approx(np.nanmean(a - b))


@pytest.mark.parametrize("size", [1, 2, 7, 13, 14])
def test_signed_rank_agrees_with_scipy_on_few_differences(size):
    generator = np.random.default_rng(size)
    for values in (generator.normal(0.5, 1, size), generator.integers(-2, 5, size) + 0.0):
        nonzero = values[values != 0]
        assert statistics.signed_rank(values) == pytest.approx(stats.wilcoxon(nonzero).pvalue)


def test_equal_methods_have_p_one_and_pairs_without_images_are_left_out():
    same = np.array([1.0, 2.0])
    table = {"m": {"a": same, "b": same, "c": np.array([np.nan, np.nan])}}
    assert statistics.paired_wilcoxon(table, "a") == [
        {"metric": "m", "a": "a", "b": "b", "difference": 0.0, "p": 1.0, "nonzero": 0}
    ]


def test_with_many_methods_only_the_one_under_test_is_compared():
    table = {"m": {name: np.arange(3.0) for name in "abcdefg"}}
    result = statistics.paired_wilcoxon(table, "c")
    assert len(result) == 6
    assert {r["a"] for r in result} == {"c"}
    assert len(statistics.paired_wilcoxon(table, None)) == 21


def test_all_columns_share_one_resampling():
    """As one column at a time, drawn anew, and without a width where all values are equal."""
    values = np.random.default_rng(1).random(300)
    holes = np.where(np.arange(300) % 7 == 0, np.nan, values)
    columns = {"v": values, "c": np.full(300, 0.3), "h": holes, "none": np.full(300, np.nan)}
    found = statistics.bootstrap_ci(columns, n=500)
    drawn = np.random.default_rng(0).integers(0, 300, (500, 300))
    expected = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    np.testing.assert_allclose(found["v"], expected, rtol=1e-12)
    np.testing.assert_allclose(
        found["h"], np.quantile(np.nanmean(holes[drawn], axis=1), [0.025, 0.975]), rtol=1e-12
    )
    assert found["c"] == (0.3, 0.3)
    assert np.isnan(found["none"]).all()


def test_scores_of_sums_need_no_columns():
    counts = {k: np.random.default_rng(i).integers(0, 3, 50) * 1.0 for i, k in enumerate("ab")}
    counts["a"][3] = np.nan

    def ratio(values):
        return {"r": float(np.nansum(values["a"]) / np.nansum(values["b"]))}

    whole = statistics.bootstrap_ci(counts, ratio, n=200)
    assert statistics.bootstrap_ci(counts, ratio, n=200, of_sums=True) == whole


def test_the_quick_signed_rank_test_is_that_of_scipy():
    generator = np.random.default_rng(2)
    for values in (generator.normal(0.1, 1, 300), generator.integers(-3, 5, 200) * 1.0):
        mine, theirs = statistics.signed_rank(values), stats.wilcoxon(values).pvalue
        assert mine == pytest.approx(theirs, rel=1e-12)
