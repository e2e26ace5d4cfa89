"""What the hooks see and change, and that none is left: after the block, and after an error."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.explanandum import taps
from tests import planted


def model():
    """The sum of relu(2 x), as the layers "twice", "act" and "head"; the second works in place."""
    twice, head = nn.Linear(3, 3, bias=False), nn.Linear(3, 1, bias=False)
    nn.init.eye_(twice.weight).data.mul_(2)
    nn.init.ones_(head.weight)
    layers = OrderedDict(twice=twice, act=nn.ReLU(inplace=True), head=head)
    return nn.Sequential(layers).requires_grad_(False)


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


IMAGE = torch.tensor([[1.0, -1.0, 3.0]])
BLOCKS = {
    "recorded": lambda network: taps.recorded(network, ["twice", "head"]),
    "replaced": lambda network: taps.replaced(network, "twice", lambda output: output),
    "tapped": lambda network: taps.tapped(network, ["twice", "head"]),
    "counted": taps.counted,
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_hooks_are_gone_after_the_block_and_after_an_error(block):
    network = model()
    with block(network):
        assert hooks(network) > 0
        network(IMAGE)
    assert hooks(network) == 0
    with pytest.raises(RuntimeError, match="shapes"), block(network):
        network(torch.zeros(1, 5))
    assert hooks(network) == 0
    assert network(IMAGE).item() == 8


@pytest.mark.parametrize(
    ("block", "error"),
    [
        (lambda network: taps.recorded(network, ["twice", "nope"]), ValueError),
        (lambda network: taps.watched(network, ["twice", "nope"], print), ValueError),
        (lambda network: taps.tapped(network, ["twice", "nope"]), AttributeError),
        (lambda network: taps.replaced(network, "nope", torch.relu), AttributeError),
    ],
    ids=["recorded", "watched", "tapped", "replaced"],
)
def test_an_unknown_layer_is_named_and_leaves_no_hook(block, error):
    network = model()
    with pytest.raises(error, match="nope"), block(network):
        pass
    assert hooks(network) == 0


def test_recorded_outputs_are_those_of_the_layers_asked_for():
    network = planted.explanandum().model
    images, _ = planted.scenes(2)
    with taps.recorded(network, ["stages.1", "stem"]) as outputs:
        network(images)
    network(2 * images)  # no longer recorded
    assert set(outputs) == {"stages.1", "stem"}
    brightness = images.mean(dim=1, keepdim=True).expand(-1, 4, -1, -1)
    torch.testing.assert_close(outputs["stem"], brightness)
    pooled = F.avg_pool2d(brightness * planted.quadrant_masks(32, 32), 4)  # twice by 2
    torch.testing.assert_close(outputs["stages.1"], pooled)


def test_every_run_of_a_layer_is_watched_with_whatever_it_gives():
    network, seen = model()[:2], []
    network.append(nn.MaxPool1d(1, return_indices=True))
    names = ["twice", "2"]
    with taps.watched(network, names, lambda name, out: seen.append((name, type(out)))):
        network.twice(IMAGE)
        network(IMAGE)
    assert seen == [("twice", torch.Tensor), ("twice", torch.Tensor), ("2", tuple)]


def test_the_network_goes_on_with_what_replaces_an_output():
    network, seen = model(), []
    with taps.replaced(network, "twice", lambda output: seen.append(output.clone()) or output - 3):
        found = network(IMAGE)
    assert [output.tolist() for output in seen] == [[[2, -2, 6]]]
    assert found.item() == 3  # of -1, -5 and 3


def test_gradients_begin_at_the_first_tap_and_reach_all():
    network, image = model(), IMAGE.clone().requires_grad_()
    network.act.inplace = False
    with taps.tapped(network, ["twice", "head"]) as outputs:
        logit = network(image)
    ends = [outputs["twice"], outputs["head"], image]
    slopes = torch.autograd.grad(logit.sum(), ends, allow_unused=True)
    assert slopes[0].tolist() == [[1, 0, 1]]  # behind the ReLU
    assert slopes[1].tolist() == [[1]]
    assert slopes[2] is None


def test_a_tap_shows_what_the_network_makes_of_it_in_place():
    network = model()
    with taps.tapped(network, ["twice"]) as outputs:
        logit = network(IMAGE)
    assert outputs["twice"].tolist() == [[2, 0, 6]]
    (slopes,) = torch.autograd.grad(logit.sum(), outputs["twice"])
    assert slopes.tolist() == [[1, 1, 1]]  # of the values after the ReLU


def test_passes_are_counted_in_images():
    network, images = model(), IMAGE.expand(3, -1).clone().requires_grad_()
    with taps.counted(network) as counts:
        network(images)
        network(images[:2]).sum().backward()
        with torch.no_grad():
            network(images)
    assert counts == [3 + 2 + 3, 2]
    network(images).sum().backward()
    assert counts == [8, 2]


def test_a_look_at_the_features_is_a_pass_too():
    looks = Explanandum("test_resnet", num_classes=4)
    assert looks.sources.names == []  # found by trial passes, once
    with taps.counted(looks.model) as counts, torch.no_grad():
        looks.features(torch.rand(2, 3, 32, 32))
    assert counts == [2, 0]


def test_a_classifier_without_parameters_counts_too():
    class Mean(nn.Module):
        def forward(self, images):
            return images.mean(dim=1, keepdim=True)

    network, images = Mean(), IMAGE.clone().requires_grad_()
    with taps.counted(network) as counts:
        network(images).sum().backward()
    assert counts == [1, 1]


@pytest.mark.filterwarnings("ignore:.*random weights", "ignore:.*normalization")
def test_a_look_at_the_features_of_a_transformer_is_a_pass():
    subject = Explanandum("vit_tiny_patch16_224", num_classes=3, model_args={"img_size": 32})
    assert subject.sources.names == []  # found by trial passes, once
    with taps.counted(subject.model) as counts:
        subject.features(torch.rand(2, 3, 32, 32))
        subject(torch.rand(3, 3, 32, 32))
    assert counts == [5, 0]
