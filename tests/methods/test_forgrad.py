"""FORGrad: an ideal low-pass filter of the map of any method."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from explainers.methods.cam import GradCAM
from explainers.methods.captum_methods import IntegratedGradients, Saliency
from explainers.methods.constant import CentredGaussian, GroundTruth
from explainers.methods.forgrad import FORGrad, low_pass
from tests import planted
from tests.support import save


def wave(height, width, down, across):
    """A plane wave (height, width) with so many cycles along each axis."""
    rows, columns = torch.arange(height)[:, None] / height, torch.arange(width) / width
    return torch.cos(2 * math.pi * (down * rows + across * columns) + 0.3)


@pytest.mark.parametrize("size", [(32, 32), (31, 31), (24, 37)])
def test_waves_up_to_the_cutoff_pass(size):
    kept = 2 + wave(*size, 3, 4) + wave(*size, -4, 3)
    high = wave(*size, 3, 5) + wave(*size, 0, 6) + wave(*size, -6, 1)
    found = low_pass(torch.stack([kept + high, high]), cutoff=5.0)
    torch.testing.assert_close(found, torch.stack([kept, torch.zeros(size)]), atol=1e-5, rtol=1e-5)


def test_a_cutoff_beyond_all_frequencies_changes_nothing():
    maps = torch.rand(2, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(low_pass(maps, 12.0), maps)
    torch.testing.assert_close(
        low_pass(maps, 0.5), maps.mean(dim=(2, 3), keepdim=True).expand_as(maps)
    )


@pytest.mark.parametrize("method", [None, GradCAM, IntegratedGradients])
def test_the_map_of_any_method_is_filtered(method):
    explanandum = planted.explanandum()
    images, targets = planted.scenes(2, (24, 30))
    found = FORGrad(explanandum, method, cutoff=4.0).attribute(images, targets)
    plain = (method or Saliency)(explanandum).attribute(images, targets)
    torch.testing.assert_close(found, low_pass(plain, 4.0))


def test_absolute_values_as_in_xplique():
    explanandum = planted.explanandum()
    images, targets = planted.scenes(2)

    def signed(subject):
        return IntegratedGradients(subject, baseline="mean", channels="sum")

    plain = FORGrad(explanandum, signed, cutoff=3.0)
    absolute = FORGrad(explanandum, signed, cutoff=3.0, absolute=True)
    assert (plain.is_signed, absolute.is_signed) == (True, False)
    expected = low_pass(signed(explanandum).attribute(images, targets).abs(), 3.0).abs()
    torch.testing.assert_close(absolute.attribute(images, targets), expected)


def test_a_checkpoint_or_the_truth_may_be_filtered(tmp_path):
    explanandum = planted.explanandum()
    images, targets = planted.scenes(2)
    path = save(CentredGaussian(explanandum, sigma=0.3), tmp_path / "x.ckpt")
    found = FORGrad(explanandum, checkpoint=path, cutoff=2.0)
    assert not found.class_specific
    plain = CentredGaussian(explanandum, sigma=0.3).attribute(images, targets)
    torch.testing.assert_close(found.attribute(images, targets), low_pass(plain, 2.0))
    truth = FORGrad(explanandum, GroundTruth)
    assert truth.needs_masks
    truth.observe({"image": images, "mask": planted.quadrant_masks(32, 32).expand(2, -1, -1, -1)})
    assert truth.attribute(images, targets).abs().sum() > 0


class Noisy(CentredGaussian):
    """A wide hill in the target's quadrant, under noise that is finer than 6 cycles."""

    def attribute(self, images, targets):
        size = images.shape[-2:]
        noise = torch.randn(size, generator=self.generator())
        hills = low_pass(planted.quadrant_masks(*size)[targets.int().argmax(dim=1)], 4.0)
        return hills + 3 * (noise - low_pass(noise, 6.0))


def test_the_cutoff_of_the_best_faithfulness_is_chosen():
    images, _ = planted.scenes(4)
    method = FORGrad(planted.explanandum(), Noisy)
    figures = method.choose(images, cutoffs=(0.5, 5.0, 40.0))
    assert list(figures) == [0.5, 5.0, 40.0]
    assert method.cutoff == 5.0
    assert figures[5.0] > max(figures[0.5], figures[40.0]) + 0.05


def test_photographs_choose_the_cutoff_once(tmp_path, caplog):
    images, targets = planted.scenes(2, seed=5)
    for i, image in enumerate(planted.scenes(4)[0]):
        pixels = (255 * image.clamp(0, 1)).byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{i}.png")
    explanandum = planted.explanandum()
    method = FORGrad(explanandum, Noisy, cutoff=112.0, bank=str(tmp_path), photographs=4)
    with caplog.at_level("INFO"):
        maps = method.attribute(images, targets)
    assert method.cutoff in (4.0, 8.0)  # the noise is gone
    told = f"the cut-off {method.cutoff:g} was chosen by Faithfulness"
    assert caplog.text.count(told) == 1
    assert torch.equal(method.attribute(images, targets), maps)
    other = FORGrad(explanandum, Noisy, cutoff=method.cutoff)
    torch.testing.assert_close(other.attribute(images, targets), maps)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"cutoff": 0.0}, "must be positive, got 0.0"),
        ({"photographs": 0}, "must be positive, got 15.0 and 0"),
        ({"method": GradCAM, "checkpoint": "x.ckpt"}, "give method or checkpoint, not both"),
    ],
)
def test_wrong_arguments_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        FORGrad(planted.explanandum(), **wrong)
