"""A graph gives the maps of its explainer, in ONNX Runtime too, for any number of images."""

import json

import pytest
import torch
import yaml

import explainers
from explainers import Explanandum, exporting, graphs, publishing
from explainers.explanandum.weights import fingerprint
from explainers.methods.amortized_sloc import AmortizedSLOC
from explainers.methods.casm import CASM
from explainers.methods.constant import Random
from explainers.methods.deeplab import DeepLabExplainer
from explainers.methods.distilled import Distilled
from explainers.methods.evidence_nem import EvidenceNEM
from explainers.methods.ltx import LTX
from explainers.methods.nem_t import NEMt
from explainers.methods.nem_u import NEMU
from explainers.methods.ra_nem import RaNEM
from explainers.methods.rtis import RTIS
from explainers.methods.shapley import ShapleyExplainer
from tests import planted
from tests.support import save
from tests.tiny import Tiny

UNET = {"network": {"widths": [4] * 5}}
DEEPLAB = DeepLabExplainer.quick
EVIDENCE = {"network": {"width": 4}}
METHODS = {
    "deeplab": lambda e: DeepLabExplainer(e, network=DEEPLAB["network"]),
    "rtis": lambda e: RTIS(e, network=DEEPLAB["network"]),
    "nem_u": lambda e: NEMU(e, **UNET),
    "nem_t": lambda e: NEMt(e, **UNET),
    "ra_nem": lambda e: RaNEM(e, class_conditioned=True, **UNET),
    "ra_nem_start": lambda e: RaNEM(e, start="pyramid_cam", **UNET),
    "ltx": LTX,
    "casm": lambda e: CASM(e, width=4),
    "shapley": lambda e: ShapleyExplainer(e, grid=4, network={"width": 8}),
    "distilled": lambda e: Distilled(e, **UNET),
    "distilled_evidence": lambda e: Distilled(e, evidence=True),
    "amortized_sloc": lambda e: AmortizedSLOC(e, **EVIDENCE),
    "amortized_sloc_evidence": lambda e: AmortizedSLOC(e, evidence=True, **EVIDENCE),
    "evidence_nem": lambda e: EvidenceNEM(e, **EVIDENCE),
}
# One with a map of its own for each class and one with a map of the prediction. The others with
# -m slow, of which CI runs "evidence_nem", whose graph has the gradient of the classifier.
QUICK = ("rtis", "nem_u")
CASES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]


def built(name):
    """An explainer with random weights everywhere, also where a training starts at 0."""
    torch.manual_seed(0)
    explainer = METHODS[name](planted.explanandum())
    with torch.no_grad():
        for parameter in explainer.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return explainer.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_gives_the_maps_of_the_explainer(name, tmp_path):
    pytest.importorskip("onnxscript", reason="install the extra onnx")
    pytest.importorskip("onnxruntime", reason="install the extra onnx")
    explainer, path = built(name), tmp_path / "model.onnx"
    graphs.save(graphs.graph(explainer), path, explainer.explanandum.class_names)
    images, _ = planted.scenes(5)
    logits = explainer.explanandum(images)
    inputs, classes = (images,), logits.argmax(dim=1, keepdim=True)
    if explainer.class_specific:
        asked = torch.tensor([[0], [-1], [2], [3], [-1]])
        inputs, classes = (images, asked), torch.where(asked < 0, classes, asked)
        wanted = explainer.class_maps(images, classes)
    else:
        wanted = explainer.attribute(images, torch.eye(4)[classes[:, 0]].bool())[:, None]
    for count in (5, 1):
        found, _ = graphs.run(path, [each[:count] for each in inputs])
        torch.testing.assert_close(found[0], logits[:count], rtol=1e-4, atol=1e-4)
        # Sums of some hundred float32 in another order; standardizing divides by a deviation.
        span = float(wanted.max() - wanted.min())
        torch.testing.assert_close(found[1], wanted[:count].detach(), rtol=0, atol=1e-3 * span)


