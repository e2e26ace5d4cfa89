"""DIX by hand on planted attention and on features, and its forms against plain runs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.explanandum.features import NotDefinedError
from explainers.explanandum.taps import counted
from explainers.methods.dix import DIX
from tests import planted

COUNT = 65  # tokens of the planted network for 32 x 32 pixels


def upsampled(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Rows (B, n) of square grids as maps (B, size, size)."""
    side = round(rows.shape[1] ** 0.5)
    return F.interpolate(rows.view(-1, 1, side, side), size=size, mode="bilinear")[:, 0]


def rolled(matrices: list[torch.Tensor]) -> torch.Tensor:
    """Row of the class token at the patches, for matrices (B, N, N), by whole products."""
    product = torch.eye(matrices[0].shape[1])
    for matrix in matrices:
        layer = matrix + torch.eye(len(matrix[0]))
        product = layer / layer.sum(dim=2, keepdim=True) @ product
    return product[:, 0, 1:]


def test_planted_attention_by_hand():
    images, targets = planted.scenes(4)
    labels = targets.int().argmax(dim=1)
    bright = (images.mean(dim=1) * planted.quadrant_masks(32, 32)[labels])[:, None]
    tokens = F.pad(F.avg_pool2d(bright, 4).flatten(1), (1, 0))[:, None]  # (B, 1, N)
    mean = tokens.mean(dim=2, keepdim=True)
    scale, own = planted.SCALE * 4 * COUNT / (3 * 64) / COUNT, torch.eye(COUNT)[0][:, None]

    def layers(a: float, b: float) -> list[torch.Tensor]:
        """Attention times gradient of both blocks, with a and b times it used in them."""
        return [tokens * scale * (b / COUNT + own), (tokens + a * mean) * scale * own]

    # All of it is linear in a and b, so that the average is that of the middle of the path.
    expected = sum(upsampled(rolled(layers(*point)), 32) for point in ((1, 0.5), (0.5, 1)))
    method = DIX(planted.explanandum("vit"))
    torch.testing.assert_close(method.attribute(images, targets), expected)
    only = DIX(method.explanandum, blocks=1, steps=1).attribute(images, targets)
    torch.testing.assert_close(only, upsampled(rolled(layers(1, 0.5)), 32))


def by_runs(explanandum: Explanandum, image: torch.Tensor, label: int, form: str) -> torch.Tensor:
    """The map of one image, with a run for each point and whole matrices."""
    seen, clean, replace = [], [], None

    def hook(index, matrix):
        if replace and replace[0] == index:
            clean.append(matrix.detach())
            matrix = replace[1] * (matrix if replace[2] is None else replace[2])
        matrix = matrix if matrix.requires_grad else matrix.detach().requires_grad_()
        seen.append(matrix)
        return matrix

    blocks = explanandum.model.blocks
    for i, block in enumerate(blocks):
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *call, i=i: hook(i, call[2]))
    explanandum(image)
    source = seen[-1].detach() if form == "released" else None
    points = [i / 5 for i in range(6)] if form == "released" else [0.25, 0.75]
    total = torch.zeros(1, 160, 160)
    for index in (5, 4):
        sums = [torch.zeros(1, 101, 101)] * 6
        for a in points:
            seen.clear()
            replace = (index, a, source)
            slopes = torch.autograd.grad(explanandum(image)[0, label], seen)
            own = clean[-1] if form == "sound" else seen[index]
            values = [own if i == index else matrix for i, matrix in enumerate(seen)]
            parts = [(v * g).detach().clamp(min=0) for v, g in zip(values, slopes, strict=True)]
            sums = [s + p.mean(dim=1) / len(points) for s, p in zip(sums, parts, strict=True)]
        total += upsampled(rolled(sums), 160)
    return total


