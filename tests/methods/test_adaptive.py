"""Methods with a tolerance: easy images take few passes, noisy ones the whole budget."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.methods.gradient_methods import SmoothGrad
from explainers.methods.kernel_shap import KernelSHAP
from explainers.methods.rise import RISE
from explainers.methods.sloc import SLOC
from explainers.perturbation import grids

pytestmark = pytest.mark.filterwarnings("ignore:images take all")

SIDE = 16
WEIGHT = torch.arange(1.0, 17).view(4, 4).kron(torch.ones(4, 4)) / 136 / 16  # sums to 1


class Ramp(nn.Module):
    """The brightness of 16 cells, weighted 1 to 16, is the probability of class 0, plus noise.

    The noise is a function of the image that changes without rule, with an amplitude of 0.02.
    """

    num_classes = 2

    def forward(self, images):
        gray = images.mean(dim=1)
        noise = (1e4 * (gray * WEIGHT.sqrt()).sum(dim=(1, 2))).sin()
        p = 0.1 + 0.8 * (gray * WEIGHT).sum(dim=(1, 2)) + 0.02 * noise
        return torch.stack([p.log(), (1 - p).log()], dim=1)


class Quadrants(nn.Module):
    """The cube of the brightness, weighted 1, 4, 9 and 16 by quadrant, plus noise as in `Ramp`."""

    num_classes = 2

    def forward(self, images):
        gray, weight = images.mean(dim=1), torch.tensor([[1.0, 4.0], [9.0, 16.0]]) / 30 / 64
        seen = (gray * weight.kron(torch.ones(8, 8))).sum(dim=(1, 2))
        p = 0.05 + 0.9 * seen**3 + 0.02 * (1e4 * seen).sin()
        return torch.stack([p.log(), (1 - p).log()], dim=1)


class Waves(nn.Module):
    """Sines of the pixels: their gradients cancel where noise moves pixels by many periods."""

    num_classes = 2

    def forward(self, images):
        logit = ((200 * images.mean(dim=1)).sin() * WEIGHT).sum(dim=(1, 2))
        return torch.stack([logit, -logit], dim=1)


METHODS = {  # class, classifier, arguments, fewest and all samples, passes beside them
    "rise": (RISE, Quadrants, {"masks": 300, "grid": 2}, 128, 300, 0),
    "sloc": (SLOC, Ramp, {"masks": 300, "patches": {"sides": 56, "probability": 0.5}}, 128, 300, 1),
    "shap": (KernelSHAP, Ramp, {"samples": 300, "regions": "grid", "segments": 16}, 128, 298, 2),
    "smooth_grad": (SmoothGrad, Waves, {"samples": 20}, 8, 20, 0),
}


def images():
    """An easy and a noisy image: bright or without contrast, and dark or with contrast."""
    dark = torch.full((3, SIDE, SIDE), 1e-3)
    return torch.stack([torch.ones(3, SIDE, SIDE), dark])


def pictures(name):
    found = images()
    if name == "smooth_grad":  # noise is relative to the contrast
        found[1, :, 0, 0] = 1
    return found


def explain(name, **changes):
    kind, model, arguments, *_ = METHODS[name]
    explanandum = Explanandum(model(), mean=[0.0] * 3, std=[1.0] * 3)
    return kind(explanandum, **{"batch_size": 16, **arguments, "tolerance": 0.3, **changes})


def shown(method, given):
    """Maps, and the number of images that the classifier sees."""
    sizes = []
    hook = method.explanandum.register_forward_pre_hook(lambda _, seen: sizes.append(len(seen[0])))
    maps = method.attribute(given, F.one_hot(torch.zeros(len(given), dtype=int), 2).bool())
    hook.remove()
    return maps, sum(sizes)


@pytest.mark.parametrize("name", METHODS)
def test_an_easy_image_stops_early_and_a_noisy_one_takes_all(name):
    *_, few, total, beside = METHODS[name]
    easy, noisy = pictures(name).split(1)
    fill = int(name == "sloc")  # seen once for a batch
    drawn = explain(name, tolerance=None)
    distinct = shown(drawn, easy)[1] - beside - fill  # a subset drawn twice is shown once
    assert distinct == total if name != "shap" else distinct <= total
    quick = shown(explain(name), easy)[1]
    assert quick <= few + beside + fill
    assert shown(explain(name), noisy)[1] == distinct + beside + fill
    both = shown(explain(name), torch.cat([easy, noisy]))[1]
    assert both == quick + distinct + beside  # passes are those really made


@pytest.mark.parametrize("name", METHODS)
def test_a_map_depends_neither_on_the_batch_nor_on_the_size_of_passes(name):
    given = pictures(name)
    maps, _ = shown(explain(name), given)
    alone = torch.cat([shown(explain(name, batch_size=7), image)[0] for image in given.split(1)])
    scale = maps.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)  # SLOC's can be 0
    torch.testing.assert_close(alone / scale, maps / scale, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_tolerance_that_nothing_meets_gives_the_full_map(name):
    given = pictures(name)[1:]
    full, count = shown(explain(name, tolerance=None), given)
    with pytest.warns(UserWarning, match=r"images take all \d+ samples"):
        found, passes = shown(explain(name, tolerance=1e-9), given)
    assert passes == count
    torch.testing.assert_close(found, full, rtol=1e-3, atol=1e-4 * float(full.abs().max()))


def test_rise_averages_the_first_masks():
    method = explain("rise")
    found, _ = shown(method, images()[:1])
    draws = grids.rise(300, (SIDE, SIDE), (2, 2), 0.5, 300, method.generator())
    masks = next(iter(draws))[:128]
    p = method.explanandum.probabilities(masks[:, None].expand(-1, 3, -1, -1))[:, 0]
    expected = (p[:, None, None] * masks).sum(dim=0) / (128 * 0.5)
    torch.testing.assert_close(found[0], expected)


def test_the_least_certain_class_counts():
    method, sizes = explain("rise"), []
    method.explanandum.register_forward_pre_hook(lambda _, seen: sizes.append(len(seen[0])))
    counts = []
    for classes in ([[0]], [[1]], [[0, 1]]):
        method.class_maps(images()[:1], torch.tensor(classes))
        counts.append(sum(sizes))
        sizes.clear()
    assert counts[0] < counts[1] == counts[2]


def test_nonsense_is_refused():
    for name in METHODS:
        with pytest.raises(ValueError, match=r"tolerance must be in \(0, 1\)"):
            explain(name, tolerance=2.0)
    with pytest.raises(ValueError, match="share needs a fixed budget"):
        explain("sloc", share=True)
