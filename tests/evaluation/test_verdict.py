import re

import numpy as np
import pytest

from explainers.evaluation.sanity import SANITY
from explainers.evaluation.verdict import main_figures, standings, verdict
from explainers.metrics.faithfulness import RISECurves, SLOCCurves
from explainers.metrics.localization import MAE, SoftIoU
from explainers.metrics.passes import Passes
from explainers.metrics.ranking import needed_images
from explainers.metrics.seconds import Seconds
from explainers.metrics.segmentation import SegmentationScores

NOISE = np.random.default_rng(0).normal(size=(6, 50))
HARD = np.random.default_rng(1).normal(size=50)  # shared by all methods of an image


def methods(*means, noise=0.1, count=50):
    """Values of methods a, b, c, ... with about these means."""
    return {
        name: (mean + HARD + noise * row)[:count]
        for name, mean, row in zip("abcdef", means, NOISE, strict=False)
    }


def test_one_method_is_ahead():
    assert verdict(methods(2, 1), "IoU", True) == "a is ahead of b on IoU"
    assert verdict(methods(2, 1), "MAE", False) == "b is ahead of a on MAE"
    assert verdict(methods(1, 3, 2, 0), "IoU", True) == "b is ahead of the other 3 on IoU"


def test_leading_methods_that_are_not_told_apart():
    values = methods(2, 0, 2.03, 1)
    # The other five of the six pairs are told apart, so this one is tested at 5 %.
    needed = needed_images(values["a"] - values["c"])
    assert 100 < needed < 1000
    shown = -(-needed // 10) * 10
    best, second = sorted("ac", key=lambda name: -values[name].mean())
    assert verdict(values, "IoU", True) == (
        f"{best} and {second} are ahead of the other 2 on IoU; they cannot be told apart with 50 "
        f"images, about {shown} would be needed"
    )


def test_the_level_of_the_needed_images_is_that_of_the_pairs_left():
    values = methods(1, 1.01, 1.03, noise=0.2)
    best, *rest = sorted("abc", key=lambda name: -values[name].mean())
    needed = sorted(needed_images(values[best] - values[b], level=0.05 / 3) for b in rest)
    assert all(100 < count < 10_000 for count in needed)
    low, high = (-(-n // unit) * unit for n in needed for unit in [10 ** (len(str(n)) - 2)])
    assert verdict(values, "IoU", True) == (
        f"{best} has the best mean IoU but cannot be told apart from any of the other 2 with 50 "
        f"images, about {low:,} to {high:,} would be needed to tell {best} from each of them"
    )


def test_two_methods_that_are_not_told_apart():
    sentence = verdict(methods(1, 1.01, noise=0.3), "IoU", True)
    assert re.fullmatch(
        r"(a and b|b and a) cannot be told apart on IoU with 50 images, (about )?[\w, ]+ would be "
        "needed",
        sentence,
    )
    same = methods(1)["a"]
    assert verdict({"a": same, "b": same}, "IoU", True) == (
        "a and b cannot be told apart on IoU with 50 images: their values are equal"
    )


def test_a_method_between_the_best_and_the_others():
    # a is told from c alone; b is told from neither, as it varies.
    values = methods(1, 0.99, 0.9)
    values["b"] = 0.98 + HARD + 2 * NOISE[1] - 2 * NOISE[1].mean()
    values["a"] += 1 - values["a"].mean()
    sentence = verdict(values, "IoU", True)
    assert sentence.startswith("a is ahead of c on IoU; it cannot be told apart from b with 50")
    assert sentence.endswith(" would be needed")


def test_a_mean_that_contradicts_the_test_is_told():
    losses = -0.1 - 0.01 * np.arange(43)
    a = HARD + np.concatenate([losses, np.full(7, 20.0)])
    assert verdict({"a": a, "b": HARD}, "IoU", True) == (
        "a has the best mean IoU; against b, the mean and the paired test disagree"
    )


@pytest.mark.parametrize("count", [1, 9])
def test_few_images(count):
    images = {1: "1 image is", 9: "9 images are"}[count]
    assert verdict(methods(2, 1, count=count), "IoU", True) == (
        f"{images} too few to tell the methods apart on IoU"
    )


def test_too_few_images_for_so_many_pairs():
    # 10 images reach p = 2 / 2 ** 10, which 25 pairs leave below 0.05; 7 methods are 21 pairs.
    values = {str(i): i + HARD[:10] for i in range(7)}
    assert verdict(values, "IoU", True) == "6 is ahead of the other 6 on IoU"
    values = {str(i): i + HARD[:10] for i in range(8)}
    assert verdict(values, "IoU", True) == "10 images are too few to tell the methods apart on IoU"


def test_methods_without_values():
    values = methods(2, 1, 3)
    values["b"][9:] = np.nan
    assert verdict(values, "IoU", True) == ("c is ahead of a on IoU; b: too few images to tell")
    values["b"][:] = np.nan
    assert verdict(values, "IoU", True) == "c is ahead of a on IoU"
    assert verdict(methods(2), "IoU", True) is None
    assert verdict({}, "IoU", True) is None


def test_main_figures_are_the_last_of_each_metric_without_cost():
    metrics = [RISECurves(), SLOCCurves(), SegmentationScores(), MAE(), Passes(), Seconds()]
    averaged = [name for metric in metrics for name in metric.names]
    assert main_figures(metrics, averaged) == ["Faithfulness", "IDD", "MAE"]


def test_standings_leave_the_sanity_rows_out():
    rows = methods(0.2, 0.1) | dict.fromkeys(SANITY, HARD + 9)
    found = standings(
        [SoftIoU(), MAE(), Seconds()], {"SoftIoU": rows, "MAE": rows, "seconds": rows}
    )
    assert found["verdicts"] == {
        "SoftIoU": "a is ahead of b on SoftIoU", "MAE": "b is ahead of a on MAE",
    }  # fmt: skip
    assert list(found["ranks"]) == ["SoftIoU", "MAE", "seconds"]
    assert found["ranks"]["MAE"]["ranks"]["a"] > found["ranks"]["MAE"]["ranks"]["b"]
    assert list(found["ranks"]["MAE"]["ranks"]) == ["a", "b"]
    assert found["agreement"]["SoftIoU"]["MAE"] == pytest.approx(-1)
