"""Numbers that are not finite stop a fit before they reach its weights or a checkpoint."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from explainers.explanandum.classifier import Classifier
from explainers.finite import NotFiniteError, StayFinite, check_weights
from explainers.methods.rtis import RTIS
from tests import planted
from tests.support import fit_trainer

SMALL = {
    "network": {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]}
}


class Spoiled(LightningModule):
    """Its weight follows the planned losses: the number of a step -> what its loss is."""

    def __init__(self, plan, validation=()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.plan, self.validation = plan, dict(enumerate(validation))

    def training_step(self, batch, batch_idx):
        loss = self.weight.sum()
        return self.plan.get(batch_idx, lambda loss, weight: loss)(loss, self.weight)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.validation.get(self.current_epoch, torch.tensor(1.0)))

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.25)

    def configure_callbacks(self):
        return [StayFinite()]

    def on_save_checkpoint(self, checkpoint):
        check_weights(self)


def infinite(loss, weight):
    return loss * float("inf")


def infinite_gradient(loss, weight):
    return (weight.sum() * 0).sqrt()


def fit(tmp_path, module, **arguments):
    keep = ModelCheckpoint(
        dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}"
    )
    trainer = fit_trainer(
        tmp_path,
        **{"callbacks": [keep], "enable_checkpointing": True, "max_epochs": 1, "max_steps": -1}
        | arguments,
    )
    trainer.fit(module, DataLoader(torch.zeros(5, 1)), DataLoader(torch.zeros(1, 1)))


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (infinite, "the loss is not finite: loss is inf"),
        (infinite_gradient, "the gradients are not finite: weight"),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_fit_stops_before_the_weights_are_spoiled(tmp_path, spoil, told, accumulate):
    module = Spoiled({2: spoil})
    with pytest.raises(NotFiniteError) as error:
        fit(tmp_path, module, accumulate_grad_batches=accumulate)
    steps = 2 // accumulate
    last = tmp_path / f"step={steps}.ckpt"
    assert str(error.value) == (
        f"{told} after {steps} steps, with the learning rate 0.25; the last good checkpoint is "
        f"{last}; start again with a lower model.init_args.optimizer.lr, or go on from it with "
        f"--ckpt_path {last} --trainer.gradient_clip_val 1"
    )
    assert module.weight.tolist() == [1 - 0.25 * steps] * 2
    assert len(list(tmp_path.glob("*.ckpt"))) == steps
    saved = torch.load(last, weights_only=True)["state_dict"]["weight"]
    assert saved.tolist() == module.weight.tolist()


def test_without_a_checkpoint_the_advice_is_another(tmp_path):
    with pytest.raises(NotFiniteError, match=r"after 0 steps.*no checkpoint was saved so far"):
        fit(tmp_path, Spoiled({0: infinite}))


@pytest.mark.parametrize("weights_only", [False, True])
def test_weights_that_a_step_makes_infinite_are_not_saved(tmp_path, weights_only):
    """Finite gradients times a learning rate overflow."""
    module = Spoiled({1: lambda loss, weight: (weight - weight.detach()).sum() * 3e38})
    module.configure_optimizers = lambda: torch.optim.SGD([module.weight], lr=4.0)
    keep = ModelCheckpoint(
        dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, save_weights_only=weights_only
    )
    with pytest.raises(NotFiniteError, match=r"weights are not finite \(weight\), so no check"):
        fit(tmp_path, module, callbacks=[keep])
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["epoch=0-step=1.ckpt"]


def test_large_gradients_are_finite(tmp_path):
    module = Spoiled({1: lambda loss, weight: loss * 1e30})  # its square is not
    fit(tmp_path, module)
    assert module.weight.isfinite().all()


@pytest.mark.parametrize("values", [[1.0, float("nan"), 2.0], [float("nan"), 2.0, 1.0]])
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_validation_loss_that_is_nan_is_told_and_never_best(tmp_path, values):
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val/loss", filename="{epoch}")
    module = Spoiled({}, map(torch.tensor, values))
    steps = 5 * (1 + [value != value for value in values].index(True))
    with pytest.warns(UserWarning, match=f"val/loss is nan after {steps} steps; the fit goes on"):
        fit(tmp_path, module, callbacks=[best], max_epochs=3)
    assert best.best_model_path == str(tmp_path / f"epoch={values.index(1.0)}.ckpt")


def test_a_term_of_an_explainer_is_named(tmp_path):
    explainer = RTIS(planted.explanandum(), **SMALL)
    terms = explainer.loss_terms
    explainer.loss_terms = lambda *given: {
        name: term / 0 if i == 1 else term for i, (name, term) in enumerate(terms(*given).items())
    }
    images, targets = planted.scenes(4)
    before = {name: weight.clone() for name, weight in explainer.network.named_parameters()}
    name = list(terms({"image": images, "target": targets}, torch.Generator()))[1]
    samples = [{"image": i, "target": t} for i, t in zip(images, targets, strict=True)]
    with pytest.raises(NotFiniteError, match=f"the loss is not finite: {name} is (inf|nan) after"):
        fit_trainer(tmp_path, limit_val_batches=0).fit(
            explainer, *[DataLoader(samples, batch_size=4)] * 2
        )
    for name, weight in explainer.network.named_parameters():
        assert torch.equal(weight, before[name])


def test_a_classifier_stops_too(tmp_path):
    network = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2)
    )
    classifier = Classifier(network, 2, mean=[0.0] * 3, std=[1.0] * 3)
    classifier.loss = lambda logits, targets: logits.sum() * float("nan")
    samples = [{"image": torch.rand(3, 8, 8), "target": torch.tensor([True, False])}] * 4
    with pytest.raises(NotFiniteError, match="the loss is not finite: loss is nan after 0 steps"):
        fit_trainer(tmp_path, limit_val_batches=0).fit(
            classifier, *[DataLoader(samples, batch_size=2)] * 2
        )
    assert all(weight.isfinite().all() for weight in classifier.parameters())
    network[2].weight.data[0, 0] = float("inf")
    with pytest.raises(NotFiniteError, match=r"network\.2\.weight"):
        classifier.on_save_checkpoint({"state_dict": classifier.state_dict()})
