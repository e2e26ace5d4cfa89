import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from explainers.callbacks.validation import ValidationFaithfulness
from explainers.methods.cam import PyramidCAM
from explainers.methods.ra_nem import RaNEM
from explainers.metrics.faithfulness import RISECurves
from tests import planted
from tests.support import fit_trainer


class Unlabelled(LightningDataModule):
    """Twelve training scenes and ten others, without labels."""

    def train_dataloader(self):
        return DataLoader([{"image": i} for i in planted.scenes(12)[0]], batch_size=4)

    def val_dataloader(self):
        return DataLoader([{"image": i} for i in planted.scenes(10, seed=7)[0]], batch_size=4)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_it_is_the_faithfulness_of_the_first_images_and_chooses_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    method = RaNEM(planted.explanandum(), samples=2, network={"widths": [8] * 4})
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val/Faithfulness", mode="max")
    callbacks = [ValidationFaithfulness(images=6, steps=5), best]
    fit = fit_trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, max_steps=6)
    fit.fit(method, Unlabelled())
    images, targets = planted.scenes(10, seed=7)
    images, targets = images[:6], targets[:6]
    with torch.no_grad():
        maps = method.eval().attribute(images, targets)
    score = RISECurves(steps=5).score(images, maps, targets, method.explanandum)
    logged = fit.callback_metrics["val/Faithfulness"].item()
    assert logged == pytest.approx(score["Faithfulness"].mean().item(), rel=1e-5)
    assert best.best_model_score.item() >= logged
    assert {"val/loss", "val/distance", "train/loss"} <= set(fit.callback_metrics)


class Inverted(RaNEM):
    """The map of PyramidCAM, or its opposite."""

    sign = 1.0

    def attribute(self, images, targets):
        return self.sign * PyramidCAM(self.explanandum).attribute(images, targets)


@pytest.mark.parametrize(
    ("sign", "noise", "words"),
    [(1.0, 0.0, "pyramid_cam instead"), (-1.0, 0.0, "pyramid_cam instead"), (1.0, 9.0, "worth")],
)
def test_the_end_says_whether_the_training_was_worth_it(tmp_path, monkeypatch, sign, noise, words):
    """Against maps that are as good, better, or worse."""
    torch.manual_seed(0)
    monkeypatch.setattr(Inverted, "sign", sign)
    if noise:
        generator = torch.Generator().manual_seed(0)
        monkeypatch.setattr(
            "explainers.callbacks.validation.pyramid_maps",
            lambda _, images, classes: torch.rand(
                (len(images), 1, *images.shape[-2:]), generator=generator
            ),
        )
    method = Inverted(planted.explanandum(), samples=2, network={"widths": [8] * 4})
    judge = ValidationFaithfulness(images=8, steps=5)
    fit_trainer(tmp_path, callbacks=[judge], max_steps=3).fit(method, Unlabelled())
    assert "Faithfulness on 8 validation images" in judge.verdict
    assert words in judge.verdict.rpartition(": ")[2]
    if sign == 1.0 and not noise:
        assert "(+0.000, p 1)" in judge.verdict


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="got 0 and 25"):
        ValidationFaithfulness(images=0)
