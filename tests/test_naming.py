"""Names of methods and of run folders."""

from pathlib import Path

import pytest
import yaml

from explainers.naming import below_fit, data_name, method_name, run_folder, subject, word


@pytest.mark.parametrize("path", sorted(Path("configs/methods").glob("*.yaml")), ids=str)
def test_a_methods_row_is_called_as_its_config(path):
    class_path = yaml.safe_load(path.read_text())["model"]["class_path"]
    others = {"smooth_saliency": "saliency", "fido_ca": "fido"}  # classes of two configs
    assert method_name(class_path) == others.get(path.stem, path.stem.removesuffix("_g"))


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("methods.nem_u", "NEMU", "nem_u"),
        ("methods.rise", "RISEWithoutBias", "rise"),
        ("methods.cam", "GradCAMPlusPlus", "grad_cam_plus_plus"),
        ("methods.cam", "LayerCAM", "layer_cam"),
        ("methods.own", "HTTPMap", "http_map"),
        ("own", "Mine", "mine"),
    ],
)
def test_names_of_methods_by_hand(module, name, expected):
    assert method_name(f"{module}.{name}") == expected


def model(class_path="explainers.methods.rise.RISE", **explanandum):
    return {"class_path": class_path, "init_args": {"explanandum": {"init_args": explanandum}}}


def data(name="datamodules.folder.ImageFolder", **arguments):
    return {"class_path": name, "init_args": arguments}


def test_a_run_is_named_after_its_method_classifier_and_data():
    config = {"model": model(model="torchvision/resnet50"), "data": data(root="my photos/")}
    assert run_folder("fit", config, None) == "runs/rise-resnet50-image_folder-my_photos"
    assert run_folder("test", config, None) == "runs/rise-resnet50/test-image_folder-my_photos"
    assert run_folder("predict", config, "a/b/last.ckpt") == "a/b/predict-image_folder-my_photos"
    assert run_folder("validate", config, None) == "runs/resnet50/validate-image_folder-my_photos"
    assert run_folder("test", {"data": data("datamodules.shapes.Shapes")}, "last.ckpt") == (
        "./test-shapes"
    )
    many = {**config, "score": {"methods": {"saliency": {}}}}
    assert subject(many) == "compare_rise-resnet50"


def test_other_weights_are_another_run():
    own = [
        subject({"model": model(model="resnet50", weights=f"weights/{name}.pth")})
        for name in ("first", "second")
    ]
    assert own == ["rise-resnet50-first", "rise-resnet50-second"]
    classifier = model("explainers.explanandum.classifier.Classifier")
    classifier["init_args"] = {"model": "resnet50"}
    assert subject({"model": classifier}) == "classifier-resnet50"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("my.nets:build", "build"),
        ("../checkpoints/shapes classifier.ckpt", "shapes_classifier"),
        ("runs/voc_light/last.ckpt", "voc_light"),
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("..", ""),
        ("a/../..", ""),
        ("C:\\photos\\cats\\", "cats"),
        ("x" * 300, "x" * 60),
    ],
)
def test_words_are_safe_in_a_path(value, expected):
    assert word(value) == expected


def test_a_test_in_the_folder_of_a_fit_goes_below_it(tmp_path):
    config = {"data": data("datamodules.voc.VOC", root="data/VOC2012")}
    assert data_name(config["data"]) == "voc-VOC2012"
    assert below_fit(str(tmp_path), "test", config) == str(tmp_path)
    (tmp_path / "last.ckpt").touch()
    assert below_fit(str(tmp_path), "test", config) == f"{tmp_path}/test-voc-VOC2012"
    assert below_fit(str(tmp_path), "fit", config) == str(tmp_path)
