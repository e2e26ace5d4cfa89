"""Training: exact resumption, unlabelled images, a classifier that stays frozen."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from datamodules.shapes import Shapes
from explainers import Explanandum
from explainers.methods.ra_nem import RaNEM
from explainers.methods.rtis import RTIS
from tests import planted
from tests.support import fit_trainer, untrained_classifier

SMALL = {
    "network": {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]},
    "optimizer": {"lr": 1e-3},
}


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
    fit_trainer(tmp_path, max_steps=6).fit(whole, data())

    first = start()
    keep = ModelCheckpoint(
        dirpath=tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}"
    )
    stop = fit_trainer(
        tmp_path, max_steps=6, enable_checkpointing=True, callbacks=[keep, StopAfter(3)]
    )
    stop.fit(first, data())
    torch.manual_seed(12345)  # another process has another global state
    second = cls(planted.explanandum(), **arguments)
    keep = ModelCheckpoint(
        dirpath=tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}"
    )
    resumed = fit_trainer(tmp_path, max_steps=6, enable_checkpointing=True, callbacks=[keep])
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


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (Recorded, SMALL),
        (RecordedRaNEM, {"network": {"widths": [8] * 4}, "start": "pyramid_cam"}),
    ],
)
def test_half_precision_trains_on_nearly_the_same_losses(tmp_path, cls, arguments, precision):
    losses = []
    for each in ("32-true", precision):
        torch.manual_seed(0)
        method = cls(planted.explanandum(), **arguments)
        images, targets = planted.scenes(8)
        samples = [{"image": i, "target": t} for i, t in zip(images, targets, strict=True)]
        # Lightning validates in inference mode, where a start takes gradients all the same.
        trainer = fit_trainer(tmp_path, precision=each)
        trainer.fit(method, *[DataLoader(samples, batch_size=4)] * 2)
        losses.append(method.losses)
    assert losses[1] == pytest.approx(losses[0], rel=0.02, abs=0.005)


def test_images_of_another_range_are_refused_at_the_first_step():
    explainer = RTIS(planted.explanandum(), **SMALL)
    images, targets = planted.scenes(4)
    with pytest.raises(ValueError, match="images / 255"):
        explainer.validation_step({"image": 255 * images, "target": targets}, 0)


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


def test_batch_norm_of_the_classifier_sleeps_through_a_fit(tmp_path):
    explainer = RTIS(Explanandum(untrained_classifier(tmp_path)), **SMALL)
    before = {name: value.clone() for name, value in explainer.explanandum.state_dict().items()}
    fit_trainer(tmp_path).fit(
        explainer, Shapes(image_size=[32, 32], batch_size=4, train_images=8, val_images=4)
    )
    for name, value in explainer.explanandum.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
