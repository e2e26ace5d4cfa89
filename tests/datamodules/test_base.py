"""The shared loaders: order, augmentation, resuming, sizes and checks."""

from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torchvision import tv_tensors

from datamodules.base import ImageDataModule
from datamodules.dataset import ImageSource
from datamodules.folder import ImageFolder


class Ramps(ImageSource):
    """Image i is a ramp from left to right, 8 x 12, plus i / 100; its mask is the left half."""

    def __init__(self, count: int, broken: float | None = None) -> None:
        self.names, self.broken = [f"{i}.png" for i in range(count)], broken

    def load(self, index: int) -> dict[str, Any]:
        image = (torch.linspace(0.0, 0.5, 12) + index / 100).expand(3, 8, 12).clone()
        if self.broken is not None:
            image[0, 0, 0] = self.broken
        mask = tv_tensors.Mask(torch.zeros(1, 8, 12, dtype=torch.uint8))
        mask[..., :6] = 1
        return {"image": image, "target": torch.tensor([True, False]), "mask": mask}


class RampData(ImageDataModule):
    def __init__(self, count: int = 7, broken: float | None = None, **kwargs: Any) -> None:
        super().__init__(**{"image_size": [8, 12], "batch_size": 2, **kwargs})
        self.count, self.broken = count, broken

    class_names = ["a", "b"]  # noqa: RUF012
    multi_label = False

    def source(self, split: str) -> Ramps:
        return Ramps(self.count, self.broken)


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return [(batch["index"].tolist(), batch["image"]) for batch in loader]


def order(loader, epoch):
    return [index for indices, _ in epoch_of(loader, epoch) for index in indices]


def test_batch_keys_shapes_and_types():
    batch = next(iter(RampData().val_dataloader()))
    assert set(batch) == {"image", "target", "mask", "name", "index"}
    assert batch["image"].shape == (2, 3, 8, 12)
    assert batch["image"].dtype == torch.float32
    assert type(batch["image"]) is torch.Tensor
    assert batch["target"].tolist() == [[True, False]] * 2
    assert batch["name"] == ["0.png", "1.png"]
    assert batch["index"].tolist() == [0, 1]


def test_evaluation_keeps_order_and_the_last_batch():
    data = RampData(augment=True)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        indices = torch.cat([batch["index"] for batch in loader])
        assert indices.tolist() == list(range(7))
    plain = RampData().dataset("test")[3]["image"]
    assert torch.equal(data.dataset("test")[3]["image"], plain)


def test_training_shuffles_per_epoch_and_drops_the_rest():
    loader = RampData(count=41).train_dataloader()
    first, second = (order(loader, epoch) for epoch in (0, 1))
    assert len(loader) == 20
    assert len(set(first)) == len(set(second)) == 40
    assert first != second
    other = RampData(count=41, seed=1).train_dataloader()
    assert order(other, 0) != first


