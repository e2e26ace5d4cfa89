"""What every classifier must keep to, checked when it is wrapped."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.explanandum import contract
from tests.tiny import KNOWN, Tiny, images


def test_one_output_is_the_sigmoid_of_two_classes():
    network = Tiny(1)
    explanandum = Explanandum(network, **KNOWN, class_names=["cat", "dog"])
    z = network((images() - 0.5) / 0.25)[:, 0]
    assert explanandum.num_classes == 2
    torch.testing.assert_close(explanandum(images()), torch.stack([0 * z, z], dim=1))
    torch.testing.assert_close(explanandum.probabilities(images())[:, 1], z.sigmoid())
    assert explanandum.predict(images())[:, 1].tolist() == (z > 0).tolist()
    again = Explanandum(network, **KNOWN, num_classes=2)
    torch.testing.assert_close(again(images()), explanandum(images()))


def test_one_output_with_multi_label_is_one_class():
    explanandum = Explanandum(Tiny(1, end=lambda z: z.squeeze()), **KNOWN, multi_label=True)
    assert (explanandum.num_classes, explanandum(images(1)).shape) == (1, (1, 1))
    z = Tiny(1)((images() - 0.5) / 0.25)
    torch.testing.assert_close(explanandum.probabilities(images()), z.sigmoid())


PROBABILITIES = {
    "softmax": lambda z: z.softmax(dim=1),
    "low precision": lambda z: z.bfloat16().softmax(dim=1),
    "an ensemble": lambda z: (z.softmax(dim=1) + (2 * z).softmax(dim=1)) / 2,
    "two classes": lambda z: torch.stack([z[:, 0].sigmoid(), 1 - z[:, 0].sigmoid()], dim=1),
    "smoothed": lambda z: 0.9 * z.softmax(dim=1) + 0.1 / z.shape[1],
    "without gradients": lambda z: z.softmax(dim=1).detach(),
    "in a dict": lambda z: {"logits": z.softmax(dim=1)},
    "one unit": lambda z: z[:, :1].softmax(dim=1),
}


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("end", PROBABILITIES.values(), ids=PROBABILITIES)
def test_probabilities_that_sum_to_one_are_refused(end, multi_label):
    with pytest.raises(ValueError, match=r"probabilities already, as they sum to 1; .* leave its"):
        Explanandum(Tiny(end=end), **KNOWN, multi_label=multi_label)


def test_percentages_are_refused():
    with pytest.raises(ValueError, match="probabilities already, as they sum to 100;"):
        Explanandum(Tiny(end=lambda z: 100 * z.softmax(dim=1)), **KNOWN)


SIGMOIDS = {
    "sigmoid": torch.sigmoid,
    "by hand": lambda z: 1 / (1 + (-z).exp()),
    "hard": F.hardsigmoid,
    "of tanh": lambda z: (z.tanh() + 1) / 2,
    "several views": lambda z: torch.stack([z.sigmoid(), (2 * z).sigmoid()]).mean(dim=0),
    "clamped": lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6),
    "without gradients": lambda z: z.sigmoid().detach(),
    "one unit": lambda z: z[:, :1].sigmoid(),
}


@pytest.mark.parametrize("end", SIGMOIDS.values(), ids=SIGMOIDS)
def test_outputs_of_a_sigmoid_are_warned_of(end):
    with pytest.warns(UserWarning, match=r"outputs lie in \[0, 1\], .* sigmoid; .* leave it out"):
        Explanandum(Tiny(end=end), **KNOWN, multi_label=True)


def test_outputs_of_a_log_sigmoid_are_warned_of():
    with pytest.warns(UserWarning, match="outputs lie below 0, .* log-sigmoid; .* the exponential"):
        Explanandum(Tiny(end=F.logsigmoid), **KNOWN, multi_label=True)


LOGITS = {
    "logits": lambda z: z,
    "small and positive": lambda z: 0.1 * z.relu() + 0.2,
    "log-softmax": lambda z: z.log_softmax(dim=1),
    "ending in a ReLU": lambda z: (z / 10).relu(),
}


@pytest.mark.parametrize("end", LOGITS.values(), ids=LOGITS)
def test_logits_are_taken_without_a_word(end):
    Explanandum(Tiny(end=end), **KNOWN)


def test_log_probabilities_of_one_label_are_no_logits_of_several():
    end = LOGITS["log-softmax"]
    single = Explanandum(Tiny(end=end), **KNOWN)
    expected = Explanandum(Tiny(), **KNOWN).probabilities(images())
    torch.testing.assert_close(single.probabilities(images()), expected)
    with pytest.raises(ValueError, match="logarithms of a softmax, whose sigmoid never exceeds"):
        Explanandum(Tiny(end=end), **KNOWN, multi_label=True)


@pytest.mark.parametrize(
    ("network", "arguments", "told"),
    [
        (Tiny(end=lambda z: z * float("nan")), {}, "random images are not finite: check its weig"),
        (Tiny(end=lambda z: z / 0), {}, "not finite"),
        (Tiny(channels=4), {}, r"Tiny takes 4 channels; only RGB \(3\) and gray \(1\) are supp"),
        (Tiny(), {"num_classes": 7}, "num_classes is 7, but the classifier has 4 outputs"),
        (nn.Linear(7, 2), {}, r"Linear fails on a batch of images of 224 x 224 \(RuntimeErr.*se"),
        (nn.Linear(7, 2), {"input_size": [9, 8]}, "fails on a batch of images of 9 x 8"),
    ],
)
def test_what_is_no_classifier_of_images_is_refused_in_one_line(network, arguments, told):
    with pytest.raises(ValueError, match=told) as error:
        Explanandum(network, **KNOWN, **arguments)
    assert "\n" not in str(error.value)


def flat(side):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, 4))


def test_a_usual_size_is_found_and_another_must_be_said():
    assert Explanandum(flat(28), **KNOWN).input_size == [28, 28]
    assert Explanandum(flat(9), **KNOWN, input_size=[9, 9]).num_classes == 4
    with pytest.raises(ValueError, match="set input_size to the height and width"):
        Explanandum(flat(9), **KNOWN)


def test_the_first_images_are_the_trial_of_a_network_that_states_its_classes_alone():
    network = flat(9)
    network.num_classes = 4
    explanandum = Explanandum(network, **KNOWN)
    expected = network((images(2, (9, 9)) - 0.5) / 0.25)
    torch.testing.assert_close(explanandum(images(2, (9, 9))), expected)
    network.append(nn.Softmax(dim=1))
    with pytest.raises(ValueError, match="probabilities already"):
        Explanandum(network, **KNOWN)(images(2, (9, 9)))


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_the_trial_leaves_nothing_behind(context):
    network, state = Tiny(), torch.get_rng_state()
    with context():
        explanandum = Explanandum(network, **KNOWN)
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert torch.equal(torch.get_rng_state(), state)
    shown = images().requires_grad_()
    explanandum(shown).sum().backward()
    assert shown.grad.abs().sum() > 0


def test_a_network_that_changes_its_input_leaves_the_images_alone():
    class Inplace(Tiny):
        def forward(self, x):
            return super().forward(x.mul_(2))

    shown = images()
    Explanandum(Inplace(), mean=[0.0] * 3, std=[1.0] * 3)(shown)
    assert torch.equal(shown, images())


def test_a_network_that_takes_gradients_itself_is_accepted():
    class Score(Tiny):
        def forward(self, x):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.logits(x).sum(), x)
            return self.logits(slope)

    assert Explanandum(Score(), **KNOWN).predict(images()).sum() == 3


def test_batch_statistics_are_warned_of():
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), Tiny())
    with pytest.warns(UserWarning, match="depends on the other images of a batch"):
        Explanandum(network, **KNOWN)


def test_another_image_size_is_named_with_what_to_do():
    small = {"embed_dim": 24, "num_heads": 2, "depth": 1}
    vit = Explanandum("deit_tiny_patch16_224", num_classes=3, model_args=small)
    told = (
        r"made for images of 224 x 224 and fails on 96 x 96 .*: set data\.init_args\.image_size: "
        r"\[224, 224\], or model_args: \{img_size: \[96, 96\]\}, or for a ViT \{dynamic_img_size"
    )
    for run in (vit, vit.features):
        with pytest.raises(ValueError, match=told) as error:
            run(images(1, (96, 96)))
        assert "\n" not in str(error.value)
    for fix in ({"img_size": [96, 96]}, {"dynamic_img_size": True}):
        fixed = Explanandum("deit_tiny_patch16_224", num_classes=3, model_args=small | fix)
        assert fixed(images(1, (96, 96))).shape == (1, 3)


def test_errors_at_the_right_size_are_the_network_s_own():
    class Breaks(Tiny):
        broken = False

        def forward(self, x):
            if self.broken:
                raise RuntimeError("out of order")
            return super().forward(x)

    explanandum = Explanandum(Breaks(), **KNOWN, input_size=[16, 16])
    explanandum.model.broken = True
    with pytest.raises(RuntimeError, match=r"^out of order$"):
        explanandum(images())
    with pytest.raises(ValueError, match=r"fails on 8 x 8 \(out of order\)"):
        explanandum(images(1, (8, 8)))


def test_a_library_s_architecture_without_weights_is_said_once(recwarn):
    explanandum = Explanandum("test_resnet", num_classes=2)
    assert not recwarn
    with pytest.warns(UserWarning, match="test_resnet has random weights: set pretrained: true"):
        explanandum(images())
    recwarn.clear()
    explanandum(images())
    loaded = Explanandum("test_resnet", num_classes=2)
    loaded.load_state_dict(explanandum.state_dict())
    loaded(images())
    Explanandum("tests.tiny:Tiny", **KNOWN)(images())
    assert not recwarn


def test_the_first_convolution_tells_the_channels():
    assert contract.input_channels(Tiny(channels=1)) == 1
    assert contract.input_channels(nn.Flatten()) == 3
