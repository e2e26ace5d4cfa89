"""A checkpoint is data: whatever it names, loading it imports, calls, reads and downloads nothing.

Each file here passes `torch.load(weights_only=True)`. The module `hostile` leaves a file behind as
soon as it is imported, and another one as soon as it is called.
"""

import builtins
import pickle
import sys
from pathlib import Path

import pytest
import torch

import explainers
from explainers import Explanandum
from explainers.callbacks.score import Score
from explainers.checkpoint import load_beside, model_config
from explainers.cli import CLI, EvaluateCLI, main
from explainers.evaluation.rows import build_rows
from explainers.explanandum.classifier import Classifier
from explainers.methods.constant import CentredGaussian
from explainers.methods.deeplab import DeepLabExplainer
from explainers.reading import read_checkpoint
from explainers.trust import granting, trusted
from tests import planted
from tests.support import fit_trainer, save

HOSTILE = """
import pathlib
from explainers.methods.constant import CentredGaussian
from tests.planted import PlantedCNN

here = pathlib.Path(__file__).parent
(here / "imported").touch()

class Method(CentredGaussian):
    pass

class NoMethod:
    pass

class Net(PlantedCNN):
    pass

def net(**kwargs):
    (here / "called").touch()
    return PlantedCNN()
"""
DEEPLAB = {
    "network": {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]}
}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Folder of a module of somebody else, on the path; no connection can be made."""
    (tmp_path / "hostile.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection"))
    yield tmp_path
    sys.modules.pop("hostile", None)


def untouched(folder):
    return not (folder / "imported").exists() and not (folder / "called").exists()


def written(folder, module=None, **changes):
    """Path of an explainer's checkpoint with other entries; nested keys are joined by dots."""
    path = save(module or CentredGaussian(planted.explanandum()), folder / "x.ckpt")
    content = torch.load(path, weights_only=True)
    for place, value in changes.items():
        *outer, last = place.split("__")
        target = content
        for key in outer:
            target = target.setdefault(key, {})
        target[last] = value
    torch.save(content, path)
    return path


ATTACKS = {
    "shell": {"explanandum__model": "os:system", "explanandum__model_args": {"command": "true"}},
    "python": {"explanandum__model": "builtins:exec"},
    "method of a class": {"explanandum__model": "pathlib:Path.touch"},
    "hub": {"explanandum__model": "torch.hub:load"},
    "timm hub": {"explanandum__model": "hf-hub:timm/resnet18"},
    "timm folder": {"explanandum__model": "local-dir:/tmp"},
    "own module": {"explanandum__model": "hostile:net"},
    "own package, no function of the list": {"explanandum__model": "explainers.files:load"},
    "path of a checkpoint": {"explanandum__model": "other.ckpt"},
    "weights": {"explanandum__model": "resnet18", "explanandum__weights": "/etc/passwd"},
    "download": {"explanandum__model": "resnet18", "explanandum__pretrained": True},
    "architecture's file": {
        "explanandum__model": "resnet18",
        "explanandum__model_args": {"checkpoint_path": "/etc/passwd"},
    },
    "architecture's address": {
        "explanandum__model": "resnet18",
        "explanandum__model_args": {"pretrained_cfg": {"url": "http://x"}},
    },
    "trust of its own": {"explanandum__trust": ["os"]},
    "module that is no text": {"explanandum__model": {"class_path": "os.system"}},
    "foreign class": {"class_path": "hostile.Method"},
    "class of a foreign package called alike": {"class_path": "explainers_x.Method"},
    "no explainer": {"class_path": "hostile.NoMethod"},
    "class of torch": {"class_path": "torch.nn.Linear"},
    "odd class path": {"class_path": "explainers.methods.rise;import os.RISE"},
    "nested class": {"hyper_parameters__seed": {"class_path": "hostile.Method"}},
    "nested call": {"hyper_parameters__seed": {"x": [{"class_path": "os.system"}]}},
    "path": {"hyper_parameters__sigma": "/etc/passwd"},
    "folder of pictures": {"hyper_parameters__bank": "pictures"},
    "unknown argument": {"hyper_parameters__unknown": 1},
    "objects": {"hyper_parameters__sigma": torch.zeros(2)},
    "dotted key": {"explanandum__model.class_path": "hostile.Net"},
    "dotted key of an argument": {"hyper_parameters__sigma.class_path": "hostile.Net"},
    "class among the model's arguments": {
        "explanandum__model": "resnet18",
        "explanandum__model_args": {"x": [{"class_path": "hostile.Net"}]},
    },
    "class among the arguments of a known function": {
        "explanandum__model": "explainers.explanandum.lite0:efficientnet_lite0",
        "explanandum__model_args": {"x": {"class_path": "hostile.Net"}},
    },
    "dotted key of the model's arguments": {
        "explanandum__model": "resnet18",
        "explanandum__model_args.x": {"class_path": "hostile.Net"},
    },
    "own class among the arguments": {
        "hyper_parameters__seed": {"class_path": "explainers.methods.rise.RISE"}
    },
    "empty weights": {"explanandum__model": "resnet18", "explanandum__weights": ""},
    "weights that are false": {"explanandum__model": "resnet18", "explanandum__weights": False},
    "no dict of arguments": {"hyper_parameters": None},
    "own module within explainers": {"class_path": "explainers.trust.Path"},
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_checkpoint_names_is_not_run(hostile, name, capsys):
    path = written(hostile, **ATTACKS[name])
    with pytest.raises(ValueError, match=r"x\.ckpt|explainers\.trust\.Path"):
        explainers.load(path)
    command = ["test", "--ckpt_path", path, "--data", "datamodules.shapes.Shapes"]
    assert main(EvaluateCLI, command) == 2
    assert main(CLI, ["validate", "--ckpt_path", path, *command[3:]]) == 2
    if not any(key.startswith("explanandum") for key in ATTACKS[name]) and "dict" not in name:
        with pytest.raises(ValueError, match=r"x\.ckpt|explainers\.trust\.Path"):
            load_beside(planted.explanandum(), path)
        score = Score(checkpoints={"x": path}, output_dir=str(hostile))
        with pytest.raises(ValueError, match=r"x\.ckpt|explainers\.trust\.Path"):
            build_rows(planted.explanandum(), score.checkpoints, score.methods)
    assert "Traceback" not in capsys.readouterr().err
    assert untouched(hostile)


@pytest.mark.parametrize(
    "backbone", ["tu-hf-hub:timm/resnet18", "tu-local-dir:/tmp", "../x", "torchvision/a/b"]
)
def test_an_encoder_is_a_plain_name(hostile, backbone):
    path = written(
        hostile,
        DeepLabExplainer(planted.explanandum(), **DEEPLAB),
        hyper_parameters__network__backbone=backbone,
    )
    with pytest.raises(ValueError, match=r"sets backbone to .*, expected a plain name"):
        explainers.load(path)


@pytest.mark.parametrize("name", ["backbone_weights", "pretrained"])
def test_an_encoder_reads_nothing(hostile, name, monkeypatch):
    path = written(
        hostile,
        DeepLabExplainer(planted.explanandum(), **DEEPLAB),
        **{f"hyper_parameters__network__{name}": "secret.pth"},
    )
    (hostile / "secret.pth").write_text("")
    opened = []
    own = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: opened.append(str(a[0])) or own(*a, **k))
    for load in (explainers.load, DeepLabExplainer.load_from_checkpoint):
        with pytest.raises(ValueError, match=f"sets {name} to 'secret.pth', and loading reads no"):
            load(path)
    assert not any("secret" in file for file in opened)


