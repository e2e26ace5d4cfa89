"""Each protocol against values that fit in a head, and its cost in counted passes."""

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.functional import smoothing
from explainers.metrics.faithfulness import CurveAUC, RISECurves, SLOCCurves
from tests import planted


class Share(nn.Module):
    """Two classes whose probabilities are p and 1 - p, p the mean of the first channel."""

    num_classes = 2

    def __init__(self, offset):
        super().__init__()
        self.offset = offset  # the mean that the explanandum takes off

    def forward(self, images):
        p = (images[:, 0] + self.offset).mean(dim=(1, 2)).double().clamp(1e-9, 1 - 1e-9)
        return torch.stack([p.log(), (1 - p).log()], dim=1)


def share(mean=0.0):
    return Explanandum(Share(mean), mean=[mean] * 3, std=[1.0] * 3)


def measure(metric, image, maps, explanandum=None, label=0):
    """Values of one image given as its first channel, for a followed class."""
    images = torch.tensor(image)[None, None].expand(1, 3, -1, -1)
    return {
        name: value.item()
        for name, value in metric.measure(
            images=images,
            maps=torch.tensor(maps)[None],
            targets=F.one_hot(torch.tensor([label]), 2).bool(),
            explanandum=explanandum or share(),
        ).items()
    }


IMAGE = [[1.0, 0.6], [0.4, 0.0]]
MAP = [[9.0, 5.0], [7.0, 1.0]]  # ranking: 1.0, 0.4, 0.6, 0.0


def test_rise_deletion_by_hand():
    metric = RISECurves(pixels=1, insertion_fill="mean")
    values = measure(metric, IMAGE, MAP)
    deletion = [0.5, 0.25, 0.15, 0.0, 0.0]  # sums 2, 1, 0.6, 0, 0 of four pixels
    insertion = [0.0, 0.25, 0.35, 0.5, 0.5]
    assert values["DeletionAUC"] == pytest.approx((sum(deletion) - 0.25) / 4, abs=1e-6)
    assert values["InsertionAUC"] == pytest.approx((sum(insertion) - 0.25) / 4, abs=1e-6)
    assert values["Faithfulness"] == pytest.approx((1.35 - 0.65) / 4, abs=1e-6)


