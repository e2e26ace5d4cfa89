import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.base import Explainer
from explainers.methods.constant import CentredGaussian, Constant
from explainers.metrics import randomization
from explainers.metrics.randomization import MPRT, layer_seed, layers_top_down, redraw, restored
from tests import planted


class Classifier(nn.Module):
    """A little of everything: convolution, BatchNorm, attention, a bare parameter, a head."""

    def __init__(self):
        super().__init__()
        self.num_classes = 3
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        x = self.norm(self.first(images)).relu().flatten(2).mT
        return self.head((self.attention(x, x, x)[0] * self.scale + x).mean(1))


class Gradient(Explainer):
    """Gradient of the target's logit, summed over colours."""

    needs = ("gradients",)

    @torch.enable_grad()
    def attribute(self, images, targets):
        images = images.detach().requires_grad_()
        logits = self.explanandum(images)
        return torch.autograd.grad(logits[targets].sum(), images)[0].sum(1)


class OwnNetwork(Explainer):
    """A learned network on the image, blind to the classifier."""

    def __init__(self, explanandum):
        super().__init__(explanandum)
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def attribute(self, images, targets):
        return self.network(images)[:, 0]


@pytest.fixture
def explanandum():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier()
        nn.init.uniform_(model.norm.weight, 0.5, 1)
        model.norm.running_mean.uniform_(0, 0.1)
        model.norm.running_var.uniform_(0.5, 1)
        return Explanandum(model, num_classes=3, input_size=[8, 8])


def measure(explainer, count=3, metric=None, **arguments):
    images, _ = planted.scenes(count, (8, 8))
    targets = F.one_hot(torch.arange(count) % 3, 3).bool()
    with torch.no_grad():
        maps = explainer.attribute(images, targets)
    inputs = {"images": images, "targets": targets, "maps": maps, "explainer": explainer}
    metric = metric or MPRT(**arguments)
    return metric.measure(**inputs, explanandum=explainer.explanandum)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_layers_come_from_the_top_and_shared_ones_are_left_out(explanandum):
    model = explanandum.model
    expected = [
        model.head,
        model.attention.out_proj,
        model.attention,
        model.norm,
        model.first,
        model,
    ]
    assert layers_top_down(model) == expected
    explainer = OwnNetwork(explanandum)
    explainer.encoder = explanandum.model  # a view of the classifier is not learned
    own = layers_top_down(explainer, leave_out=explanandum)
    assert own == [explainer.network[2], explainer.network[0]]


def test_every_layer_is_drawn_anew_and_put_back_bit_for_bit(explanandum):
    before, random_state = state(explanandum), torch.random.get_rng_state()
    layers = layers_top_down(explanandum)
    with torch.no_grad(), restored(layers):
        for i, layer in enumerate(layers):
            redraw(layer, i)
        after = state(explanandum)
        drawn = [n for n in before if n.startswith("model.") and "bias" not in n and "num" not in n]
        assert len(drawn) == 8
        assert all(not torch.equal(before[n], after[n]) for n in drawn)
        assert after["model.norm.running_mean"].eq(0).all()
        scale = after["model.scale"]
        assert 0.1 < scale.std() < 2
    assert same(before, state(explanandum))
    assert torch.equal(random_state, torch.random.get_rng_state())


def test_weights_are_put_back_after_an_error(explanandum):
    before = state(explanandum)
    explainer = Gradient(explanandum)

    def fail(images, targets):
        assert not same(before, state(explanandum))
        raise RuntimeError("out of memory")

    images, targets = planted.scenes(1, (8, 8))
    inputs = {"images": images, "targets": targets[:, :3], "maps": images[:, 0]}
    explainer.attribute = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        MPRT().measure(**inputs, explainer=explainer, explanandum=explanandum)
    assert same(before, state(explanandum))
    assert not any(p.requires_grad for p in explanandum.parameters())


