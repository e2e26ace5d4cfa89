import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.functional.regions import cell_numbers
from explainers.methods.constant import Random
from explainers.methods.greedy_order import GreedyOrder
from explainers.metrics.faithfulness import RISECurves
from tests import planted

# What each of the 3 x 3 cells adds to the logit; both curves must take them from the largest one.
WORTH = torch.tensor([[3.0, -1.0, 0.5], [2.0, 0.0, -2.0], [1.0, 4.0, -0.5]])


class Additive(nn.Module):
    """Logit of class 0: the sum of the mean brightness of each cell times its worth."""

    num_classes = 2

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, images):
        cells = nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4)[:, 0]
        logit = self.scale * (cells * WORTH).sum(dim=(1, 2))
        return torch.stack([logit, -logit], dim=1)


def explain(model, **arguments):
    classifier = Explanandum(model, mean=[0.0] * 3, std=[1.0] * 3, input_size=[12, 12])
    return GreedyOrder(classifier, **{"grid": 3, "insertion_fill": "black"} | arguments)


def ranks(worth):
    """Values of the cells: 1 for the largest worth, 1 / 9 for the smallest one."""
    return (worth.flatten().argsort().argsort() + 1).reshape(3, 3) / 9


@pytest.mark.parametrize("curve", ["deletion", "insertion", "both"])
@pytest.mark.parametrize("scale", [1.0, 40.0])  # 40: probabilities round to 0 and 1
def test_the_greedy_order_of_an_additive_classifier_is_its_true_order(curve, scale):
    method = explain(Additive(scale), curve=curve, batch_size=4)
    maps = method.class_maps(torch.ones(1, 3, 12, 12), torch.tensor([[0, 1]]))
    expected = torch.stack([ranks(WORTH), ranks(-WORTH)])[None]
    expected = expected.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(maps, expected)


def test_each_curve_is_driven_with_its_own_fill():
    """Removal shows white: it takes the dark cell of least worth, insertion the only bright one."""
    images = torch.zeros(1, 3, 12, 12)
    images[..., :4, :4] = 1.0
    target = torch.tensor([[True, False]])
    classifier = Explanandum(Additive(), mean=[1.0] * 3, std=[1.0] * 3, input_size=[12, 12])
    classifier.model.forward = lambda x: Additive().forward(x + 1)
    for curve, cell in (("deletion", 5), ("insertion", 0)):
        method = GreedyOrder(classifier, curve=curve, grid=3, insertion_fill="black")
        found = method.attribute(images, target)[0]
        assert torch.equal(found == 1, cell_numbers(12, 12, 3) == cell)


def test_it_is_ahead_on_the_curves_that_it_looked_at():
    images, targets = planted.scenes(2, (28, 28), seed=3)
    images = images * 0.3 + 0.1
    classifier = planted.explanandum()
    curves = RISECurves(steps=49)
    greedy = GreedyOrder(classifier, grid=7).attribute(images, targets)
    # A cell holds 16 pixels, and a step as many: the curve removes one cell after the other.
    cells = cell_numbers(28, 28, 7)
    noise = torch.rand(2, 49, generator=torch.Generator().manual_seed(0))[:, cells]
    rest = [noise, Random(classifier).attribute(images, targets)]
    best = curves.score(images, greedy, targets, classifier)["Faithfulness"]
    for maps in rest:
        assert (best > curves.score(images, maps, targets, classifier)["Faithfulness"] + 0.1).all()


@pytest.mark.parametrize(("curve", "passes"), [("deletion", 44), ("insertion", 44), ("both", 88)])
def test_the_forward_passes_are_those_of_the_docstring(curve, passes):
    method = explain(Additive(), curve=curve, batch_size=4)
    seen = []
    hook = method.explanandum.register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
    method.class_maps(torch.rand(2, 3, 12, 12), torch.tensor([[0], [1]]))
    hook.remove()
    assert sum(seen) == 2 * passes  # of 9 cells: 9 + 8 + ... + 2
    assert max(seen) == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grid": 1}, "at least 2"),
        ({"batch_size": 0}, "positive"),
        ({"curve": "neither"}, "got .neither"),
        ({"deletion_fill": "sand"}, "got .sand"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        explain(Additive(), **wrong)
