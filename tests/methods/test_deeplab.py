import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.methods.deeplab import DeepLabExplainer
from tests import planted

SMALL = {
    "network": {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]}
}


def explainer(**changes):
    torch.manual_seed(0)
    return DeepLabExplainer(planted.explanandum(multi_label=True), **SMALL | changes)


def fixed_logits(method, logits):
    """Let the method see these class logits, at the images' own resolution."""
    method.network.forward = lambda inputs: logits
    return method


def test_every_term_by_hand_for_two_images_with_different_numbers_of_labels():
    # Class masks of 2x2 images; labels: image 0 has classes 0 and 1, image 1 has class 2.
    masks = torch.full((2, 4, 2, 2), 0.125, dtype=torch.double)
    masks[0, 0] = torch.tensor([[0.75, 0.25], [0.25, 0.25]])
    masks[0, 1] = torch.tensor([[0.25, 0.25], [0.25, 0.75]])
    masks[1, 2] = torch.tensor([[0.5, 0.5], [0.25, 0.25]])
    targets = torch.tensor([[True, True, False, False], [False, False, True, False]])
    images = torch.full((2, 3, 2, 2), 0.5, dtype=torch.double)
    weights = {"entropy": 1.0, "tv": 1.0, "area_bounds": 1.0, "mask_area": 1.0, "other_area": 1.0}
    method = fixed_logits(explainer(lower=0.25, upper=0.5, **weights).double(), masks.logit())
    terms = {
        k: v.item()
        for k, v in method.loss_terms({"image": images, "target": targets}, None).items()
    }

    # Target masks: max of classes 0 and 1 = [[.75, .25], [.25, .75]]; class 2 = [[.5, .5], [.25,
    # .25]]. Others: 1/8.
    assert terms["mask_area"] == pytest.approx((0.5 + 0.375) / 2)
    assert terms["other_area"] == pytest.approx(0.125)
    # Horizontal: .5 + .5 and 0 + 0; vertical: .5 + .5 and .25 + .25; over 4 pixels.
    assert terms["tv"] == pytest.approx((2 / 4 + 0.5 / 4) / 2)
    # Bounds: brightest 1 of 4 should be 1, all but the brightest 2 should be 0.
    first = (0.25 + 0.5) / 4  # either class of image 0
    second = (0.5 + 0.5) / 4
    assert terms["area_bounds"] == pytest.approx((first + second) / 2)
    # Kept image: logit k = 20 * 4 * (mean over the image of brightness in quadrant k) = 20 * 0.5 *
    # mask there.
    kept = 10 * torch.tensor([[0.75, 0.25, 0.25, 0.75], [0.5, 0.5, 0.25, 0.25]])
    expected = F.binary_cross_entropy_with_logits(kept, targets.float()).item()
    assert terms["classification"] == pytest.approx(expected, rel=1e-6)
    removed = 10 * torch.tensor([[0.25, 0.75, 0.75, 0.25], [0.5, 0.5, 0.75, 0.75]])
    p = removed.softmax(dim=1)
    assert terms["entropy"] == pytest.approx((p * p.log()).mean().item(), rel=1e-5)

    summed = fixed_logits(
        explainer(lower=0.25, upper=0.5, bounds_reduction="sum", **weights).double(), masks.logit()
    )
    terms = summed.loss_terms({"image": images, "target": targets}, None)
    assert terms["area_bounds"].item() == pytest.approx((2 * first + second) / 2)


def released_total(images, targets, low, classifier, weights, lower, upper):
    """The released total, image by image: all maps upsampled, sorted areas, reflected TV."""
    size = images.shape[-2:]
    maps = F.interpolate(low, size=size, mode="bilinear", align_corners=False).sigmoid()
    total = 0.0
    for x, t, s in zip(images, targets, maps, strict=True):
        m, n = s[t].amax(dim=0), s[~t].amax(dim=0)
        kept, removed = classifier((x * m)[None])[0], classifier((x * (1 - m))[None])[0]
        bce = -(t * F.logsigmoid(kept) + ~t * F.logsigmoid(-kept)).mean()
        p = removed.softmax(dim=0)
        tv = 0.0
        for mask in (m, n):
            padded = F.pad(mask[None, None], (0, 1, 0, 1), mode="reflect")[0, 0]
            tv = tv + ((padded[:-1, 1:] - mask).abs() + (padded[1:, :-1] - mask).abs()).mean()
        bounds = 0.0
        for q in s[t].flatten(1).sort(dim=1, descending=True).values:
            index = torch.arange(len(q))
            bounds = bounds + ((index < int(len(q) * lower)).double() - q).clamp(min=0).mean()
            bounds = bounds + (q - (index < int(len(q) * upper)).double()).clamp(min=0).mean()
        area = weights["mask_area"] * m.mean() + weights["other_area"] * n.mean()
        total = total + bce + weights["entropy"] * (p * p.log()).mean()
        total = total + weights["tv"] * tv + weights["area_bounds"] * bounds + area
    return total / len(images)