def test_correlation_with_the_map_of_a_classifier_drawn_by_hand(explanandum):
    explainer = Gradient(explanandum)
    found = measure(explainer, seed=3)["MPRT"]
    copied = copy.deepcopy(explainer)
    with torch.no_grad():
        for i, layer in enumerate(layers_top_down(copied.explanandum)):
            redraw(layer, layer_seed(3, i))
    images, _ = planted.scenes(3, (8, 8))
    targets = torch.eye(3).bool()
    pairs = zip(
        explainer.attribute(images, targets), copied.attribute(images, targets), strict=True
    )
    expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in pairs]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.double))
    assert found.abs().max() < 0.9
    assert torch.equal(measure(explainer, seed=3)["MPRT"], found)
    assert not torch.equal(measure(explainer, seed=4)["MPRT"], found)


def test_a_cascade_ends_where_one_randomisation_does(explanandum):
    explainer = Gradient(explanandum)
    calls, attribute = [], explainer.attribute
    explainer.attribute = lambda *inputs: calls.append(1) or attribute(*inputs)
    cascade = measure(explainer, layers="cascade")
    assert len(calls) == 1 + 6
    assert torch.equal(cascade["MPRT"], measure(explainer)["MPRT"])
    last = measure(explainer, layers="last")["MPRT/last"]
    assert not torch.equal(last, cascade["MPRT"])
    assert set(cascade) == {"MPRT", "MPRT/cascade"}


def test_what_does_not_read_the_classifier_is_told_apart(explanandum):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        explainer = OwnNetwork(explanandum)
    before = state(explainer)
    assert measure(explainer)["MPRT"].tolist() == [1, 1, 1]
    own = measure(explainer, subject="explainer")["MPRT/explainer"]
    last = measure(explainer, subject="explainer", layers="last")["MPRT/explainer/last"]
    assert own.max() < 0.99
    assert not torch.equal(own, last)
    assert same(before, state(explainer))
    assert all(p.requires_grad for p in explainer.network.parameters())
    nothing = measure(CentredGaussian(explanandum), subject="explainer")
    assert nothing["MPRT/explainer"].isnan().all()  # it learns nothing


def test_constant_maps_before_are_missing_and_after_are_unrelated(explanandum):
    assert measure(Constant(explanandum))["MPRT"].isnan().all()

    class Fades(Explainer):
        def attribute(self, images, targets):
            known = self.explanandum.model.head.bias.equal(self.bias)
            return images.mean(1) * known

    explainer = Fades(explanandum)
    explainer.register_buffer("bias", explanandum.model.head.bias.clone())
    assert measure(explainer)["MPRT"].tolist() == [0, 0, 0]


def test_signs_count_unless_told_otherwise(explanandum):
    class Flips(Explainer):
        def attribute(self, images, targets):
            known = self.explanandum.model.head.bias.equal(self.bias)
            return (images.mean(1) + 1) * (1 if known else -1)

    explainer = Flips(explanandum)
    explainer.register_buffer("bias", explanandum.model.head.bias.clone())
    assert measure(explainer)["MPRT"].tolist() == [-1] * 3
    assert measure(explainer, absolute=True)["MPRT"].tolist() == [1] * 3


def test_choices_are_checked():
    for wrong in ({"layers": "first"}, {"subject": "data"}):
        with pytest.raises(ValueError, match="must be"):
            MPRT(**wrong)
    assert not MPRT().direction("MPRT")


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_quantus_given_its_seeds(monkeypatch):
    quantus = pytest.importorskip("quantus")
    monkeypatch.setattr(randomization, "layer_seed", lambda seed, place: seed + 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)
        )
    explanandum = Explanandum(network, num_classes=3, mean=[0.0] * 3, std=[1.0] * 3)
    images, _ = planted.scenes(3, (8, 8))
    explainer = Gradient(explanandum)
    maps = explainer.attribute(images, torch.eye(3).bool())

    def explain(model, inputs, targets, **ignored):
        plain = Explanandum(model, num_classes=3, mean=[0.0] * 3, std=[1.0] * 3)
        one_hot = F.one_hot(torch.tensor(targets), 3).bool()
        return Gradient(plain).attribute(torch.tensor(inputs), one_hot)[:, None].numpy()

    metric = quantus.MPRT(return_last_correlation=True, abs=False, seed=42, disable_warnings=True)
    expected = metric(
        model=network, x_batch=images.numpy(), y_batch=np.arange(3), a_batch=maps[:, None].numpy(),
        explain_func=explain, device="cpu",
    )  # fmt: skip
    np.testing.assert_allclose(measure(explainer, seed=42)["MPRT"].numpy(), expected, atol=1e-6)
