import pytest
import torch

from explainers.explanandum.gradients import pyramid_maps, stage_evidence
from explainers.functional.dither import bayer
from explainers.networks.evidence import EvidenceNetwork
from tests import planted


def found(kind="cnn", size=(32, 32)):
    explanandum = planted.explanandum(kind)
    images, targets = planted.scenes(2, size, seed=1)
    classes = targets.int().argmax(1, keepdim=True)
    evidence, logits = stage_evidence(explanandum, images, classes)
    assert torch.equal(logits, explanandum(images))
    return evidence[0], pyramid_maps(explanandum, images, classes)[:, 0], images.shape[-2:]


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_untrained_it_is_pyramid_cam_and_a_pattern(kind):
    evidence, expected, size = found(kind)
    channels = [values.shape[1] for values in evidence.values]
    for tile in (0, 16):
        network = EvidenceNetwork(channels, width=8, tile=tile)
        pattern = bayer(*size) if tile else torch.zeros(size)
        torch.testing.assert_close(network([evidence], size), expected + pattern)


def test_every_weight_learns_but_those_behind_the_head_at_first():
    evidence, _, size = found()
    network = EvidenceNetwork([values.shape[1] for values in evidence.values], width=8, tile=4)
    weights = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(network.looks[0].head.weight)
    (network([evidence], size) * weights).sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in network.parameters())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_scale_of_the_gradients_does_not_matter(scale):
    """Log-odds of another classifier may be steeper."""
    evidence, _, size = found()
    network = EvidenceNetwork([values.shape[1] for values in evidence.values], width=8).eval()
    torch.nn.init.normal_(network.looks[0].head.weight)
    scaled = evidence._replace(products=[scale * each for each in evidence.products])
    torch.testing.assert_close(
        network([scaled], size), network([evidence], size), rtol=1e-3, atol=1e-3
    )


def test_sizes_that_are_no_multiples_are_fine():
    evidence, _, _ = found()
    network = EvidenceNetwork([values.shape[1] for values in evidence.values], width=8)
    assert network([evidence], torch.Size((33, 45))).shape == (2, 33, 45)


@pytest.mark.parametrize("options", [{"width": 6}, {"width": 0}, {"tile": 6}, {"tile": -4}])
def test_widths_and_tiles_are_multiples_of_four(options):
    with pytest.raises(ValueError, match="expected multiples of 4"):
        EvidenceNetwork([4, 8], **options)


def test_the_looks_are_summed_with_the_variance_of_one():
    evidence, expected, size = found()
    channels = [values.shape[1] for values in evidence.values]
    network = EvidenceNetwork(channels, looks=2, width=8, tile=0)
    torch.testing.assert_close(network([evidence, evidence], size), 2**0.5 * expected)
    with pytest.raises(ValueError, match="shorter"):
        network([evidence], size)
