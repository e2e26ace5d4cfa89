import torch
from torch import nn

from explainers import Explanandum
from explainers.base import Explainer
from explainers.evaluation.measure import score_batch
from explainers.methods.captum_methods import Saliency
from explainers.methods.rise import RISE
from explainers.metrics.passes import Passes
from tests import planted


def passes(method: Explainer) -> list[list[float]]:
    images, targets = planted.scenes(2)
    subject = method.explanandum
    inputs = {"images": images, "targets": targets, "explanandum": subject}
    values, _ = score_batch(method, [Passes()], inputs | {"logits": subject(images)})
    return [[row["forwards"], row["backwards"]] for row in values.values()]


def test_forward_and_backward_passes_of_each_image():
    assert passes(RISE(planted.explanandum(), masks=12, grid=4, batch_size=5)) == [[12, 0]] * 2
    assert passes(Saliency(planted.explanandum())) == [[1, 1]] * 2


def test_a_map_from_features_counts_and_hooks_are_gone():
    class Looks(Explainer):
        def attribute(self, images, targets):
            return self.explanandum.features(images)[0].mean(dim=1)

    looks = Looks(Explanandum("test_resnet", num_classes=4))
    assert passes(looks) == [[1, 0]] * 2
    assert not any(m._forward_hooks for m in looks.explanandum.modules())


def test_a_classifier_without_parameters_counts_too():
    class Mean(nn.Module):
        num_classes = 4

        def forward(self, images):
            return torch.stack([images.mean(dim=(1, 2, 3))] * 4, dim=1)

    assert passes(Saliency(Explanandum(Mean()))) == [[1, 1]] * 2
