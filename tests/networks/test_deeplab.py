import pytest
import torch

from explainers.functional import planes
from explainers.networks import deeplab


def upsampled(logits, allowed, size):
    return (
        planes.upsample(logits, size)
        .masked_fill(~allowed[:, :, None, None], -torch.inf)
        .amax(dim=1)
    )


@pytest.mark.parametrize("size", [(37, 61), (7, 9), (16, 16)])
def test_max_over_classes_equals_the_maximum_of_all_upsampled_maps_with_its_gradient(size):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 50, 7, 9, generator=generator, dtype=torch.double, requires_grad=True)
    allowed = torch.rand(2, 50, generator=generator) > 0.5
    weight = torch.randn(2, *size, generator=generator, dtype=torch.double)
    ours = planes.max_over_classes(logits, allowed, size, chunk=16)
    reference = upsampled(logits, allowed, size)
    torch.testing.assert_close(ours, reference)
    gradients = [torch.autograd.grad((out * weight).sum(), logits)[0] for out in (ours, reference)]
    torch.testing.assert_close(*gradients)


def test_max_over_no_class_is_minus_infinity_without_gradient():
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    allowed = torch.tensor([[True, False, False], [False, False, False]])
    masks = planes.max_over_classes(logits, allowed, (4, 4)).sigmoid()
    assert (masks[1] == 0).all()
    masks.sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[1] == 0).all()


def test_a_thousand_classes_need_no_full_resolution_copy():
    logits = torch.randn(1, 1000, 28, 28, requires_grad=True)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.update({t.untyped_storage().data_ptr(): t.numel()}) or t, lambda t: t
    ):
        planes.max_over_classes(logits, torch.ones(1, 1000, dtype=torch.bool), (224, 224))
    assert (
        sum(saved.values()) < 30 * 224 * 224
    )  # 1000 classes at full resolution would be 1000 * 224 * 224


def test_select_and_gather_pick_the_right_class():
    logits = torch.arange(6.0).view(2, 3, 1, 1).expand(2, 3, 2, 2)
    targets = torch.tensor([[False, True, True], [True, False, False]])
    assert planes.select_classes(logits, targets, (4, 4))[:, 0, 0].tolist() == [1, 2, 3]
    assert planes.gather_classes(logits, torch.tensor([[2, 0], [1, 1]]), (4, 4))[
        ..., 0, 0
    ].tolist() == [[2, 0], [4, 4]]


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
        assert network(torch.rand(1, 3, 64, 96)).shape == (1, 5, 64 // stride, 96 // stride)


@pytest.mark.parametrize("backbone", ["no_such_encoder", "torchvision/vgg16"])
def test_unknown_backbone_is_named(backbone):
    with pytest.raises(ValueError, match=backbone.rpartition("/")[2]):
        deeplab.DeepLabV3(5, backbone)
