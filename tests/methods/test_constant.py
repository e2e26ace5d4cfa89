import math

import pytest
import torch

from explainers.methods.constant import CentredGaussian, Constant, GroundTruth, Random
from tests import planted


def test_constant():
    method = Constant(planted.explanandum(), value=0.25)
    images, targets = planted.scenes(2, (4, 5))
    assert method.attribute(images, targets).tolist() == torch.full((2, 4, 5), 0.25).tolist()
    with pytest.raises(ValueError, match=r"\[0, 1\], got 2"):
        Constant(planted.explanandum(), value=2)


def test_random_gives_every_image_the_same_noise():
    images, targets = planted.scenes(3, (4, 5))
    maps = Random(planted.explanandum(), seed=7).attribute(images, targets)
    noise = torch.rand(4, 5, generator=torch.Generator().manual_seed(7))
    assert torch.equal(maps, noise.expand(3, 4, 5))


def test_centred_gaussian_by_hand():
    images, targets = planted.scenes(1, (3, 1))
    bump = CentredGaussian(planted.explanandum(), sigma=0.25).attribute(images, targets)[0, :, 0]
    side = math.exp(-((1 / 3 / 0.25) ** 2) / 2)
    assert bump.tolist() == pytest.approx([side, 1.0, side])
    with pytest.raises(ValueError, match="positive"):
        CentredGaussian(planted.explanandum(), sigma=0)


def test_ground_truth_knows_only_the_images_it_was_fed_in_any_order():
    images, targets = planted.scenes(3, (4, 4))
    masks = torch.rand(3, 4, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    method = GroundTruth(planted.explanandum())
    with pytest.raises(ValueError, match="fed"):
        method.attribute(images, targets)
    method.feed(images, masks)
    two = torch.tensor([[True, False, False, True]])
    assert torch.equal(
        method.attribute(images[[2]], two), (masks[2, 0] | masks[2, 3]).float()[None]
    )
    classes = torch.tensor([[1, 0], [3, 3]])
    maps = method.class_maps(images[[1, 0]], classes)
    assert torch.equal(maps, torch.stack([masks[1, [1, 0]], masks[0, [3, 3]]]).float())
    with pytest.raises(ValueError, match="fed"):
        method.attribute(images + 0.01, targets)
