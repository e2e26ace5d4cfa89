import numpy as np
import pytest
from scipy import stats

from explainers.evaluation import aggregate
from explainers.evaluation.aggregate import Run, over
from explainers.metrics.statistics import holm, signed_rank


def run(title, values, better=True):
    means = {
        name: {"F": {"mean": float(np.mean(v)), "higher_is_better": better}}
        for name, v in values.items()
    }
    columns = {name: {"F": np.asarray(v, float)} for name, v in values.items()}
    return Run(title, {"methods": means, "agreement": {"F": {}}}, columns)


def by_name(table):
    return {row["name"]: row for row in table["rows"]}


def test_means_ranks_and_missing_runs():
    one = run("one", {"a": [1.0] * 30, "b": [3.0] * 30, "c": [9.0] * 30, "random": [0.0] * 30})
    two = run("two", {"a": [4.0] * 2, "b": [2.0] * 2, "random": [0.0] * 2})
    three = run("three", {"a": [4.0] * 2, "b": [2.0] * 2})
    (table,) = over([one, two, three])
    rows = by_name(table)
    # Unweighted over runs: the 30 images of one run count as much as the 2 of another.
    assert rows["a"]["mean"] == 3.0
    assert rows["b"]["mean"] == pytest.approx(7 / 3)
    assert [rows[name]["count"] for name in "abc"] == [3, 3, 1]
    # c is best where it is, but not in every run: it has no rank, and is not the best.
    assert rows["a"]["rank"] == pytest.approx(4 / 3)
    assert rows["b"]["rank"] == pytest.approx(5 / 3)
    assert rows["c"]["rank"] is None
    assert list(rows) == ["a", "b", "c"]
    assert table["best"] == "a"
    cells = aggregate.cells(table)
    assert cells[0] == ["F ↑", "mean", "runs", "mean rank", "p", "one", "two", "three"]
    assert cells[3] == ["c", "9.000†", "1/3", "-", "-", "9.000", "†", "†"]
    assert "†: missing in a run" in aggregate.note(table)


def test_lower_can_be_better():
    runs = [run(t, {"a": [1.0, 2.0], "b": [3.0, 4.0]}, better=False) for t in ("one", "two")]
    (table,) = over(runs)
    assert table["best"] == "a"
    assert by_name(table)["a"]["rank"] == 1.0
    assert aggregate.cells(table)[0][0] == "F ↓"


def test_tests_of_the_runs_are_combined_with_their_direction():
    rng = np.random.default_rng(0)
    base = [rng.normal(size=20) for _ in range(2)]
    gaps = [rng.normal(0.4, 0.5, size=20), rng.normal(0.3, 0.5, size=20)]
    runs = [
        run(t, {"a": v + gap, "b": v, "c": v - 5})
        for t, v, gap in zip(("one", "two"), base, gaps, strict=True)
    ]
    (table,) = over(runs)
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    single = [[signed_rank(r.columns[x]["F"] - r.columns[y]["F"]) for x, y in pairs] for r in runs]
    z = [stats.norm.isf(np.array(each) / 2) for each in single]  # a is ahead of b, b of c
    p = 2 * stats.norm.sf((z[0] + z[1]) / 2**0.5)
    expected = holm(p.tolist())
    rows = by_name(table)
    assert rows["b"]["p"] == pytest.approx(expected[0], rel=1e-6)
    assert rows["c"]["p"] == pytest.approx(expected[1], rel=1e-6)
    assert rows["a"]["p"] is None
    assert [cell["same"] for cell in rows["b"]["cells"]] == [holm(s)[0] >= 0.05 for s in single]
    assert [cell["same"] for cell in rows["c"]["cells"]] == [False, False]


def test_runs_that_disagree_cancel():
    values = np.arange(20.0)
    up = run("up", {"a": values + 1, "b": values})
    down = run("down", {"a": values - 1, "b": values})
    (table,) = over([up, down])
    (p,) = [row["p"] for row in table["rows"] if row["p"] is not None]
    assert p == pytest.approx(1.0)


def test_a_table_in_markdown_is_aligned_and_needs_two_runs():
    runs = [run(t, {"a": [1.0, 2.0], "b": [0.0, 1.0]}) for t in ("one", "two")]
    head, rule, *rest = aggregate.markdown(over(runs)).splitlines()
    assert head.startswith("| F ↑ | ")
    assert {len(head), len(rule)} == {len(line) for line in rest[:2]}
    with pytest.raises(ValueError, match="at least two runs, got 1: name further folders"):
        over(runs[:1])


def test_runs_without_values_of_images_have_no_tests():
    runs = [run(t, {"a": [1.0], "b": [0.5]})._replace(columns={}) for t in ("one", "two")]
    (table,) = over(runs)
    assert table["best"] is None
    assert "≈" not in aggregate.note(table)
    assert [row["p"] for row in table["rows"]] == [None, None]


def test_runs_of_other_arguments_are_no_rows_of_one_table():
    one = {"target": "label", "methods": {"rise": {"masks": 10, "seed": 0, "weights": "a"}}}
    other = {"target": "label", "methods": {"rise": {"masks": 10, "seed": 1, "weights": "b"}}}
    aggregate.check([one, other, {}], ["one", "two", "old"])
    other["methods"]["more"] = {"masks": 3}
    aggregate.check([one, other], ["one", "two"])
    other["methods"]["rise"]["masks"] = 20
    with pytest.raises(ValueError, match=r"one and two .* methods\.rise\.masks was 10, is 20"):
        aggregate.check([one, other], ["one", "two"])


def test_the_distance_from_the_ideal_value_counts():
    values = {"a": [0.1] * 20, "b": [-0.9] * 20}
    runs = [run(title, values, better=False) for title in ("one", "two")]
    for each in runs:
        for figures in each.summary["methods"].values():
            figures["F"]["ideal"] = 0.0
    (table,) = over(runs)
    assert table["best"] == "a"
    assert by_name(table)["b"]["rank"] == 2.0
