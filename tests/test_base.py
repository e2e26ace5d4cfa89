"""The contract's base: whole targets, checked inputs, options that are completed and stored."""

import pytest
import torch
from torch.utils.data import DataLoader

from explainers.methods.rtis import RTIS
from explainers.methods.sloc import SLOC
from explainers.networks.deeplab import PUBLISHED
from tests import planted
from tests.support import Truth, fit_trainer

SMALL = {
    "network": {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]},
    "optimizer": {"lr": 1e-3},
}


def test_the_map_of_several_classes_is_the_maximum_of_their_scaled_maps():
    method = Truth(planted.explanandum())
    images = planted.scenes(3, (4, 4))[0]
    targets = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]).bool()
    quadrants = planted.quadrant_masks(4, 4)
    merged = method.merged_map(images, targets)
    assert torch.equal(merged[0], 3 * quadrants[0])  # one class: as it is
    assert torch.equal(merged[1], quadrants[0] + quadrants[3])  # several: min-maxed first
    assert merged[2].sum() == 0


def test_options_are_completed_before_they_are_stored():
    method = RTIS(planted.explanandum(), network={"backbone": "tu-test_resnet"})
    assert method.hparams["network"] == {**PUBLISHED, "backbone": "tu-test_resnet"}
    assert method.hparams["optimizer"] == {**method.optimizer_defaults}
    assert SLOC(planted.explanandum()).hparams["solver"]["steps"] == 20
    assert SLOC(planted.explanandum(), solver={"name": "adam"}).hparams["solver"]["steps"] == 501


def test_a_checkpoint_forgets_where_weights_came_from_nested_ones_too(tmp_path):
    method = RTIS(planted.explanandum(), **SMALL)
    method.hparams["network"] |= {"pretrained": True, "backbone_weights": "gone.pth"}
    checkpoint = {"state_dict": {}}
    method.on_save_checkpoint(checkpoint)
    stored = checkpoint["hyper_parameters"]["network"]
    assert (stored["pretrained"], stored["backbone_weights"]) == (False, None)
    assert method.hparams["network"]["pretrained"]  # the explainer's own are left alone


def test_a_test_run_without_score_says_so(tmp_path):
    explainer = RTIS(planted.explanandum(), **SMALL)
    with pytest.raises(ValueError, match="Score callback"):
        fit_trainer(tmp_path).test(explainer, DataLoader([{"image": torch.rand(3, 8, 8)}]))