@pytest.mark.parametrize(("form", "passes"), [("sound", [4, 4]), ("released", [13, 12])])
def test_the_forms_are_averages_over_runs(form, passes):
    torch.manual_seed(0)
    explanandum = Explanandum("test_vit", num_classes=5)
    image = torch.rand(1, 3, 160, 160)
    method = DIX(explanandum, form, steps=2)
    with counted(explanandum.model) as counts:
        found = method.class_maps(image, torch.tensor([[3]]))[:, 0]
    assert counts == passes
    expected = by_runs(explanandum, image, 3, form)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


HEAD = torch.tensor([[2.0, -1.0, 0.0], [-1.0, 3.0, 0.5]])


class Squares(nn.Module):
    """Features are the channels at half the resolution, logits HEAD times the means of squares."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(2)
        self.act = nn.ReLU(inplace)
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight = nn.Parameter(HEAD.clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.features(images)).square().mean(dim=(2, 3)))


def squares(inplace: bool = False) -> Explanandum:
    return Explanandum(Squares(inplace), mean=[0.0] * 3, std=[1.0] * 3, input_size=[8, 8])


@pytest.mark.parametrize("inplace", [False, True])
def test_features_by_hand(inplace):
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    method = DIX(squares(inplace), layer="features", steps=3)
    with counted(method.explanandum.model) as counts:
        found = method.class_maps(images, torch.tensor([[0, 1], [0, 1]]))
    assert counts == [6, 12]
    values = F.avg_pool2d(images, 2)
    least = values.amin(dim=(2, 3), keepdim=True)
    for k in range(2):
        # Gradients are 2 HEAD A / 24: their sign is the same along the path, their mean the middle.
        slopes = 2 * HEAD[k][:, None, None] * (values + least) / 2 / 24
        expected = ((values - least) * slopes).relu().sum(dim=1, keepdim=True)
        expected = F.interpolate(expected, size=(8, 12), mode="bilinear")[:, 0]
        torch.testing.assert_close(found[:, k], expected)


def test_the_released_form_of_features_is_five_times_activation_times_gradient():
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    method = DIX(squares(), "released", layer="act")
    with counted(method.explanandum.model) as counts:
        found = method.attribute(images, torch.tensor([[True, False]] * 2))
    assert counts == [2, 2]
    values = F.avg_pool2d(images, 2)
    expected = (values**2 * HEAD[0][:, None, None] * 2 / 24).relu().sum(dim=1, keepdim=True)
    expected = 5 * F.interpolate(expected, size=(8, 12), mode="bicubic")
    torch.testing.assert_close(found, expected[:, 0])


def test_tokens_without_a_position_are_no_part_of_the_path():
    images, targets = planted.scenes(4)
    labels = targets.int().argmax(dim=1)
    bright = (images.mean(dim=1) * planted.quadrant_masks(32, 32)[labels])[:, None]
    # The gradient of each patch is that of a mean over 64, and elsewhere the channel is 0.
    expected = upsampled(F.avg_pool2d(bright, 4).flatten(1), 32) * planted.SCALE * 4 / 64
    found = DIX(planted.explanandum("vit"), layer="block").attribute(images, targets)
    torch.testing.assert_close(found, expected)


def test_the_default_layer_is_the_last_stage_of_stride_16():
    torch.manual_seed(0)
    assert DIX(planted.explanandum()).layer == "stages.3"
    assert DIX(Explanandum("test_resnet", num_classes=3)).layer == "layer3"
    assert DIX(squares()).layer == "act"
    with pytest.raises(ValueError, match="no module 'layer9'"):
        DIX(squares(), layer="layer9")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    with pytest.raises(NotDefinedError, match="no known spatial features"):
        DIX(Explanandum(flat, mean=[0.0] * 3, std=[1.0] * 3, input_size=[8, 8]))


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"blocks": 0}])
def test_numbers_are_checked(arguments):
    with pytest.raises(ValueError, match="steps and blocks must be positive"):
        DIX(planted.explanandum("vit"), **arguments)
