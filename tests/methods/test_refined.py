"""Refined raises the areas under the curves of each image, from any method's map."""

import pytest
import torch
from torch.nn import functional as F

from explainers.explanandum.gradients import standardise
from explainers.methods.cam import GradCAM, PyramidCAM
from explainers.methods.constant import CentredGaussian, Random
from explainers.methods.refined import Refined
from explainers.metrics.faithfulness import RISECurves
from tests import planted
from tests.support import save


def faithfulness(explanandum, images, maps, targets):
    return RISECurves(steps=16).score(images, maps, targets, explanandum)["Faithfulness"].mean()


@pytest.mark.parametrize("method", [Random, CentredGaussian])
def test_more_passes_raise_the_faithfulness_of_any_start(method):
    explanandum = planted.explanandum()
    images, targets = planted.scenes(6, seed=3)
    start = method(explanandum)
    found = [faithfulness(explanandum, images, start.attribute(images, targets), targets)]
    for passes in (8, 32):
        maps = Refined(explanandum, start=method, passes=passes).attribute(images, targets)
        found.append(faithfulness(explanandum, images, maps, targets))
    assert found[0] < found[1] < found[2]


def test_no_step_leaves_the_standardized_start():
    explanandum = planted.explanandum()
    images, targets = planted.scenes(2)
    maps = Refined(explanandum, start=GradCAM, passes=2, lr=1e-12).attribute(images, targets)
    start = standardise(GradCAM(explanandum).attribute(images, targets))
    torch.testing.assert_close(maps, start, atol=1e-5, rtol=1e-5)


def test_the_change_is_smooth_on_the_grid():
    explanandum = planted.explanandum()
    images, targets = planted.scenes(1, (24, 24))
    refined = Refined(explanandum, cell=8, passes=4)
    start = PyramidCAM(explanandum).attribute(images, targets)
    change = refined.attribute(images, targets) - start
    (values,) = (F.interpolate(change[:, None], scale_factor=1 / 8, mode="area"),)
    coarse = torch.zeros(1, 1, 3, 3).requires_grad_()
    grown = F.interpolate(coarse, size=(24, 24), mode="bilinear")
    # Nine values make all changes that there are: the best fit by them leaves nothing.
    basis = torch.stack(
        [torch.autograd.grad(grown.flatten()[i], coarse, retain_graph=True)[0] for i in range(576)]
    ).view(576, 9)
    fitted = basis @ torch.linalg.lstsq(basis, change.view(576, 1)).solution
    torch.testing.assert_close(fitted.view_as(change), change, atol=1e-4, rtol=1e-4)
    assert values.abs().max() > 0.01


def test_a_checkpoint_gives_the_start(tmp_path):
    explanandum = planted.explanandum()
    path = save(CentredGaussian(explanandum, sigma=0.3), tmp_path / "x.ckpt")
    images, targets = planted.scenes(2)
    maps = Refined(explanandum, checkpoint=path, passes=2).attribute(images, targets)
    other = Refined(explanandum, start=lambda e: CentredGaussian(e, sigma=0.3), passes=2)
    assert torch.equal(maps, other.attribute(images, targets))


def test_passes_are_those_of_the_start_and_one_of_each_kind_for_each_mask():
    explanandum = planted.explanandum()
    images, _ = planted.scenes(3)
    count(Refined(explanandum, passes=2), images)  # which also finds out where the stages are
    counts = []
    for passes in (2, 10):
        refined = Refined(explanandum, passes=passes)
        counts.append(count(refined, images))
    assert counts[1] - counts[0] == 8


def count(explainer, images):
    seen = [0]
    hook = explainer.explanandum.model.register_forward_hook(
        lambda _, inputs, __: seen.__setitem__(0, seen[0] + len(inputs[0]))
    )
    explainer.class_maps(images[:1], torch.zeros(1, 1, dtype=torch.int64))
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("wrong", [{"passes": 3}, {"passes": 0}, {"lr": 0.0}, {"cell": 0}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="expected an even number of passes"):
        Refined(planted.explanandum(), **wrong)


def test_two_starts_are_refused():
    with pytest.raises(ValueError, match="give start or checkpoint, not both"):
        Refined(planted.explanandum(), start=PyramidCAM, checkpoint="x.ckpt")
