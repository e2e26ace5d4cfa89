"""Logits of images with some regions kept, and what is reused inside `sharing`."""

import pytest
import torch

from explainers.functional.regions import cell_numbers
from explainers.methods.kernel_shap import KernelSHAP
from explainers.methods.lime import LIME
from explainers.perturbation.kept_regions import kept_logits, sharing
from explainers.perturbation.viewer import Viewer
from tests import planted


@pytest.fixture
def classifier():
    return planted.explanandum()


@pytest.fixture
def passes(classifier):
    sizes = []
    classifier.register_forward_hook(lambda *call: sizes.append(len(call[2])))
    return sizes


def scene():
    image = planted.scenes(1, (18, 24))[0][0]
    kept = torch.rand(10, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    return image, torch.full_like(image, 0.2), cell_numbers(18, 24, 3), kept


def shown(classifier, image, fill, regions, kept, batch_size=4):
    viewer = Viewer(classifier, image[None], batch_size)
    return kept_logits(viewer, image, fill, regions, kept)


def test_the_other_regions_show_the_fill(classifier, passes):
    image, fill, regions, kept = scene()
    found = shown(classifier, image, fill, regions, kept)
    assert passes == [4, 4, 2]
    pictures = torch.where(kept[:, regions][:, None], image, fill)
    torch.testing.assert_close(found, classifier(pictures))


def test_each_subset_of_an_image_is_shown_once(classifier, passes):
    image, fill, regions, kept = scene()
    expected = shown(classifier, image, fill, regions, kept)
    passes.clear()
    twice = torch.cat([kept, kept[:3]])
    with sharing() as shared:
        torch.testing.assert_close(shown(classifier, image, fill, regions, twice)[:10], expected)
        assert (sum(passes), shared.shown, shared.saved) == (
            12,
            12,
            1,
        )  # 2 show that it is the same
        again = shown(classifier, image, fill, regions, twice.flip(0)).flip(0)
        assert (sum(passes), shared.shown, shared.saved) == (14, 14, 12)
        torch.testing.assert_close(again[3:10], expected[3:])
        for other in ((image * 0.9, fill, regions), (image, fill + 0.1, regions)):
            passes.clear()
            shown(classifier, *other, kept)
            assert sum(passes) == 12
        passes.clear()
        shown(classifier, image, fill, regions.flip(0), kept)
        assert sum(passes) == 12
    passes.clear()
    shown(classifier, image, fill, regions, kept)
    assert sum(passes) == 10


def test_a_classifier_that_has_changed_is_asked_again(classifier, passes):
    image, fill, regions, kept = scene()
    with sharing():
        before = shown(classifier, image, fill, regions, kept)
        classifier.model.stem.weight.data *= 0.5
        passes.clear()
        torch.testing.assert_close(shown(classifier, image, fill, regions, kept), before / 2)
        assert sum(passes) == 12
        other = planted.explanandum()
        torch.testing.assert_close(shown(other, image, fill, regions, kept), before)


def test_rows_of_a_table_share_their_forward_passes(classifier, passes):
    images, classes = planted.scenes(2)[0] * 0.3, torch.tensor([[0], [1]])
    rows = [
        LIME(classifier, samples=60),
        LIME(classifier, samples=60, form="paper"),
        KernelSHAP(classifier, samples=60),
        KernelSHAP(classifier, samples=60, response="log_odds"),
    ]
    alone = [row.class_maps(images, classes) for row in rows]
    apart = sum(passes)
    passes.clear()
    with sharing() as shared:
        together = [row.class_maps(images, classes) for row in rows]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert sum(passes) == shared.shown == apart - shared.saved
    assert sum(passes) <= 2 * (61 + 2 + 60 + 2)


def test_few_regions_are_shown_once_to_lime_and_kernelshap(classifier, passes):
    """With 4 superpixels the subsets of LIME are among the 16 of exact Shapley values."""
    images, classes = planted.scenes(1)[0] * 0.3, torch.tensor([[0]])
    lime = LIME(classifier, samples=100, segments=4)
    with sharing() as shared:
        exact = KernelSHAP(classifier, samples=100, segments=4)
        count = int(exact.divide(images[0]).max()) + 1
        exact.class_maps(images, classes)
        assert sum(passes) == 2**count
        lime.class_maps(images, classes)
    assert sum(passes) == 2**count + 2
    assert shared.saved == 100 - 2
