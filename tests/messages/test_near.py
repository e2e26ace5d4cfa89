"""What was probably meant: by configuration files, classes and options that exist."""

import pytest

from explainers.messages import near


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("configs/methods/gradcam.yaml", "configs/methods/grad_cam.yaml"),
        ("configs/method/grad_cam.yaml", "configs/methods/grad_cam.yaml"),
        ("grad_cam", "configs/methods/grad_cam.yaml"),
        ("configs/data/shape.yaml", "configs/data/shapes.yaml"),
        ("configs/explananda/shape.yaml", "configs/explananda/shapes.yaml"),
    ],
)
def test_the_configuration_file_of_about_this_name(given, meant):
    assert near.nearest_config(given) == f"; did you mean {meant}?"


def test_a_file_beside_a_missing_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    assert near.nearest_config("mime.yaml") == "; did you mean mine.yaml?"
    assert near.nearest_config("zzzzzz.yaml") == "; --help lists the methods and data sets"
    assert "configs/methods/rise.yaml" in near.config_files()  # the packed ones


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("explainers.methods.rize.RISE", "explainers.methods.rise.RISE"),
        ("explainers.methods.rise.rise", "explainers.methods.rise.RISE"),
        ("datamodules.shape.Shapes", "datamodules.shapes.Shapes"),
        ("Shaps", "datamodules.shapes.Shapes"),
        ("explainers.callbacks.maps.LogMap", "explainers.callbacks.maps.LogMaps"),
    ],
)
def test_the_class_of_about_this_name(given, meant):
    assert near.nearest_class(given) == f"; did you mean {meant}?"


def test_no_class_is_near():
    assert near.nearest_class("somebody.elses.Network") == ""


def test_options_of_base_classes_are_options():
    assert {"image_size", "batch_size", "limit"} <= set(
        near.options_of("datamodules.shapes.Shapes")
    )
    assert near.options_of("explainers.methods.cam.GradCAM") == ["explanandum", "layer", "seed"]
