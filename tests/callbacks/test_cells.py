"""Cells that are missing in training: how many, which, and that a fit is shown them."""

import pytest
import torch

from explainers.callbacks.cells import DeleteCells, delete_cells
from explainers.explanandum.classifier import Classifier
from tests.support import Scenes, fit_trainer


def test_half_of_the_images_lose_one_whole_cell_each():
    images = torch.ones(600, 3, 8, 8)
    fill = torch.zeros(1, 3, 1, 1)
    shown = delete_cells(images, 0.5, 4, fill, torch.Generator().manual_seed(0))
    cells = shown.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(1, 4, 5)) == 0
    counts = cells.flatten(1).sum(dim=1)
    assert (shown == 0).sum() == 3 * 4 * counts.sum()  # nothing but whole cells
    assert counts.unique().tolist() == [0, 1]
    assert 0.4 < counts.float().mean() < 0.6
    assert cells.any(dim=0).all()


@pytest.mark.parametrize(("share", "changed"), [(0.0, False), (1.0, True)])
def test_a_fit_is_shown_images_without_a_cell(share, changed, tmp_path):
    seen = []

    class Looks(Classifier):
        def training_step(self, batch, batch_idx):
            seen.append(batch["image"].clone())
            return super().training_step(batch, batch_idx)

    data = Scenes()
    fills = torch.tensor([2.0, 3.0, 4.0]).div(10).tolist()
    classifier = Looks("test_resnet", 4, multi_label=True, mean=fills, std=[1.0] * 3)
    trainer = fit_trainer(tmp_path, callbacks=[DeleteCells(share, grid=2)], max_steps=1)
    trainer.fit(classifier, data.train_dataloader(), data.val_dataloader())
    plain = next(iter(data.train_dataloader()))["image"]
    missing = (seen[0] != plain).any(dim=1)
    assert missing.flatten(1).sum(dim=1).tolist() == ([16, 16] if changed else [0, 0])
    colors = seen[0].permute(0, 2, 3, 1)[missing]
    torch.testing.assert_close(colors, torch.tensor(fills).expand_as(colors))


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"got 1\.5 and 4"):
        DeleteCells(share=1.5)
