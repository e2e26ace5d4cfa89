"""Shapley values of games whose values are known, by enumeration of all orders."""

import itertools
import math

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.methods.kernel_shap import KernelSHAP
from tests import planted


class Game(nn.Module):
    """Six tiles of 8 x 8 pixels, which are kept where they are brighter than half.

    The first three count only together, the next two if there is any, and the last by itself.
    """

    num_classes = 2

    def forward(self, images):
        p = self.value(images[:, 0, 4::8, 4::8].flatten(1) > 0.5)
        return torch.stack([p.log(), (1 - p).log()], dim=1)

    def value(self, kept):
        both = kept[:, 0] & kept[:, 1] & kept[:, 2]
        return 0.1 + 0.4 * both + 0.3 * (kept[:, 3] | kept[:, 4]) + 0.1 * kept[:, 5]


RESPONSES = {
    "probability": lambda p: p,
    "logit": math.log,
    "log_odds": lambda p: math.log(p / (1 - p)),
}
PARTS = {
    "grid": {"regions": "grid", "segments": 9},
    "superpixels": {"segments": 6, "compactness": 1.0, "sigma": 0.0},
}


def tiles(rows=2):
    """An image of tiles, six of them for two rows, of which SLIC makes one superpixel each."""
    colors = [
        [[0.9] * 3] * 3,
        [[0.2, 0.5, 0.8], [0.6, 0.1, 0.4], [0.3, 0.9, 0.6]],
        [[0.1, 0.8, 0.3], [0.7, 0.4, 0.9], [0.2, 0.5, 0.1]],
    ]
    return torch.tensor(colors)[:, :rows].kron(torch.ones(1, 8, 8))[None]


def explain(model=None, **arguments):
    explanandum = Explanandum(model or Game(), mean=[0.0] * 3, std=[1.0] * 3)
    return KernelSHAP(explanandum, **{**PARTS["superpixels"], **arguments})


def of_tiles(maps):
    values = maps[..., 4::8, 4::8]
    assert torch.equal(maps, values.kron(torch.ones(8, 8)))
    return values.flatten(-2)


def by_orders(link):
    """Shapley values (6,) of the game: mean gain over all orders of the tiles."""

    subsets = torch.tensor(list(itertools.product([False, True], repeat=6)))
    keys, scores = map(tuple, subsets.tolist()), map(link, Game().value(subsets).tolist())
    values = dict(zip(keys, scores, strict=True))
    gains = [0.0] * 6
    for order in itertools.permutations(range(6)):
        kept = [False] * 6
        for player in order:
            before = values[tuple(kept)]
            kept[player] = True
            gains[player] += values[tuple(kept)] - before
    return torch.tensor(gains) / math.factorial(6)


@pytest.mark.parametrize("response", RESPONSES)
def test_values_are_the_mean_gain_over_all_orders(response):
    expected = by_orders(RESPONSES[response])
    if response == "probability":
        assert expected.tolist() == pytest.approx([0.4 / 3] * 3 + [0.15] * 2 + [0.1], abs=1e-5)
    method = explain(samples=64, response=response)
    found = of_tiles(method.attribute(tiles(), torch.tensor([[True, False]])))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_estimate_has_the_exact_sum():
    exact = by_orders(RESPONSES["probability"])
    found = of_tiles(explain(samples=40).class_maps(tiles(), torch.tensor([[0, 1]])))[0]
    assert found.sum(dim=1).tolist() == pytest.approx([0.8, -0.8], abs=1e-5)
    torch.testing.assert_close(found[0], -found[1])
    assert 1e-4 < (found[0] - exact).abs().max() < 0.1


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("parts", PARTS)
def test_an_additive_logit_is_found_by_few_samples(parts, seed):
    """Every logit of the planted classifier is the brightness of its quadrant."""
    images, _ = planted.scenes(1, (36, 30))
    arguments = {**PARTS[parts], "segments": 16, "compactness": 100.0, "seed": seed}
    method = KernelSHAP(planted.explanandum(), samples=60, response="logit", **arguments)
    regions = method.divide(images[0])
    bright = planted.SCALE * 4 * images[0].mean(dim=0) * planted.quadrant_masks(36, 30) / (36 * 30)
    count = int(regions.max()) + 1
    assert 2**count > 60
    sums = torch.stack([(bright * (regions == i)).sum(dim=(1, 2)) for i in range(count)])
    found = method.class_maps(images, torch.tensor([[0, 1, 2, 3]]))[0]
    torch.testing.assert_close(found, sums.mT[:, regions], rtol=0, atol=1e-4)


def test_a_grid_has_the_nearest_square_number_of_cells():
    cells = explain(regions="grid", segments=10).divide(torch.zeros(3, 7, 9))
    assert cells.unique().tolist() == list(range(9))
    assert cells[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert explain(regions="grid", segments=1).divide(torch.zeros(3, 7, 9)).unique().tolist() == [0]


def test_a_single_region_has_the_whole_response():
    images, _ = planted.scenes(1)
    classifier = planted.explanandum()
    found = KernelSHAP(classifier, regions="grid", segments=1, fill="black").class_maps(
        images, torch.tensor([[0]])
    )
    change = classifier.probabilities(images) - classifier.probabilities(images * 0)
    torch.testing.assert_close(found, change[0, 0].expand_as(found))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_log_odds_are_those_of_the_probability(multi_label):
    images, classes = planted.scenes(1)[0] * 0.2, torch.tensor([[0, 2]])
    classifier = planted.explanandum(multi_label=multi_label)
    method = KernelSHAP(classifier, **PARTS["grid"], response="log_odds")
    found = method.class_maps(images, classes)[0]
    ends = classifier.probabilities(torch.cat([images, images * 0])).logit()[:, [0, 2]]
    sums = torch.stack([found[:, method.divide(images[0]) == i][:, 0] for i in range(9)]).sum(dim=0)
    torch.testing.assert_close(sums, ends[0] - ends[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("samples", "most"), [(30, 30), (100, 64)])
def test_classes_share_the_forward_passes(samples, most):
    method = explain(samples=samples, batch_size=8)
    passes = []
    method.explanandum.register_forward_hook(lambda *call: passes.append(len(call[2])))
    method.class_maps(tiles().repeat(2, 1, 1, 1), torch.tensor([[0, 1], [1, 0]]))
    assert sum(passes) <= 2 * most
    assert (sum(passes) == 2 * most) == (samples == 100)  # a subset drawn twice is shown once
    assert max(passes) == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 1}, "samples >= 2"),
        ({"compactness": 0.0}, "compactness > 0"),
        ({"regions": "hexagons"}, "got 'hexagons'"),
        ({"response": "odds"}, "got 'odds'"),
        ({"fill": "images"}, "got 'images'"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        KernelSHAP(planted.explanandum(), **wrong)
