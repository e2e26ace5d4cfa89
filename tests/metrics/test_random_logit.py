"""Maps that depend on the class, those that do not, and those that say nothing."""

import torch

from explainers.base import Explainer
from explainers.methods.constant import CentredGaussian, Constant
from explainers.metrics.random_logit import RandomLogit
from tests import planted


class Rows(Explainer):
    """A map that rises to the right, or to the left for odd classes."""

    def attribute(self, images, targets):
        odd = targets.int().argmax(dim=1) % 2
        ramp = torch.arange(images.shape[-1]).expand(len(images), *images.shape[-2:]).float()
        return ramp * (1 - 2 * odd)[:, None, None]


def value(method, classes=(0, 1), **arguments):
    explanandum = planted.explanandum()
    images, targets = planted.scenes(len(classes))
    targets = torch.zeros_like(targets)
    targets[range(len(classes)), list(classes)] = True
    explainer = method(explanandum)
    inputs = {"maps": explainer.attribute(images, targets), "explainer": explainer}
    metric = RandomLogit(**arguments)
    found = metric.measure(images=images, targets=targets, explanandum=explanandum, **inputs)
    return found["RandomLogit"].tolist()


def test_the_other_class_is_asked_for_at_an_equal_distance():
    found = {tuple(round(v, 6) for v in value(Rows, seed=seed)) for seed in range(12)}
    assert found == {(1.0, 1.0), (-1.0, -1.0)}  # even and odd distances


def test_a_map_that_does_not_depend_on_the_class_has_the_highest_value():
    assert value(CentredGaussian) == [1.0, 1.0]


def test_a_constant_map_has_no_value():
    assert all(v != v for v in value(Constant))


class Blank(Rows):
    """Nothing for any class but the first."""

    def attribute(self, images, targets):
        return super().attribute(images, targets) * targets[:, 0, None, None]


def test_nothing_for_the_other_class_is_no_similarity():
    assert value(Blank, classes=(0,)) == [0.0]
