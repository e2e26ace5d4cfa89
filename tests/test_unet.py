import pytest
import timm
import torch

from explainers import Explanandum, unet
from tests import planted


@pytest.mark.parametrize(
    ("name", "size"),
    [("test_resnet", (64, 64)), ("test_vit", (160, 160)), ("test_efficientnet", (61, 90))],
)
def test_scores_have_the_size_of_the_images(name, size):
    explanandum = Explanandum(name, num_classes=3)
    network = unet.decoder(explanandum, widths=[16, 8, 8, 4, 4]).eval()
    images = torch.rand(2, 3, *size)
    scores = network(explanandum.features(images), size)
    assert scores.shape == (2, 1, *size)
    one = network(explanandum.features(images[:1]), size)
    torch.testing.assert_close(scores[:1], one, rtol=1e-3, atol=1e-4)


def test_the_published_decoder_of_a_resnet50_has_its_number_of_weights():
    channels = timm.create_model("resnet50", features_only=True).feature_info.channels()
    network = unet.UNetDecoder(channels, stride=2)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(9.68, abs=0.01)


def test_the_class_gate_scales_and_shifts_normalised_features_as_the_class_says():
    gate = unet.ClassGate(4, 2)
    gate.scale.weight.data[3] = torch.tensor([1.0, -1.0])
    gate.shift.weight.data[3] = torch.tensor([0.5, 7.0])
    features = torch.tensor([[[[0.0, 2.0]], [[5.0, 9.0]]]])  # normalised: -1 and 1
    found = gate(features, torch.tensor([3])).flatten().tolist()
    assert found == pytest.approx([-1.5, 2.5, 7.0, 7.0], abs=1e-4)


def test_plain_blocks_fit_too():
    explanandum = planted.explanandum()
    network = unet.decoder(explanandum, "plain", widths=[4] * 4)
    assert network(explanandum.features(torch.rand(2, 3, 32, 32)), (32, 32)).shape == (2, 1, 32, 32)
