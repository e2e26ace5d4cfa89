import math

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.methods.lime import LIME, kernel, lasso, ridge
from tests import planted

VALUES = torch.tensor([0.3, -0.1, 0.15, 0.05, 0.2, 0.1])


class Game(nn.Module):
    """Six tiles of 8 x 8 pixels; a tile is kept where it is brighter than half."""

    num_classes = 2

    def forward(self, images):
        tiles = images[:, 0, 4::8, 4::8].flatten(1)  # (n, 6)
        p = self.value(tiles > 0.5).clamp(1e-6, 1 - 1e-6)
        return torch.stack([p.log(), (1 - p).log()], dim=1)

    def value(self, kept):
        return 0.15 + kept.float() @ VALUES


def tiles():
    """An image of six tiles of which SLIC makes one superpixel each."""
    colours = [
        [[0.9] * 3] * 2,
        [[0.2, 0.5, 0.8], [0.6, 0.1, 0.4]],
        [[0.1, 0.8, 0.3], [0.7, 0.4, 0.9]],
    ]
    return torch.tensor(colours).kron(torch.ones(1, 8, 8))[None]


def explain(model, mean=0.0, **arguments):
    explanandum = Explanandum(model, mean=[mean] * 3, std=[1.0] * 3)
    return LIME(explanandum, segments=6, compactness=1.0, sigma=0.0, **arguments)


def of_tiles(found):
    assert torch.equal(found, found[:, 4::8, 4::8].kron(torch.ones(1, 8, 8)))
    return found[:, 4::8, 4::8].flatten(1)


@pytest.mark.parametrize(
    ("form", "alpha", "tolerance"),
    [("released", 1e-3, 1e-4), ("paper", 1e-6, 1e-3)],
)
def test_an_additive_function_is_recovered(form, alpha, tolerance):
    method = explain(Game(), samples=60, form=form, alpha=alpha)
    found = of_tiles(method.class_maps(tiles(), torch.tensor([[0, 1]]))[0])
    torch.testing.assert_close(found, torch.stack([VALUES, -VALUES]), rtol=0, atol=tolerance)


def regression():
    generator = torch.Generator().manual_seed(3)
    samples = (torch.rand(40, 5, generator=generator) < 0.5).double()
    scores = torch.rand(40, 2, generator=generator, dtype=torch.float64)
    return samples, scores, torch.rand(40, generator=generator, dtype=torch.float64)


def test_ridge_solves_the_weighted_normal_equations():
    samples, scores, weights = regression()
    design = torch.cat([torch.ones(40, 1, dtype=torch.float64), samples], dim=1)
    penalty = torch.diag(torch.tensor([0.0] + [2.5] * 5, dtype=torch.float64))
    left = design.mT @ torch.diag(weights) @ design + penalty
    expected = torch.linalg.inv(left) @ design.mT @ torch.diag(weights) @ scores
    torch.testing.assert_close(ridge(samples, scores, weights, 2.5), expected[1:])


def test_lasso_meets_its_optimality_conditions():
    samples, scores, weights = regression()
    scores += 0.5 * samples[:, :1]
    alpha = 0.02
    found = lasso(samples, scores, weights, alpha)
    share = weights / weights.sum()
    residual = scores - samples @ found
    residual -= share @ residual  # the intercept
    slope = samples.mT @ (share[:, None] * residual)
    used = found != 0
    assert 0 < used.sum() < used.numel()
    torch.testing.assert_close(slope[used], alpha * found.sign()[used])
    assert (slope[~used].abs() <= alpha + 1e-9).all()
    assert (lasso(samples, scores, weights, 1.0) == 0).all()


@pytest.mark.parametrize("form", ["released", "paper"])
def test_a_map_is_the_regression_of_its_forward_passes(form):
    classifier = planted.explanandum()
    image = planted.scenes(1, (24, 32))[0] * 0.15
    method = LIME(classifier, samples=80, segments=12, sigma=1.0, form=form, batch_size=9, seed=4)
    found = method.class_maps(image, torch.tensor([[0, 2]]))[0]
    segments = method.superpixels(image[0])
    count = int(segments.max()) + 1
    assert count > 4
    kept = torch.rand(80, count, generator=torch.Generator().manual_seed(4)) < 0.5
    kept[0] = True
    shown = image * kept[:, None, segments]
    scores = classifier.probabilities(shown)[:, [0, 2]].double()
    if form == "released":
        first = torch.ones(80, count, dtype=torch.float64)
        distances = 1 - torch.cosine_similarity(kept.double(), first)
        expected = ridge(kept.double(), scores, (-(distances**2) / 0.25**2).exp().sqrt(), 1.0)
    else:
        distances = (image - shown).double().flatten(1).norm(dim=1) / image.double().norm()
        expected = lasso(kept.double(), scores, (-(distances**2) / 0.25**2).exp().sqrt(), 0.001)
    torch.testing.assert_close(found, expected.float().mT[:, segments], rtol=1e-3, atol=1e-6)
    assert found.abs().max() > 0.01


def test_superpixels_depend_on_the_image_alone():
    images, _ = planted.scenes(2, (40, 56))
    classifier = planted.explanandum()
    labels = LIME(classifier).superpixels(images[0])
    assert torch.equal(labels, LIME(classifier, samples=5, seed=9).superpixels(images[0]))
    assert labels.shape == (40, 56)
    assert torch.equal(labels.unique(), torch.arange(int(labels.max()) + 1))
    assert 30 <= int(labels.max()) + 1 <= 60
    few = LIME(classifier, segments=8).superpixels(images[0])
    assert int(few.max()) + 1 <= 12


@pytest.mark.parametrize("form", ["released", "paper"])
def test_classes_share_the_forward_passes(form):
    method = explain(Game(), samples=30, form=form, batch_size=8)
    passes = []
    method.explanandum.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    method.class_maps(tiles().repeat(2, 1, 1, 1), torch.tensor([[0, 1], [1, 0]]))
    assert sum(passes) == 2 * 30
    assert max(passes) == 8


def test_fill_says_what_is_seen_in_place_of_a_superpixel():
    seen = []

    class Spy(Game):
        def forward(self, images):
            seen.append(images + 0.25)  # back to [0, 1]
            return super().forward(images)

    for fill, expected in (("mean", 0.25), ("black", 0.0)):
        method = explain(Spy(), mean=0.25, samples=3, fill=fill)
        seen.clear()  # of the trial pass
        method.class_maps(tiles(), torch.tensor([[0]]))
        torch.testing.assert_close(seen[0][:1], tiles())  # the first sample is the image
        red = seen[0][1:, 0]
        assert sorted({abs(round(value, 4)) for value in red.flatten().tolist()}) == [expected, 0.9]


def test_kernel_by_hand():
    assert kernel(torch.tensor([0.0, 0.25, 0.5])).tolist() == pytest.approx(
        [1, math.exp(-0.5), math.exp(-2)]
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 1}, "samples >= 2"),
        ({"compactness": 0.0}, "compactness > 0"),
        ({"form": "lars"}, "got 'lars'"),
        ({"alpha": 0.0}, "positive"),
        ({"fill": "images"}, "got 'images'"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LIME(planted.explanandum(), **wrong)