CLASSIFIERS = {key: ATTACKS[key] for key in ("shell", "hub", "own module")}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifiers_checkpoint_names_no_function(hostile, name):
    torch.manual_seed(0)
    path = save(Classifier("test_resnet", 4), hostile / "x.ckpt")
    content = torch.load(path, weights_only=True)
    for place, value in CLASSIFIERS[name].items():
        content["hyper_parameters"][place.partition("__")[2]] = value
    torch.save(content, path)
    for load in (Explanandum, Classifier.load_from_checkpoint, lambda p: model_config(p, {})):
        with pytest.raises(ValueError, match=r"names the model .*, a function that loading would"):
            load(path)
    assert untouched(hostile)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("expected_accuracy", "abc", "a number or None"),
        ("model_args", "abc", "a dict or None"),
        ("feature_layers", [1], "a list of names or None"),
        ("mean", "abc", "a list of numbers"),
        ("class_names", {"a": 1}, "a list of names or None"),
        ("classes", ["a"], "a list of integers or None"),
        ("num_classes", "four", "an integer or None"),
        ("multi_label", "no", "True or False"),
        ("class_names", ["\x1b]0;evil\x07"], "control characters"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(hostile, name, value, told):
    path = save(CentredGaussian(planted.explanandum()), hostile / "x.ckpt")
    content = torch.load(path, weights_only=True)
    content["explanandum"][name] = value
    torch.save(content, path)
    for load in (explainers.load, lambda p: model_config(p, {})):
        with pytest.raises(ValueError, match=rf"x\.ckpt.*[ .]{name}.* {told}"):
            load(path)


def test_junk_among_the_arguments_is_told_with_its_file(hostile):
    path = save(CentredGaussian(planted.explanandum()), hostile / "x.ckpt")
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"] |= {"sigma": "wide"}
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"x\.ckpt holds arguments that cannot be used .TypeError"):
        explainers.load(path)


def test_junk_among_the_arguments_of_a_classifier(hostile):
    torch.manual_seed(0)
    path = save(Classifier("test_resnet", 4), hostile / "x.ckpt")
    content = torch.load(path, weights_only=True)
    for junk in ({"unknown": 1}, {"mean": "abc"}):
        torch.save({**content, "hyper_parameters": content["hyper_parameters"] | junk}, path)
        with pytest.raises(ValueError, match=r"x\.ckpt"):
            Classifier.load_from_checkpoint(path)


def test_a_word_for_this_package_is_no_advice(hostile):
    path = save(CentredGaussian(planted.explanandum()), hostile / "x.ckpt")
    content = torch.load(path, weights_only=True)
    content["explanandum"]["model"] = "explainers.files:load"
    torch.save(content, path)
    with pytest.raises(ValueError, match="give your own, in a -c file or in Python"):
        explainers.load(path)


