"""The layers behind a layer give the same logits as a whole pass, whatever the network."""

import pytest
import torch
import torchvision
from timm.models import create_model
from torch import nn

from explainers import Explanandum
from explainers.explanandum.tails import Tail, finished_before
from explainers.explanandum.taps import replaced
from tests.tiny import KNOWN

NETWORKS = {
    "timm-resnet": (lambda: create_model("resnet10t", num_classes=4), "layer3"),
    "inside-a-block": (lambda: torchvision.models.resnet18(num_classes=4), "layer2.1.bn1"),
    "added-in-place": (lambda: torchvision.models.resnet18(num_classes=4), "layer4.0.bn2"),
    "densenet": (lambda: torchvision.models.DenseNet(4, (2, 2), 8, num_classes=4),
                 "features.denseblock2.denselayer1.conv1"),
    "swin": (lambda: torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [1, 2], [4, 4],
                                                        num_classes=4), "features.1"),
    "vit": (lambda: create_model("test_vit", num_classes=4), "blocks.3.norm1"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_tail_gives_the_logits_of_a_whole_pass(name):
    network, layer = NETWORKS[name]
    torch.manual_seed(0)
    model = network()
    side = 160 if name == "vit" else 64
    explanandum = Explanandum(model, **KNOWN, input_size=[side, side])
    images = torch.rand(2, 3, side, side)
    tail = Tail(explanandum, layer, finished_before(explanandum, layer), images)
    torch.testing.assert_close(tail.logits, explanandum(images))
    for row in range(2):
        outputs = tail.output[row] * torch.rand(3, *tail.output.shape[1:])
        found = tail.rerun(row, outputs)
        with torch.no_grad(), replaced(explanandum.model, layer, lambda _, o=outputs: o.clone()):
            whole = explanandum(images[row : row + 1].expand(3, -1, -1, -1))
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
        assert (found - tail.logits[row]).abs().max() > 1e-4
    assert not any("forward" in vars(module) for module in model.modules())


class Shared(nn.Module):
    """A layer that runs before the named one and again behind it."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.twice, self.head = (
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 1),
        )
        self.middle = nn.Tanh()

    def forward(self, images):
        middle = self.middle(self.twice(self.conv(images)))
        return self.head(self.twice(middle)).mean(dim=(2, 3))


def test_a_layer_that_runs_again_is_not_kept():
    explanandum = Explanandum(Shared(), **KNOWN, input_size=[8, 8])
    assert finished_before(explanandum, "middle") == ["conv"]
    images = torch.rand(1, 3, 8, 8)
    tail = Tail(explanandum, "middle", finished_before(explanandum, "middle"), images)
    torch.testing.assert_close(tail.rerun(0, tail.output), explanandum(images))


def test_forwards_and_hooks_are_put_back():
    model = Shared()
    own = model.conv.forward
    model.conv.forward = lambda values: 2 * own(values)
    before = model.conv.forward
    explanandum = Explanandum(model, **KNOWN, input_size=[8, 8])
    tail = Tail(explanandum, "middle", ["conv"], torch.rand(1, 3, 8, 8))
    seen: list[int] = []
    model.conv.register_forward_hook(lambda *call: seen.append(len(call[2])))
    tail.rerun(0, tail.output)
    assert model.conv.forward is before
    assert seen == []
    explanandum(torch.rand(2, 3, 8, 8))
    assert seen == [2]
