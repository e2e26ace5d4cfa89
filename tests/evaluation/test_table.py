import csv
import io

import pytest

from explainers.evaluation.scores import of_records
from explainers.evaluation.summary import summarize
from explainers.evaluation.table import agreement_table, as_csv, fold, rank_table
from explainers.metrics.complexity import Complexity, Sparseness
from explainers.metrics.faithfulness import RISECurves, SLOCCurves


def rows(metrics, methods, count=12):
    """Rows of scores.csv: the value of method m on image i is (m + 1) (i + 1) / 100."""
    names = [name for metric in metrics for name in metric.names]
    return [
        {"index": str(i), "name": f"{i}", "target": "0", "method": method}
        | dict.fromkeys(names, str((m + 1) * (i + 1) / 100))
        for m, method in enumerate(methods)
        for i in range(count)
    ]


def summary(metrics, methods, count=12):
    return summarize(
        of_records(rows(metrics, methods, count)), metrics, list(methods), bootstrap=20
    )


def test_csv_has_means_and_interval_ends_of_all_digits():
    scores = rows([Complexity()], ["a", "b, c"])
    found = summarize(of_records(scores), [Complexity()], ["a", "b, c", "lost"], bootstrap=20)
    head, first, second, lost = csv.reader(io.StringIO(as_csv(found)))
    assert head == ["method", "Complexity", "Complexity low", "Complexity high"]
    figure = found["methods"]["b, c"]["Complexity"]
    assert second[0] == "b, c"
    assert [float(cell) for cell in second[1:]] == [figure["mean"], *figure["ci95"]]
    assert float(first[1]) == pytest.approx(0.065)
    assert lost == ["lost", "", "", ""]


TEXT = """\
caption

| method | aa ↑ |  b ↓ |  c ↑ | dddd ↓ |
| ------ | ---: | ---: | ---: | -----: |
| one *  | 1.00 |    - | 3.00 |   4.00 |
| two    | 5.00 | 6 ≈  | 7.00 |   8.00 |

| small | x |
| ----- | -: |

note"""


def test_wide_tables_are_folded_into_blocks_of_families():
    families = {"aa": "F", "b": "G", "c": "G", "dddd": "G"}
    assert fold(TEXT, families, width=42) == TEXT
    assert fold(TEXT, {"aa": "F", "b": "F", "c": "G", "dddd": "G"}, width=30).split("\n\n") == [
        "caption",
        "| method | aa ↑ | b ↓ |\n"
        "| ------ | ---: | --: |\n"
        "| one *  | 1.00 |   - |\n"
        "| two    | 5.00 | 6 ≈ |",
        "| method |  c ↑ | dddd ↓ |\n"
        "| ------ | ---: | -----: |\n"
        "| one *  | 3.00 |   4.00 |\n"
        "| two    | 7.00 |   8.00 |",
        "| small | x |\n| ----- | -: |",
        "note",
    ]
    # G would fit in after aa only in part, and fills a block of its own instead.
    blocks = fold(TEXT, families, width=36).split("\n\n")
    assert [block.split("\n")[0] for block in blocks[1:3]] == [
        "| method | aa ↑ |", "| method | b ↓ |  c ↑ | dddd ↓ |",
    ]  # fmt: skip
    # A family that is wider than a block is split.
    blocks = fold(TEXT, dict.fromkeys(families, "F"), width=24).split("\n\n")
    assert [block.split("\n")[0] for block in blocks[1:4]] == [
        "| method | aa ↑ | b ↓ |", "| method |  c ↑ |", "| method | dddd ↓ |",
    ]  # fmt: skip


def test_ranks_and_agreement_have_tables():
    found = summary([RISECurves(), SLOCCurves(), Sparseness()], "abc")
    lines = rank_table(found).split("\n")
    assert lines[0].split(" | ")[1:] == ["Faithfulness", "    IDD", "Sparseness |"]
    assert [line.split("|")[2].strip() for line in lines[2:5]] == ["3.00", "2.00", "1.00"]
    assert lines[5].split("|")[2].strip() == "0.96"  # 2.343 sqrt(3 * 4 / (6 * 12))
    assert lines[6].split("|")[2].strip() == "< 0.001"
    lines = agreement_table(found).split("\n")
    assert [line.split("|")[2].strip() for line in lines[:5]] == [
        "Faithfulness", "-----------:", "1.00", "1.00", "1.00",
    ]  # fmt: skip


def test_images_that_ranks_leave_out_are_counted():
    scores = rows([Complexity()], "abc")
    scores[5]["Complexity"] = scores[6]["Complexity"] = ""
    found = summarize(of_records(scores), [Complexity()], list("abc"), bootstrap=5)
    assert "Complexity: 2 images are left out of the ranks" in rank_table(found)


def test_a_single_method_or_few_images_have_no_such_tables():
    metrics = [RISECurves(), SLOCCurves()]
    for found in (summary(metrics, "a"), summary(metrics, "abc", count=9)):
        assert rank_table(found) == agreement_table(found) == ""
    assert agreement_table(summary(metrics[:1], "abc")) == ""
