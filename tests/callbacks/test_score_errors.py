"""One bad image or method costs its own values, and nothing else."""

import csv
import json

import pytest
import torch

from explainers.callbacks.score import Score
from explainers.evaluation.attempts import attempt, halved, told
from explainers.evaluation.scorefile import read
from explainers.methods.constant import Constant
from explainers.methods.rise import RISE
from explainers.metrics.localization import MAE, SoftIoU
from tests import planted
from tests.support import Mass, Scenes, Truth, trainer


class Fails(Truth):
    """Raises for the images whose mean is among `means`, as long as there are any."""

    means: tuple[float, ...] = ()

    def attribute(self, images, targets):
        if any(float(image.mean()) in type(self).means for image in images):
            raise ArithmeticError("nothing\nhere")
        return super().attribute(images, targets)


def mean(place):
    return float(Scenes(two=(3,)).samples[place]["image"].mean())


def run(folder, *places, methods=None, **arguments):
    Fails.means = tuple(mean(place) for place in places)
    settings = {"target": "label", "sanity": False, "bootstrap": 10, "panels": 2}
    metrics = [MAE(), SoftIoU(), Mass()]
    methods = {"fails": Fails} if methods is None else methods
    score = Score(**settings, metrics=metrics, methods=methods, output_dir=str(folder), **arguments)
    data = Scenes(two=(3,))
    trainer(folder, score).test(Truth(planted.explanandum(multi_label=True)), data, verbose=False)
    return read(folder / "scores.csv")


def values(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "error")} for row in rows]


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_failed_image_lacks_its_values_and_the_others_keep_theirs(tmp_path, one_by_one):
    whole = run(tmp_path / "whole", one_by_one=one_by_one)
    with pytest.warns(UserWarning, match=r"fails failed for folder/2.jpg: ArithmeticError: nothin"):
        rows = run(tmp_path / "run", 2, 3, one_by_one=one_by_one)
    failed = [row for row in rows if row["method"] == "fails" and row["index"] in ("12", "13")]
    assert [(row["index"], row["target"]) for row in failed] == [
        ("12", "2"), ("13", "0"), ("13", "0|3"), ("13", "3"),
    ]  # fmt: skip
    for row in failed:
        assert (row["MAE"], row["SoftIoU"], row["Mass"], row["seconds"]) == ("", "", "", "")
        assert row["error"].startswith("ArithmeticError: nothing here (test_score_errors.py:")
    kept = [row for row in rows if row not in failed]
    keys = {(row["method"], row["index"], row["target"]) for row in kept}
    same = [row for row in whole if (row["method"], row["index"], row["target"]) in keys]
    assert values(kept) == values(same)
    with (tmp_path / "run" / "errors.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [(e["image"], e["method"]) for e in listed] == [
        (f"folder/{i}.jpg", "fails") for i in (2, 3, 3, 3)
    ]
    table = (tmp_path / "run" / "table.md").read_text()
    assert "fails failed for 2 of 5 images, whose values are missing: see errors.csv" in table
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["methods"]["fails"]["MAE"]["n"] == 3
    assert summary["methods"]["truth"]["MAE"]["n"] == 5


def test_a_later_run_tries_failed_images_again(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.warns(UserWarning, match="fails failed"):
        run(tmp_path / "run", 1)
    Truth.calls = 0
    assert values(run(tmp_path / "run")) == values(whole)
    assert Truth.calls == 1  # the method under test, for the one image that had failed
    assert not (tmp_path / "run" / "errors.csv").exists()


def test_errors_are_raised_where_the_user_is_strict(tmp_path):
    with pytest.raises(ArithmeticError, match="nothing"):
        run(tmp_path, 2, errors="raise")
    assert len(values(run(tmp_path))) == 2 * (5 + 2)  # and the run goes on from there


def test_a_run_in_which_everything_fails_is_an_error(tmp_path):
    score = Score(metrics=[MAE()], output_dir=str(tmp_path), sanity=False, name="truth")
    Fails.means = tuple(mean(place) for place in range(5))
    test, data = trainer(tmp_path, score), Scenes(two=(3,))
    with (
        pytest.warns(UserWarning, match="truth failed"),
        pytest.raises(ValueError, match="every method failed for every image, the first by Arith"),
    ):
        test.test(Fails(planted.explanandum(multi_label=True)), data, verbose=False)


def test_a_classifier_that_fails_is_no_matter_of_one_method(tmp_path):
    module = Truth(planted.explanandum())
    module.explanandum.model.forward = lambda inputs: 1 / 0
    score = Score(metrics=[MAE()], output_dir=str(tmp_path), sanity=False)
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, score).test(module, Scenes(), verbose=False)


class Hungry(RISE):
    """Has no memory for more than two masks at once."""

    def attribute(self, images, targets):
        if self.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().attribute(images, targets)


def test_without_memory_the_batch_is_halved_once_and_for_all(tmp_path, recwarn):
    inputs = {
        "images": Scenes().samples[0]["image"][None],
        "targets": Scenes().samples[0]["target"][None],
        "explanandum": planted.explanandum(),
        "masks": Scenes().samples[0]["mask"][None],
    }
    hungry = Hungry(planted.explanandum(), masks=8, batch_size=8)
    found, maps, failed = attempt(hungry, [MAE()], inputs)
    assert failed == {}
    assert hungry.batch_size == 2
    told_sizes = [str(w.message) for w in recwarn.list if "out of memory" in str(w.message)]
    assert told_sizes == [
        f"Hungry: out of memory; its batch_size is {size} from here on" for size in (4, 2)
    ]
    rise = RISE(planted.explanandum(), masks=8, batch_size=2)
    expected, own, _ = attempt(rise, [MAE()], inputs)
    assert torch.equal(maps, own)
    assert found[0, "0"]["MAE"] == expected[0, "0"]["MAE"]


def test_what_cannot_be_halved_fails():
    constant = Constant(planted.explanandum())
    assert not halved(constant, torch.OutOfMemoryError("x"))
    hungry = Hungry(planted.explanandum(), batch_size=1)
    assert not halved(hungry, torch.OutOfMemoryError("x"))
    assert not halved(Hungry(planted.explanandum(), batch_size=4), ValueError("x"))


def test_an_error_is_told_on_one_line_with_its_place():
    with pytest.raises(ValueError, match="a") as caught:
        raise ValueError("a\n  b")
    assert told(caught.value).startswith("ValueError: a b (test_score_errors.py:")


def test_two_images_of_one_name_are_refused(tmp_path):
    data = Scenes()
    data.samples[3]["name"] = data.samples[0]["name"]
    score = Score(metrics=[MAE()], output_dir=str(tmp_path), sanity=False)
    with pytest.raises(ValueError, match=r"two test images are called 'folder/0.jpg': names must"):
        trainer(tmp_path, score).test(Truth(planted.explanandum()), data, verbose=False)
