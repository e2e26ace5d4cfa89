import json
import logging
import warnings

import pytest
import torch

from explainers.callbacks.accuracy import CheckClassifier
from explainers.callbacks.save import SaveMaps
from explainers.callbacks.score import Score
from explainers.explanandum.classifier import Classifier
from explainers.metrics.localization import MAE
from tests import planted
from tests.support import Scenes, Truth, trainer


class Mislabeled(Scenes):
    """Scenes whose labels are those of the next class."""

    def __init__(self, *args, **arguments):
        super().__init__(*args, **arguments)
        for sample in self.samples:
            sample["target"] = sample["target"].roll(1)


def score(tmp_path, data, images=200, **changes):
    check = CheckClassifier(images)
    table = Score(metrics=[MAE()], output_dir=str(tmp_path), bootstrap=5, panels=0, sanity=False)
    module = Truth(planted.explanandum())
    module.explanandum.expected_accuracy = changes.pop("expected", None)
    trainer(tmp_path, check, table, **changes).test(module, data, verbose=False)
    return check


def test_it_is_said_before_and_after_the_run(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        check = score(tmp_path, Scenes(12), images=8)
    said = [line for line in caplog.messages if line.startswith("the classifier has")]
    assert said == [
        "the classifier has top-1 100.0 % [67.6, 100.0] on the first 8 of 12 labeled images",
        "the classifier has top-1 100.0 % [75.8, 100.0] on all 12 labeled images",
    ]
    assert check.judged["images"] == 12
    assert json.loads((tmp_path / "summary.json").read_text())["classifier"] == check.judged
    assert "PlantedCNN (top-1 100.0 % [75.8, 100.0])" in (tmp_path / "table.md").read_text()


def test_few_images_are_checked_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        score(tmp_path, Scenes(5))
    assert caplog.text.count("the classifier has") == 1
    assert "on all 5 labeled images" in caplog.text


def test_a_limited_run_checks_its_own_images(tmp_path):
    assert score(tmp_path, Scenes(12), limit_test_batches=2).judged["images"] == 4


@pytest.mark.parametrize("images", [4, 200])
def test_a_classifier_at_chance_is_warned_of(tmp_path, images):
    with pytest.warns(UserWarning, match="top-1 0.0 % .*not above chance .25.0 %") as found:
        score(tmp_path, Mislabeled(20), images=images)
    assert len([w for w in found if "chance" in str(w.message)]) == (2 if images == 4 else 1)


def test_a_classifier_below_its_own_accuracy_is_warned_of(tmp_path):
    data = Scenes(20)
    for sample in data.samples[:5]:
        sample["target"] = sample["target"].roll(1)
    with pytest.warns(UserWarning, match="below the 99.0 % that it is known to have"):
        score(tmp_path, data, expected=0.99)


def test_a_prediction_counts_all_images_also_those_that_are_done(tmp_path):
    for _ in range(2):
        check = CheckClassifier(images=2)
        save = SaveMaps(str(tmp_path / "maps"))
        trainer(tmp_path, check, save).predict(Truth(planted.explanandum()), Scenes(6))
        assert check.judged["images"] == 6


def test_a_prediction_in_batches_is_checked_on_the_first_images(tmp_path, caplog):
    """Lightning gives the loader of a prediction a batch sampler in place of its size."""
    data = Scenes(12, batch_size=4)
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, CheckClassifier(), limit_predict_batches=2).predict(
            Truth(planted.explanandum()), data
        )
    assert "on all 8 labeled images" in caplog.text
    caplog.clear()
    check = CheckClassifier(images=5)
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, check).predict(Truth(planted.explanandum()), data)
    assert "on the first 5 of 12 labeled images" in caplog.text
    assert check.judged["images"] == 12


def test_unlabeled_images_are_not_checked(tmp_path):
    data = Scenes(4, leave_out=("target",))
    check = CheckClassifier()
    trainer(tmp_path, check).predict(Truth(planted.explanandum()), data)
    assert check.judged is None or check.judged["images"] == 0


def test_the_random_state_is_left_alone(tmp_path):
    after = []
    for checks in ([], [CheckClassifier()]):
        torch.manual_seed(0)
        trainer(tmp_path, *checks).predict(Truth(planted.explanandum()), Scenes(4))
        after.append(torch.rand(3))
    assert torch.equal(*after)


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        # Of 20 images, 15 are right: Wilson's interval of 15 / 20 is [53.1, 88.8].
        (
            0.8,
            "80.0 % expected (-5.0 points), [53.1, 88.8] on 20 images: not told apart from it, by",
        ),
        (0.9, "90.0 % expected (-15.0 points), [53.1, 88.8] on 20 images: below it; check "),
        (0.5, "50.0 % expected (+25.0 points), [53.1, 88.8] on 20 images: above it; these "),
    ],
)
def test_a_validation_is_compared_with_the_expectation(tmp_path, caplog, expected, says):
    data = Scenes(20)
    for sample in data.samples[:5]:
        sample["target"] = sample["target"].roll(1)
    subject = planted.explanandum()
    subject.expected_accuracy = expected
    module = Classifier(subject, subject.num_classes, mean=[0.0] * 3, std=[1.0] * 3)
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        trainer(tmp_path, CheckClassifier()).validate(module, data, verbose=False)
    told = [str(each.message) for each in warned] if expected == 0.9 else [caplog.text]
    assert any(f"top1: 75.0 % measured, {says}" in text for text in told)
