"""The photographs that scikit-image installs are there, and are the ones it says."""

import pytest
import skimage.data
import torch

from datamodules.photos import NAMES, Photos


def test_every_split_is_the_photographs_unlabelled():
    data = Photos(image_size=[300, 451])
    assert data.num_classes == 0
    for split in ("train", "val", "test", "predict"):
        assert data.dataset(split).source.names == list(NAMES)
    sample = data.dataset("predict")[1]
    assert set(sample) == {"image", "name", "index"}
    assert sample["name"] == "chelsea.png"
    expected = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1) / 255  # its own size
    torch.testing.assert_close(sample["image"], expected)


def test_all_five_load_as_one_batch():
    (batch,) = Photos(image_size=[64, 48], batch_size=5, resize="crop").predict_dataloader()
    assert batch["image"].shape == (5, 3, 64, 48)
    assert batch["image"].flatten(1).std(dim=1).min() > 0.05


def test_other_files_by_name():
    data = Photos(names=["coins.png"], image_size=[8, 8])
    assert data.dataset("test")[0]["name"] == "coins.png"
    with pytest.raises(FileNotFoundError, match=r"nobody\.png: no such image"):
        Photos(names=["nobody.png"]).dataset("test")[0]
