"""Information curves: hand-made areas, a literal reference, counted passes, missing values."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import griddata

from explainers.metrics import information
from explainers.metrics.information import InformationCurves
from tests import planted


def measure(metric, images, maps, targets, explanandum=None):
    explanandum = explanandum or planted.explanandum()
    return metric.measure(images=images, maps=maps, targets=targets, explanandum=explanandum)


@pytest.fixture
def batch():
    images, targets = planted.scenes(4)
    images = (images * 255).round() / 255
    maps = images.mean(1) + 0.1 * torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(1))
    return images, maps, targets


def test_areas_by_hand():
    area = information.information_auc
    assert area(np.array([0.0, 10.0]), np.array([0.0, 1.0])) == pytest.approx(0.5)  # diagonal
    # At 30 % of the information 80 % of the score, then back to 40 %: monotone keeps 80 %.
    entropies, scores = np.array([10.0, 40.0, 80.0, 110.0]), np.array([0.1, 0.5, 0.3, 0.6])
    kept = 0.3 * 0.4 + 0.4 * 0.8 + 0.3 * 0.9
    assert area(entropies, scores, points=10) == pytest.approx(kept)
    fallen = 0.3 * 0.4 + 0.4 * 0.6 + 0.3 * 0.7
    assert area(entropies, scores, points=10, monotone=False) == pytest.approx(fallen)
    beyond = area(np.array([10.0, 5.0, 20.0]), np.array([0.1, 0.0, 0.9]))  # clipped to the corner
    assert beyond == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("entropies", "scores"), [([5.0, 6.0, 5.0], [0, 1, 1]), ([1.0, 2, 3], [1, 1, 1])]
)
def test_nothing_to_regain_is_missing(entropies, scores):
    assert math.isnan(information.information_auc(np.array(entropies), np.array(scores)))


def test_the_random_mask_has_its_share_of_pixels_and_no_memory():
    mask = information.random_mask(20, 30, 0.05, seed=3)
    assert mask.sum() == 30
    assert np.array_equal(mask, information.random_mask(20, 30, 0.05, seed=3))
    assert not np.array_equal(mask, information.random_mask(20, 30, 0.05, seed=4))


def test_interpolation_by_hand():
    ramp = np.arange(0, 90, 10, dtype=np.uint8)[None, :, None] * np.ones((5, 1, 3), dtype=np.uint8)
    known = np.zeros((5, 9), dtype=bool)  # the corners are enough for a plane
    assert np.array_equal(information.interpolate(ramp, known), ramp)
    assert np.array_equal(information.interpolate(ramp, ~known), ramp)
    assert not known.any()


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.8])
def test_interpolation_equals_one_griddata_a_channel(fraction):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    known = generator.random((24, 32)) < fraction
    full = known.copy()
    full[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    expected = image.copy()
    for channel in range(3):
        expected[~full, channel] = np.round(
            griddata(np.argwhere(full), image[full][:, channel], np.argwhere(~full)).astype("f4")
        )
    assert np.array_equal(information.interpolate(image, known), expected)


def literal(image, map_, target, explanandum, hidden, thresholds, kind):
    """One curve of one image, written down step by step."""

    def look(picture):
        logits = explanandum(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
        hit = float(logits.argmax() == target)
        return hit if kind == "AIC" else logits.softmax(1)[0, target].item()

    blurred = information.interpolate(image, hidden)
    low, high = look(blurred), look(image)
    least, most = information.entropy(blurred), information.entropy(image)
    if high < 0.5 or low >= high or least >= most:
        return math.nan
    points, best = [], 0.0
    for threshold in thresholds:
        shown = information.interpolate(image, (map_ >= np.quantile(map_, 1 - threshold)) | hidden)
        best = max(best, min(1.0, max(0.0, (look(shown) - low) / (high - low))))
        x = (information.entropy(shown) - least) / (most - least)
        points.append((min(1.0, max(0.0, x)), best))
    points = sorted([*points, (0.0, 0.0), (1.0, 1.0)], key=lambda p: p[0])
    x, y = zip(*points, strict=True)
    at = [k / 20 for k in range(21)]
    heights = [*np.interp(at[:-1], x, y), 1.0]
    return sum((a + b) / 2 / 20 for a, b in itertools.pairwise(heights))


def dim(images):
    """Scenes that the blurred image no longer decides: a few bright pixels carry the class."""
    flat = torch.full_like(images, 0.2)
    generator = torch.Generator().manual_seed(5)
    spots = (torch.rand(images.shape[0], 1, 32, 32, generator=generator) < 0.15) & (images > 0.55)
    return torch.where(spots, torch.ones_like(flat), flat)


def test_both_curves_equal_a_literal_reference(batch):
    images, maps, targets = batch
    images = dim(images)
    maps = maps + images.mean(1)
    explanandum = planted.explanandum()
    metric = InformationCurves(fraction=0.02, thresholds=[0.01, 0.05, 0.2, 0.6])
    found = measure(metric, images, maps, targets, explanandum)
    hidden = information.random_mask(32, 32, 0.02, 0)
    pictures = images.mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    known = 0
    for kind in ("AIC", "SIC"):
        for i in range(4):
            target = int(targets[i].int().argmax())
            expected = literal(
                pictures[i],
                maps[i].numpy(),
                target,
                explanandum,
                hidden,
                metric.thresholds,
                kind,
            )
            assert found[kind][i].item() == pytest.approx(expected, abs=1e-6, nan_ok=True)
            known += not math.isnan(expected)
    assert known >= 4


def test_one_pass_for_both_and_none_for_missing_images(batch):
    images, maps, targets = batch
    explanandum = planted.explanandum()
    metric = InformationCurves(fraction=0.02, batch_size=5)
    values = measure(metric, dim(images), maps, targets, explanandum)
    open_ = sum(not all(values[n][i].isnan() for n in values) for i in range(4))
    seen = []
    explanandum.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    measure(metric, dim(images), maps, targets, explanandum)
    assert sum(seen) == 2 * 4 + 13 * open_
    assert open_ > 0
    wrong = targets.roll(1, dims=1)  # the image itself scores too low
    seen.clear()
    assert all(v.isnan().all() for v in measure(metric, images, maps, wrong, explanandum).values())
    assert sum(seen) == 2 * 4


def test_values_depend_neither_on_threads_nor_on_the_batch(batch):
    images, maps, targets = batch
    images = dim(images)
    together = measure(InformationCurves(workers=4), images, maps, targets)
    for i in range(4):
        one = [x[i : i + 1] for x in (images, maps, targets)]
        alone = measure(InformationCurves(workers=1, batch_size=3), *one)
        for name in together:
            torch.testing.assert_close(
                together[name][i : i + 1], alone[name], equal_nan=True, atol=1e-6, rtol=0
            )


def test_wrong_inputs_say_why(batch):
    images, maps, targets = batch
    for thresholds in ([], [0.5, 0.2], [0.5, 1.0], [0.0, 0.5]):
        with pytest.raises(ValueError, match="ascend"):
            InformationCurves(thresholds=thresholds)
    with pytest.raises(ValueError, match="one-hot"):
        measure(InformationCurves(), images, maps, ~targets)


def test_parity_with_the_published_package(batch, monkeypatch):
    pic = pytest.importorskip("saliency.metrics.pic")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # gone since NumPy 2.4
    images, maps, targets = batch
    images, explanandum = dim(images), planted.explanandum()
    found = measure(InformationCurves(), images, maps, targets, explanandum)
    hidden = information.random_mask(32, 32, 0.01, 0)
    for i, target in enumerate(targets.int().argmax(dim=1).tolist()):

        def predict(pictures, target=target):
            logits = explanandum(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
            return logits.softmax(1)[:, target].numpy()

        picture = images[i].mul(255).round().byte().permute(1, 2, 0).numpy()
        try:
            expected = pic.compute_pic_metric(
                picture, maps[i].numpy(), hidden, predict, information.THRESHOLDS, 0.5, True, 20
            ).auc
        except pic.ComputePicMetricError:
            expected = math.nan
        assert found["SIC"][i].item() == pytest.approx(expected, abs=1e-6, nan_ok=True)
