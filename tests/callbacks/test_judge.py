"""The classifier's answers, and a run on the images that it predicts correctly."""

import json

import pytest
import torch
from lightning.pytorch import LightningModule

from datamodules.base import ImageDataModule
from datamodules.dataset import ImageSource
from datamodules.shapes import Shapes
from explainers.callbacks.judge import Judge, JudgeImages, data_title
from explainers.callbacks.score import Score
from explainers.methods.constant import Constant
from explainers.metrics.seconds import Seconds
from tests import planted
from tests.support import trainer


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The user's cache folder, in a temporary folder."""
    monkeypatch.setenv("LEARNED_EXPLAINERS_CACHE", str(tmp_path / "cache"))


def quadrants(*bright):
    """Images of which only these quadrants are bright; the planted classifier finds the first."""
    images = torch.zeros(len(bright), 3, 8, 8)
    for image, places in zip(images, bright, strict=True):
        for rank, place in enumerate(places):
            image[:, planted.quadrant_masks(8, 8)[place].bool()] = 1.0 - 0.25 * rank
    return images


def targets(*classes):
    found = torch.zeros(len(classes), 4, dtype=torch.bool)
    for row, own in zip(found, classes, strict=True):
        row[list(own)] = True
    return found


def test_a_single_label_classifier_is_right_if_its_top_class_is_shown():
    judge = Judge(planted.explanandum())
    right, confidence = judge(quadrants([1], [2, 3], [0]), targets([1], [3], [0, 2]))
    assert right.tolist() == [True, False, True]
    assert confidence.tolist() == pytest.approx(
        judge.explanandum.probabilities(quadrants([1], [2, 3], [0])).amax(1).tolist()
    )
    assert judge(quadrants([1]), None)[0] is None
    with pytest.raises(ValueError, match="the data have 3 classes, the explanandum 4"):
        judge(quadrants([1]), torch.ones(1, 3, dtype=torch.bool))


def test_a_multi_label_classifier_is_right_if_it_predicts_exactly_what_is_shown():
    subject = planted.explanandum(multi_label=True)
    images = quadrants([1], [2, 3], [0])
    predicted = subject.to_targets(subject(images), never_empty=False)
    wrong = predicted.clone()
    wrong[1, 0] = ~wrong[1, 0]
    assert Judge(subject)(images, predicted)[0].tolist() == [True] * 3
    assert Judge(subject)(images, wrong)[0].tolist() == [True, False, True]


def test_the_fingerprint_is_that_of_the_weights():
    one, two = planted.explanandum(), planted.explanandum(multi_label=True)
    assert Judge(one).fingerprint == Judge(planted.explanandum()).fingerprint
    assert Judge(one).fingerprint != Judge(two).fingerprint


class PlantedSource(ImageSource):
    """Scenes whose last image has the label of another."""

    def __init__(self):
        self.images, self.targets = planted.scenes(6, (16, 16))
        self.targets[5] = self.targets[5].roll(1)
        self.names = [f"{i}.png" for i in range(6)]

    def load(self, index):
        return {"image": self.images[index], "target": self.targets[index]}


class Planted(ImageDataModule):
    """Planted scenes as a data module."""

    multi_label = False
    class_names = planted.NAMES

    def source(self, split):
        return PlantedSource()


def test_the_count_stands_in_the_caption(tmp_path):
    data = Planted([16, 16], batch_size=2, only="correct")
    score = Score(
        sanity=False, metrics=[Seconds()], target="label", output_dir=str(tmp_path), panels=0
    )
    run = trainer(tmp_path, JudgeImages(), score)
    run.test(Constant(planted.explanandum(), 0.5), datamodule=data, verbose=False)
    told = json.loads((tmp_path / "summary.json").read_text())["data"]
    assert told == data_title(run) == "Planted (5 of 6 images, those predicted correctly)"
    assert told in (tmp_path / "table.md").read_text()
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 6


def test_another_module_is_refused_and_other_data_are_left_alone():
    class Run:
        datamodule = Shapes([8, 8], only="correct")

    with pytest.raises(ValueError, match="only: correct needs an Explainer, got LightningModule"):
        JudgeImages().setup(Run(), LightningModule(), "test")
    JudgeImages().setup(Run(), LightningModule(), "fit")
    Run.datamodule = Shapes([8, 8])
    JudgeImages().setup(Run(), LightningModule(), "test")
    assert Run.datamodule.judge is None
