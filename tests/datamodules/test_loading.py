"""Images that cannot be read are left out of their batches, counted, and told."""

import errno
import io
import re
import warnings
from itertools import chain

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from datamodules.folder import CSVFolder, ImageFolder
from datamodules.loading import SkippedImages, Unreadable, collate, gather
from datamodules.photos import Photos

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def encoded(kind="png"):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def damage(root, name, how):
    """Put a file that cannot be read in the place of an image."""
    path = root / name
    path.unlink(missing_ok=True)
    png = encoded()
    contents = {
        "empty": b"",
        "text": b"<html>not found</html>",
        "truncated": encoded("jpeg")[:-200],
        "broken chunk": png[:60] + bytes(40) + png[100:],
        "gif": encoded("gif")[:200],
    }
    if how in contents:
        path.write_bytes(contents[how])
    elif how == "folder":
        path.mkdir()
    elif how == "circle":
        path.symlink_to(path)
    elif how == "range":
        Image.fromarray(np.full((2, 2), 7.0, np.float32)).save(path, "tiff")
    elif how == "bomb":
        width = (60000).to_bytes(4, "big")
        path.write_bytes(png[:16] + width + width + png[24:])


def fill(root, count=6):
    """A folder of `count` images, which are gray of the value of their index."""
    for index in range(count):
        Image.new("RGB", (4, 4), (index, index, index)).save(root / f"{index}.png")
    return str(root)


def folder(root, **kwargs):
    return ImageFolder(**{"root": str(root), "image_size": [4, 4], "batch_size": 2, **kwargs})


def indices(loader):
    return [batch["index"].tolist() for batch in loader]


HOWS = ["empty", "text", "truncated", "broken chunk", "gif", "range", "bomb", "circle", "missing"]


@pytest.mark.parametrize("how", HOWS)
def test_one_damaged_image_costs_only_itself(tmp_path, how):
    data = folder(fill(tmp_path))
    data.setup("predict")
    damage(tmp_path, "3.png", how)
    batches = data.predict_dataloader()
    with pytest.warns(UserWarning, match=r"^1 of 6 images could not be read and were left out: 3"):
        rows = [(b["name"], b["index"].tolist(), (b["image"] * 255).amax()) for b in batches]
    assert [row[:2] for row in rows] == [
        (["0.png", "1.png"], [0, 1]),
        (["2.png"], [2]),
        (["4.png", "5.png"], [4, 5]),
    ]
    assert [round(row[2].item()) for row in rows] == [1, 2, 5]  # in the place of their index
    (reason,) = data.skipped.values()
    assert list(data.skipped) == ["3.png"]
    assert "\n" not in reason
    assert str(tmp_path) not in reason
    with pytest.raises((ValueError, FileNotFoundError), match=r"3\.png: "):
        data.dataset("predict")[3]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_without_any_image_do_not_come_and_the_count_is_exact(tmp_path, workers):
    data = folder(fill(tmp_path, 10), num_workers=workers)
    for index in (0, 1, 5, 8, 9):
        damage(tmp_path, f"{index}.png", "text")
    why = "not a readable image (cannot identify image file); replace or remove the file"
    said = f"5 of 10 images could not be read and were left out: 0.png ({why}), 1.png, 5.png"
    loader = data.predict_dataloader()
    with pytest.warns(UserWarning, match=f"^{re.escape(said)}$"):
        assert indices(loader) == [[2, 3], [4], [6, 7]]
    assert data.skipped == dict.fromkeys([f"{i}.png" for i in (0, 1, 5, 8, 9)], why)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert indices(loader) == [[2, 3], [4], [6, 7]]
        data.teardown("predict")


def test_no_readable_image_at_all_is_an_error(tmp_path):
    data = folder(fill(tmp_path, 3))
    for index in range(3):
        damage(tmp_path, f"{index}.png", "empty")
    with pytest.raises(
        ValueError, match=r"^none of the 3 images could be read: 0\.png \(not a .*2"
    ):
        list(data.predict_dataloader())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_fit_and_validate_raise_in_one_line_unless_told_to_skip(tmp_path, split, workers):
    fill(tmp_path)
    damage(tmp_path, "1.png", "text")
    damage(tmp_path, "0.png", "text")
    fractions = [1, 0, 0] if split == "train" else [0, 1, 0]
    settings = {"fractions": fractions, "batch_size": 3, "num_workers": workers}

    def loader(data):
        return getattr(data, f"{split}_dataloader")()

    line = r"^[01]\.png: not a readable [^\n]* \(and 1 more images of its batch\); on_error: skip"
    with pytest.raises(ValueError, match=line):
        list(loader(folder(tmp_path, **settings | {"batch_size": 6})))
    data = folder(tmp_path, on_error="skip", **settings)
    with pytest.warns(UserWarning, match="2 of 6 images"):
        assert sorted(chain(*indices(loader(data)))) == [2, 3, 4, 5]
    assert sorted(data.skipped) == ["0.png", "1.png"]


