import pytest
import torch

from explainers.base import Explainer
from explainers.functional.masking import minmax
from explainers.methods.constant import Constant, GroundTruth, Random
from explainers.metrics.sensitivity import AverageSensitivity, relative_change
from tests import planted


class Grey(Explainer):
    """Brightness, three times: as sensitive as the image itself."""

    targets = ()

    def attribute(self, images, targets):
        self.targets += (targets,)
        return 3 * images.mean(dim=1)


def measure(explainer, images, targets, **arguments):
    maps = explainer.attribute(images, targets)
    inputs = {"images": images, "targets": targets, "maps": maps, "explainer": explainer}
    return AverageSensitivity(**arguments).measure(**inputs, explanandum=explainer.explanandum)[
        "AverageSensitivity"
    ]


def test_relative_change_is_a_ratio_of_norms():
    a, b = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.linalg.matrix_norm(a - b) / torch.linalg.matrix_norm(a)
    torch.testing.assert_close(relative_change(a, b), expected)


def test_noise_is_in_units_of_the_classifiers_std_and_the_same_for_all_images():
    images, targets = planted.scenes(3, (8, 8))
    explainer = Grey(planted.explanandum())
    explainer.explanandum.std.copy_(torch.tensor([0.1, 0.2, 0.4]).view(1, 3, 1, 1))
    found = measure(explainer, images, targets, draws=2, radius=0.5, seed=7)
    generator, changes = torch.Generator().manual_seed(7), []
    for _ in range(2):
        noise = torch.rand(3, 8, 8, generator=generator) * 2 - 1
        noise = noise * torch.tensor([0.05, 0.1, 0.2]).view(3, 1, 1)
        clean, noisy = minmax(images.mean(1)), minmax((images + noise).mean(1))
        changes.append((noisy - clean).double().norm(dim=(1, 2)) / clean.double().norm(dim=(1, 2)))
    torch.testing.assert_close(found, torch.stack(changes).mean(0), rtol=1e-5, atol=1e-7)
    alone = measure(
        Grey(explainer.explanandum), images[1:2], targets[1:2], draws=2, radius=0.5, seed=7
    )
    assert torch.equal(alone, found[1:2])


def test_thirty_draws_and_a_fixed_target():
    images, targets = planted.scenes(1, (4, 4))
    explainer = Grey(planted.explanandum())
    measure(explainer, images, targets, radius=0.5)
    assert len(explainer.targets) == 1 + 30
    assert AverageSensitivity().radius == 0.2
    assert all(torch.equal(t, targets) for t in explainer.targets)


def test_what_ignores_the_image_is_insensitive_and_constants_are_missing():
    images, targets = planted.scenes(2, (4, 4))
    assert measure(Random(planted.explanandum()), images, targets).tolist() == [0, 0]
    assert measure(Constant(planted.explanandum()), images, targets).isnan().all()
    truth = GroundTruth(planted.explanandum())
    truth.feed(images, planted.quadrant_masks(4, 4).expand(2, -1, -1, -1))
    assert measure(truth, images, targets).isnan().all()
    assert not AverageSensitivity().direction("AverageSensitivity")


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="draws"):
        AverageSensitivity(draws=0)
