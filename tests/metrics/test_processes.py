"""Every metric by one process, and by two that share the images: the same to the last bit."""

import importlib
import inspect
import json
import math
import multiprocessing
import os
import pkgutil
import socket
import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from explainers import Explainer, Explanandum, metrics
from explainers.callbacks.score import Score
from explainers.evaluation.scorefile import read
from explainers.evaluation.targets import take
from explainers.functional import masking
from explainers.metrics.base import PerImageMetric
from explainers.metrics.single_deletion import SingleDeletion
from tests import planted
from tests.support import trainer

COUNT, SIZE = 7, (32, 32)  # of two processes one sees an image that the other has seen


SETTINGS = {  # smaller than the defaults, or others beside them
    "AverageSensitivity": [{"draws": 2}],
    "BlurredMaps": [{"metric": SingleDeletion(name="Cells"), "sigma": 2.0}],
    "CompletenessSoundness": [{"points": 4}],
    "CurveAUC": [{"steps": 4, "fill": "noise", "fill_options": {"count": 2}}],
    "IROF": [{"segments": 6}],
    "Infidelity": [{"draws": 5}],
    "InformationCurves": [{"thresholds": [0.1, 0.4], "min_score": 0.3}],
    "MPRT": [{}, {"layers": "cascade", "subject": "explainer"}],
    "MapSimilarity": [{"seeds": [0, 1]}],
    "MuFidelity": [{"draws": 5}],
    "ROAD": [{"shares": [0.3, 0.7]}],
    "RISECurves": [{"pixels": 1, "draws": 5}],
    "RenderedParts": [],  # its renderings are made in test_rendered_parts
    "SLOCCurves": [{"steps": 5}],
}


def every_metric():
    """All metrics in `explainers.metrics`, by discovery."""
    found = {}
    for module in pkgutil.iter_modules(metrics.__path__, "explainers.metrics."):
        for name, cls in vars(importlib.import_module(module.name)).items():
            a_metric = inspect.isclass(cls) and issubclass(cls, PerImageMetric)
            if a_metric and not inspect.isabstract(cls) and name[0] != "_":
                found[name] = cls
    return [found[name](**s) for name in sorted(found) for s in SETTINGS.get(name, [{}])]


class Classifier(planted.PlantedCNN):
    """With a matrix product, whose last bits depend on how many images a batch has."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * SIZE[0] * SIZE[1], 4)
        wave(self.linear.parameters(), scale=0.02)

    def forward(self, images):
        return super().forward(images) + self.linear(images.flatten(1))


def wave(parameters, scale=1.0):
    with torch.no_grad():
        for weight in parameters:
            weight.copy_(scale * torch.arange(weight.numel()).sin().view_as(weight))


class Mixed(Explainer):
    """Depends on the image, the target, the seed, the classifier's weights and its own."""

    def __init__(self, explanandum, seed=0):
        super().__init__(explanandum, seed)
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        wave(self.network.parameters())

    @torch.enable_grad()
    def attribute(self, images, targets):
        leaf = images.detach().requires_grad_()
        logits = self.explanandum(leaf)
        (gradient,) = torch.autograd.grad(logits[targets].sum(), leaf)
        own = masking.merge(self.network(images).sigmoid(), targets)
        noise = torch.rand(images.shape[-2:], generator=self.generator())
        return ((leaf * gradient).sum(1) + own + 0.2 * noise.to(images)).detach()


class Spots(LightningDataModule):
    """Bright spots in one quadrant, in some images in two; parts are the halves of quadrants."""

    def test_dataloader(self):
        noise, targets = planted.scenes(COUNT, SIZE)
        targets[1::3] |= targets[1::3].roll(1, dims=1)
        masks = planted.quadrant_masks(*SIZE).bool() & targets[:, :, None, None]
        shown = torch.rand(COUNT, *SIZE, generator=torch.Generator().manual_seed(0)) < 0.2
        images = 0.2 + 0.1 * noise
        images += 0.6 * (masks.any(1) & shown)[:, None]
        # InformationCurves blurs from the corners: they point at the other quadrants.
        images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] = (~targets[:, None]).float()
        upper = torch.arange(SIZE[0])[:, None] % (SIZE[0] // 2) < SIZE[0] // 4
        halves = torch.stack([upper, ~upper]).expand(2, *SIZE)
        void = torch.zeros(SIZE, dtype=torch.bool)
        void[0] = True
        samples = [
            {
                "image": images[i], "target": targets[i], "mask": masks[i], "void": void,
                "parts": masks[i][:, None] & halves, "name": f"{i}.png", "index": 3 * i,
            }
            for i in range(COUNT)
        ]  # fmt: skip
        return DataLoader(samples, batch_size=2)


class Torchmetrics(Callback):
    """The metrics as objects, updated image by image; `compute` gathers from all processes."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.metrics = folder, every_metric()

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx):
        for row in range(len(batch["index"])):
            self._update(module, take(batch, [row]))

    def _update(self, module, batch):
        label = batch["target"].int().argmax(1)
        target = F.one_hot(label, 4).bool()
        for metric in self.metrics:
            metric.update(
                batch["index"], label, images=batch["image"], targets=target,
                maps=masking.minmax(module.attribute(batch["image"], target)),
                mask=masking.merge(batch["mask"].float(), target), void=batch["void"],
                labels=batch["target"], parts=batch["parts"], seconds=torch.ones(1),
                passes=torch.ones(1, 2), explanandum=module.explanandum, explainer=module,
            )  # fmt: skip

    def on_test_end(self, trainer, module):
        found = {
            "rows": len(self.metrics[0].index),
            "figures": [{k: v.item() for k, v in m.compute().items()} for m in self.metrics],
        }
        (self.folder / f"computed-{trainer.global_rank}.json").write_text(json.dumps(found))


def run(folder, **changes):
    folder.mkdir(exist_ok=True)
    score = Score(
        metrics=every_metric(), target="label", sanity=False, name="mixed",
        output_dir=str(folder), bootstrap=3, panels=0,
    )  # fmt: skip
    module = Mixed(Explanandum(Classifier(), mean=[0.0] * 3, std=[1.0] * 3))
    trainer(folder, score, Torchmetrics(folder), **changes).test(module, Spots(), verbose=False)


def work(rank, world, port, folder):
    torch.set_num_threads(1)  # a forked process must not use its parent's thread pool
    warnings.simplefilter("ignore")  # Lightning advises against several devices for tests
    os.environ |= {"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run(folder, strategy="ddp", devices=world)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_measure_what_one_does(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(one)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    shared = {"target": work, "daemon": True}
    workers = [context.Process(args=(rank, 2, port, two), **shared) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
        assert worker.exitcode == 0
    assert not list(two.glob("scores-*"))

    alone = read(one / "scores.csv")
    for ours, theirs in zip(read(two / "scores.csv"), alone, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    expected, found = (json.loads((folder / "summary.json").read_text()) for folder in (one, two))
    for summary in (expected, found):
        assert summary["methods"]["mixed"].pop("seconds")["n"] == COUNT
    assert found == expected
    figures = expected["methods"]["mixed"]
    assert {name for name, figure in figures.items() if figure["mean"] is None} == set()

    computed = json.loads((one / "computed-0.json").read_text())
    shares = [json.loads((two / f"computed-{rank}.json").read_text()) for rank in range(2)]
    assert computed["rows"] == COUNT
    assert sum(share["rows"] for share in shares) == COUNT + 1  # one image came twice
    assert all(share["figures"] == computed["figures"] for share in shares)
    assert all(math.isfinite(v) for figures in computed["figures"] for v in figures.values())