class Exploit:
    def __reduce__(self):
        return (Path.touch, (Path("called"),))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_is_never_loaded(hostile, legacy, capsys):
    content = {"state_dict": {}, "class_path": "x", "x": Exploit()}
    torch.save(content, "x.ckpt", _use_new_zipfile_serialization=not legacy)
    (hostile / "raw.ckpt").write_bytes(pickle.dumps(content))
    torch.save(Exploit(), "x.pth")
    fit = ["fit", "--model", "DeepLabExplainer", "--data", "datamodules.shapes.Shapes"]
    fit += ["--model.explanandum", "explainers.Explanandum"]
    fit += ["--model.explanandum.init_args.model", "test_resnet"]
    fit += ["--model.network", str(DEEPLAB["network"]), "--trainer.logger", "false"]
    fit += ["--trainer.accelerator", "cpu"]
    for name in ("x.ckpt", "raw.ckpt"):
        for load in (explainers.load, Explanandum, Classifier.load_from_checkpoint):
            with pytest.raises(ValueError, match=r"holds Python objects.*never loaded"):
                load(name)
        for command in (["test", "--ckpt_path", name], ["predict", "--ckpt_path", name]):
            assert main(EvaluateCLI, command) == 2
        assert main(CLI, [*fit, "--ckpt_path", name]) == 2
        assert "which are never loaded" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(ValueError, match="which are never loaded"):
        Explanandum("test_resnet", weights="x.pth")
    assert untouched(hostile)


def test_lightning_reads_checkpoints_as_plain_data(hostile, monkeypatch):
    """Also one that is swapped between our check and its own reading."""
    monkeypatch.setattr("explainers.cli.check_resumable", lambda *_: None)
    torch.save({"state_dict": {}, "x": Exploit()}, "x.ckpt")
    fit = ["fit", "--model", "DeepLabExplainer", "--data", "datamodules.shapes.Shapes"]
    fit += ["--model.explanandum", "explainers.Explanandum", "--trainer.max_steps", "1"]
    fit += ["--model.explanandum.init_args.model", "test_resnet"]
    fit += ["--model.explanandum.init_args.num_classes", "6"]
    fit += ["--model.explanandum.init_args.multi_label", "true"]
    fit += ["--model.network", str(DEEPLAB["network"]), "--trainer.logger", "false"]
    fit += ["--trainer.accelerator", "cpu", "--ckpt_path", "x.ckpt", "--out", "run"]
    with pytest.raises((pickle.UnpicklingError, SystemExit)):
        raise SystemExit(main(CLI, fit))
    assert untouched(hostile)


def test_a_users_own_method_and_classifier_are_loaded_with_their_word(hostile, monkeypatch):
    import hostile as mine

    monkeypatch.setattr("explainers.base.Explainer.on_test_start", lambda self: None)
    path = save(mine.Method(Explanandum("hostile:net"), sigma=0.2), hostile / "x.ckpt")
    with pytest.raises(ValueError, match=r"names the class 'hostile.Method', .* --trust hostile"):
        explainers.load(path)
    assert explainers.load(path, trust=["hostile"]).sigma == 0.2
    loaded = mine.Method.load_from_checkpoint(path, trust=["hostile"])
    assert type(loaded) is mine.Method
    with pytest.raises(ValueError, match=r"names the model 'hostile:net'.* trust=\['hostile'\]"):
        mine.Method.load_from_checkpoint(path)
    _, config = model_config(
        path,
        {
            "class_path": "hostile.Method",
            "init_args": {"explanandum": {"init_args": {"model": "hostile:net"}}},
        },
    )
    assert config["init_args"]["sigma"] == 0.2
    classifier = save(Classifier("hostile:net", 4), hostile / "c.ckpt")
    with pytest.raises(ValueError, match="--trust hostile"):
        Explanandum(classifier)
    assert Explanandum(classifier, trust=["hostile"]).num_classes == 4
    assert Classifier.load_from_checkpoint(classifier, trust=["hostile"]).num_classes == 4


def test_the_word_holds_within_its_block_and_for_inner_modules():
    with granting(["a", "b.c"]):
        assert [trusted(name) for name in ("a", "a.b", "ab", "b", "b.c.d")] == [
            *(True, True, False, False, True)
        ]
        with granting("d"):
            assert trusted("a")
            assert trusted("d.e")
        assert not trusted("d")
    assert not trusted("a")
    with (
        pytest.raises(ValueError, match="names of packages, such as my_package, got 'a/b'"),
        granting(["a/b"]),
    ):
        pass


def test_a_checkpoint_of_a_fit_is_plain(tmp_path):
    fit = fit_trainer(tmp_path)
    fit.strategy.connect(DeepLabExplainer(planted.explanandum(), **DEEPLAB))
    fit.save_checkpoint(tmp_path / "x.ckpt")
    assert read_checkpoint(tmp_path / "x.ckpt")["class_path"].endswith("DeepLabExplainer")
