import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.methods.fido import FIDO, concrete
from tests import planted

PRICE = 0.1
# What a bright pixel adds to the log-odds of class 0, in units of its price: 4, 0.5, 0, -4.
GAIN = PRICE * torch.tensor([4.0, 0.5, 0.0, -4.0]).repeat_interleave(2).expand(6, 8)


class Additive(nn.Module):
    """Logit 0 is the sum of GAIN times the brightness; logit 1 its negative half."""

    num_classes = 2

    def forward(self, images):
        total = (GAIN * images[:, 0]).sum(dim=(1, 2))
        return torch.stack([total, -total / 2], dim=1)


def additive(multi_label: bool = True) -> Explanandum:
    return Explanandum(Additive(), multi_label=multi_label, mean=[0.0] * 3, std=[1.0] * 3)


def test_concrete_coins_follow_the_formula():
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([0.05, 0.5, 0.8])
    u = torch.rand(20000, 1, generator=generator)
    drawn = concrete(p, 1 - p, u, 0.1)
    expected = 1 / (1 + ((1 - p) / p * (1 - u) / u) ** 10)
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(drawn > 0.5, u > 1 - p)
    torch.testing.assert_close((drawn > 0.5).float().mean(dim=0), p, rtol=0, atol=0.01)


def test_concrete_stays_finite_where_probabilities_and_noise_end():
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    drawn = concrete(logits.sigmoid(), (-logits).sigmoid(), torch.zeros(2), 0.1)
    assert drawn.tolist() == [0, 1]
    drawn.sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("objective", ["preservation", "deletion"])
def test_pixels_worth_more_than_their_price_matter(objective):
    """The price is a sum over pixels: a mean would keep the second pair of columns too."""
    method = FIDO(additive(), objective, weight=PRICE, samples=4, steps=150, lr=0.1, size=8)
    found = method.class_maps(torch.ones(1, 3, 6, 8), torch.tensor([[0]]))[0, 0]
    assert found[:, :2].min() > 0.95
    assert found[:, 2:].max() < 0.05


def test_the_price_is_paid_by_the_pixel_not_by_the_cell():
    """A left cell of a two by two grid covers pixels that gain 2.25 prices on average."""
    images, classes = torch.ones(1, 3, 6, 8), torch.tensor([[0]])
    for factor, kept in ((1.0, True), (4.5, False)):
        arguments = {"weight": factor * PRICE, "samples": 4, "steps": 150, "lr": 0.1, "size": 2}
        found = FIDO(additive(), **arguments).class_maps(images, classes)[0, 0]
        assert (found[:, :2] > 0.9).all() if kept else (found[:, :2] < 0.1).all()
        assert found[:, 6:].max() < 0.1


def literal(explanandum, image, label, sign, weight, steps, size, fill, seed):
    """FIDO of one image and class, written out: `sign` -1 preserves, 1 deletes."""
    generator = torch.Generator().manual_seed(seed)
    height, width = image.shape[-2:]
    theta = torch.zeros(1, 1, size, size, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.05)
    for _ in range(steps):
        u = torch.rand(3, height, width, generator=generator)
        p = F.interpolate(theta.sigmoid(), (height, width), mode="bilinear")[0, 0]
        z = torch.sigmoid((torch.log(p / (1 - p)) + torch.log(u / (1 - u))) / 0.2)[:, None]
        seen = z * image + (1 - z) * fill if sign < 0 else z * fill + (1 - z) * image
        chance = explanandum.probabilities(seen)[:, label].double()
        loss = sign * torch.log(chance / (1 - chance)).mean() + weight * p.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return F.interpolate(theta.detach().sigmoid(), (height, width), mode="bilinear")[0, 0]


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize(("objective", "sign"), [("preservation", -1), ("deletion", 1)])
def test_it_is_what_a_literal_loop_finds(objective, sign, multi_label):
    explanandum = Explanandum(
        Additive(), multi_label=multi_label, mean=[0.4, 0.3, 0.2], std=[0.7] * 3
    )
    images = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    arguments = {"weight": 0.01, "samples": 3, "temperature": 0.2, "steps": 5, "size": 3}
    method = FIDO(explanandum, objective, **arguments, pairs=3, seed=7)
    found = method.class_maps(images, torch.tensor([[0, 1], [0, 1]]))
    for image, maps in zip(images, found, strict=True):
        for label in range(2):
            expected = literal(
                explanandum, image, label, sign, 0.01, 5, 3, explanandum.mean, seed=7
            )
            torch.testing.assert_close(maps[label], expected, rtol=1e-4, atol=1e-4)
    assert found.std() > 1e-3


def test_the_settings_are_the_released_ones():
    method = FIDO(additive())
    assert (method.size, method.steps, method.samples) == (56, 300, 8)
    assert (method.lr, method.weight, method.temperature) == (0.05, 1e-3, 0.1)


def test_the_fill_is_what_dropped_pixels_show():
    """Against a bright fill a dark image has what it keeps against it."""
    dark = torch.zeros(1, 3, 6, 8)
    white = Explanandum(Additive(), multi_label=True, mean=[1.0] * 3, std=[1.0] * 3)
    arguments = {"weight": 0.0, "samples": 4, "steps": 60, "lr": 0.1, "size": 8}
    against_white = FIDO(white, **arguments).class_maps(dark, torch.tensor([[0]]))[0, 0]
    assert against_white[:, :2].max() < 0.1
    assert against_white[:, 6:].min() > 0.9
    against_black = FIDO(white, fill="black", **arguments).class_maps(dark, torch.tensor([[0]]))
    torch.testing.assert_close(against_black, torch.full((1, 1, 6, 8), 0.5))  # nothing to tell


@pytest.mark.parametrize("fill", ["noise", "blur", "kernel_blur"])
def test_any_fill_and_any_grouping_give_the_same_map(fill):
    images, _ = planted.scenes(2)
    classes = torch.tensor([[0, 1], [1, 2]])
    arguments = {"samples": 2, "steps": 4, "size": 6, "fill": fill, "sigma": 2.0}
    together = FIDO(planted.explanandum(), **arguments).class_maps(images, classes)
    alone = FIDO(planted.explanandum(), pairs=1, **arguments).class_maps(images, classes)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_passes_are_counted():
    explanandum = planted.explanandum()
    forward, backward = [], []

    def count(_module, inputs, output):
        forward.append(len(inputs[0]))
        output.register_hook(lambda gradient: backward.append(len(gradient)))

    hook = explanandum.register_forward_hook(count)
    images, _ = planted.scenes(3)
    method = FIDO(explanandum, samples=5, steps=4, size=6, pairs=4)
    method.class_maps(images, torch.tensor([[0, 1], [2, 3], [0, 3]]))
    hook.remove()
    assert sum(forward) == sum(backward) == 6 * 4 * 5
    assert max(forward) == 4 * 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": "joint"}, "joint"),
        ({"samples": 0}, "positive"),
        ({"temperature": 0.0}, "positive"),
        ({"weight": -1.0}, "not negative"),
        ({"fill": "pink"}, "pink"),
        ({"fill": "images"}, "got .images"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FIDO(additive(), **wrong)
