import pytest
import torch
from torch import nn
from torchvision.models import squeezenet1_1

from explainers import Explanandum
from explainers.explanandum.classifier import Classifier
from explainers.functional import fills
from tests import planted

TINY = {"embed_dim": 24, "num_heads": 2}  # of a ViT


class Noisy(nn.Module):
    """BatchNorm and dropout, which must not wake up."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.net = nn.Sequential(
            nn.Conv2d(3, num_classes, 1),
            nn.BatchNorm2d(num_classes),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def forward(self, x):
        return self.net(x)


def test_it_stays_frozen_whoever_calls_train():
    frozen = Explanandum(Noisy())
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    nn.ModuleList([frozen]).train()
    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(frozen(images), frozen(images), rtol=0, atol=0)
    assert not any(module.training for module in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    for name, value in frozen.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_gradients_reach_the_images():
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    Explanandum(Noisy())(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_normalisation_probabilities_and_predictions_by_hand():
    classifier = planted.explanandum()
    images, targets = planted.scenes(4)
    assert (classifier.predict(images) == targets).all()
    torch.testing.assert_close(classifier.probabilities(images).sum(dim=1), torch.ones(4))
    expected = planted.SCALE * images[0].mean(dim=0)[:16, :16].mean()
    torch.testing.assert_close(classifier(images)[0, 0], expected)
    shifted = Explanandum(planted.PlantedCNN(), mean=[0.1] * 3, std=[0.5] * 3)
    torch.testing.assert_close(shifted(images), classifier((images - 0.1) / 0.5))


def test_multi_label_predicts_all_above_one_half_and_never_nothing():
    classifier = planted.explanandum(multi_label=True)
    logits = torch.tensor([[1.0, 2.0, -1.0, -3.0], [-4.0, -2.0, -3.0, -9.0]])
    assert classifier.to_targets(logits).tolist() == [
        [True, True, False, False],
        [False, True, False, False],
    ]
    torch.testing.assert_close(classifier.to_probabilities(logits), logits.sigmoid())


def test_several_labels_may_be_none_if_that_is_allowed():
    logits = torch.tensor([[1.0, 2.0, -1.0], [-4.0, -2.0, -3.0]])
    found = planted.explanandum(multi_label=True).to_targets(logits, never_empty=False)
    assert found.tolist() == [[True, True, False], [False, False, False]]
    found = planted.explanandum().to_targets(logits, never_empty=False)
    assert found.tolist() == [[False, True, False]] * 2  # of one label there is always one


def test_normalisation_keeps_the_memory_layout():
    explanandum, images = planted.explanandum(), torch.rand(2, 3, 4, 5)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = explanandum.normalize(images.contiguous(memory_format=layout))
        assert found.is_contiguous(memory_format=layout)
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(3, 4, 5\)"):
        explanandum.normalize(images[0])


def test_half_precision_logits_become_full_probabilities():
    logits = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)
    found = planted.explanandum().to_probabilities(logits)
    torch.testing.assert_close(found, logits.float().softmax(dim=1))
    assert planted.explanandum().to_probabilities(logits.double()).dtype == torch.float64


def test_fills_know_the_classifier_s_mean_and_std():
    explanandum = Explanandum(Noisy(), mean=[0.5, 0.4, 0.3], std=[0.3, 0.1, 0.2])
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    mean, std = explanandum.mean, explanandum.std
    assert torch.equal(explanandum.fill("mean")(images), mean)
    blurred = fills.fill("blur", images, mean, sigma=2.0)
    assert torch.equal(explanandum.fill("blur", sigma=2.0)(images), blurred)
    noise = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(7))
    assert torch.equal(explanandum.fill("noise", 7)(images)[0], (mean + std * noise)[0])
    bank = torch.rand(1, 3, 6, 6)
    assert torch.equal(explanandum.fill("images", bank=bank)(images), bank)
    masks = torch.zeros(2, 6, 6)
    assert torch.equal(explanandum.fill("black")(images, masks), torch.zeros_like(mean))


def test_an_integer_draws_the_same_in_every_call_and_a_generator_goes_on():
    explanandum, images = planted.explanandum(), torch.zeros(1, 3, 4, 4)
    seeded = explanandum.fill("noise", 7)
    first, second = seeded(images), seeded(images)
    assert torch.equal(first, second)
    going_on = explanandum.fill("noise", torch.Generator().manual_seed(7))
    assert torch.equal(going_on(images), first)
    assert not torch.equal(going_on(images), first)
    assert not torch.equal(explanandum.fill("noise", 8)(images), first)


def test_classes_are_kept_before_the_softmax():
    full = planted.explanandum()
    part = Explanandum(
        planted.PlantedCNN(), mean=[0.0] * 3, std=[1.0] * 3, classes=[3, 1], class_names=["d", "b"]
    )
    images, _ = planted.scenes(3)
    torch.testing.assert_close(part.probabilities(images), full(images)[:, [3, 1]].softmax(dim=1))
    with pytest.raises(ValueError, match=r"classes must be indices in \[0, 3\]"):
        Explanandum(planted.PlantedCNN(), classes=[4])


@pytest.mark.parametrize(
    ("name", "options", "size", "strides"),
    [
        ("resnet18", {}, 64, [2, 4, 8, 16, 32]),
        ("vgg11", {"mlp_ratio": 0.01}, 64, [2, 4, 8, 16, 32]),
        ("densenet121", {"growth_rate": 8}, 64, [2, 4, 8, 16, 32]),
        ("convnext_atto", {}, 64, [4, 8, 16, 32]),
        ("efficientnet_lite0", {}, 64, [2, 4, 8, 16, 32]),
        ("test_vit", {}, 160, [2, 4, 8, 16, 32]),
        ("vit_tiny_patch16_224", TINY, 224, [2, 4, 8, 16, 32]),
        ("deit_tiny_patch16_224", TINY, 224, [2, 4, 8, 16, 32]),
    ],
)
def test_features_and_logits_come_from_one_pass(name, options, size, strides):
    classifier = Explanandum(name, num_classes=5, model_args=options)
    calls = []
    handle = classifier.model.register_forward_hook(lambda *_: calls.append("forward"))
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        levels, logits = classifier.features_and_logits(images)
        assert len(calls) <= 1
        torch.testing.assert_close(logits, classifier(images))
    handle.remove()
    assert [tuple(level.shape[-2:]) for level in levels] == [
        (size // s, size // s) for s in strides
    ]


def test_own_modules_name_their_feature_layers():
    images = torch.rand(2, 3, 30, 50)
    levels, logits = planted.explanandum("cnn").features_and_logits(images)
    assert [tuple(f.shape[1:]) for f in levels] == [(4, 15, 25), (4, 8, 13), (4, 4, 7), (4, 2, 4)]
    torch.testing.assert_close(logits, planted.explanandum("cnn")(images))
    tokens = planted.explanandum("vit").features(torch.rand(2, 3, 32, 48))
    assert [tuple(f.shape[1:]) for f in tokens] == [(4, 8, 12)]
    with pytest.raises(ValueError, match="feature_layers"):
        Explanandum(Noisy()).features(images)
    with pytest.raises(ValueError, match="no module 'nope'"):
        Explanandum(Noisy(), feature_layers=["nope"]).features(images)


def test_hooks_are_gone_after_a_failure():
    classifier = planted.explanandum("cnn")
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        classifier.features(torch.rand(2, 4, 8, 8))
    assert not any(m._forward_hooks for m in classifier.modules())


def test_weights_from_a_file_are_loaded(tmp_path):
    """Also a Classifier starts from them, and with a new head."""
    source = squeezenet1_1(weights=None, num_classes=7)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    arguments = {"model": "torchvision/squeezenet1_1", "weights": str(tmp_path / "w.pth")}
    explanandum = Explanandum(**arguments, num_classes=7)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(explanandum(images), source.eval()(explanandum.normalize(images)))
    with pytest.raises(ValueError, match="set num_classes to the file's"):
        Explanandum(**arguments, num_classes=8)
    other = Classifier(**arguments, num_classes=8)
    assert torch.equal(other.network.features[0].weight, source.features[0].weight)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"model": "nothing.ckpt"}, FileNotFoundError, r"nothing\.ckpt"),
        (
            {"model": "test_resnet", "num_classes": 3, "class_names": ["a"]},
            ValueError,
            "expected 3 class names, got 1",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, told):
    with pytest.raises(error, match=told):
        Explanandum(**arguments)


def test_classes_of_any_module_are_counted_and_kept_ones_are_named():
    counted = Explanandum(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, 6)), input_size=[2, 2])
    assert counted.num_classes == 6
    assert counted.class_names == [f"class {k}" for k in range(6)]
    kept = Explanandum(Noisy(), classes=[2, 0])
    assert (kept.num_classes, kept.class_names) == (2, ["class 2", "class 0"])
    known = Explanandum("torchvision/squeezenet1_1", classes=[1, 0])
    assert known.class_names == ["goldfish", "tench"]


def test_config_rebuilds_the_same_classifier():
    first = planted.explanandum(multi_label=True)
    second = Explanandum(**first.config)
    images, _ = planted.scenes(2)
    torch.testing.assert_close(first(images), second(images))
    assert (second.config, second.multi_label) == (first.config, True)
    assert Explanandum(Noisy()).config["model"] is None


def test_plain_convolutions_run_in_channels_last_and_depthwise_ones_as_the_images_are():
    class Plain(nn.Module):
        num_classes = 2

        def __init__(self, groups):
            super().__init__()
            self.first = nn.Conv2d(3, 6, 3)
            self.second = nn.Conv2d(6, 6, 3, groups=groups)

        def forward(self, images):
            self.layout = images.is_contiguous(memory_format=torch.channels_last)
            return self.second(self.first(images)).mean(dim=(2, 3))[:, :2]

    images = torch.rand(2, 3, 8, 8)
    for groups, last in ((1, True), (6, False)):
        subject = Explanandum(Plain(groups), input_size=[8, 8])
        logits = subject(images)
        assert (subject.channels_last, subject.model.layout) == (last, last)
        weight = subject.model.first.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is last
        subject.channels_last = not last
        torch.testing.assert_close(subject(images), logits)
        assert subject.model.layout is not last
        assert subject(images.requires_grad_()).sum().backward() is None
        assert images.grad.is_contiguous()
        images = images.detach()
