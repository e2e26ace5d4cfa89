import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from explainers.evaluation import html
from explainers.tools import TOOLS
from tests.evaluation import kept_run
from tests.evaluation.kept_run import figure

EVIL = "<script>alert('a')</script>"


@pytest.fixture
def run(tmp_path):
    """A run of three methods and two images, one of which has an evil name."""
    values = {"mine": (0.5, 2.0), "rise": (0.7, 9.0), "constant_0": (0.1, 0.1), "lime": (None, 4.0)}
    methods = {
        name: {"seconds": figure(cost, False), "Faithfulness": figure(mean)}
        for name, (mean, cost) in values.items()
    }
    test = {"metric": "Faithfulness", "a": "mine", "b": "rise", "difference": -0.2, "p": 0.2}
    summary = {
        "explanandum": f"net{EVIL}",
        "classifier": None,
        "data": "Folder",
        "target": "predicted",
        "precision": "32-true",
        "images": 12,
        "methods": methods,
        "paired": [test],
        "versions": {"torch": "2"},
        "families": {"Faithfulness": "RISECurves", "seconds": "Seconds"},
        "ranks": {"Faithfulness": {"ranks": {"mine": 1.25}, "p": None, "critical_difference": 0.5}},
        "verdicts": {"Faithfulness": "rise & mine lead"},
        "agreement": {"a": {"a": 1.0, "b": 0.25}, "b": {"a": 0.25, "b": None}},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "settings.json").write_text(json.dumps({"target": EVIL}))
    (tmp_path / "table.md").write_text("2 images\n\n| table |\n\n- rise & mine lead\n\na note\n")
    names = ["a.jpg", f'"{EVIL}"']
    rows = [f"{i},{name},0,{m},{0.1 * i + 0.2},1.0" for i, name in enumerate(names) for m in values]
    head = "index,name,target,method,Faithfulness,seconds"
    (tmp_path / "scores.csv").write_text("\n".join([head, *rows, ""]))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "panels.png")
    return tmp_path


def page(run):
    html.write([run], run / "report.html")
    return (run / "report.html").read_text(encoding="utf-8")


def test_methods_are_ranked_and_rows_that_look_at_no_image_come_last(run):
    text = page(run)
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    assert re.findall(r"<td>([a-z_0]+)</td>", body) == ["rise", "mine", "lime", "constant_0"]
    rise, mine, lime, _ = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    # The best mean, although constant_0 costs less; not told apart from mine; intervals are halved.
    assert 'data-value="0.7" class="best">0.7 <span class="soft">± 0.1</span> ≈' in rise
    assert 'data-value="2.0" class="best">2 ' in mine
    assert "≈" not in mine
    assert 'data-value="">-' in lime
    assert '<p class="verdict">rise &amp; mine lead</p>' in text
    assert ">a note<" in text
    assert text.count("rise &amp; mine lead") == 1
    assert "<tr><td>b</td><td>0.25</td><td>-</td></tr>" in text
    assert "| table |" not in text


def test_the_page_needs_nothing_else_and_names_stay_text(run):
    text = page(run)
    assert EVIL not in text
    assert "&lt;script&gt;alert(" in text
    spaces = r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>'  # of the plots: names, not addresses
    own = re.sub(spaces, "", text, flags=re.DOTALL)
    assert not re.findall(r"https?://", own)
    assert "data:image/webp;base64," in text


def test_columns_stand_under_their_families_and_ranks_beside_them(run):
    text = page(run)
    families = re.findall(r'colspan="(\d)">(\w+)<', text)
    assert families == [("1", "RISECurves"), ("1", "Cost")]
    assert '<tr><td>mine</td><td data-value="1.25">1.25</td></tr>' in text
    assert "<tr><td>critical difference</td><td>0.50</td></tr>" in text


def test_what_was_left_out_is_told_with_the_reason(run):
    assert "No image is left out." in page(run)
    (run / "errors.csv").write_text("image,method,error\na.jpg,,is no image <b>\nb.jpg,rise,x\n")
    (run / "command.txt").write_text("python evaluate.py test\n")
    settings = {"methods": {"rise": {"class": "x.RISE", "masks": 9, "weights": "e3b"}}}
    (run / "settings.json").write_text(json.dumps(settings))
    text = page(run)
    assert "2 images are left out or incomplete." in text
    assert "<li>a.jpg: is no image &lt;b&gt;</li><li>b.jpg, rise: x</li>" in text
    assert "<summary>command.txt</summary>" in text
    assert '<td>e3b</td><td class="long">x.RISE, masks=9</td>' in text


def test_several_runs_have_a_table_of_contents_and_names_of_their_own(run, tmp_path, capsys):
    for name in ("x/test", "y/test"):
        entries = [kept_run.entry(i, ["a", "b"], side=8) for i in range(3)]
        kept_run.run(tmp_path / name, entries, ["a", "b"], {"a": [0.5] * 3, "b": [0.25] * 3})
    folders = [tmp_path / "x/test", tmp_path / "y/test"]
    assert html.write(folders, run / "both.html") == ""
    text = (run / "both.html").read_text(encoding="utf-8")
    assert re.findall(r'<a href="#run-(\d)">(.*?)</a>', text) == [("1", "test"), ("2", "test (2)")]
    assert '<td>a</td><td data-value="0.5">0.500</td><td data-value="0.5">0.500</td>' in text
    assert text.count('class="gallery"') == 2
    table = html.write(folders, run / "both.html", over_runs=True)
    assert table.startswith("| Faithfulness ↑ |  mean | runs | mean rank |")
    TOOLS["report"]([*map(str, folders), "--aggregate"])
    assert capsys.readouterr().out == f"{table}\n\n{folders[0] / 'report.html'}\n"
    text = (folders[0] / "report.html").read_text(encoding="utf-8")
    assert "<h2>Faithfulness over the runs</h2>" in text
    assert "<td>a</td><td>0.500</td><td>2/2</td><td>1.00</td>" in text


def test_fifty_images_of_ten_methods_are_below_ten_megabytes(tmp_path, monkeypatch):
    methods = [f"m{i}" for i in range(10)]
    one = kept_run.entry(0, methods, side=224, sigma=6.0)
    entries = [replace(one, index=i, name=f"{i}.jpg") for i in range(50)]
    kept_run.run(tmp_path, entries[:1], methods, {method: [0.5] for method in methods})
    monkeypatch.setattr(html.mapstore, "read", lambda folder: iter(entries))
    size = len(page(tmp_path).encode())
    assert 500 * 2000 < size < 10_000_000
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<article") == 50
    assert "DeletionAUC: mean curve of 50 images" in text
    assert all(len(svg) < 30_000 for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL))


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no summary\.json: a report is made of the"):
        html.write([tmp_path], tmp_path / "report.html")


def test_a_run_counts_once(tmp_path):
    with pytest.raises(ValueError, match="named twice"):
        html.write([tmp_path, tmp_path / "." / "x" / ".."], tmp_path / "out.html")
