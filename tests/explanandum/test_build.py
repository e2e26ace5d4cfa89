"""Classifiers by name, and what their libraries know of their input."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import squeezenet1_1

from explainers import Explanandum
from explainers.explanandum import build
from tests import planted

UNKNOWN = dict.fromkeys(("mean", "std", "input_size", "class_names", "pretrained_classes"))


def test_a_name_may_be_timm_s_torchvision_s_or_a_callable_s():
    assert build.build("test_resnet", 3).num_classes == 3
    assert build.build("test_vit", model_args={"embed_dim": 32}).embed_dim == 32
    assert build.build("torchvision/squeezenet1_1", 7).classifier[1].out_channels == 7
    assert build.build("tests.planted:PlantedViT", model_args={"patch": 8}).patch == 8
    assert isinstance(build.build("tests.planted:PlantedCNN"), planted.PlantedCNN)
    assert isinstance(build.build("tests.explanandum.test_build:Named.built"), planted.PlantedCNN)


class Named:
    @classmethod
    def built(cls):
        return planted.PlantedCNN()


def test_a_model_of_hugging_face_states_size_and_names():
    network = nn.Module()
    network.config = SimpleNamespace(id2label={"1": "dog", "0": "cat"}, image_size=32)
    assert build.data_config("", network) == UNKNOWN | {
        "input_size": [32, 32],
        "class_names": ["cat", "dog"],
    }
    network.config = SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"}, image_size=(8, 9))
    assert build.data_config("", network) == UNKNOWN | {"input_size": [8, 9]}


def test_weights_of_a_library_serve_a_head_of_another_width(monkeypatch):
    source = squeezenet1_1(weights=None)
    monkeypatch.setattr(
        models.SqueezeNet1_1_Weights, "get_state_dict", lambda *_, **__: source.state_dict()
    )
    network = build.build("torchvision/squeezenet1_1", 7, pretrained=True)
    body, head = network.features[0].weight, network.classifier[1].weight
    assert torch.equal(body, source.features[0].weight)
    assert head.shape[0] == 7


def test_the_library_knows_mean_size_and_names():
    timm_model = build.build("tf_efficientnet_lite0")
    known = build.data_config("tf_efficientnet_lite0", timm_model)
    assert (known["mean"], known["std"]) == ([0.5] * 3, [0.5] * 3)
    assert (known["input_size"], len(known["class_names"])) == ([224, 224], 1000)
    assert known["class_names"][1] == "goldfish, Carassius auratus"
    known = build.data_config("torchvision/inception_v3", nn.Module())
    assert (known["mean"], known["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert (known["input_size"], known["class_names"][1]) == ([299, 299], "goldfish")
    assert build.data_config("", nn.Module()) == UNKNOWN


def test_an_explanandum_takes_what_the_library_knows_unless_it_is_told():
    squeeze = Explanandum("torchvision/squeezenet1_1")
    assert (squeeze.num_classes, squeeze.class_names[1]) == (1000, "goldfish")
    torch.testing.assert_close(squeeze.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    told = Explanandum("test_resnet", num_classes=2, mean=[0.1] * 3, input_size=[32, 48])
    assert (told.mean.flatten().tolist(), told.input_size) == (pytest.approx([0.1] * 3), [32, 48])
    assert told.class_names == ["class 0", "class 1"]


def test_a_vit_made_for_another_size_says_so():
    explanandum = Explanandum("test_vit", num_classes=3, model_args={"img_size": [64, 32]})
    assert explanandum.input_size == [64, 32]
    assert explanandum(torch.zeros(1, 3, 64, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"model": "resnt18"}, ValueError, r"unknown model 'resnt18': .* near: \["),
        ({"model": "resnet_18"}, ValueError, r"near: \['.*resnet"),
        ({"model": "torchvision/nothing"}, ValueError, "unknown torchvision classifier 'nothing'"),
        ({"model": "test_resnet", "weights": "nothing.pth"}, FileNotFoundError, "nothing.pth"),
        ({"model": "no.module:x"}, ValueError, "model 'no.module:x' cannot be imported: No module"),
        ({"model": "tests.planted:Nothing"}, ValueError, "cannot be imported: .* 'Nothing'"),
        ({"model": "tests.planted:scenes", "model_args": {"count": 1}}, ValueError, "got tuple"),
        (
            {"model": "tests.planted:PlantedCNN", "num_classes": 3},
            ValueError,
            "does not take {'num",
        ),
    ],
)
def test_bad_names_are_told(arguments, error, told):
    with pytest.raises(error, match=told):
        build.build(**arguments)


def test_a_file_of_weights_is_no_architecture():
    with pytest.raises(ValueError, match="is a file of weights: give it as weights"):
        build.build("mine.pth")
