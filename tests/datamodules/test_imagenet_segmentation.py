"""ImageNet-Segmentation: the HDF5 file of MATLAB in small, opened by each process for itself."""

import pickle

import numpy as np
import pytest
import torch

from datamodules import imagenet_segmentation
from datamodules.imagenet_segmentation import ImageNetSegmentation

FILE = imagenet_segmentation.FILE


def write(path, masks=None):
    """Images of 4 x 6 and 2 x 2 pixels, stored column by column as MATLAB does."""
    h5py = pytest.importorskip("h5py")
    images = [np.zeros((4, 6, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)]
    images[0][1, 4] = 10, 20, 30
    first = np.zeros((4, 6), np.uint8)
    first[1, 4] = 1
    masks = masks or [first, np.array([[1, 0], [0, 0]], np.uint8)]
    with h5py.File(path, "w") as file:
        tables = {
            name: file.create_dataset(f"value/{name}", (len(part), 1), h5py.ref_dtype)
            for name, part in (("img", images), ("gt", masks))
        }
        for place, image in enumerate(images):
            pixels = file.create_dataset(f"refs/i{place}", data=image.transpose(2, 1, 0))
            tables["img"][place, 0] = pixels.ref
        for place, mask in enumerate(masks):
            labels = file.create_dataset(f"refs/m{place}", data=mask.T)
            cell = file.create_dataset(f"refs/c{place}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = labels.ref
            tables["gt"][place, 0] = cell.ref
    return path


def make(root, **kwargs):
    return ImageNetSegmentation(**{"root": str(root), "image_size": [4, 6], **kwargs})


def test_images_and_masks(tmp_path):
    data = make(write(tmp_path / FILE).parent)
    test = data.dataset("test")
    assert len(test) == 2
    assert test.source.names == [f"{FILE}/0000", f"{FILE}/0001"]
    assert (test[0]["image"][:, 1, 4] * 255).round().tolist() == [10, 20, 30]
    assert test[0]["image"].sum().item() == pytest.approx(60 / 255)
    assert test[0]["mask"].shape == (1, 4, 6)
    assert test[0]["mask"].nonzero().tolist() == [[0, 1, 4]]
    # Nearest: the upper left quarter of the second image.
    assert torch.equal(
        test[1]["mask"][0],
        torch.tensor([[1, 0], [0, 0]]).bool().repeat_interleave(2, 0).repeat_interleave(3, 1),
    )
    assert "target" not in test[0]
    assert (data.class_names, data.multi_label) == ([], False)
    assert make(tmp_path / FILE).dataset("predict").source.names == test.source.names


def test_every_process_opens_the_file(tmp_path, monkeypatch):
    data = make(write(tmp_path / FILE).parent, batch_size=1)
    plain = [batch["image"] for batch in data.test_dataloader()]
    source = data.dataset("test").source
    assert source._opened is not None
    copy = pickle.loads(pickle.dumps(source))
    assert copy._opened is None
    assert torch.equal(copy.load(0)["image"], source.load(0)["image"])
    before = source._opened
    monkeypatch.setattr(imagenet_segmentation.os, "getpid", lambda: -1)
    assert torch.equal(source.load(1)["mask"], copy.load(1)["mask"])
    assert source._opened[0] == -1
    assert source._opened[1] is not before[1]
    monkeypatch.undo()
    workers = make(tmp_path, batch_size=1, num_workers=1)
    assert all(
        torch.equal(batch["image"], image)
        for batch, image in zip(workers.test_dataloader(), plain, strict=True)
    )


def test_other_contents_are_refused(tmp_path):
    data = make(write(tmp_path / FILE, [np.full((4, 6), 2, np.uint8), np.zeros((3, 3))]).parent)
    with pytest.raises(ValueError, match=r"expected a mask of 0 and 1, got the values \[2\]"):
        data.dataset("test")[0]
    with pytest.raises(ValueError, match=r"mask \(3, 3\) and image \(2, 2\) differ"):
        data.dataset("test")[1]
    write(tmp_path / "one.mat", [np.zeros((4, 6), np.uint8)])
    with pytest.raises(ValueError, match="2 images and 1 masks"):
        make(tmp_path / "one.mat").setup("test")
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(ValueError, match="not the HDF5 file of ImageNet-Segmentation"):
        make(tmp_path / "old.mat").setup("test")


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"gtsegs_ijcv\.mat: no such file; download"):
        make(tmp_path).setup("test")
    with pytest.raises(ValueError, match="no images to train on"):
        make(tmp_path).setup("fit")
    (tmp_path / FILE).write_bytes(b"")

    def without(name, *rest):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *rest)

    real = imagenet_segmentation.importlib.import_module
    monkeypatch.setattr(imagenet_segmentation.importlib, "import_module", without)
    with pytest.raises(ValueError, match=r"needs h5py: pip install"):
        make(tmp_path).setup("test")
