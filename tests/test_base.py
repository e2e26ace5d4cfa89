import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

import explainers
from datamodules.shapes import Shapes
from explainers import Explanandum
from explainers.explanandum.classifier import Classifier
from explainers.methods.deeplab import DeepLabExplainer
from explainers.methods.ra_nem import RaNEM
from explainers.methods.rtis import RTIS
from tests import planted

SMALL = {
    "network": {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]},
    "optimizer": {"lr": 1e-3},
}


class Scenes(LightningDataModule):
    """Eight planted scenes."""

    def train_dataloader(self):
        images, targets = planted.scenes(8)
        return DataLoader(
            [{"image": i, "target": t} for i, t in zip(images, targets, strict=True)], batch_size=4
        )


def trainer(tmp_path, **changes):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    defaults = {"default_root_dir": tmp_path, "enable_checkpointing": False, "max_steps": 2}
    return Trainer(**quiet | defaults | changes)


@pytest.fixture(scope="module")
def classifier_file(tmp_path_factory):
    """A checkpoint of an untrained Shapes classifier."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    model = Classifier("test_resnet", 6, multi_label=True, class_names=list("abcdef"))
    fit = trainer(folder)
    fit.strategy.connect(model)
    fit.save_checkpoint(folder / "classifier.ckpt", weights_only=True)
    return folder / "classifier.ckpt"


def test_a_checkpoint_alone_is_enough(tmp_path, classifier_file, monkeypatch):
    own = tmp_path / "classifier.ckpt"
    own.write_bytes(classifier_file.read_bytes())
    explainer = DeepLabExplainer(Explanandum(str(own)), **SMALL)
    fit = trainer(tmp_path)
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
    fit = trainer(tmp_path)
    fit.strategy.connect(explainer)
    fit.save_checkpoint(tmp_path / "explainer.ckpt")
    stored = torch.load(tmp_path / "explainer.ckpt", weights_only=True)["state_dict"]
    assert not any(name.startswith("explanandum.") for name in stored)
    loaded = RTIS.load_from_checkpoint(str(tmp_path / "explainer.ckpt"))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded.explanandum(images), frozen(images))
    passed = RTIS.load_from_checkpoint(str(tmp_path / "explainer.ckpt"), explanandum=frozen)
    assert passed.explanandum is frozen


def test_an_own_module_must_be_passed_again(tmp_path):
    module = planted.PlantedCNN()
    explainer = RTIS(Explanandum(module), **SMALL)
    fit = trainer(tmp_path)
    fit.strategy.connect(explainer)
    fit.save_checkpoint(tmp_path / "explainer.ckpt")
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


class Recorder:
    """Keeps the losses of a method."""

    def __init__(self, explanandum, **kwargs):
        super().__init__(explanandum, **kwargs)
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


class Recorded(Recorder, RTIS):
    """Draws noise, so that its random state matters."""


class RecordedRaNEM(Recorder, RaNEM):
    """Draws noise and k; its optimiser has a state of its own and anneals by epoch."""


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (Recorded, SMALL | {"optimizer": {"lr": 1e-3, "schedule": "cosine"}}),
        (RecordedRaNEM, {"network": {"widths": [8] * 4}}),
    ],
)
def test_an_interrupted_fit_continues_exactly(tmp_path, cls, arguments):
    """Six steps equal three, a checkpoint in the middle of an epoch, and three more."""

    def start():
        torch.manual_seed(0)
        return cls(planted.explanandum(), **arguments)

    def data():
        return Shapes4(
            image_size=[32, 32], batch_size=4, train_images=16, val_images=4, augment=True
        )

    whole = start()
    trainer(tmp_path, max_steps=6).fit(whole, data())

    first = start()
    keep = ModelCheckpoint(
        dirpath=tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}"
    )
    stop = trainer(tmp_path, max_steps=6, enable_checkpointing=True, callbacks=[keep, StopAfter(3)])
    stop.fit(first, data())
    torch.manual_seed(12345)  # another process has another global state
    second = cls(planted.explanandum(), **arguments)
    keep = ModelCheckpoint(
        dirpath=tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}"
    )
    resumed = trainer(tmp_path, max_steps=6, enable_checkpointing=True, callbacks=[keep])
    resumed.fit(second, data(), ckpt_path=str(tmp_path / "step=3.ckpt"))
    assert len(whole.losses) == 6
    assert first.losses[:3] + second.losses == whole.losses
    torch.testing.assert_close(
        whole.network.state_dict(), second.network.state_dict(), rtol=0, atol=0
    )


class StopAfter(Callback):
    """Stop as a killed run would: in the middle of an epoch."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.steps


class Shapes4(Shapes):
    """Shapes with four classes, for the planted classifiers."""

    class_names = planted.NAMES

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch | {"target": batch["target"][:, :4]}


def test_unlabelled_images_are_trained_on_the_predicted_classes():
    explainer = Recorded(planted.explanandum(), **SMALL)
    explainer.log_dict = explainer.log = lambda *args, **kwargs: None  # there is no trainer
    images = planted.scenes(4)[0]
    predicted = explainer.explanandum.predict(images)
    losses = [
        explainer._step(batch, "val", 0).item()
        for batch in ({"image": images}, {"image": images, "target": predicted})
    ]
    other = explainer._step({"image": images, "target": predicted.roll(1, 1)}, "val", 0).item()
    assert losses[0] == losses[1] != other


def test_batch_norm_of_the_classifier_sleeps_through_a_fit(tmp_path, classifier_file):
    explainer = RTIS(Explanandum(str(classifier_file)), **SMALL)
    before = {name: value.clone() for name, value in explainer.explanandum.state_dict().items()}
    trainer(tmp_path).fit(
        explainer, Shapes(image_size=[32, 32], batch_size=4, train_images=8, val_images=4)
    )
    for name, value in explainer.explanandum.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_test_run_without_score_says_so(tmp_path):
    explainer = RTIS(planted.explanandum(), **SMALL)
    with pytest.raises(ValueError, match="Score callback"):
        trainer(tmp_path).test(explainer, DataLoader([{"image": torch.rand(3, 8, 8)}]))