def test_a_training_batch_without_any_image_is_an_error(tmp_path):
    fill(tmp_path)
    damage(tmp_path, "1.png", "text")
    data = folder(tmp_path, on_error="skip", fractions=[1, 0, 0], batch_size=1)
    with pytest.raises(ValueError, match=r"^none of the 1 images of a training batch .*: 1\.png "):
        list(data.train_dataloader())


class Reader(lightning.LightningModule):
    """Keeps the indices that each step gets."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((self.global_step, batch["index"].tolist()))
        return self.weight * batch["image"].mean()

    def test_step(self, batch):
        self.seen.append(batch["index"].tolist())

    def validation_step(self, batch):
        pass

    def predict_step(self, batch):
        self.test_step(batch)
        return batch["index"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("stage", ["test", "predict"])
@pytest.mark.parametrize("bad", [[2], [0, 1], [4, 5], [0, 1, 2, 4, 5]])
def test_a_trainer_sees_the_rest_and_the_count_is_said_once(tmp_path, stage, bad):
    data, module = folder(fill(tmp_path), test_on="all"), Reader()
    for index in bad:
        damage(tmp_path, f"{index}.png", "text")
    trainer = lightning.Trainer(accelerator="cpu", **QUIET)
    with pytest.warns(UserWarning, match="could not be read") as told:
        getattr(trainer, stage)(module, data)
    assert list(chain(*module.seen)) == [index for index in range(6) if index not in bad]
    said = [str(w.message) for w in told if "could not be read" in str(w.message)]
    assert len(said) == 1
    with pytest.warns(UserWarning, match=rf"^{len(bad)} of 6 images could not"):  # once a run
        getattr(trainer, stage)(module, data)
    assert said[0].startswith(f"{len(bad)} of 6 images could not be read and were left out: ")
    assert len(data.skipped) == len(bad)


def fit(root, out, resume=None):
    module, data = Reader(), folder(root, on_error="skip", fractions=[1, 0, 0], augment=True)
    saver = ModelCheckpoint(out, "{step}", every_n_train_steps=1, save_top_k=-1)
    limits = {"max_epochs": 2, "limit_val_batches": 0, "callbacks": [saver]}
    trainer = lightning.Trainer(accelerator="cpu", **QUIET, **limits)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
    return module.seen


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:. of 8 images could not be")
def test_resumed_training_goes_on_with_the_same_images(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    fill(root, 8)
    for index in (3, 6):
        damage(root, f"{index}.png", "text")
    whole = fit(root, tmp_path / "whole")
    assert [step for step, _ in whole] == list(range(8))
    assert sorted(chain(*(seen for _, seen in whole[:4]))) == [0, 1, 2, 4, 5, 7]
    for step in (1, 3, 4, 6):
        rest = fit(root, tmp_path / f"{step}", str(tmp_path / f"whole/step={step}.ckpt"))
        assert rest == whole[step:], step


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        KeyboardInterrupt(),
    ],
)
def test_faults_of_the_machine_are_none_of_the_image(tmp_path, monkeypatch, error):
    def fail(path):
        raise error

    monkeypatch.setattr("datamodules.images.Image.open", fail)
    with pytest.raises(type(error)):
        list(folder(fill(tmp_path)).predict_dataloader())


def test_a_file_that_may_not_be_read_is_left_out(tmp_path, monkeypatch):
    opened = Image.open

    def refuse(path):
        if path.endswith("2.png"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path)

    monkeypatch.setattr("datamodules.images.Image.open", refuse)
    data = folder(fill(tmp_path))
    with pytest.warns(UserWarning, match=r"2\.png \(not a readable image \(Permission denied\);"):
        assert indices(data.predict_dataloader()) == [[0, 1], [3], [4, 5]]


def test_any_error_of_a_source_is_skipped_but_raised_as_it_is(tmp_path):
    for choice in (None, "raise"):
        data = folder(fill(tmp_path), on_error=choice)
        data.dataset("predict").source.labels = {f"{index}.png": () for index in range(5)}
        data.dataset("predict").source.num_classes = 2
        if choice is None:
            with pytest.warns(UserWarning, match=r"1 of 6 .*: 5\.png \(KeyError: '5\.png'\)$"):
                assert indices(data.predict_dataloader()) == [[0, 1], [2, 3], [4]]
        else:
            with pytest.raises(KeyError, match=r"5\.png"):
                list(data.predict_dataloader())


def test_missing_files_of_a_list_are_told_at_once_or_left_out(tmp_path):
    fill(tmp_path)
    lines = [f"{index}.png,{index % 2},test" for index in range(9)] + ["9.png,0,train"]
    (tmp_path / "labels.csv").write_text("\n".join(["filename,a,part", *lines]))
    settings = {"root": str(tmp_path), "split_column": "part", "image_size": [4, 4]}
    data = CSVFolder(batch_size=4, **settings)
    with pytest.warns(UserWarning, match=r"^3 of 9 .*: 6\.png \(no such image; .*\), 7\.png, 8\."):
        assert indices(data.test_dataloader()) == [[0, 1, 2, 3], [4, 5]]
    line = (
        rf"^{tmp_path}/labels\.csv:8: no such file {tmp_path}/6\.png \(3 of 9 images are missing,"
        r" also 7\.png, 8\.png\); correct the list, the files or root$"
    )
    with pytest.raises(FileNotFoundError, match=line):
        CSVFolder(on_error="raise", **settings).setup("test")
    with pytest.raises(
        FileNotFoundError, match=rf"^{tmp_path}/labels\.csv:11: no such .*9\.png; co"
    ):
        CSVFolder(on_error="skip", **settings).source("train")  # all of them


def test_missing_photographs_and_links_follow_the_same_rule(tmp_path):
    photos = Photos(names=["coins.png", "nobody.png"], image_size=[8, 8])
    with pytest.warns(UserWarning, match=r"1 of 2 .*: nobody\.png \(no such image"):
        assert indices(photos.test_dataloader()) == [[0]]
    fill(tmp_path)
    (tmp_path / "7.png").symlink_to(tmp_path / "gone.png")
    with pytest.warns(UserWarning, match=r"1 of 7 .*: 7\.png \(no such image"):
        assert len(indices(folder(tmp_path).predict_dataloader())) == 3
    with pytest.raises(
        FileNotFoundError, match=rf"^{tmp_path}/7\.png: no file, or a link .*; correct"
    ):
        folder(tmp_path, fractions=[1, 0, 0]).source("train")


def test_a_folder_called_like_an_image_is_none(tmp_path):
    fill(tmp_path, 2)
    damage(tmp_path, "x.png", "folder")
    assert indices(folder(tmp_path).predict_dataloader()) == [[0, 1]]


def test_collating_and_sharing_by_hand():
    good = [{"index": index, "name": f"{index}"} for index in (1, 2)]
    bad = Unreadable("a\nb", "why")
    assert collate(good)["index"].tolist() == [1, 2]
    partial = collate([good[0], bad])
    assert partial.batch["index"].tolist() == [1]
    assert partial.batch["name"] == ["1"]
    assert partial.unreadable == [bad]
    assert collate([bad]).batch is None
    record = SkippedImages(3, allowed=True)
    record.add([bad])
    gather([record])  # one process: nothing to share
    record.check()
    with pytest.warns(UserWarning, match=r"^1 of 3 images .* left out: a\\nb \(why\)$"):
        record.say()


def test_processes_share_what_they_left_out(monkeypatch):
    def share(shares, own):
        shares[:] = [own, [{"b.png": "bad", "a.png": "worse"}]]

    record = SkippedImages(3, allowed=True)
    record.add([Unreadable("c.png", "why")])
    monkeypatch.setattr("datamodules.loading._distributed", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_gather_object", share)
    gather([record])
    assert record.reasons == {"c.png": "why", "b.png": "bad", "a.png": "worse"}
    assert list(record.reasons) == ["a.png", "b.png", "c.png"]
    with pytest.raises(
        ValueError, match=r"none of the 3 images could be read: a\.png \(worse\), b"
    ):
        record.check()


def test_a_process_of_several_leaves_the_count_to_the_end(tmp_path, monkeypatch):
    data = folder(fill(tmp_path, 2))
    for index in range(2):
        damage(tmp_path, f"{index}.png", "empty")
    monkeypatch.setattr("datamodules.loading._distributed", lambda: True)
    assert indices(data.predict_dataloader()) == []  # another process may have readable images
    assert len(data.skipped) == 2