def test_rise_steps_are_image_rows_and_may_be_ragged():
    image = [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    ranking = [[6.0, 5.0, 4.0], [3.0, 2.0, 1.0]]
    values = measure(RISECurves(insertion_fill="mean"), image, ranking)  # three pixels a step
    assert values["DeletionAUC"] == pytest.approx((0.5 + 0 + 0 - 0.25) / 2, abs=1e-6)
    values = measure(RISECurves(pixels=4, insertion_fill="black"), image, ranking)
    assert values["DeletionAUC"] == pytest.approx((0.5 + 0 + 0 - 0.25) / 2, abs=1e-6)
    assert values["InsertionAUC"] == pytest.approx((0 + 0.5 + 0.5 - 0.25) / 2, abs=1e-6)


def test_sloc_by_hand():
    # The first channel sums to 1.8 of 4: class 1 is the most probable.
    image = [[1.0, 0.4], [0.4, 0.0]]
    values = measure(SLOCCurves(steps=4), image, [[1.0, 2.0], [3.0, 4.0]], share(1.0), label=1)
    # Removing shows white, which lifts class 0. Most first: sums 1.8, 2.8, 3.4, 4, 4.
    most = [1 - s / 4 for s in (1.8, 2.8, 3.4, 4.0, 4.0)]
    # Least first: 1.8, 1.8, 2.4, 3, 4.
    least = [1 - s / 4 for s in (1.8, 1.8, 2.4, 3.0, 4.0)]
    area = [100 * (sum(c) - (c[0] + c[-1]) / 2) / 4 for c in (most, least)]
    assert values["DEL"] == pytest.approx(area[0], abs=1e-4)
    assert values["INS"] == pytest.approx(area[1], abs=1e-4)
    assert values["POS"] == pytest.approx(100 * 0.5 / 4)  # still class 1 only at the start
    assert values["NEG"] == pytest.approx(100 * 1.5 / 4)
    assert values["NPD"] == pytest.approx(25)
    assert values["IDD"] == pytest.approx(area[1] - area[0], abs=1e-4)


def test_sloc_pos_and_neg_follow_the_prediction_even_if_the_map_explains_another_class():
    image, maps = [[1.0, 0.4], [0.4, 0.0]], [[1.0, 2.0], [3.0, 4.0]]
    own = measure(SLOCCurves(steps=4), image, maps, share(1.0), label=1)
    other = measure(SLOCCurves(steps=4), image, maps, share(1.0), label=0)
    assert (own["POS"], own["NEG"]) == (other["POS"], other["NEG"])
    assert other["DEL"] == pytest.approx(100 - own["DEL"], abs=1e-4)


@pytest.mark.parametrize(
    ("metric", "an_image"),
    [
        (SLOCCurves(), 2 * 20),  # six figures, exactly two curves with shared ends
        (RISECurves(steps=10), 2 * 10 + 1),
        (RISECurves(), 2 * 8 + 1),
        (RISECurves(steps=10, insertion_fill="mean"), 2 * 10),
        (CurveAUC(steps=10), 11),
        (CurveAUC(start="fill", pixels=16, area={"rule": "mean", "skip_first": True}), 5),
        (CurveAUC(fill="noise", fill_options={"count": 3}, steps=4), 1 + 3 * 4),
        (CurveAUC(fill="images", fill_options={"count": 2}, steps=4), 1 + 2 * 4),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, int) else str(x),
)
def test_forward_passes(metric, an_image):
    explanandum, (images, targets) = planted.explanandum(), planted.scenes(3, (8, 8))
    seen = []
    explanandum.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    metric.measure(images=images, maps=images.mean(1), targets=targets, explanandum=explanandum)
    assert sum(seen) == 3 * an_image


def test_curve_auc_of_the_masking_explanations_protocol():
    # Keep the top k, k = 1, 2, 3, 4, show gray elsewhere, average the probabilities.
    metric = CurveAUC("Gray", start="fill", pixels=1, area={"rule": "mean", "skip_first": True})
    values = measure(metric, IMAGE, MAP)
    assert values == {"Gray": pytest.approx((0.25 + 0.35 + 0.5 + 0.5) / 4, abs=1e-6)}
    part = CurveAUC("Part", start="fill", pixels=1, area={"rule": "mean", "part": [0.25, 0.5]})
    assert measure(part, IMAGE, MAP)["Part"] == pytest.approx((0.25 + 0.35) / 2, abs=1e-6)


def test_curve_auc_values():
    curve = {"pixels": 1, "area": {"rule": "mean", "scale": 100.0}}
    image = [[1.0, 0.9], [0.8, 0.5]]  # sums, most first: 3.2, 2.2, 1.4, 0.5, 0
    logs = torch.tensor([0.8, 0.55, 0.35, 0.125, 1e-9]).double().log().mean().item()
    assert measure(CurveAUC(value="hit", **curve), image, MAP)["CurveAUC"] == pytest.approx(40)
    assert measure(CurveAUC(value="hit", **curve), image, MAP, label=1)["CurveAUC"] == 60
    same = measure(CurveAUC(value="unchanged", **curve), image, MAP, label=1)
    assert same["CurveAUC"] == pytest.approx(40)
    logit = measure(CurveAUC(value="logit", **curve), image, MAP)
    assert logit["CurveAUC"] == pytest.approx(100 * logs, rel=1e-4)


def test_draws_average_over_fills(tmp_path):
    for level in (0, 255):
        Image.new("RGB", (2, 2), (level,) * 3).save(tmp_path / f"{level}.png")
    one = {"fill": "images", "pixels": 1, "start": "fill", "area": {"rule": "mean"}}
    bank = {"bank": str(tmp_path)}
    singles = [
        measure(CurveAUC(**one, fill_options={**bank, "seed": s}), IMAGE, MAP)["CurveAUC"]
        for s in range(5)
    ]
    assert len({round(s, 6) for s in singles}) == 2  # a black and a white picture
    drawn = measure(CurveAUC(**one, fill_options={**bank, "count": 5}), IMAGE, MAP)["CurveAUC"]
    assert drawn == pytest.approx(sum(singles) / 5)


@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_a_blur_of_any_width_fills(sigma):
    explanandum, (images, targets) = planted.explanandum(), planted.scenes(2, (8, 8))
    first_point = {"start": "fill", "steps": 2, "area": {"rule": "mean", "part": [0.0, 0.0]}}
    metric = CurveAUC(fill="blur", fill_options={"sigma": sigma}, **first_point)
    found = metric.measure(
        images=images, maps=images.mean(1), targets=targets, explanandum=explanandum
    )
    blurred = smoothing.blur(images, int(8 * sigma) + 1, sigma, explanandum.mean)
    expected = explanandum.probabilities(blurred)[targets]
    torch.testing.assert_close(found["CurveAUC"].float(), expected)


def test_an_inpainter_fills():
    metric = CurveAUC(inpainter=lambda images, keep: images + 1 - keep.unsqueeze(1), pixels=1)
    shown = [0.5, 0.5, 0.65, 0.75, 1.0]  # as a white fill
    assert measure(metric, IMAGE, MAP)["CurveAUC"] == pytest.approx(
        (sum(shown) - 0.75) / 4, abs=1e-6
    )


def test_directions():
    assert not CurveAUC().direction("CurveAUC")
    assert CurveAUC(order="least").direction("CurveAUC")
    assert CurveAUC(start="fill").direction("CurveAUC")
    assert not CurveAUC(order="least", start="fill").direction("CurveAUC")
    assert [SLOCCurves().direction(n) for n in SLOCCurves.names] == [False, True] * 2 + [True] * 2


def test_truth_beats_its_opposite():
    explanandum, (images, targets) = planted.explanandum(), planted.scenes(4, (8, 8))
    truth = planted.quadrant_masks(8, 8)
    for metric, figure in ((RISECurves(), "Faithfulness"), (SLOCCurves(), "IDD")):
        good, bad = (
            metric.measure(images=images, maps=m, targets=targets, explanandum=explanandum)[figure]
            for m in (truth, 1 - truth)
        )
        assert (good > bad).all()


def test_wrong_settings_say_why():
    for make, message in (
        (lambda: RISECurves(pixels=1, steps=1), "exactly one"),
        (lambda: RISECurves(deletion_fill="sand"), "sand"),
        (lambda: SLOCCurves(steps=0), "at least 1"),
        (lambda: CurveAUC(order="best"), "order"),
        (lambda: CurveAUC(value="luck"), "luck"),
        (lambda: CurveAUC(fill_options={"count": 2}), "differ from each other"),
        (lambda: CurveAUC(fill="images", draws=40), r"fill_options: \{count"),
        (lambda: CurveAUC(draws=2, area={"rule": "mean"}), "nor with area"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
