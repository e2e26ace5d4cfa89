"""A folded copy has the logits, gradients and stages of its classifier."""

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.explanandum.folding import Folding, folded
from explainers.explanandum.gradients import stage_evidence


class Convolutions(nn.Module):
    """Batch norms after convolutions, one with a bias; with `twice`, an output is used again."""

    def __init__(self, twice=False):
        super().__init__()
        self.twice = twice
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.other = nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8)
        self.alone = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        seen = self.first(images)
        hidden = self.norm(seen).relu() + (seen if self.twice else 0)
        hidden = self.alone(self.other(self.second(hidden)).relu())
        return 30 * self.head(hidden.mean((2, 3)))


def explanandum(model):
    """Batch norms that have seen something, and sizes of all kinds."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                values.data.copy_(0.5 + torch.rand(values.shape, generator=generator))
    return Explanandum(model, mean=[0.4] * 3, std=[0.2] * 3, input_size=[32, 32])


def test_logits_and_gradients_are_the_same():
    torch.manual_seed(0)
    own = explanandum(Convolutions())
    faster = folded(own)
    assert isinstance(faster.model.norm, nn.Sequential)
    assert isinstance(faster.model.alone, nn.BatchNorm2d)  # no convolution before it
    assert isinstance(own.model.norm, nn.BatchNorm2d)
    results = []
    for each in (own, faster):
        images = torch.linspace(0, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32).requires_grad_()
        logits = each(images)
        logits[:, 1].sum().backward()
        results.append((logits.detach(), images.grad))
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4 * first.abs().max().item())
    assert not any(p.requires_grad for p in faster.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0"])
@pytest.mark.filterwarnings("ignore:.*random weights")
def test_stages_keep_their_names(name):
    torch.manual_seed(0)
    import timm

    own = explanandum(timm.create_model(name, num_classes=5))
    faster = folded(own)
    assert faster is not own
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    (first,), logits = stage_evidence(own, images)
    (second,), others = stage_evidence(faster, images)
    torch.testing.assert_close(logits, others, rtol=1e-3, atol=1e-3 * logits.abs().max().item())
    assert [v.shape for v in first.values] == [v.shape for v in second.values]
    for one, other in zip(first.values, second.values, strict=True):
        scale = one.abs().max().item()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * scale)


def test_what_cannot_be_folded_stays_as_it_is():
    torch.manual_seed(0)
    used_twice = explanandum(Convolutions(twice=True))
    assert folded(used_twice) is used_twice
    plain = explanandum(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert folded(plain) is plain


def test_a_network_folds_in_place_and_is_itself_again():
    torch.manual_seed(0)
    own = explanandum(Convolutions())
    before = {name: values.clone() for name, values in own.state_dict().items()}
    images = torch.rand(2, 3, 32, 32)
    exact, parts, layout = own(images), dict(own.named_modules()), own.channels_last
    folding = Folding(own)
    with torch.inference_mode():
        assert folding.apply()
    assert own.model.norm is not parts["model.norm"]
    assert own.channels_last
    torch.testing.assert_close(own(images), exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())
    own(images.requires_grad_()).sum().backward()  # no weight is an inference tensor
    with folding.undone():
        assert torch.equal(own(images), exact)
    assert own.model.norm is not parts["model.norm"]
    with torch.inference_mode():
        folding.undo()
    assert dict(own.named_modules()) == parts
    assert own.channels_last == layout
    after = own.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(values, after[name]) for name, values in before.items())
    assert not any(values.is_inference() for values in after.values())


def test_a_convolution_before_two_batch_norms_stays_as_it_is():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, images):
            hidden = self.one(self.conv(images)).relu()
            return self.two(self.conv(hidden)).mean((2, 3))

    torch.manual_seed(0)
    own = explanandum(Shared())
    images = torch.rand(2, 3, 32, 32)
    exact = own(images)
    assert not Folding(own).apply()
    assert torch.equal(own(images), exact)