def test_a_training_step_equals_an_independent_derivation_with_its_gradients():
    weights = {"entropy": 3.0, "tv": 0.7, "area_bounds": 0.8, "mask_area": 0.01, "other_area": 0.3}
    method = (
        explainer(bounds_reduction="sum", tv_border="reflect", **weights).double().eval()
    )  # no dropout
    images, _ = planted.scenes(3, (40, 48))
    images = images.double()
    targets = torch.tensor(
        [[True, True, False, True], [False, False, True, False], [True, False, False, False]]
    )
    terms = method.loss_terms({"image": images, "target": targets}, None)
    ours = torch.stack(list(terms.values())).sum()
    reference = released_total(
        images, targets, method.network(images), method.explanandum.model, weights, 0.05, 0.3
    )
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-7)
    learned = [p for p in method.parameters() if p.requires_grad]
    for a, b in zip(
        torch.autograd.grad(ours, learned), torch.autograd.grad(reference, learned), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_default_weights_and_rate_are_the_released_ones_for_voc_and_vgg():
    method = explainer()
    released = {"entropy": 1.0, "tv": 1.0, "area_bounds": 1.0, "mask_area": 0.1, "other_area": 0.3}
    assert method.weights == released
    assert (method.lower, method.upper) == (0.05, 0.3)
    assert method.optimizer_defaults["lr"] == 1e-5
    assert (method.bounds_reduction, method.tv_border) == ("mean", "replicate")  # not released


def test_an_image_without_labels_and_one_with_all_train_without_harm():
    method = explainer()
    images, _ = planted.scenes(2)
    targets = torch.tensor([[False] * 4, [True] * 4])
    terms = method.loss_terms({"image": images, "target": targets}, None)
    torch.stack(list(terms.values())).sum().backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    assert (method.eval().attribute(images, targets)[0] == 0).all()


def test_class_maps_and_the_merged_map_agree():
    method = explainer().eval()
    images, _ = planted.scenes(2, (33, 47))
    with torch.no_grad():
        maps = method.class_maps(images, torch.tensor([[0, 3], [2, 1]]))
        merged = method.attribute(
            images, torch.tensor([[True, False, False, True], [False, True, True, False]])
        )
    torch.testing.assert_close(maps.amax(dim=1), merged)


def test_one_forward_of_the_network_gives_all_classes():
    method = explainer().eval()
    calls = []
    method.network.register_forward_hook(lambda *_: calls.append(1))
    images, _ = planted.scenes(2)
    method.class_maps(images, torch.arange(4).expand(2, 4))
    assert len(calls) == 1


def test_autocast_gives_finite_gradients():
    method = explainer()
    images, targets = planted.scenes(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method.loss_terms({"image": images, "target": targets}, None)
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (torch.zeros(2, 4), "dtype bool, got"),
        (torch.zeros(2, 3, dtype=torch.bool), r"expected multi-hot targets of shape \(2, 4\)"),
        (torch.zeros(2, dtype=torch.long), "one_hot"),
    ],
)
def test_wrong_targets_are_named_with_the_fix(targets, told):
    images, _ = planted.scenes(2)
    with pytest.raises(ValueError, match=told):
        explainer().attribute(images, targets)


def test_negative_log_of_chance_bounds_the_entropy_term():
    terms = explainer().loss_terms(
        dict(zip(("image", "target"), planted.scenes(4), strict=True)), None
    )
    assert -math.log(4) / 4 <= terms["entropy"].item() <= 0


def test_the_folded_classifier_sees_the_masked_images_only_while_training():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    model[1].running_mean.uniform_(0, 0.3)
    model[1].running_var.uniform_(0.5, 2)
    classifier = Explanandum(
        model, multi_label=True, input_size=[32, 32], mean=[0.0] * 3, std=[1.0] * 3
    )
    batch = dict(zip(("image", "target"), planted.scenes(2), strict=True))
    method = DeepLabExplainer(classifier, fold=True, **SMALL).eval()
    before = method.loss_terms(batch, None)
    method.on_fit_start()
    (copy,) = method.faster
    calls = []
    copy.model.register_forward_hook(lambda *_: calls.append("copy"))
    model.register_forward_hook(lambda *_: calls.append("original"))
    during = method.loss_terms(batch, None)
    assert calls == ["copy"]
    assert not isinstance(copy.model[1], nn.BatchNorm2d)
    for name, value in before.items():
        torch.testing.assert_close(during[name], value, rtol=1e-4, atol=1e-6)
    assert not any("faster" in name for name in method.state_dict())
    method.on_fit_end()
    method.loss_terms(batch, None)
    assert calls == ["copy", "original"]
    method.fold = False
    method.on_fit_start()
    assert method.faster == []