def test_augmentation_depends_on_seed_epoch_and_index_only():
    data = RampData(augment=True)
    dataset = data.dataset("train")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = dataset[(3, 5)]["image"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    dataset[(3, 4)]
    assert torch.equal(dataset[(3, 5)]["image"], first)
    assert not torch.equal(dataset[(4, 5)]["image"], first)
    assert not torch.equal(RampData(augment=True, seed=1).dataset("train")[(3, 5)]["image"], first)
    assert 0.0 <= first.min() <= first.max() <= 1.0


def test_random_crops_are_parts_of_a_larger_image_and_move_with_their_mask():
    data = RampData(augment="crop", image_size=[7, 14], resize="crop", crop_pct=0.875)
    dataset = data.dataset("train")
    assert dataset.fit.size == [8, 16]
    assert dataset.fit.crop_pct == 1.0
    first = {tuple(dataset[(epoch, 0)]["image"][0].flatten().tolist()) for epoch in range(12)}
    assert len(first) > 4
    sample = dataset[(1, 0)]
    assert sample["image"].shape == (3, 7, 14)
    assert sample["mask"].shape[-2:] == (7, 14)
    assert torch.equal(dataset[(1, 0)]["image"], sample["image"])
    assert data.dataset("test").fit.size == [7, 14]
    assert RampData(augment="crop").identity("train")["arguments"]["augment"] == "crop"
    with pytest.raises(ValueError, match="augment must be one of"):
        RampData(augment="cut")


def test_masks_are_flipped_with_their_image():
    dataset = RampData(augment=True).dataset("train")
    flipped = 0
    for epoch in range(8):
        sample = dataset[(epoch, 0)]
        row = sample["image"].mean((0, 1))
        left_is_dark = bool(row[3] < row[8])
        mask = sample["mask"][0].float()
        assert bool(mask[:, :6].mean() > mask[:, 6:].mean()) == left_is_dark
        flipped += not left_is_dark
    assert 0 < flipped < 8


def test_workers_change_nothing():
    alone, helped = (
        RampData(augment=True, num_workers=workers).train_dataloader() for workers in (0, 2)
    )
    for epoch in (0, 1):
        for (index, image), (other, same) in zip(
            epoch_of(alone, epoch), epoch_of(helped, epoch), strict=True
        ):
            assert index == other
            assert torch.equal(image, same)


class Recorder(lightning.LightningModule):
    """Keeps what each training step sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, tuple[list[int], float]] = {}

    def training_step(self, batch, _):
        self.seen[self.global_step] = batch["index"].tolist(), batch["image"].sum().item()
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, workers, resume=None, **kwargs):
    module = Recorder()
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=[saver],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **kwargs,
    )
    data = RampData(augment=True, num_workers=workers)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
    return module.seen


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(("workers", "steps"), [(0, range(1, 9)), (2, [4])])
def test_a_resumed_fit_sees_what_the_uninterrupted_one_sees(tmp_path, workers, steps):
    whole = fit(tmp_path, workers)
    assert sorted(whole) == list(range(9))
    for step in steps:  # 3 steps an epoch: within epochs and at their ends
        rest = fit(tmp_path / f"{step}", workers, str(tmp_path / f"step={step}.ckpt"))
        assert rest == {key: seen for key, seen in whole.items() if key >= step}, step


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resuming_after_an_epoch_cut_short_starts_the_next_one(tmp_path):
    whole = fit(tmp_path, 0, limit_train_batches=2)
    rest = fit(tmp_path / "rest", 0, str(tmp_path / "step=2.ckpt"), limit_train_batches=2)
    assert rest == {key: seen for key, seen in whole.items() if key >= 2}


def test_overfitting_and_predicting_with_a_trainer_work():
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        overfit_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Recorder()
    with pytest.warns(UserWarning, match="requested to overfit"):
        trainer.fit(module, RampData())
    assert module.seen[0][0] == [0, 1]
    module.predict_step = lambda batch: batch["index"]
    predictions = trainer.predict(module, RampData())
    assert torch.cat(predictions).tolist() == list(range(7))


def test_splits_are_not_random_unless_a_subclass_says_so():
    assert not RampData().splits_at_random


def test_limit_takes_the_first_images():
    data = RampData(limit=3)
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [3, 3, 3]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -0.1])
def test_values_from_any_source_are_checked(broken):
    with pytest.raises(ValueError, match=r"1\.png: "):
        RampData(broken=broken).dataset("val")[1]


def test_a_worker_passes_the_error_on(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"not a picture")
    data = ImageFolder(root=str(tmp_path), num_workers=1, on_error="raise")
    with pytest.raises(ValueError, match=r"^x\.jpg: not a readable image .* on_error: skip leaves"):
        next(iter(data.predict_dataloader()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": [8]}, r"image_size must be \[height, width\]"),
        ({"image_size": [8, 0]}, "both positive"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"resize": "pad"}, r"resize must be one of \['squash', 'crop'\], got 'pad'"),
        ({"interpolation": "nearest"}, "interpolation must be one of"),
        ({"crop_pct": 0.0}, r"crop_pct must be in \(0, 1\]"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        RampData(**settings)


def test_too_few_or_no_images_are_reported():
    with pytest.raises(ValueError, match=r"has 1 images, too few .* lower batch_size"):
        RampData(count=1).train_dataloader()
    with pytest.raises(ValueError, match="split 'val' has no images"):
        RampData(count=0).setup("validate")


class Subject(lightning.LightningModule):
    """A classifier of images of 6 x 10, or an explainer of one."""

    def __init__(self, explains: bool) -> None:
        super().__init__()
        sized = SimpleNamespace(input_size=[6, 10])
        if explains:
            self.explanandum = sized
        else:
            self.input_size = sized.input_size
        self.shapes: list[list[int]] = []

    def test_step(self, batch, batch_idx):
        self.shapes.append(list(batch["image"].shape[-2:]))

    def predict_step(self, batch, batch_idx):
        self.test_step(batch, batch_idx)
        return batch["index"]

    validation_step = test_step


def run(stage, module, data):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", limit_test_batches=1, **quiet)
    getattr(trainer, stage)(module, data)


@pytest.mark.parametrize("explains", [True, False])
@pytest.mark.parametrize("stage", ["test", "validate", "predict"])
def test_images_get_the_size_of_the_classifier(explains, stage, caplog):
    data, module = RampData(image_size=None), Subject(explains)
    assert data.image_size == [224, 224]
    with caplog.at_level("INFO"):
        run(stage, module, data)
        run(stage, module, data)
    assert module.shapes[0] == [6, 10] == data.image_size
    said = [text for text in caplog.messages if text.startswith("image_size")]
    assert said == ["image_size: 6 x 10, the input size of the classifier"]


def test_a_given_size_stays_and_a_classifier_without_one_gets_the_default(caplog):
    module = Subject(explains=True)
    with caplog.at_level("INFO"):
        run("test", module, RampData(image_size=[5, 7]))
        module.explanandum = None
        run("test", module, RampData(image_size=None))
    assert module.shapes[0] == [5, 7]
    assert module.shapes[-1] == [224, 224]
    said = [text for text in caplog.messages if text.startswith("image_size")]
    assert said == ["image_size: 224 x 224, the default"]


def test_one_data_module_serves_classifiers_of_different_sizes():
    data, module = RampData(image_size=None), Subject(explains=True)
    assert data.dataset("test")[0]["image"].shape == (3, 224, 224)
    run("test", module, data)
    module.explanandum.input_size = (4, 4)
    run("test", module, data)
    assert module.shapes[0] == [6, 10]
    assert module.shapes[-1] == [4, 4]
    assert data.dataset("test") is data.dataset("test")
