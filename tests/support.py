"""Planted scenes as a data module, a method that finds the truth, quiet trainers, a classifier."""

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from explainers import Explainer
from explainers.explanandum.classifier import Classifier
from explainers.functional.masking import merge
from explainers.metrics.base import PerImageMetric
from tests import planted

SIZE = (8, 8)


class Scenes(LightningDataModule):
    """Images with one bright quadrant, or with two for those in `two`; masks are quadrants."""

    def __init__(self, count=5, batch_size=2, leave_out=(), two=(), limit=None):
        super().__init__()
        images, targets = planted.scenes(count, SIZE)
        for i in two:
            targets[i] |= targets[i].roll(1)
            images[i] += 0.5 * planted.quadrant_masks(*SIZE)[targets[i]].sum(0)
        masks = planted.quadrant_masks(*SIZE).bool() & targets[:, :, None, None]
        void = torch.zeros(count, *SIZE, dtype=torch.bool)
        void[:, 0] = True
        self.batch_size = batch_size
        self.samples = [
            {
                key: value
                for key, value in {
                    "image": images[i].clamp(0, 1),
                    "target": targets[i],
                    "mask": masks[i],
                    "void": void[i],
                    "name": f"folder/{i}.jpg",
                    "index": 10 + i,
                }.items()
                if key not in leave_out
            }
            for i in range(count)
        ][:limit]

    def _loader(self):
        return DataLoader(self.samples, batch_size=self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = _loader


class Truth(Explainer):
    """The targets' quadrants as maps of 0 and 3: right in order, but no masks."""

    calls = 0

    def __init__(self, explanandum, seed=0):
        super().__init__(explanandum, seed)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def attribute(self, images, targets):
        type(self).calls += len(images)
        quadrants = planted.quadrant_masks(*images.shape[-2:]).to(images)
        return 3 * merge(quadrants.expand(len(images), -1, -1, -1), targets)

    def class_maps(self, images, classes):
        return 3 * planted.quadrant_masks(*images.shape[-2:]).to(images)[classes]

    def training_step(self, batch, batch_idx):
        return self.weight**2

    def validation_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.1)


class Gradient(Explainer):
    """What a user writes: it knows of no mode, dtype or device, and spoils its inputs."""

    needs_gradients = True

    def attribute(self, images, targets):
        images.requires_grad_()
        score = (self.explanandum(images) * targets).sum()
        (gradient,) = torch.autograd.grad(score, images)
        maps = (gradient * images).sum(dim=1)
        with torch.no_grad():
            images.zero_()
            targets.logical_not_()
        return maps


class Mass(PerImageMetric):
    """Share of the map in the class's quadrant, class by class."""

    names = ("Mass",)
    needs = ("maps", "targets", "images")
    per_class = True

    def score(self, maps, targets, images):
        assert targets.sum(1).tolist() == [1] * len(maps) == [1] * len(images)
        quadrants = planted.quadrant_masks(*maps.shape[-2:])[targets.int().argmax(1)]
        return {"Mass": (maps * quadrants).sum((1, 2)) / maps.sum((1, 2))}


def trainer(tmp_path, *callbacks, **changes):
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "inference_mode": False,
        "default_root_dir": tmp_path,
    }
    return Trainer(callbacks=list(callbacks), **{**quiet, **defaults, **changes})


def fit_trainer(tmp_path, **changes):
    """A quiet trainer of two steps, without checkpoints."""
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    defaults = {"default_root_dir": tmp_path, "enable_checkpointing": False, "max_steps": 2}
    return Trainer(**quiet | defaults | changes)


def save(module, path):
    """The checkpoint of a module that has not been trained."""
    fit = fit_trainer(path.parent)
    fit.strategy.connect(module)
    fit.save_checkpoint(path, weights_only=True)
    return str(path)


def untrained_classifier(folder):
    """The checkpoint of a Shapes classifier."""
    torch.manual_seed(0)
    model = Classifier("test_resnet", 6, multi_label=True, class_names=list("abcdef"))
    return save(model, folder / "classifier.ckpt")