@pytest.mark.filterwarnings("ignore")
def test_all_masks_come_from_the_image_alone_and_need_no_classifier(tmp_path, capsys):
    explainer = built("deeplab")
    explainer.explanandum.in_checkpoint = False
    whole, out = save(explainer, tmp_path / "whole.ckpt"), tmp_path / "own" / "masks.pt2"
    images, _ = planted.scenes(3)
    wanted = explainer.class_maps(images, torch.arange(4).expand(3, -1)).detach()
    alone = exporting.load_maps(whole)
    torch.testing.assert_close(alone.class_maps(images, torch.arange(4).expand(3, -1)), wanted)
    exporting.export(whole, str(out), maps_only=True, license="CC0-1.0")
    program = torch.export.load(out)
    (found,) = program.module()(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert "differ by at most" in capsys.readouterr().out
    header = yaml.safe_load(out.with_suffix(".md").read_text().split("---")[1])
    assert header["license"] == "CC0-1.0"
    assert header["classifier"] == "tests.planted:PlantedCNN"
    assert header["training_data"] == "unknown"


@pytest.mark.parametrize(
    ("make", "arguments", "line"),
    [
        (Random, {}, "Random is not trained"),
        (lambda e: LTX(e, refine={"steps": 2}), {}, r"set refine\.steps: 0"),
        (LTX, {"image_size": [32]}, r"expected image_size \[height, width\]"),
        (LTX, {"classes": 0}, "at least one class"),
    ],
)
def test_what_cannot_be_a_graph_is_said_in_one_line(make, arguments, line):
    with pytest.raises(ValueError, match=line):
        graphs.graph(make(planted.explanandum()), **arguments)


@pytest.mark.parametrize("out", ["model.pt", "old.ckpt", "noted.onnx", ""])
def test_out_is_new_and_has_a_known_ending(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(CASM(planted.explanandum(), width=4), tmp_path / "old.ckpt")
    (tmp_path / "noted.md").write_text("mine")
    with pytest.raises(ValueError, match="out is a new file whose name ends with"):
        exporting.export("old.ckpt", out)


def test_a_published_folder_loads_again_without_a_network(tmp_path):
    explainer = built("casm")
    explainer.cost = {"seconds": 90.0, "steps": 20, "images": 640}
    exporting.publish(explainer, tmp_path / "own", "card")
    again = publishing.from_pretrained(str(tmp_path / "own"))
    images, targets = planted.scenes(2)
    assert torch.equal(again.attribute(images, targets), explainer.attribute(images, targets))
    assert again.cost == explainer.cost
    save(explainer, tmp_path / "last.ckpt")
    exporting.export(str(tmp_path / "last.ckpt"), str(tmp_path / "hub"), data="Shapes")
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "explainer.ckpt",
    ]
    assert "- Data: Shapes" in (tmp_path / "hub" / "README.md").read_text()


def run_of(explainer, folder, weights=None):
    """The files of a test that has measured an explainer."""
    folder.mkdir()
    facts = {
        "class": "explainers.methods.casm.CASM",
        "weights": weights or fingerprint(explainer, leave_out="explanandum."),
    }
    figure = {"mean": 0.5, "ci95": [0.25, None], "n": 8, "higher_is_better": True}
    summary = {
        "explanandum": "cnn",
        "data": "Sha|pes",
        "images": 8,
        "methods": {"mine": {"A": figure}},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "settings.json").write_text(json.dumps({"methods": {"mine": facts}}))
    return str(folder)


def test_a_card_shows_the_figures_of_a_run_of_the_same_weights(tmp_path):
    explainer = built("casm")
    config = explainer.explanandum.config
    text = publishing.card(explainer, config, "model.ckpt", run_of(explainer, tmp_path / "run"))
    assert "| A | 0.5 | 0.25 to - | 8 |" in text
    assert r"on 8 images of Sha\|pes" in text
    assert yaml.safe_load(text.split("---")[1])["metrics"]["A"]["mean"] == 0.5
    with pytest.raises(ValueError, match="has not measured this explainer"):
        publishing.card(explainer, config, "x.ckpt", run_of(explainer, tmp_path / "other", "0"))
    with pytest.raises(FileNotFoundError, match=r"summary\.json does not exist"):
        publishing.card(explainer, config, "x.ckpt", str(tmp_path))


def test_only_masks_that_need_no_classifier_load_without_it(tmp_path):
    path = save(CASM(planted.explanandum(), width=4), tmp_path / "casm.ckpt")
    with pytest.raises(ValueError, match="only DeepLab and RTIS explain without the classifier"):
        exporting.load_maps(path)
    assert explainers.load(path).eval()


def test_gray_classifiers_keep_their_normalization(tmp_path):
    gray = Explanandum(Tiny(channels=1), mean=[0.5], std=[0.25], input_size=[32, 32])
    explainer = DeepLabExplainer(gray, network=DEEPLAB["network"]).eval()
    path, images = save(explainer, tmp_path / "gray.ckpt"), torch.rand(1, 3, 32, 32)
    classes = torch.tensor([[1]])
    found = exporting.load_maps(path).class_maps(images, classes)
    torch.testing.assert_close(found, explainer.class_maps(images, classes))
