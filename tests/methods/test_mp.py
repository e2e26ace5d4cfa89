import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.functional import fills
from explainers.functional.losses import variation
from explainers.functional.planes import resize
from explainers.methods.mp import MP, blurred_discs, border, window
from tests import planted


class Disc(nn.Module):
    """The probability of class 0 is the mean brightness of a centred disc of 56 px images."""

    num_classes = 2

    def __init__(self, radius=20.0):
        super().__init__()
        line = torch.arange(56) - 27.5
        disc = (line[:, None] ** 2 + line**2 < radius**2).float()
        self.register_buffer("weights", disc / disc.sum())

    def forward(self, images):
        p = (images.mean(dim=1) * self.weights).sum(dim=(1, 2)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([p.log(), (1 - p).log()], dim=1)


class Bright(nn.Module):
    """The probability of class 0 is 1/2 plus the weighted sum of the brightness."""

    num_classes = 2

    def __init__(self, weights):
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, images):
        p = 0.5 + (images.mean(dim=1) * self.weights).sum(dim=(1, 2))
        return torch.stack([p.log(), (1 - p).log()], dim=1)


class Smooth(nn.Module):
    """Three classes by a small convolutional network with nothing planted."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3, generator=generator))
        self.head = nn.Parameter(torch.randn(3, 4, generator=generator))

    def forward(self, images):
        return F.conv2d(images, self.kernel).tanh().mean(dim=(2, 3)) @ self.head.mT * 5


def smooth():
    return Explanandum(Smooth(), mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3])


def bright_quadrants(level=0.5):
    """Four images (4, 3, 32, 32), black but for one quadrant, and the quadrants (4, 32, 32)."""
    quadrants = planted.quadrant_masks(32, 32)
    return level * quadrants[:, None].expand(-1, 3, -1, -1), quadrants


@pytest.mark.parametrize("init", ["uniform", "circle"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_it_removes_exactly_the_quadrant_that_decides(init, multi_label):
    images, quadrants = bright_quadrants(0.15)
    if multi_label:
        images = images / 3  # so that sigmoids do not saturate
    # A cell of the bright quadrant lowers p by far more than l1, each other one not at all.
    method = MP(
        planted.explanandum("vit", multi_label=multi_label),
        steps=60,
        size=8,
        interpolation="nearest",
        l1=1e-4,
        tv=0.0,
        jitter=1,
        init=init,
        fill="black",
    )
    assert torch.equal(method.attribute(images, torch.eye(4).bool()), quadrants)


def test_what_it_removes_shrinks_with_l1_to_nothing():
    images, targets = planted.scenes(1)
    areas = []
    for l1 in (1e-4, 1e-3, 1e-1):
        method = MP(planted.explanandum(), steps=80, size=8, l1=l1, tv=0.0, fill="black")
        areas.append(float(method.attribute(images, targets).mean()))
    assert areas[0] > areas[1] + 0.05
    assert areas[1] > 0.2
    assert areas[2] == 0


def test_tv_makes_it_smooth():
    images, targets = planted.scenes(1)
    rough = []
    for tv in (0.0, 1e-2, 1.0):
        method = MP(planted.explanandum(), steps=60, size=8, l1=1e-3, tv=tv, fill="black")
        rough.append(variation(method.attribute(images, targets), 2).item())
    assert rough[0] > 1.5 * rough[1] > 0
    assert rough[1] > 1.5 * rough[2] > 0


def literal(explanandum, image, target, steps, jitter, noise, interpolation, power, slope, seed):
    """The method written down once more: one image, plain Adam, loops over pixels of the mask."""
    generator = torch.Generator().manual_seed(seed)
    height, width = image.shape[1:]
    blurred = fills.fill("blur", image[None], explanandum.mean, sigma=2.0)[0]
    mask = torch.rand(4, 4, generator=generator)
    first, second = torch.zeros(4, 4), torch.zeros(4, 4)
    for step in range(1, steps + 1):
        down, across = torch.randint(jitter, (2,), generator=generator).tolist()
        rows = (torch.arange(height) + down - (jitter - 1) // 2).clamp(0, height - 1)
        columns = (torch.arange(width) + across - (jitter - 1) // 2).clamp(0, width - 1)
        mask = mask.clone().requires_grad_()
        corners = None if interpolation == "nearest" else False
        large = F.interpolate(
            mask[None, None], (height, width), mode=interpolation, align_corners=corners
        )[0, 0]
        seen = image[:, rows][:, :, columns] * large
        seen = seen + blurred[:, rows][:, :, columns] * (1 - large)
        if noise:
            drawn = torch.randn(3, height, width, generator=generator)
            seen = seen + noise * explanandum.std[0] * drawn
        p = explanandum(seen[None]).softmax(dim=1)[0, target]
        loss = p
        for i in range(4):
            for j in range(4):
                area = 1 - mask[i, j]
                loss = loss + 0.001 * (area.abs() if slope == "zero" else area)
                if i < 3:
                    loss = loss + 0.02 * (mask[i + 1, j] - mask[i, j]).abs() ** power
                if j < 3:
                    loss = loss + 0.02 * (mask[i, j + 1] - mask[i, j]).abs() ** power
        (slope,) = torch.autograd.grad(loss, mask)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        unbiased = (second / (1 - 0.999**step)).sqrt() + 1e-8
        mask = (mask.detach() - 0.1 * first / (1 - 0.9**step) / unbiased).clamp(0, 1)
    corners = None if interpolation == "nearest" else False
    large = F.interpolate(
        mask[None, None], (height, width), mode=interpolation, align_corners=corners
    )
    return 1 - large[0, 0]


@pytest.mark.parametrize(
    ("jitter", "noise", "interpolation", "power", "slope"),
    [
        (1, 0.0, "bilinear", 3, "left"),
        (4, 0.0, "nearest", 3, "zero"),
        (3, 0.2, "bilinear", 2, "left"),
    ],
)
def test_it_equals_the_method_written_out(jitter, noise, interpolation, power, slope):
    explanandum = smooth()
    images = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(1))
    method = MP(
        explanandum,
        steps=12,
        size=4,
        interpolation=interpolation,
        l1=0.001,
        slope_at_one=slope,
        tv=0.02,
        power=power,
        jitter=jitter,
        noise=noise,
        sigma=2.0,
        seed=7,
    )
    found = method.class_maps(images, torch.tensor([[0], [2]]))[:, 0]
    run = partial(literal, explanandum, steps=12, jitter=jitter, noise=noise)
    for image, target, result in zip(images, (0, 2), found, strict=True):
        expected = run(image, target, interpolation=interpolation, power=power, slope=slope, seed=7)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
        assert result.std() > 0.03


def test_the_slope_at_one_decides_whether_worthless_removals_begin():
    # p depends on each pixel by 1e-5, which is less than l1 = 1e-3.
    weights = torch.full((8, 8), 1e-5)
    explanandum = Explanandum(Bright(weights), mean=[0.0] * 3, std=[1.0] * 3)
    images, found = torch.ones(1, 3, 8, 8), {}
    for slope in ("left", "zero"):
        quick = {"steps": 1, "size": 8, "l1": 1e-3, "tv": 0.0, "jitter": 1, "init": "ones"}
        method = MP(explanandum, slope_at_one=slope, fill="black", **quick)
        found[slope] = method.class_maps(images, torch.tensor([[0]]))
    assert found["left"].max() == 0
    torch.testing.assert_close(found["zero"], torch.full((1, 1, 8, 8), 0.1), rtol=0, atol=1e-3)


def test_jitter_repeats_the_border_and_keeps_the_image_in_the_middle():
    image = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 3, 2, 6)
    wide = border(image, 4)
    assert wide.shape == (1, 3, 5, 9)
    shifts = [window(wide, torch.tensor([0, left]), image)[0, 0, 0].tolist() for left in range(4)]
    assert shifts == [
        [0, 0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
        [1, 2, 3, 4, 5, 5],
        [2, 3, 4, 5, 5, 5],
    ]
    assert torch.equal(border(image, 1), image)


def seen_by(explanandum, method, images, targets):
    """Images of each forward pass, how many in each backward pass, and the maps."""
    forward, backward = [], []

    def hook(_, inputs, logits):
        forward.append(inputs[0].detach().clone())
        if logits.requires_grad:
            logits.register_hook(lambda slope: backward.append(len(slope)))

    handle = explanandum.register_forward_hook(hook)
    maps = method.attribute(images, targets)
    handle.remove()
    return forward, backward, maps


def test_every_shift_is_seen_and_nothing_else():
    images, targets = planted.scenes(1, (8, 8))
    explanandum = planted.explanandum()
    method = MP(explanandum, steps=40, size=4, lr=1e-9, jitter=2, init="ones", fill="black")
    forward, _, maps = seen_by(explanandum, method, images, targets)
    shifted = [
        window(border(images, 2), torch.tensor([down, across]), images)
        for down in range(2)
        for across in range(2)
    ]
    which = {[torch.allclose(seen, s, atol=1e-5) for s in shifted].index(True) for seen in forward}
    assert which == {0, 1, 2, 3}
    assert maps.max() < 1e-6  # "ones": nothing removed


@pytest.mark.parametrize(("init", "extra"), [("uniform", 0), ("ones", 0), ("circle", 36)])
@pytest.mark.parametrize("pairs", [1, 2, 8])
def test_its_passes_are_those_of_the_formula(init, extra, pairs):
    explanandum = planted.explanandum()
    images, _ = planted.scenes(3)
    targets = torch.tensor([[1, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0]]).bool()  # four pairs
    method = MP(explanandum, steps=5, size=4, init=init, pairs=pairs)
    forward, backward, _ = seen_by(explanandum, method, images, targets)
    assert sum(map(len, forward)) == 4 * (5 + extra)
    assert sum(backward) == 4 * 5
    assert max(map(len, forward)) <= pairs


def test_pairs_change_only_speed():
    images, _ = planted.scenes(3)
    classes = torch.tensor([[0, 1], [1, 3], [2, 0]])
    settings = {"steps": 10, "size": 6, "noise": 0.1, "fill": "noise"}
    one, many = (
        MP(smooth(), pairs=pairs, **settings).class_maps(images[..., :16, :16], classes % 3)
        for pairs in (1, 16)
    )
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-4)


def test_discs_are_those_of_a_square_of_224_pixels():
    discs = blurred_discs(224)
    assert discs.shape == (35, 224, 224)
    assert discs[0].max() == 0
    assert (discs.diff(dim=0) >= -1e-6).all()
    # In the middle of a blurred disc of radius r: 1 - exp(-r^2 / 2 sigma^2).
    for index in (2, 4):
        expected = 1 - math.exp(-((5 * index) ** 2) / 200)
        assert discs[index, 111, 111].item() == pytest.approx(expected, abs=0.02)
    # Far from the middle, the disc of radius 70 has a straight edge: 1/2 at its radius.
    assert discs[14, 111, 111 + 70].item() == pytest.approx(0.5, abs=0.06)
    assert discs[14, 111, 111 + 40].item() > 0.99
    assert discs[14, 111, 111 + 100].item() < 0.01
    # Coarser masks are the same discs at the centres of their cells.
    torch.testing.assert_close(blurred_discs(32)[:, 16, 20], discs[:, 115, 143])


def test_the_circle_is_the_smallest_that_hides_the_class():
    explanandum = Explanandum(Disc(), mean=[0.0] * 3, std=[1.0] * 3)
    images = torch.stack([torch.full((3, 56, 56), level) for level in (0.9, 0.0)])
    method = MP(explanandum, steps=1, lr=1e-9, size=28, jitter=1, init="circle", fill="black")
    found = method.class_maps(images, torch.tensor([[0], [0]]))[:, 0]
    discs = resize(blurred_discs(28), (56, 56))
    left = [float(((1 - d) * Disc().weights).sum()) for d in discs]  # p, over that of the image
    smallest = next(i for i, share in enumerate(left) if share <= 0.01)
    assert 80 < 5 * smallest < 115  # the disc's 20 pixels of 56 are 80 of 224
    torch.testing.assert_close(found[0], discs[smallest], rtol=0, atol=1e-6)
    assert found[1].max() < 1e-6  # black to begin with: there is nothing to hide


def test_a_class_that_no_disc_hides_starts_from_the_largest():
    weights = torch.zeros(32, 32)
    weights[0, 0] = 0.4  # only a corner decides
    explanandum = Explanandum(Bright(weights), mean=[0.0] * 3, std=[1.0] * 3)
    images = torch.ones(1, 3, 32, 32)
    method = MP(explanandum, steps=1, lr=1e-9, jitter=1, init="circle", fill="black")
    found = method.class_maps(images, torch.tensor([[0]]))[0, 0]
    torch.testing.assert_close(
        found, resize(blurred_discs(28)[-1:], (32, 32))[0], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"size": 0}, "size=0"),
        ({"jitter": 0}, "jitter=0"),
        ({"lr": 0.0}, "lr=0"),
        ({"sigma": 0.0}, "sigma=0"),
        ({"l1": -1.0}, "l1=-1"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"power": 0.5}, "power=0.5"),
        ({"interpolation": "bicubic"}, "bicubic"),
        ({"init": "sand"}, "sand"),
        ({"fill": "images"}, "got .images"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MP(planted.explanandum(), **wrong)
