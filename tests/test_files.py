"""Reading files as plain data, under today's names, from where they are or from the package."""

import pickle
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from explainers import files, reading
from explainers.explanandum.build import build


def test_moved_modules_are_renamed_wherever_they_are_named():
    old = {
        "model": {
            "class_path": "explainers.classifier.Classifier",
            "init_args": {"num_classes": 2},
        },
        "callbacks": [{"class_path": "explainers.callbacks.wandb.OfflineFirstWandbLogger"}],
        "explanandum": "explainers.photos:efficientnet_lite0",
        "words": "explainers.photos is a module",
        "count": 3,
    }
    assert files.renew(old) == {
        "model": {
            "class_path": "explainers.explanandum.classifier.Classifier",
            "init_args": {"num_classes": 2},
        },
        "callbacks": [{"class_path": "explainers.callbacks.loggers.OfflineFirstWandbLogger"}],
        "explanandum": "explainers.explanandum.lite0:efficientnet_lite0",
        "words": "explainers.photos is a module",
        "count": 3,
    }


def renewed(class_path, **arguments):
    return files.renew({"class_path": class_path, "init_args": arguments})["init_args"]


def test_flat_arguments_become_options():
    sloc = "explainers.methods.sloc.SLOC"
    assert renewed(sloc, masks=10, solver="adam", steps=5, sides=[8]) == {
        "masks": 10,
        "solver": {"name": "adam", "steps": 5},
        "patches": {"sides": [8]},
    }
    today = {"solver": {"name": "adam"}, "patches": {"sides": 8}}
    assert renewed(sloc, **today) == today
    assert renewed(sloc, solver={"name": "adam"}, steps=5) == {
        "solver": {"name": "adam", "steps": 5}
    }
    assert renewed("explainers.methods.nem_u.NEMU", optimizer="adamw", lr=0.1, widths=None) == {
        "optimizer": {"name": "adamw", "lr": 0.1},
        "network": {"widths": None},
    }
    assert renewed("somebody.Else", lr=0.1) == {"lr": 0.1}


def test_every_old_argument_is_an_option_of_its_group():
    from typing import get_args, get_type_hints, is_typeddict

    from explainers.messages.near import find_class

    for class_path, groups in files.GROUPED.items():
        hints = get_type_hints(find_class(class_path).__init__)
        for group, names in groups.items():
            kinds = [kind for kind in get_args(hints[group]) if is_typeddict(kind)]
            renamed = {"name" if name == group else name for name in names}
            assert renamed <= set(get_type_hints(kinds[0])), (class_path, group)


@pytest.mark.parametrize("home", ["explainers", "."])  # of an installation, of a checkout
def test_a_file_that_is_not_here_is_looked_for_in_the_package(tmp_path, monkeypatch, capsys, home):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "explainers")
    packed = tmp_path / home / "configs" / "methods" / "rise.yaml"
    packed.parent.mkdir(parents=True)
    packed.write_text("model: {}")
    assert Path(files.find("configs/methods/rise.yaml")).samefile(packed)
    assert "configs/methods/rise.yaml is not here" in capsys.readouterr().err
    assert files.find("configs/methods/none.yaml") == "configs/methods/none.yaml"
    assert files.find("other/methods/rise.yaml") == "other/methods/rise.yaml"
    own = Path("configs/methods/rise.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("model: {}")
    assert files.find("configs/methods/rise.yaml") == "configs/methods/rise.yaml"
    assert capsys.readouterr().err == ""


def test_state_dicts_are_read_in_every_format(tmp_path):
    state = build("test_vit", num_classes=2).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "c.pt")
    for name in ("a.safetensors", "b.pth", "c.pt"):
        read = files.read_state(str(tmp_path / name))
        torch.testing.assert_close(read, dict(state), rtol=0, atol=0)
    with pytest.raises(FileNotFoundError, match="working directory"):
        files.read_state(str(tmp_path / "none.pth"))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for name in ("text", "list"):
        with pytest.raises(ValueError, match=f"{name}.ckpt is not a checkpoint"):
            reading.read_checkpoint(tmp_path / f"{name}.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of an explainer"):
        reading.read_explainer(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of our Classifier"):
        reading.read_classifier(str(tmp_path / "other.ckpt"))
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        reading.read_checkpoint(tmp_path / "none.ckpt")


def spoiled(folder):
    """Files that are no weights, by what is said of them."""
    torch.save({"weight": torch.zeros(1000)}, folder / "whole.pth")
    whole = (folder / "whole.pth").read_bytes()
    torch.save({"weight": torch.zeros(9)}, folder / "old.pth", _use_new_zipfile_serialization=False)
    old = (folder / "old.pth").read_bytes()
    save_file({"weight": torch.zeros(1000)}, folder / "whole.safetensors")
    tensors = (folder / "whole.safetensors").read_bytes()
    objects = {"weight": torch.zeros(1), "best": Fraction(1, 2)}
    torch.save(objects, folder / "objects.pth")
    torch.save(torch.nn.Linear(1, 1), folder / "module.pth")
    return {
        "it is empty": [b""],
        "it is incomplete: copy or download it": [whole[:600], old[: len(old) // 2], tensors[:900]],
        "it is a Git LFS pointer instead of the file": [b"version https://git-lfs.github.com/spec"],
        "it is a web page": [b"<!DOCTYPE html>", b"\n<html>"],
        "it is no file of torch": [b"some text", b"\x89HDF\r\n" + bytes(99), bytes(200)],
        r"it holds Python objects \(fractions.Fraction\), which are never loaded: save the w": [
            (folder / "objects.pth").read_bytes()
        ],
        r"it holds Python objects \(torch.nn.*Linear\), which": [
            (folder / "module.pth").read_bytes()
        ],
        "it holds Python objects": [pickle.dumps(Fraction(1, 2))],
    }


@pytest.mark.parametrize("ending", ["pth", "safetensors", "bin", "ckpt"])
def test_what_holds_no_weights_is_told_in_one_line(tmp_path, ending):
    for told, contents in spoiled(tmp_path).items():
        for content in contents:
            path = tmp_path / f"x.{ending}"
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"x.{ending} is no file of weights: {told}") as e:
                files.read_states(str(path))
            assert "\n" not in str(e.value)
            assert "weights_only" not in str(e.value)
            with pytest.raises(ValueError, match=f"x.{ending} is not a checkpoint: {told}"):
                reading.read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_program_is_told(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"it is a TorchScript program: save .*state_dict\(\)"):
        files.read_states(str(tmp_path / "x.pt"))


def test_the_content_counts_not_the_ending(tmp_path):
    state = {"a": torch.ones(2)}
    save_file(state, tmp_path / "x.pth")
    torch.save(state, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        assert torch.equal(files.read_states(str(tmp_path / name))[""]["a"], state["a"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1, 2], "expected a state dict, got <class 'list'>"),
        ({}, r"got a dict of \[\]"),
        ({"state": {0: {"exp_avg": torch.zeros(1)}}}, r"got a dict of \['state'\]"),
        (torch.zeros(2), "got <class 'torch.Tensor'>"),
    ],
)
def test_plain_data_without_weights_are_told(tmp_path, content, told):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=told):
        files.read_states(str(tmp_path / "x.pth"))


def test_several_state_dicts_are_not_one(tmp_path):
    state = {"a": torch.ones(2)}
    torch.save({"model": state, "ema": state}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds several state dicts: model, ema"):
        files.read_state(str(tmp_path / "x.pth"))
