"""The page in a real browser: Chromium without a window, driven by selenium."""

import json
import shutil

import numpy as np
import pytest

from explainers.evaluation import html
from tests.evaluation import kept_run

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
EVIL = "<script>alert('a')</script>"
SCORES = {"a": [0.1, 0.5, 0.3], "b": [0.4, 0.2, 0.25]}


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,800"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of the page of a run of two methods and three images, the second of an evil name."""
    up = np.tile(np.arange(32.0), (32, 1))  # the right half matters most
    maps = {"a": up, "b": 1 - up}
    entries = [
        kept_run.entry(0, maps, labels=["cat"]),
        kept_run.entry(1, maps, name=EVIL, boxes=[[0, 0, 16, 16]]),
        kept_run.entry(2, maps, targets=("3", "7"), labels=["dog"]),
    ]
    folder = kept_run.run(tmp_path_factory.mktemp("run"), entries, ["a", "b"], SCORES)
    html.write([folder], folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture
def page(browser, address):
    """Opens the page anew, in a wide window, with nothing in the logs."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.set_window_size(1280, 1000)
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(address)
    return browser


def script(page, text, *arguments):
    return page.execute_script(text, *arguments)


def settle(page):
    """Waits until all that is visible is drawn."""
    page.execute_async_script(
        "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => done()), 300);"
    )


def choose(page, name, value, event="input"):
    text = (
        "const each = document.querySelector(`.gallery [name=${arguments[0]}]`);"
        "each.value = arguments[1];"
        "each.dispatchEvent(new Event(arguments[2], {bubbles: true}));"
    )
    script(page, text, name, value, event)
    settle(page)


def names(page, row="article h3"):
    found = page.find_elements("css selector", row)
    return [each.text for each in found if each.is_displayed()]


def pixel(page, method, x, y=16, row=0):
    """Color of a map's canvas in a row, in the order in which the rows are shown."""
    text = (
        "return [...document.querySelectorAll('article')[arguments[3]]"
        ".querySelector(`[data-method='${arguments[0]}']`).getContext('2d')"
        ".getImageData(arguments[1], arguments[2], 1, 1).data].slice(0, 3)"
    )
    return script(page, text, method, x, y, row)


def test_it_loads_without_errors_and_asks_no_network(page):
    settle(page)
    assert [each for each in page.get_log("browser") if each["level"] != "INFO"] == []
    events = [json.loads(each["message"])["message"] for each in page.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert EVIL in names(page)


def test_the_heat_map_is_bright_where_the_map_is_high(page):
    script(page, "document.querySelector('.bar').scrollIntoView()")
    settle(page)
    left, right = pixel(page, 0, 2), pixel(page, 0, 29)
    assert sum(right) > sum(left) + 150
    left, right = pixel(page, 1, 2), pixel(page, 1, 29)  # the other map is its reverse
    assert sum(left) > sum(right) + 150


def test_the_slider_takes_pixels_away_in_the_order_of_each_map_and_moves_the_marker(page):
    slider = page.find_element("css selector", "[name=share]")
    fill = [124, 116, 104]
    for _ in range(2):
        slider.send_keys("\ue014")  # the right arrow key
    assert page.find_element("css selector", "[name=percent]").text == "2 %"
    choose(page, "share", "50")
    assert page.find_element("css selector", "[value=remove]").is_selected()
    assert pixel(page, 0, 29) == fill
    assert pixel(page, 0, 2) != fill
    assert pixel(page, 1, 29) != fill
    assert pixel(page, 1, 2) == fill
    figure = "article figure:nth-child(2)"
    assert page.find_element("css selector", f"{figure} circle").get_attribute("cx") == "50"
    assert page.find_element("css selector", f"{figure} .at").text == "p 0.25"  # (1 - 0.5) ** 2
    choose(page, "share", "0")
    assert page.find_element("css selector", f"{figure} .at").text == "p 1.00"
    assert pixel(page, 0, 29) != fill
    page.find_element("css selector", "[value=insert]").click()
    settle(page)
    assert pixel(page, 0, 29) == fill
    choose(page, "share", "24")
    assert pixel(page, 0, 29) != fill
    assert pixel(page, 0, 2) == fill
    assert page.find_element("css selector", f"{figure} .at").text == "p 0.12"
    page.find_element("css selector", "[value=heat]").click()
    settle(page)
    assert page.find_element("css selector", f"{figure} .at").text == ""


def test_images_are_sorted_by_a_method_a_difference_or_several_figures(page):
    first, second, third = "0.jpg", EVIL, "2.jpg"
    choose(page, "order", "best")
    assert names(page) == [second, third, third, first]
    choose(page, "order", "worst")
    assert names(page) == [first, third, third, second]
    choose(page, "against", "1")  # a minus b: -0.3, 0.3, 0.05
    choose(page, "order", "best")
    assert names(page) == [second, third, third, first]
    choose(page, "method", "1")
    choose(page, "against", "")
    assert names(page) == [first, third, third, second]
    # IDD of b is 0, 0.9, 1.75: the third is within the first two by both figures.
    page.find_elements("css selector", "[name=figure]")[1].click()
    assert names(page)[0] == third
    page.find_elements("css selector", "[name=figure]")[1].click()
    choose(page, "method", "0")
    choose(page, "order", "")
    assert names(page) == [first, second, third, third]


def test_images_are_filtered_by_class_and_name(page):
    choose(page, "class", "dog")
    assert names(page) == ["2.jpg", "2.jpg"]
    assert page.find_element("css selector", "[name=count]").text == "2 of 4"
    choose(page, "class", "")
    choose(page, "name", "SCRIPT")
    assert names(page) == [EVIL]
    choose(page, "name", "")
    assert len(names(page)) == 4


def test_boxes_and_classes_are_drawn(page):
    row = "article:nth-child(2)"
    script(page, "document.querySelector(arguments[0]).scrollIntoView()", row)
    settle(page)
    text = (
        "return [...document.querySelector(arguments[0]).getContext('2d')"
        ".getImageData(...arguments[1], 1, 1).data].slice(0, 3)"
    )
    red, green, blue = script(page, text, f"{row} .photo", [8, 16])
    assert green > max(red, blue)
    block = ".layers section canvas"
    script(page, "document.querySelector(arguments[0]).scrollIntoView()", block)
    settle(page)
    both = script(page, text, block, [30, 16])
    boxes = page.find_elements("css selector", ".layers input")
    assert page.find_element("css selector", ".layers .ama").text == "0.50"
    for each in boxes:
        each.click()
    settle(page)
    red, green, blue = script(page, text, block, [30, 16])
    assert abs(red - green) <= 1  # the gray photo alone
    assert max(both) - min(both) > 30
    for each in boxes:
        each.click()


def test_tables_sort_by_any_column(page):
    table = page.find_elements("css selector", "table.sortable")[0]
    button = table.find_elements("css selector", "thead button")[2]  # seconds, smaller is better
    for expected in (["a", "b"], ["b", "a"]):  # best first
        button.click()
        first = [row.find_element("css selector", "td").text for row in rows(table)]
        assert first == expected
    page.find_element("css selector", "input.filter").send_keys("0.J")
    shown = rows(page.find_elements("css selector", "table.sortable")[-1])
    assert [row.text.split(" ")[0] for row in shown if row.is_displayed()] == ["0.jpg"]


def rows(table):
    return table.find_elements("css selector", "tbody tr")


def test_a_phone_scrolls_the_tables_and_not_the_page(page):
    page.set_window_size(500, 800)  # the narrowest that there is
    width = script(page, "return window.innerWidth")
    assert script(page, "return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    assert script(page, "return document.documentElement.scrollWidth") <= 390


def test_all_that_can_be_used_has_a_name(page):
    text = (
        "return [...document.querySelectorAll('input, select')].filter(e => !e.closest('label'))"
        ".length + [...document.querySelectorAll('canvas')].filter(e => !e.ariaLabel).length"
    )
    assert script(page, text) == 0
