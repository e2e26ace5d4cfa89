"""Published figures beside those of a run, by hand."""

import pytest

from explainers.evaluation import published

TEXT = """
paper: "Someone, A paper"
differs: [fewer images]
tables:
  table_1:
    what: Two figures
    classifier: ResNet
    images: 10
    columns: [POS, NEG, Other]
    rows:
      sloc: [1.25, 70.0, 3]
      rise: [[2.5, 0.5], null, 4]
      theirs: [1, 2, 3]
    differs: [another fill]
  table_2: {columns: [POS], rows: {sloc: [5]}}
"""
SUMMARY = {
    "images": 3,
    "explanandum": "ViT",
    "data": "Shapes",
    "methods": {
        name: {
            "POS": {"mean": pos, "higher_is_better": False},
            "NEG": {"mean": neg, "higher_is_better": True},
        }
        for name, pos, neg in (("sloc", 2.0, 71.5), ("rise", 0.00012, None), ("ours", 1.0, 1.0))
    },
}


def written(tmp_path, text=TEXT):
    path = tmp_path / "published.yaml"
    path.write_text(text)
    return path


def test_what_both_have_stands_side_by_side(tmp_path):
    text = published.beside(published.read(f"{written(tmp_path)}#table_1"), SUMMARY)
    lines = text.strip().splitlines()
    assert lines[0] == (
        "published: Someone, A paper, table 1. Two figures. Classifier: ResNet. Images: 10. "
        "Here: 3 images, ViT, Shapes."
    )
    cells = [[cell.strip() for cell in line[2:-2].split(" | ")] for line in lines[2:6]]
    assert cells[0] == ["here / published", "POS ↓", "NEG ↑"]
    assert cells[2:] == [
        ["sloc", "2 / 1.25", "71.5 / 70"],
        ["rise", "1e-04 / 2.5 ± 0.5", "- / -"],
    ]
    assert lines[7] == "published, not in this run: rows: theirs; columns: Other"
    assert lines[9] == "differs: fewer images; another fill"


def test_several_tables_of_one_file(tmp_path):
    tables = published.read(f"{written(tmp_path)}#table_1, table_2")
    assert [table.name for table in tables] == ["table_1", "table_2"]
    assert published.beside(tables, SUMMARY).count("published: Someone") == 2
    assert published.beside([], SUMMARY) == ""


def test_a_run_without_any_of_its_rows_says_so(tmp_path):
    summary = {**SUMMARY, "methods": {"ours": SUMMARY["methods"]["ours"]}}
    text = published.beside(published.read(f"{written(tmp_path)}#table_2"), summary)
    assert "not in this run: rows: sloc" in text
    assert "|" not in text


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (TEXT, "", "must name a file and a table, FILE#TABLE"),
        (TEXT, "#", "must name a file and a table, FILE#TABLE"),
        (TEXT, "#table_3", "no 'table_3'; its tables are table_1, table_2"),
        ("[1]", "#a", "must hold `tables`"),
        ("a: [", "#a", "is no YAML file"),
        ("tables: {a: {rows: {}}}", "#a", "must have columns and rows"),
        ("tables: {a: {columns: 1, rows: {}}}", "#a", "columns must be a list"),
        ("tables: {a: {columns: [x], rows: {y: [1, 2]}}}", "#a", "must have 1 values"),
        ("tables: {a: {columns: [x], rows: {y: [z]}}}", "#a", "holds 'z'; expected a number"),
        ("tables: {a: {columns: [x], rows: {y: [true]}}}", "#a", "holds True"),
        ("tables: {a: {columns: [x], rows: {y: [[1, null]]}}}", "#a", "expected a number"),
    ],
)
def test_a_wrong_source_is_told_in_one_line(text, name, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        published.read(f"{written(tmp_path, text)}{name}")


def test_a_missing_file_is_told():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        published.read("nowhere.yaml#table_1")
