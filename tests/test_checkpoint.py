"""Checkpoints: one is enough to load, old ones too, and each tells which classifier it explains."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

import explainers
from datamodules.shapes import Shapes
from explainers import Explanandum
from explainers.checkpoint import (
    check_resumable,
    explainer_class,
    explains,
    export,
    load_beside,
    model_config,
    restore,
)
from explainers.explanandum.weights import fingerprint
from explainers.methods.constant import CentredGaussian
from explainers.methods.deeplab import DeepLabExplainer
from explainers.methods.rtis import RTIS
from explainers.reading import read_checkpoint, read_explainer
from tests import planted
from tests.support import fit_trainer, save, untrained_classifier

SMALL = {
    "network": {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]},
    "optimizer": {"lr": 1e-3},
}
# One of each learned class, written by the last version whose options were flat arguments.
OLD = sorted(Path("tests/old_checkpoints").glob("*.ckpt"))


@pytest.fixture(scope="module")
def classifier_file(tmp_path_factory):
    return Path(untrained_classifier(tmp_path_factory.mktemp("classifier")))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_old_checkpoints_give_the_maps_they_gave(path):
    explainer = explainers.load(path)
    maps = explainer.attribute(*planted.scenes(2, seed=9)).detach()
    expected = torch.from_numpy(np.load("tests/old_checkpoints/maps.npz")[path.stem])
    # Equal to the bit on one machine; elsewhere sums of float32 may be taken in another order.
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_flat_arguments_of_old_checkpoints_are_options_today():
    deeplab = explainers.load("tests/old_checkpoints/deeplab.ckpt").hparams
    assert deeplab["network"]["decoder_channels"] == 8
    assert deeplab["network"]["atrous_rates"] == [1, 2, 3]
    assert deeplab["optimizer"]["schedule"] == "cosine"
    ra_nem = explainers.load("tests/old_checkpoints/ra_nem.ckpt").hparams
    assert ra_nem["selection"] == {
        "sampling": "uniform",
        "draw": "batch",
        "shared_noise": True,
        "threshold": "next",
    }
    assert ra_nem["optimizer"] == {
        "name": "adamw",
        "lr": 2e-3,
        "weight_decay": 1e-3,
        "schedule": "annealing",
        "anneal_epochs": 7,
    }
    assert ra_nem["network"] == {"block": "separable", "widths": [4] * 5, "dropout": 0.1}


def test_a_checkpoint_alone_is_enough(tmp_path, classifier_file, monkeypatch):
    own = tmp_path / "classifier.ckpt"
    own.write_bytes(classifier_file.read_bytes())
    explainer = DeepLabExplainer(Explanandum(str(own)), **SMALL)
    fit = fit_trainer(tmp_path)
    fit.fit(explainer, Shapes(image_size=[32, 32], batch_size=4, train_images=8, val_images=4))
    fit.save_checkpoint(tmp_path / "explainer.ckpt")
    own.unlink()
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("no network"))
    loaded = DeepLabExplainer.load_from_checkpoint(str(tmp_path / "explainer.ckpt"))
    generic = explainers.load(str(tmp_path / "explainer.ckpt"))
    images, targets = torch.rand(2, 3, 32, 32), torch.eye(6)[:2].bool()
    with torch.no_grad():
        expected = explainer.eval().attribute(images, targets)
        torch.testing.assert_close(loaded.eval().attribute(images, targets), expected)
        torch.testing.assert_close(generic.attribute(images, targets), expected)
        torch.testing.assert_close(loaded.explanandum(images), explainer.explanandum(images))
    assert loaded.explanandum.class_names == list("abcdef")
    assert loaded.explanandum.multi_label
    assert loaded.hparams["optimizer"]["lr"] == 1e-3


def test_the_explanandums_weights_may_be_left_out(tmp_path, classifier_file):
    frozen = Explanandum(str(classifier_file), in_checkpoint=False)
    explainer = RTIS(frozen, **SMALL)
    path = save(explainer, tmp_path / "explainer.ckpt")
    stored = torch.load(path, weights_only=True)
    assert not any(name.startswith("explanandum.") for name in stored["state_dict"])
    assert str(classifier_file) not in repr(stored)
    with pytest.raises(ValueError, match=r"does not hold the weights of its classifier, test_resn"):
        RTIS.load_from_checkpoint(path)
    passed = RTIS.load_from_checkpoint(path, explanandum=frozen)
    assert passed.explanandum is frozen
    other = Explanandum(str(classifier_file), in_checkpoint=False)
    next(other.parameters()).data[0] += 1e-6
    for load in (RTIS.load_from_checkpoint, explainers.load):
        with pytest.raises(ValueError, match="explains another classifier"):
            load(path, explanandum=other)
    assert explains(read_explainer(path, ["explanandum"]), frozen)
    assert not explains(read_explainer(path, ["explanandum"]), other)


def test_an_own_module_must_be_passed_again(tmp_path):
    module = planted.PlantedCNN()
    explainer = RTIS(Explanandum(module), **SMALL)
    save(explainer, tmp_path / "explainer.ckpt")
    with pytest.raises(ValueError, match="explanandum=Explanandum"):
        RTIS.load_from_checkpoint(str(tmp_path / "explainer.ckpt"))
    loaded = RTIS.load_from_checkpoint(
        str(tmp_path / "explainer.ckpt"), explanandum=Explanandum(module)
    )
    torch.testing.assert_close(loaded.network.state_dict(), explainer.network.state_dict())


def test_load_names_a_missing_or_foreign_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        explainers.load(str(tmp_path / "none.ckpt"))
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of an explainer"):
        explainers.load(str(tmp_path / "foreign.ckpt"))


def test_a_file_is_read_once(tmp_path, monkeypatch):
    path = save(CentredGaussian(planted.explanandum()), tmp_path / "explainer.ckpt")
    reads = []
    monkeypatch.setattr(
        torch, "load", lambda *a, own=torch.load, **k: reads.append(a) or own(*a, **k)
    )
    explainers.load(path)
    assert len(reads) == 1


def test_the_same_classifier_is_recognised_by_weights_and_settings(tmp_path):
    path = save(CentredGaussian(planted.explanandum(), sigma=0.2), tmp_path / "explainer.ckpt")
    own = planted.explanandum()
    beside = load_beside(own, path)
    assert beside.explanandum is own
    assert beside.sigma == 0.2
    checkpoint = read_explainer(path)
    other = planted.explanandum()
    other.model.stem.weight += 1e-3
    assert not explains(checkpoint, other)
    assert not explains(checkpoint, planted.explanandum(multi_label=True))
    other = planted.explanandum()
    other.mean = other.mean + 0.5
    assert not explains(checkpoint, other)
    with pytest.raises(ValueError, match="explains another classifier"):
        load_beside(other, path)


def test_a_class_that_is_no_explainer_is_refused():
    assert explainer_class("explainers.methods.rtis.RTIS") is RTIS
    for path in ("explainers.files.find", "torch.nn.Linear", "explainers.methods.rtis.Nothing"):
        with pytest.raises(ValueError, match="is no Explainer"):
            explainer_class(path)


def test_a_configuration_rebuilds_the_explainer(tmp_path):
    path = save(CentredGaussian(planted.explanandum(), sigma=0.2), tmp_path / "explainer.ckpt")
    _, config = model_config(path, {})
    assert config["class_path"] == "explainers.methods.constant.CentredGaussian"
    assert config["init_args"]["sigma"] == 0.2
    assert config["init_args"]["explanandum"]["init_args"]["model"] == "tests.planted:PlantedCNN"


def test_a_classifier_that_is_given_takes_the_place_of_the_stored_one(tmp_path):
    path = save(CentredGaussian(planted.explanandum()), tmp_path / "explainer.ckpt")
    given = {"init_args": {"explanandum": {"init_args": {"model": "mine:net"}}}}
    checkpoint, config = model_config(path, given)
    inner = config["init_args"]["explanandum"]["init_args"]
    assert not {"model", "model_args", "weights", "pretrained"} & inner.keys()
    assert inner["mean"] == planted.explanandum().config["mean"]
    own = CentredGaussian(planted.explanandum())
    restore(own, checkpoint, path, compare=True)
    own.explanandum.model.stem.weight.data += 1
    with pytest.raises(ValueError, match="explains another classifier than the one that is given"):
        restore(own, checkpoint, path, compare=True)
    restore(own, checkpoint, path, compare=False)  # built from the file, without its weights
    assert explains(checkpoint, own.explanandum)


def test_a_fit_resumes_from_a_checkpoint_of_its_own_kind_alone(tmp_path):
    path = save(CentredGaussian(planted.explanandum()), tmp_path / "weights.ckpt")
    with pytest.raises(ValueError, match="weights without the state of their training"):
        check_resumable(path, CentredGaussian)
    with pytest.raises(ValueError, match=r"is a checkpoint of .*CentredGaussian, not of .*RTIS"):
        check_resumable(path, RTIS)
    with pytest.raises(FileNotFoundError):
        check_resumable(str(tmp_path / "none.ckpt"), RTIS)


@pytest.mark.parametrize(
    "file", ["{}/../../victim", "memory://victim", "~/x", "file:/x", "zip::/x"]
)
def test_a_checkpoint_cannot_have_files_deleted_elsewhere(tmp_path, file):
    fit = fit_trainer(tmp_path, enable_checkpointing=True)
    fit.strategy.connect(CentredGaussian(planted.explanandum()))
    fit.save_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    check_resumable(str(tmp_path / "x.ckpt"), CentredGaussian)
    (state,) = content["callbacks"].values()
    state["best_k_models"] = {file.format(tmp_path): torch.zeros(())}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="among its files, which leads out of its folder"):
        check_resumable(str(tmp_path / "x.ckpt"), CentredGaussian)


def test_a_fingerprint_changes_with_the_weights_it_is_of():
    first, second = planted.explanandum(), planted.explanandum()
    assert fingerprint(first) == fingerprint(second)
    second.model.stem.weight[0, 0] += 1e-6
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first, leave_out="model.stem") == fingerprint(second, leave_out="model.stem")


def test_an_export_holds_what_explaining_needs_and_no_more(tmp_path, classifier_file):
    explainer = RTIS(Explanandum(str(classifier_file)), **SMALL)
    fit = fit_trainer(tmp_path, callbacks=[EMAWeightAveraging(decay=0.5)])
    fit.fit(explainer, Shapes(image_size=[32, 32], batch_size=4, train_images=8, val_images=4))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    export(str(tmp_path / "last.ckpt"), str(tmp_path / "own" / "whole.ckpt"))
    export(str(tmp_path / "last.ckpt"), str(tmp_path / "part.ckpt"), classifier=False)
    last, whole = (explainers.load(tmp_path / name) for name in ("last.ckpt", "own/whole.ckpt"))
    part = explainers.load(tmp_path / "part.ckpt", explanandum=last.explanandum)
    images, targets = torch.rand(2, 3, 32, 32), torch.eye(6)[:2].bool()
    with torch.no_grad():
        for exported in (whole, part):
            assert torch.equal(exported.attribute(images, targets), last.attribute(images, targets))
    assert whole.cost == part.cost == last.cost
    own = sum(value.nbytes for value in last.network.state_dict().values())
    assert own < (tmp_path / "part.ckpt").stat().st_size < own + 2**17
    for out in ("part.ckpt", "model.pt"):
        with pytest.raises(ValueError, match=r"out is a new file whose name ends with \.ckpt"):
            export(str(tmp_path / "last.ckpt"), str(tmp_path / out))


def test_a_moving_average_explains_the_same_classifier(tmp_path, classifier_file):
    explainer = RTIS(Explanandum(str(classifier_file)), **SMALL)
    fit = fit_trainer(tmp_path, max_steps=4, callbacks=[EMAWeightAveraging(decay=0.98)])
    fit.fit(explainer, Shapes(image_size=[32, 32], batch_size=4, train_images=16, val_images=4))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint, same = read_checkpoint(tmp_path / "last.ckpt"), Explanandum(str(classifier_file))
    for name, value in same.state_dict().items():  # which the callback itself rounds
        assert torch.equal(checkpoint["state_dict"][f"explanandum.{name}"], value)
        assert torch.equal(explainer.explanandum.state_dict()[name], value)
    value = next(value for value in same.state_dict().values() if value.is_floating_point())
    value[(0,) * value.ndim] += (
        5e-6 * value.abs().max()
    )  # files of earlier versions hold rounded weights
    assert explains(checkpoint, same)
    value[(0,) * value.ndim] += 3e-5 * value.abs().max()
    assert not explains(checkpoint, same)
    export(str(tmp_path / "last.ckpt"), str(tmp_path / "part.ckpt"), classifier=False)
    explainers.load(tmp_path / "part.ckpt", explanandum=Explanandum(str(classifier_file)))


def test_a_moving_average_leaves_the_explanandum_out_as_well(tmp_path, classifier_file):
    data = Shapes(image_size=[32, 32], batch_size=4, train_images=16, val_images=4)
    folder = tmp_path / "fit"

    def fit(path=None):
        torch.manual_seed(0)
        explainer = RTIS(Explanandum(str(classifier_file), in_checkpoint=False), **SMALL)
        saves = ModelCheckpoint(folder, "{step}", every_n_train_steps=2, save_top_k=-1)
        callbacks = [EMAWeightAveraging(decay=0.5), saves]
        trainer = fit_trainer(tmp_path, max_steps=4, callbacks=callbacks, enable_checkpointing=True)
        trainer.fit(explainer, data, ckpt_path=path)
        return torch.load(folder / "step=4.ckpt", weights_only=True)

    whole = fit()
    half = (folder / "step=2.ckpt").rename(tmp_path / "half.ckpt")
    (folder / "step=4.ckpt").unlink()
    resumed = fit(str(half))
    for key in ("state_dict", "current_model_state"):
        assert not any(name.startswith("explanandum.") for name in whole[key])
        torch.testing.assert_close(resumed[key], whole[key], rtol=0, atol=0)
    first = next(iter(whole["state_dict"]))
    assert not torch.equal(whole["state_dict"][first], whole["current_model_state"][first])
