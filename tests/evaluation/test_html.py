import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from explainers.evaluation import html

EVIL = "<script>alert('a')</script>"
CHROMIUM = shutil.which("chromium")


def figure(mean, better=True, half=0.1):
    ends = [None, None] if mean is None else [mean - half, mean + half]
    return {"mean": mean, "ci95": ends, "n": 2, "higher_is_better": better}


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
        "images": 2,
        "methods": methods,
        "paired": [test],
        "versions": {"torch": "2"},
        "verdicts": {"Faithfulness": "rise & mine lead"},
        "agreement": {"a": {"a": 1.0, "b": 0.25}, "b": {"a": 0.25, "b": None}},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "settings.json").write_text(json.dumps({"target": EVIL}))
    (tmp_path / "table.md").write_text("2 images\n\n| table |\n\n- rise & mine lead\n\na note\n")
    names = ["a.jpg", f'"{EVIL}"']
    rows = [f"{i},{name},0,{m},{0.1 * i + 0.2},1.0" for i, name in enumerate(names) for m in values]
    head = "index,name,target,method,Faithfulness,seconds"
    (tmp_path / "scores.csv").write_text("\n".join([head, *rows]))
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


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no summary\.json: a report is made of the"):
        html.write([tmp_path], tmp_path / "report.html")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_in_a_browser_it_sorts_and_filters(run):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    page(run)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,800"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(Path(run / "report.html").as_uri())

        def names(table):
            cells = driver.find_elements("css selector", "table")[table]
            rows = cells.find_elements("css selector", "tbody tr")
            shown = [row for row in rows if row.is_displayed()]
            return [row.find_elements("css selector", "td")[0].text for row in shown]

        seconds = driver.find_elements("css selector", "thead button")[2]
        seconds.click()
        assert names(0) == ["rise", "lime", "mine", "constant_0"]
        seconds.click()
        assert names(0) == ["constant_0", "mine", "lime", "rise"]
        driver.find_element("css selector", "input.filter").send_keys("A.J")
        assert names(-1) == ["a.jpg"]
        driver.set_window_size(400, 800)
        # A phone scrolls the tables, not the page.
        width = driver.execute_script("return window.innerWidth")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert driver.get_log("browser") == []
    finally:
        driver.quit()
