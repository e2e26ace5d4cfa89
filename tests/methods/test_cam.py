import copy

import pytest
import torch
from timm.models import create_model
from torch import nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer

from explainers import Explanandum
from explainers.explanandum.features import NotDefinedError
from explainers.functional import masking
from explainers.methods.cam import GradCAM, GradCAMPlusPlus, PyramidCAM
from tests import planted

HEAD = torch.tensor([[2.0, -1.0, 0.0], [-1.0, 3.0, 0.5]])
BOTH = [GradCAM, GradCAMPlusPlus]


class Tiny(nn.Module):
    """Features are the channels at half the resolution, logits HEAD times their means."""

    num_classes = 2

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(2)
        self.act = nn.ReLU(inplace)
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight = nn.Parameter(HEAD.clone())

    def forward(self, images):
        return self.head(self.act(self.features(images)).mean(dim=(2, 3)))


def tiny(mean: float = 0.0, inplace: bool = False) -> Explanandum:
    return Explanandum(Tiny(inplace), mean=[mean] * 3, std=[1.0] * 3, input_size=[8, 8])


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def by_hand(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The map (B, H, W) of channel weights (B, 3)."""
    values = F.avg_pool2d(images, 2).clamp(min=0)
    cams = torch.einsum("bc,bchw->bhw", weights, values).clamp(min=0)
    return F.interpolate(cams[:, None], scale_factor=2, mode="bilinear")[:, 0]


def test_grad_cam_by_hand(images):
    found = GradCAM(tiny(), "act").class_maps(images, torch.tensor([[0, 1], [0, 1]]))
    for k in range(2):
        expected = by_hand(images, HEAD[k].expand(2, 3) / (4 * 6))  # d logit / d mean over pixels
        torch.testing.assert_close(found[:, k], expected)
    assert (found == 0).any()  # negative sums are cut off


def test_grad_cam_plus_plus_by_hand(images):
    gradient = HEAD[1].clamp(min=0) / 24
    total = F.avg_pool2d(images, 2).sum(dim=(2, 3))
    expected = by_hand(images, 24 * gradient / (2 + total * gradient))
    target = torch.tensor([[False, True]] * 2)
    torch.testing.assert_close(GradCAMPlusPlus(tiny(), "act").attribute(images, target), expected)
    near = GradCAMPlusPlus(tiny(), "act", eps=1e-12).attribute(images, target)
    torch.testing.assert_close(near, expected)
    # pytorch-grad-cam: g^2 / (2 g^2 + S g^3 + eps), here with an eps as large as g^2.
    shares = gradient**2 / (2 * gradient**2 + total * gradient**3 + 4e-4)
    far = GradCAMPlusPlus(tiny(), "act", eps=4e-4).attribute(images, target)
    torch.testing.assert_close(far, by_hand(images, 24 * gradient * shares))
    assert (far - expected).abs().max() > 0.05


def test_grad_cam_plus_plus_has_no_poles_in_signed_features(images):
    explanandum = tiny(mean=1.0)  # no feature is positive before the ReLU
    gradient = torch.ones(1, 1, 2, 2)
    method = GradCAMPlusPlus(explanandum, "features")
    assert method._weights(-0.5 * gradient, gradient).item() == pytest.approx(2.0)  # S g = -2
    with pytest.raises(ValueError, match="eps must be positive"):
        GradCAMPlusPlus(explanandum, "act", eps=0.0)


@pytest.mark.parametrize("method", BOTH)
def test_a_network_that_goes_on_in_place_is_explained_after_it(images, method):
    target = torch.tensor([[True, False]] * 2)
    found = method(tiny(0.5, inplace=True), "features").attribute(images, target)
    torch.testing.assert_close(found, method(tiny(0.5), "act").attribute(images, target))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_pyramid_cam_knows_the_stages_of_networks_of_timm(name):
    torch.manual_seed(0)
    explanandum = Explanandum(name, num_classes=3, input_size=[160, 160])
    images = torch.rand(1, 3, 160, 160)
    maps = PyramidCAM(explanandum).class_maps(images, torch.tensor([[0, 2]]))
    assert maps.shape == (1, 2, 160, 160)
    torch.testing.assert_close(maps.square().mean(dim=(2, 3)), torch.ones(1, 2))


def test_pyramid_cam_needs_stages(images):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    with pytest.raises(NotDefinedError, match="no known stages"):
        PyramidCAM(Explanandum(flat, mean=[0.0] * 3, std=[1.0] * 3, input_size=[8, 8]))
    classes = torch.tensor([[0, 1]] * 2)  # the only stage that is found is the last layer
    named = Explanandum(
        Tiny(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[8, 8], feature_layers=["act"]
    )
    expected = PyramidCAM(named).class_maps(images, classes)
    assert torch.equal(PyramidCAM(tiny()).class_maps(images, classes), expected)


@pytest.mark.parametrize("method", [*BOTH, PyramidCAM])
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_classes_have_their_own_quadrants_in_maps_and_in_tokens(method, kind):
    images = torch.full((1, 3, 32, 32), 0.5)
    found = method(planted.explanandum(kind)).class_maps(images, torch.arange(4)[None])[0]
    mass = (found[:, None] * planted.quadrant_masks(32, 32)).sum(dim=(2, 3))
    assert mass.argmax(dim=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("method", BOTH)
def test_the_layer_is_checked_and_has_a_default(method):
    assert method(tiny()).layer == "act"
    assert method(planted.explanandum()).layer == "stages.3"
    with pytest.raises(ValueError, match=r"no module 'layer9'.*act"):
        method(tiny(), "layer9")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("method", BOTH)
def test_parity_with_pytorch_grad_cam_up_to_its_rescaling(name, method):
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    explanandum = Explanandum(name, num_classes=5)
    images = F.interpolate(torch.rand(2, 3, 8, 8), size=explanandum.input_size, mode="bilinear")
    ours = method(explanandum, **({} if method is GradCAM else {"eps": 1e-6}))
    awake = copy.deepcopy(explanandum).requires_grad_(True)  # it fails on frozen networks
    layer = awake.model.get_submodule(ours.layer)
    tokens = {"reshape_transform": lambda t: t[:, 1:].mT.unflatten(2, (10, 10))}
    with getattr(library, method.__name__)(
        awake, [layer], **(tokens if name == "test_vit" else {})
    ) as oracle:
        for k in range(5):
            expected = torch.tensor(oracle(images, [ClassifierOutputTarget(k)] * 2))
            found = ours.class_maps(images, torch.full((2, 1), k))[:, 0]
            torch.testing.assert_close(
                masking.minmax(found), masking.minmax(expected), rtol=0, atol=1e-4
            )


class ChannelsFirst(nn.Module):
    """A layer whose channels-last output is turned."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.turned = block, nn.Identity()

    def forward(self, x):
        return self.turned(self.block(x).movedim(-1, 1)).movedim(1, -1)


SWINS = {
    "torchvision": (
        lambda: SwinTransformer([2, 2], 12, [1, 2], [2, 4], [4, 4], num_classes=5),
        ["features.1.0", "features.3.1"],
    ),
    "timm": (
        lambda: create_model(
            "swin_tiny_patch4_window7_224",
            img_size=(32, 48),
            window_size=4,
            embed_dim=12,
            depths=(1, 2),
            num_heads=(1, 2),
            num_classes=5,
        ),
        ["layers.0.blocks.0", "layers.1.blocks.1"],
    ),
}


@pytest.mark.parametrize("library", SWINS)
@pytest.mark.parametrize("method", [GradCAM, GradCAMPlusPlus])
def test_a_channels_last_layer_is_explained_as_its_turned_output(library, method):
    build, layers = SWINS[library]
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    arguments = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [32, 48]}
    for layer in layers:
        torch.manual_seed(0)
        network = build()
        plain = method(Explanandum(network, **arguments), layer)
        found = plain.class_maps(images, torch.tensor([[0, 3], [4, 1]]))
        network.set_submodule(layer, ChannelsFirst(network.get_submodule(layer)))
        turned = method(Explanandum(network, **arguments), f"{layer}.turned")
        assert torch.equal(found, turned.class_maps(images, torch.tensor([[0, 3], [4, 1]])))
        assert found.max() > 0
        inner = f"{layer}.block.attn.qkv"  # in windows that are folded into the batch
        with pytest.raises(ValueError, match=rf"layer '{inner}' (gives|does not run)"):
            method(Explanandum(network, **arguments), inner)
