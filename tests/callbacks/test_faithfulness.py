import pytest
import torch
from torch.utils.data import DataLoader

from explainers.callbacks.faithfulness import ValidationFaithfulness
from explainers.methods.ra_nem import RaNEM
from explainers.metrics.faithfulness import RISECurves
from tests import planted
from tests.callbacks.scenes import trainer


def test_it_logs_the_mean_over_the_first_images(tmp_path):
    torch.manual_seed(0)
    method = RaNEM(planted.explanandum(), widths=[4] * 4)
    fit = trainer(tmp_path, ValidationFaithfulness(images=3, steps=5))
    images, targets = planted.scenes(5)
    loader = DataLoader([{"image": image} for image in images], batch_size=2)
    (found,) = fit.validate(method, loader, verbose=False)
    with torch.no_grad():
        maps = method.eval().attribute(images[:3], targets[:3])
    wanted = RISECurves(steps=5).score(images[:3], maps, targets[:3], method.explanandum)
    assert found["val/Faithfulness"] == pytest.approx(
        wanted["Faithfulness"].mean().item(), abs=1e-5
    )


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="images and steps >= 1"):
        ValidationFaithfulness(images=0)
