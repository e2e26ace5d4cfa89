import pytest
import torch
from timm.models import create_model
from torchvision.models import resnet18

from explainers.networks import deeplab

SMALL = {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]}


@pytest.mark.parametrize(
    ("backbone", "stride"),
    [
        ("tu-test_resnet", 8),
        ("resnet18", 8),
        ("torchvision/resnet50", 8),
        ("torchvision/mobilenet_v3_large", 16),
    ],
)
def test_deeplab_gives_class_logits_at_its_stride(backbone, stride):
    network = deeplab.DeepLabV3(5, backbone, decoder_channels=16, atrous_rates=(2, 4, 6)).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 32, 48)).shape == (1, 5, 32 // stride, 48 // stride)


def test_a_larger_stride_gives_coarser_logits():
    network = deeplab.DeepLabV3(5, **SMALL, output_stride=16).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 96)).shape == (1, 5, 4, 6)


@pytest.mark.parametrize("backbone", ["no_such_encoder", "torchvision/vgg16"])
def test_unknown_backbone_is_named(backbone):
    with pytest.raises(ValueError, match=backbone.rpartition("/")[2]):
        deeplab.DeepLabV3(5, backbone)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_does_not_learn_and_the_decoder_does(frozen):
    network = deeplab.DeepLabV3(3, **SMALL, freeze_backbone=frozen).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.rand(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    changed = {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}
    assert any(name.startswith("decoder.") for name in changed)
    assert any("running_mean" in name for name in changed)
    # Batch norms of the backbone keep their statistics too.
    assert any(name.startswith("encoder.") for name in changed) != frozen


@pytest.mark.parametrize(
    ("backbone", "make"),
    [("resnet18", resnet18), ("tu-test_resnet", lambda: create_model("test_resnet"))],
)
def test_a_backbone_starts_from_a_classifier_s_weights(backbone, make, tmp_path):
    source = make().state_dict()
    torch.save(source, tmp_path / "w.pth")
    options = SMALL | {"backbone": backbone, "backbone_weights": str(tmp_path / "w.pth")}
    own = deeplab.DeepLabV3(5, **options).encoder.state_dict()
    known = {name.removeprefix("model."): value for name, value in own.items()}
    assert set(source) - set(known) == {"fc.weight", "fc.bias"}  # all but the head
    assert all(torch.equal(value, source[name]) for name, value in known.items())


def test_weights_of_another_backbone_are_refused(tmp_path):
    state = resnet18().state_dict()
    del state["conv1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth does not fit the backbone: 1 of .*conv1"):
        deeplab.DeepLabV3(5, "resnet18", backbone_weights=str(tmp_path / "w.pth"))


def test_masks_are_the_sigmoids_of_upsampled_logits():
    network = deeplab.DeepLabV3(3, **SMALL)
    logits = torch.randn(2, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    network.forward = lambda inputs: logits
    inputs = torch.zeros(2, 3, 8, 12)
    large = torch.nn.functional.interpolate(logits, (8, 12), mode="bilinear").sigmoid()
    classes = torch.tensor([[2, 0], [1, 1]])
    expected = large[torch.arange(2)[:, None], classes]
    torch.testing.assert_close(network.class_masks(inputs, classes), expected)
    targets = torch.tensor([[True, False, True], [False, False, False]])
    found = network.target_masks(inputs, targets)
    torch.testing.assert_close(found[0], torch.maximum(large[0, 0], large[0, 2]))
    assert not found[1].any()  # no class at all


def test_logits_are_full_precision_under_autocast():
    network = deeplab.DeepLabV3(3, **SMALL).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network(torch.rand(1, 3, 32, 32)).dtype == torch.float32
